//! Reparameterization: branches and BatchNorms into one conv (FastViT, arXiv 2303.14189, section 3.1;
//! `huggingface/pytorch-image-models` `timm/models/fastvit.py`, the `reparameterize` and `_fuse_bn` methods).
//!
//! A branch `BN(conv(x))` is a conv with `W * t` and `beta - mean * t`, `t = gamma / sqrt(var + eps)`. Branches of
//! one module are summed after their kernels have been centred in the largest one; a branch without conv is
//! the conv that copies its input. All sums are taken in f64 and rounded to f32 once.

use crate::weights::Tensor;

/// Epsilon of every BatchNorm in these towers.
const BATCH_NORM_EPS: f64 = 1e-5;

/// What to fold, over any description of a tensor: names before they are bound, tensors after.
#[derive(Debug, Clone)]
pub(crate) enum Recipe<T> {
    /// `sum of branches(x)`.
    Sum(Vec<Branch<T>>),
    /// `x + scale * (sum of mixer(x) - norm(x))`.
    RepMixer { mixer: Vec<Branch<T>>, norm: BatchNorm<T>, scale: T },
    /// `x + conv(x)`.
    Residual { weight: T, bias: T },
    /// `Linear(BN(x))`, the linear without bias.
    BatchNormLinear { weight: T, norm: BatchNorm<T> },
}

/// A conv without bias, or nothing, and its BatchNorm.
#[derive(Debug, Clone)]
pub(crate) struct Branch<T> {
    pub(crate) conv: Option<T>,
    pub(crate) norm: BatchNorm<T>,
}

/// Weight, bias, running mean and running variance, each `[channels]`.
#[derive(Debug, Clone)]
pub(crate) struct BatchNorm<T>(pub(crate) [T; 4]);

/// Names of the tensors of a BatchNorm, in that order.
pub(crate) const BATCH_NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// The result.
#[derive(Debug, Clone)]
pub(crate) struct Folded {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// A tensor that was read.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    shape: Vec<usize>,
    /// Row-major.
    values: Vec<f32>,
}

impl Recipe<Tensor> {
    /// Read everything that is to be folded.
    pub(crate) fn read(&self) -> Result<Recipe<Values>, String> {
        let mut failed = None;
        let mut read = |tensor: &Tensor| match tensor.read() {
            Ok(values) => Some(Values { shape: tensor.shape.clone(), values }),
            Err(reason) => {
                failed = Some(reason);
                None
            }
        };
        let recipe = self.try_map(&mut read);
        recipe.ok_or_else(|| failed.unwrap_or_default())
    }
}

impl Recipe<Values> {
    /// Fold into one conv `[out, in / groups, k, k]` or one linear `[out, in]` of the shape given.
    pub(crate) fn fold(&self, shape: &[usize]) -> Folded {
        let &[out, inputs, ref kernel @ ..] = shape else {
            return Folded { weight: Vec::new(), bias: Vec::new() };
        };
        let &[height, width] = kernel else { return self.fold_linear() };
        let shape = [out, inputs, height, width];
        match self {
            Self::Sum(branches) => sum(shape, branches),
            Self::RepMixer { mixer, norm, scale } => rep_mixer(shape, mixer, norm, &scale.values),
            Self::Residual { weight, bias } => {
                let mut conv = Conv { weight: f64s(weight), bias: f64s(bias) };
                conv.add_identity(shape, |_| 1.0);
                conv
            }
            Self::BatchNormLinear { .. } => return self.fold_linear(),
        }
        .round()
    }

    fn fold_linear(&self) -> Folded {
        match self {
            Self::BatchNormLinear { norm, weight } => batch_norm_linear(norm, weight).round(),
            _ => Folded { weight: Vec::new(), bias: Vec::new() },
        }
    }
}

impl<T> Recipe<T> {
    /// Everything that is folded, the main tensor first.
    pub(crate) fn tensors(&self) -> Vec<&T> {
        match self {
            Self::Sum(branches) => branches.iter().flat_map(Branch::tensors).collect(),
            Self::RepMixer { mixer, norm, scale } => {
                let mixer = mixer.iter().flat_map(Branch::tensors);
                mixer.chain(&norm.0).chain([scale]).collect()
            }
            Self::Residual { weight, bias } => vec![weight, bias],
            Self::BatchNormLinear { weight, norm } => [weight].into_iter().chain(&norm.0).collect(),
        }
    }

    /// The same recipe over something else, or `None` if `f` gives none for any tensor. All are tried.
    pub(crate) fn try_map<U>(&self, f: &mut impl FnMut(&T) -> Option<U>) -> Option<Recipe<U>> {
        Some(match self {
            Self::Sum(branches) => Recipe::Sum(map_branches(branches, f)?),
            Self::RepMixer { mixer, norm, scale } => {
                let (mixer, norm, scale) = (map_branches(mixer, f), norm.try_map(f), f(scale));
                Recipe::RepMixer { mixer: mixer?, norm: norm?, scale: scale? }
            }
            Self::Residual { weight, bias } => {
                let (weight, bias) = (f(weight), f(bias));
                Recipe::Residual { weight: weight?, bias: bias? }
            }
            Self::BatchNormLinear { weight, norm } => {
                let (weight, norm) = (f(weight), norm.try_map(f));
                Recipe::BatchNormLinear { weight: weight?, norm: norm? }
            }
        })
    }
}

/// Maps all branches, even after one gave none, so that every problem is seen.
fn map_branches<T, U>(branches: &[Branch<T>], f: &mut impl FnMut(&T) -> Option<U>) -> Option<Vec<Branch<U>>> {
    let mut mapped = Vec::with_capacity(branches.len());
    for branch in branches {
        let conv = branch.conv.as_ref().map(&mut *f);
        mapped.push((conv, branch.norm.try_map(f)));
    }
    let complete = mapped.into_iter().map(|(conv, norm)| {
        let conv = match conv {
            Some(conv) => Some(conv?),
            None => None,
        };
        Some(Branch { conv, norm: norm? })
    });
    complete.collect()
}

impl<T> Branch<T> {
    fn tensors(&self) -> impl Iterator<Item = &T> {
        self.conv.iter().chain(&self.norm.0)
    }
}

impl<T> BatchNorm<T> {
    fn try_map<U>(&self, f: &mut impl FnMut(&T) -> Option<U>) -> Option<BatchNorm<U>> {
        let [weight, bias, mean, var] = self.0.each_ref().map(f);
        Some(BatchNorm([weight?, bias?, mean?, var?]))
    }
}

impl BatchNorm<Values> {
    /// `(t, b)` with `BN(x) = t * x + b`, by channel.
    fn scale_and_shift(&self) -> (Vec<f64>, Vec<f64>) {
        let [gamma, beta, mean, var] = self.0.each_ref().map(f64s);
        let scale: Vec<f64> =
            gamma.iter().zip(&var).map(|(gamma, var)| gamma / (var + BATCH_NORM_EPS).sqrt()).collect();
        let shift =
            beta.iter().zip(mean.iter().zip(&scale)).map(|(beta, (mean, t))| beta - mean * t).collect();
        (scale, shift)
    }
}

/// A conv in the making, weight `[out, in / groups, k, k]`.
struct Conv {
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl Conv {
    fn zeros(shape: [usize; 4]) -> Self {
        Self { weight: vec![0.0; shape.iter().product()], bias: vec![0.0; shape[0]] }
    }

    fn round(self) -> Folded {
        let to_f32 = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
        Folded { weight: to_f32(self.weight), bias: to_f32(self.bias) }
    }

    /// Add `scale(o) * x`: the conv that copies input channel `o mod (in / groups)` of its group to output `o`.
    fn add_identity(&mut self, shape: [usize; 4], scale: impl Fn(usize) -> f64) {
        let [out, inputs, kernel_h, kernel_w] = shape;
        for o in 0..out {
            let centre = ((o * inputs + o % inputs) * kernel_h + kernel_h / 2) * kernel_w + kernel_w / 2;
            self.weight[centre] += scale(o);
        }
    }

    /// Add `scale(o) * conv(x)`, the smaller kernel centred in ours.
    fn add_conv(&mut self, shape: [usize; 4], conv: &Values, scale: &[f64]) {
        let [_, inputs, kernel_h, kernel_w] = shape;
        let (height, width) = (conv.shape[2], conv.shape[3]);
        let (pad_h, pad_w) = ((kernel_h - height) / 2, (kernel_w - width) / 2);
        for (filter, values) in f64s(conv).chunks_exact(height * width).enumerate() {
            for (tap, value) in values.iter().enumerate() {
                let (y, x) = (tap / width + pad_h, tap % width + pad_w);
                self.weight[(filter * kernel_h + y) * kernel_w + x] += value * scale[filter / inputs];
            }
        }
    }

    /// Add `BN(conv(x))` or `BN(x)`.
    fn add_branch(&mut self, shape: [usize; 4], branch: &Branch<Values>) {
        let (scale, shift) = branch.norm.scale_and_shift();
        match &branch.conv {
            Some(conv) => self.add_conv(shape, conv, &scale),
            None => self.add_identity(shape, |o| scale[o]),
        }
        self.bias.iter_mut().zip(shift).for_each(|(bias, shift)| *bias += shift);
    }
}

fn sum(shape: [usize; 4], branches: &[Branch<Values>]) -> Conv {
    let mut conv = Conv::zeros(shape);
    for branch in branches {
        conv.add_branch(shape, branch);
    }
    conv
}

/// `W = I + scale * (W_mixer - W_norm)`, `b = scale * (b_mixer - b_norm)`.
fn rep_mixer(shape: [usize; 4], mixer: &[Branch<Values>], norm: &BatchNorm<Values>, scale: &[f32]) -> Conv {
    let mut conv = sum(shape, mixer);
    let (norm_scale, norm_shift) = norm.scale_and_shift();
    conv.add_identity(shape, |o| -norm_scale[o]);
    conv.bias.iter_mut().zip(norm_shift).for_each(|(bias, shift)| *bias -= shift);

    let taps = shape[1] * shape[2] * shape[3];
    for (filter, scale) in conv.weight.chunks_exact_mut(taps).zip(scale) {
        filter.iter_mut().for_each(|w| *w *= f64::from(*scale));
    }
    conv.bias.iter_mut().zip(scale).for_each(|(bias, scale)| *bias *= f64::from(*scale));
    conv.add_identity(shape, |_| 1.0);
    conv
}

/// `W (t * x + b) = (W * t) x + W b`, with `t` along the inputs.
fn batch_norm_linear(norm: &BatchNorm<Values>, weight: &Values) -> Conv {
    let (scale, shift) = norm.scale_and_shift();
    let mut weight = f64s(weight);
    let mut bias = Vec::with_capacity(weight.len() / scale.len().max(1));
    for row in weight.chunks_exact_mut(scale.len()) {
        bias.push(row.iter().zip(&shift).map(|(w, b)| w * b).sum());
        row.iter_mut().zip(&scale).for_each(|(w, t)| *w *= t);
    }
    Conv { weight, bias }
}

fn f64s(tensor: &Values) -> Vec<f64> {
    tensor.values.iter().copied().map(f64::from).collect()
}
