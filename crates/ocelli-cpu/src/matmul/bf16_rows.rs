//! Products with bf16 matrices, pairs of `k` at a time: the rows that they take, and who multiplies.
//!
//! A packed panel is a run of operand tiles of AMX, sixteen columns by 32 `k`, pairs of `k` interleaved; each pair of
//! sixteen columns is one operand of AVX-512's bf16 extension as well. The left rows are staged in bf16 with a padded
//! stride, so that they fall into different cache sets.

use half::bf16;

use super::amx_tiles::TILE;
use super::block_walk::BLOCK;
use super::epilogue::{Epilogue, Outputs};
use super::tile::{Columns, Source};
use super::{bf16_pairs, bf16_tiles};
use crate::Isa;
use crate::simd::{LANES, Simd};
use crate::view::{Kind, View};

/// `k` of one operand tile.
pub(super) const TILE_K: usize = 32;

/// What multiplies bf16 by bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BfUnit {
    /// AMX.
    Tiles,
    /// AVX-512 with its bf16 extension.
    Pairs,
}

impl BfUnit {
    /// What these kernels have for it.
    pub(crate) fn of(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Amx => Some(Self::Tiles),
            Isa::Avx512Bf16 => Some(Self::Pairs),
            _ => None,
        }
    }

    /// Rows that a block should have a multiple of, or its last tile is computed for nothing.
    pub(super) fn row_step(self) -> usize {
        match self {
            Self::Tiles => BLOCK,
            Self::Pairs => 2,
        }
    }
}

/// Rows of the left factor in bf16, `k` padded with zeros to whole operand tiles.
#[derive(Clone, Copy)]
pub(crate) struct BfRows {
    pub(super) at: *const bf16,
    pub(super) stride: usize,
    pub(super) rows: usize,
    /// Operand tiles a row.
    pub(super) steps: usize,
    unit: BfUnit,
}

impl BfRows {
    /// What they were staged for.
    pub(crate) fn unit(self) -> BfUnit {
        self.unit
    }

    /// Distance between staged rows: an odd number of cache lines.
    fn stride(k: usize) -> usize {
        (k.div_ceil(TILE_K) | 1) * TILE_K
    }

    /// Values that `rows` staged rows take. Rows beyond the last whole tile are read, never used.
    pub(crate) fn len(rows: usize, k: usize) -> usize {
        rows.next_multiple_of(BLOCK) * Self::stride(k)
    }

    /// Staged rows as a view to write to.
    pub(crate) fn view(at: *mut bf16, rows: usize, k: usize) -> View {
        View { at: at.cast(), rows, cols: k, stride: Self::stride(k), kind: Kind::Bf16 }
    }

    /// Rows that were written through [`Self::view`].
    ///
    /// # Safety
    /// `at` is valid for `Self::len(rows, k)` values.
    #[inline(always)]
    pub(crate) unsafe fn written(at: *mut bf16, rows: usize, k: usize, unit: BfUnit) -> Self {
        let (stride, steps) = (Self::stride(k), k.div_ceil(TILE_K));
        for r in 0..rows {
            // SAFETY: `steps * TILE_K <= stride`.
            unsafe { std::ptr::write_bytes(at.add(r * stride + k), 0, steps * TILE_K - k) };
        }
        Self { at, stride, rows, steps, unit }
    }

    /// Rows of a view: in place where tiles can read them so, otherwise copied and rounded to bf16.
    ///
    /// # Safety
    /// The rows are in the view; `to` is valid for `Self::len(rows, x.cols)` values; the CPU has `S`.
    #[inline(always)]
    pub(crate) unsafe fn stage<S: Simd>(
        x: View,
        first: usize,
        rows: usize,
        to: *mut bf16,
        unit: BfUnit,
    ) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            if Self::in_place(x, rows, unit) {
                let at = x.row::<bf16>(first).cast_const();
                return Self { at, stride: x.stride, rows, steps: x.cols / TILE_K, unit };
            }
            let staged = Self::view(to, rows, x.cols);
            for r in 0..rows {
                for c in (0..x.cols).step_by(LANES) {
                    let n = LANES.min(x.cols - c);
                    staged.store::<S>(r, c, n, x.load::<S>(first + r, c, n));
                }
            }
            Self::written(to, rows, x.cols, unit)
        }
    }

    /// Whether rows are multiplied in blocks of two tiles.
    pub(super) fn has_blocks(self) -> bool {
        self.unit == BfUnit::Tiles && self.rows > TILE
    }

    /// Panels that a tile of these rows is wide.
    pub(super) fn panels_together(self) -> usize {
        match self.unit {
            BfUnit::Tiles => 2,
            BfUnit::Pairs => 4,
        }
    }

    /// Whether the rows can be read where they are: bf16, whole tiles, and a stride that spreads
    /// sixteen rows over at least four sets of the first-level cache.
    fn in_place(x: View, rows: usize, unit: BfUnit) -> bool {
        let lines = x.stride / TILE_K;
        let whole = x.cols.is_multiple_of(TILE_K) && x.stride.is_multiple_of(TILE_K);
        // The last block begins where it ends with the last row.
        let whole_rows = unit == BfUnit::Pairs || rows >= BLOCK;
        x.kind == Kind::Bf16 && whole && whole_rows && !lines.is_multiple_of(32)
    }
}

/// Multiply all rows with some panels.
///
/// # Safety
/// Rows and panels are readable, the epilogue may write its outputs, the CPU has `S` and the unit that the rows were
/// staged for.
#[inline(always)]
pub(crate) unsafe fn product<S: Simd, E: Epilogue>(a: BfRows, b: Columns<bf16>, outputs: Outputs<E>) {
    // SAFETY: the caller's promise.
    unsafe { product_from::<S, E>(a, b, b.source(), outputs) }
}

/// The same with panels that come from somewhere: the next ones are asked for there.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
pub(super) unsafe fn product_from<S: Simd, E: Epilogue>(
    a: BfRows,
    b: Columns<bf16>,
    source: Source,
    outputs: Outputs<E>,
) {
    if !S::BF16_PRODUCTS {
        unreachable!("rows are staged in bf16 for CPUs that multiply it");
    }
    // SAFETY: the caller's promise.
    unsafe {
        match a.unit {
            BfUnit::Tiles => S::call(bf16_tiles::Product { a, b, outputs }),
            BfUnit::Pairs => S::call(bf16_pairs::Product { a, b, source, outputs }),
        }
    }
}
