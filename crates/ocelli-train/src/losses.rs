//! What MobileCLIP learns by: CLIP's loss, SigLIP's, and that of reinforced data.
//!
//! CLIP (arXiv 2103.00020, figure 3), SigLIP (arXiv 2303.15343, algorithm 1), multi-modal reinforced training (MobileCLIP,
//! arXiv 2311.17049, section 3.2). Rows of embeddings are of length 1 here; row `i` of the images belongs to row `i` of
//! the texts. Teachers' values get no gradient.

use burn::tensor::{Device, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::ops;

/// Rows of length 1.
pub fn normalized(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    x / length
}

/// CLIP's loss `[1]`: mean cross entropy of each image over all texts and of each text over all images, halved.
/// `log_scale` `[1]` is the logarithm of what similarities are multiplied with.
pub fn clip(images: &Tensor<2>, texts: &Tensor<2>, log_scale: &Tensor<1>) -> Tensor<1> {
    contrast(logits(images, texts, log_scale))
}

/// SigLIP's loss `[1]`: `-log sigmoid(±(scale * similarity + bias))` summed over all pairs, per image. `bias` is `[1]`.
pub fn siglip(images: &Tensor<2>, texts: &Tensor<2>, log_scale: &Tensor<1>, bias: &Tensor<1>) -> Tensor<1> {
    let logits = logits(images, texts, log_scale) + bias.clone().unsqueeze();
    let [rows, _] = logits.dims();
    // log(1 + exp(x)) of the negative pairs, log(1 + exp(-x)) of those on the diagonal.
    let sign = Tensor::<2>::eye(rows, &logits.device()).cast(logits.dtype()).mul_scalar(-2.0).add_scalar(1.0);
    let x = logits * sign;
    let softplus = x.clone().clamp_min(0.0) + x.abs().neg().exp().log1p();
    softplus.sum().div_scalar(rows as f32)
}

/// Teachers whose embeddings lie one after another in a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teachers {
    /// Values of each; 768 and 768 for DataCompDR.
    pub dims: Vec<usize>,
    /// What similarities of each are multiplied with before the softmax: 100 and 100 for DataCompDR, 70 and 60 for DFNDR.
    pub logit_scales: Vec<f32>,
}

impl Teachers {
    /// Whether every teacher has its scale.
    ///
    /// # Errors
    /// When there are not as many scales as teachers, or one is no number to multiply with.
    pub fn check(&self) -> Result<(), TrainError> {
        let (teachers, scales) = (self.dims.len(), self.logit_scales.len());
        let wrong = |reason: String| Err(TrainError::Setting { reason });
        if teachers == 0 || self.dims.contains(&0) {
            return wrong("there is no teacher to learn from: say how many values each has".into());
        }
        if teachers != scales {
            let plural = |n: usize| if n == 1 { "" } else { "s" };
            return wrong(format!(
                "{teachers} teacher{} but {scales} logit scale{}: give one for each, in their order",
                plural(teachers),
                plural(scales)
            ));
        }
        match self.logit_scales.iter().find(|scale| !scale.is_finite() || **scale <= 0.0) {
            Some(scale) => wrong(format!("the logit scale {scale} of a teacher: it must be above 0")),
            None => Ok(()),
        }
    }

    /// Values of all.
    pub fn columns(&self) -> usize {
        self.dims.iter().sum()
    }

    /// What a student should find: for each row of `a`, how likely each row of `b` is, the mean over the teachers of
    /// `softmax(scale * a bᵀ)`. Both are `[rows, columns]`; returns `[rows, rows]`.
    ///
    /// # Panics
    /// If a tensor has other columns.
    pub fn targets(&self, a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
        assert_eq!([a.dims()[1], b.dims()[1]], [self.columns(); 2], "as many values as all teachers have");
        let mut at = 0;
        let mut sum: Option<Tensor<2>> = None;
        for (&dim, &scale) in self.dims.iter().zip(&self.logit_scales) {
            let part = |x: &Tensor<2>| x.clone().narrow(1, at, dim);
            let likely = activation::softmax(part(a).matmul(part(b).transpose()).mul_scalar(scale), 1);
            sum = Some(match sum {
                Some(sum) => sum + likely,
                None => likely,
            });
            at += dim;
        }
        sum.expect("a teacher").div_scalar(self.dims.len() as f32)
    }
}

/// Texts of a batch by a student and by its teachers.
#[derive(Debug, Clone)]
pub struct Texts {
    /// `[rows, embed_dim]`.
    pub student: Tensor<2>,
    /// `[rows, columns]`, those of all teachers.
    pub teachers: Tensor<2>,
}

/// The loss of reinforced data `[1]`: `(1 - lambda) * CLIP + lambda * distillation`, summed over the kinds of texts: the
/// real captions, and synthetic ones if there are. `teachers_of_images` is `[rows, columns]`.
pub fn reinforced(
    images: &Tensor<2>,
    teachers_of_images: &Tensor<2>,
    kinds: &[Texts],
    log_scale: &Tensor<1>,
    teachers: &Teachers,
    lambda: f32,
) -> Tensor<1> {
    let one = |texts: &Texts| {
        let logits = logits(images, &texts.student, log_scale);
        // A part without weight is not computed.
        let contrasted = (lambda < 1.0).then(|| contrast(logits.clone()).mul_scalar(1.0 - lambda));
        let distilled = (lambda > 0.0).then(|| {
            let (a, b) = (teachers_of_images, &texts.teachers);
            let there = soft_cross_entropy(logits.clone(), teachers.targets(a, b));
            let back = soft_cross_entropy(logits.transpose(), teachers.targets(b, a));
            (there + back).mul_scalar(lambda / 2.0)
        });
        match (contrasted, distilled) {
            (Some(contrasted), Some(distilled)) => contrasted + distilled,
            (one, other) => one.or(other).expect("lambda is not both 0 and 1"),
        }
    };
    kinds.iter().map(one).reduce(|sum, loss| sum + loss).expect("a kind of texts")
}

fn logits(images: &Tensor<2>, texts: &Tensor<2>, log_scale: &Tensor<1>) -> Tensor<2> {
    images.clone().matmul(texts.clone().transpose()) * log_scale.clone().exp().unsqueeze()
}

fn contrast(logits: Tensor<2>) -> Tensor<1> {
    let labels: Vec<i32> = (0..logits.dims()[0] as i32).collect();
    let there = ops::cross_entropy(logits.clone(), &labels);
    (there + ops::cross_entropy(logits.transpose(), &labels)).div_scalar(2.0)
}

/// Mean over the rows of `-sum(target * log_softmax(logits))`.
fn soft_cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let rows = logits.dims()[0] as f32;
    (activation::log_softmax(logits, 1) * targets).sum().div_scalar(-rows)
}

/// Rows of values as a tensor without gradients.
pub(crate) fn rows(values: Vec<f32>, columns: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / columns;
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(dims: &[usize], scales: &[f32]) -> String {
        let teachers = Teachers { dims: dims.to_vec(), logit_scales: scales.to_vec() };
        teachers.check().expect_err("refused").to_string()
    }

    #[test]
    fn every_teacher_has_its_scale() {
        let message = refused(&[768, 768], &[100.0]);
        assert_eq!(message, "2 teachers but 1 logit scale: give one for each, in their order");
        assert!(refused(&[768], &[70.0, 60.0]).contains("1 teacher but 2 logit scales"));
        assert!(refused(&[], &[]).contains("no teacher"));
        assert!(refused(&[8], &[f32::NAN]).contains("NaN"));
        assert!(refused(&[8], &[0.0]).contains("above 0"));
        let both = Teachers { dims: vec![768, 768], logit_scales: vec![70.0, 60.0] };
        both.check().expect("fine");
        assert_eq!(both.columns(), 1536);
    }
}
