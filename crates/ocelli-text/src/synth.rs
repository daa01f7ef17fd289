//! Writes a working Qwen2 tokenizer of any vocabulary size: for random checkpoints that must load and run like real
//! ones, or with merges learned from texts.
//!
//! The tokens of a random one are all bytes, then all pairs of bytes, then pairs with a third byte, common
//! characters first. Any text can be encoded and decoded; the tokens mean nothing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::TextError;
use crate::byte_level::spell;
use crate::tokenizer::{END_OF_TEXT, IM_END, IM_START, IMAGE};
use crate::words::QWEN2_WORDS;

/// One token for each byte.
const BYTES: usize = 256;

/// Bytes of English text by frequency; the others follow by value. With a small vocabulary the
/// merges then still shorten ordinary text.
const COMMON: &[u8] = b" etaoinshrdlucmfwypvbgkjqxz\nTAISWHCBMPDFLRNEOGYUVJKQXZ0123456789.,'\"?!:;-()/_";

/// Writes the tokenizer files of a checkpoint with `base_vocab` ordinary tokens (151643 in Qwen2)
/// into `dir`, which is created if needed, as transformers 4.x lays them out: `tokenizer.json`,
/// `tokenizer_config.json`, `vocab.json`, `merges.txt`, `added_tokens.json` and
/// `special_tokens_map.json`.
///
/// The ids after the ordinary tokens are `<|endoftext|>`, `<|im_start|>`, `<|im_end|>` and, with
/// `with_image_token`, `<image>`. The same arguments always write the same bytes.
///
/// # Errors
/// When `base_vocab` is below 256 or above the number of strings of up to three bytes, or when a
/// file cannot be written.
pub fn write_synthetic_qwen2_tokenizer(
    dir: &Path,
    base_vocab: usize,
    with_image_token: bool,
) -> Result<(), TextError> {
    let max = BYTES + BYTES.pow(2) + BYTES.pow(3);
    if !(BYTES..=max).contains(&base_vocab) {
        return Err(TextError::BaseVocab { found: base_vocab, min: BYTES, max });
    }
    let merges: Vec<(String, String)> = merges().take(base_vocab - BYTES).collect();
    write_files(dir, &merges, with_image_token)
}

/// As [`write_synthetic_qwen2_tokenizer`], with merges learned from `texts`. Returns the number of ordinary tokens,
/// at most `base_vocab`.
///
/// # Errors
/// When `base_vocab` is below 256 or a file cannot be written.
pub fn write_learned_qwen2_tokenizer<'a>(
    dir: &Path,
    texts: impl IntoIterator<Item = &'a str>,
    base_vocab: usize,
    with_image_token: bool,
) -> Result<usize, TextError> {
    let max = u32::MAX as usize;
    let count =
        base_vocab.checked_sub(BYTES).ok_or(TextError::BaseVocab { found: base_vocab, min: BYTES, max })?;
    let merges = crate::learned::merges(texts, count);
    write_files(dir, &merges, with_image_token)?;
    Ok(BYTES + merges.len())
}

fn write_files(dir: &Path, merges: &[(String, String)], with_image_token: bool) -> Result<(), TextError> {
    std::fs::create_dir_all(dir).map_err(|e| TextError::io(dir, e))?;
    let base_vocab = BYTES + merges.len();
    let mut special = vec![END_OF_TEXT, IM_START, IM_END];
    special.extend(with_image_token.then_some(IMAGE));
    let special: Vec<(usize, &str)> = (base_vocab..).zip(special).collect();

    write_json(&dir.join("tokenizer.json"), &tokenizer_json(merges, &special))?;
    write_json(&dir.join("tokenizer_config.json"), &tokenizer_config(&special, with_image_token))?;
    write_json(&dir.join("vocab.json"), &Vocab(merges))?;
    write_merges(&dir.join("merges.txt"), merges)?;
    let ids: serde_json::Map<String, Value> = special.iter().map(|&(id, t)| (t.into(), id.into())).collect();
    write_json(&dir.join("added_tokens.json"), &ids)?;
    write_json(
        &dir.join("special_tokens_map.json"),
        &json!({
            "additional_special_tokens": [IM_START, IM_END], "eos_token": IM_END, "pad_token": END_OF_TEXT,
        }),
    )
}

/// Merges in order of urgency, each of two tokens that exist by then into one that does not: first
/// all pairs of bytes, then each pair with each byte.
fn merges() -> impl Iterator<Item = (String, String)> {
    let bytes = common_first();
    // Round k brings in the k-th byte, with all combinations of those before it.
    let pairs = (0..BYTES).flat_map(|k| {
        let all = (0..=k).flat_map(move |i| (0..=k).map(move |j| [i, j]));
        all.filter(move |pair| pair.contains(&k))
    });
    let triples = (0..BYTES).flat_map(|k| {
        let all = (0..=k).flat_map(move |i| (0..=k).flat_map(move |j| (0..=k).map(move |l| [i, j, l])));
        all.filter(move |triple| triple.contains(&k))
    });
    let join = move |ranks: &[usize]| ranks.iter().map(|&rank| bytes[rank]).collect::<String>();
    let pairs = pairs.map(|pair| pair.to_vec());
    pairs.chain(triples.map(|triple| triple.to_vec())).map(move |ranks| {
        let (last, before) = (ranks.len() - 1, &ranks[..ranks.len() - 1]);
        (join(before), join(&ranks[last..]))
    })
}

/// The spelling of each byte, common ones first.
fn common_first() -> Vec<char> {
    let others = (0..=255).filter(|byte| !COMMON.contains(byte));
    COMMON.iter().copied().chain(others).map(spell).collect()
}

/// Token texts with their ids, in order of the ids: the bytes sorted by their spelling, as in
/// Qwen2, then what each merge makes.
struct Vocab<'a>(&'a [(String, String)]);

impl Serialize for Vocab<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes: Vec<char> = (0..=255).map(spell).collect();
        bytes.sort_unstable();
        let bytes = bytes.into_iter().map(String::from);
        let merged = self.0.iter().map(|(left, right)| format!("{left}{right}"));
        serializer.collect_map(bytes.chain(merged).zip(0..))
    }
}

/// The root of `tokenizer.json`. A struct keeps the usual order of the fields and the vocabulary's.
#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Option<()>,
    decoder: Value,
    model: ModelJson<'a>,
}

#[derive(Serialize)]
struct ModelJson<'a> {
    r#type: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'static str>,
    continuing_subword_prefix: &'static str,
    end_of_word_suffix: &'static str,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Vocab<'a>,
    merges: Vec<String>,
}

fn tokenizer_json<'a>(merges: &'a [(String, String)], special: &[(usize, &str)]) -> TokenizerJson<'a> {
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    let words = json!({
        "type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated", "invert": false,
    });
    TokenizerJson {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: special.iter().map(|&(id, token)| added_token(Some(id), token)).collect(),
        normalizer: json!({"type": "NFC"}),
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [words, bytes]}),
        post_processor: None,
        decoder: bytes.clone(),
        model: ModelJson {
            r#type: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: "",
            end_of_word_suffix: "",
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: Vocab(merges),
            merges: merges.iter().map(|(left, right)| format!("{left} {right}")).collect(),
        },
    }
}

fn tokenizer_config(special: &[(usize, &str)], with_image_token: bool) -> Value {
    let decoder = special.iter().map(|&(id, token)| (id.to_string(), added_token(None, token)));
    json!({
        "add_prefix_space": false,
        "added_tokens_decoder": Value::Object(decoder.collect()),
        "additional_special_tokens": [IM_START, IM_END],
        "bos_token": null,
        "chat_template": if with_image_token { NATIVE_CHAT } else { APPLE_CHAT },
        "clean_up_tokenization_spaces": false,
        "eos_token": IM_END,
        "errors": "replace",
        "model_max_length": 8192,
        "pad_token": END_OF_TEXT,
        "padding_side": "right",
        "split_special_tokens": false,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": null,
    })
}

fn added_token(id: Option<usize>, content: &str) -> Value {
    let mut token = json!({
        "content": content, "lstrip": false, "normalized": false, "rstrip": false,
        "single_word": false, "special": true,
    });
    if let Some(id) = id {
        token["id"] = id.into();
    }
    token
}

/// [`crate::Template::Apple`] for messages whose content is text holding `<image>`.
const APPLE_CHAT: &str = "{% if messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}\
    {% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// [`crate::Template::Native`] for messages whose content is a list of parts.
const NATIVE_CHAT: &str = "{% if messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}\
    {% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}\
    {% for part in m['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}\
    {% for part in m['content'] if part['type'] == 'text' %}{{ '\\n' + part['text'] }}{% endfor %}\
    {{ '<|im_end|>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TextError> {
    write(path, |file| serde_json::to_writer(file, value).map_err(Into::into))
}

fn write_merges(path: &Path, merges: &[(String, String)]) -> Result<(), TextError> {
    write(path, |file| {
        writeln!(file, "#version: 0.2")?;
        merges.iter().try_for_each(|(left, right)| writeln!(file, "{left} {right}"))
    })
}

fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), TextError> {
    let written = File::create(path).map(BufWriter::new).and_then(|mut file| {
        content(&mut file)?;
        file.flush()
    });
    written.map_err(|e| TextError::io(path, e))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn merges_join_known_tokens_into_new_ones() {
        let mut known: HashSet<String> = (0..=255).map(|byte| spell(byte).to_string()).collect();
        assert_eq!(common_first().iter().collect::<HashSet<_>>().len(), BYTES);
        for (left, right) in merges().take(151_643 - BYTES) {
            assert!(known.contains(&left) && known.contains(&right), "{left} {right}");
            assert!(known.insert(format!("{left}{right}")), "{left}{right} again");
        }
        assert_eq!(known.len(), 151_643);
    }
}
