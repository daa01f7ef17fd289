//! Attention `softmax(q kᵀ / √head_dim + mask) v` (Vaswani et al., arXiv 1706.03762), heads of keys and values shared
//! by groups of query heads (Ainslie et al., arXiv 2305.13245). The backward pass computes the weights anew.

use gemm::Parallelism;
use rayon::prelude::*;

use super::linear::{Matrix, product};
use super::simd::{self, Kernel, exp};
use super::{Array, CpuOp};
use crate::layers::AttentionMask;
use crate::precision::Precision;

/// Heads and the mask.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    /// Heads of queries.
    pub(crate) heads: usize,
    /// Heads of keys and values.
    pub(crate) kv_heads: usize,
    /// Which positions see which.
    pub(crate) mask: AttentionMask,
    /// Of the operands of products.
    pub(crate) precision: Precision,
}

/// Attention over `q` `[batch, positions, heads * head_dim]`, `k` and `v` `[batch, positions, kv_heads * head_dim]`, or
/// over one input `[batch, positions, 3 * heads * head_dim]` that holds all three.
impl CpuOp<3> for Attention {
    type Saved = ();

    fn forward(&self, inputs: &[Array; 3]) -> (Vec<f32>, Vec<usize>, ()) {
        let inputs = inputs.each_ref().map(|input| self.precision.operand_array(input));
        (self.mix(&self.separate(&inputs)), inputs[0].shape().to_vec(), ())
    }

    fn backward(&self, inputs: &[Array; 3], (): &(), grad: &[f32], _: [bool; 3]) -> [Option<Vec<f32>>; 3] {
        let inputs = &inputs.each_ref().map(|input| self.precision.operand_array(input));
        let mut grads = inputs.each_ref().map(|input| vec![0.0; input.values().len()]);
        let [dq, dk, dv] = &mut grads;
        let widths = inputs.each_ref().map(Array::columns);
        self.gradients(&self.separate(inputs), grad, &mut |part, head, row, values| {
            let (to, width) = [(&mut *dq, widths[0]), (&mut *dk, widths[1]), (&mut *dv, widths[2])]
                .into_iter()
                .nth(part)
                .expect("three parts");
            to[row * width + head * values.len()..][..values.len()].copy_from_slice(values);
        });
        grads.map(Some)
    }
}

impl CpuOp<1> for Attention {
    type Saved = ();

    fn forward(&self, [qkv]: &[Array; 1]) -> (Vec<f32>, Vec<usize>, ()) {
        let &[batch, positions, columns] = qkv.shape() else {
            panic!("queries, keys and values in three dimensions")
        };
        let qkv = self.precision.operand_array(qkv);
        (self.mix(&self.packed(&qkv)), vec![batch, positions, columns / 3], ())
    }

    fn backward(&self, [qkv]: &[Array; 1], (): &(), grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let (qkv, columns) = (&self.precision.operand_array(qkv), qkv.columns());
        let mut out = vec![0.0; qkv.values().len()];
        self.gradients(&self.packed(qkv), grad, &mut |part, head, row, values| {
            let at = row * columns + part * columns / 3 + head * values.len();
            out[at..at + values.len()].copy_from_slice(values);
        });
        [Some(out)]
    }
}

/// Where queries, keys and values are.
struct Parts<'a> {
    batch: usize,
    positions: usize,
    head_dim: usize,
    /// Values, and how many to the next position.
    parts: [(&'a [f32], usize); 3],
}

impl<'a> Parts<'a> {
    /// One head of one part of one element of the batch, `[positions, head_dim]`.
    fn head(&self, part: usize, batch: usize, head: usize) -> Matrix<'a> {
        let (values, stride) = self.parts[part];
        let at = batch * self.positions * stride + head * self.head_dim;
        Matrix::strided(&values[at..], self.positions, self.head_dim, stride)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Receives part (query, key, value), head, row (over the batch) and values of a gradient.
type Put<'a> = dyn FnMut(usize, usize, usize, &[f32]) + 'a;

impl Attention {
    fn separate<'a>(&self, inputs: &'a [Array; 3]) -> Parts<'a> {
        let &[batch, positions, columns] = inputs[0].shape() else { panic!("queries in three dimensions") };
        let parts = inputs.each_ref().map(|input| (input.values(), input.columns()));
        Parts { batch, positions, head_dim: columns / self.heads, parts }
    }

    fn packed<'a>(&self, qkv: &'a Array) -> Parts<'a> {
        let &[batch, positions, columns] = qkv.shape() else {
            panic!("queries, keys and values in three dimensions")
        };
        let part = |i: usize| (&qkv.values()[i * columns / 3..], columns);
        Parts { batch, positions, head_dim: columns / 3 / self.heads, parts: [part(0), part(1), part(2)] }
    }

    /// The weights of one head, `[positions, positions]`.
    fn weights(&self, parts: &Parts, batch: usize, head: usize, out: &mut [f32]) {
        let n = parts.positions;
        let (q, k) = (parts.head(0, batch, head), parts.head(1, batch, head * self.kv_heads / self.heads));
        product(out, n, false, q, k.t(), parts.scale(), Parallelism::None);
        self.mask.apply(batch, n, out);
        out.chunks_exact_mut(n).for_each(|row| simd::run(Softmax(row)));
    }

    fn mix(&self, parts: &Parts) -> Vec<f32> {
        let (n, dim) = (parts.positions, parts.head_dim);
        let mut mixed = vec![0.0; parts.batch * self.heads * n * dim];
        mixed.par_chunks_mut(n * dim).enumerate().for_each(|(i, mixed)| {
            let (batch, head) = (i / self.heads, i % self.heads);
            let mut weights = vec![0.0; n * n];
            self.weights(parts, batch, head, &mut weights);
            self.precision.round(&mut weights);
            let v = parts.head(2, batch, head * self.kv_heads / self.heads);
            product(mixed, dim, false, Matrix::new(&weights, n, n), v, 1.0, Parallelism::None);
        });
        let mut out = vec![0.0; mixed.len()];
        for (i, rows) in mixed.chunks_exact(n * dim).enumerate() {
            let (batch, head) = (i / self.heads, i % self.heads);
            for (t, row) in rows.chunks_exact(dim).enumerate() {
                out[((batch * n + t) * self.heads + head) * dim..][..dim].copy_from_slice(row);
            }
        }
        out
    }

    /// Calls `put` with every row of the gradients.
    fn gradients(&self, parts: &Parts, grad: &[f32], put: &mut Put) {
        let (n, dim, group) = (parts.positions, parts.head_dim, self.heads / self.kv_heads);
        let grad = &*self.precision.operand(grad);
        let found: Vec<Vec<f32>> = (0..parts.batch * self.kv_heads)
            .into_par_iter()
            .map(|i| self.group_gradients(parts, grad, i / self.kv_heads, i % self.kv_heads))
            .collect();
        for (i, values) in found.iter().enumerate() {
            let (batch, kv_head) = (i / self.kv_heads, i % self.kv_heads);
            for (j, rows) in values.chunks_exact(n * dim).enumerate() {
                let (part, head) = match j.checked_sub(group) {
                    None => (0, kv_head * group + j),
                    Some(after) => (1 + after, kv_head),
                };
                for (t, row) in rows.chunks_exact(dim).enumerate() {
                    put(part, head, batch * n + t, row);
                }
            }
        }
    }

    /// Gradients of the queries of one group of heads, then of its keys, then of its values, `[positions, head_dim]`
    /// each: `dv = wᵀ g`, `ds = w (g vᵀ - rows of sums of w g vᵀ)`, `dq = ds k`, `dk = dsᵀ q`.
    fn group_gradients(&self, parts: &Parts, grad: &[f32], batch: usize, kv_head: usize) -> Vec<f32> {
        let (n, dim, group) = (parts.positions, parts.head_dim, self.heads / self.kv_heads);
        let mut out = vec![0.0; (group + 2) * n * dim];
        let (dq, rest) = out.split_at_mut(group * n * dim);
        let (dk, dv) = rest.split_at_mut(n * dim);
        let (k, v) = (parts.head(1, batch, kv_head), parts.head(2, batch, kv_head));
        let (mut weights, mut slopes) = (vec![0.0; n * n], vec![0.0; n * n]);
        for (j, dq) in dq.chunks_exact_mut(n * dim).enumerate() {
            let head = kv_head * group + j;
            self.weights(parts, batch, head, &mut weights);
            let at = (batch * n * self.heads + head) * dim;
            let g = Matrix::strided(&grad[at..], n, dim, self.heads * dim);
            product(&mut slopes, n, false, g, v.t(), 1.0, Parallelism::None);
            for (slopes, weights) in slopes.chunks_exact_mut(n).zip(weights.chunks_exact(n)) {
                simd::run(SoftmaxSlope { slopes, weights });
            }
            self.precision.round(&mut weights);
            self.precision.round(&mut slopes);
            let (w, ds) = (Matrix::new(&weights, n, n), Matrix::new(&slopes, n, n));
            product(dv, dim, j > 0, w.t(), g, 1.0, Parallelism::None);
            product(dq, dim, false, ds, k, parts.scale(), Parallelism::None);
            product(dk, dim, j > 0, ds.t(), parts.head(0, batch, head), parts.scale(), Parallelism::None);
        }
        out
    }
}

/// Softmax of a row in place.
struct Softmax<'a>(&'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let max = self.0.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0f32; LANES];
        for vector in self.0.chunks_mut(LANES) {
            for (sum, x) in sums.iter_mut().zip(vector) {
                // What is masked is far below the range of `exp`.
                let weight = if *x <= f32::MIN { 0.0 } else { exp::<FMA>(*x - max) };
                *x = weight;
                *sum += weight;
            }
        }
        let factor = 1.0 / sums.iter().sum::<f32>();
        self.0.iter_mut().for_each(|x| *x *= factor);
    }
}

/// `slopes = weights * (slopes - sum of weights * slopes)`.
struct SoftmaxSlope<'a> {
    slopes: &'a mut [f32],
    weights: &'a [f32],
}

impl Kernel for SoftmaxSlope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        let mut sums = [0.0f32; LANES];
        for (slopes, weights) in self.slopes.chunks(LANES).zip(self.weights.chunks(LANES)) {
            for ((sum, slope), weight) in sums.iter_mut().zip(slopes).zip(weights) {
                *sum += slope * weight;
            }
        }
        let total: f32 = sums.iter().sum();
        self.slopes
            .iter_mut()
            .zip(self.weights)
            .for_each(|(slope, weight)| *slope = weight * (*slope - total));
    }
}
