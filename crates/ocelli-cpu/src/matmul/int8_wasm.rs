//! Sums of products of 8-bit codes on WebAssembly: see [`super::int8_sums::sums`].

use std::arch::wasm32::*;

use super::block_walk::BLOCK;
use super::int8::TILE_K;
use crate::simd::LANES;

/// Rows of one pass.
const ROWS: usize = 2;
/// Registers of one pass and row. Each has two columns, two sums of pairs of `k` each: all of them, two rows of codes
/// and what comes from memory fit the sixteen registers of x86-64.
const PAIRS: usize = 4;

/// Two rows by eight columns at a time, bytes widened to 16 bits: their products are added in pairs without loss.
///
/// # Safety
/// As for [`super::int8_sums::sums`].
pub(super) unsafe fn sums(
    a: *const i8,
    stride: usize,
    rows: usize,
    b: [*const i8; 2],
    steps: usize,
    to: *mut i32,
) {
    for (p, panel) in b.into_iter().enumerate() {
        for col in (0..LANES).step_by(2 * PAIRS) {
            for row in (0..rows).step_by(ROWS) {
                // SAFETY: a block has an even number of rows.
                unsafe {
                    let to = to.add(row * BLOCK + p * LANES + col);
                    two_rows(a.add(row * stride), stride, panel.add(4 * col), steps, to);
                }
            }
        }
    }
}

/// Two rows by the eight columns at `columns`.
#[inline(always)]
unsafe fn two_rows(a: *const i8, stride: usize, columns: *const i8, steps: usize, to: *mut i32) {
    // SAFETY: the caller's promise: two rows, one panel.
    unsafe {
        let mut sums = [[i32x4_splat(0); PAIRS]; ROWS];
        for quad in 0..steps * TILE_K / 4 {
            let codes = |row: usize| {
                let four = v128_load32_splat(a.add(row * stride + 4 * quad).cast());
                i16x8_extend_low_i8x16(four)
            };
            let x = [codes(0), codes(1)];
            for pair in 0..PAIRS {
                let two = i16x8_load_extend_i8x8(columns.add((quad * LANES + 2 * pair) * 4));
                for (x, sums) in x.iter().zip(&mut sums) {
                    sums[pair] = i32x4_add(sums[pair], i32x4_dot_i16x8(*x, two));
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for four in 0..PAIRS / 2 {
                let (low, high) = (sums[2 * four], sums[2 * four + 1]);
                let even = i32x4_shuffle::<0, 2, 4, 6>(low, high);
                let odd = i32x4_shuffle::<1, 3, 5, 7>(low, high);
                v128_store(to.add(row * BLOCK + 4 * four).cast(), i32x4_add(even, odd));
            }
        }
    }
}
