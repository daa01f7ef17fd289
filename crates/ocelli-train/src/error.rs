//! What can go wrong, in words that say what to do.

use std::path::PathBuf;

use ocelli_weights::LoadError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A tensor that the network has is not in the checkpoint.
    #[error("the checkpoint has no tensor `{name}`; is it complete, and of this network?")]
    Missing {
        /// Its name in the checkpoint.
        name: String,
    },
    /// A tensor of another shape.
    #[error("tensor `{name}` is {found:?} in the checkpoint, {expected:?} in the network")]
    Shape {
        /// Its name in the checkpoint.
        name: String,
        /// In the network.
        expected: Vec<usize>,
        /// In the checkpoint.
        found: Vec<usize>,
    },
    /// A part of a network that the family of checkpoints has no name for.
    #[error("{family} checkpoints have no name for `{ours}`; write another family")]
    NoName {
        /// The family.
        family: &'static str,
        /// Our name.
        ours: String,
    },
    /// A network that cannot be built.
    #[error("{reason}")]
    Structure {
        /// Why not.
        reason: String,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of a training run cannot be read.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A run that would go on with other settings.
    #[error(
        "{dir} holds a run with other settings ({what}); give another folder, or the settings of that run"
    )]
    OtherRun {
        /// The folder of the run.
        dir: PathBuf,
        /// What differs.
        what: String,
    },
    /// A setting that cannot be.
    #[error("{reason}")]
    Setting {
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing to learn from.
    #[error("there is nothing to learn from: {reason}")]
    NoExamples {
        /// Why not.
        reason: String,
    },
    /// The loss is no number any more.
    #[error(
        "the loss of step {step} is {loss}: lower the learning rate, or clip gradients harder; the run goes on from its last checkpoint"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f32,
    },
}
