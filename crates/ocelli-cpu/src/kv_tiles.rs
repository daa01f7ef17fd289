//! Keys and values of one head in bf16, laid out as operands of bf16 products (see
//! [`crate::matmul::bf16_rows`]).

use half::bf16;

use crate::matmul::Columns;
use crate::simd::LANES;
use crate::view::View;

/// Values of `k` that one operand tile holds: in sixteen lines, each with a pair of them for sixteen columns.
const TILE_K: usize = 32;

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([bf16; TILE_K]);

const ZERO: Line = Line([bf16::ZERO; TILE_K]);

/// Keys are the columns of one product, with `dim` as its `k`; values are those of another, with positions as its `k`.
#[derive(Debug, Clone)]
pub(crate) struct KvTiles {
    dim: usize,
    /// `[positions / 16][dim / 32][16 pairs][16 positions]`
    keys: Vec<Line>,
    /// `[positions / 32][dim / 16][16 pairs of positions][16]`
    values: Vec<Line>,
}

impl KvTiles {
    /// Nothing yet. `dim` must be a multiple of sixteen when something is appended.
    pub(crate) fn new(dim: usize) -> Self {
        Self { dim, keys: Vec::new(), values: Vec::new() }
    }

    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// Put the rows of `qkv` at the positions from `first` on, with keys from column `k` and values from column `v`.
    ///
    /// # Safety
    /// The columns are in the tensor, which is of bf16.
    pub(crate) unsafe fn append(&mut self, first: usize, qkv: View, k: usize, v: usize) {
        let dim = self.dim;
        let (key_lines, value_lines) = (dim.div_ceil(TILE_K) * LANES, dim);
        let whole = (first + qkv.rows).next_multiple_of(TILE_K);
        self.keys.resize(whole / LANES * key_lines, ZERO);
        self.values.resize(whole / TILE_K * value_lines, ZERO);
        for row in 0..qkv.rows {
            let position = first + row;
            // SAFETY: the caller's promise.
            let (key, value): (&[bf16], &[bf16]) = unsafe {
                let row = qkv.row::<bf16>(row).cast_const();
                (std::slice::from_raw_parts(row.add(k), dim), std::slice::from_raw_parts(row.add(v), dim))
            };
            let lines = &mut self.keys[position / LANES * key_lines..][..dim / 2];
            let column = 2 * (position % LANES);
            for (line, pair) in lines.iter_mut().zip(key.chunks_exact(2)) {
                line.0[column..column + 2].copy_from_slice(pair);
            }
            let lines = &mut self.values[position / TILE_K * value_lines..][..value_lines];
            let (pair, half) = (position % TILE_K / 2, position % 2);
            for (panel, values) in value.chunks_exact(LANES).enumerate() {
                let line = &mut lines[panel * LANES + pair].0;
                for (to, &value) in line[half..].iter_mut().step_by(2).zip(values) {
                    *to = value;
                }
            }
        }
    }

    /// Keys as columns: one a position, `dim` deep.
    pub(crate) fn keys(&self) -> Columns<bf16> {
        let panel_stride = self.dim.next_multiple_of(TILE_K) * LANES;
        Columns { at: self.keys.as_ptr().cast(), panel_stride, k_stride: LANES, first: 0 }
    }

    /// Values as columns: one a dimension, one deep for each position.
    pub(crate) fn values(&self) -> Columns<bf16> {
        let panel_stride = TILE_K * LANES;
        Columns { at: self.values.as_ptr().cast(), panel_stride, k_stride: self.dim, first: 0 }
    }
}
