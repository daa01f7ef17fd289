//! Modules of branches that fold into one convolution: MobileOne (arXiv 2206.04040), the large-kernel convolution and
//! the mixers of FastViT (arXiv 2303.14189), after `huggingface/pytorch-image-models` `timm/models/fastvit.py`.
//!
//! Each is in training form, or has the one folded convolution that a released checkpoint stores in its place.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ocelli_weights::names::{
    CPE_CONV, FOLDED, FOLDED_LARGE_KERNEL, LARGE_KERNEL, MOBILE_ONE, Name, REP_MIXER_NORM, REP_MIXER_SCALE,
};

use super::{BatchNorm, Conv, ConvNorm, LayerScale};
use crate::TrainError;
use crate::ops;
use crate::tensors::{Exchange, Named};

/// Sum of a convolution, a 1x1 convolution and the input itself, each behind a BatchNorm.
#[derive(Module, Debug)]
pub struct MobileOne {
    full: Option<ConvNorm>,
    scale: Option<ConvNorm>,
    identity: Option<BatchNorm>,
    folded: Option<Conv>,
}

/// Which form a module of branches is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Branches {
    /// Branches and BatchNorms.
    Training {
        /// Whether there is a 1x1 branch.
        scale: bool,
        /// Whether there is a branch of BatchNorm alone.
        identity: bool,
    },
    /// One convolution with a bias.
    Folded,
}

impl MobileOne {
    /// For a convolution `[out, in / groups, kh, kw]`.
    pub fn new(shape: [usize; 4], stride: usize, branches: Branches, device: &Device) -> Self {
        let Branches::Training { scale, identity } = branches else {
            let folded = Some(Conv::new(shape, stride, true, device));
            return Self { full: None, scale: None, identity: None, folded };
        };
        let small = [shape[0], shape[1], 1, 1];
        Self {
            full: Some(ConvNorm::new(shape, stride, device)),
            scale: scale.then(|| ConvNorm::new(small, stride, device)),
            identity: identity.then(|| BatchNorm::new(shape[0], device)),
            folded: None,
        }
    }

    /// As [`Conv::forward`], without an activation.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if let Some(folded) = &self.folded {
            return folded.forward(x);
        }
        BatchNorm::sum(self.branches(&x))
    }

    /// In training form, the norm of each branch with what it is applied to, and its sign.
    fn branches(&self, x: &Tensor<4>) -> Vec<(&BatchNorm, Tensor<4>, f32)> {
        let convs = [&self.full, &self.scale].into_iter().flatten().map(|conv| conv.branch(x.clone()));
        let identity = self.identity.as_ref().map(|norm| (norm, x.clone()));
        convs.chain(identity).map(|(norm, x)| (norm, x, 1.0)).collect()
    }
}

impl Named for MobileOne {
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        let style = with.style();
        if let Some(folded) = &mut self.folded {
            return folded.exchange(&format!("{name}.{}", FOLDED.in_style(style)), with);
        }
        let [full, scale, identity] = MOBILE_ONE.each_ref().map(|row| format!("{name}.{}", row.name(style)));
        if let Some(branch) = &mut self.full {
            branch.exchange(&full, "bn", with)?;
        }
        if let Some(branch) = &mut self.scale {
            branch.exchange(&scale, "bn", with)?;
        }
        match &mut self.identity {
            Some(branch) => branch.exchange(&identity, with),
            None => Ok(()),
        }
    }
}

/// Depthwise 7x7 and 3x3, each behind a BatchNorm, added.
#[derive(Module, Debug)]
pub struct LargeKernel {
    large: Option<ConvNorm>,
    small: Option<ConvNorm>,
    folded: Option<Conv>,
}

impl LargeKernel {
    /// With a stride of 2.
    pub fn new(outputs: usize, folded: bool, device: &Device) -> Self {
        let conv = |kernel| (!folded).then(|| ConvNorm::new([outputs, 1, kernel, kernel], 2, device));
        let one = folded.then(|| Conv::new([outputs, 1, 7, 7], 2, true, device));
        Self { large: conv(7), small: conv(3), folded: one }
    }

    /// `[batch, height, width, in]` to half the sides and `outputs` channels, without an activation.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match (&self.large, &self.small, &self.folded) {
            (Some(large), Some(small), _) => {
                let branches = [large.branch(x.clone()), small.branch(x)];
                BatchNorm::sum(branches.map(|(norm, x)| (norm, x, 1.0)))
            }
            (_, _, Some(folded)) => folded.forward(x),
            _ => unreachable!("one of the two forms"),
        }
    }
}

impl Named for LargeKernel {
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        let style = with.style();
        let [large, small] = LARGE_KERNEL.each_ref().map(|row| format!("{name}.{}", row.name(style)));
        if let Some(branch) = &mut self.large {
            branch.exchange(&large, "bn", with)?;
        }
        if let Some(branch) = &mut self.small {
            branch.exchange(&small, "bn", with)?;
        }
        match &mut self.folded {
            Some(folded) => folded.exchange(&format!("{name}.{}", FOLDED_LARGE_KERNEL.in_style(style)), with),
            None => Ok(()),
        }
    }
}

/// `x + layer_scale * (mixer(x) - norm(x))`.
#[derive(Module, Debug)]
pub struct RepMixer {
    mixer: Option<MobileOne>,
    norm: Option<BatchNorm>,
    layer_scale: Option<LayerScale>,
    folded: Option<Conv>,
}

impl RepMixer {
    /// For so many channels and a depthwise kernel `[kh, kw]`; the mixer has a 1x1 branch if the kernel is higher than
    /// one row.
    pub fn new(channels: usize, [kh, kw]: [usize; 2], folded: bool, device: &Device) -> Self {
        let shape = [channels, 1, kh, kw];
        if folded {
            let folded = Some(Conv::new(shape, 1, true, device));
            return Self { mixer: None, norm: None, layer_scale: None, folded };
        }
        let branches = Branches::Training { scale: kh > 1, identity: true };
        Self {
            mixer: Some(MobileOne::new(shape, 1, branches, device)),
            norm: Some(BatchNorm::new(channels, device)),
            layer_scale: Some(LayerScale::new(channels, device)),
            folded: None,
        }
    }

    /// `[batch, height, width, channels]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match (&self.mixer, &self.norm, &self.layer_scale, &self.folded) {
            (Some(mixer), Some(norm), Some(layer_scale), _) => {
                let mut branches = mixer.branches(&x);
                branches.push((norm, x.clone(), -1.0));
                layer_scale.add(x, BatchNorm::sum(branches))
            }
            (_, _, _, Some(folded)) => folded.forward(x),
            _ => unreachable!("one of the two forms"),
        }
    }
}

impl Named for RepMixer {
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        let style = with.style();
        if let Some(mixer) = &mut self.mixer {
            mixer.exchange(&format!("{name}.mixer"), with)?;
        }
        if let Some(norm) = &mut self.norm {
            norm.exchange(&format!("{name}.{}", REP_MIXER_NORM.name(style)), with)?;
        }
        if let Some(layer_scale) = &mut self.layer_scale {
            layer_scale.exchange(&format!("{name}.{}", REP_MIXER_SCALE.in_style(style)), with)?;
        }
        match &mut self.folded {
            Some(folded) => folded.exchange(&format!("{name}.{}", FOLDED.in_style(style)), with),
            None => Ok(()),
        }
    }
}

/// Conditional positional encoding: `x + depthwise 7x7 (x)`.
#[derive(Module, Debug)]
pub struct RepCpe {
    conv: Conv,
    /// The convolution adds the input itself.
    #[module(skip)]
    folded: bool,
}

impl RepCpe {
    /// For so many channels.
    pub fn new(channels: usize, folded: bool, device: &Device) -> Self {
        Self { conv: Conv::new([channels, 1, 7, 7], 1, true, device), folded }
    }

    /// `[batch, height, width, channels]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv.forward(x.clone());
        if self.folded { y } else { x + y }
    }
}

impl Named for RepCpe {
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        let child = if self.folded { FOLDED } else { CPE_CONV };
        let name = format!("{name}.{}", child.in_style(with.style()));
        self.conv.exchange(&name, with)
    }
}

/// Depthwise convolution, BatchNorm, and an MLP of 1x1 convolutions with a GELU.
#[derive(Module, Debug)]
pub struct ConvFfn {
    conv: ConvNorm,
    fc1: Conv,
    fc2: Conv,
}

impl ConvFfn {
    /// For so many channels and hidden ones, and a depthwise kernel.
    pub fn new(channels: usize, hidden: usize, [kh, kw]: [usize; 2], device: &Device) -> Self {
        let mlp = |from: usize, to: usize| {
            let mut conv = Conv::new([to, from, 1, 1], 1, true, device);
            conv.weight = super::normal([to, from, 1, 1], 0.02, device);
            conv
        };
        Self {
            conv: ConvNorm::new([channels, 1, kh, kw], 1, device),
            fc1: mlp(channels, hidden),
            fc2: mlp(hidden, channels),
        }
    }

    /// `[batch, height, width, channels]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.fc2.forward(ops::gelu(self.fc1.forward(self.conv.forward(x))))
    }

    /// Exchange under the name of the module, its convolution's child and BatchNorm as the row of the table says.
    pub(crate) fn exchange(
        &mut self,
        name: &str,
        [child, norm]: [Name; 2],
        with: &mut dyn Exchange,
    ) -> Result<(), TrainError> {
        let style = with.style();
        self.conv.exchange(&format!("{name}.{}", child.in_style(style)), norm.in_style(style), with)?;
        self.fc1.exchange(&format!("{name}.fc1"), with)?;
        self.fc2.exchange(&format!("{name}.fc2"), with)
    }
}

/// `x = mixer(x); y = x + layer_scale * ffn(x)`.
#[derive(Module, Debug)]
pub struct RepMixerBlock {
    pub(crate) token_mixer: RepMixer,
    pub(crate) ffn: ConvFfn,
    pub(crate) layer_scale: LayerScale,
}

impl RepMixerBlock {
    /// For so many channels and hidden ones; `kernels` are those of the mixer and of the feed-forward.
    pub fn new(
        channels: usize,
        hidden: usize,
        kernels: [[usize; 2]; 2],
        folded: bool,
        device: &Device,
    ) -> Self {
        Self {
            token_mixer: RepMixer::new(channels, kernels[0], folded, device),
            ffn: ConvFfn::new(channels, hidden, kernels[1], device),
            layer_scale: LayerScale::new(channels, device),
        }
    }

    /// `[batch, height, width, channels]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.token_mixer.forward(x);
        self.layer_scale.add(x.clone(), self.ffn.forward(x))
    }
}
