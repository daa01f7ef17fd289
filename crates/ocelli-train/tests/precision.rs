//! Products of bf16 are those of rounded operands with sums of f32, forward and backward.

mod support;

use burn::tensor::{Device, Tensor, TensorData};
use ocelli_train::layers::AttentionMask;
use ocelli_train::precision::Precision;
use ocelli_train::{burn, ops};
use support::{input, values};

const ROWS: usize = 9;
const INPUTS: usize = 40;
const OUTPUTS: usize = 24;

/// The nearest of bf16.
fn rounded<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let device = tensor.device();
    let shape = tensor.dims();
    let rounded = values(tensor).into_iter().map(|value| half::bf16::from_f32(value).to_f32()).collect();
    Tensor::from_data(TensorData::new::<f32, _>(rounded, shape), &device)
}

/// `x W^T + b` and the gradients of `x`, `W` and `b`.
fn linear(precision: Precision, x: Tensor<2>, weight: Tensor<2>, slope: Tensor<2>) -> [Vec<f32>; 4] {
    let bias = input([OUTPUTS], 3, &x.device()).require_grad();
    let (x, weight) = (x.require_grad(), weight.require_grad());
    let y = precision.compute(|| ops::linear(x.clone(), weight.clone(), Some(bias.clone())));
    // The backward pass is outside: the operation knows what it was begun with.
    let gradients = (y.clone() * slope).sum().backward();
    let of = |gradient: Option<Tensor<2>>| values(gradient.expect("a gradient"));
    [
        values(y),
        of(x.grad(&gradients)),
        of(weight.grad(&gradients)),
        values(bias.grad(&gradients).expect("a gradient")),
    ]
}

#[test]
fn linears_round_their_operands_and_nothing_else() {
    let device = Device::flex().autodiff();
    let x = || input([ROWS, INPUTS], 1, &device);
    let weight = || input([OUTPUTS, INPUTS], 2, &device);
    let slope = || input([ROWS, OUTPUTS], 4, &device);
    let found = linear(Precision::Bf16, x(), weight(), slope());
    let expected = linear(Precision::F32, rounded(x()), rounded(weight()), rounded(slope()));
    let exact = linear(Precision::F32, x(), weight(), slope());
    for (i, name) in ["y", "dx", "dw"].into_iter().enumerate() {
        assert_eq!(found[i], expected[i], "{name}");
        assert_ne!(found[i], exact[i], "{name}");
    }
    // A bias is added and its gradient summed up in f32.
    assert_eq!(found[3], exact[3]);
}

#[test]
fn attention_stays_within_the_rounding() {
    let device = Device::flex().autodiff();
    let run = |precision: Precision| {
        let qkv = input([2, 7, 48], 5, &device).require_grad();
        let y = precision.compute(|| ops::packed_attention(qkv.clone(), 2, AttentionMask::Causal));
        let gradients = (y.clone() * input([2, 7, 16], 6, &device)).sum().backward();
        [values(y), values(qkv.grad(&gradients).expect("a gradient"))]
    };
    let (found, exact) = (run(Precision::Bf16), run(Precision::F32));
    for (found, exact) in found.iter().zip(&exact) {
        let size = exact.iter().fold(0.0f32, |size, v| size.max(v.abs()));
        let error = found.iter().zip(exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // A product of two operands is off by at most 2^-8, the softmax passes on what its scores are off by.
        assert!(error > 0.0 && error < 0.02 * size, "{error} of {size}");
    }
}

#[test]
fn only_the_processor_has_it() {
    let device = Device::flex();
    assert!(Precision::Bf16.check(&device).is_ok() && Precision::Bf16.check(&device.autodiff()).is_ok());
}
