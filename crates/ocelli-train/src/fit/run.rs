//! The folder of a run: its settings, its records and its checkpoints.
//!
//! ```text
//! settings.json                what the run was started with
//! metrics.jsonl                a record a step
//! step-00000500/               a checkpoint that `ocelli` loads: model.safetensors, configs and tokenizer, and
//!   optimizer.safetensors      what going on needs
//! ```
//!
//! Of a run with adapters the checkpoints hold `adapter_model.safetensors` and its like in place of the model. A
//! checkpoint is written aside and renamed when it is whole; the last two are kept.

use std::path::{Path, PathBuf};

use ocelli_weights::Naming;
use serde::Serialize;
use serde_json::Value;

use super::adamw::AdamW;
use super::records::{Record, Records};
use crate::TrainError;
use crate::checkpoint::{self, Tensors, read_tensors, write_tensors};
use crate::folder;
use crate::lora::{self, LoraConfig};
use crate::tensors::Named;

const PREFIX: &str = "step-";
const OPTIMIZER: &str = "optimizer.safetensors";
const MODEL: &str = "model.safetensors";
/// Checkpoints that stay.
const KEPT: usize = 2;

/// The folder of a run.
pub struct Run {
    dir: PathBuf,
    /// Where configs and tokenizer come from.
    from: PathBuf,
}

impl Run {
    /// Open the folder, new or of a run that was interrupted. `from` is the checkpoint whose configs and tokenizer go
    /// into the new ones.
    ///
    /// # Errors
    /// When the folder cannot be written, or holds a run with other settings.
    pub fn open(dir: &Path, from: &Path, settings: &impl Serialize) -> Result<Self, TrainError> {
        let write = |source| TrainError::Write { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(write)?;
        let settings = serde_json::to_string_pretty(settings).expect("settings are JSON") + "\n";
        let path = dir.join("settings.json");
        if path.is_file() {
            same_settings(dir, &path, &settings)?;
        } else {
            std::fs::write(&path, settings).map_err(write)?;
        }
        Ok(Self { dir: dir.to_owned(), from: from.to_owned() })
    }

    /// The newest checkpoint and its step.
    pub fn last(&self) -> Option<(u64, PathBuf)> {
        checkpoints(&self.dir).pop()
    }

    /// The newest checkpoint in a folder of a run.
    pub fn last_of(dir: &Path) -> Option<PathBuf> {
        checkpoints(dir).pop().map(|(_, checkpoint)| checkpoint)
    }

    /// The records of a run that has taken so many steps.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn records(&self, steps: u64) -> Result<Records, TrainError> {
        Records::open(&self.dir.join("metrics.jsonl"), steps)
    }

    /// The records of what the run has done up to its last checkpoint.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read_records(&self) -> Result<Vec<Record>, TrainError> {
        let steps = self.last().map_or(0, |(step, _)| step);
        Records::read(&self.dir.join("metrics.jsonl"), steps)
    }

    /// Write a checkpoint, and remove all but the last ones. With adapters it holds them and what else was trained,
    /// not the whole model.
    ///
    /// # Errors
    /// When a file cannot be written; earlier checkpoints stay then.
    pub fn save(
        &self,
        step: u64,
        network: &mut impl Named,
        naming: &Naming,
        optimizer: &AdamW,
        adapters: Option<&LoraConfig>,
    ) -> Result<PathBuf, TrainError> {
        let dir = self.dir.join(format!("{PREFIX}{step:08}"));
        let write = |source| TrainError::Write { path: dir.clone(), source };
        folder::write_whole(&dir, |partial| {
            match adapters {
                Some(config) => {
                    let mut trained = checkpoint::tensors(network, naming)?;
                    trained.retain(|name, _| optimizer.has_trained(name));
                    lora::save(partial, config, &self.from, trained)?;
                }
                None => {
                    folder::copy_beside_weights(&self.from, partial)?;
                    checkpoint::save(network, naming, &partial.join(MODEL))?;
                }
            }
            write_tensors(&partial.join(OPTIMIZER), &optimizer.state())
        })?;
        let all = checkpoints(&self.dir);
        for (_, old) in &all[..all.len().saturating_sub(KEPT)] {
            std::fs::remove_dir_all(old).map_err(write)?;
        }
        Ok(dir)
    }
}

/// In the order of their steps.
fn checkpoints(dir: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// The state of the optimizer in a checkpoint.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn optimizer_state(checkpoint: &Path) -> Result<Tensors, TrainError> {
    read_tensors(&checkpoint.join(OPTIMIZER))
}

/// Both are read from text, since numbers lose their last digits on that way.
fn same_settings(dir: &Path, path: &Path, settings: &str) -> Result<(), TrainError> {
    let read = |reason: String| TrainError::Read { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| read(e.to_string()))?;
    let found: Value = serde_json::from_str(&text).map_err(|e| read(e.to_string()))?;
    let settings: Value = serde_json::from_str(settings).expect("just written");
    if found == settings {
        return Ok(());
    }
    let keys =
        |value: &Value| value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = [keys(&found), keys(&settings)].concat();
    all.sort();
    all.dedup();
    let differ: Vec<String> = all.into_iter().filter(|key| found.get(key) != settings.get(key)).collect();
    Err(TrainError::OtherRun { dir: dir.to_owned(), what: differ.join(", ") })
}
