//! A sum of BatchNorms over the rows of `[.., channels]`, with the statistics of the batch: training mode.
//!
//! `y = sum of sign (gamma (x - mean) / sqrt(var + eps) + beta)` over branches (Ioffe and Szegedy, arXiv 1502.03167),
//! the variance with `1 / n`. A module of branches adds up to four of them; one pass over memory is enough for all.

use super::rows::{for_pieces, rounded, sum_pieces};
use super::simd::{self, Kernel, mul_add};
use super::{Array, CpuOp};

/// The operation; inputs are `x` `[.., channels]`, `gamma` and `beta` `[channels]` of each branch in turn.
#[derive(Debug, Clone)]
pub(crate) struct BatchNormSum {
    /// Added to the variance.
    pub(crate) eps: f32,
    /// What each branch is multiplied with.
    pub(crate) signs: Vec<f32>,
}

/// Statistics of the batch, by channel.
#[derive(Debug, Clone)]
pub(crate) struct Statistics {
    /// Mean.
    pub(crate) mean: Vec<f32>,
    /// Variance, with `1 / n`.
    pub(crate) var: Vec<f32>,
    /// `1 / sqrt(var + eps)`.
    inv_std: Vec<f32>,
}

/// One [`CpuOp`] for each number of inputs: three a branch.
macro_rules! branches {
    ($($inputs:literal)+) => {$(
        impl CpuOp<$inputs> for BatchNormSum {
            type Saved = Vec<Statistics>;

            fn forward(&self, inputs: &[Array; $inputs]) -> (Vec<f32>, Vec<usize>, Vec<Statistics>) {
                self.sum(inputs)
            }

            fn backward(
                &self,
                inputs: &[Array; $inputs],
                saved: &Vec<Statistics>,
                grad: &[f32],
                wanted: [bool; $inputs],
            ) -> [Option<Vec<f32>>; $inputs] {
                let mut found = self.gradients(inputs, saved, grad, &wanted).into_iter();
                std::array::from_fn(|_| found.next().flatten())
            }
        }
    )+};
}

branches!(3 6 9 12);

impl BatchNormSum {
    fn sum(&self, inputs: &[Array]) -> (Vec<f32>, Vec<usize>, Vec<Statistics>) {
        let channels = inputs[0].columns();
        let (mut saved, mut xs, mut shift) = (Vec::new(), Vec::new(), vec![0.0f32; channels]);
        for (branch, sign) in inputs.chunks_exact(3).zip(&self.signs) {
            let [x, gamma, beta] = branch else { unreachable!("three inputs a branch") };
            let found = self.statistics(x.values(), channels);
            let scale: Vec<f32> =
                gamma.values().iter().zip(&found.inv_std).map(|(g, i)| sign * g * i).collect();
            for c in 0..channels {
                shift[c] += sign * beta.values()[c] - found.mean[c] * scale[c];
            }
            xs.push((x.values(), scale));
            saved.push(found);
        }
        let mut out = vec![0.0; xs[0].0.len()];
        for_pieces(&mut out, channels, |first, out| {
            simd::run(Sum { first: first * channels, xs: &xs, shift: &shift, out });
        });
        (out, inputs[0].shape().to_vec(), saved)
    }

    fn gradients(
        &self,
        inputs: &[Array],
        saved: &[Statistics],
        grad: &[f32],
        wanted: &[bool],
    ) -> Vec<Option<Vec<f32>>> {
        let channels = inputs[0].columns();
        let rows = grad.len() / channels.max(1);
        let dbeta = sum_pieces(rows, channels, channels, |first, rows, sums| {
            simd::run(Sums { grad: &grad[first * channels..][..rows * channels], sums });
        });
        let mut found = Vec::with_capacity(inputs.len());
        for (i, (branch, sign)) in inputs.chunks_exact(3).zip(&self.signs).enumerate() {
            let (x, gamma, wanted) = (branch[0].values(), branch[1].values(), &wanted[3 * i..][..3]);
            let saved = &saved[i];
            let dgamma = sum_pieces(rows, channels, channels, |first, rows, sums| {
                let part = first * channels..(first + rows) * channels;
                simd::run(ProductSums { x: &x[part.clone()], grad: &grad[part], saved, sums });
            });
            let slope = |out: &mut Vec<f32>| {
                // dx = gamma inv_std (g - dbeta / n - (x - mean) inv_std dgamma / n), as a g + b x + c.
                let n = rows as f64;
                let mut terms = [vec![0.0f32; channels], vec![0.0; channels], vec![0.0; channels]];
                for c in 0..channels {
                    let inv_std = f64::from(saved.inv_std[c]);
                    let a = f64::from(sign * gamma[c]) * inv_std;
                    let b = -a * inv_std * dgamma[c] / n;
                    terms[0][c] = a as f32;
                    terms[1][c] = b as f32;
                    terms[2][c] = (-a * dbeta[c] / n - b * f64::from(saved.mean[c])) as f32;
                }
                for_pieces(out, channels, |first, out| {
                    let at = first * channels;
                    let (x, grad) = (&x[at..][..out.len()], &grad[at..][..out.len()]);
                    simd::run(Slope { x, grad, terms: &terms, out });
                });
            };
            found.push(wanted[0].then(|| {
                let mut out = vec![0.0; x.len()];
                slope(&mut out);
                out
            }));
            let signed =
                |values: &[f64]| rounded(&values.iter().map(|v| f64::from(*sign) * v).collect::<Vec<_>>());
            found.push(wanted[1].then(|| signed(&dgamma)));
            found.push(wanted[2].then(|| signed(&dbeta)));
        }
        found
    }

    fn statistics(&self, x: &[f32], channels: usize) -> Statistics {
        let rows = x.len() / channels.max(1);
        // Around the first row, so that the squares do not cancel.
        let base = x[..channels].to_vec();
        let sums = sum_pieces(rows, channels, 2 * channels, |first, rows, sums| {
            let (sum, squares) = sums.split_at_mut(channels);
            simd::run(Moments { x: &x[first * channels..][..rows * channels], base: &base, sum, squares });
        });
        let n = rows as f64;
        let mut found = Statistics { mean: Vec::new(), var: Vec::new(), inv_std: Vec::new() };
        for c in 0..channels {
            let offset = sums[c] / n;
            let var = (sums[channels + c] / n - offset * offset).max(0.0);
            found.mean.push((f64::from(base[c]) + offset) as f32);
            found.var.push(var as f32);
            found.inv_std.push((var + f64::from(self.eps)).sqrt().recip() as f32);
        }
        found
    }
}

struct Moments<'a> {
    x: &'a [f32],
    base: &'a [f32],
    sum: &'a mut [f32],
    squares: &'a mut [f32],
}

impl Kernel for Moments<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let channels = self.base.len();
        let (sum, squares) = (&mut self.sum[..channels], &mut self.squares[..channels]);
        for row in self.x.chunks_exact(channels) {
            for c in 0..channels {
                let d = row[c] - self.base[c];
                sum[c] += d;
                squares[c] = mul_add::<FMA>(d, d, squares[c]);
            }
        }
    }
}

/// The sum of all `x * scale`, and the shift; `first` is the place of `out` in each `x`.
struct Sum<'a> {
    first: usize,
    xs: &'a [(&'a [f32], Vec<f32>)],
    shift: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let channels = self.shift.len();
        for (i, out) in self.out.chunks_exact_mut(channels).enumerate() {
            out.copy_from_slice(self.shift);
            for (x, scale) in self.xs {
                let (x, scale) = (&x[self.first + i * channels..][..channels], &scale[..channels]);
                for c in 0..channels {
                    out[c] = mul_add::<FMA>(x[c], scale[c], out[c]);
                }
            }
        }
    }
}

/// Sums of the gradient over rows.
struct Sums<'a> {
    grad: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        for grad in self.grad.chunks_exact(self.sums.len()) {
            self.sums.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
        }
    }
}

/// Sums of the gradient times the normalised input.
struct ProductSums<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    saved: &'a Statistics,
    sums: &'a mut [f32],
}

impl Kernel for ProductSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let channels = self.sums.len();
        let (mean, inv_std) = (&self.saved.mean[..channels], &self.saved.inv_std[..channels]);
        for (x, grad) in self.x.chunks_exact(channels).zip(self.grad.chunks_exact(channels)) {
            for c in 0..channels {
                self.sums[c] = mul_add::<FMA>(grad[c], (x[c] - mean[c]) * inv_std[c], self.sums[c]);
            }
        }
    }
}

struct Slope<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    terms: &'a [Vec<f32>; 3],
    out: &'a mut [f32],
}

impl Kernel for Slope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let channels = self.terms[0].len();
        let [a, b, c] = self.terms.each_ref().map(|term| &term[..channels]);
        let rows = self.x.chunks_exact(channels).zip(self.grad.chunks_exact(channels));
        for (out, (x, grad)) in self.out.chunks_exact_mut(channels).zip(rows) {
            for i in 0..channels {
                out[i] = mul_add::<FMA>(a[i], grad[i], mul_add::<FMA>(b[i], x[i], c[i]));
            }
        }
    }
}
