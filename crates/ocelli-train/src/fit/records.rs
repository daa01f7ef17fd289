//! What is known of every step, one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// From 1.
    pub step: u64,
    /// Of the run.
    pub steps: u64,
    /// Mean loss: of a FastVLM cross entropy of the learned tokens, nats.
    pub loss: f32,
    /// The same over samples that nothing is learned from, where a step was to measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back_loss: Option<f32>,
    /// Share of the pictures among them to which their own text was nearest, of a MobileCLIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back_recall: Option<f32>,
    /// Share of the peak learning rate.
    pub rate: f64,
    /// Norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Samples that the step learned from.
    pub samples: usize,
    /// Samples that could not be read, of the run so far.
    pub bad_samples: usize,
    /// Samples per second.
    pub samples_per_s: f64,
    /// Since the run, or its last resumption, began.
    pub seconds: f64,
}

/// The file of records.
pub struct Records {
    file: File,
    path: PathBuf,
    bad_samples: usize,
}

impl Records {
    /// The records of the first steps of a run; none if there is no file yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path, steps: u64) -> Result<Vec<Record>, TrainError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TrainError::Read { path: path.to_owned(), reason: error.to_string() }),
        };
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        // A line that a killed run has left half is of a step that is taken anew.
        let records = lines.filter_map(|line| serde_json::from_str::<Record>(&line).ok());
        Ok(records.filter(|record| record.step <= steps).collect())
    }

    /// Open the file of a run that has taken so many steps; records of later ones, which are taken anew, go.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(path: &Path, steps: u64) -> Result<Self, TrainError> {
        let write = |source| TrainError::Write { path: path.to_owned(), source };
        let kept = Self::read(path, steps)?;
        let partial = path.with_extension("partial");
        let text: String = kept.iter().map(line).collect();
        std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path)).map_err(write)?;
        let file = OpenOptions::new().append(true).open(path).map_err(write)?;
        let bad_samples = kept.last().map_or(0, |record| record.bad_samples);
        Ok(Self { file, path: path.to_owned(), bad_samples })
    }

    /// Those of the steps that had been taken when the file was opened.
    pub fn bad_samples(&self) -> usize {
        self.bad_samples
    }

    /// Add a record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, record: &Record) -> Result<(), TrainError> {
        self.file
            .write_all(line(record).as_bytes())
            .map_err(|source| TrainError::Write { path: self.path.clone(), source })
    }
}

fn line(record: &Record) -> String {
    serde_json::to_string(record).expect("a record is JSON") + "\n"
}
