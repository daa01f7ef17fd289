//! Products with 8-bit matrices on 8-bit activations.
//!
//! A weight row has one f32 scale, a row of activations gets one when it is staged: its largest magnitude over 127
//! ([`row_scale`]). The codes of both are multiplied and summed as integers, which is exact, so every instruction set
//! has the same sums. An output is `sum * (row scale * column scale)`, and then what every product's epilogue makes
//! of it.
//!
//! A panel holds sixteen columns with four `k` interleaved, `[k / 4][16][4]` bytes, padded with zeros to whole operand
//! tiles of AMX; behind them sixteen scales, and sixteen numbers that correct sums over codes shifted by 128. Sums of
//! 32 by 32 outputs are written to scratch that stays in the first-level cache, and taken from there in f32.

use half::bf16;
use ocelli_plan::BlockFormat;

use super::block_walk::{BLOCK, BlockProduct, Extent, Job, QUARTERS, walk};
use super::epilogue::{Epilogue, Outputs};
use super::int8_sums::{Unit, sums};
use super::rows_together;
use crate::simd::{Elem, Kernel, LANES, Simd};
use crate::view::{Kind, View};

/// `k` of one operand tile of AMX: what rows and panels are padded to.
pub(super) const TILE_K: usize = 64;
/// Bytes of one operand tile of a panel.
pub(super) const OPERAND: usize = TILE_K * LANES;
/// Operand tiles of two panels that stay in the first-level cache.
const TILE_STEPS: usize = 12;
/// Scales and corrections behind a panel's codes.
const TAIL: usize = 2 * LANES * size_of::<f32>();
/// Rows that begin at a multiple of this never share a line.
const LINE: usize = 64;
/// Longest row whose sums of shifted codes, at most 255 times 128 each, surely fit 32 bits.
pub(crate) const MOST_K: usize = 1 << 16;

/// The instructions of AMX for 8-bit codes.
#[cfg(target_arch = "x86_64")]
mod tiles {
    use super::super::amx_tiles::{self, Operand, TILE, Tiles};
    pub(super) use super::super::amx_tiles::{begin, store};

    /// Tiles of sixteen rows while the value lives.
    ///
    /// # Safety
    /// The CPU has AMX.
    #[inline(always)]
    pub(super) unsafe fn configure() -> Tiles {
        // SAFETY: the caller's promise.
        unsafe { Tiles::configure(TILE) }
    }

    /// # Safety
    /// As for [`amx_tiles::multiply_quarter`].
    #[inline(always)]
    pub(super) unsafe fn multiply_quarter<const QUARTER: usize>(
        rows: [*const i8; 2],
        stride: usize,
        columns: [*const i8; 2],
    ) {
        let (rows, columns) = (rows.map(|p| p.cast()), columns.map(|p| p.cast()));
        // SAFETY: the caller's promise.
        unsafe { amx_tiles::multiply_quarter::<QUARTER>(Operand::Int8, rows, stride, columns) }
    }
}

/// Where there are no tiles, nothing calls for them.
#[cfg(not(target_arch = "x86_64"))]
mod tiles {
    pub(super) struct Tiles;

    pub(super) unsafe fn configure() -> Tiles {
        Tiles
    }
    pub(super) unsafe fn begin(_fresh: bool, _sums: *const f32) {}
    pub(super) unsafe fn store(_to: *mut f32, _stride: usize) {}
    pub(super) unsafe fn multiply_quarter<const QUARTER: usize>(
        _rows: [*const i8; 2],
        _stride: usize,
        _columns: [*const i8; 2],
    ) {
    }
}

/// Scale of a row with this largest magnitude, and its inverse. Rows below any use are rows of zeros, or the inverse
/// would not be a number.
pub(crate) fn row_scale(most: f32) -> (f32, f32) {
    const LEAST: f32 = 1e-30;
    if most < LEAST { (0.0, 0.0) } else { (most / 127.0, 127.0 / most) }
}

/// Bytes of one panel.
pub(crate) fn panel_bytes(k: usize) -> usize {
    k.next_multiple_of(TILE_K) * LANES + TAIL
}

/// Write sixteen rows as they are stored, scale and then codes, as one panel of zeros.
pub(crate) fn pack_panel(rows: &[u8], k: usize, to: &mut [u8]) {
    let (codes, tail) = to.split_at_mut(k.next_multiple_of(TILE_K) * LANES);
    let (scales, corrections) = tail.split_at_mut(TAIL / 2);
    for (lane, row) in rows.chunks_exact(BlockFormat::Int8.row_bytes(k)).enumerate() {
        let (scale, row) = row.split_at(size_of::<f32>());
        scales[lane * 4..][..4].copy_from_slice(scale);
        for (i, &code) in row.iter().enumerate() {
            codes[(i / 4 * LANES + lane) * 4 + i % 4] = code;
        }
        let sum: i32 = row.iter().map(|&code| i32::from(code as i8)).sum();
        corrections[lane * 4..][..4].copy_from_slice(&(-128 * sum).to_le_bytes());
    }
}

/// Panels of sixteen columns.
#[derive(Clone, Copy)]
pub(crate) struct Columns8 {
    at: *const i8,
    panel_stride: usize,
    /// Operand tiles of a panel.
    steps: usize,
}

impl Columns8 {
    /// The panels at `at`, of columns of `k` values.
    pub(crate) fn new(at: *const u8, k: usize) -> Self {
        Self { at: at.cast(), panel_stride: panel_bytes(k), steps: k.div_ceil(TILE_K) }
    }

    /// Codes of a panel.
    ///
    /// # Safety
    /// The panel exists.
    #[inline(always)]
    pub(super) unsafe fn codes(self, panel: usize) -> *const i8 {
        // SAFETY: the caller's promise.
        unsafe { self.at.add(panel * self.panel_stride) }
    }

    /// Sixteen scales of a panel.
    ///
    /// # Safety
    /// The panel exists.
    #[inline(always)]
    unsafe fn scales(self, panel: usize) -> *const f32 {
        // SAFETY: the tail lies behind the codes.
        unsafe { self.codes(panel).add(self.steps * OPERAND).cast() }
    }
}

/// Sixteen corrections of a panel of so many operand tiles.
///
/// # Safety
/// The codes are those of a panel.
#[cfg(target_arch = "x86_64")] // Nothing else shifts codes.
#[inline(always)]
pub(super) unsafe fn corrections(codes: *const i8, steps: usize) -> *const i32 {
    // SAFETY: they lie behind the scales.
    unsafe { codes.add(steps * OPERAND).cast::<i32>().add(LANES) }
}

/// How rows are staged: on what they will be multiplied, and in what type they are before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Staging8 {
    pub(super) unit: Unit,
    kind: Kind,
}

/// Rows of the left factor as codes with their scales.
#[derive(Clone, Copy)]
pub(crate) struct Rows8 {
    pub(super) at: *const i8,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    pub(super) rows: usize,
    /// Operand tiles a row.
    pub(super) steps: usize,
    scales: *const f32,
    unit: Unit,
}

impl Staging8 {
    pub(super) fn new(unit: Unit, x: View) -> Self {
        Self { unit, kind: x.kind }
    }

    /// About as many rows as one task takes, so that its hidden rows stay in the second-level cache.
    pub(super) fn row_block(self, rows: usize, threads: usize) -> usize {
        if self.unit.is_tiles() { rows_together(rows / threads) } else { 64 }
    }

    /// What the rows of a task should be a multiple of.
    pub(super) fn row_step(self) -> usize {
        if self.unit.is_tiles() { BLOCK } else { 8 }
    }

    /// Bytes from one row to the next: an odd number of lines, so that rows fall into different cache sets.
    fn stride(bytes: usize) -> usize {
        (bytes.div_ceil(LINE) | 1) * LINE
    }

    /// Rows that scratch has room for: tiles read whole blocks.
    fn padded(rows: usize) -> usize {
        rows.next_multiple_of(BLOCK)
    }

    /// f32 values of scratch for `rows` rows: their scales, then values, in whose place the codes are written.
    pub(super) fn len(self, rows: usize, k: usize) -> usize {
        let rows = Self::padded(rows);
        rows + rows * Self::stride(k * self.kind.bytes()) / size_of::<f32>()
    }

    /// Scratch as rows of values.
    pub(super) fn view(self, at: *mut f32, rows: usize, cols: usize) -> View {
        let stride = Self::stride(cols * self.kind.bytes()) / self.kind.bytes();
        View { at: at.wrapping_add(Self::padded(rows)).cast(), rows, cols, stride, kind: self.kind }
    }

    /// Codes of rows that were written through [`Self::view`], in their place.
    ///
    /// # Safety
    /// `at` is valid for `self.len(rows, k)` values; the CPU has `S`.
    #[inline(always)]
    pub(super) unsafe fn written<S: Simd>(self, at: *mut f32, rows: usize, k: usize) -> Rows8 {
        let view = self.view(at, rows, k);
        // SAFETY: rows of values are at least as long as those of codes.
        unsafe { self.quantize::<S>(view, 0, rows, at, Self::stride(k * self.kind.bytes())) }
    }

    /// Codes of rows of a tensor.
    ///
    /// # Safety
    /// The rows are in the view; `to` is valid for `self.len(rows, x.cols)` values; the CPU has `S`.
    #[inline(always)]
    pub(super) unsafe fn stage<S: Simd>(self, x: View, first: usize, rows: usize, to: *mut f32) -> Rows8 {
        // SAFETY: rows of codes take no more room than rows of values.
        unsafe { self.quantize::<S>(x, first, rows, to, Self::stride(x.cols)) }
    }

    #[inline(always)]
    unsafe fn quantize<S: Simd>(
        self,
        x: View,
        first: usize,
        rows: usize,
        to: *mut f32,
        stride: usize,
    ) -> Rows8 {
        let steps = x.cols.div_ceil(TILE_K);
        // SAFETY: the caller's promise: scales, then rows of `stride` bytes, each of whole operand tiles.
        unsafe {
            let codes: *mut i8 = to.add(Self::padded(rows)).cast();
            for r in 0..rows {
                let row = codes.add(r * stride);
                let scale = match x.kind {
                    Kind::Bf16 => quantize_row::<S, bf16>(x.row(first + r), x.cols, row),
                    _ => quantize_row::<S, f32>(x.row(first + r), x.cols, row),
                };
                *to.add(r) = scale;
                if self.unit.is_shifted() {
                    shift_by_128(row.cast(), steps * TILE_K);
                }
            }
            Rows8 { at: codes, stride, rows, steps, scales: to, unit: self.unit }
        }
    }
}

/// Write the codes of a row, padded with zeros to whole operand tiles; returns its scale. The codes may take the
/// place of the values.
///
/// # Safety
/// `cols` values at `x`, room for the tiles at `to`, the CPU has `S`.
#[inline(always)]
unsafe fn quantize_row<S: Simd, E: Coded>(x: *const E, cols: usize, to: *mut i8) -> f32 {
    // SAFETY: the caller's promise; a code is written after its value, and all before it, were read.
    unsafe {
        let (scale, inverse) = row_scale(E::largest::<S>(x, cols));
        let inverse = S::splat(inverse);
        let whole = cols / LANES * LANES;
        let mut end = 0;
        while end + 2 * LANES <= whole {
            E::store_codes::<S>(x.add(end), inverse, to.add(end));
            end += 2 * LANES;
        }
        if end < whole {
            S::store_i8(to.add(end), S::mul(E::load::<S>(x.add(end)), inverse));
            end += LANES;
        }
        if whole < cols {
            S::store_i8(to.add(whole), S::mul(E::load_partial::<S>(x.add(whole), cols - whole), inverse));
            end += LANES;
        }
        if end < cols.next_multiple_of(TILE_K) {
            std::ptr::write_bytes(to.add(end), 0, cols.next_multiple_of(TILE_K) - end);
        }
        scale
    }
}

/// Values that get codes.
trait Coded: Elem {
    /// The largest magnitude of `n` values.
    ///
    /// # Safety
    /// They are readable; the CPU has `S`.
    unsafe fn largest<S: Simd>(x: *const Self, n: usize) -> f32;

    /// Codes of 32 values, all read before any is written.
    ///
    /// # Safety
    /// They are readable, their codes writable; the CPU has `S`.
    unsafe fn store_codes<S: Simd>(x: *const Self, inverse: S::F, to: *mut i8);
}

impl Coded for f32 {
    #[inline(always)]
    unsafe fn largest<S: Simd>(x: *const Self, n: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let mut most = S::zero();
            for c in (0..n).step_by(LANES) {
                let v = if n - c < LANES { S::load_partial(x.add(c), n - c) } else { S::load(x.add(c)) };
                most = S::max(most, S::max(v, S::sub(S::zero(), v)));
            }
            S::reduce_max(most)
        }
    }

    #[inline(always)]
    unsafe fn store_codes<S: Simd>(x: *const Self, inverse: S::F, to: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe {
            let (low, high) = (S::load(x), S::load(x.add(LANES)));
            S::store_i8(to, S::mul(low, inverse));
            S::store_i8(to.add(LANES), S::mul(high, inverse));
        }
    }
}

impl Coded for bf16 {
    #[inline(always)]
    unsafe fn largest<S: Simd>(x: *const Self, n: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { S::largest_bf16(x, n) }
    }

    #[inline(always)]
    unsafe fn store_codes<S: Simd>(x: *const Self, inverse: S::F, to: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe { S::store_codes_bf16(x, inverse, to) }
    }
}

/// Signed codes to unsigned ones, eight at a time.
///
/// # Safety
/// `n` bytes at `at`, a multiple of eight, aligned for them.
#[inline(always)]
unsafe fn shift_by_128(at: *mut u64, n: usize) {
    for i in 0..n / 8 {
        // SAFETY: the caller's promise.
        unsafe { *at.add(i) ^= 0x8080_8080_8080_8080 };
    }
}

/// The product of all rows with some panels: see [`walk`].
///
/// To run it, rows and panels must be readable, the epilogue may write its outputs, and the CPU has what the rows were
/// staged for.
pub(super) struct Product<'a, E> {
    pub(super) a: Rows8,
    pub(super) b: Columns8,
    pub(super) outputs: Outputs<'a, E>,
}

impl<E: Epilogue> Kernel for Product<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Rows8 { rows, steps, unit, .. } = self.a;
        let steps_together = if unit.is_tiles() { TILE_STEPS } else { steps };
        // SAFETY: the caller's promise.
        unsafe {
            let _tiles = if unit.is_tiles() { Some(tiles::configure()) } else { None };
            walk::<S, E>(&self, &self.outputs, Extent { rows, steps, steps_together, pairs_together: 1 });
        }
    }
}

impl<E: Epilogue> Product<'_, E> {
    /// The rows and the panels of a job, from its first operand tile on.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    unsafe fn operands(&self, job: &Job) -> Cursor {
        // SAFETY: the caller's promise.
        unsafe {
            Cursor {
                rows: self.a.at.add(job.row * self.a.stride + job.step * TILE_K),
                columns: job.panels().map(|panel| self.b.codes(panel).add(job.step * OPERAND)),
            }
        }
    }
}

/// Where a block of rows meets two panels.
pub(super) struct Cursor {
    rows: *const i8,
    columns: [*const i8; 2],
}

impl<E: Epilogue> BlockProduct for Product<'_, E> {
    type Cursor = Cursor;

    #[inline(always)]
    fn steps(&self, job: &Job) -> usize {
        if self.a.unit.is_tiles() { job.steps() } else { 0 }
    }

    #[inline(always)]
    unsafe fn begin<S: Simd>(&self, job: &Job, sums: *mut f32) -> Cursor {
        // SAFETY: the caller's promise.
        unsafe {
            if self.a.unit.is_tiles() {
                tiles::begin(job.step == 0, sums);
            }
            self.operands(job)
        }
    }

    #[inline(always)]
    unsafe fn add<S: Simd, const QUARTER: usize>(&self, cursor: &mut Cursor) {
        let upper = cursor.rows;
        // SAFETY: the tiles read whole blocks, for which rows are padded.
        unsafe {
            let lower = upper.wrapping_add(BLOCK / 2 * self.a.stride);
            tiles::multiply_quarter::<QUARTER>([upper, lower], self.a.stride, cursor.columns);
        }
        if QUARTER + 1 == QUARTERS {
            cursor.rows = upper.wrapping_add(TILE_K);
            cursor.columns = cursor.columns.map(|at| at.wrapping_add(OPERAND));
        }
    }

    #[inline(always)]
    unsafe fn end(&self, job: &Job, sums_at: *mut f32) -> Option<*const f32> {
        // SAFETY: the caller's promise; without tiles there is one job for all of `k`.
        unsafe {
            if self.a.unit.is_tiles() {
                tiles::store(sums_at, BLOCK);
            } else {
                let Cursor { rows: left, columns } = self.operands(job);
                sums(self.a.unit, left, self.a.stride, job.rows(), columns, self.a.steps, sums_at.cast());
            }
        }
        Some(sums_at)
    }

    #[inline(always)]
    unsafe fn take<S: Simd, const MR: usize, const NP: usize>(
        &self,
        sums: *const f32,
        row: usize,
        panel: usize,
    ) {
        // SAFETY: the caller's promise; the sums are integers.
        unsafe {
            let sums: *const i32 = sums.cast();
            let mut columns = [S::zero(); NP];
            for p in 0..NP {
                columns[p] = S::load(self.b.scales(panel + p));
            }
            let mut values = [[S::zero(); NP]; MR];
            for i in 0..MR {
                let scale = S::splat(*self.a.scales.add(row + i));
                for p in 0..NP {
                    let sum = S::load_i32(sums.add(i * BLOCK + p * LANES));
                    values[i][p] = S::mul(sum, S::mul(scale, columns[p]));
                }
            }
            self.outputs.take::<S, MR, NP>(row, panel, &values);
        }
    }

    #[inline(always)]
    unsafe fn take_line<S: Simd>(&self, sums: *const f32, row: usize, panel: usize) {
        // SAFETY: the caller's promise; the sums are integers.
        unsafe {
            let scale = S::splat(*self.a.scales.add(row));
            let scales = [S::load(self.b.scales(panel)), S::load(self.b.scales(panel + 1))];
            let (first, second) = (S::load_i32(sums.cast()), S::load_i32(sums.add(LANES).cast()));
            let values = [S::mul(first, S::mul(scale, scales[0])), S::mul(second, S::mul(scale, scales[1]))];
            self.outputs.take_line::<S>(row, panel, values);
        }
    }
}
