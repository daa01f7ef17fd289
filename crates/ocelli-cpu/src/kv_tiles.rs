//! Keys and values of one head in bf16, laid out as operands of bf16 products (see
//! [`crate::matmul::bf16_rows`]).

use std::arch::x86_64::*;
use std::array::from_fn;

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
    /// The columns are in the tensor, which is of bf16; the CPU has AVX-512, as all that multiply bf16 have.
    pub(crate) unsafe fn append(&mut self, first: usize, qkv: View, k: usize, v: usize) {
        let whole = (first + qkv.rows).next_multiple_of(TILE_K);
        self.keys.resize(whole / LANES * self.key_lines(), ZERO);
        self.values.resize(whole / TILE_K * self.dim, ZERO);
        let mut row = 0;
        while row < qkv.rows {
            let position = first + row;
            // SAFETY: the caller's promise; so many rows are left.
            unsafe {
                let at = |i: usize, col: usize| qkv.row::<bf16>(row + i).add(col).cast_const();
                if position.is_multiple_of(LANES) && qkv.rows - row >= LANES {
                    self.put_sixteen(position, from_fn(|i| at(i, k)), from_fn(|i| at(i, v)));
                    row += LANES;
                } else {
                    self.put(position, at(0, k), at(0, v));
                    row += 1;
                }
            }
        }
    }

    /// Lines of the keys of sixteen positions.
    fn key_lines(&self) -> usize {
        self.dim.div_ceil(TILE_K) * LANES
    }

    /// One position.
    ///
    /// # Safety
    /// There is room for it; key and value have `dim` values.
    unsafe fn put(&mut self, position: usize, key: *const bf16, value: *const bf16) {
        // SAFETY: the caller's promise.
        let (key, value) = unsafe {
            (std::slice::from_raw_parts(key, self.dim), std::slice::from_raw_parts(value, self.dim))
        };
        let at = position / LANES * self.key_lines();
        let column = 2 * (position % LANES);
        for (line, pair) in self.keys[at..].iter_mut().zip(key.chunks_exact(2)) {
            line.0[column..column + 2].copy_from_slice(pair);
        }
        let lines = &mut self.values[position / TILE_K * self.dim..][..self.dim];
        let (pair, half) = (position % TILE_K / 2, position % 2);
        for (panel, values) in value.chunks_exact(LANES).enumerate() {
            let line = &mut lines[panel * LANES + pair].0;
            for (to, &value) in line[half..].iter_mut().step_by(2).zip(values) {
                *to = value;
            }
        }
    }

    /// Sixteen positions, of which the first is a multiple of sixteen: whole lines.
    ///
    /// # Safety
    /// As for [`Self::put`]; the CPU has AVX-512.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn put_sixteen(
        &mut self,
        position: usize,
        keys: [*const bf16; LANES],
        values: [*const bf16; LANES],
    ) {
        let key_lines = self.key_lines();
        let lines = &mut self.keys[position / LANES * key_lines..][..key_lines];
        for (i, lines) in lines.chunks_exact_mut(LANES).enumerate() {
            let pairs = (self.dim / 2 - i * LANES).min(LANES);
            // SAFETY: the caller's promise: so many pairs of values from there on.
            unsafe { transpose(keys.map(|key| key.add(i * TILE_K).cast()), pairs, lines) };
        }
        let lines = &mut self.values[position / TILE_K * self.dim..][..self.dim];
        let first = position % TILE_K / 2;
        for (pair, rows) in values.chunks_exact(2).enumerate() {
            for panel in 0..self.dim / LANES {
                // SAFETY: the caller's promise: sixteen values of both rows.
                unsafe {
                    let [even, odd] = [0, 1].map(|i| rows[i].add(panel * LANES));
                    interleave(even, odd, &mut lines[panel * LANES + first + pair]);
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

/// Sixteen lines, of which each has a pair of every row: the first has the first `pairs` of them, zeros for the others.
///
/// # Safety
/// So many pairs at each of `rows`.
#[target_feature(enable = "avx512f")]
unsafe fn transpose(rows: [*const i32; LANES], pairs: usize, to: &mut [Line]) {
    let mask = (0xffff_u32 >> (LANES - pairs)) as u16;
    let (mut a, mut b) = ([_mm512_setzero_si512(); LANES], [_mm512_setzero_si512(); LANES]);
    for i in 0..LANES {
        // SAFETY: the caller's promise.
        a[i] = unsafe { _mm512_maskz_loadu_epi32(mask, rows[i]) };
    }
    for i in 0..LANES / 2 {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    // Quarter `q` of `a[4 * i + c]` is of pair `4 * q + c` and of rows from `4 * i` on.
    for i in 0..LANES / 4 {
        for half in 0..2 {
            let (low, high) = (b[4 * i + half], b[4 * i + half + 2]);
            a[4 * i + 2 * half] = _mm512_unpacklo_epi64(low, high);
            a[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(low, high);
        }
    }
    for c in 0..4 {
        let even = [0, 8].map(|i| _mm512_shuffle_i32x4::<0x88>(a[i + c], a[i + 4 + c]));
        let odd = [0, 8].map(|i| _mm512_shuffle_i32x4::<0xdd>(a[i + c], a[i + 4 + c]));
        b[c] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        b[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        b[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        b[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    for (line, words) in to.iter_mut().zip(b) {
        // SAFETY: a line is 64 bytes.
        unsafe { _mm512_storeu_si512(std::ptr::from_mut(line).cast(), words) };
    }
}

/// Sixteen values of two rows in turn.
///
/// # Safety
/// They are there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn interleave(even: *const bf16, odd: *const bf16, to: &mut Line) {
    let low = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    // Word `16 h + i` goes to word `2 i + h`.
    let order = _mm512_or_si512(low, _mm512_slli_epi32::<16>(_mm512_add_epi32(low, _mm512_set1_epi32(16))));
    // SAFETY: the caller's promise; a line is 64 bytes.
    unsafe {
        let (even, odd) = (_mm256_loadu_si256(even.cast()), _mm256_loadu_si256(odd.cast()));
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(even), odd);
        _mm512_storeu_si512(std::ptr::from_mut(to).cast(), _mm512_permutexvar_epi16(order, both));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Kind;

    /// Keys and values of so many positions, no two alike.
    fn rows(count: usize, dim: usize) -> Vec<bf16> {
        (0..count * 2 * dim).map(|i| bf16::from_bits(i as u16 + 1)).collect()
    }

    #[test]
    fn sixteen_at_a_time_equal_one_at_a_time() {
        if !is_x86_feature_detected!("avx512bw") {
            println!("this CPU has no AVX-512: not tested");
            return;
        }
        for dim in [16, 32, 48, 64, 80] {
            for (before, count) in [(0, 16), (0, 50), (3, 61), (16, 33), (31, 1)] {
                let mut values = rows(before + count, dim);
                let view = |first: usize, rows: usize, values: &mut [bf16]| View {
                    at: values[first * 2 * dim..].as_mut_ptr().cast(),
                    rows,
                    cols: 2 * dim,
                    stride: 2 * dim,
                    kind: Kind::Bf16,
                };
                let (mut all, mut each) = (KvTiles::new(dim), KvTiles::new(dim));
                // SAFETY: keys and values are columns of the rows, which are all there.
                unsafe {
                    all.append(0, view(0, before, &mut values), 0, dim);
                    all.append(before, view(before, count, &mut values), 0, dim);
                    for row in 0..before + count {
                        each.append(row, view(row, 1, &mut values), 0, dim);
                    }
                }
                let bits = |lines: &[Line]| -> Vec<u16> {
                    lines.iter().flat_map(|line| line.0).map(bf16::to_bits).collect()
                };
                assert_eq!(bits(&all.keys), bits(&each.keys), "{dim} wide, {before} and {count}");
                assert_eq!(bits(&all.values), bits(&each.values), "{dim} wide, {before} and {count}");
            }
        }
    }
}
