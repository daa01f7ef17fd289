//! Matrix products `x W^T` with packed weights and fused epilogues.
//!
//! Every output value is one chain of fused multiply-adds over `k` in order, whatever the tile, the
//! number of rows or of threads. So a row's result does not depend on the rows beside it: prefill
//! equals decode, a batch equals its single items, one thread equals two, bit for bit.

mod epilogue;
mod tile;

use half::bf16;
use ocelli_plan::DType;

pub(crate) use epilogue::{Epilogue, Finish, GateUp};
pub(crate) use tile::{Columns, Rows, product};

use crate::pack::Matrix;
use crate::simd::{LANES, Simd};
use crate::view::View;

/// Rows that one task takes: its input and hidden rows stay in the second-level cache.
pub(crate) const ROW_BLOCK: usize = 64;

/// Distance between staged rows of `k` values: never a multiple of a page, or all rows of a tile
/// would compete for the same few cache sets.
pub(crate) fn padded_stride(k: usize) -> usize {
    k.next_multiple_of(LANES) + LANES
}

/// Copy rows to f32 memory with a padded stride.
///
/// # Safety
/// The rows are in the view; `to` is valid for `rows * padded_stride(x.cols)` values; the CPU has `S`.
#[inline(always)]
pub(crate) unsafe fn stage_rows<S: Simd>(x: View, first: usize, rows: usize, to: *mut f32) -> Rows {
    let stride = padded_stride(x.cols);
    for r in 0..rows {
        // SAFETY: the caller's promise.
        unsafe { x.widen::<S>(first + r, 0, x.cols, to.add(r * stride)) };
    }
    Rows { at: to, stride, rows, k: x.cols }
}

/// The product with some panels of a packed matrix, in the type that it is stored in.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd, E: Epilogue>(
    rows: Rows,
    weight: &Matrix,
    panels: std::ops::Range<usize>,
    epilogue: &E,
    first_row: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match weight.dtype() {
            DType::F32 => product::<S, f32, E>(rows, weight.columns(), panels, epilogue, first_row),
            DType::Bf16 => product::<S, bf16, E>(rows, weight.columns(), panels, epilogue, first_row),
        }
    }
}
