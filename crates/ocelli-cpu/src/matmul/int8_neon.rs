//! Sums of products of 8-bit codes on NEON: see [`super::int8_sums::sums`].

use std::arch::aarch64::*;
use std::arch::asm;

use super::block_walk::BLOCK;
use super::int8::TILE_K;
use crate::simd::LANES;

/// With dot products of four signed bytes: sixteen accumulators, a row of each four, and four columns each in a
/// register.
///
/// # Safety
/// As for [`super::int8_sums::sums`]; the CPU has dot products.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn dot(
    a: *const i8,
    stride: usize,
    rows: usize,
    b: [*const i8; 2],
    steps: usize,
    to: *mut i32,
) {
    for (p, panel) in b.into_iter().enumerate() {
        let mut row = 0;
        while row < rows {
            // SAFETY: a block has a multiple of four rows.
            row += unsafe {
                let (a, to) = (a.add(row * stride), to.add(row * BLOCK + p * LANES));
                if row + 1 == rows {
                    dot_rows::<1>(a, stride, panel, steps, to)
                } else {
                    dot_rows::<4>(a, stride, panel, steps, to)
                }
            };
        }
    }
}

/// `MR` rows by one panel; returns `MR`.
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot_rows<const MR: usize>(
    a: *const i8,
    stride: usize,
    panel: *const i8,
    steps: usize,
    to: *mut i32,
) -> usize {
    // SAFETY: the caller's promise: `MR` rows and a panel of whole tiles, so of whole sixteens of `k`.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 4]; MR];
        for k in (0..steps * TILE_K).step_by(16) {
            let mut x = [vdupq_n_s8(0); MR];
            for i in 0..MR {
                x[i] = vld1q_s8(a.add(i * stride + k));
            }
            let at = panel.add(k * LANES);
            add_four::<0, MR>(&x, at, &mut sums);
            add_four::<1, MR>(&x, at.add(4 * LANES), &mut sums);
            add_four::<2, MR>(&x, at.add(8 * LANES), &mut sums);
            add_four::<3, MR>(&x, at.add(12 * LANES), &mut sums);
        }
        for i in 0..MR {
            for c in 0..4 {
                vst1q_s32(to.add(i * BLOCK + 4 * c), sums[i][c]);
            }
        }
    }
    MR
}

/// Add the products of four `k`: the fourth `FOUR` of each row, sixteen columns at `at`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn add_four<const FOUR: i32, const MR: usize>(
    x: &[int8x16_t; MR],
    at: *const i8,
    sums: &mut [[int32x4_t; 4]; MR],
) {
    // SAFETY: the caller's promise. The intrinsic of the instruction is not stable.
    unsafe {
        for c in 0..4 {
            let columns = vld1q_s8(at.add(16 * c));
            for i in 0..MR {
                asm!(
                    "sdot {sum:v}.4s, {columns:v}.16b, {x:v}.4b[{four}]",
                    sum = inout(vreg) sums[i][c],
                    columns = in(vreg) columns,
                    x = in(vreg) x[i],
                    four = const FOUR,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
        }
    }
}

/// Without: two rows at a time, products of two columns in one register, added in pairs.
///
/// # Safety
/// As for [`super::int8_sums::sums`].
pub(super) unsafe fn widened(
    a: *const i8,
    stride: usize,
    rows: usize,
    b: [*const i8; 2],
    steps: usize,
    to: *mut i32,
) {
    for (p, panel) in b.into_iter().enumerate() {
        for row in (0..rows).step_by(2) {
            // SAFETY: a block has an even number of rows.
            unsafe {
                widened_rows(a.add(row * stride), stride, panel, steps, to.add(row * BLOCK + p * LANES))
            };
        }
    }
}

unsafe fn widened_rows(a: *const i8, stride: usize, panel: *const i8, steps: usize, to: *mut i32) {
    // SAFETY: the caller's promise: two rows, one panel.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 8]; 2];
        for quad in 0..steps * TILE_K / 4 {
            for (i, sums) in sums.iter_mut().enumerate() {
                let four = a.add(i * stride + 4 * quad).cast::<i32>().read_unaligned();
                let x = vreinterpret_s8_s32(vdup_n_s32(four));
                for (c, sum) in sums.iter_mut().enumerate() {
                    let columns = vld1_s8(panel.add(quad * 4 * LANES + 8 * c));
                    // No product of two bytes is beyond 16 bits, and pairs are added in 32.
                    *sum = vpadalq_s16(*sum, vmull_s8(columns, x));
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for c in 0..4 {
                vst1q_s32(to.add(i * BLOCK + 4 * c), vpaddq_s32(sums[2 * c], sums[2 * c + 1]));
            }
        }
    }
}
