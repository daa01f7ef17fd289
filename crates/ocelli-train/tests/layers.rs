//! Every operation forward and backward against PyTorch (`tests/fixtures/train/layers.safetensors`, written by
//! `reference/make_train_fixtures.py`).

mod support;

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};
use ocelli_testing::Tensors;
use ocelli_train::burn;
use ocelli_train::layers::AttentionMask;
use ocelli_train::ops::{self, Branch};
use support::{assert_close, input, made, values};

/// Error allowed beside the size of the values: sums of a few hundred terms in f32, in another order.
const TOLERANCE: f32 = 2e-5;

/// Compare the output and the gradient of every input.
struct Case {
    name: &'static str,
    file: Tensors,
    inputs: usize,
    device: Device,
    dtype: DType,
}

impl Case {
    fn new(name: &'static str, dtype: DType) -> Self {
        let file = Tensors::open("train/layers.safetensors");
        Self { name, file, inputs: 0, device: Device::flex().autodiff(), dtype }
    }

    /// The next input.
    fn input<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        self.inputs += 1;
        input(shape, self.inputs, &self.device).cast(self.dtype).detach().require_grad()
    }

    fn check<const D: usize>(
        &self,
        output: Tensor<D>,
        gradients: impl FnOnce(&burn::tensor::Gradients) -> Vec<Vec<f32>>,
    ) {
        let (shape, expected) = self.file.get(&format!("{}/out", self.name));
        assert_eq!(output.dims().to_vec(), shape, "{}", self.name);
        assert_close(&format!("{}/out", self.name), &values(output.clone()), &expected, TOLERANCE);
        let above = input(output.dims(), 0, &self.device).cast(self.dtype);
        let found = gradients(&(output * above).sum().backward());
        assert_eq!(found.len(), self.inputs);
        for (i, found) in found.iter().enumerate() {
            let name = format!("{}/grad{i}", self.name);
            assert_close(&name, found, &self.file.get(&name).1, TOLERANCE);
        }
    }
}

/// Inputs of these shapes, the operation on them, and the comparison: in f32, which runs our own operations, and in f64,
/// which runs those of burn as other devices do.
macro_rules! check {
    ($name:literal, |$($x:ident: $shape:tt),+| $run:expr) => {
        for dtype in [DType::F32, DType::F64] {
            let mut case = Case::new($name, dtype);
            $(let $x = case.input($shape);)+
            let output = { $(let $x = $x.clone();)+ $run };
            case.check(output, |grads| vec![$(values($x.grad(grads).expect("a gradient"))),+]);
        }
    };
}

#[test]
fn linears() {
    check!("linear", |x: [2, 5, 6], w: [7, 6], b: [7]| ops::linear(x, w, Some(b)));
    check!("linear_plain", |x: [9, 20], w: [17, 20]| ops::linear(x, w, None));
}

#[test]
fn depthwise_convolutions() {
    check!("dw3", |x: [2, 5, 11, 6], w: [6, 1, 3, 3]| ops::depthwise(x, w, 1));
    check!("dw7", |x: [1, 9, 10, 20], w: [20, 1, 7, 7]| ops::depthwise(x, w, 1));
    check!("dw3_stride", |x: [2, 7, 6, 5], w: [5, 1, 3, 3]| ops::depthwise(x, w, 2));
    check!("dw7_stride_wide", |x: [2, 8, 19, 9], w: [18, 1, 7, 7]| ops::depthwise(x, w, 2));
    check!("dw3_wide", |x: [1, 3, 3, 4], w: [8, 1, 3, 3]| ops::depthwise(x, w, 1));
    check!("dw1x11", |x: [2, 1, 17, 4], w: [4, 1, 1, 11]| ops::depthwise(x, w, 1));
    check!("dw1", |x: [2, 3, 4, 5], w: [5, 1, 1, 1]| ops::depthwise(x, w, 1));
}

#[test]
fn dense_convolutions() {
    check!("dense3", |x: [2, 7, 6, 3], w: [5, 3, 3, 3]| ops::dense(x, w, 2, 1));
    check!("patch4", |x: [1, 8, 12, 3], w: [5, 3, 4, 4]| ops::dense(x, w, 4, 0));
}

#[test]
fn activations() {
    check!("gelu", |x: [3, 50]| ops::gelu(x.mul_scalar(5.0)));
    check!("swiglu", |a: [2, 3, 19], b: [2, 3, 19]| ops::swiglu(a.mul_scalar(3.0), b));
}

#[test]
fn norms() {
    check!("layer_norm", |x: [2, 3, 21], g: [21], b: [21]| ops::layer_norm(x, g, b, 1e-5));
    check!("rms_norm", |x: [2, 3, 21], g: [21]| ops::rms_norm(x, g, 1e-6));
    check!("scaled_residual", |x: [2, 3, 4, 5], y: [2, 3, 4, 5], s: [5]| ops::scaled_residual(x, y, s));
    check!("batch_norm", |x: [3, 4, 5, 6], gamma: [6], beta: [6]| {
        ops::batch_norm_sum(vec![Branch { x, gamma, beta, sign: 1.0 }], 1e-5).output
    });
}

#[test]
fn statistics_of_a_batch_move_the_running_ones() {
    let device = Device::flex().autodiff();
    let file = Tensors::open("train/layers.safetensors");
    let x = input([3, 4, 5, 6], 1, &device);
    let (ones, zeros) = (Tensor::<1>::ones([6], &device), Tensor::<1>::zeros([6], &device));
    let branch = Branch { x, gamma: ones, beta: zeros, sign: 1.0 };
    let [[batch_mean, batch_var]] = &ops::batch_norm_sum(vec![branch], 1e-5).statistics[..] else {
        panic!("one branch")
    };
    // 60 rows; running statistics begin with `made(.., 8)` and `made(.., 9) + 1.5`.
    let moved = |begin: f32, batch: f32| 0.9 * begin + 0.1 * batch;
    let mean: Vec<f32> =
        made(6, 8).into_iter().zip(values(batch_mean.clone())).map(|(a, b)| moved(a, b)).collect();
    let var =
        made(6, 9).into_iter().zip(values(batch_var.clone())).map(|(a, b)| moved(a + 1.5, b * 60.0 / 59.0));
    assert_close("mean", &mean, &file.get("batch_norm/mean").1, TOLERANCE);
    assert_close("var", &var.collect::<Vec<_>>(), &file.get("batch_norm/var").1, TOLERANCE);
}

#[test]
fn rotary_embedding() {
    check!("rotary", |x: [2, 5, 24]| ops::rotary(x, &ops::RotaryTable::new(5, 8, 1e6)));
}

#[test]
fn attentions() {
    check!("packed_attention", |x: [2, 5, 24]| ops::packed_attention(x, 2, AttentionMask::Full));
    check!("causal_groups", |q: [2, 6, 24], k: [2, 6, 8], v: [2, 6, 8]| {
        ops::attention(q, k, v, [6, 2], AttentionMask::Causal)
    });
    let causal = (0..36).map(|i| i % 6 <= i / 6);
    let blocks = (0..36).map(|i| i % 6 <= i / 6 && (i % 6 < 2) == (i / 6 < 2));
    let mask = AttentionMask::Visible(Arc::new(causal.chain(blocks).collect()));
    check!("masked", |q: [2, 6, 8], k: [2, 6, 4], v: [2, 6, 4]| ops::attention(q, k, v, [2, 1], mask.clone()));
}

#[test]
fn cross_entropy_of_rows_with_labels() {
    check!("cross_entropy", |x: [5, 11]| ops::cross_entropy(x.mul_scalar(4.0), &[3, -100, 0, 10, -100]));
}
