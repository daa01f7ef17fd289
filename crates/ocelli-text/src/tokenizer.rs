//! The Qwen2 tokenizer: byte-level BPE (Sennrich et al. 2016, <https://aclanthology.org/P16-1162>,
//! on bytes as in GPT-2), run by the Hugging Face `tokenizers` library on the checkpoint's files.
//!
//! The BPE model is built without its control tokens. So text can only become ordinary tokens, and
//! [`Qwen2Tokenizer::encode`] cuts control tokens out beforehand where that is wanted.

use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, AddedVocabulary, OffsetReferential, OffsetType, SplitDelimiterBehavior, TokenizerImpl,
};

use crate::TextError;
use crate::byte_level::{spell, token_bytes};
use crate::files::{Description, read_description};

/// Opens a chat turn.
pub const IM_START: &str = "<|im_start|>";
/// Closes a chat turn; generating it ends the answer.
pub const IM_END: &str = "<|im_end|>";
/// Ends a document; Qwen2 also pads with it.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Marks an image; a token only in the transformers-native and MLX checkpoints.
pub const IMAGE: &str = "<image>";

/// Normalizer, word splitter, BPE and nothing after it.
type PlainTokenizer = TokenizerImpl<BPE, NFC, Sequence, ByteLevel, ByteLevel>;

/// The tokenizer of one checkpoint. One value serves many threads.
pub struct Qwen2Tokenizer {
    plain: PlainTokenizer,
    added: AddedVocabulary,
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
        let description = read_description(dir)?;
        check_bytes(&description)?;
        let tokens = TokenTable::new(&description)?;
        let Description { path, vocab, merges, added, words, nfc } = description;

        let bpe = BPE::builder().vocab_and_merges(vocab, merges).build();
        let bpe = bpe.map_err(|e| TextError::malformed(&path, e))?;
        let added = added_vocabulary(&path, added, &bpe)?;
        let words = Split::new(SplitPattern::Regex(words), SplitDelimiterBehavior::Isolated, false);
        let words = words.map_err(|e| TextError::malformed(&path, e))?;
        let bytes = ByteLevel::new(false, false, false);

        let mut plain = PlainTokenizer::new(bpe);
        plain.with_normalizer(nfc.then_some(NFC));
        plain.with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()])));
        Ok(Self { plain, added, tokens })
    }

    /// The ids of `text`, in which the literal text of a control token is that token.
    ///
    /// For text that the program wrote. Text from a user goes through [`Self::encode_plain`].
    ///
    /// # Errors
    /// When the library refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let pieces = self.added.extract_and_normalize(self.plain.get_normalizer(), text);
        let mut ids = Vec::new();
        for (piece, _, token) in pieces.get_splits(OffsetReferential::Original, OffsetType::None) {
            match token {
                Some(token) => ids.extend(token.iter().map(|token| token.id)),
                None => ids.extend(self.encode_plain(piece)?),
            }
        }
        Ok(ids)
    }

    /// The ids of `text` as ordinary text: a literal `<|im_end|>`, `<image>` or any other added
    /// token in it is spelled out and never becomes that token.
    ///
    /// # Errors
    /// When the library refuses the text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.plain.encode_fast(text, false);
        let encoding = encoding.map_err(|e| TextError::Encode { reason: e.to_string() })?;
        Ok(encoding.get_ids().to_vec())
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
        self.added.get_vocab().get(token).copied()
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

/// Fails unless each byte is a token: BPE drops silently what it cannot spell.
fn check_bytes(description: &Description) -> Result<(), TextError> {
    for byte in 0..=255 {
        let token = spell(byte).to_string();
        if !description.vocab.contains_key(&token) {
            let reason = format!("its vocabulary has no token {token:?} for byte {byte:#04x}");
            return Err(TextError::malformed(&description.path, reason));
        }
    }
    Ok(())
}

/// The added tokens under the ids the file gives them.
fn added_vocabulary(
    path: &Path,
    added: Vec<(u32, AddedToken)>,
    bpe: &BPE,
) -> Result<AddedVocabulary, TextError> {
    let (ids, tokens): (Vec<u32>, Vec<AddedToken>) = added.into_iter().unzip();
    let mut vocabulary = AddedVocabulary::new();
    vocabulary.add_tokens(&tokens, bpe, Some(&NFC));
    // The library numbers added tokens itself, upwards from the vocabulary.
    for (id, token) in ids.into_iter().zip(&tokens) {
        let given = vocabulary.token_to_id(&token.content, bpe);
        if given != Some(id) {
            let reason = format!(
                "added token {:?} has id {id}, but ids go on from the vocabulary without gaps",
                token.content
            );
            return Err(TextError::malformed(path, reason));
        }
    }
    Ok(vocabulary)
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
