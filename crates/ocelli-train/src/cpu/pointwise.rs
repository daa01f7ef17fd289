//! Element-wise operations that would otherwise take several passes over memory.

use super::rows::{for_pieces, rounded, sum_pieces};
use super::simd::{self, Kernel, exp, mul_add};
use super::{Array, CpuOp};

/// `x + scale * y` with one scale a channel: a residual behind a layer scale. Inputs are `x` and `y` `[.., channels]`
/// and the scale `[channels]`.
#[derive(Debug, Clone)]
pub(crate) struct ScaledResidual;

impl CpuOp<3> for ScaledResidual {
    type Saved = ();

    fn forward(&self, [x, y, scale]: &[Array; 3]) -> (Vec<f32>, Vec<usize>, ()) {
        let channels = x.columns();
        let mut out = vec![0.0; x.values().len()];
        for_pieces(&mut out, channels, |first, out| {
            let at = first * channels;
            let (x, y) = (&x.values()[at..][..out.len()], &y.values()[at..][..out.len()]);
            simd::run(Scaled { x: Some(x), y, scale: scale.values(), out });
        });
        (out, x.shape().to_vec(), ())
    }

    fn backward(
        &self,
        [_, y, scale]: &[Array; 3],
        (): &(),
        grad: &[f32],
        wanted: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let channels = y.columns();
        let dy = wanted[1].then(|| {
            let mut out = vec![0.0; grad.len()];
            for_pieces(&mut out, channels, |first, out| {
                let grad = &grad[first * channels..][..out.len()];
                simd::run(Scaled { x: None, y: grad, scale: scale.values(), out });
            });
            out
        });
        let dscale = wanted[2].then(|| {
            let sums = sum_pieces(grad.len() / channels, channels, channels, |first, rows, sums| {
                let part = first * channels..(first + rows) * channels;
                simd::run(ProductSums { a: &grad[part.clone()], b: &y.values()[part], sums });
            });
            rounded(&sums)
        });
        [wanted[0].then(|| grad.to_vec()), dy, dscale]
    }
}

struct Scaled<'a> {
    x: Option<&'a [f32]>,
    y: &'a [f32],
    scale: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Scaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let channels = self.scale.len();
        let rows = self.out.chunks_exact_mut(channels).zip(self.y.chunks_exact(channels));
        match self.x {
            Some(x) => {
                for ((out, y), x) in rows.zip(x.chunks_exact(channels)) {
                    for c in 0..channels {
                        out[c] = mul_add::<FMA>(y[c], self.scale[c], x[c]);
                    }
                }
            }
            None => {
                for (out, y) in rows {
                    for c in 0..channels {
                        out[c] = y[c] * self.scale[c];
                    }
                }
            }
        }
    }
}

struct ProductSums<'a> {
    a: &'a [f32],
    b: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for ProductSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let channels = self.sums.len();
        for (a, b) in self.a.chunks_exact(channels).zip(self.b.chunks_exact(channels)) {
            for c in 0..channels {
                self.sums[c] = mul_add::<FMA>(a[c], b[c], self.sums[c]);
            }
        }
    }
}

/// `silu(gate) * up`, the middle of a SwiGLU (Shazeer, arXiv 2002.05202); both inputs of one shape.
#[derive(Debug, Clone)]
pub(crate) struct SwiGlu;

/// Values of a row for dividing the work; the operation knows no rows.
const ROW: usize = 1024;

impl CpuOp<2> for SwiGlu {
    type Saved = ();

    fn forward(&self, [gate, up]: &[Array; 2]) -> (Vec<f32>, Vec<usize>, ()) {
        let mut out = vec![0.0; up.values().len()];
        let row = ROW.min(out.len());
        for_pieces(&mut out, row, |first, out| {
            let at = first * row;
            let (gate, up) = (&gate.values()[at..][..out.len()], &up.values()[at..][..out.len()]);
            simd::run(Gated { gate, up, out });
        });
        (out, up.shape().to_vec(), ())
    }

    fn backward(
        &self,
        [gate, up]: &[Array; 2],
        (): &(),
        grad: &[f32],
        wanted: [bool; 2],
    ) -> [Option<Vec<f32>>; 2] {
        let row = ROW.min(grad.len());
        let run = |of_gate: bool| {
            let mut out = vec![0.0; grad.len()];
            for_pieces(&mut out, row, |first, out| {
                let at = first * row;
                let part = |values: &'_ [f32]| at..at + out.len().min(values.len());
                let (gate, up) = (&gate.values()[part(grad)], &up.values()[part(grad)]);
                simd::run(GatedSlope { gate, up, grad: &grad[part(grad)], of_gate, out });
            });
            out
        };
        [wanted[0].then(|| run(true)), wanted[1].then(|| run(false))]
    }
}

struct Gated<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        for ((out, &gate), &up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = gate / (1.0 + exp::<FMA>(-gate)) * up;
        }
    }
}

struct GatedSlope<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    grad: &'a [f32],
    of_gate: bool,
    out: &'a mut [f32],
}

impl Kernel for GatedSlope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let Self { gate, up, grad, of_gate, out } = self;
        for (((out, &gate), &up), &grad) in out.iter_mut().zip(gate).zip(up).zip(grad) {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-gate));
            let of_silu = sigmoid * mul_add::<FMA>(gate, 1.0 - sigmoid, 1.0);
            *out = grad * if of_gate { of_silu * up } else { gate * sigmoid };
        }
    }
}
