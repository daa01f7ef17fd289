//! Products with bf16 matrices on AVX-512 with its bf16 extension (AMD from Zen 4, Intel from Cooper Lake).
//!
//! The register tile is that of [`super::tile`], but each step multiplies a pair of `k`: the left pair is one 32-bit
//! word for all lanes, the right one a line of a panel as it is packed. More panels than rows a tile: each word of the
//! left is then used four times.

use half::bf16;

use super::bf16_rows::{BfRows, TILE_K};
use super::epilogue::{Epilogue, Outputs};
use super::tile::{Ahead, Columns, PREFETCH_BYTES, Source};
use crate::simd::{Kernel, LANES, Simd};

/// Rows of a tile.
const ROWS: usize = 6;
/// Values of a pair of `k` of one panel: a cache line.
const LINE: usize = 2 * LANES;

/// The product of all rows with some panels, where a CPU multiplies pairs: see [`super::bf16_rows::product`].
pub(super) struct Product<'a, E> {
    pub(super) a: BfRows,
    pub(super) b: Columns<bf16>,
    pub(super) source: Source,
    pub(super) outputs: Outputs<'a, E>,
}

impl<E: Epilogue> Kernel for Product<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { a, b, source, outputs } = self;
        let (mut panel, end) = (outputs.panels.start, outputs.panels.end);
        // SAFETY: the caller's promise, for each part.
        unsafe {
            while panel + 4 <= end {
                row_tiles::<S, E, 4>(a, b, source, panel, &outputs);
                panel += 4;
            }
            while panel + 2 <= end {
                row_tiles::<S, E, 2>(a, b, source, panel, &outputs);
                panel += 2;
            }
            if E::GROUP == 1 && panel < end {
                row_tiles::<S, E, 1>(a, b, source, panel, &outputs);
            }
        }
    }
}

/// All rows against `NP` panels.
#[inline(always)]
unsafe fn row_tiles<S: Simd, E: Epilogue, const NP: usize>(
    a: BfRows,
    b: Columns<bf16>,
    source: Source,
    panel: usize,
    outputs: &Outputs<E>,
) {
    let ahead = Ahead::new(source, panel + NP, NP, a.rows.div_ceil(ROWS) * a.steps);
    let mut r = 0;
    while r < a.rows {
        // SAFETY: the tile's rows are among `a.rows`.
        r += unsafe {
            match a.rows - r {
                ROWS.. => tile::<S, E, ROWS, NP>(a, b, r, panel, ahead, outputs),
                5 => tile::<S, E, 5, NP>(a, b, r, panel, ahead, outputs),
                4 => tile::<S, E, 4, NP>(a, b, r, panel, ahead, outputs),
                3 => tile::<S, E, 3, NP>(a, b, r, panel, ahead, outputs),
                2 => tile::<S, E, 2, NP>(a, b, r, panel, ahead, outputs),
                _ => tile::<S, E, 1, NP>(a, b, r, panel, ahead, outputs),
            }
        };
    }
}

/// `MR` rows from row `r` times `NP` panels from `panel`; returns `MR`.
#[inline(always)]
unsafe fn tile<S: Simd, E: Epilogue, const MR: usize, const NP: usize>(
    a: BfRows,
    b: Columns<bf16>,
    r: usize,
    panel: usize,
    ahead: Ahead,
    outputs: &Outputs<E>,
) -> usize {
    // SAFETY: the caller's promise: rows `r..r + MR`, panels `panel..panel + NP`, all operand tiles.
    unsafe {
        outputs.ask::<S>(r, MR, panel, NP);
        let mut sums = [[S::zero(); NP]; MR];
        let rows = a.at.add(r * a.stride);
        let columns = b.at.add((panel - b.first) * b.panel_stride);
        for step in 0..a.steps {
            if MR > 1 {
                ahead.ask::<S>(r / ROWS * a.steps + step);
            }
            let x = rows.add(step * TILE_K);
            let at = columns.add(step * TILE_K * b.k_stride);
            for pair in 0..TILE_K / 2 {
                let mut lines = [S::zero(); NP];
                for p in 0..NP {
                    let line = at.add(p * b.panel_stride + pair * LINE);
                    if MR == 1 {
                        // Bound by memory: where pages are small, the hardware stops at the end of each.
                        S::prefetch(line.cast::<u8>().wrapping_add(PREFETCH_BYTES));
                    }
                    lines[p] = S::load(line.cast());
                }
                for i in 0..MR {
                    let word = S::splat(x.add(i * a.stride + 2 * pair).cast::<f32>().read_unaligned());
                    for p in 0..NP {
                        sums[i][p] = S::add_bf16_pairs(sums[i][p], word, lines[p]);
                    }
                }
            }
        }
        outputs.take::<S, MR, NP>(r, panel, &sums);
    }
    MR
}
