//! Products with bf16 matrices on AMX. A packed panel is a run of operand tiles as it is: sixteen columns by 32 `k`, pairs of
//! `k` interleaved.

use std::arch::asm;

use half::bf16;

use super::amx_tiles::{self as tiles, Operand, TILE, Tiles};
use super::bf16_rows::{BfRows, TILE_K};
use super::block_walk::{BLOCK, BlockProduct, Extent, Job, walk};
use super::epilogue::{Epilogue, Outputs};
use super::tile::Columns;
use crate::buffer::CACHE_LINE;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};

/// Bytes of the next panels that are asked for at each operand tile: few enough that the tiles' own loads do not wait.
const AHEAD: usize = 4 * CACHE_LINE;
/// Operand tiles of two panels that stay in the first-level cache.
const TILE_STEPS: usize = 16;

/// The product of all rows with some panels, two at a time; a last one alone is computed twice.
///
/// To run it, rows and panels must be readable, the epilogue may write its outputs, and AMX is
/// [`available`](super::amx::available).
pub(super) struct Product<'a, E> {
    pub(super) a: BfRows,
    pub(super) b: Columns<bf16>,
    pub(super) outputs: Outputs<'a, E>,
}

impl<E: Epilogue> Kernel for Product<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let _tiles = Tiles::configure(self.a.rows.min(TILE));
            if self.a.rows <= TILE {
                narrow::<S, E>(&self);
            } else {
                let extent = Extent { rows: self.a.rows, steps: self.a.steps, steps_together: TILE_STEPS };
                walk::<S, E>(&self, &self.outputs, extent);
            }
        }
    }
}

impl<E: Epilogue> Product<'_, E> {
    /// Two panels, from an operand tile on.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    unsafe fn columns(&self, panels: [usize; 2], step: usize) -> [*const u8; 2] {
        let step = step * TILE_K * self.b.k_stride;
        // SAFETY: the caller's promise.
        panels
            .map(|panel| unsafe { self.b.at.add((panel - self.b.first) * self.b.panel_stride + step).cast() })
    }
}

impl<E: Epilogue> BlockProduct for Product<'_, E> {
    #[inline(always)]
    fn parts(&self, steps: usize) -> usize {
        steps
    }

    #[inline(always)]
    unsafe fn begin(&self, job: &Job, sums: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { tiles::begin(job.step == 0, sums) }
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, job: &Job, part: usize) {
        let step = job.step + part;
        // SAFETY: the tiles read whole blocks, for which rows are padded; what is asked for may be anywhere.
        unsafe {
            let left = self.a.at.add(job.row * self.a.stride + step * TILE_K);
            let lower = left.add(TILE * self.a.stride);
            let columns = self.columns(job.panels(), step);
            // The panels after these, a little at each operand tile of all rows.
            let next = columns[0].wrapping_sub(step * TILE_K * self.b.k_stride * size_of::<bf16>());
            let next = next.wrapping_add(2 * self.b.panel_stride * size_of::<bf16>());
            let done = job.step * self.a.rows.div_ceil(BLOCK) + job.row / BLOCK * job.steps() + part;
            for line in (0..AHEAD).step_by(CACHE_LINE) {
                S::prefetch(next.wrapping_add(done * AHEAD + line));
            }
            tiles::multiply(
                Operand::Bf16,
                [left.cast(), lower.cast()],
                self.a.stride * size_of::<bf16>(),
                columns,
            );
        }
    }

    #[inline(always)]
    unsafe fn end(&self, _job: &Job, sums: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { tiles::store(sums) }
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
}

/// At most sixteen rows: one tile of rows by two panels.
#[inline(always)]
unsafe fn narrow<S: Simd, E: Epilogue>(product: &Product<'_, E>) {
    let (rows, panels) = (product.a.rows, product.outputs.panels.clone());
    let mut memory = Scratch::take(TILE * BLOCK);
    let sums = memory.as_mut_ptr();
    for panel in panels.clone().step_by(2) {
        let count = 2.min(panels.end - panel);
        // SAFETY: the tiles read whole panels and rows; `sums` has room for sixteen rows.
        unsafe {
            let columns = product.columns([panel, panel + count - 1], 0);
            one_by_two(product, columns, sums);
            for row in 0..rows {
                let sums = sums.add(row * BLOCK);
                match count {
                    2 => product.take::<S, 1, 2>(sums, row, panel),
                    _ => product.take::<S, 1, 1>(sums, row, panel),
                }
            }
        }
    }
}

/// `sums[rows][32] = a[rows][32 * steps] b`, with `b` in two panels.
///
/// # Safety
/// All operands are readable for `steps > 0` tiles, which are configured for the rows.
#[inline(always)]
unsafe fn one_by_two<E: Epilogue>(product: &Product<'_, E>, columns: [*const u8; 2], sums: *mut f32) {
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
            a = inout(reg) product.a.at => _, b0 = inout(reg) columns[0] => _, b1 = inout(reg) columns[1] => _,
            o = in(reg) TILE_K * product.b.k_stride * size_of::<bf16>(),
            n = inout(reg) product.a.steps => _,
            s = in(reg) product.a.stride * size_of::<bf16>(), t = in(reg) 64usize, u = in(reg) 4 * BLOCK,
            c = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}
