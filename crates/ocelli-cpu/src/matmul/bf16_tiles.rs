//! Products with bf16 matrices on AMX. A packed panel is a run of operand tiles as it is: sixteen columns by 32 `k`, pairs of
//! `k` interleaved; of codes, the tiles are expanded as rows come to need them.

use std::arch::asm;

use half::bf16;

use super::CACHED_BYTES;
use super::amx_tiles::{self as tiles, Operand, TILE, Tiles};
use super::bf16_rows::{BfRows, TILE_K};
use super::block_walk::{BLOCK, BlockProduct, Extent, Job, QUARTERS, walk};
use super::epilogue::{Epilogue, Outputs};
use super::expanded::Encoded;
use super::tile::Columns;
use crate::buffer::CACHE_LINE;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};

/// Lines of each of the next panels that are asked for at an operand tile: few enough that the tiles' own loads do not wait.
const AHEAD: usize = 2;
/// Operand tiles of two panels that stay in the first-level cache.
const TILE_STEPS: usize = 16;
/// Values of an operand tile.
const OPERAND: usize = TILE_K * LANES;
/// Pairs of panels that go together through rows that the second-level cache has no room for.
const PAIRS_TOGETHER: usize = 8;

/// Where the operand tiles of two panels come from.
pub(super) trait Panels {
    /// Before the first rows of a part of `k`.
    ///
    /// # Safety
    /// The panels exist; the CPU has `S`.
    unsafe fn prepare<S: Simd>(&self, job: &Job);

    /// The first operand tiles of the job, which must have been prepared.
    fn tiles(&self, job: &Job) -> [*const u8; 2];

    /// From one of them to the next in a panel.
    fn step_bytes(&self) -> usize;

    /// Some lines of each panel that come after all rows of this job: where, and how many.
    fn next(&self, job: &Job) -> ([*const u8; 2], usize);
}

impl Columns<bf16> {
    /// From an operand tile of a panel on, which may be beyond the last.
    #[inline(always)]
    fn operand(&self, panel: usize, step: usize) -> *const u8 {
        let at = self.at.wrapping_add((panel - self.first) * self.panel_stride);
        at.cast::<u8>().wrapping_add(step * self.step_bytes())
    }
}

impl Panels for Columns<bf16> {
    #[inline(always)]
    unsafe fn prepare<S: Simd>(&self, _job: &Job) {}

    #[inline(always)]
    fn tiles(&self, job: &Job) -> [*const u8; 2] {
        job.panels().map(|panel| self.operand(panel, job.step))
    }

    #[inline(always)]
    fn step_bytes(&self) -> usize {
        TILE_K * self.k_stride * size_of::<bf16>()
    }

    #[inline(always)]
    fn next(&self, job: &Job) -> ([*const u8; 2], usize) {
        let next = job.panels().map(|panel| self.operand(panel + 2, job.step));
        (next, job.steps() * OPERAND * size_of::<bf16>() / CACHE_LINE)
    }
}

/// Codes that are expanded for one job's rows at a time: into the first-level cache.
struct Expanding<B> {
    codes: B,
    /// Room for [`TILE_STEPS`] operand tiles of two panels.
    to: *mut bf16,
}

impl<B: Encoded> Panels for Expanding<B> {
    #[inline(always)]
    unsafe fn prepare<S: Simd>(&self, job: &Job) {
        for (p, panel) in job.panels().into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let to = self.to.add(p * TILE_STEPS * OPERAND);
                self.codes.expand::<S>(panel, job.step..job.step + job.steps(), to);
            }
        }
    }

    #[inline(always)]
    fn tiles(&self, _job: &Job) -> [*const u8; 2] {
        [0, 1].map(|p| self.to.wrapping_add(p * TILE_STEPS * OPERAND).cast_const().cast())
    }

    #[inline(always)]
    fn step_bytes(&self) -> usize {
        OPERAND * size_of::<bf16>()
    }

    #[inline(always)]
    fn next(&self, job: &Job) -> ([*const u8; 2], usize) {
        let mut next = *job;
        next.next_panels();
        let codes = next.panels().map(|panel| self.codes.group(panel, next.step));
        (codes.map(|(at, _)| at), next.steps() * codes[0].1 / CACHE_LINE)
    }
}

/// The product of all rows, of which there is more than a tile, with some panels that are kept as codes.
///
/// # Safety
/// Rows and panels are readable, the epilogue may write its outputs, the CPU has `S`, and AMX is
/// [`available`](super::amx::available).
#[inline(always)]
pub(super) unsafe fn product_of_codes<S: Simd, B: Encoded, E: Epilogue>(
    a: BfRows,
    codes: B,
    outputs: Outputs<E>,
) {
    let mut memory = Scratch::take(TILE_STEPS * OPERAND);
    let b = Expanding { codes, to: memory.as_mut_ptr().cast() };
    // SAFETY: the caller's promise.
    unsafe { S::call(Product { a, b, outputs }) }
}

/// The product of all rows with some panels, two at a time; a last one alone is computed twice.
///
/// To run it, rows and panels must be readable, the epilogue may write its outputs, and AMX is
/// [`available`](super::amx::available).
pub(super) struct Product<'a, B, E> {
    pub(super) a: BfRows,
    pub(super) b: B,
    pub(super) outputs: Outputs<'a, E>,
}

impl<B: Panels, E: Epilogue> Kernel for Product<'_, B, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let BfRows { rows, steps, .. } = self.a;
        // SAFETY: the caller's promise.
        unsafe {
            let _tiles = Tiles::configure(rows.min(TILE));
            if rows <= TILE {
                return narrow::<S, B, E>(&self);
            }
            let cached = rows * steps * TILE_K * size_of::<bf16>() <= CACHED_BYTES;
            let pairs_together = if cached { 1 } else { PAIRS_TOGETHER };
            let extent = Extent { rows, steps, steps_together: TILE_STEPS, pairs_together };
            walk::<S, E>(&self, &self.outputs, extent);
        }
    }
}

impl<B: Panels, E: Epilogue> Product<'_, B, E> {
    /// Rows that are computed for the block with this one: those of a tile, if it has no more.
    #[inline(always)]
    fn computed(&self, row: usize) -> usize {
        if self.a.rows - row / BLOCK * BLOCK <= TILE { TILE } else { BLOCK }
    }

    /// By how many rows the block with this one begins earlier: the last one ends with the last row.
    #[inline(always)]
    fn earlier(&self, row: usize) -> usize {
        let end = row / BLOCK * BLOCK + self.computed(row);
        if self.a.rows < BLOCK { 0 } else { end.saturating_sub(self.a.rows) }
    }
}

/// Where a block of rows meets two panels.
pub(super) struct Cursor {
    rows: *const u8,
    /// Whether these are of one tile, not two.
    half: bool,
    columns: [*const u8; 2],
    /// What will be wanted next: some lines of each of two panels.
    next: [*const u8; 2],
    lines: usize,
}

impl<B: Panels, E: Epilogue> BlockProduct for Product<'_, B, E> {
    type Cursor = Cursor;

    #[inline(always)]
    fn steps(&self, job: &Job) -> usize {
        job.steps()
    }

    #[inline(always)]
    unsafe fn begin<S: Simd>(&self, job: &Job, sums: *mut f32) -> Cursor {
        // SAFETY: the caller's promise.
        unsafe {
            if job.row == 0 {
                self.b.prepare::<S>(job);
            }
            tiles::begin(job.step == 0, sums);
        }
        let first = (job.row - self.earlier(job.row)) * self.a.stride + job.step * TILE_K;
        let asked = AHEAD * (job.row / BLOCK * job.steps());
        let (next, lines) = self.b.next(job);
        Cursor {
            rows: self.a.at.wrapping_add(first).cast(),
            half: self.computed(job.row) == TILE,
            columns: self.b.tiles(job),
            next: next.map(|at| at.wrapping_add(asked * CACHE_LINE)),
            lines: lines.saturating_sub(asked),
        }
    }

    #[inline(always)]
    unsafe fn add<S: Simd, const QUARTER: usize>(&self, cursor: &mut Cursor) {
        let stride = self.a.stride * size_of::<bf16>();
        // SAFETY: rows and columns of the job; what is asked for may be anywhere.
        unsafe {
            if cursor.lines > 0 {
                S::prefetch(cursor.next[QUARTER % 2].wrapping_add(QUARTER / 2 * CACHE_LINE));
            }
            if QUARTER < QUARTERS / 2 || !cursor.half {
                let rows = [cursor.rows, cursor.rows.wrapping_add(TILE * stride)];
                tiles::multiply_quarter::<QUARTER>(Operand::Bf16, rows, stride, cursor.columns);
            }
        }
        if QUARTER + 1 == QUARTERS {
            cursor.lines = cursor.lines.saturating_sub(AHEAD);
            cursor.next = cursor.next.map(|at| at.wrapping_add(AHEAD * CACHE_LINE));
            cursor.rows = cursor.rows.wrapping_add(TILE_K * size_of::<bf16>());
            cursor.columns = cursor.columns.map(|at| at.wrapping_add(self.b.step_bytes()));
        }
    }

    #[inline(always)]
    unsafe fn end(&self, job: &Job, sums: *mut f32) -> Option<*const f32> {
        let earlier = self.earlier(job.row);
        // SAFETY: the caller's promise; the block has more rows than it begins earlier, and those are this product's too.
        unsafe {
            if job.is_whole()
                && self.a.rows >= BLOCK
                && self.computed(job.row) == BLOCK
                && let Some((at, stride)) = self.outputs.plain(job.row - earlier, job.panel)
            {
                tiles::store(at, stride);
                return None;
            }
            tiles::store(sums, BLOCK);
            Some(sums.add(earlier * BLOCK))
        }
    }

    #[inline(always)]
    unsafe fn take<S: Simd, const MR: usize, const NP: usize>(
        &self,
        sums: *const f32,
        row: usize,
        panel: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut values = [[S::zero(); NP]; MR];
            for i in 0..MR {
                for p in 0..NP {
                    values[i][p] = S::load(sums.add(i * BLOCK + p * LANES));
                }
            }
            self.outputs.take::<S, MR, NP>(row, panel, &values);
        }
    }

    #[inline(always)]
    unsafe fn take_line<S: Simd>(&self, sums: *const f32, row: usize, panel: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.outputs.take_line::<S>(row, panel, [S::load(sums), S::load(sums.add(LANES))]) }
    }
}

/// At most sixteen rows: one tile of rows by two panels.
///
/// # Safety
/// As for the product.
#[inline(always)]
unsafe fn narrow<S: Simd, B: Panels, E: Epilogue>(product: &Product<'_, B, E>) {
    let BfRows { rows, steps, .. } = product.a;
    let extent = Extent { rows, steps, steps_together: steps, pairs_together: 1 };
    let mut memory = Scratch::take(TILE * BLOCK);
    let sums = memory.as_mut_ptr();
    let mut job = Job::first(extent, product.outputs.panels.clone());
    while job.is_there() {
        let [panel, last] = job.panels();
        // SAFETY: the tiles read whole panels and rows; `sums` has room for sixteen rows.
        unsafe {
            one_by_two(product.a, product.b.tiles(&job), product.b.step_bytes(), sums);
            for row in 0..rows {
                let sums = sums.add(row * BLOCK);
                match last - panel {
                    1 => product.take::<S, 1, 2>(sums, row, panel),
                    _ => product.take::<S, 1, 1>(sums, row, panel),
                }
            }
        }
        job.next_panels();
    }
}

/// `sums[rows][32] = a[rows][32 * steps] b`, with `b` in two panels, whose operand tiles lie so far apart.
///
/// # Safety
/// All operands are readable for `steps > 0` tiles, which are configured for the rows.
#[inline(always)]
unsafe fn one_by_two(a: BfRows, columns: [*const u8; 2], step_bytes: usize, sums: *mut f32) {
    // SAFETY: the caller's promise; the assembly uses the registers that it names.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{a} + {s}*1]",
            "tileloadd tmm6, [{b0} + {t}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {t}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 64",
            "add {b0}, {o}",
            "add {b1}, {o}",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {u}*1], tmm0",
            "tilestored [{c} + {u}*1 + 64], tmm1",
            a = inout(reg) a.at => _, b0 = inout(reg) columns[0] => _, b1 = inout(reg) columns[1] => _,
            o = in(reg) step_bytes,
            n = inout(reg) a.steps => _,
            s = in(reg) a.stride * size_of::<bf16>(), t = in(reg) 64usize, u = in(reg) 4 * BLOCK,
            c = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}
