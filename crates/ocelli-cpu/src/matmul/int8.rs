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

#[cfg(target_arch = "x86_64")]
use super::amx_int8 as tiles;
use super::epilogue::{Epilogue, Outputs};
use super::int8_sums::{Unit, sums};
use super::rows_together;
use crate::scratch::Scratch;
use crate::simd::{Elem, Kernel, LANES, Simd};
use crate::view::{Kind, View};

/// `k` of one operand tile of AMX: what rows and panels are padded to.
pub(super) const TILE_K: usize = 64;
/// Bytes of one operand tile of a panel.
pub(super) const OPERAND: usize = TILE_K * LANES;
/// Rows, and columns, of one block of sums.
pub(super) const BLOCK: usize = 32;
/// Operand tiles of two panels that all rows go through before the next: these stay in the first-level cache.
const TILE_STEPS: usize = 12;
/// Scales and corrections behind a panel's codes.
const TAIL: usize = 2 * LANES * size_of::<f32>();
/// Rows that begin at a multiple of this never share a line.
const LINE: usize = 64;
/// Longest row whose sums of shifted codes, at most 255 times 128 each, surely fit 32 bits.
pub(crate) const MOST_K: usize = 1 << 16;

/// Where there are no tiles, nothing calls for them.
#[cfg(not(target_arch = "x86_64"))]
mod tiles {
    pub(super) unsafe fn configure() {}
    pub(super) unsafe fn clear() {}
    pub(super) unsafe fn load(_sums: *const i32) {}
    pub(super) unsafe fn store(_sums: *mut i32) {}
    pub(super) unsafe fn multiply(_: *const i8, _: *const i8, _: usize, _: *const i8, _: *const i8) {}
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

    /// About as many rows as one task takes, so that its hidden rows stay in the second-level cache, and what they
    /// should be a multiple of.
    pub(super) fn row_block(self, rows: usize, threads: usize) -> (usize, usize) {
        if self.unit.is_tiles() { (rows_together(rows / threads), BLOCK) } else { (64, 8) }
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

/// The product of all rows with some panels, two at a time; a last one alone is computed twice.
///
/// The epilogue of a block runs between the tile instructions of the next, so that vector and tile units work at the
/// same time.
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
        let Self { a, b, outputs } = self;
        let on_tiles = a.unit.is_tiles();
        let most = if on_tiles { TILE_STEPS } else { a.steps };
        let mut job = Job::first(a, outputs.panels.clone(), most);
        let mut memory = Scratch::take(job.slots * BLOCK * BLOCK);
        let sums_of: *mut i32 = memory.as_mut_ptr().cast();
        let mut before = Finished::nothing();
        // SAFETY: the tiles read whole blocks, for which rows are padded; a block has its slot until it is taken.
        unsafe {
            let _tiles = if on_tiles { Some(tiles::configure()) } else { None };
            loop {
                let there = job.panel < job.end;
                let steps = job.steps(a);
                let last = job.step + steps == a.steps;
                let to = sums_of.add(job.slot * BLOCK * BLOCK);
                let left = a.at.add(job.row * a.stride + job.step * TILE_K);
                let right = [job.panel, job.panel + job.count() - 1];
                let right =
                    if there { right.map(|panel| b.codes(panel).add(job.step * OPERAND)) } else { [a.at; 2] };
                if there && last {
                    outputs.ask::<S>(job.row, BLOCK.min(a.rows - job.row), job.panel, job.count());
                }
                if there && on_tiles {
                    if job.step == 0 { tiles::clear() } else { tiles::load(to) }
                }
                let pieces = if there && on_tiles { steps } else { 1 };
                for piece in 0..pieces {
                    if there && on_tiles {
                        let (x, k) = (left.add(piece * TILE_K), piece * OPERAND);
                        tiles::multiply(
                            x,
                            x.add(BLOCK / 2 * a.stride),
                            a.stride,
                            right[0].add(k),
                            right[1].add(k),
                        );
                    }
                    before.up_to::<S, E>((piece + 1) * BLOCK / pieces, &outputs);
                }
                if !there {
                    break;
                }
                if on_tiles {
                    tiles::store(to);
                } else {
                    sums(a.unit, left, a.stride, BLOCK.min(a.rows - job.row), right, a.steps, to);
                }
                if last {
                    before = Finished::new(to, a, b, &job);
                }
                job.advance(a);
            }
        }
    }
}

/// A block of rows by two panels by some `k`.
struct Job {
    panel: usize,
    /// Where the panels end.
    end: usize,
    /// The first row.
    row: usize,
    /// The first operand tile.
    step: usize,
    /// Most operand tiles at a time.
    most: usize,
    /// Where its sums are.
    slot: usize,
    slots: usize,
}

impl Job {
    fn first(a: Rows8, panels: std::ops::Range<usize>, most: usize) -> Self {
        // Sums of a block are taken while those of the next are made; when `k` is cut, all blocks wait for its end.
        let slots = if a.steps <= most { 2 } else { a.rows.div_ceil(BLOCK) + 1 };
        Self { panel: panels.start, end: panels.end, row: 0, step: 0, most, slot: 0, slots }
    }

    #[inline(always)]
    fn steps(&self, a: Rows8) -> usize {
        self.most.min(a.steps - self.step)
    }

    /// Panels that count.
    #[inline(always)]
    fn count(&self) -> usize {
        2.min(self.end.saturating_sub(self.panel)).max(1)
    }

    /// All rows, then the next `k`, then the next panels: panels stay in the first-level cache.
    #[inline(always)]
    fn advance(&mut self, a: Rows8) {
        let blocks = a.rows.div_ceil(BLOCK);
        self.row += BLOCK;
        self.slot += 1;
        if self.row >= a.rows {
            self.row = 0;
            self.step += self.most;
            if self.step >= a.steps {
                self.step = 0;
                self.panel += 2;
            } else {
                // Back to the sums of the first block.
                self.slot += self.slots - blocks;
            }
        }
        self.slot %= self.slots;
    }
}

/// A block of sums on its way to the epilogue.
#[derive(Clone, Copy)]
struct Finished {
    sums: *const i32,
    /// Scales of the block's rows.
    row_scales: *const f32,
    column_scales: [*const f32; 2],
    /// The first row, counted within the product's.
    row: usize,
    rows: usize,
    panel: usize,
    count: usize,
    /// Rows that are done.
    done: usize,
}

impl Finished {
    /// The sums of a job.
    ///
    /// # Safety
    /// Rows and panels exist; the sums stay until they are taken.
    #[inline(always)]
    unsafe fn new(sums: *const i32, a: Rows8, b: Columns8, job: &Job) -> Self {
        let (row, panel, count) = (job.row, job.panel, job.count());
        // SAFETY: the caller's promise.
        let (row_scales, column_scales) =
            unsafe { (a.scales.add(row), [b.scales(panel), b.scales(panel + count - 1)]) };
        let rows = BLOCK.min(a.rows - row);
        Self { sums, row_scales, column_scales, row, rows, panel, count, done: 0 }
    }

    /// Nothing to do.
    fn nothing() -> Self {
        let (sums, row_scales, column_scales) = (std::ptr::null(), std::ptr::null(), [std::ptr::null(); 2]);
        Self { sums, row_scales, column_scales, row: 0, rows: 0, panel: 0, count: 0, done: 0 }
    }

    /// Hand rows to the epilogue until `rows` of the block, or all that it has, are done.
    ///
    /// # Safety
    /// The sums are those of the block; the epilogue may write its outputs; the CPU has `S`.
    #[inline(always)]
    unsafe fn up_to<S: Simd, E: Epilogue>(&mut self, rows: usize, outputs: &Outputs<E>) {
        let end = rows.min(self.rows);
        while self.done < end {
            // SAFETY: the caller's promise.
            self.done += unsafe {
                match (self.count, self.rows - self.done) {
                    (2, 4..) => self.few::<S, E, 4, 2>(outputs),
                    (2, _) => self.few::<S, E, 1, 2>(outputs),
                    _ => self.few::<S, E, 1, 1>(outputs),
                }
            };
        }
    }

    #[inline(always)]
    unsafe fn few<S: Simd, E: Epilogue, const MR: usize, const NP: usize>(
        &self,
        outputs: &Outputs<E>,
    ) -> usize {
        // SAFETY: the caller's promise: `MR` rows are left.
        unsafe {
            let mut columns = [S::zero(); NP];
            for p in 0..NP {
                columns[p] = S::load(self.column_scales[p]);
            }
            let mut values = [[S::zero(); NP]; MR];
            for i in 0..MR {
                let row = self.done + i;
                let scale = S::splat(*self.row_scales.add(row));
                for p in 0..NP {
                    let sum = S::load_i32(self.sums.add(row * BLOCK + p * LANES));
                    values[i][p] = S::mul(sum, S::mul(scale, columns[p]));
                }
            }
            outputs.take::<S, MR, NP>(self.row + self.done, self.panel, &values);
        }
        MR
    }
}
