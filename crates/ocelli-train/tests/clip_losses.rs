//! The losses of MobileCLIP's training and all their gradients against PyTorch
//! (`tests/fixtures/train/clip_losses.safetensors`, written by `reference/make_clip_loss_fixtures.py`).

mod support;

use burn::tensor::{DType, Device, Gradients, Tensor};
use ocelli_testing::Tensors;
use ocelli_train::losses::{self, Teachers, Texts};
use ocelli_train::{TrainError, burn};
use support::{assert_close, input, values};

const TOLERANCE: f32 = 2e-6;
const ROWS: usize = 7;
const EMBED_DIM: usize = 12;
const TEACHERS: [usize; 2] = [5, 8];

fn unit(columns: usize, salt: usize, device: &Device) -> Tensor<2> {
    losses::normalized(input([ROWS, columns], salt, device))
}

/// A leaf that gets a gradient.
fn leaf<const D: usize>(values: Tensor<D>, dtype: DType) -> Tensor<D> {
    values.detach().cast(dtype).detach().require_grad()
}

struct Leaves {
    images: Tensor<2>,
    texts: Tensor<2>,
    synthetic: Tensor<2>,
    log_scale: Tensor<1>,
    bias: Tensor<1>,
}

impl Leaves {
    fn new(dtype: DType) -> Self {
        let device = Device::flex().autodiff();
        let [images, texts, synthetic] = [1, 2, 3].map(|salt| leaf(unit(EMBED_DIM, salt, &device), dtype));
        let number = |value: f32| leaf(Tensor::<1>::from_floats([value], &device), dtype);
        Self { images, texts, synthetic, log_scale: number(2.3), bias: number(-4.0) }
    }

    fn check(&self, name: &str, loss: Tensor<1>) {
        let file = Tensors::open("train/clip_losses.safetensors");
        let compare = |kind: &str, found: &[f32]| {
            let name = format!("{name}/{kind}");
            assert_close(&name, found, &file.get(&name).1, TOLERANCE);
        };
        compare("loss", &values(loss.clone()));
        let gradients = loss.backward();
        compare("grad_images", &of(&self.images, &gradients).expect("a gradient"));
        compare("grad_texts", &of(&self.texts, &gradients).expect("a gradient"));
        compare("grad_log_scale", &of(&self.log_scale, &gradients).expect("a gradient"));
        if let Some(found) = of(&self.synthetic, &gradients) {
            compare("grad_synthetic", &found);
        }
        if let Some(found) = of(&self.bias, &gradients) {
            compare("grad_bias", &found);
        }
    }
}

fn of<const D: usize>(leaf: &Tensor<D>, gradients: &Gradients) -> Option<Vec<f32>> {
    leaf.grad(gradients).map(values)
}

#[test]
fn losses_of_pairs() {
    for dtype in [DType::F32, DType::F64] {
        let leaves = Leaves::new(dtype);
        leaves.check("clip", losses::clip(&leaves.images, &leaves.texts, &leaves.log_scale));
        let leaves = Leaves::new(dtype);
        leaves
            .check("siglip", losses::siglip(&leaves.images, &leaves.texts, &leaves.log_scale, &leaves.bias));
    }
}

#[test]
fn losses_of_reinforced_data() {
    let device = Device::flex().autodiff();
    let of_teachers = |salt: usize, dtype: DType| {
        let parts = TEACHERS.iter().enumerate().map(|(i, &dim)| unit(dim, salt + i, &device));
        Tensor::cat(parts.collect(), 1).cast(dtype)
    };
    for (name, lambda, scales) in [("reinforced", 0.75, [70.0, 6.0]), ("distilled", 1.0, [70.0, 60.0])] {
        for dtype in [DType::F32, DType::F64] {
            let leaves = Leaves::new(dtype);
            let teachers = Teachers { dims: TEACHERS.to_vec(), logit_scales: scales.to_vec() };
            let kinds = [(&leaves.texts, 30), (&leaves.synthetic, 40)];
            let kinds = kinds.map(|(student, salt)| Texts {
                student: student.clone(),
                teachers: of_teachers(salt, dtype),
            });
            let of_images = of_teachers(20, dtype);
            let loss =
                losses::reinforced(&leaves.images, &of_images, &kinds, &leaves.log_scale, &teachers, lambda);
            leaves.check(name, loss);
        }
    }
}

#[test]
fn one_scale_for_several_teachers_is_refused() {
    let teachers = Teachers { dims: vec![768, 768], logit_scales: vec![100.0] };
    assert!(matches!(teachers.check(), Err(TrainError::Setting { .. })));
}
