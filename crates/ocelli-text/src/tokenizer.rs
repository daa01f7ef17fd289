//! The Qwen2 tokenizer: byte-level BPE (on bytes as in GPT-2) of the checkpoint's files.
//!
//! It gives what the Hugging Face `tokenizers` library gives, with which the tests compare it. BPE knows nothing of
//! control tokens: so text can only become ordinary tokens, and [`Qwen2Tokenizer::encode`] cuts control tokens out
//! beforehand where that is wanted.

use std::path::Path;

use crate::TextError;
use crate::added::{Added, Piece};
use crate::bpe::{Merges, join};
use crate::byte_level::{spell, token_bytes};
use crate::files::{Description, ModelFiles, Vocab, read_description};
use crate::unicode::to_nfc;
use crate::words::qwen2_words;

/// Opens a chat turn.
pub const IM_START: &str = "<|im_start|>";
/// Closes a chat turn; generating it ends the answer.
pub const IM_END: &str = "<|im_end|>";
/// Ends a document; Qwen2 also pads with it.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Marks an image; a token only in the transformers-native and MLX checkpoints.
pub const IMAGE: &str = "<image>";

/// The tokenizer of one checkpoint. One value serves many threads.
pub struct Qwen2Tokenizer {
    /// The token of each byte.
    bytes: [u32; 256],
    merges: Merges,
    /// Whether text is brought to Unicode form NFC first.
    nfc: bool,
    added: Added,
    tokens: TokenTable,
}

impl Qwen2Tokenizer {
    /// The tokenizer of a checkpoint directory, from `tokenizer.json` when it is there, otherwise
    /// from `vocab.json` and `merges.txt` with the added tokens of `tokenizer_config.json` or
    /// `added_tokens.json`.
    ///
    /// # Errors
    /// When the files are missing, unreadable, malformed or not of the Qwen2 kind. The error
    /// names the file.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        ModelFiles::with_dir(dir, Self::from_files)
    }

    /// As [`Self::from_dir`], of files that need not be in a directory.
    ///
    /// # Errors
    /// As for [`Self::from_dir`].
    pub fn from_files(files: ModelFiles) -> Result<Self, TextError> {
        let description = read_description(files)?;
        let bytes = byte_tokens(&description)?;
        let tokens = TokenTable::new(&description)?;
        let merges = merge_table(&description)?;
        let Description { path, vocab, added, nfc, .. } = description;
        Ok(Self { bytes, merges, nfc, added: Added::new(&path, added, &vocab)?, tokens })
    }

    /// The ids of `text`, in which the literal text of a control token is that token.
    ///
    /// For text that the program wrote. Text from a user goes through [`Self::encode_plain`].
    ///
    /// # Errors
    /// None that is known: all bytes have tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        self.added.split(text, self.nfc, |piece| match piece {
            Piece::Token(id) => ids.push(id),
            Piece::Text(text) => self.push_plain(text, &mut ids),
        });
        Ok(ids)
    }

    /// The ids of `text` as ordinary text: a literal `<|im_end|>`, `<image>` or any other added
    /// token in it is spelled out and never becomes that token.
    ///
    /// # Errors
    /// None that is known: all bytes have tokens.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        self.push_plain(text, &mut ids);
        Ok(ids)
    }

    fn push_plain(&self, text: &str, ids: &mut Vec<u32>) {
        let composed: String;
        let text = if self.nfc && !text.is_ascii() {
            composed = to_nfc(text);
            &composed
        } else {
            text
        };
        let mut word = Vec::new();
        for bytes in qwen2_words(text) {
            word.clear();
            word.extend(bytes.bytes().map(|byte| self.bytes[usize::from(byte)]));
            join(&mut word, &self.merges);
            ids.extend_from_slice(&word);
        }
    }

    /// The text of `ids`, without control tokens when `skip_special` is set.
    ///
    /// Bytes that are not UTF-8 become U+FFFD, as in [`String::from_utf8_lossy`]; ids without a
    /// token, such as the padding rows of an embedding table, give nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            if !(skip_special && self.is_special(id)) {
                bytes.extend_from_slice(self.token_bytes(id));
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The text of one token for display, control tokens included; `None` for an id without one.
    ///
    /// A part of a character shows as U+FFFD: join tokens with [`crate::TokenStream`] instead.
    pub fn token_text(&self, id: u32) -> Option<String> {
        let token = self.tokens.get(id)?;
        Some(String::from_utf8_lossy(&token.bytes).into_owned())
    }

    /// The id of an added token such as [`IMAGE`], given its text.
    pub fn added_id(&self, token: &str) -> Option<u32> {
        self.added.id(token)
    }

    /// Whether `id` is a control token, which decoding for a reader skips.
    pub fn is_special(&self, id: u32) -> bool {
        self.tokens.get(id).is_some_and(|token| token.special)
    }

    /// One more than the highest id of a token. The embedding table may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.tokens.0.len()
    }

    /// The bytes of a token; none for an id without one.
    pub(crate) fn token_bytes(&self, id: u32) -> &[u8] {
        self.tokens.get(id).map_or(&[], |token| &token.bytes)
    }
}

/// The token of each byte: BPE could not spell a text without it.
fn byte_tokens(description: &Description) -> Result<[u32; 256], TextError> {
    let mut bytes = [0; 256];
    for byte in 0..=255u8 {
        let token = spell(byte).to_string();
        let Some(&id) = description.vocab.get(&token) else {
            let reason = format!("its vocabulary has no token {token:?} for byte {byte:#04x}");
            return Err(TextError::malformed(&description.path, reason));
        };
        bytes[usize::from(byte)] = id;
    }
    Ok(bytes)
}

/// The merges by ids.
fn merge_table(description: &Description) -> Result<Merges, TextError> {
    let id = |token: &str| {
        let missing = || {
            let reason = format!("a merge needs token {token:?}, which its vocabulary does not have");
            TextError::malformed(&description.path, reason)
        };
        description.vocab.get(token).copied().ok_or_else(missing)
    };
    let mut table = Merges::with_capacity(description.merges.len());
    for (rank, (left, right)) in (0..).zip(&description.merges) {
        table.insert((id(left)?, id(right)?), (rank, id(&format!("{left}{right}"))?));
    }
    Ok(table)
}

struct Token {
    bytes: Box<[u8]>,
    special: bool,
}

/// Each token at the index that is its id.
struct TokenTable(Vec<Option<Token>>);

impl TokenTable {
    fn new(description: &Description) -> Result<Self, TextError> {
        let Description { path, vocab, added, .. } = description;
        let mut table = Self::of_vocab(path, vocab, added.len())?;
        for (id, token) in added {
            let bytes = token_bytes(&token.content).into_boxed_slice();
            let slot = table.slot(path, *id, &token.content)?;
            if slot.as_ref().is_some_and(|taken| taken.bytes != bytes) {
                return Err(TextError::malformed(path, format!("two tokens have id {id}")));
            }
            *slot = Some(Token { bytes, special: token.special });
        }
        while table.0.last().is_some_and(Option::is_none) {
            table.0.pop();
        }
        Ok(table)
    }

    fn of_vocab(path: &Path, vocab: &Vocab, spare: usize) -> Result<Self, TextError> {
        let mut table = Self(Vec::new());
        // Ids are indices, so a wild id in a damaged file must not size the table.
        table.0.resize_with(vocab.len() + spare, || None);
        for (text, &id) in vocab {
            let slot = table.slot(path, id, text)?;
            if slot.is_some() {
                return Err(TextError::malformed(path, format!("two tokens have id {id}")));
            }
            *slot = Some(Token { bytes: token_bytes(text).into_boxed_slice(), special: false });
        }
        Ok(table)
    }

    fn slot(&mut self, path: &Path, id: u32, text: &str) -> Result<&mut Option<Token>, TextError> {
        let count = self.0.len();
        let slot = self.0.get_mut(id as usize);
        slot.ok_or_else(|| {
            TextError::malformed(path, format!("token {text:?} has id {id}, but there are {count} tokens"))
        })
    }

    fn get(&self, id: u32) -> Option<&Token> {
        self.0.get(id as usize)?.as_ref()
    }
}
