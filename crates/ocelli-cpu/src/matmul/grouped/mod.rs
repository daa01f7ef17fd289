//! Products of several rows with quantized matrices, on activations of 8 bits.
//!
//! Where a CPU sums products of bytes four at a time, a prompt is bound by arithmetic that bytes halve. So each 32
//! values of a row get codes and a scale of their own, their largest magnitude over 127, as each 32 weights have one:
//! a value far from the others costs its neighbours their precision, not the whole row. An output is a sum over groups,
//! in order, of fused multiply-adds of `sum of products of codes`, exact, and `row scale * column scale`. So a row has the
//! same bits whatever the rows beside it and the instruction set, as long as it is not alone: a single row is bound by
//! memory, and keeps its activations as they are ([`super::blocks`]) or in 16 bits.
//!
//! Two panels at a time are unpacked to bytes in scratch, four `k` of a column side by side; all rows go over them while
//! they stay in the second-level cache. Rows of a long `k` do not stay there with them, but more panels at a time, which
//! would read those rows less often, brought nothing.

mod panels;
mod rows;
mod sums;

use ocelli_plan::BlockFormat;
pub(super) use panels::Unpack;
use panels::{PANEL_GROUP, unpack};
#[cfg(target_arch = "x86_64")]
pub(super) use rows::load_group;
pub(crate) use rows::{GroupedRows, Staging};
use sums::sums;

use super::blocks::{Blocks, Q4, Q8};
use super::epilogue::{Epilogue, Outputs};
use super::tile::Ahead;
use crate::pack::{Matrix, Stored};
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};

/// Rows whose sums are kept in registers.
const ROWS: usize = 4;
/// Sums of a row of a block, those of two panels.
const BLOCK: usize = 2 * LANES;

/// The product with some panels of a matrix in blocks.
///
/// # Safety
/// As for [`super::multiply`].
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, E: Epilogue>(a: GroupedRows, weight: &Matrix, outputs: Outputs<E>) {
    // SAFETY: the caller's promise.
    unsafe {
        match weight.stored() {
            Stored::Blocks(BlockFormat::Q8) => S::call(Product { a, b: weight.blocks::<Q8>(), outputs }),
            Stored::Blocks(BlockFormat::Q4) => S::call(Product { a, b: weight.blocks::<Q4>(), outputs }),
            _ => unreachable!("rows are staged for their weight"),
        }
    }
}

/// The product of all rows with some panels. To run it, rows and panels must be readable, the epilogue may write its
/// outputs, and the CPU has what the rows were staged for.
struct Product<'a, C, E> {
    a: GroupedRows,
    b: Blocks<C>,
    outputs: Outputs<'a, E>,
}

impl<C: Unpack, E: Epilogue> Kernel for Product<'_, C, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { a, b, outputs } = self;
        let panel_bytes = a.groups * PANEL_GROUP;
        let mut memory = Scratch::take((2 * panel_bytes).div_ceil(size_of::<f32>()));
        let first: *mut u8 = memory.as_mut_ptr().cast();
        // SAFETY: the caller's promise; the scratch holds two panels, of which one alone is there twice.
        unsafe {
            for panel in outputs.panels.clone().step_by(2) {
                let count = 2.min(outputs.panels.end - panel);
                let last = first.add((count - 1) * panel_bytes);
                unpack::<S, C>(b, panel, first);
                if count == 2 {
                    unpack::<S, C>(b, panel + 1, last);
                }
                let ahead = Ahead::new(b.source(), panel + 2, 2, a.rows.div_ceil(ROWS));
                multiply_pair::<S, E>(a, [first, last], ahead, panel, count, &outputs);
            }
        }
    }
}

/// All rows with two unpacked panels from `panel` on, of which `count` count.
///
/// # Safety
/// As for [`Product`].
#[inline(always)]
unsafe fn multiply_pair<S: Simd, E: Epilogue>(
    a: GroupedRows,
    unpacked: [*mut u8; 2],
    ahead: Ahead,
    panel: usize,
    count: usize,
    outputs: &Outputs<E>,
) {
    // The epilogue of a block comes after the sums of the next, so that neither waits for the other.
    let mut blocks = [[0.0; ROWS * BLOCK]; 2];
    let tiles = a.rows.div_ceil(ROWS);
    for tile in 0..=tiles {
        // SAFETY: the caller's promise.
        unsafe {
            if tile < tiles {
                let (row, rows) = rows_of(a, tile);
                ahead.ask::<S>(tile);
                outputs.ask::<S>(row, rows, panel, count);
                let codes = a.at.add(row * a.stride);
                let panels = unpacked.map(|panel| panel.cast_const());
                sums(a.unit, codes, a.stride, rows, panels, a.groups, blocks[tile % 2].as_mut_ptr());
            }
            if tile > 0 {
                let (row, rows) = rows_of(a, tile - 1);
                take::<S, E>(&blocks[(tile - 1) % 2], row, rows, panel, count, outputs);
            }
        }
    }
}

/// The first row of a tile, and how many it has.
fn rows_of(a: GroupedRows, tile: usize) -> (usize, usize) {
    let row = tile * ROWS;
    (row, ROWS.min(a.rows - row))
}

/// Hand a block of sums to the epilogue.
///
/// # Safety
/// It may write its outputs; the CPU has `S`.
#[inline(always)]
unsafe fn take<S: Simd, E: Epilogue>(
    block: &[f32; ROWS * BLOCK],
    row: usize,
    rows: usize,
    panel: usize,
    count: usize,
    outputs: &Outputs<E>,
) {
    // SAFETY: the caller's promise; so many rows and panels there are.
    unsafe {
        if (rows, count) == (ROWS, 2) {
            return take_rows::<S, E, ROWS, 2>(block.as_ptr(), row, panel, outputs);
        }
        for i in 0..rows {
            let sums = block.as_ptr().add(i * BLOCK);
            match count {
                2 => take_rows::<S, E, 1, 2>(sums, row + i, panel, outputs),
                _ => take_rows::<S, E, 1, 1>(sums, row + i, panel, outputs),
            }
        }
    }
}

/// # Safety
/// As for [`take`].
#[inline(always)]
unsafe fn take_rows<S: Simd, E: Epilogue, const MR: usize, const NP: usize>(
    sums: *const f32,
    row: usize,
    panel: usize,
    outputs: &Outputs<E>,
) {
    // SAFETY: the caller's promise: `MR` rows of a block.
    unsafe {
        let mut values = [[S::zero(); NP]; MR];
        for i in 0..MR {
            for p in 0..NP {
                values[i][p] = S::load(sums.add(i * BLOCK + p * LANES));
            }
        }
        outputs.take::<S, MR, NP>(row, panel, &values);
    }
}
