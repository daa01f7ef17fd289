//! Layer norm and RMS norm, a row at a time.

use crate::Isa;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::View;

/// Rows of a task.
const ROWS: usize = 32;

/// What is divided out of each row.
#[derive(Clone, Copy)]
pub(crate) enum Norm<'a> {
    /// Mean and biased standard deviation.
    Layer { weight: &'a [f32], bias: &'a [f32] },
    /// Root mean square.
    Rms { weight: &'a [f32] },
}

pub(crate) fn norm(isa: Isa, pool: &Pool, x: View, norm: Norm<'_>, eps: f32, out: View) {
    pool.run(x.rows.div_ceil(ROWS), &|task| {
        let first = task * ROWS;
        isa.dispatch(NormTask { x, first, rows: ROWS.min(x.rows - first), norm, eps, out });
    });
}

struct NormTask<'a> {
    x: View,
    first: usize,
    rows: usize,
    norm: Norm<'a>,
    eps: f32,
    out: View,
}

impl Kernel for NormTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut memory = Scratch::take(self.x.cols.next_multiple_of(LANES));
        let staged = memory.as_mut_ptr();
        for row in self.first..self.first + self.rows {
            // SAFETY: the row is in both tensors and belongs to this task.
            unsafe {
                self.x.widen::<S>(row, 0, self.x.cols, staged);
                match self.norm {
                    Norm::Layer { weight, bias } => {
                        let mean = sum::<S>(staged, self.x.cols) / self.x.cols as f32;
                        let var = squares::<S>(staged, self.x.cols, mean) / self.x.cols as f32;
                        let scale = 1.0 / (var + self.eps).sqrt();
                        self.write::<S>(row, staged, mean, scale, weight, Some(bias));
                    }
                    Norm::Rms { weight } => {
                        let mean_square = squares::<S>(staged, self.x.cols, 0.0) / self.x.cols as f32;
                        let scale = 1.0 / (mean_square + self.eps).sqrt();
                        self.write::<S>(row, staged, 0.0, scale, weight, None);
                    }
                }
            }
        }
    }
}

impl NormTask<'_> {
    /// `out = (x - mean) * scale * weight + bias`.
    #[inline(always)]
    unsafe fn write<S: Simd>(
        &self,
        row: usize,
        x: *const f32,
        mean: f32,
        scale: f32,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) {
        for c in (0..self.x.cols).step_by(LANES) {
            let n = LANES.min(self.x.cols - c);
            // SAFETY: columns are in the row; the vectors are padded to whole panels.
            unsafe {
                let centred = S::sub(S::load_partial(x.add(c), n), S::splat(mean));
                let mut v = S::mul(S::mul(centred, S::splat(scale)), S::load(weight.as_ptr().add(c)));
                if let Some(bias) = bias {
                    v = S::add(v, S::load(bias.as_ptr().add(c)));
                }
                self.out.store::<S>(row, c, n, v);
            }
        }
    }
}

#[inline(always)]
unsafe fn sum<S: Simd>(x: *const f32, n: usize) -> f32 {
    // SAFETY: reads `n` values.
    unsafe {
        let mut total = S::zero();
        for c in (0..n).step_by(LANES) {
            total = S::add(total, S::load_partial(x.add(c), LANES.min(n - c)));
        }
        S::reduce_add(total)
    }
}

/// Sum of `(x - mean)^2`.
#[inline(always)]
unsafe fn squares<S: Simd>(x: *const f32, n: usize, mean: f32) -> f32 {
    // SAFETY: reads `n` values.
    unsafe {
        let mut total = S::zero();
        let whole = n - n % LANES;
        for c in (0..whole).step_by(LANES) {
            let d = S::sub(S::load(x.add(c)), S::splat(mean));
            total = S::fma(d, d, total);
        }
        // The lanes beyond the row would count as `mean` each: add the tail by itself.
        let tail = (whole..n).map(|c| (*x.add(c) - mean).powi(2)).sum::<f32>();
        S::reduce_add(total) + tail
    }
}
