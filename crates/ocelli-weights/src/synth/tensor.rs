//! Tensors in the making: names, shapes, and how the values are drawn.

/// The element types a random checkpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SynthDtype {
    /// All numbers of a FastVLM.
    Bf16,
    /// All numbers of a MobileCLIP.
    F32,
    /// BatchNorm counters.
    I64,
}

/// Part of the model that a tensor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// The image tower without the CLIP projection.
    Tower,
    /// The CLIP projection of the image tower, which FastVLM carries along unused.
    Head,
    /// The projector of a FastVLM.
    Projector,
    /// The language model with its embedding and head.
    Language,
    /// The text tower of a MobileCLIP with its projection.
    Text,
    /// The scale of similarities.
    LogitScale,
}

/// One tensor of a random checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthTensor {
    /// Its name in the file.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: SynthDtype,
    /// Part of the model.
    pub group: Group,
    /// Whether it is a parameter; running statistics are not.
    pub parameter: bool,
    pub(super) fill: Fill,
}

/// How the values of a tensor are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill {
    /// Integers, all zero.
    Zero,
    /// Uniform with this mean and standard deviation.
    Random { mean: f32, std: f32 },
    /// Uniform between two bounds.
    Between(f32, f32),
    /// Depthwise kernels `[C, 1, k, k]` that copy their input, with noise.
    Identity { noise: f32 },
}

impl Fill {
    /// A small bias, so that code which forgets it is found.
    pub(super) const BIAS: Self = Self::Random { mean: 0.0, std: 0.05 };
    /// The weight of a norm: near the identity but not on it.
    pub(super) const NORM: Self = Self::Between(0.8, 1.2);
    /// A layer scale, so that many residual blocks in a row do not add up to much.
    pub(super) const LAYER_SCALE: Self = Self::Between(0.1, 0.3);
}

impl SynthDtype {
    /// As safetensors spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::F32 => "F32",
            Self::I64 => "I64",
        }
    }

    /// Bytes of one value.
    pub fn size(self) -> u64 {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
            Self::I64 => 8,
        }
    }
}

impl SynthTensor {
    /// How many values it has.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }

    /// How many bytes it takes in the file.
    pub fn bytes(&self) -> u64 {
        self.len() * self.dtype.size()
    }
}

/// The tensors of a checkpoint, part after part.
pub(super) struct TensorList {
    pub(super) tensors: Vec<SynthTensor>,
    dtype: SynthDtype,
    group: Group,
    prefix: String,
}

impl TensorList {
    /// An empty list; all numbers are of type `dtype`.
    pub(super) fn new(dtype: SynthDtype) -> Self {
        Self { tensors: Vec::new(), dtype, group: Group::Tower, prefix: String::new() }
    }

    /// What follows belongs to `group`, and its names begin with `prefix`.
    pub(super) fn begin(&mut self, group: Group, prefix: &str) {
        (self.group, self.prefix) = (group, prefix.to_owned());
    }

    pub(super) fn add(&mut self, name: &str, shape: &[usize], fill: Fill) {
        let statistic = ["running_mean", "running_var", "num_batches_tracked"];
        self.tensors.push(SynthTensor {
            name: format!("{}{name}", self.prefix),
            shape: shape.to_vec(),
            dtype: if fill == Fill::Zero { SynthDtype::I64 } else { self.dtype },
            group: self.group,
            parameter: !statistic.iter().any(|leaf| name.ends_with(leaf)),
            fill,
        });
    }

    /// Weights that keep the size of what goes in, times `gain`; `fan_in` is all but the first dimension.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize], gain: f32) {
        let fan_in: usize = shape.iter().skip(1).product();
        self.random(name, shape, gain / (fan_in as f32).sqrt());
    }

    pub(super) fn random(&mut self, name: &str, shape: &[usize], std: f32) {
        self.add(name, shape, Fill::Random { mean: 0.0, std });
    }

    pub(super) fn weight_and_bias(&mut self, name: &str, shape: &[usize], gain: f32) {
        self.weight(&format!("{name}.weight"), shape, gain);
        self.add(&format!("{name}.bias"), &shape[..1], Fill::BIAS);
    }

    /// Near a multiplication with `gain` but not on it.
    pub(super) fn batch_norm(&mut self, name: &str, channels: usize, gain: f32) {
        self.add(&format!("{name}.weight"), &[channels], Fill::Between(0.8 * gain, 1.2 * gain));
        self.add(&format!("{name}.bias"), &[channels], Fill::BIAS);
        self.add(&format!("{name}.running_mean"), &[channels], Fill::BIAS);
        self.add(&format!("{name}.running_var"), &[channels], Fill::Between(0.7, 1.3));
        self.add(&format!("{name}.num_batches_tracked"), &[], Fill::Zero);
    }
}
