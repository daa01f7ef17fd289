//! Reads a checkpoint's tokenizer files into one description, whichever layout they have:
//! `tokenizer.json` (Hugging Face `tokenizers`), or `vocab.json` + `merges.txt` with the added
//! tokens in `tokenizer_config.json` or `added_tokens.json` (transformers' slow tokenizers).
//!
//! Only what Qwen2 has is accepted: everything after this file relies on it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::TextError;
use crate::added::AddedToken;
use crate::words::QWEN2_WORDS;

/// Ids of ordinary tokens.
pub(crate) type Vocab = HashMap<String, u32>;

/// Pairs of tokens to join, most urgent first.
pub(crate) type MergeList = Vec<(String, String)>;

/// The small files of a model, wherever they are.
#[derive(Clone, Copy)]
pub struct ModelFiles<'a> {
    folder: &'a Path,
    read: &'a dyn Fn(&str) -> io::Result<Option<Vec<u8>>>,
}

impl<'a> ModelFiles<'a> {
    /// Files that `read` gives whole, by name; none if there is no such file. Messages call the place `folder`.
    pub fn new(folder: &'a Path, read: &'a dyn Fn(&str) -> io::Result<Option<Vec<u8>>>) -> Self {
        Self { folder, read }
    }

    /// Calls `f` with the files of a directory.
    pub(crate) fn with_dir<R>(dir: &Path, f: impl FnOnce(ModelFiles) -> R) -> R {
        let read = |name: &str| {
            let path = dir.join(name);
            if path.exists() { std::fs::read(path).map(Some) } else { Ok(None) }
        };
        f(ModelFiles::new(dir, &read))
    }

    pub(crate) fn folder(self) -> &'a Path {
        self.folder
    }

    /// What messages call a file.
    pub(crate) fn path(self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn bytes(self, name: &str) -> Result<Option<Vec<u8>>, TextError> {
        (self.read)(name).map_err(|e| TextError::io(&self.path(name), e))
    }

    /// The content of a JSON file, or `None` when there is no such file.
    ///
    /// # Errors
    /// When the file cannot be read or does not have the fields of `T`.
    pub(crate) fn json<T: DeserializeOwned>(self, name: &str) -> Result<Option<T>, TextError> {
        let parse = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes).map_err(|e| TextError::malformed(&self.path(name), e))
        };
        self.bytes(name)?.map(parse).transpose()
    }
}

/// A byte-level BPE as its files describe it.
pub(crate) struct Description {
    /// The file to blame when the description turns out to be contradictory.
    pub path: PathBuf,
    /// Id of each ordinary token, spelled in the byte alphabet.
    pub vocab: Vocab,
    pub merges: MergeList,
    /// Control tokens and other literal tokens, by ascending id.
    pub added: Vec<(u32, AddedToken)>,
    /// Whether text is brought to Unicode form NFC first.
    pub nfc: bool,
}

/// The tokenizer described by the files; `tokenizer.json` wins when both layouts are there.
pub(crate) fn read_description(files: ModelFiles) -> Result<Description, TextError> {
    if let Some(bytes) = files.bytes("tokenizer.json")? {
        return read_tokenizer_json(files.path("tokenizer.json"), &bytes);
    }
    match vocab_and_merges(files)? {
        Some((vocab, merges)) => {
            let added = read_added(files)?;
            Ok(Description { vocab, merges, added, nfc: true, path: files.path("vocab.json") })
        }
        None => Err(TextError::NoTokenizer { dir: files.folder().to_owned() }),
    }
}

/// `vocab.json` and `merges.txt`, if both are there.
pub(crate) fn vocab_and_merges(files: ModelFiles) -> Result<Option<(Vocab, MergeList)>, TextError> {
    let Some(merges) = files.bytes("merges.txt")? else { return Ok(None) };
    let Some(vocab) = files.json("vocab.json")? else { return Ok(None) };
    let path = files.path("merges.txt");
    let text = String::from_utf8(merges).map_err(|e| TextError::malformed(&path, e))?;
    // Only the version line is a comment: "# #" is a merge.
    let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
    let merges = lines.map(|line| split_merge(&path, line)).collect::<Result<_, TextError>>()?;
    Ok(Some((vocab, merges)))
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedEntry>,
    normalizer: Option<Component>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Component>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedEntry {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl AddedEntry {
    fn token(self) -> (u32, AddedToken) {
        let Self { id, content, single_word, lstrip, rstrip, normalized, special } = self;
        (id, AddedToken { content, single_word, lstrip, rstrip, normalized, special })
    }
}

/// Any component of `tokenizer.json`, by its type.
#[derive(Deserialize)]
pub(crate) struct Component {
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Deserialize)]
struct Model {
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Vocab,
    merges: Vec<Merge>,
}

/// One merge: `["a", "b"]` since tokenizers 0.20, `"a b"` before.
#[derive(Deserialize)]
pub(crate) struct Merge(Value);

impl Merge {
    pub(crate) fn pair(self, path: &Path) -> Result<(String, String), TextError> {
        match self.0 {
            Value::String(line) => split_merge(path, &line),
            Value::Array(pair) => match <[Value; 2]>::try_from(pair) {
                Ok([Value::String(left), Value::String(right)]) => Ok((left, right)),
                _ => Err(TextError::malformed(path, "a merge is not two tokens")),
            },
            other => Err(TextError::malformed(path, format!("{other} is no merge"))),
        }
    }
}

fn read_tokenizer_json(path: PathBuf, bytes: &[u8]) -> Result<Description, TextError> {
    check_kind(&path, bytes)?;
    let file: TokenizerJson = serde_json::from_slice(bytes).map_err(|e| TextError::malformed(&path, e))?;
    check_model(&path, &file)?;
    let nfc = file.normalizer.is_some();
    let words = words_pattern(file.pre_tokenizer.as_ref())
        .ok_or_else(|| not_qwen2(&path, "its pre_tokenizer is not a regex split, then ByteLevel"))?;
    if words != QWEN2_WORDS {
        return Err(not_qwen2(&path, format!("it cuts words by {words:?}")));
    }
    let merges = file.model.merges.into_iter().map(|merge| merge.pair(&path));
    let merges = merges.collect::<Result<_, TextError>>()?;
    let added = sorted(file.added_tokens.into_iter().map(AddedEntry::token));
    Ok(Description { vocab: file.model.vocab, merges, added, nfc, path })
}

fn not_qwen2(path: &Path, found: impl Into<String>) -> TextError {
    TextError::NotQwen2 { path: path.to_owned(), found: found.into() }
}

/// Fails when the file names a model other than BPE.
///
/// This comes before the file is read in full: other models have other fields, and "missing field
/// `merges`" would be a poor way to say so.
fn check_kind(path: &Path, bytes: &[u8]) -> Result<(), TextError> {
    #[derive(Deserialize)]
    struct ModelOnly {
        model: Component,
    }
    match serde_json::from_slice::<ModelOnly>(bytes) {
        Ok(file) if file.model.kind != "BPE" => {
            Err(not_qwen2(path, format!("its model is {}", file.model.kind)))
        }
        _ => Ok(()),
    }
}

fn check_model(path: &Path, file: &TokenizerJson) -> Result<(), TextError> {
    let model = &file.model;
    let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if filled(&model.continuing_subword_prefix) || filled(&model.end_of_word_suffix) {
        return Err(not_qwen2(path, "its tokens are marked by a prefix or suffix"));
    }
    if model.ignore_merges {
        return Err(not_qwen2(path, "its model ignores merges"));
    }
    if let Some(normalizer) = &file.normalizer
        && normalizer.kind != "NFC"
    {
        return Err(not_qwen2(path, format!("its normalizer is {}", normalizer.kind)));
    }
    match &file.decoder {
        Some(decoder) if decoder.kind == "ByteLevel" => Ok(()),
        _ => Err(not_qwen2(path, "its decoder is not ByteLevel")),
    }
}

/// The regular expression of a `[Split, ByteLevel]` sequence, or `None` for any other shape.
fn words_pattern(pre_tokenizer: Option<&Value>) -> Option<&str> {
    let pre_tokenizer = pre_tokenizer.filter(|found| found["type"] == "Sequence")?;
    let [split, bytes] = &pre_tokenizer["pretokenizers"].as_array()?[..] else { return None };
    let plain_split =
        split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] == Value::Bool(false);
    // Old files have no `use_regex`, where it meant true.
    let plain_bytes = bytes["type"] == "ByteLevel"
        && bytes["add_prefix_space"] == Value::Bool(false)
        && bytes["use_regex"] == Value::Bool(false);
    split["pattern"]["Regex"].as_str().filter(|_| plain_split && plain_bytes)
}

fn split_merge(path: &Path, line: &str) -> Result<(String, String), TextError> {
    match line.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => Err(TextError::malformed(path, format!("merge {line:?} is not two tokens and a space"))),
    }
}

#[derive(Deserialize)]
struct TokenizerConfig {
    added_tokens_decoder: Option<BTreeMap<u32, AddedToken>>,
}

/// The added tokens of the `vocab.json` layout.
///
/// `added_tokens.json` does not say which tokens are special; all of them are taken to be, since
/// Qwen2 chat checkpoints only add control tokens.
fn read_added(files: ModelFiles) -> Result<Vec<(u32, AddedToken)>, TextError> {
    let config: Option<TokenizerConfig> = files.json("tokenizer_config.json")?;
    if let Some(added) = config.and_then(|config| config.added_tokens_decoder) {
        return Ok(sorted(added));
    }
    let added: Option<Vocab> = files.json("added_tokens.json")?;
    let added = added.unwrap_or_default().into_iter();
    Ok(sorted(added.map(|(content, id)| (id, AddedToken::control(content)))))
}

/// By ascending id, the order in which the library numbers added tokens.
fn sorted(added: impl IntoIterator<Item = (u32, AddedToken)>) -> Vec<(u32, AddedToken)> {
    let mut added: Vec<_> = added.into_iter().collect();
    added.sort_by_key(|&(id, _)| id);
    added
}
