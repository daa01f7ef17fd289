//! Weights under our own names, converted to f32 when they are read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use ocelli_plan::{BlockFormat, WeightError, WeightSource};
use ocelli_quant::{Affine, decode_affine_row, decode_row};

use crate::convert::{to_f32, to_u32};
use crate::reparameterize::{Folded, Recipe};
use crate::safetensors_file::{Dtype, MappedFile};

/// The weights of a checkpoint by our names. Cheap to clone; reads from the mapped files.
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
        let rows = first.and_then(|first| bytes.bytes().get(first..)?.get(..out.len()));
        out.copy_from_slice(rows.ok_or_else(|| WeightError::new(name, "rows outside of the tensor"))?);
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
    Mapped(Mapped),
    /// A conv weight stored `[out, kH, kW, in]`.
    ChannelsLast(Mapped),
    /// A matrix stored `[in, out]`.
    Transposed(Mapped),
    /// MLX codes.
    Affine(AffineData),
    /// Rows of our blocks.
    Blocks(BlockFormat, Mapped),
    /// The result of a fold, computed when first asked for.
    Folded(Arc<Fold>, FoldedPart),
}

/// Numbers of one type in a mapped file.
#[derive(Debug, Clone)]
pub(crate) struct Mapped {
    pub(crate) file: Arc<MappedFile>,
    pub(crate) dtype: Dtype,
    pub(crate) range: Range<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct AffineData {
    pub(crate) layout: Affine,
    pub(crate) codes: Mapped,
    pub(crate) scales: Mapped,
    pub(crate) biases: Mapped,
}

/// A recipe and its result.
#[derive(Debug)]
pub(crate) struct Fold {
    recipe: Recipe<Tensor>,
    /// Shape of the weight.
    shape: Vec<usize>,
    result: OnceLock<Folded>,
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

    fn part(&self, part: FoldedPart) -> &[f32] {
        let result = self.result.get_or_init(|| self.recipe.fold(&self.shape));
        match part {
            FoldedPart::Weight => &result.weight,
            FoldedPart::Bias => &result.bias,
        }
    }
}

impl Mapped {
    fn bytes(&self) -> &[u8] {
        // The range was checked against the file by `parse_header`.
        self.file.bytes().get(self.range.clone()).unwrap_or_default()
    }

    /// Convert `out.len()` values, beginning with value `first`.
    fn read(&self, first: usize, out: &mut [f32]) {
        let size = self.dtype.size();
        let bytes = self.bytes().get(first * size..(first + out.len()) * size).unwrap_or_default();
        to_f32(self.dtype, bytes, out);
        self.file.count_read(bytes.len());
    }
}

impl Tensor {
    /// All values, row-major.
    pub(crate) fn read(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.iter().product()];
        // All rows are inside.
        let _ = self.read_rows(0, &mut out);
        out
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
            Data::Mapped(mapped) => mapped.read(first, out),
            Data::ChannelsLast(mapped) => self.read_channels_last(mapped, first, out),
            Data::Transposed(mapped) => {
                for (i, v) in out.iter_mut().enumerate() {
                    let (row, col) = (first_row + i / row_len, i % row_len);
                    mapped.read(col * rows + row, std::slice::from_mut(v));
                }
            }
            Data::Affine(affine) => affine.read(first_row, row_len, out)?,
            Data::Blocks(format, bytes) => {
                let row_bytes = format.row_bytes(row_len);
                let blocks = bytes.bytes().get(first_row * row_bytes..).unwrap_or_default();
                for (blocks, out) in blocks.chunks_exact(row_bytes).zip(out.chunks_exact_mut(row_len)) {
                    decode_row(*format, blocks, out);
                }
            }
            Data::Folded(fold, part) => out.copy_from_slice(&fold.part(*part)[first..][..out.len()]),
        }
        Ok(())
    }

    /// Rows `[kH, kW, in]` to rows `[in, kH, kW]`.
    fn read_channels_last(&self, mapped: &Mapped, first: usize, out: &mut [f32]) {
        let row_len = self.row_len();
        let channels = self.shape.get(1).copied().unwrap_or(1);
        let taps = row_len / channels;
        let mut row = vec![0.0; row_len];
        for (i, out) in out.chunks_exact_mut(row_len).enumerate() {
            mapped.read(first + i * row_len, &mut row);
            for tap in 0..taps {
                for channel in 0..channels {
                    out[channel * taps + tap] = row[tap * channels + channel];
                }
            }
        }
    }

    fn stored_dtype(&self) -> StoredDtype {
        match &self.data {
            Data::Mapped(mapped) | Data::ChannelsLast(mapped) | Data::Transposed(mapped) => {
                mapped.stored_dtype()
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
            Data::Mapped(bytes)
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

impl Mapped {
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
            to_u32(self.codes.bytes().get(row * words * 4..).unwrap_or_default(), &mut codes);
            self.scales.read(row * groups, &mut scales);
            self.biases.read(row * groups, &mut biases);
            decode_affine_row(self.layout, &codes, &scales, &biases, out).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}
