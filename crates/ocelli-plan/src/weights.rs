//! How a network and a device read weights, whatever file they came from.

use std::fmt;

/// Read access to the weights of a network under our own names, for example
/// `vision.stages.2.blocks.5.ffn.fc1.weight`.
///
/// Values come out as f32 whatever the stored type is, so the caller decides what to keep.
pub trait WeightSource: Send + Sync {
    /// Shape of the tensor, row-major, or `None` if the checkpoint has no such tensor.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// Fill `out` with consecutive rows of the tensor seen as
    /// `[shape[0], product of the other dimensions]`, beginning with `first_row`.
    ///
    /// `out.len()` must be a multiple of the row length. A tensor of one dimension has rows of
    /// one value, a scalar is one row of one value.
    ///
    /// # Errors
    /// When there is no such tensor, or the rows lie outside of it.
    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Result<(), WeightError>;

    /// The whole tensor as f32, row-major.
    ///
    /// # Errors
    /// When there is no such tensor.
    fn read(&self, name: &str) -> Result<Vec<f32>, WeightError> {
        let shape = self.shape(name).ok_or_else(|| WeightError::missing(name))?;
        let mut out = vec![0.0; shape.iter().product()];
        self.read_rows(name, 0, &mut out)?;
        Ok(out)
    }

    /// Whether the tensor exists.
    fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }
}

/// A weight that a network asked for could not be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightError {
    /// Our name of the tensor.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

impl WeightError {
    /// The checkpoint has no tensor of this name.
    pub fn missing(name: &str) -> Self {
        Self { name: name.to_owned(), reason: "the checkpoint has no such tensor".to_owned() }
    }

    /// The tensor is there but not as the network needs it.
    pub fn new(name: &str, reason: impl Into<String>) -> Self {
        Self { name: name.to_owned(), reason: reason.into() }
    }
}

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weight `{}`: {}", self.name, self.reason)
    }
}

impl std::error::Error for WeightError {}
