//! The files that say what a FastVLM or a MobileCLIP is trained from, with and how.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::TrainError;
use crate::clip_data::Synthetic;
use crate::drawn::DrawnConfig;
use crate::fit::clip::ClipFit;
use crate::fit::vlm::VlmConfig;
use crate::fresh::FreshVlm;
use crate::fresh_clip::FreshClip;

/// A training run of a FastVLM, as its file (TOML) says it. Paths are relative to the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VlmRecipe {
    /// What is learned of the samples.
    pub stage: Stage,
    /// A new model with random weights; without it, the model to begin with is an argument.
    #[serde(default)]
    pub new: Option<FreshVlm>,
    /// What to learn from.
    pub data: Data,
    /// What to measure on while training, without learning from it.
    #[serde(default)]
    pub held_back: Option<Data>,
    /// How.
    pub train: VlmConfig,
}

/// The stages of FastVLM's training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Captions: the picture, then its caption.
    #[serde(rename = "1")]
    One,
    /// Captions in conversations at a higher resolution.
    #[serde(rename = "1.5")]
    OneAndHalf,
    /// Conversations.
    #[serde(rename = "2")]
    Two,
}

/// What to learn from: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Scenes drawn on the way.
    #[serde(default)]
    pub drawn: Option<DrawnConfig>,
    /// LLaVA's JSON files.
    #[serde(default)]
    pub llava: Vec<LlavaFile>,
    /// Positions of the longest sample; what is behind them is cut off.
    #[serde(default = "longest")]
    pub longest: usize,
}

fn longest() -> usize {
    2048
}

/// A JSON file and the folder of its pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlavaFile {
    /// The list of conversations.
    pub file: PathBuf,
    /// What the paths of its pictures are relative to; the file's folder if none.
    #[serde(default)]
    pub images: Option<PathBuf>,
}

/// A training run of a MobileCLIP, as its file says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipRecipe {
    /// A new model with random weights; without it, the model to begin with is an argument.
    #[serde(default)]
    pub new: Option<FreshClip>,
    /// What to learn from.
    pub data: ClipData,
    /// What to measure on while training, without learning from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<ClipData>,
    /// How.
    pub train: ClipFit,
}

/// What a MobileCLIP learns from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum ClipData {
    /// Scenes drawn on the way.
    Drawn(DrawnConfig),
    /// JSON Lines with `image` and `caption`.
    Captions(LlavaFile),
    /// The folder of a reinforced data set.
    Reinforced {
        /// Tar files, and the settings that `train clip reinforce` or its authors wrote beside them.
        folder: PathBuf,
        /// Which synthetic captions.
        #[serde(default)]
        synthetic: Synthetic,
    },
}

impl ClipRecipe {
    /// As [`VlmRecipe::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(path: &Path, changes: &[String]) -> Result<Self, TrainError> {
        let mut recipe: Self = read(path, changes)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for data in std::iter::once(&mut recipe.data).chain(&mut recipe.held_back) {
            match data {
                ClipData::Drawn(_) => {}
                ClipData::Captions(captions) => captions.beside(folder),
                ClipData::Reinforced { folder: shards, .. } => *shards = folder.join(&shards),
            }
        }
        Ok(recipe)
    }
}

impl LlavaFile {
    /// Make paths of those that are relative to a folder.
    fn beside(&mut self, folder: &Path) {
        self.file = folder.join(&self.file);
        self.images = self.images.take().map(|images| folder.join(images));
    }

    /// The folder of the pictures.
    pub fn images(&self) -> PathBuf {
        let beside = || self.file.parent().unwrap_or(Path::new("")).to_owned();
        self.images.clone().unwrap_or_else(beside)
    }
}

fn read<T: DeserializeOwned>(path: &Path, changes: &[String]) -> Result<T, TrainError> {
    let failed = |reason: String| TrainError::Read { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let mut table: Table = text.parse().map_err(|e: toml::de::Error| failed(e.to_string()))?;
    for change in changes {
        set(&mut table, change).map_err(|reason| TrainError::Structure { reason })?;
    }
    table.try_into().map_err(|e: toml::de::Error| failed(e.to_string()))
}

impl VlmRecipe {
    /// Read a file, with some values changed: `train.batch=4`.
    ///
    /// # Errors
    /// When it cannot be read or says what no recipe says.
    pub fn read(path: &Path, changes: &[String]) -> Result<Self, TrainError> {
        let mut recipe: Self = read(path, changes)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let held_back = recipe.held_back.iter_mut().flat_map(|data| &mut data.llava);
        recipe.data.llava.iter_mut().chain(held_back).for_each(|llava| llava.beside(folder));
        Ok(recipe)
    }
}

/// Put a value in place of another one: numbers, booleans, lists and tables as TOML has them, anything else is text.
fn set(table: &mut Table, change: &str) -> Result<(), String> {
    let (key, text) = change.split_once('=').ok_or_else(|| format!("--set {change}: write KEY=VALUE"))?;
    let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
    let mut at = table;
    let mut names = key.split('.').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            at.insert(name.to_owned(), value);
            return Ok(());
        }
        let inner = at.entry(name).or_insert_with(|| Value::Table(Table::new()));
        at = inner.as_table_mut().ok_or_else(|| format!("--set {change}: {name} is no table"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_in_place() {
        let mut table: Table = "a = 1\n[train]\nbatch = 2".parse().expect("TOML");
        for change in ["train.batch=4", "train.lora.rank=8", "b=true", "stage=2x", "c=[1, 2]"] {
            set(&mut table, change).expect(change);
        }
        let expected =
            "a = 1\nb = true\nc = [1, 2]\nstage = '2x'\n[train]\nbatch = 4\n[train.lora]\nrank = 8";
        assert_eq!(table, expected.parse::<Table>().expect("TOML"));
        assert!(set(&mut table, "a.b=1").is_err() && set(&mut table, "a").is_err());
    }
}
