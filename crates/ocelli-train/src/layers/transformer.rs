//! The pre-norm transformer block that CLIP's vision and text towers share.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{AttentionMask, LayerNorm, Linear};
use crate::ops;

/// `x1 = x + proj(attention(norm1(x))); y = x1 + fc2(gelu(fc1(norm2(x1))))`.
#[derive(Module, Debug)]
pub struct TransformerBlock {
    pub(crate) norm1: LayerNorm,
    pub(crate) qkv: Linear,
    pub(crate) proj: Linear,
    pub(crate) norm2: LayerNorm,
    pub(crate) fc1: Linear,
    pub(crate) fc2: Linear,
    #[module(skip)]
    heads: usize,
}

impl TransformerBlock {
    /// For so many channels, hidden ones and heads.
    pub fn new(width: usize, hidden: usize, heads: usize, eps: f32, device: &Device) -> Self {
        Self {
            norm1: LayerNorm::new(width, eps, device),
            qkv: Linear::new(width, 3 * width, true, device),
            proj: Linear::new(width, width, true, device),
            norm2: LayerNorm::new(width, eps, device),
            fc1: Linear::new(width, hidden, true, device),
            fc2: Linear::new(hidden, width, true, device),
            heads,
        }
    }

    /// `[batch, positions, width]` to the same shape.
    pub fn forward(&self, x: Tensor<3>, mask: &AttentionMask) -> Tensor<3> {
        let qkv = self.qkv.forward(self.norm1.forward(x.clone()));
        let x = x + self.proj.forward(ops::packed_attention(qkv, self.heads, mask.clone()));
        let hidden = ops::gelu(self.fc1.forward(self.norm2.forward(x.clone())));
        x + self.fc2.forward(hidden)
    }
}
