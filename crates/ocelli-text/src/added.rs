//! Added tokens: control tokens and other literal texts that are one token each, found before BPE.
//!
//! The rules are those of the `tokenizers` library (huggingface/tokenizers, `added_vocabulary.rs`): tokens that are
//! not normalized are looked for in the text as it is, then the others in what is left, normalized.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use crate::TextError;
use crate::unicode::{is_letter, is_number, to_nfc};

/// One added token, as the files have it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct AddedToken {
    pub content: String,
    /// Not inside of a word.
    pub single_word: bool,
    /// Takes white space before it with it.
    pub lstrip: bool,
    /// Takes white space after it with it.
    pub rstrip: bool,
    /// Looked for in normalized text.
    pub normalized: bool,
    /// Left out of text for a reader.
    pub special: bool,
}

impl AddedToken {
    /// A control token.
    pub(crate) fn control(content: String) -> Self {
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
    }
}

/// The added tokens of a tokenizer.
pub(crate) struct Added {
    ids: HashMap<String, u32>,
    /// Those looked for in the text as it is, and those in normalized text; longest first.
    literal: Vec<Wanted>,
    normalized: Vec<Wanted>,
}

struct Wanted {
    text: String,
    id: u32,
    token: AddedToken,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Token(u32),
}

impl Added {
    /// The tokens under the ids that the file gives them. Those that are no ordinary tokens too are numbered upwards
    /// from the vocabulary, as the library numbers them, whatever the file says.
    pub(crate) fn new(
        path: &Path,
        tokens: Vec<(u32, AddedToken)>,
        vocab: &HashMap<String, u32>,
    ) -> Result<Self, TextError> {
        let mut added = Self { ids: HashMap::new(), literal: Vec::new(), normalized: Vec::new() };
        let mut next = vocab.len() as u32;
        for (id, token) in tokens {
            let known = added.ids.get(&token.content).or_else(|| vocab.get(&token.content)).copied();
            let given = known.unwrap_or(next);
            if given != id || token.content.is_empty() {
                let reason = format!(
                    "added token {:?} has id {id}, but ids go on from the vocabulary without gaps",
                    token.content
                );
                return Err(TextError::malformed(path, reason));
            }
            next += u32::from(known.is_none());
            if added.ids.insert(token.content.clone(), id).is_some() {
                continue;
            }
            let (list, text) = match token.normalized {
                true => (&mut added.normalized, to_nfc(&token.content)),
                false => (&mut added.literal, token.content.clone()),
            };
            list.push(Wanted { text, id, token });
        }
        for list in [&mut added.literal, &mut added.normalized] {
            list.sort_by_key(|wanted| std::cmp::Reverse(wanted.text.len()));
        }
        Ok(added)
    }

    /// The id of an added token.
    pub(crate) fn id(&self, content: &str) -> Option<u32> {
        self.ids.get(content).copied()
    }

    /// Calls `f` with each piece of `text`; pieces of text are in form NFC if `nfc` is set.
    pub(crate) fn split(&self, text: &str, nfc: bool, mut f: impl FnMut(Piece)) {
        for piece in pieces(text, &self.literal) {
            match piece {
                Piece::Token(_) => f(piece),
                Piece::Text(text) if nfc => {
                    let text = to_nfc(text);
                    pieces(&text, &self.normalized).into_iter().for_each(&mut f);
                }
                Piece::Text(text) => pieces(text, &self.normalized).into_iter().for_each(&mut f),
            }
        }
    }
}

/// The leftmost tokens in `text`, of those at one place the longest, and the text between them.
fn pieces<'a>(text: &'a str, wanted: &[Wanted]) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    // How far the pieces reach, and where the search goes on.
    let (mut done, mut from) = (0, 0);
    while let Some((at, found)) = find(text, from, wanted) {
        let (mut begin, mut end) = (at, at + found.text.len());
        from = end;
        let in_word = text[..begin].ends_with(is_word) || text[end..].starts_with(is_word);
        if found.token.single_word && in_word {
            continue;
        }
        if found.token.lstrip {
            begin = text[..begin].trim_end().len().max(done);
        }
        if found.token.rstrip {
            end = text.len() - text[end..].trim_start().len();
        }
        if done < begin {
            pieces.push(Piece::Text(&text[done..begin]));
        }
        pieces.push(Piece::Token(found.id));
        done = end;
    }
    if done < text.len() {
        pieces.push(Piece::Text(&text[done..]));
    }
    pieces
}

fn find<'w>(text: &str, from: usize, wanted: &'w [Wanted]) -> Option<(usize, &'w Wanted)> {
    if wanted.is_empty() {
        return None;
    }
    let places = text[from..].char_indices().map(|(at, _)| from + at);
    let mut found = places.filter_map(|at| {
        let wanted = wanted.iter().find(|wanted| text[at..].starts_with(&wanted.text))?;
        Some((at, wanted))
    });
    found.next()
}

/// What the library takes for a part of a word: nearly `\w`.
fn is_word(c: char) -> bool {
    is_letter(c) || is_number(c) || c == '_'
}
