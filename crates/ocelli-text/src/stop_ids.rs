//! Which tokens end an answer.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

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
        for config in config.iter().flat_map(|config| [Some(config), config.text_config.as_deref()]).flatten()
        {
            found.extend(config.ids(&files.path(name))?);
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
    /// One or several.
    eos_token_id: Option<Value>,
    text_config: Option<Box<Config>>,
}

impl Config {
    fn ids(&self, path: &Path) -> Result<Vec<u32>, TextError> {
        let ids = match &self.eos_token_id {
            None => &[],
            Some(Value::Array(ids)) => &ids[..],
            Some(id) => std::slice::from_ref(id),
        };
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let wrong =
            |found: &Value| TextError::malformed(path, format!("{found} in eos_token_id is no token id"));
        ids.iter().map(|found| id(found).ok_or_else(|| wrong(found))).collect()
    }
}
