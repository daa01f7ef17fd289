//! Reads the vocabulary of a CLIP checkpoint in Hugging Face's layouts: `tokenizer.json`, or `vocab.json`
//! with `merges.txt`.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::TextError;
use crate::files::{Component, Merge, ModelFiles, vocab_and_merges};

/// Byte-pair merges and ids, as the files have them.
pub(super) struct Vocabulary {
    /// The file to blame when something is missing.
    pub path: PathBuf,
    pub tokens: HashMap<String, u32>,
    /// Most urgent first.
    pub merges: Vec<(String, String)>,
    pub start: u32,
    pub end: u32,
}

/// The names the two control tokens go by, in Hugging Face's files and in open_clip.
const START: [&str; 2] = ["<|startoftext|>", "<start_of_text>"];
const END: [&str; 2] = ["<|endoftext|>", "<end_of_text>"];

/// The vocabulary of the files; `tokenizer.json` wins when both layouts are there.
pub(super) fn read_vocabulary(files: ModelFiles) -> Result<Vocabulary, TextError> {
    if let Some(bytes) = files.bytes("tokenizer.json")? {
        return read_tokenizer_json(files.path("tokenizer.json"), &bytes);
    }
    match vocab_and_merges(files)? {
        Some((tokens, merges)) => with_control_tokens(files.path("vocab.json"), tokens, merges),
        None => Err(TextError::NoTokenizer { dir: files.folder().to_owned() }),
    }
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    end_of_word_suffix: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

fn read_tokenizer_json(path: PathBuf, bytes: &[u8]) -> Result<Vocabulary, TextError> {
    #[derive(Deserialize)]
    struct ModelOnly {
        model: Component,
    }
    let not_clip = |found: String| TextError::NotClip { path: path.clone(), found };
    // Other models have other fields, and "missing field `merges`" would be a poor way to say so.
    if let Ok(file) = serde_json::from_slice::<ModelOnly>(bytes)
        && file.model.kind != "BPE"
    {
        return Err(not_clip(format!("its model is {}", file.model.kind)));
    }
    let file: TokenizerJson = serde_json::from_slice(bytes).map_err(|e| TextError::malformed(&path, e))?;
    if file.model.end_of_word_suffix.as_deref() != Some("</w>") {
        return Err(not_clip("the end of a word is not marked </w>".into()));
    }
    let merges = file.model.merges.into_iter().map(|merge| merge.pair(&path));
    let merges = merges.collect::<Result<_, _>>()?;
    let mut tokens = file.model.vocab;
    tokens.extend(file.added_tokens.into_iter().map(|added| (added.content, added.id)));
    with_control_tokens(path, tokens, merges)
}

fn with_control_tokens(
    path: PathBuf,
    tokens: HashMap<String, u32>,
    merges: Vec<(String, String)>,
) -> Result<Vocabulary, TextError> {
    let find = |names: [&str; 2]| {
        let missing = || TextError::malformed(&path, format!("it has no token {}", names[0]));
        names.iter().find_map(|name| tokens.get(*name).copied()).ok_or_else(missing)
    };
    let (start, end) = (find(START)?, find(END)?);
    // Ids are rows of an embedding table, so they must not run far beyond the tokens.
    if let Some((token, id)) = tokens.iter().find(|(_, id)| **id as usize >= tokens.len()) {
        let reason = format!("token {token:?} has id {id}, but there are {} tokens", tokens.len());
        return Err(TextError::malformed(&path, reason));
    }
    Ok(Vocabulary { path, tokens, merges, start, end })
}
