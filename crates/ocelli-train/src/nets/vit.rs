//! The vision transformers of MobileCLIP-B and MobileCLIP2-L-14, pixels to the class token.
//!
//! MobileCLIP (arXiv 2311.17049); reference: timm `vision_transformer.py` and `vision_transformer_hybrid.py`
//! (`vit_base_mci_224`, `vit_large_patch14_clip_224`).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use ocelli_weights::RawCheckpoint;
use ocelli_weights::names::{Form as StoredForm, Style};

use super::fastvit::conv_ffn_names;
use super::layer;
use crate::TrainError;
use crate::layers::{AttentionMask, Conv, ConvNorm, LayerNorm, TransformerBlock, normal};
use crate::ops;
use crate::tensors::{Exchange, Form, Named};

/// timm's default, with a convolutional stem.
const CONV_STEM_NORM_EPS: f32 = 1e-6;
/// CLIP's own.
const CLIP_NORM_EPS: f32 = 1e-5;
/// Values of an attention head in the released towers, and in those too narrow for that.
const HEAD_DIMS: [usize; 2] = [64, 16];

/// How pixels become patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VitStem {
    /// By three convolutions, the first two so wide; the class token has no position.
    Convs(usize),
    /// By one convolution of this side, with a norm behind the positions.
    Patches(usize),
}

/// All sizes of a tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VitConfig {
    /// Channels.
    pub width: usize,
    /// Hidden channels of the feed-forward.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// How pixels become patches.
    pub stem: VitStem,
}

impl VitConfig {
    /// The sizes of a tower in a checkpoint.
    ///
    /// # Errors
    /// When a tensor that tells one is missing.
    pub fn of(checkpoint: &RawCheckpoint) -> Result<Self, TrainError> {
        let shape = |ours: &str| -> Option<Vec<usize>> {
            let (name, _) = checkpoint.naming.module(ours)?;
            let shape = checkpoint.shape(&name)?.iter().copied().filter(|&dim| dim != 1);
            Some(shape.collect())
        };
        let needed = |ours: &str| {
            let found = shape(ours).filter(|shape| shape.len() >= 2);
            found.ok_or_else(|| TrainError::Missing { name: ours.to_owned() })
        };
        let layers =
            (0..).take_while(|l| shape(&format!("vision.blocks.{l}.mlp.fc1.weight")).is_some()).count();
        let [hidden, width] = needed("vision.blocks.0.mlp.fc1.weight")?[..2] else {
            unreachable!("two were asked for")
        };
        let stem = match shape("vision.patch_embed.weight").and_then(|shape| shape.last().copied()) {
            Some(side) => VitStem::Patches(side),
            None => VitStem::Convs(needed("vision.stem.2.weight")?[1]),
        };
        let head_dim = HEAD_DIMS.into_iter().find(|dim| width % dim == 0).unwrap_or(width);
        let positions = needed("vision.pos_embed")?[0];
        Ok(Self { width, hidden, layers, heads: width / head_dim, positions, stem })
    }
}

/// The tower.
#[derive(Module, Debug)]
pub struct Vit {
    stem: Vec<ConvNorm>,
    /// The last convolution of the stem, or the only one.
    patches: Conv,
    /// `[1, 1, width]`.
    cls_token: Param<Tensor<3>>,
    /// `[1, positions, width]`.
    pos_embed: Param<Tensor<3>>,
    norm_pre: Option<LayerNorm>,
    blocks: Vec<TransformerBlock>,
    norm: LayerNorm,
}

impl Vit {
    /// Random weights.
    pub fn new(config: &VitConfig, device: &Device) -> Self {
        let width = config.width;
        let (eps, stem, patches, norm_pre) = match config.stem {
            VitStem::Convs(stem) => {
                let convs = vec![
                    ConvNorm::new([stem, 3, 4, 4], 4, device).unpadded(),
                    ConvNorm::new([stem, stem, 2, 2], 2, device).unpadded(),
                ];
                let last = Conv::new([width, stem, 2, 2], 2, true, device);
                (CONV_STEM_NORM_EPS, convs, last, None)
            }
            VitStem::Patches(side) => {
                let conv = Conv::new([width, 3, side, side], side, false, device);
                (CLIP_NORM_EPS, Vec::new(), conv, Some(LayerNorm::new(width, CLIP_NORM_EPS, device)))
            }
        };
        let block = |_| TransformerBlock::new(width, config.hidden, config.heads, eps, device);
        Self {
            stem,
            patches: patches.unpadded(),
            cls_token: normal([1, 1, width], 0.02, device),
            pos_embed: normal([1, config.positions, width], 0.02, device),
            norm_pre,
            blocks: (0..config.layers).map(block).collect(),
            norm: LayerNorm::new(width, eps, device),
        }
    }

    /// Normalised pixels `[batch, height, width, 3]` to the class token, normed, `[batch, width]`.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        let x = self.stem.iter().fold(pixels, |x, conv| ops::gelu(conv.forward(x)));
        let x = self.patches.forward(x);
        let [batch, height, width, channels] = x.dims();
        let x: Tensor<3> = x.reshape([batch, height * width, channels]);
        let class = self.cls_token.val().repeat_dim(0, batch);
        let x = match &self.norm_pre {
            Some(norm) => norm.forward(Tensor::cat(vec![class, x], 1) + self.pos_embed.val()),
            None => Tensor::cat(vec![class, x + self.pos_embed.val()], 1),
        };
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, &AttentionMask::Full));
        self.norm.forward(x.narrow(1, 0, 1)).reshape([batch, channels])
    }
}

impl Named for Vit {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        for (i, conv) in self.stem.iter_mut().enumerate() {
            let ours = format!("{ours}.stem.{i}");
            let (name, row) = with.module(&ours)?;
            let [child, norm] = conv_ffn_names(row.form, &ours)?.map(|name| name.in_style(with.style()));
            conv.exchange(&format!("{name}.{child}"), norm, with)?;
        }
        let patches = if self.stem.is_empty() { "patch_embed" } else { "stem.2" };
        let name = layer(with, &format!("{ours}.{patches}"))?;
        self.patches.exchange(&name, with)?;
        let (name, _) = with.module(&format!("{ours}.cls_token"))?;
        with.tensor(&name, Form::AsIs, &mut self.cls_token)?;
        let (name, _) = with.module(&format!("{ours}.pos_embed"))?;
        let ones = usize::from(with.style() == Style::Apple);
        with.tensor(&name, Form::After(ones), &mut self.pos_embed)?;
        if let Some(norm) = &mut self.norm_pre {
            let name = layer(with, &format!("{ours}.norm_pre"))?;
            norm.exchange(&name, with)?;
        }
        for (l, block) in self.blocks.iter_mut().enumerate() {
            block.exchange(&format!("{ours}.blocks.{l}"), with)?;
        }
        let name = layer(with, &format!("{ours}.norm"))?;
        self.norm.exchange(&name, with)
    }
}

impl Named for TransformerBlock {
    /// `ours` is the block's, in a tower of images or of texts.
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        for (norm, child) in [(&mut self.norm1, "norm1"), (&mut self.norm2, "norm2")] {
            let name = layer(with, &format!("{ours}.{child}"))?;
            norm.exchange(&name, with)?;
        }
        let linears = [
            (&mut self.qkv, "attn.qkv"),
            (&mut self.proj, "attn.proj"),
            (&mut self.fc1, "mlp.fc1"),
            (&mut self.fc2, "mlp.fc2"),
        ];
        for (linear, child) in linears {
            // Weight and bias each have a row: open_clip's names for them differ in more than the end.
            let (name, row) = with.module(&format!("{ours}.{child}.weight"))?;
            debug_assert_eq!(row.form, StoredForm::Tensor);
            with.tensor(&name, Form::AsIs, &mut linear.weight)?;
            if let Some(bias) = &mut linear.bias {
                let (name, _) = with.module(&format!("{ours}.{child}.bias"))?;
                with.tensor(&name, Form::AsIs, bias)?;
            }
        }
        Ok(())
    }
}
