//! Which tokens end an answer.

use std::path::Path;

use serde::Deserialize;

use crate::files::ModelFiles;
use crate::tokenizer::IM_END;
use crate::{Qwen2Tokenizer, TextError};

/// The ids that end generation: `eos_token_id` of `generation_config.json`, then of `config.json`
/// (its top level and its `text_config`), then the tokenizer's `<|im_end|>`, each id once.
///
/// # Errors
/// When a file is unreadable or malformed, or when no id is found at all.
pub fn stop_ids(dir: &Path, tokenizer: &Qwen2Tokenizer) -> Result<Vec<u32>, TextError> {
    ModelFiles::with_dir(dir, |files| stop_ids_of(files, tokenizer))
}

/// As [`stop_ids`], of files that need not be in a directory.
///
/// # Errors
/// As for [`stop_ids`].
pub fn stop_ids_of(files: ModelFiles, tokenizer: &Qwen2Tokenizer) -> Result<Vec<u32>, TextError> {
    let mut found = Vec::new();
    for name in ["generation_config.json", "config.json"] {
        let config: Option<Config> = files.json(name)?;
        for config in config.iter().flat_map(|config| [Some(config), config.text_config.as_deref()]) {
            found.extend(
                config.and_then(|config| config.eos_token_id.as_ref()).into_iter().flat_map(Ids::ids),
            );
        }
    }
    found.extend(tokenizer.added_id(IM_END));

    let mut ids = Vec::new();
    for id in found {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if ids.is_empty() { Err(TextError::NoStopToken { dir: files.folder().to_owned() }) } else { Ok(ids) }
}

#[derive(Deserialize)]
struct Config {
    eos_token_id: Option<Ids>,
    text_config: Option<Box<Config>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn ids(&self) -> Vec<u32> {
        match self {
            Ids::One(id) => vec![*id],
            Ids::Many(ids) => ids.clone(),
        }
    }
}
