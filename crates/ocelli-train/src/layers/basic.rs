//! Linears, convolutions, norms, layer scale, squeeze-and-excite.

use burn::module::{Flag, Module, Param, RunningState};
use burn::tensor::{Device, Distribution, Tensor, TensorData, activation};

use crate::TrainError;
use crate::ops;
use crate::random::Random;
use crate::tensors::{Exchange, Form, Named};

/// A parameter of normal random values.
pub(crate) fn normal<const D: usize>(shape: [usize; D], std: f64, device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::random(shape, Distribution::Normal(0.0, std), device))
}

/// A parameter of random values between `-limit` and `limit`.
fn uniform<const D: usize>(shape: [usize; D], limit: f64, device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::random(shape, Distribution::Uniform(-limit, limit), device))
}

fn ones(n: usize, device: &Device) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::ones([n], device))
}

fn zeros(n: usize, device: &Device) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::zeros([n], device))
}

/// How the names of a change's two matrices end, as PEFT's adapters have them.
pub(crate) const LORA_A: &str = ".lora_A.weight";
pub(crate) const LORA_B: &str = ".lora_B.weight";

/// Standard deviation of the weights of a linear at the beginning, as in timm and transformers.
const LINEAR_STD: f64 = 0.02;

/// `x Wᵀ + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// What is learned in place of the weight.
    lora: Option<Lora>,
}

/// A low-rank change of a weight (Hu et al., arXiv 2106.09685): `W + scale * B A`.
#[derive(Module, Debug)]
struct Lora {
    /// `[rank, in]`.
    a: Param<Tensor<2>>,
    /// `[out, rank]`, zeros to begin with.
    b: Param<Tensor<2>>,
    #[module(skip)]
    scale: f32,
}

impl Linear {
    /// Random weights, a bias of zeros.
    pub fn new(inputs: usize, outputs: usize, bias: bool, device: &Device) -> Self {
        let weight = normal([outputs, inputs], LINEAR_STD, device);
        Self { weight, bias: bias.then(|| zeros(outputs, device)), lora: None }
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let change = self.lora.as_ref().map(|lora| {
            let narrow = ops::linear(x.clone(), lora.a.val(), None);
            ops::linear(narrow, lora.b.val(), None).mul_scalar(lora.scale)
        });
        let y = ops::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val));
        match change {
            Some(change) => y + change,
            None => y,
        }
    }

    /// Learn a change of `rank`, multiplied with `alpha / rank`, in place of the weight and the bias.
    pub(crate) fn attach_lora(&mut self, rank: usize, alpha: f32, random: &mut Random, device: &Device) {
        let [outputs, inputs] = self.weight.dims();
        let frozen = self.clone().freeze();
        let limit = 1.0 / (inputs as f64).sqrt();
        let values: Vec<f32> = (0..rank * inputs).map(|_| random.between(-limit, limit) as f32).collect();
        let lora = Lora {
            a: Param::from_tensor(Tensor::from_data(TensorData::new(values, [rank, inputs]), device)),
            b: Param::from_tensor(Tensor::zeros([outputs, rank], device)),
            scale: alpha / rank as f32,
        };
        *self = Self { lora: Some(lora), ..frozen };
    }

    /// Make the change part of the weight.
    pub(crate) fn merge_lora(&mut self) {
        if let Some(Lora { a, b, scale }) = self.lora.take() {
            self.weight =
                self.weight.clone().map(|weight| weight + b.val().matmul(a.val()).mul_scalar(scale));
        }
    }
}

impl Named for Linear {
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        with.tensor(&format!("{name}.weight"), Form::AsIs, &mut self.weight)?;
        if let Some(bias) = &mut self.bias {
            with.tensor(&format!("{name}.bias"), Form::AsIs, bias)?;
        }
        if let Some(lora) = &mut self.lora {
            with.tensor(&format!("{name}{LORA_A}"), Form::AsIs, &mut lora.a)?;
            with.tensor(&format!("{name}{LORA_B}"), Form::AsIs, &mut lora.b)?;
        }
        Ok(())
    }
}

/// A convolution over `[batch, height, width, channels]`: depthwise if its filters have one channel, otherwise dense.
#[derive(Module, Debug)]
pub struct Conv {
    /// `[out, in / groups, kh, kw]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
}

impl Conv {
    /// Random weights for `[out, in / groups, kh, kw]`, padding half a kernel.
    pub fn new(shape: [usize; 4], stride: usize, bias: bool, device: &Device) -> Self {
        let limit = 1.0 / ((shape[1] * shape[2] * shape[3]) as f64).sqrt();
        let bias = bias.then(|| zeros(shape[0], device));
        Self { weight: uniform(shape, limit, device), bias, stride, padding: shape[2] / 2 }
    }

    /// Without padding.
    pub fn unpadded(self) -> Self {
        Self { padding: 0, ..self }
    }

    /// `[batch, height, width, in]` to `[batch, height / stride, width / stride, out]`, rounded up if padded.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = self.weight.val();
        let [outputs, inputs, kernel, width] = weight.dims();
        let bias = self.bias.as_ref().map(Param::val);
        if [kernel, width, self.stride] == [1, 1, 1] && inputs == x.dims()[3] {
            return ops::linear(x, weight.reshape([outputs, inputs]), bias);
        }
        let y = if inputs == 1 {
            ops::depthwise(x, weight, self.stride)
        } else {
            ops::dense(x, weight, self.stride, self.padding)
        };
        match bias {
            Some(bias) => y + bias.reshape([1, 1, 1, outputs]),
            None => y,
        }
    }
}

impl Named for Conv {
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        with.tensor(&format!("{name}.weight"), Form::AsIs, &mut self.weight)?;
        match &mut self.bias {
            Some(bias) => with.tensor(&format!("{name}.bias"), Form::AsIs, bias),
            None => Ok(()),
        }
    }
}

/// BatchNorm over the last dimension. By the statistics of the batch on a device with autodiff, if it is not frozen;
/// otherwise by those that it has run up, as burn's own.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// `[channels]`.
    pub gamma: Param<Tensor<1>>,
    /// `[channels]`.
    pub beta: Param<Tensor<1>>,
    /// Whether it follows the device into training; freezing the module turns it off.
    training: Param<Flag>,
    running_mean: RunningState<Tensor<1>>,
    running_var: RunningState<Tensor<1>>,
}

impl BatchNorm {
    /// Added to the variance.
    const EPS: f32 = 1e-5;
    /// Share of a new batch in the running statistics.
    const MOMENTUM: f64 = 0.1;

    /// Ones, zeros, and running statistics of a normal distribution.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self {
            gamma: ones(channels, device),
            beta: zeros(channels, device),
            training: Param::from_bool(true),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
        }
    }

    /// `[.., channels]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        Self::sum([(self, x, 1.0)])
    }

    /// The sum of `sign * norm(x)` over branches.
    pub(crate) fn sum<'a, const D: usize>(
        branches: impl IntoIterator<Item = (&'a Self, Tensor<D>, f32)>,
    ) -> Tensor<D> {
        let (by_batch, rest): (Vec<_>, Vec<_>) = branches
            .into_iter()
            .partition(|(norm, x, _)| x.device().is_autodiff() && norm.training.is_enabled());
        let trained = (!by_batch.is_empty()).then(|| Self::by_batch(by_batch));
        let rest = rest.into_iter().map(|(norm, x, sign)| norm.by_running_statistics(x, sign));
        trained.into_iter().chain(rest).reduce(|a, b| a + b).expect("at least one branch")
    }

    fn by_batch<const D: usize>(branches: Vec<(&Self, Tensor<D>, f32)>) -> Tensor<D> {
        let norms: Vec<&Self> = branches.iter().map(|(norm, ..)| *norm).collect();
        let n = branches[0].1.dims()[..D - 1].iter().product::<usize>() as f64;
        let branches = branches.into_iter().map(|(norm, x, sign)| {
            let (gamma, beta) = (norm.gamma.val(), norm.beta.val());
            ops::Branch { x, gamma, beta, sign }
        });
        let normed = ops::batch_norm_sum(branches.collect(), Self::EPS);
        for (norm, [mean, var]) in norms.into_iter().zip(normed.statistics) {
            // The running variance is the one with `1 / (n - 1)`.
            let var = var.mul_scalar(n / (n - 1.0).max(1.0));
            for (state, found) in [(&norm.running_mean, mean), (&norm.running_var, var)] {
                let kept = state.value_sync().mul_scalar(1.0 - Self::MOMENTUM);
                state.update(kept.add(found.mul_scalar(Self::MOMENTUM)).detach());
            }
        }
        normed.output
    }

    fn by_running_statistics<const D: usize>(&self, x: Tensor<D>, sign: f32) -> Tensor<D> {
        let scale = self.running_var.value_sync().add_scalar(Self::EPS).sqrt().recip() * self.gamma.val();
        let shift = self.beta.val() - self.running_mean.value_sync() * scale.clone();
        ops::affine(x, scale.mul_scalar(sign), shift.mul_scalar(sign))
    }

    /// Mean and variance that it has run up, `[channels]` each.
    pub fn running_statistics(&self) -> [Tensor<1>; 2] {
        [self.running_mean.value_sync(), self.running_var.value_sync()]
    }
}

impl Named for BatchNorm {
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        with.tensor(&format!("{name}.weight"), Form::AsIs, &mut self.gamma)?;
        with.tensor(&format!("{name}.bias"), Form::AsIs, &mut self.beta)?;
        with.tensor(&format!("{name}.running_mean"), Form::AsIs, &mut self.running_mean)?;
        with.tensor(&format!("{name}.running_var"), Form::AsIs, &mut self.running_var)
    }
}

/// A convolution without bias and its BatchNorm.
#[derive(Module, Debug)]
pub struct ConvNorm {
    conv: Conv,
    norm: BatchNorm,
}

impl ConvNorm {
    /// For `[out, in / groups, kh, kw]`.
    pub fn new(shape: [usize; 4], stride: usize, device: &Device) -> Self {
        Self { conv: Conv::new(shape, stride, false, device), norm: BatchNorm::new(shape[0], device) }
    }

    /// Without padding.
    pub fn unpadded(self) -> Self {
        Self { conv: self.conv.unpadded(), ..self }
    }

    /// As [`Conv::forward`].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x))
    }

    /// The norm and what it is to be applied to.
    pub(crate) fn branch(&self, x: Tensor<4>) -> (&BatchNorm, Tensor<4>) {
        (&self.norm, self.conv.forward(x))
    }

    /// Exchange with `conv` and a BatchNorm of this name under `name`.
    pub(crate) fn exchange(
        &mut self,
        name: &str,
        norm: &str,
        with: &mut dyn Exchange,
    ) -> Result<(), TrainError> {
        self.conv.exchange(&format!("{name}.conv"), with)?;
        self.norm.exchange(&format!("{name}.{norm}"), with)
    }
}

/// Layer norm over the last dimension.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[channels]`.
    pub gamma: Param<Tensor<1>>,
    /// `[channels]`.
    pub beta: Param<Tensor<1>>,
    #[module(skip)]
    eps: f32,
}

impl LayerNorm {
    /// Ones and zeros.
    pub fn new(channels: usize, eps: f32, device: &Device) -> Self {
        Self { gamma: ones(channels, device), beta: zeros(channels, device), eps }
    }

    /// `[.., channels]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.gamma.val(), self.beta.val(), self.eps)
    }
}

impl Named for LayerNorm {
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        with.tensor(&format!("{name}.weight"), Form::AsIs, &mut self.gamma)?;
        with.tensor(&format!("{name}.bias"), Form::AsIs, &mut self.beta)
    }
}

/// RMS norm over the last dimension.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[channels]`.
    pub gamma: Param<Tensor<1>>,
    #[module(skip)]
    eps: f32,
}

impl RmsNorm {
    /// Ones.
    pub fn new(channels: usize, eps: f32, device: &Device) -> Self {
        Self { gamma: ones(channels, device), eps }
    }

    /// `[.., channels]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, self.gamma.val(), self.eps)
    }
}

impl Named for RmsNorm {
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        with.tensor(&format!("{name}.weight"), Form::AsIs, &mut self.gamma)
    }
}

/// One factor a channel for what is added to a residual.
#[derive(Module, Debug)]
pub struct LayerScale {
    gamma: Param<Tensor<1>>,
}

impl LayerScale {
    /// 1e-5, as FastViT begins.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { gamma: Param::from_tensor(Tensor::full([channels], 1e-5, device)) }
    }

    /// `x + gamma * y`.
    pub fn add<const D: usize>(&self, x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
        ops::scaled_residual(x, y, self.gamma.val())
    }
}

impl Named for LayerScale {
    /// `name` is the tensor's own, `[channels, 1, 1]`.
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        with.tensor(name, Form::PerChannel, &mut self.gamma)
    }
}

/// Squeeze-and-excite (Hu et al., arXiv 1709.01507): channels times the sigmoid of an MLP of their means.
#[derive(Module, Debug)]
pub struct SqueezeExcite {
    fc1: Conv,
    fc2: Conv,
}

impl SqueezeExcite {
    /// For so many channels and hidden ones.
    pub fn new(channels: usize, hidden: usize, device: &Device) -> Self {
        let conv = |from, to| Conv::new([to, from, 1, 1], 1, true, device);
        Self { fc1: conv(channels, hidden), fc2: conv(hidden, channels) }
    }

    /// `[batch, height, width, channels]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mean = x.clone().mean_dim(2).mean_dim(1);
        let hidden = activation::relu(self.fc1.forward(mean));
        x * activation::sigmoid(self.fc2.forward(hidden))
    }

    /// Exchange under the names of the two convolutions.
    pub(crate) fn exchange(
        &mut self,
        [fc1, fc2]: [&str; 2],
        with: &mut dyn Exchange,
    ) -> Result<(), TrainError> {
        self.fc1.exchange(fc1, with)?;
        self.fc2.exchange(fc2, with)
    }
}
