//! The CLIP tokenizer: text cleaning, then byte-level BPE in which `</w>` marks the end of a word.
//!
//! Follows `SimpleTokenizer` of open_clip (mlfoundations/open_clip, `src/open_clip/tokenizer.py`, itself
//! from openai/CLIP), with which MobileCLIP was trained, and not transformers' `CLIPTokenizer`: those
//! differ on HTML references, ligatures, control characters and padding.
//!
//! Differences that are left: characters that Unicode added after version 14, which not every program
//! knows yet, may be composed, lower-cased or split otherwise. Of 30,000 generated texts, four differed,
//! all by U+190A0, which the newest Python `regex` takes for a letter. Time grows with the square of the
//! depth of references in references (`&amp;amp;amp;`), as in ftfy: limit the length of foreign texts.

mod clean;
mod entities;
mod files;
mod learn;
mod mojibake;
mod tables;

use std::collections::HashMap;
use std::path::Path;

use crate::byte_level::{BYTES_IN_ORDER, spell};
use crate::unicode::{is_letter, is_number};
use crate::{ModelFiles, TextError};

pub use learn::write_learned_clip_tokenizer;

/// The length in tokens of the texts that CLIP models take.
pub const CLIP_CONTEXT_LENGTH: usize = 77;

/// The file of a model's folder that holds a vocabulary in the form of [`CLIP_MERGES`].
pub const CLIP_MERGES_FILE: &str = "clip_merges.bin";

/// CLIP's vocabulary, made by `reference/make_clip_data.py`: of each merge the ids of the two tokens that it joins,
/// 16 bits each, little-endian. Tokens are numbered: 256 bytes, 256 bytes that end a word, merges.
#[cfg(feature = "clip-vocabulary")]
pub const CLIP_MERGES: &[u8] = include_bytes!("clip/merges.bin");

/// Tokens of single bytes.
const SINGLE: u32 = 512;
/// Ids have 16 bits, and two are for the control tokens.
const MOST_MERGES: usize = u16::MAX as usize - SINGLE as usize - 2;

/// Fills a row behind the end token. It is also the id of `!`, and models attend to it.
const PAD: u32 = 0;

/// The tokenizer of CLIP models. One value serves many threads.
pub struct ClipTokenizer {
    /// The token of each byte inside a word, and of each byte that ends one.
    bytes: [u32; 256],
    last_bytes: [u32; 256],
    /// By the two tokens that are joined: how urgent (0 first) and the joined token.
    merges: HashMap<(u32, u32), (u32, u32)>,
    start: u32,
    end: u32,
    vocab_size: usize,
}

/// A text as a model takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipTokens {
    /// `[context_length]` token ids: start, text, end, then padding with 0.
    pub ids: Vec<u32>,
    /// Where the first end token is; CLIP takes the text's features there.
    pub end: usize,
}

impl ClipTokenizer {
    /// The tokenizer of OpenAI's CLIP and of all MobileCLIP models, 49408 tokens, which is built in.
    #[cfg(feature = "clip-vocabulary")]
    pub fn new() -> Self {
        Self::from_merges(CLIP_MERGES.as_chunks::<4>().0)
    }

    /// The tokenizer of these merges: two little-endian ids of tokens that are joined to the next one.
    fn from_merges(pairs: &[[u8; 4]]) -> Self {
        let merges = pairs.iter().zip(0..).map(|(&[a, b, c, d], rank)| {
            let pair = [[a, b], [c, d]].map(|id| u32::from(u16::from_le_bytes(id)));
            (pair.into(), (rank, SINGLE + rank))
        });
        let mut bytes = [0; 256];
        for (id, byte) in (0..).zip(BYTES_IN_ORDER) {
            bytes[usize::from(byte)] = id;
        }
        let last_bytes = bytes.map(|id| 256 + id);
        let start = SINGLE + pairs.len() as u32;
        let merges = merges.collect();
        Self { bytes, last_bytes, merges, start, end: start + 1, vocab_size: start as usize + 2 }
    }

    /// As [`Self::from_merges`], of a file.
    fn from_merges_file(path: &Path, file: &[u8]) -> Result<Self, TextError> {
        let (pairs, rest) = file.as_chunks::<4>();
        let known = |(at, &[a, b, c, d]): (usize, &[u8; 4])| {
            [[a, b], [c, d]].iter().all(|&id| usize::from(u16::from_le_bytes(id)) < SINGLE as usize + at)
        };
        if !rest.is_empty() || pairs.len() > MOST_MERGES || !pairs.iter().enumerate().all(known) {
            return Err(TextError::malformed(path, "it is no list of pairs of tokens, each made before"));
        }
        Ok(Self::from_merges(pairs))
    }

    /// The tokenizer in a checkpoint directory, from [`CLIP_MERGES_FILE`] or `tokenizer.json` when it is there, otherwise
    /// from `vocab.json` and `merges.txt`. Only the vocabulary is taken from it: text is cleaned and split as
    /// open_clip does, whatever the files say.
    ///
    /// # Errors
    /// When the files are missing, unreadable, malformed or not of the CLIP kind. The error names the
    /// file.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        ModelFiles::with_dir(dir, Self::from_files)
    }

    /// As [`Self::from_dir`], of files that need not be in a directory.
    ///
    /// # Errors
    /// As for [`Self::from_dir`].
    pub fn from_files(files: ModelFiles) -> Result<Self, TextError> {
        if let Some(merges) = files.bytes(CLIP_MERGES_FILE)? {
            return Self::from_merges_file(&files.path(CLIP_MERGES_FILE), &merges);
        }
        let files::Vocabulary { path, tokens, merges, start, end } = files::read_vocabulary(files)?;
        let id = |token: &str| {
            let missing = || TextError::malformed(&path, format!("its vocabulary has no token {token:?}"));
            tokens.get(token).copied().ok_or_else(missing)
        };
        let mut bytes = [0; 256];
        let mut last_bytes = [0; 256];
        for byte in 0..=255u8 {
            bytes[usize::from(byte)] = id(&spell(byte).to_string())?;
            last_bytes[usize::from(byte)] = id(&format!("{}</w>", spell(byte)))?;
        }
        let mut table = HashMap::with_capacity(merges.len());
        for (rank, (left, right)) in (0..).zip(&merges) {
            table.insert((id(left)?, id(right)?), (rank, id(&format!("{left}{right}"))?));
        }
        let highest = tokens.values().copied().chain([start, end]).max().unwrap_or(0);
        Ok(Self { bytes, last_bytes, merges: table, start, end, vocab_size: highest as usize + 1 })
    }

    /// The ids of `text` in a row of `context_length` (77 for all CLIP models); a text that is too long is
    /// cut, and its last id is the end token.
    ///
    /// As in open_clip, a literal `<start_of_text>` or `<end_of_text>` is that control token, while
    /// `<|startoftext|>` is plain text.
    ///
    /// # Panics
    /// When `context_length` is 0.
    pub fn encode(&self, text: &str, context_length: usize) -> ClipTokens {
        assert!(context_length > 0, "a row without room for the end token");
        let mut ids = vec![self.start];
        let text = clean::clean(text);
        for word in words(&text) {
            // What does not fit is cut off below.
            if ids.len() >= context_length {
                break;
            }
            self.encode_word(word, &mut ids);
        }
        ids.push(self.end);
        if ids.len() > context_length {
            ids.truncate(context_length);
            ids[context_length - 1] = self.end;
        }
        ids.resize(context_length, PAD);
        let end = ids.iter().position(|id| *id == self.end).unwrap_or(context_length - 1);
        ClipTokens { ids, end }
    }

    /// One more than the highest id: the rows of a model's embedding table.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id before every text.
    pub fn start_id(&self) -> u32 {
        self.start
    }

    /// The id after every text.
    pub fn end_id(&self) -> u32 {
        self.end
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) {
        match word {
            "<start_of_text>" => ids.push(self.start),
            "<end_of_text>" => ids.push(self.end),
            _ => ids.extend(self.join(word)),
        }
    }

    /// Joins the bytes of `word`: in each round, all pairs that are alike and most urgent.
    fn join(&self, word: &str) -> Vec<u32> {
        let Some((last, before)) = word.as_bytes().split_last() else { return Vec::new() };
        let mut ids: Vec<u32> = before.iter().map(|byte| self.bytes[usize::from(*byte)]).collect();
        ids.push(self.last_bytes[usize::from(*last)]);
        let merge = |pair: &[u32]| Some((*self.merges.get(&(pair[0], pair[1]))?, (pair[0], pair[1])));
        while let Some(((_, joined), pair)) = ids.windows(2).filter_map(merge).min() {
            let mut kept = 0;
            let mut at = 0;
            while at < ids.len() {
                let found = ids[at] == pair.0 && ids.get(at + 1) == Some(&pair.1);
                ids[kept] = if found { joined } else { ids[at] };
                at += if found { 2 } else { 1 };
                kept += 1;
            }
            ids.truncate(kept);
        }
        ids
    }
}

#[cfg(feature = "clip-vocabulary")]
impl Default for ClipTokenizer {
    fn default() -> Self {
        Self::new()
    }
}

/// Cleaned text cut into words, by the expression
/// `(?i:<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\u{345}]+`.
///
/// Case is ignored in the literals, which matters only for `ſ`, an `s` that stays when text is lower-cased. U+0345, a
/// mark that counts as a variant of the letter `ι`, is neither a letter nor anything else to Python's `regex` and so
/// left out.
fn words(text: &str) -> impl Iterator<Item = &str> {
    const LITERALS: [&str; 9] =
        ["<start_of_text>", "<end_of_text>", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
    let is_sign = |c: char| !(c.is_whitespace() || is_letter(c) || is_number(c) || c == '\u{345}');
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{345}');
        let first = rest.chars().next()?;
        let run = |is: &dyn Fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let len = if let Some(len) = LITERALS.iter().find_map(|literal| literal_len(rest, literal)) {
            len
        } else if is_letter(first) {
            run(&is_letter)
        } else if is_number(first) {
            first.len_utf8()
        } else {
            run(&is_sign)
        };
        let (word, after) = rest.split_at(len);
        rest = after;
        Some(word)
    })
}

/// Bytes of `literal` in any case, if `text` begins with it.
fn literal_len(text: &str, literal: &str) -> Option<usize> {
    let mut chars = text.chars();
    let same = |wanted: char| {
        let c = chars.next()?;
        (c.eq_ignore_ascii_case(&wanted) || (c == 'ſ' && wanted == 's')).then_some(c.len_utf8())
    };
    literal.chars().map(same).sum()
}

#[cfg(test)]
mod tests {
    use super::words;
    use regex::Regex;

    #[test]
    fn words_are_those_of_the_expression() {
        const PARTS: [&str; 20] = [
            "a",
            "é",
            "猫",
            "1",
            "²",
            " ",
            "\u{3000}",
            "'",
            "s",
            "ſ",
            "re",
            "L",
            "!",
            "<",
            "\u{345}",
            "\u{301}",
            "<start_of_text>",
            "<ſTART_OF_TEXT>",
            "<end_of_text",
            "🙂",
        ];
        let expression = Regex::new(
            r"(?i:<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\u{345}]+",
        )
        .unwrap();
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(PARTS[(seed >> 33) as usize % PARTS.len()]);
            }
            let theirs: Vec<&str> = expression.find_iter(&text).map(|found| found.as_str()).collect();
            assert_eq!(words(&text).collect::<Vec<_>>(), theirs, "{text:?}");
        }
    }
}
