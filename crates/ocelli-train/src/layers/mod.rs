//! Layers with their parameters, in the shapes of the checkpoints.

mod basic;
mod mask;
mod mobile_one;
mod transformer;

pub use basic::{BatchNorm, Conv, ConvNorm, LayerNorm, LayerScale, Linear, RmsNorm, SqueezeExcite};
pub(crate) use basic::{LORA_A, LORA_B, normal};
pub use mask::{AttentionMask, Sight};
pub use mobile_one::{Branches, ConvFfn, LargeKernel, MobileOne, RepCpe, RepMixer, RepMixerBlock};
pub use transformer::TransformerBlock;
