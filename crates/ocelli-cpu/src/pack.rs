//! Weights as the kernels want them, packed once from whatever the checkpoint holds.
//!
//! A matrix `[n, k]` becomes panels of sixteen outputs. In f32 a panel is `[k][16]`; in bf16 pairs of
//! `k` are interleaved, `[k / 2][16][2]`: the operand layout of the bf16 matrix instructions, which
//! AVX-512 and AVX2 unpack with a shift and a mask. A network that decodes has its bf16 in twelve bits
//! where kernels read that, see [`crate::matmul::compact`]. A quantized matrix keeps its codes, see
//! [`crate::matmul::Blocks`] and [`crate::matmul::int8`].

use std::collections::HashMap;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use half::{bf16, f16};
use ocelli_plan::{BlockFormat, DType, Op, Plan, WeightDecl, WeightError, WeightLayout, WeightSource};

use crate::Isa;
use crate::buffer::{Buffer, CACHE_LINE};
use crate::matmul::{Blocks, Columns, int8};
#[cfg(target_arch = "x86_64")]
use crate::matmul::{
    bf16_rows::BfUnit,
    compact::{self, CompactColumns},
};
use crate::packed_file::{self, PackedFile};
use crate::pool::Pool;
use crate::simd::{Elem, LANES};

/// A weight ready for the kernels.
pub(crate) enum Packed {
    Matrix(Matrix),
    /// Padded with zeros to whole panels.
    Vector(Vec<f32>),
    /// Depthwise kernels `[taps][channels]`, channels padded to whole panels.
    Depthwise {
        weights: Vec<f32>,
        stride: usize,
    },
    /// Rows are read from the source when they are gathered.
    Table {
        source: Arc<dyn WeightSource>,
        name: String,
    },
    /// `[rows, cols]` as the scalar reference reads it.
    Plain(Vec<f32>),
    /// The same of a matrix whose rows have 8-bit codes and one scale each.
    PlainInt8 {
        codes: Vec<i8>,
        scales: Vec<f32>,
    },
}

/// How the values of a matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    Bf16,
    /// The same in twelve bits a value.
    #[cfg(target_arch = "x86_64")]
    Compact,
    /// In groups of 32.
    Blocks(BlockFormat),
    Int8,
}

impl From<BlockFormat> for Stored {
    fn from(format: BlockFormat) -> Self {
        match format {
            BlockFormat::Q8 | BlockFormat::Q4 => Self::Blocks(format),
            BlockFormat::Int8 => Self::Int8,
        }
    }
}

impl From<DType> for Stored {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::Bf16 => Self::Bf16,
        }
    }
}

/// A matrix in panels of sixteen outputs.
pub(crate) struct Matrix {
    buffer: Buffer,
    stored: Stored,
    pub(crate) k: usize,
    pub(crate) panels: usize,
}

impl Matrix {
    fn zeroed(panels: usize, k: usize, stored: Stored) -> Self {
        let buffer = Buffer::zeroed(panels * panel_bytes(k, stored));
        Self { buffer, stored, k, panels }
    }

    /// Whether it is kept as codes, which are expanded once for several rows.
    pub(crate) fn is_encoded(&self) -> bool {
        match self.stored {
            Stored::Blocks(_) => true,
            #[cfg(target_arch = "x86_64")]
            Stored::Compact => true,
            Stored::F32 | Stored::Bf16 | Stored::Int8 => false,
        }
    }

    pub(crate) fn stored(&self) -> Stored {
        self.stored
    }

    /// The panels as kernels read them. `B` must be the type of the stored values.
    pub(crate) fn columns<B>(&self) -> Columns<B> {
        debug_assert!(matches!((self.stored, size_of::<B>()), (Stored::F32, 4) | (Stored::Bf16, 2)));
        Columns {
            at: self.buffer.as_ptr().cast(),
            panel_stride: panel_bytes(self.k, self.stored) / size_of::<B>(),
            k_stride: LANES,
            first: 0,
        }
    }

    /// The panels of a matrix of 8-bit rows.
    pub(crate) fn columns8(&self) -> int8::Columns8 {
        debug_assert!(self.stored == Stored::Int8);
        int8::Columns8::new(self.buffer.as_ptr(), self.k)
    }

    /// The panels of a matrix in groups. `C` must be the layout of their codes.
    pub(crate) fn blocks<C>(&self) -> Blocks<C> {
        debug_assert!(matches!(self.stored, Stored::Blocks(_)));
        Blocks {
            at: self.buffer.as_ptr(),
            panel_stride: panel_bytes(self.k, self.stored),
            groups: self.k.div_ceil(BlockFormat::GROUP),
            codes: PhantomData,
        }
    }

    /// The panels of a matrix in twelve bits.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn compact(&self) -> CompactColumns {
        debug_assert!(self.stored == Stored::Compact);
        CompactColumns::new(self.buffer.as_ptr(), self.k)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buffer.len()
    }
}

/// Bytes of one panel, `k` padded with zeros: in bf16 to whole operand tiles, in blocks to whole groups.
fn panel_bytes(k: usize, stored: Stored) -> usize {
    const TILE_K: usize = 32;
    match stored {
        Stored::F32 => k * LANES * 4,
        Stored::Bf16 => k.next_multiple_of(TILE_K) * LANES * 2,
        #[cfg(target_arch = "x86_64")]
        Stored::Compact => compact::panel_bytes(k),
        Stored::Blocks(format) => (format.row_bytes(k) * LANES).next_multiple_of(CACHE_LINE),
        Stored::Int8 => int8::panel_bytes(k),
    }
}

impl Packed {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Packed::Matrix(m) => m.bytes(),
            Packed::Vector(v) | Packed::Plain(v) | Packed::Depthwise { weights: v, .. } => {
                size_of_val(&v[..])
            }
            Packed::PlainInt8 { codes, scales } => codes.len() + size_of_val(&scales[..]),
            Packed::Table { .. } => 0,
        }
    }

    pub(crate) fn vector(&self) -> &[f32] {
        match self {
            Packed::Vector(v) | Packed::Plain(v) => v,
            _ => unreachable!("the plan declares vectors where ops take them"),
        }
    }

    pub(crate) fn matrix(&self) -> &Matrix {
        match self {
            Packed::Matrix(m) => m,
            _ => unreachable!("the plan declares matrices where ops take them"),
        }
    }

    pub(crate) fn plain(&self) -> &[f32] {
        self.vector()
    }
}

/// Packed weights of one checkpoint, shared by all plans over it.
pub(crate) struct WeightStore {
    source: Arc<dyn WeightSource>,
    dtype: DType,
    /// Whose kernels read them.
    isa: Isa,
    packed: Mutex<HashMap<WeightDecl, Arc<Packed>>>,
    /// Matrices of an earlier start.
    file: OnceLock<PackedFile>,
    /// Bytes of matrices that were packed because the file lacks them.
    unsaved: AtomicUsize,
}

impl WeightStore {
    pub(crate) fn new(source: Arc<dyn WeightSource>, dtype: DType, isa: Isa) -> Self {
        let (packed, file, unsaved) = (Mutex::default(), OnceLock::new(), AtomicUsize::new(0));
        Self { source, dtype, isa, packed, file, unsaved }
    }

    /// Whether weights are kept as the scalar reference reads them.
    fn is_plain(&self) -> bool {
        self.isa == Isa::Scalar
    }

    /// Take matrices from a file of an earlier start, where it is of this key.
    pub(crate) fn use_file(&self, path: &Path, key: u64) {
        if let Some(file) = PackedFile::open(path, key) {
            // Of two files the first stays.
            let _ = self.file.set(file);
        }
    }

    pub(crate) fn unsaved_bytes(&self) -> usize {
        self.unsaved.load(Ordering::Relaxed)
    }

    /// Write all matrices that are packed now, and those that the file had already.
    pub(crate) fn save(&self, path: &Path, key: u64) -> std::io::Result<()> {
        let packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut matrices: Vec<(String, &[u8])> = packed
            .iter()
            .filter_map(|(decl, packed)| match &**packed {
                Packed::Matrix(matrix) => Some((file_name(decl, matrix.stored), matrix.buffer.as_slice())),
                _ => None,
            })
            .collect();
        if let Some(file) = self.file.get() {
            let known: std::collections::HashSet<String> =
                matrices.iter().map(|(name, _)| name.clone()).collect();
            matrices.extend(file.matrices().filter(|(name, _)| !known.contains(name)));
        }
        matrices.sort();
        packed_file::write(path, key, matrices.into_iter())?;
        self.unsaved.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// The plan's weights in its order; those that are not packed yet are now.
    pub(crate) fn prepare(&self, plan: &Plan, pool: &Pool) -> Result<Vec<Arc<Packed>>, WeightError> {
        let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        let decodes = plan.ops.iter().any(|op| matches!(op, Op::CachedAttention(_)));
        let mut weights = Vec::with_capacity(plan.weights.len());
        for decl in &plan.weights {
            if !packed.contains_key(decl) {
                packed.insert(decl.clone(), Arc::new(self.pack(decl, decodes, pool)?));
            }
            weights.push(Arc::clone(&packed[decl]));
        }
        Ok(weights)
    }

    /// Bytes of all packed weights.
    pub(crate) fn bytes(&self) -> usize {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner).values().map(|p| p.bytes()).sum()
    }

    /// `decodes`: its network takes a single row at a time for most of its work.
    pub(crate) fn pack(&self, decl: &WeightDecl, decodes: bool, pool: &Pool) -> Result<Packed, WeightError> {
        match decl.layout {
            WeightLayout::Table => {
                Ok(Packed::Table { source: Arc::clone(&self.source), name: decl.parts[0].clone() })
            }
            WeightLayout::Vector => self.pack_vector(decl),
            WeightLayout::Depthwise if !self.is_plain() => self.pack_depthwise(decl),
            _ if self.is_plain() => self.pack_plain(decl),
            _ => self.pack_matrix(decl, decodes, pool),
        }
    }

    fn pack_vector(&self, decl: &WeightDecl) -> Result<Packed, WeightError> {
        let mut values = Vec::with_capacity(decl.rows.next_multiple_of(LANES));
        for part in &decl.parts {
            values.extend(self.source.read(part)?);
        }
        values.resize(decl.rows.next_multiple_of(LANES), 0.0);
        Ok(Packed::Vector(values))
    }

    fn pack_depthwise(&self, decl: &WeightDecl) -> Result<Packed, WeightError> {
        let rows = self.source.read(&decl.parts[0])?;
        let (channels, taps) = (decl.rows, decl.cols);
        let stride = channels.next_multiple_of(LANES);
        let mut weights = vec![0.0; taps * stride];
        for (c, kernel) in rows.chunks_exact(taps).enumerate() {
            for (tap, &w) in kernel.iter().enumerate() {
                weights[tap * stride + c] = w;
            }
        }
        Ok(Packed::Depthwise { weights, stride })
    }

    /// Row-major f32, matrices rounded to the compute type; quantized ones are exact.
    fn pack_plain(&self, decl: &WeightDecl) -> Result<Packed, WeightError> {
        if decl.block_format(&*self.source) == Some(BlockFormat::Int8) {
            return self.pack_plain_int8(decl);
        }
        let is_matrix = decl.layout != WeightLayout::Depthwise && decl.block_format(&*self.source).is_none();
        let mut values = vec![0.0; decl.rows * decl.cols];
        let mut reader = RowReader::new(&*self.source, decl);
        for (row, out) in values.chunks_exact_mut(decl.cols).enumerate() {
            reader.read(row, out)?;
            if is_matrix && self.dtype == DType::Bf16 {
                out.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
            }
        }
        Ok(Packed::Plain(values))
    }

    fn pack_plain_int8(&self, decl: &WeightDecl) -> Result<Packed, WeightError> {
        let reader = RowReader::new(&*self.source, decl);
        let mut row = vec![0; BlockFormat::Int8.row_bytes(decl.cols)];
        let (mut codes, mut scales) = (Vec::with_capacity(decl.rows * decl.cols), Vec::new());
        for i in 0..decl.rows {
            reader.read_blocks(i, BlockFormat::Int8, &mut row)?;
            let (scale, row) = row.split_at(size_of::<f32>());
            scales.push(f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]));
            codes.extend(row.iter().map(|&code| code as i8));
        }
        Ok(Packed::PlainInt8 { codes, scales })
    }

    /// In what a matrix may be stored: the first that it fits.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(unused_variables, reason = "only x86-64 has compact matrices")
    )]
    fn choices(&self, decl: &WeightDecl, decodes: bool) -> Vec<Stored> {
        let stored = decl.block_format(&*self.source).map_or(self.dtype.into(), Stored::from);
        #[cfg(target_arch = "x86_64")]
        if decodes && stored == Stored::Bf16 && BfUnit::of(self.isa).is_some() {
            return vec![Stored::Compact, stored];
        }
        vec![stored]
    }

    fn pack_matrix(&self, decl: &WeightDecl, decodes: bool, pool: &Pool) -> Result<Packed, WeightError> {
        let choices = self.choices(decl, decodes);
        if let Some(matrix) = choices.iter().find_map(|&stored| self.kept_matrix(decl, stored)) {
            return Ok(Packed::Matrix(matrix));
        }
        for stored in choices {
            match self.new_matrix(decl, stored, pool) {
                Err(Unpacked::DoesNotFit) => {}
                Err(Unpacked::Unreadable(error)) => return Err(error),
                Ok(matrix) => {
                    self.unsaved.fetch_add(matrix.bytes(), Ordering::Relaxed);
                    return Ok(Packed::Matrix(matrix));
                }
            }
        }
        unreachable!("every matrix fits the last choice")
    }

    /// The matrix of an earlier start, if it was stored so.
    fn kept_matrix(&self, decl: &WeightDecl, stored: Stored) -> Option<Matrix> {
        let (panels, k) = (panels(decl), decl.cols);
        let bytes = panels * panel_bytes(k, stored);
        let buffer = self.file.get()?.get(&file_name(decl, stored), bytes)?;
        Some(Matrix { buffer, stored, k, panels })
    }

    pub(crate) fn new_matrix(
        &self,
        decl: &WeightDecl,
        stored: Stored,
        pool: &Pool,
    ) -> Result<Matrix, Unpacked> {
        let mut matrix = Matrix::zeroed(panels(decl), decl.cols, stored);
        let target = Target { at: matrix.buffer.as_mut_ptr(), stored, k: decl.cols };
        let failure = Mutex::new(None);
        pool.run(matrix.panels, &|panel| {
            if let Err(error) = self.pack_panel(decl, panel, target) {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(matrix),
        }
    }

    /// Fill one panel. With two groups, gate and up panels take turns.
    fn pack_panel(&self, decl: &WeightDecl, panel: usize, target: Target) -> Result<(), Unpacked> {
        let groups = groups(decl);
        let group_rows = decl.rows / groups;
        let first = panel / groups * LANES;
        let count = LANES.min(group_rows - first);
        let rows = panel % groups * group_rows + first;
        let mut reader = RowReader::new(&*self.source, decl);
        let format = match target.stored {
            Stored::Blocks(format) => Some(format),
            Stored::Int8 => Some(BlockFormat::Int8),
            Stored::F32 | Stored::Bf16 => None,
            #[cfg(target_arch = "x86_64")]
            Stored::Compact => None,
        };
        if let Some(format) = format {
            let row_bytes = format.row_bytes(decl.cols);
            let mut blocks = vec![0; LANES * row_bytes];
            for (i, out) in blocks.chunks_exact_mut(row_bytes).take(count).enumerate() {
                reader.read_blocks(rows + i, format, out)?;
            }
            // SAFETY: each panel is filled by one task; the buffer holds all of them.
            let to = unsafe { std::slice::from_raw_parts_mut(target.panel(panel), target.panel_bytes()) };
            match format {
                BlockFormat::Int8 => int8::pack_panel(&blocks, decl.cols, to),
                BlockFormat::Q8 | BlockFormat::Q4 => interleave_blocks(format, &blocks, to),
            }
            return Ok(());
        }
        let mut values = vec![0.0; LANES * decl.cols];
        for (i, out) in values.chunks_exact_mut(decl.cols).take(count).enumerate() {
            reader.read(rows + i, out)?;
        }
        // SAFETY: each panel is filled by one task; the buffer holds all of them.
        unsafe {
            match target.stored {
                #[cfg(target_arch = "x86_64")]
                Stored::Compact => return pack_compact(&values, target, panel),
                Stored::Bf16 => interleave::<bf16>(&values, decl.cols, 2, target.panel(panel).cast()),
                _ => interleave::<f32>(&values, decl.cols, 1, target.panel(panel).cast()),
            }
        }
        Ok(())
    }
}

/// Why there is no packed matrix.
#[derive(Debug)]
pub(crate) enum Unpacked {
    Unreadable(WeightError),
    /// Its values cannot be stored so.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 has compact matrices"))]
    DoesNotFit,
}

impl From<WeightError> for Unpacked {
    fn from(error: WeightError) -> Self {
        Self::Unreadable(error)
    }
}

/// Matrices that take turns in the panels of a weight.
fn groups(decl: &WeightDecl) -> usize {
    if decl.layout == WeightLayout::GatePair { 2 } else { 1 }
}

fn panels(decl: &WeightDecl) -> usize {
    let groups = groups(decl);
    groups * (decl.rows / groups).div_ceil(LANES)
}

/// Fill a panel of twelve bits a value.
///
/// # Safety
/// The panel exists, and no other task fills it.
#[cfg(target_arch = "x86_64")]
unsafe fn pack_compact(rows: &[f32], target: Target, panel: usize) -> Result<(), Unpacked> {
    let mut values = vec![0_u16; panel_bytes(target.k, Stored::Bf16) / size_of::<u16>()];
    // SAFETY: the caller's promise; `values` is one panel of bf16.
    let fits = unsafe {
        interleave::<bf16>(rows, target.k, 2, values.as_mut_ptr().cast());
        let to = std::slice::from_raw_parts_mut(target.panel(panel), target.panel_bytes());
        compact::pack_panel(&values, target.k, to)
    };
    if fits { Ok(()) } else { Err(Unpacked::DoesNotFit) }
}

/// A weight's name in a packed file.
fn file_name(decl: &WeightDecl, stored: Stored) -> String {
    format!("{stored:?} {:?} {}x{} {}", decl.layout, decl.rows, decl.cols, decl.parts.join(" "))
}

/// Where panels go.
#[derive(Clone, Copy)]
struct Target {
    at: *mut u8,
    stored: Stored,
    k: usize,
}

// SAFETY: tasks write disjoint panels.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    fn panel_bytes(&self) -> usize {
        panel_bytes(self.k, self.stored)
    }

    /// # Safety
    /// The panel exists.
    unsafe fn panel(&self, panel: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.at.add(panel * self.panel_bytes()) }
    }
}

/// Write sixteen rows of blocks as the codes of all groups, then their scales.
fn interleave_blocks(format: BlockFormat, rows: &[u8], to: &mut [u8]) {
    let (block_bytes, row_bytes) = (format.block_bytes(BlockFormat::GROUP), rows.len() / LANES);
    let (codes, scales) = to.split_at_mut((row_bytes - row_bytes / block_bytes * 2) * LANES);
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        for (group, block) in row.chunks_exact(block_bytes).enumerate() {
            let (scale, from) = block.split_at(2);
            scales[(group * LANES + lane) * 2..][..2].copy_from_slice(scale);
            let to = &mut codes[group * from.len() * LANES..][..from.len() * LANES];
            match format {
                BlockFormat::Q8 | BlockFormat::Int8 => {
                    from.iter().enumerate().for_each(|(k, &code)| to[k * LANES + lane] = code)
                }
                // A word holds eight codes of a row, as the block has them.
                BlockFormat::Q4 => {
                    for (i, word) in from.chunks_exact(4).enumerate() {
                        to[(i * LANES + lane) * 4..][..4].copy_from_slice(word);
                    }
                }
            }
        }
    }
}

/// Write sixteen rows `[16][k]` as `[k / step][16][step]`.
///
/// # Safety
/// `to` is valid for one panel.
unsafe fn interleave<E: Elem>(rows: &[f32], k: usize, step: usize, to: *mut E) {
    // Blocks of sixteen `k` keep both sides in the first-level cache.
    for block in (0..k).step_by(LANES) {
        for lane in 0..LANES {
            let row = &rows[lane * k..][..k];
            for kk in block..k.min(block + LANES) {
                // SAFETY: `kk < k` and `lane < 16`, so the place is in the panel.
                unsafe { *to.add((kk / step * LANES + lane) * step + kk % step) = E::from_f32(row[kk]) };
            }
        }
    }
}

/// Rows of a weight over all its parts, convolution kernels with the input channel fastest.
struct RowReader<'a> {
    source: &'a dyn WeightSource,
    decl: &'a WeightDecl,
    /// First row of each part.
    starts: Vec<usize>,
    kernel: Vec<f32>,
}

impl<'a> RowReader<'a> {
    fn new(source: &'a dyn WeightSource, decl: &'a WeightDecl) -> Self {
        let rows_of = |part: &String| source.shape(part).and_then(|s| s.first().copied()).unwrap_or(0);
        let starts = decl
            .parts
            .iter()
            .scan(0, |at, part| {
                let start = *at;
                *at += rows_of(part);
                Some(start)
            })
            .collect();
        Self { source, decl, starts, kernel: Vec::new() }
    }

    /// The part that a row of the weight is in, and its number there.
    fn place(&self, row: usize) -> (&'a str, usize) {
        let part = self.starts.partition_point(|&start| start <= row) - 1;
        (&self.decl.parts[part], row - self.starts[part])
    }

    /// A row's blocks; their scales are finite.
    fn read_blocks(&self, row: usize, format: BlockFormat, out: &mut [u8]) -> Result<(), WeightError> {
        let (name, row) = self.place(row);
        self.source.read_blocks(name, row, out)?;
        let refuse = |reason: String| Err(WeightError::new(name, reason));
        if format == BlockFormat::Int8 && self.decl.cols > int8::MOST_K {
            return refuse(format!("rows of {} codes; at most {}", self.decl.cols, int8::MOST_K));
        }
        let mut scales = out.chunks_exact(format.block_bytes(self.decl.cols)).map(|b| match format {
            BlockFormat::Q8 | BlockFormat::Q4 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            BlockFormat::Int8 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        });
        if let Some(scale) = scales.find(|scale| !scale.is_finite()) {
            return refuse(format!("row {row} has a block with the scale {scale}"));
        }
        Ok(())
    }

    fn read(&mut self, row: usize, out: &mut [f32]) -> Result<(), WeightError> {
        let (name, row) = self.place(row);
        if self.decl.layout != WeightLayout::Conv {
            return self.source.read_rows(name, row, out);
        }
        let channels = self.source.shape(name).map_or(1, |s| s[1]);
        let taps = out.len() / channels;
        self.kernel.resize(out.len(), 0.0);
        self.source.read_rows(name, row, &mut self.kernel)?;
        for (i, v) in out.iter_mut().enumerate() {
            *v = self.kernel[i % channels * taps + i / channels];
        }
        Ok(())
    }
}
