//! Weights under our own names, converted to f32 when they are read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use ocelli_plan::{BlockFormat, WeightError, WeightSource};
use ocelli_quant::{Affine, decode_affine_row, decode_row};

use crate::convert::{to_f32, to_u32};
use crate::reparameterize::{Folded, Recipe};
use crate::safetensors_file::Dtype;
use crate::tensor_file::TensorFile;

/// The weights of a checkpoint by our names. Cheap to clone; reads from the files.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    tensors: Arc<BTreeMap<String, Tensor>>,
}

/// How the checkpoint stores a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredDtype {
    /// 32-bit floats.
    F32,
    /// IEEE 16-bit floats.
    F16,
    /// 32-bit floats cut to their upper half.
    BF16,
    /// MLX codes with a scale and a bias a group.
    Affine {
        /// Bits of a code.
        bits: u32,
        /// Values of a group.
        group_size: usize,
    },
    /// Our own blocks.
    Blocks(BlockFormat),
}

impl StoredDtype {
    /// Whether values are stored as codes.
    pub fn is_quantized(self) -> bool {
        matches!(self, Self::Affine { .. } | Self::Blocks(_))
    }
}

impl std::fmt::Display for StoredDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::BF16 => f.write_str("bf16"),
            Self::Affine { bits, group_size } => write!(f, "q{bits}g{group_size}"),
            Self::Blocks(format) => f.write_str(format.name()),
        }
    }
}

/// One line of an inspection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredTensor<'a> {
    /// Our name.
    pub name: &'a str,
    /// Shape under our name.
    pub shape: &'a [usize],
    /// Type in the file; of the conv, where BatchNorms or branches are folded into it.
    pub dtype: StoredDtype,
    /// Bytes in the files. Of a folded conv the weight counts everything that is folded, its bias nothing.
    pub bytes: usize,
}

impl Weights {
    pub(crate) fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self { tensors: Arc::new(tensors) }
    }

    /// How the tensor is stored, or `None` if there is no such tensor.
    pub fn stored_dtype(&self, name: &str) -> Option<StoredDtype> {
        Some(self.tensors.get(name)?.stored_dtype())
    }

    /// All tensors by name. Reads no weights.
    pub fn iter(&self) -> impl Iterator<Item = StoredTensor<'_>> {
        self.tensors.iter().map(|(name, tensor)| StoredTensor {
            name,
            shape: &tensor.shape,
            dtype: tensor.stored_dtype(),
            bytes: tensor.stored_bytes(),
        })
    }

    /// How many values the tensors whose names begin with `prefix` have.
    pub fn parameter_count(&self, prefix: &str) -> usize {
        let under = self.tensors.iter().filter(|(name, _)| name.starts_with(prefix));
        under.map(|(_, tensor)| tensor.shape.iter().product::<usize>()).sum()
    }
}

impl WeightSource for Weights {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Result<(), WeightError> {
        let tensor = self.tensors.get(name).ok_or_else(|| WeightError::missing(name))?;
        tensor.read_rows(first_row, out).map_err(|reason| WeightError::new(name, reason))
    }

    fn block_format(&self, name: &str) -> Option<BlockFormat> {
        match self.tensors.get(name)?.data {
            Data::Blocks(format, _) => Some(format),
            _ => None,
        }
    }

    fn read_blocks(&self, name: &str, first_row: usize, out: &mut [u8]) -> Result<(), WeightError> {
        let tensor = self.tensors.get(name).ok_or_else(|| WeightError::missing(name))?;
        let Data::Blocks(format, bytes) = &tensor.data else {
            return Err(WeightError::new(name, "it is not stored in blocks"));
        };
        let first = first_row.checked_mul(format.row_bytes(tensor.row_len()));
        let first =
            first.filter(|first| first.checked_add(out.len()).is_some_and(|end| end <= bytes.range.len()));
        let first = first.ok_or_else(|| WeightError::new(name, "rows outside of the tensor"))?;
        let rows = bytes.get(first..first + out.len()).map_err(|reason| WeightError::new(name, reason))?;
        out.copy_from_slice(&rows);
        bytes.file.count_read(out.len());
        Ok(())
    }
}

/// A tensor of a checkpoint, of checked shape, not yet read.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Data,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// As the file has it.
    Plain(Extent),
    /// A conv weight stored `[out, kH, kW, in]`.
    ChannelsLast(Extent),
    /// A matrix stored `[in, out]`.
    Transposed(Extent),
    /// MLX codes.
    Affine(AffineData),
    /// Rows of our blocks.
    Blocks(BlockFormat, Extent),
    /// The result of a fold, computed when first asked for.
    Folded(Arc<Fold>, FoldedPart),
}

/// Numbers of one type and their place in a file.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) file: Arc<TensorFile>,
    pub(crate) dtype: Dtype,
    pub(crate) range: Range<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct AffineData {
    pub(crate) layout: Affine,
    pub(crate) codes: Extent,
    pub(crate) scales: Extent,
    pub(crate) biases: Extent,
}

/// A recipe and its result.
#[derive(Debug)]
pub(crate) struct Fold {
    recipe: Recipe<Tensor>,
    /// Shape of the weight.
    shape: Vec<usize>,
    result: OnceLock<Result<Folded, String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoldedPart {
    Weight,
    Bias,
}

impl Fold {
    pub(crate) fn new(recipe: Recipe<Tensor>, shape: Vec<usize>) -> Arc<Self> {
        Arc::new(Self { recipe, shape, result: OnceLock::new() })
    }

    fn part(&self, part: FoldedPart) -> Result<&[f32], String> {
        let result = self.result.get_or_init(|| Ok(self.recipe.read()?.fold(&self.shape)));
        let folded = result.as_ref().map_err(String::clone)?;
        Ok(match part {
            FoldedPart::Weight => &folded.weight,
            FoldedPart::Bias => &folded.bias,
        })
    }
}

impl Extent {
    /// Bytes of it, the range counted from its beginning.
    fn get(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>, String> {
        // The extent was checked against the file by `parse_header`.
        let begin = self.range.start;
        let bytes = self.file.get(begin + range.start..begin + range.end);
        bytes.map_err(|e| format!("cannot read {}: {e}", self.file.path.display()))
    }

    /// Convert `out.len()` values, beginning with value `first`.
    fn read(&self, first: usize, out: &mut [f32]) -> Result<(), String> {
        let size = self.dtype.size();
        let bytes = self.get(first * size..(first + out.len()) * size)?;
        to_f32(self.dtype, &bytes, out);
        self.file.count_read(bytes.len());
        Ok(())
    }
}

impl Tensor {
    /// All values, row-major.
    pub(crate) fn read(&self) -> Result<Vec<f32>, String> {
        let mut out = vec![0.0; self.shape.iter().product()];
        if !out.is_empty() {
            self.read_rows(0, &mut out)?;
        }
        Ok(out)
    }

    fn row_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    fn read_rows(&self, first_row: usize, out: &mut [f32]) -> Result<(), String> {
        let row_len = self.row_len();
        let rows = self.shape.first().copied().unwrap_or(1);
        if row_len == 0 || !out.len().is_multiple_of(row_len) {
            return Err(format!("{} values are no whole rows of {row_len}", out.len()));
        }
        let wanted = out.len() / row_len;
        if first_row.checked_add(wanted).is_none_or(|end| end > rows) {
            return Err(format!("rows {first_row} and {wanted} from there, of {rows}"));
        }
        let first = first_row * row_len;
        match &self.data {
            Data::Plain(plain) => plain.read(first, out)?,
            Data::ChannelsLast(theirs) => self.read_channels_last(theirs, first, out)?,
            Data::Transposed(theirs) => {
                // A column of ours, cut to the rows that are wanted, is a run of the file.
                let mut column = vec![0.0; wanted];
                for col in 0..row_len {
                    theirs.read(col * rows + first_row, &mut column)?;
                    for (row, value) in column.iter().enumerate() {
                        out[row * row_len + col] = *value;
                    }
                }
            }
            Data::Affine(affine) => affine.read(first_row, row_len, out)?,
            Data::Blocks(format, bytes) => {
                let row_bytes = format.row_bytes(row_len);
                let blocks = bytes.get(first_row * row_bytes..(first_row + wanted) * row_bytes)?;
                for (blocks, out) in blocks.chunks_exact(row_bytes).zip(out.chunks_exact_mut(row_len)) {
                    decode_row(*format, blocks, out);
                }
            }
            Data::Folded(fold, part) => out.copy_from_slice(&fold.part(*part)?[first..][..out.len()]),
        }
        Ok(())
    }

    /// Rows `[kH, kW, in]` to rows `[in, kH, kW]`.
    fn read_channels_last(&self, theirs: &Extent, first: usize, out: &mut [f32]) -> Result<(), String> {
        let row_len = self.row_len();
        let channels = self.shape.get(1).copied().unwrap_or(1);
        let taps = row_len / channels;
        let mut row = vec![0.0; row_len];
        for (i, out) in out.chunks_exact_mut(row_len).enumerate() {
            theirs.read(first + i * row_len, &mut row)?;
            for tap in 0..taps {
                for channel in 0..channels {
                    out[channel * taps + tap] = row[tap * channels + channel];
                }
            }
        }
        Ok(())
    }

    fn stored_dtype(&self) -> StoredDtype {
        match &self.data {
            Data::Plain(floats) | Data::ChannelsLast(floats) | Data::Transposed(floats) => {
                floats.stored_dtype()
            }
            Data::Affine(affine) => {
                StoredDtype::Affine { bits: affine.layout.bits(), group_size: affine.layout.group_size() }
            }
            Data::Blocks(format, _) => StoredDtype::Blocks(*format),
            Data::Folded(fold, _) => {
                fold.recipe.tensors().first().map_or(StoredDtype::F32, |main| main.stored_dtype())
            }
        }
    }

    pub(crate) fn stored_bytes(&self) -> usize {
        match &self.data {
            Data::Plain(bytes)
            | Data::ChannelsLast(bytes)
            | Data::Transposed(bytes)
            | Data::Blocks(_, bytes) => bytes.range.len(),
            Data::Affine(a) => a.codes.range.len() + a.scales.range.len() + a.biases.range.len(),
            Data::Folded(fold, FoldedPart::Weight) => {
                fold.recipe.tensors().iter().map(|t| t.stored_bytes()).sum()
            }
            Data::Folded(_, FoldedPart::Bias) => 0,
        }
    }
}

impl Extent {
    fn stored_dtype(&self) -> StoredDtype {
        match self.dtype {
            Dtype::F16 => StoredDtype::F16,
            Dtype::BF16 => StoredDtype::BF16,
            _ => StoredDtype::F32,
        }
    }
}

impl AffineData {
    fn read(&self, first_row: usize, row_len: usize, out: &mut [f32]) -> Result<(), String> {
        let words = row_len / self.layout.codes_per_word();
        let groups = row_len / self.layout.group_size();
        let mut codes = vec![0; words];
        let (mut scales, mut biases) = (vec![0.0; groups], vec![0.0; groups]);
        for (row, out) in (first_row..).zip(out.chunks_exact_mut(row_len)) {
            to_u32(&self.codes.get(row * words * 4..(row + 1) * words * 4)?, &mut codes);
            self.scales.read(row * groups, &mut scales)?;
            self.biases.read(row * groups, &mut biases)?;
            decode_affine_row(self.layout, &codes, &scales, &biases, out).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}
