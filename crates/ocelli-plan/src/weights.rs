//! How a network and a device read weights, whatever file they came from.

use std::fmt;

/// How the rows of a quantized matrix are stored. `ocelli-quant` encodes and decodes them.
///
/// Rows of `Q8` and `Q4` are blocks of [`BlockFormat::GROUP`] values, the last one padded with zeros, each with one
/// f16 scale. A row of `Int8` is one block: an f32 scale, then a code for each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockFormat {
    /// 8-bit codes: 8.5 bits a value.
    Q8,
    /// 4-bit codes: 4.5 bits a value.
    Q4,
    /// 8-bit codes with one scale for the whole row. Products quantize their activations too, each row by its
    /// largest magnitude, and sum integers: for matrices that many rows go through.
    Int8,
}

impl BlockFormat {
    /// Values that share one scale.
    pub const GROUP: usize = 32;

    /// The name that the command line and the reports use.
    pub const fn name(self) -> &'static str {
        match self {
            BlockFormat::Q8 => "q8",
            BlockFormat::Q4 => "q4",
            BlockFormat::Int8 => "int8",
        }
    }

    /// Bytes of one block of a row of `cols` values: the scale, then the codes.
    pub const fn block_bytes(self, cols: usize) -> usize {
        match self {
            BlockFormat::Q8 => 2 + Self::GROUP,
            BlockFormat::Q4 => 2 + Self::GROUP / 2,
            BlockFormat::Int8 => 4 + cols,
        }
    }

    /// Bytes of a row of `cols` values.
    pub const fn row_bytes(self, cols: usize) -> usize {
        let blocks = match self {
            BlockFormat::Q8 | BlockFormat::Q4 => cols.div_ceil(Self::GROUP),
            BlockFormat::Int8 => 1,
        };
        blocks * self.block_bytes(cols)
    }
}

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

    /// The blocks that the tensor's rows are stored in, or `None` if its values are plain numbers.
    /// [`Self::read_rows`] decodes them.
    fn block_format(&self, _name: &str) -> Option<BlockFormat> {
        None
    }

    /// Fill `out` with the blocks of consecutive rows, beginning with `first_row`; `out.len()` must be a
    /// multiple of [`BlockFormat::row_bytes`].
    ///
    /// # Errors
    /// When there is no such tensor, it has no blocks, or the rows lie outside of it.
    fn read_blocks(&self, name: &str, _first_row: usize, _out: &mut [u8]) -> Result<(), WeightError> {
        Err(WeightError::new(name, "it is not stored in blocks"))
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
