//! Rotary embedding in the half-split form of Qwen2 (`rotate_half`).

use crate::pool::Pool;
use crate::simd::Elem;
use crate::view::{Kind, View};
use half::bf16;

/// Rows of a task.
const ROWS: usize = 16;

/// Rotate the first `heads * head_dim` columns of each row by its position, `first` for row 0.
///
/// This is a small part of a layer's work; the loop is plain and vectorises by itself.
pub(crate) fn rope(pool: &Pool, x: View, heads: usize, head_dim: usize, base: f32, first: usize) {
    let half = head_dim / 2;
    // As the reference does: inverse frequencies and angles in f32.
    let inverse: Vec<f32> = (0..half).map(|i| 1.0 / base.powf((2 * i) as f32 / head_dim as f32)).collect();
    pool.run(x.rows.div_ceil(ROWS), &|task| {
        let mut angles = vec![(0.0f32, 0.0f32); half];
        for row in task * ROWS..x.rows.min((task + 1) * ROWS) {
            for (angle, &f) in angles.iter_mut().zip(&inverse) {
                let theta = (first + row) as f32 * f;
                *angle = (theta.cos(), theta.sin());
            }
            // SAFETY: the row is in the tensor and belongs to this task; the type is the view's.
            unsafe {
                match x.kind {
                    Kind::Bf16 => {
                        rotate(std::slice::from_raw_parts_mut(x.row::<bf16>(row), x.cols), heads, &angles)
                    }
                    _ => rotate(std::slice::from_raw_parts_mut(x.row::<f32>(row), x.cols), heads, &angles),
                }
            }
        }
    });
}

fn rotate<E: Elem>(row: &mut [E], heads: usize, angles: &[(f32, f32)]) {
    let half = angles.len();
    for head in row.chunks_exact_mut(2 * half).take(heads) {
        let (low, high) = head.split_at_mut(half);
        for ((a, b), &(cos, sin)) in low.iter_mut().zip(high).zip(angles) {
            let (x, y) = (a.to_f32(), b.to_f32());
            *a = E::from_f32(x * cos - y * sin);
            *b = E::from_f32(y * cos + x * sin);
        }
    }
}
