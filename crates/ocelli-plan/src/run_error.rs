//! Why a plan did not run to its end, on any device.

use std::fmt;

use crate::weights::WeightError;

/// Why a plan did not run to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunError {
    /// The caller asked to stop; outputs are undefined.
    Cancelled,
    /// A weight that is read while running could not be read.
    Weight(WeightError),
    /// A token id is outside of the table of embeddings.
    Id {
        /// The id.
        id: u32,
        /// Rows of the table.
        vocabulary: usize,
    },
    /// The device failed or was taken away; what it says.
    Device(String),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Cancelled => f.write_str("cancelled"),
            RunError::Weight(error) => error.fmt(f),
            RunError::Id { id, vocabulary } => {
                write!(f, "token id {id} is outside of the vocabulary of {vocabulary} rows")
            }
            RunError::Device(message) => write!(f, "the GPU failed: {message}"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<WeightError> for RunError {
    fn from(error: WeightError) -> Self {
        RunError::Weight(error)
    }
}
