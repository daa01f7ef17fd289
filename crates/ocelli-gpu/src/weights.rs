//! Weights on the device: read a few rows at a time, laid out for the shaders, shared between plans.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use half::bf16;
use ocelli_plan::{BlockFormat, DType, Plan, WeightDecl, WeightError, WeightLayout, WeightSource};

use crate::device::{GpuDevice, GpuError, lock};
use crate::session::GpuPlan;

/// Bytes that go to the device in one piece, so that no whole matrix is ever in memory.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes written between two waits for the device, which holds a copy of what it has not taken over yet.
const UPLOAD_BYTES: usize = 64 << 20;

/// How a matrix is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MatrixFormat {
    F32,
    Bf16,
    Blocks(BlockFormat),
}

impl MatrixFormat {
    /// Values a row is filled up to a multiple of.
    fn group(self) -> usize {
        match self {
            MatrixFormat::Blocks(BlockFormat::Q8 | BlockFormat::Q4) => BlockFormat::GROUP,
            _ => 4,
        }
    }

    fn code_bytes(self, cols: usize) -> usize {
        match self {
            MatrixFormat::F32 => 4 * cols,
            MatrixFormat::Bf16 => 2 * cols,
            MatrixFormat::Blocks(BlockFormat::Q8 | BlockFormat::Int8) => cols,
            MatrixFormat::Blocks(BlockFormat::Q4) => cols / 2,
        }
    }

    fn scale_bytes(self, cols: usize) -> usize {
        match self {
            MatrixFormat::F32 | MatrixFormat::Bf16 => 0,
            // Whole words, so that any row can be written alone.
            MatrixFormat::Blocks(BlockFormat::Q8 | BlockFormat::Q4) => {
                (2 * cols / BlockFormat::GROUP).next_multiple_of(4)
            }
            MatrixFormat::Blocks(BlockFormat::Int8) => 4,
        }
    }
}

/// Some rows of a matrix, small enough to be bound at once.
pub(crate) struct Part {
    pub(crate) codes: wgpu::Buffer,
    /// Scales of blocks, where the format has them.
    pub(crate) scales: Option<wgpu::Buffer>,
    /// A multiple of four, as is `first_row`.
    pub(crate) rows: usize,
    pub(crate) first_row: usize,
}

/// `[rows][cols]`, both filled up with zeros.
pub(crate) struct Matrix {
    pub(crate) format: MatrixFormat,
    /// With those that fill it up; of a gate pair, both halves.
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) parts: Vec<Part>,
}

/// A weight as the shaders take it.
pub(crate) enum Weight {
    Matrix(Matrix),
    /// `[len]`, filled up with zeros to a multiple of four.
    Vector(wgpu::Buffer),
    /// Kernels of a convolution, as their shader wants them.
    Kernels(wgpu::Buffer),
    /// Rows are gathered by the host.
    Table,
}

/// The weights of one checkpoint on a device, laid out as plans need them and shared between plans.
pub struct GpuWeights {
    pub(crate) device: GpuDevice,
    pub(crate) source: Arc<dyn WeightSource>,
    dtype: DType,
    kept: Mutex<HashMap<WeightDecl, Arc<Weight>>>,
    bytes: Mutex<Sent>,
}

/// What went to the device so far.
#[derive(Default)]
struct Sent {
    total: usize,
    since_wait: usize,
}

impl GpuWeights {
    /// Nothing is uploaded before the first [`Self::prepare`]. Matrices are kept in `dtype`, or in their blocks.
    pub fn new(device: GpuDevice, source: Arc<dyn WeightSource>, dtype: DType) -> Self {
        Self { device, source, dtype, kept: Mutex::default(), bytes: Mutex::default() }
    }

    /// The device.
    pub fn device(&self) -> &GpuDevice {
        &self.device
    }

    /// Type of matrices that are not in blocks.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of weights on the device.
    pub fn bytes(&self) -> usize {
        lock(&self.bytes).total
    }

    /// Upload the plan's weights, make its pipelines and lay out its memory.
    ///
    /// # Errors
    /// When a weight cannot be read, a tensor is larger than the device binds, or an op has a size that the shaders
    /// are not made for.
    pub fn prepare(&self, plan: Plan) -> Result<GpuPlan, GpuError> {
        let weights = plan.weights.iter().map(|decl| self.weight(decl)).collect::<Result<Vec<_>, _>>()?;
        let plan = GpuPlan::new(&self.device, Arc::clone(&self.source), plan, &weights)?;
        self.device.failure().map_or(Ok(plan), |message| Err(GpuError::Failed(message)))
    }

    fn weight(&self, decl: &WeightDecl) -> Result<Arc<Weight>, GpuError> {
        if let Some(weight) = lock(&self.kept).get(decl) {
            return Ok(Arc::clone(weight));
        }
        let weight = Arc::new(match decl.layout {
            WeightLayout::Matrix | WeightLayout::GatePair => Weight::Matrix(self.matrix(decl)?),
            WeightLayout::Vector => Weight::Vector(self.vector(decl)?),
            WeightLayout::Depthwise => Weight::Kernels(self.depthwise(decl)?),
            WeightLayout::Conv => Weight::Kernels(self.conv(decl)?),
            WeightLayout::Table => Weight::Table,
        });
        lock(&self.kept).insert(decl.clone(), Arc::clone(&weight));
        Ok(weight)
    }

    fn vector(&self, decl: &WeightDecl) -> Result<wgpu::Buffer, GpuError> {
        let mut values = Vec::with_capacity(decl.rows.next_multiple_of(4));
        for part in &decl.parts {
            values.extend(self.source.read(part)?);
        }
        values.resize(decl.rows.next_multiple_of(4), 0.0);
        Ok(self.upload(&decl.parts[0], &values))
    }

    /// `[taps][channels]`.
    fn depthwise(&self, decl: &WeightDecl) -> Result<wgpu::Buffer, GpuError> {
        let (channels, taps) = (decl.rows, decl.cols);
        let values = self.source.read(&decl.parts[0])?;
        let width = channels.next_multiple_of(4);
        let mut kernels = vec![0.0; taps * width];
        for channel in 0..channels {
            for tap in 0..taps {
                kernels[tap * width + channel] = values[channel * taps + tap];
            }
        }
        Ok(self.upload(&decl.parts[0], &kernels))
    }

    /// `[out, in, k, k]` to `[taps][in][out]`.
    fn conv(&self, decl: &WeightDecl) -> Result<wgpu::Buffer, GpuError> {
        let name = &decl.parts[0];
        let shape = self.source.shape(name).ok_or_else(|| WeightError::missing(name))?.to_vec();
        let (outputs, inputs, taps) = (shape[0], shape[1], shape[2] * shape[3]);
        let values = self.source.read(name)?;
        let (width, depth) = (outputs.next_multiple_of(4), inputs.next_multiple_of(4));
        let mut kernels = vec![0.0; taps * depth * width];
        for out in 0..outputs {
            for input in 0..inputs {
                for tap in 0..taps {
                    kernels[(tap * depth + input) * width + out] =
                        values[(out * inputs + input) * taps + tap];
                }
            }
        }
        Ok(self.upload(name, &kernels))
    }

    fn upload(&self, name: &str, values: &[f32]) -> wgpu::Buffer {
        let buffer = self.device.storage_of(name, values);
        self.count(size_of_val(values));
        buffer
    }

    fn matrix(&self, decl: &WeightDecl) -> Result<Matrix, GpuError> {
        let format = match (decl.block_format(&*self.source), self.dtype) {
            (Some(blocks), _) => MatrixFormat::Blocks(blocks),
            (None, DType::F32) => MatrixFormat::F32,
            (None, DType::Bf16) => MatrixFormat::Bf16,
        };
        let halves = if decl.layout == WeightLayout::GatePair { 2 } else { 1 };
        let rows = halves * (decl.rows / halves).next_multiple_of(4);
        let cols = decl.cols.next_multiple_of(format.group());
        let mut matrix = Matrix { format, rows, cols, parts: Vec::new() };
        let row_bytes = format.code_bytes(cols).max(1) as u64;
        let most = (self.device.binding_bytes() / row_bytes) as usize / 4 * 4;
        if most == 0 {
            let limit = self.device.binding_bytes();
            return Err(GpuError::TooLarge { what: decl.parts[0].clone(), bytes: 4 * row_bytes, limit });
        }
        for first_row in (0..rows).step_by(most) {
            let rows = most.min(rows - first_row);
            let buffer = |bytes: usize| self.device.storage(&decl.parts[0], bytes as u64);
            let scale_bytes = format.scale_bytes(cols);
            matrix.parts.push(Part {
                codes: buffer(rows * format.code_bytes(cols)),
                scales: (scale_bytes > 0).then(|| buffer(rows * scale_bytes)),
                rows,
                first_row,
            });
        }
        self.fill(decl, halves, &matrix)?;
        Ok(matrix)
    }

    /// Send the rows of all parts of a weight to where they belong; what fills them up stays zero.
    fn fill(&self, decl: &WeightDecl, halves: usize, matrix: &Matrix) -> Result<(), GpuError> {
        let mut at = 0;
        for name in &decl.parts {
            let rows = self.source.shape(name).ok_or_else(|| WeightError::missing(name))?[0];
            self.fill_rows(name, rows, decl.cols, at, matrix)?;
            at += rows;
            if halves == 2 {
                at = at.next_multiple_of(4);
            }
        }
        Ok(())
    }

    fn fill_rows(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        at: usize,
        matrix: &Matrix,
    ) -> Result<(), GpuError> {
        let code_bytes = matrix.format.code_bytes(matrix.cols);
        let chunk = (CHUNK_BYTES / code_bytes.max(1)).clamp(1, rows);
        let mut first = 0;
        while first < rows {
            let target = at + first;
            let part = matrix.parts.iter().rfind(|part| part.first_row <= target);
            let part = part.ok_or_else(|| WeightError::new(name, "no room on the device"))?;
            let n = chunk.min(rows - first).min(part.first_row + part.rows - target);
            let encoded = self.encode(name, first, n, cols, matrix)?;
            self.send(&part.codes, (target - part.first_row) * code_bytes, &encoded.codes);
            if let Some(scales) = &part.scales {
                let offset = (target - part.first_row) * matrix.format.scale_bytes(matrix.cols);
                self.send(scales, offset, &encoded.scales);
            }
            first += n;
        }
        Ok(())
    }

    fn encode(
        &self,
        name: &str,
        first: usize,
        rows: usize,
        cols: usize,
        matrix: &Matrix,
    ) -> Result<Encoded, GpuError> {
        match matrix.format {
            MatrixFormat::Blocks(format) => {
                let mut blocks = vec![0; rows * format.row_bytes(cols)];
                self.source.read_blocks(name, first, &mut blocks)?;
                split_blocks(format, name, first, cols, matrix.cols, &blocks)
            }
            plain => {
                let mut values = vec![0.0; rows * cols];
                self.source.read_rows(name, first, &mut values)?;
                let mut codes = Vec::with_capacity(rows * plain.code_bytes(matrix.cols));
                for row in values.chunks_exact(cols) {
                    let filled = row.iter().copied().chain(std::iter::repeat_n(0.0, matrix.cols - cols));
                    match plain {
                        MatrixFormat::F32 => filled.for_each(|v| codes.extend(v.to_le_bytes())),
                        _ => filled.for_each(|v| codes.extend(bf16::from_f32(v).to_le_bytes())),
                    }
                }
                Ok(Encoded { codes, scales: Vec::new() })
            }
        }
    }

    fn send(&self, buffer: &wgpu::Buffer, offset: usize, bytes: &[u8]) {
        self.device.opened().queue.write_buffer(buffer, offset as u64, bytes);
        self.count(bytes.len());
    }

    /// Wait for the device from time to time, which keeps a copy of what it was sent until then.
    fn count(&self, bytes: usize) {
        let mut sent = lock(&self.bytes);
        sent.total += bytes;
        sent.since_wait += bytes;
        if sent.since_wait > UPLOAD_BYTES {
            sent.since_wait = 0;
            let opened = self.device.opened();
            opened.queue.submit([]);
            // An error is kept by the device and found when the plan is ready.
            let _ = opened.device.poll(wgpu::PollType::wait_indefinitely());
        }
    }
}

/// Rows as the device keeps them.
struct Encoded {
    codes: Vec<u8>,
    scales: Vec<u8>,
}

/// Codes and scales of rows apart from each other, filled up to `padded` columns.
fn split_blocks(
    format: BlockFormat,
    name: &str,
    first: usize,
    cols: usize,
    padded: usize,
    blocks: &[u8],
) -> Result<Encoded, GpuError> {
    let layout = MatrixFormat::Blocks(format);
    let rows = blocks.len() / format.row_bytes(cols);
    let mut encoded = Encoded {
        codes: Vec::with_capacity(rows * layout.code_bytes(padded)),
        scales: Vec::with_capacity(rows * layout.scale_bytes(padded)),
    };
    let scale_bytes = if format == BlockFormat::Int8 { 4 } else { 2 };
    for (row, bytes) in blocks.chunks_exact(format.row_bytes(cols)).enumerate() {
        for block in bytes.chunks_exact(format.block_bytes(cols)) {
            let (scale, codes) = block.split_at(scale_bytes);
            let finite = match *scale {
                [a, b] => half::f16::from_le_bytes([a, b]).is_finite(),
                [a, b, c, d] => f32::from_le_bytes([a, b, c, d]).is_finite(),
                _ => false,
            };
            if !finite {
                let why = format!("the scale of row {} is no finite number", first + row);
                return Err(WeightError::new(name, why).into());
            }
            encoded.scales.extend_from_slice(scale);
            encoded.codes.extend_from_slice(codes);
        }
        encoded.codes.resize((row + 1) * layout.code_bytes(padded), 0);
        encoded.scales.resize((row + 1) * layout.scale_bytes(padded), 0);
    }
    Ok(encoded)
}
