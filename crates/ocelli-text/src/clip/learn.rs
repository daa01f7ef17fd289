//! Learns the merges of a small CLIP tokenizer from texts: byte pair encoding (Sennrich et al., arXiv 1508.07909) on the
//! bytes of words, the last of which is marked.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::clean;
use crate::TextError;
use crate::byte_level::{BYTES_IN_ORDER, spell};

/// Behind the last token of a word.
const END_OF_WORD: &str = "</w>";
/// Bytes inside of words, and bytes that end them.
const SINGLE: usize = 2 * 256;

/// A word as its tokens, and how often it occurs.
struct Word {
    tokens: Vec<usize>,
    count: u64,
}

/// Write `vocab.json` and `merges.txt` of a tokenizer of at most `vocabulary` tokens into `dir`, which is created if
/// needed: 512 for bytes, merges learned from `texts`, the most frequent pair first, and two control tokens. Returns the
/// number of tokens. The same texts in any order write the same bytes.
///
/// # Errors
/// When `vocabulary` is below 514, or a file cannot be written.
pub fn write_learned_clip_tokenizer<'a>(
    dir: &Path,
    texts: impl IntoIterator<Item = &'a str>,
    vocabulary: usize,
) -> Result<usize, TextError> {
    let least = SINGLE + 2;
    if vocabulary < least {
        return Err(TextError::BaseVocab { found: vocabulary, min: least, max: usize::MAX });
    }
    let (tokens, merges) = learn(texts, vocabulary - least);
    let control = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let all: Vec<String> = tokens.into_iter().chain(control).collect();
    let ids: Map<String, Value> = all.iter().cloned().zip((0..).map(|id: usize| id.into())).collect();
    std::fs::create_dir_all(dir).map_err(|e| TextError::io(dir, e))?;
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| TextError::io(&path, e))
    };
    write("vocab.json", Value::Object(ids).to_string())?;
    write("merges.txt", format!("#version: 0.2\n{}", merges.concat()))?;
    Ok(all.len())
}

/// Spellings of all tokens but the control tokens, and the lines of the merges.
fn learn<'a>(texts: impl IntoIterator<Item = &'a str>, count: usize) -> (Vec<String>, Vec<String>) {
    let single = BYTES_IN_ORDER.iter().map(|&byte| spell(byte).to_string());
    let mut spelled: Vec<String> = single.clone().chain(single.map(|byte| byte + END_OF_WORD)).collect();
    let (mut words, mut merges) = (words(texts), Vec::new());
    while merges.len() < count {
        let Some([left, right]) = most_frequent(&words) else { break };
        merges.push(format!("{} {}\n", spelled[left], spelled[right]));
        let merged = spelled.len();
        spelled.push(format!("{}{}", spelled[left], spelled[right]));
        for word in &mut words {
            let mut at = 0;
            while at + 1 < word.tokens.len() {
                if word.tokens[at..at + 2] == [left, right] {
                    word.tokens.splice(at..at + 2, [merged]);
                }
                at += 1;
            }
        }
    }
    (spelled, merges)
}

/// The words of all texts, as the tokenizer cuts them.
fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Word> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for text in texts {
        let text = clean::clean(text);
        for word in super::words(&text) {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    let mut places = [0; 256];
    for (place, &byte) in BYTES_IN_ORDER.iter().enumerate() {
        places[usize::from(byte)] = place;
    }
    let word = |(word, count): (String, u64)| {
        let mut tokens: Vec<usize> = word.bytes().map(|byte| places[usize::from(byte)]).collect();
        if let Some(last) = tokens.last_mut() {
            *last += SINGLE / 2;
        }
        Word { tokens, count }
    };
    counts.into_iter().map(word).collect()
}

/// Of two equally frequent pairs the one of lower tokens.
fn most_frequent(words: &[Word]) -> Option<[usize; 2]> {
    let mut counts: BTreeMap<[usize; 2], u64> = BTreeMap::new();
    for word in words {
        for pair in word.tokens.windows(2) {
            *counts.entry([pair[0], pair[1]]).or_default() += word.count;
        }
    }
    counts.into_iter().max_by_key(|&(pair, count)| (count, Reverse(pair))).map(|(pair, _)| pair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipTokenizer;

    #[test]
    fn what_is_learned_is_read_and_shortens_its_texts() {
        let texts = ["A red circle.", "a red square, a blue circle", "two RED circles"];
        let dir = tempfile::tempdir().expect("a folder");
        let count = write_learned_clip_tokenizer(dir.path(), texts, 540).expect("written");
        let learned = ClipTokenizer::from_dir(dir.path()).expect("a tokenizer");
        assert_eq!(learned.vocab_size(), count);
        // The end is the greatest id, where the text tower looks for it.
        assert_eq!((learned.start_id() as usize, learned.end_id() as usize), (count - 2, count - 1));
        let length = |tokenizer: &ClipTokenizer, text: &str| tokenizer.encode(text, 77).end;
        // Start, "a", "red", "circle" and where the end stands.
        assert_eq!(length(&learned, "A Red  circle"), 4);
        let plain = tempfile::tempdir().expect("a folder");
        assert_eq!(write_learned_clip_tokenizer(plain.path(), texts, 514).expect("written"), 514);
        let plain = ClipTokenizer::from_dir(plain.path()).expect("a tokenizer");
        assert_eq!(length(&plain, "A Red  circle"), 1 + 1 + 3 + 6);
        // Merges end when every word is one token, and do not depend on the order of the texts.
        let (all, merges) = learn(texts, 10_000);
        assert!(merges.len() < 60 && all.contains(&"circle</w>".to_owned()), "{}", merges.len());
        assert_eq!(learn(texts.into_iter().rev(), 10_000), (all, merges));
        assert!(write_learned_clip_tokenizer(dir.path(), texts, 513).is_err());
    }
}
