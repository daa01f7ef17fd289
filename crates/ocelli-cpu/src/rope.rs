//! Rotary embedding in the half-split form of Qwen2 (`rotate_half`).

use crate::Isa;
use crate::pool::Pool;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::View;

/// Rows of a task.
const ROWS: usize = 16;

/// Rotate the first `heads * head_dim` columns of each row by its position, `first` for row 0.
pub(crate) fn rope(isa: Isa, pool: &Pool, x: View, heads: usize, head_dim: usize, base: f32, first: usize) {
    let half = head_dim / 2;
    // As the reference does: inverse frequencies and angles in f32.
    let inverse: Vec<f32> = (0..half).map(|i| 1.0 / base.powf((2 * i) as f32 / head_dim as f32)).collect();
    pool.run(x.rows.div_ceil(ROWS), &|task| {
        for row in task * ROWS..x.rows.min((task + 1) * ROWS) {
            let angles = inverse.iter().map(|&f| (first + row) as f32 * f);
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|theta| (theta.cos(), theta.sin())).unzip();
            isa.dispatch(RowTask { x, row, heads, cos: &cos, sin: &sin });
        }
    });
}

/// One row with the cosines and sines of its position, half a head of them.
struct RowTask<'a> {
    x: View,
    row: usize,
    heads: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for RowTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let half = self.cos.len();
        for head in 0..self.heads {
            for i in (0..half).step_by(LANES) {
                let n = LANES.min(half - i);
                let (low, high) = (head * 2 * half + i, head * 2 * half + half + i);
                // SAFETY: the row belongs to this task; `i + n <= half`.
                unsafe {
                    let cos = S::load_partial(self.cos.as_ptr().add(i), n);
                    let sin = S::load_partial(self.sin.as_ptr().add(i), n);
                    let x = self.x.load::<S>(self.row, low, n);
                    let y = self.x.load::<S>(self.row, high, n);
                    self.x.store::<S>(self.row, low, n, S::sub(S::mul(x, cos), S::mul(y, sin)));
                    self.x.store::<S>(self.row, high, n, S::fma(x, sin, S::mul(y, cos)));
                }
            }
        }
    }
}
