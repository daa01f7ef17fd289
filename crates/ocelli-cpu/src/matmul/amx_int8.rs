//! Products of 8-bit codes on AMX, with the same tiles as [`super::amx`]: one operand tile holds 64 `k`.
//!
//! The epilogue of a block of 32 by 32 sums runs between the tile instructions of the next block, so that vector and
//! tile units work at the same time.

use std::arch::asm;

use super::amx::Tiles;
use super::epilogue::Epilogue;
use super::int8::{BLOCK, Columns8, Finished, OPERAND, Rows8, TILE_K};
use crate::scratch::Scratch;
use crate::simd::Simd;

/// Rows or columns of one tile.
const TILE: usize = 16;
/// Operand tiles that go through two panels before the next rows do: these stay in the first-level cache.
const STEPS: usize = 16;

/// As [`super::int8::product`].
///
/// # Safety
/// Rows and panels are readable, the epilogue may write its outputs, the CPU has `S` and AMX with 8-bit integers.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, E: Epilogue>(
    a: Rows8,
    b: Columns8,
    panels: std::ops::Range<usize>,
    epilogue: &E,
    first_row: usize,
) {
    let blocks = a.rows.div_ceil(BLOCK);
    // Sums of a block are taken while those of the next are made.
    let slots = if a.steps <= STEPS { 2 } else { blocks + 1 };
    let mut memory = Scratch::take(slots * BLOCK * BLOCK);
    let sums: *mut i32 = memory.as_mut_ptr().cast();
    let mut slot = 0;
    let mut before = Finished::nothing();
    // SAFETY: the tiles read whole blocks, for which rows are padded; each block has a slot of its own until it is
    // taken.
    unsafe {
        let _tiles = Tiles::configure(TILE);
        let mut panel = panels.start;
        while panel < panels.end {
            let count = 2.min(panels.end - panel);
            let (b0, b1) = (b.codes(panel), b.codes(panel + count - 1));
            let first_slot = slot;
            for first in (0..a.steps).step_by(STEPS) {
                let steps = STEPS.min(a.steps - first);
                for block in 0..blocks {
                    slot = (first_slot + block) % slots;
                    let to = sums.add(slot * BLOCK * BLOCK);
                    let row = block * BLOCK;
                    if first == 0 { clear() } else { load(to) }
                    let left = a.at.add(row * a.stride + first * TILE_K);
                    let (b0, b1) = (b0.add(first * OPERAND), b1.add(first * OPERAND));
                    for step in 0..steps {
                        let (x, k) = (left.add(step * TILE_K), step * OPERAND);
                        multiply(x, x.add(TILE * a.stride), a.stride, b0.add(k), b1.add(k));
                        before.up_to::<S, E>((step + 1) * BLOCK / steps, epilogue, first_row);
                    }
                    store(to);
                    if first + steps == a.steps {
                        before = Finished::new(to, a, b, row, panel, count);
                    }
                }
            }
            slot = (first_slot + blocks) % slots;
            panel += count;
        }
        before.all::<S, E>(epilogue, first_row);
    }
}

#[inline(always)]
unsafe fn clear() {
    // SAFETY: the caller has configured the tiles.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Sums of a block from memory.
#[inline(always)]
unsafe fn load(sums: *const i32) {
    // SAFETY: the caller has configured the tiles and has a block at `sums`.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c} + {s}*1]",
            "tileloadd tmm1, [{c} + {s}*1 + 64]",
            "tileloadd tmm2, [{d} + {s}*1]",
            "tileloadd tmm3, [{d} + {s}*1 + 64]",
            c = in(reg) sums, d = in(reg) sums.add(TILE * BLOCK), s = in(reg) 4 * BLOCK,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Sums of a block to memory.
#[inline(always)]
unsafe fn store(sums: *mut i32) {
    // SAFETY: the caller has configured the tiles and has room for a block at `sums`.
    unsafe {
        asm!(
            "tilestored [{c} + {s}*1], tmm0",
            "tilestored [{c} + {s}*1 + 64], tmm1",
            "tilestored [{d} + {s}*1], tmm2",
            "tilestored [{d} + {s}*1 + 64], tmm3",
            c = in(reg) sums, d = in(reg) sums.add(TILE * BLOCK), s = in(reg) 4 * BLOCK,
            options(nostack, preserves_flags)
        );
    }
}

/// Add the products of two tiles of rows with two of columns to tiles 0 to 3.
#[inline(always)]
unsafe fn multiply(upper: *const i8, lower: *const i8, stride: usize, b0: *const i8, b1: *const i8) {
    // SAFETY: the caller has configured the tiles and has operands at all four places.
    unsafe {
        asm!(
            "tileloadd tmm4, [{upper} + {s}*1]",
            "tileloadd tmm6, [{b0} + {t}*1]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {t}*1]",
            "tdpbssd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {s}*1]",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            upper = in(reg) upper, lower = in(reg) lower, b0 = in(reg) b0, b1 = in(reg) b1,
            s = in(reg) stride, t = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}
