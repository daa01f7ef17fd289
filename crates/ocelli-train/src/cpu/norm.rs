//! Layer norm and RMS norm over the last dimension.
//!
//! Layer norm: `y = (x - mean) / sqrt(var + eps) * gamma + beta` (Ba et al., arXiv 1607.06450).
//! RMS norm: `y = x / sqrt(mean(x²) + eps) * gamma` (Zhang and Sennrich, arXiv 1910.07467).

use super::rows::{for_pieces, rounded, sum_pieces};
use super::simd::{self, Kernel, mul_add};
use super::{Array, CpuOp};

/// Layer norm; inputs are `x` `[.., channels]`, `gamma` and `beta` `[channels]`.
#[derive(Debug, Clone)]
pub(crate) struct LayerNorm {
    /// Added to the variance.
    pub(crate) eps: f32,
}

/// RMS norm; inputs are `x` `[.., channels]` and `gamma` `[channels]`.
#[derive(Debug, Clone)]
pub(crate) struct RmsNorm {
    /// Added to the mean of the squares.
    pub(crate) eps: f32,
}

/// Mean and `1 / sqrt(.. + eps)` of a row; an RMS norm subtracts nothing.
#[inline(always)]
fn row_statistics<const LANES: usize, const FMA: bool, const CENTRED: bool>(
    x: &[f32],
    eps: f32,
) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = if CENTRED { lane_sum::<LANES>(x, |x| x) / n } else { 0.0 };
    let squares = lane_sum::<LANES>(x, |x| (x - mean) * (x - mean));
    (mean, 1.0 / (squares / n + eps).sqrt())
}

/// Sum of `f` over a slice, in `LANES` sums that are added last.
#[inline(always)]
fn lane_sum<const LANES: usize>(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let mut pieces = x.chunks_exact(LANES);
    for piece in &mut pieces {
        for lane in 0..LANES {
            sums[lane] += f(piece[lane]);
        }
    }
    let rest: f32 = pieces.remainder().iter().map(|&x| f(x)).sum();
    sums.iter().sum::<f32>() + rest
}

struct Forward<'a, const CENTRED: bool> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl<const CENTRED: bool> Kernel for Forward<'_, CENTRED> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let channels = self.gamma.len();
        for (out, x) in self.out.chunks_exact_mut(channels).zip(self.x.chunks_exact(channels)) {
            let (mean, inv_std) = row_statistics::<LANES, FMA, CENTRED>(x, self.eps);
            for c in 0..channels {
                let beta = if CENTRED { self.beta[c] } else { 0.0 };
                out[c] = mul_add::<FMA>((x[c] - mean) * inv_std, self.gamma[c], beta);
            }
        }
    }
}

/// `dx = inv_std (h - mean(h) - xhat mean(h xhat))` with `h = g gamma`; an RMS norm has no second term.
struct Slope<'a, const CENTRED: bool> {
    x: &'a [f32],
    gamma: &'a [f32],
    grad: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl<const CENTRED: bool> Kernel for Slope<'_, CENTRED> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let channels = self.gamma.len();
        let n = channels as f32;
        let rows = self.x.chunks_exact(channels).zip(self.grad.chunks_exact(channels));
        for (out, (x, grad)) in self.out.chunks_exact_mut(channels).zip(rows) {
            let (mean, inv_std) = row_statistics::<LANES, FMA, CENTRED>(x, self.eps);
            let (mut h_sum, mut hx_sum) = ([0.0f32; LANES], [0.0f32; LANES]);
            for c in 0..channels {
                let h = grad[c] * self.gamma[c];
                out[c] = h;
                h_sum[c % LANES] += h;
                hx_sum[c % LANES] += h * (x[c] - mean) * inv_std;
            }
            let h_mean = if CENTRED { h_sum.iter().sum::<f32>() / n } else { 0.0 };
            let hx_mean = hx_sum.iter().sum::<f32>() / n;
            for c in 0..channels {
                out[c] = inv_std * (out[c] - h_mean - (x[c] - mean) * inv_std * hx_mean);
            }
        }
    }
}

/// Gradients of gamma, then of beta.
struct ParameterSums<'a, const CENTRED: bool> {
    x: &'a [f32],
    grad: &'a [f32],
    eps: f32,
    sums: &'a mut [f32],
}

impl<const CENTRED: bool> Kernel for ParameterSums<'_, CENTRED> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let channels = self.sums.len() / 2;
        let (dgamma, dbeta) = self.sums.split_at_mut(channels);
        for (x, grad) in self.x.chunks_exact(channels).zip(self.grad.chunks_exact(channels)) {
            let (mean, inv_std) = row_statistics::<LANES, FMA, CENTRED>(x, self.eps);
            for c in 0..channels {
                dgamma[c] = mul_add::<FMA>(grad[c], (x[c] - mean) * inv_std, dgamma[c]);
                dbeta[c] += grad[c];
            }
        }
    }
}

fn forward<const CENTRED: bool>(
    x: &Array,
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
) -> (Vec<f32>, Vec<usize>, ()) {
    let channels = x.columns();
    let mut out = vec![0.0; x.values().len()];
    for_pieces(&mut out, channels, |first, out| {
        let x = &x.values()[first * channels..][..out.len()];
        simd::run(Forward::<CENTRED> { x, gamma, beta, eps, out });
    });
    (out, x.shape().to_vec(), ())
}

/// Gradients of `x`, gamma and beta.
fn backward<const CENTRED: bool>(
    x: &Array,
    gamma: &[f32],
    eps: f32,
    grad: &[f32],
    wanted: [bool; 3],
) -> [Option<Vec<f32>>; 3] {
    let (values, channels) = (x.values(), x.columns());
    let rows = values.len() / channels.max(1);
    let dx = wanted[0].then(|| {
        let mut out = vec![0.0; values.len()];
        for_pieces(&mut out, channels, |first, out| {
            let at = first * channels;
            let (x, grad) = (&values[at..][..out.len()], &grad[at..][..out.len()]);
            simd::run(Slope::<CENTRED> { x, gamma, grad, eps, out });
        });
        out
    });
    if !wanted[1] && !wanted[2] {
        return [dx, None, None];
    }
    let mut sums = sum_pieces(rows, channels, 2 * channels, |first, rows, sums| {
        let part = first * channels..(first + rows) * channels;
        simd::run(ParameterSums::<CENTRED> { x: &values[part.clone()], grad: &grad[part], eps, sums });
    });
    let dbeta = sums.split_off(channels);
    [dx, Some(rounded(&sums)), Some(rounded(&dbeta))]
}

impl CpuOp<3> for LayerNorm {
    type Saved = ();

    fn forward(&self, [x, gamma, beta]: &[Array; 3]) -> (Vec<f32>, Vec<usize>, ()) {
        forward::<true>(x, gamma.values(), beta.values(), self.eps)
    }

    fn backward(
        &self,
        [x, gamma, _]: &[Array; 3],
        (): &(),
        grad: &[f32],
        wanted: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        backward::<true>(x, gamma.values(), self.eps, grad, wanted)
    }
}

impl CpuOp<2> for RmsNorm {
    type Saved = ();

    fn forward(&self, [x, gamma]: &[Array; 2]) -> (Vec<f32>, Vec<usize>, ()) {
        forward::<false>(x, gamma.values(), &[], self.eps)
    }

    fn backward(
        &self,
        [x, gamma]: &[Array; 2],
        (): &(),
        grad: &[f32],
        wanted: [bool; 2],
    ) -> [Option<Vec<f32>>; 2] {
        let [dx, dgamma, _] =
            backward::<false>(x, gamma.values(), self.eps, grad, [wanted[0], wanted[1], false]);
        [dx, dgamma]
    }
}
