//! The operations of the networks, over `[batch, height, width, channels]` and `[batch, positions, channels]`.
//!
//! On the CPU they are our own (see [`crate::cpu`]); on every other device they are put together from burn's.

use std::sync::Arc;

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Bool, FloatDType, Int, Tensor, TensorData, activation};

use crate::cpu::attention::Attention;
use crate::cpu::batch_norm::BatchNormSum;
use crate::cpu::cross_entropy::CrossEntropy;
use crate::cpu::depthwise::Depthwise;
use crate::cpu::gelu::Gelu;
use crate::cpu::linear::Linear;
use crate::cpu::norm::{LayerNorm, RmsNorm};
use crate::cpu::patches::Patches;
use crate::cpu::pointwise::{ScaledResidual, SwiGlu};
use crate::cpu::rotary::Rotary;
pub use crate::cpu::rotary::RotaryTable;
use crate::cpu::{apply, runs_here};
use crate::layers::AttentionMask;
use crate::precision::Precision;

/// `x Wᵀ + b`: `x` `[.., in]`, weight `[out, in]`, bias `[out]`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    if runs_here(&x) && runs_here(&weight) {
        let (x, weight, linear) = (x.into_dispatch(), weight.into_dispatch(), Linear(Precision::current()));
        return match bias {
            Some(bias) => apply(linear, [x, weight, bias.into_dispatch()]).0,
            None => apply(linear, [x, weight]).0,
        };
    }
    let mut shape = x.dims();
    let rows: usize = shape[..D - 1].iter().product();
    let [outputs, inputs] = weight.dims();
    shape[D - 1] = outputs;
    let y = product(x.reshape([rows, inputs]), weight.transpose()).reshape(shape);
    match bias {
        Some(bias) => y + along_last(bias),
        None => y,
    }
}

/// Depthwise convolution, padding half a kernel: `x` `[batch, height, width, in]`, weight `[out, 1, kh, kw]`, output
/// `o` reading input channel `o / (out / in)`.
pub fn depthwise(x: Tensor<4>, weight: Tensor<4>, stride: usize) -> Tensor<4> {
    if runs_here(&x) && runs_here(&weight) {
        return apply(Depthwise { stride }, [x.into_dispatch(), weight.into_dispatch()]).0;
    }
    let ([_, _, _, channels], [_, _, kh, kw]) = (x.dims(), weight.dims());
    let options = ConvOptions::new([stride, stride], [kh / 2, kw / 2], [1, 1], channels);
    conv2d(x.permute([0, 3, 1, 2]), weight, None, options).permute([0, 2, 3, 1])
}

/// Dense convolution without bias: `x` `[batch, height, width, in]`, weight `[out, in, k, k]`.
pub fn dense(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    let [outputs, inputs, kernel, _] = weight.dims();
    if runs_here(&x) && runs_here(&weight) {
        let windows = apply(Patches { kernel, stride, padding }, [x.into_dispatch()]).0;
        return linear::<4>(windows, weight.reshape([outputs, inputs * kernel * kernel]), None);
    }
    let options = ConvOptions::new([stride, stride], [padding, padding], [1, 1], 1);
    in_current(x, weight, |x, weight| conv2d(x.permute([0, 3, 1, 2]), weight, None, options))
        .permute([0, 2, 3, 1])
}

/// A product of matrices on a device of burn's.
fn product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    in_current(a, b, Tensor::matmul)
}

/// A product, of whichever kind, whose operands are of the current precision, and so are their gradients: these are cast
/// on their way back.
fn in_current<const D: usize>(
    a: Tensor<D>,
    b: Tensor<D>,
    product: impl FnOnce(Tensor<D>, Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    match Precision::current() {
        Precision::F32 => product(a, b),
        Precision::Bf16 => {
            let whole: FloatDType = a.dtype().into();
            product(a.cast(FloatDType::BF16), b.cast(FloatDType::BF16)).cast(whole)
        }
    }
}

/// GELU in its exact form.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if runs_here(&x) { apply(Gelu, [x.into_dispatch()]).0 } else { activation::gelu(x) }
}

/// One term of a sum of BatchNorms.
pub struct Branch<const D: usize> {
    /// `[.., channels]`.
    pub x: Tensor<D>,
    /// `[channels]`.
    pub gamma: Tensor<1>,
    /// `[channels]`.
    pub beta: Tensor<1>,
    /// What it is multiplied with.
    pub sign: f32,
}

/// What BatchNorms in training mode compute.
pub struct BatchNormed<const D: usize> {
    /// Their sum, in the shape of the inputs.
    pub output: Tensor<D>,
    /// Mean of the batch and its variance with `1 / n`, `[channels]` each, of every branch; no gradient goes through them.
    pub statistics: Vec<[Tensor<1>; 2]>,
}

/// Sum of BatchNorms, each by the statistics of the batch.
///
/// # Panics
/// If there is no branch.
pub fn batch_norm_sum<const D: usize>(branches: Vec<Branch<D>>, eps: f32) -> BatchNormed<D> {
    let here = branches.iter().all(|branch| runs_here(&branch.x) && runs_here(&branch.gamma));
    if !here || branches.len() > 4 {
        return batch_norms_of_burn(branches, eps);
    }
    let device = branches[0].gamma.device();
    let op = BatchNormSum { eps, signs: branches.iter().map(|branch| branch.sign).collect() };
    let inputs: Vec<_> = branches
        .into_iter()
        .flat_map(|b| [b.x.into_dispatch(), b.gamma.into_dispatch(), b.beta.into_dispatch()])
        .collect();
    let (output, found) = match inputs.len() {
        3 => apply::<_, 3, D>(op, array(inputs)),
        6 => apply::<_, 6, D>(op, array(inputs)),
        9 => apply::<_, 9, D>(op, array(inputs)),
        _ => apply::<_, 12, D>(op, array(inputs)),
    };
    let vector =
        |values: Vec<f32>| Tensor::from_data(TensorData::new(values.clone(), [values.len()]), &device);
    let statistics = found.into_iter().map(|found| [vector(found.mean), vector(found.var)]).collect();
    BatchNormed { output, statistics }
}

fn array<T: std::fmt::Debug, const N: usize>(values: Vec<T>) -> [T; N] {
    values.try_into().expect("as many as were counted")
}

fn batch_norms_of_burn<const D: usize>(branches: Vec<Branch<D>>, eps: f32) -> BatchNormed<D> {
    let (mut sum, mut statistics) = (None, Vec::new());
    for branch in branches {
        let shape = branch.x.dims();
        let rows: usize = shape[..D - 1].iter().product();
        let x = branch.x.reshape([rows, shape[D - 1]]);
        let mean = x.clone().mean_dim(0);
        let centred = x - mean.clone();
        let var = centred.clone().square().mean_dim(0);
        let scale = var.clone().add_scalar(eps).sqrt().recip() * branch.gamma.unsqueeze();
        let output = (centred * scale + branch.beta.unsqueeze()).reshape(shape).mul_scalar(branch.sign);
        sum = Some(match sum {
            Some(sum) => sum + output,
            None => output,
        });
        statistics.push([mean.squeeze_dim(0).detach(), var.squeeze_dim(0).detach()]);
    }
    BatchNormed { output: sum.expect("a branch"), statistics }
}

/// `x * scale + shift`, one of each a channel.
pub fn affine<const D: usize>(x: Tensor<D>, scale: Tensor<1>, shift: Tensor<1>) -> Tensor<D> {
    x * along_last(scale) + along_last(shift)
}

/// Layer norm over the last dimension.
pub fn layer_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, beta: Tensor<1>, eps: f32) -> Tensor<D> {
    if runs_here(&x) && runs_here(&gamma) {
        return apply(LayerNorm { eps }, [x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch()]).0;
    }
    let centred = x.clone() - x.mean_dim(D - 1);
    let var = centred.clone().square().mean_dim(D - 1);
    centred * var.add_scalar(eps).sqrt().recip() * along_last(gamma) + along_last(beta)
}

/// RMS norm over the last dimension.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f32) -> Tensor<D> {
    if runs_here(&x) && runs_here(&gamma) {
        return apply(RmsNorm { eps }, [x.into_dispatch(), gamma.into_dispatch()]).0;
    }
    let squares = x.clone().square().mean_dim(D - 1);
    x * squares.add_scalar(eps).sqrt().recip() * along_last(gamma)
}

/// `x + scale * y`, one scale a channel.
pub fn scaled_residual<const D: usize>(x: Tensor<D>, y: Tensor<D>, scale: Tensor<1>) -> Tensor<D> {
    if runs_here(&x) && runs_here(&y) && runs_here(&scale) {
        return apply(ScaledResidual, [x.into_dispatch(), y.into_dispatch(), scale.into_dispatch()]).0;
    }
    x + y * along_last(scale)
}

/// `silu(gate) * up`.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    if runs_here(&gate) && runs_here(&up) {
        return apply(SwiGlu, [gate.into_dispatch(), up.into_dispatch()]).0;
    }
    activation::silu(gate) * up
}

/// Rotary position embedding of `x` `[batch, positions, heads * head_dim]`, the pairs of a head being its two halves.
///
/// # Panics
/// If the table is of another number of positions.
pub fn rotary(x: Tensor<3>, table: &RotaryTable) -> Tensor<3> {
    let ([batch, positions, columns], head_dim) = (x.dims(), table.head_dim);
    let places = 2 * table.values[0].len() / head_dim;
    assert!(
        places == positions || places == batch * positions,
        "a table for {places}, not {positions} positions"
    );
    if runs_here(&x) {
        return apply(Rotary(table.clone()), [x.into_dispatch()]).0;
    }
    let (heads, half) = (columns / head_dim, head_dim / 2);
    let options = (&x.device(), x.dtype());
    let [cos, sin] = table.values.each_ref().map(|values| {
        let elements = values.len() / (positions * half);
        Tensor::<4>::from_data(TensorData::new(values.clone(), [elements, positions, 1, half]), options)
    });
    let x = x.reshape([batch, positions, heads, head_dim]);
    let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    Tensor::cat(vec![first, b * cos + a * sin], 3).reshape([batch, positions, columns])
}

/// Attention with as many heads of keys and values as of queries, from `[batch, positions, 3 * width]`: all queries,
/// all keys, all values. Returns `[batch, positions, width]`.
pub fn packed_attention(qkv: Tensor<3>, heads: usize, mask: AttentionMask) -> Tensor<3> {
    if runs_here(&qkv) {
        let precision = Precision::current();
        return apply(Attention { heads, kv_heads: heads, mask, precision }, [qkv.into_dispatch()]).0;
    }
    let parts = qkv.chunk(3, 2);
    let [q, k, v]: [Tensor<3>; 3] = parts.try_into().expect("three parts");
    attention(q, k, v, [heads, heads], mask)
}

/// Attention of `q` `[batch, positions, heads * head_dim]` over `k` and `v` `[batch, positions, kv_heads * head_dim]`,
/// `heads` a multiple of `kv_heads`. Returns the shape of `q`.
pub fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    [heads, kv_heads]: [usize; 2],
    mask: AttentionMask,
) -> Tensor<3> {
    if runs_here(&q) && runs_here(&k) && runs_here(&v) {
        let inputs = [q.into_dispatch(), k.into_dispatch(), v.into_dispatch()];
        return apply(Attention { heads, kv_heads, mask, precision: Precision::current() }, inputs).0;
    }
    let [batch, positions, columns] = q.dims();
    let head_dim = columns / heads;
    let device = q.device();
    let split = |x: Tensor<3>, heads: usize| x.reshape([batch, positions, heads, head_dim]).swap_dims(1, 2);
    let shared = |x: Tensor<3>| {
        let x: Tensor<5> = split(x, kv_heads).unsqueeze_dim(2);
        x.repeat_dim(2, heads / kv_heads).reshape([batch, heads, positions, head_dim])
    };
    let scores =
        product(split(q, heads), shared(k).swap_dims(2, 3)).mul_scalar(1.0 / (head_dim as f32).sqrt());
    let scores = match mask.hidden(positions) {
        Some((hidden, elements)) => {
            let hidden = TensorData::new(hidden, [elements, 1, positions, positions]);
            scores.mask_fill(Tensor::<4, Bool>::from_data(hidden, &device), -1e30)
        }
        None => scores,
    };
    product(activation::softmax(scores, 3), shared(v)).swap_dims(1, 2).reshape([batch, positions, columns])
}

/// Mean cross entropy of `logits` `[rows, classes]` over the rows whose label is not negative; 0 if there is none.
///
/// # Panics
/// If there is not one label a row, or a label is no class.
pub fn cross_entropy(logits: Tensor<2>, labels: &[i32]) -> Tensor<1> {
    let [rows, classes] = logits.dims();
    assert_eq!(rows, labels.len(), "one label a row");
    assert!(labels.iter().all(|&label| label < classes as i32), "labels are below {classes}");
    if runs_here(&logits) {
        return apply(CrossEntropy { labels: Arc::new(labels.to_vec()) }, [logits.into_dispatch()]).0;
    }
    let device = logits.device();
    let places: Vec<i32> = labels.iter().map(|&label| label.max(0)).collect();
    let weights: Vec<f32> = labels.iter().map(|&label| f32::from(label >= 0)).collect();
    let count = weights.iter().sum::<f32>().max(1.0);
    let places = Tensor::<2, Int>::from_data(TensorData::new(places, [rows, 1]), &device);
    let weights = Tensor::<2>::from_data(TensorData::new(weights, [rows, 1]), (&device, logits.dtype()));
    let chosen = activation::log_softmax(logits, 1).gather(1, places);
    (chosen * weights).sum().mul_scalar(-1.0 / count)
}

/// A vector along the last of `D` dimensions.
fn along_last<const D: usize>(vector: Tensor<1>) -> Tensor<D> {
    let mut shape = [1; D];
    shape[D - 1] = vector.dims()[0];
    vector.reshape(shape)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const ROWS: usize = 5;
    const INPUTS: usize = 37;
    const OUTPUTS: usize = 11;

    fn values(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    }

    /// A product of what other devices have, and the gradients of the sum of its squares; `[output, dx, dw]`.
    fn of_burn(precision: Precision) -> [Vec<f32>; 3] {
        let device = Device::flex().autodiff();
        let of = |values: Vec<f32>, shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values, shape), &device).require_grad()
        };
        let (x, w) = (
            of(values(ROWS * INPUTS, 0.7), [ROWS, INPUTS]),
            of(values(OUTPUTS * INPUTS, 0.3), [OUTPUTS, INPUTS]),
        );
        let y = precision.compute(|| product(x.clone(), w.clone().transpose()));
        assert_eq!(y.dtype(), x.dtype(), "sums go on in f32");
        let gradients = y.clone().square().sum().backward();
        let found = [y, x.grad(&gradients).expect("a gradient"), w.grad(&gradients).expect("a gradient")];
        found.map(|tensor| tensor.into_data().try_to_vec::<f32>().expect("f32"))
    }

    #[test]
    fn other_devices_round_operands_forward_and_backward() {
        let [plain, rounded] = [Precision::F32, Precision::Bf16].map(of_burn);
        for (plain, rounded) in plain.iter().zip(&rounded) {
            let most = plain.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            let off = plain.iter().zip(rounded).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
            // Operands and results are off by 2^-9 of themselves at most.
            assert!(off > 0.0 && off < 0.02 * most, "{off} of {most}");
            assert!(rounded.iter().all(|&value| half::bf16::from_f32(value).to_f32() == value), "of bf16");
        }
    }
}
