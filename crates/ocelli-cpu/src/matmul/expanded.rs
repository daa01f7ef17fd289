//! Products of several rows with matrices that are kept as codes, where bf16 is multiplied by bf16: some panels are
//! expanded once for all rows, in scratch that stays in the second-level cache. Blocks of AMX tiles have them expanded as
//! they go: see [`bf16_tiles`].

use std::ops::Range;

use half::bf16;

use super::bf16_rows::{self, BfRows, TILE_K};
use super::bf16_tiles;
use super::epilogue::{Epilogue, Outputs};
use super::tile::{Columns, Source};
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};

/// Panels of sixteen columns that are kept as codes.
pub(super) trait Encoded: Copy {
    /// Values of an expanded panel, `k` padded with zeros to whole groups.
    fn panel_len(self) -> usize;

    /// Where the codes are.
    fn source(self) -> Source;

    /// Where the codes of a group of 32 `k` are, which may be beyond the last, and the bytes to those of the next.
    fn group(self, panel: usize, group: usize) -> (*const u8, usize);

    /// Write groups of a panel in bf16, pairs of `k` interleaved.
    ///
    /// # Safety
    /// They exist; room for them at `to`; the CPU has `S`.
    unsafe fn expand<S: Simd>(self, panel: usize, groups: Range<usize>, to: *mut bf16);
}

/// The product of all rows with some panels, a few at a time. To run it, rows and panels must be readable, the epilogue
/// may write its outputs, and the CPU has the unit that the rows were staged for.
pub(super) struct Product<'a, B, E> {
    pub(super) a: BfRows,
    pub(super) b: B,
    pub(super) outputs: Outputs<'a, E>,
}

impl<B: Encoded, E: Epilogue> Kernel for Product<'_, B, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { a, b, outputs } = self;
        if a.has_blocks() {
            // SAFETY: the caller's promise.
            return unsafe { bf16_tiles::product_of_codes::<S, B, E>(a, b, outputs) };
        }
        let (panel_len, together) = (b.panel_len(), a.panels_together());
        let mut memory = Scratch::take((together * panel_len).div_ceil(2));
        let expanded: *mut bf16 = memory.as_mut_ptr().cast();
        for first in outputs.panels.clone().step_by(together) {
            let panels = first..outputs.panels.end.min(first + together);
            // SAFETY: the caller's promise; the scratch holds these panels in bf16.
            unsafe {
                for panel in panels.clone() {
                    let to = expanded.add((panel - first) * panel_len);
                    b.expand::<S>(panel, 0..panel_len / (TILE_K * LANES), to);
                }
                let columns =
                    Columns { at: expanded.cast_const(), panel_stride: panel_len, k_stride: LANES, first };
                bf16_rows::product_from::<S, E>(a, columns, b.source(), Outputs { panels, ..outputs });
            }
        }
    }
}
