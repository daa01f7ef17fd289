//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// What can go wrong between text and token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The directory holds no tokenizer in a layout this crate reads.
    #[error(
        "no tokenizer in {}: it needs tokenizer.json, or vocab.json together with merges.txt; \
         copy these files from the checkpoint's repository", .dir.display()
    )]
    NoTokenizer {
        /// The checkpoint directory that was searched.
        dir: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot access {}: {source}; check that the file exists and its permissions", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file was read, but its content is damaged or contradicts itself.
    #[error("{} is malformed: {reason}; copy the file again from the checkpoint's repository", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// The file describes a tokenizer of another kind.
    #[error(
        "{} is not a Qwen2 byte-level BPE tokenizer: {found}; \
         only checkpoints with a Qwen2 language model are supported", .path.display()
    )]
    NotQwen2 {
        /// The file.
        path: PathBuf,
        /// The first thing that differs from Qwen2.
        found: String,
    },
    /// The file describes a tokenizer of another kind than CLIP's.
    #[error(
        "{} is not a CLIP tokenizer: {found}; without tokenizer files, the vocabulary that is built in is used",
        .path.display()
    )]
    NotClip {
        /// The file.
        path: PathBuf,
        /// The first thing that differs from CLIP.
        found: String,
    },
    /// A prompt needs a control token that the tokenizer does not have.
    #[error("the tokenizer has no {token} token, so it cannot write a chat prompt; use a chat checkpoint")]
    NoControlToken {
        /// The token's text.
        token: &'static str,
    },
    /// Nothing says which token ends an answer.
    #[error(
        "no end token for {}: set eos_token_id in generation_config.json or config.json", .dir.display()
    )]
    NoStopToken {
        /// The checkpoint directory that was searched.
        dir: PathBuf,
    },
    /// A stop string was empty, which would stop every answer before its first character.
    #[error("a stop string is empty; leave it out")]
    EmptyStopString,
    /// A synthetic tokenizer was asked for a size that cannot be made.
    #[error("base_vocab is {found}, but a synthetic tokenizer has between {min} and {max} base tokens")]
    BaseVocab {
        /// The size asked for.
        found: usize,
        /// One token for each byte.
        min: usize,
        /// All strings of one, two and three bytes.
        max: usize,
    },
}

impl TextError {
    pub(crate) fn malformed(path: &Path, reason: impl ToString) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}
