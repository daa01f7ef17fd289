//! FastViT with a MobileCLIP trunk: FastViTHD and MCi0 to MCi4, pixels to a map of features.
//!
//! FastVLM (arXiv 2412.13303), MobileCLIP (arXiv 2311.17049), FastViT (arXiv 2303.14189); reference: timm
//! `fastvit.py` (`fastvit_mci0` to `fastvit_mci4`). The folded twin is `fastvithd.rs` of `ocelli-models`.

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor};
use ocelli_weights::names::{FOLDED, Form as StoredForm, Name};
use ocelli_weights::{FastVitForm, RawCheckpoint};

use super::anew::{self, Piece, piece};
use super::layer;
use crate::TrainError;
use crate::layers::{
    AttentionMask, BatchNorm, Branches, ConvFfn, LargeKernel, LayerNorm, LayerScale, Linear, MobileOne,
    RepCpe, RepMixerBlock, SqueezeExcite,
};
use crate::ops;
use crate::tensors::{Exchange, Named};

/// Channels of one attention head, in every variant.
const HEAD_DIM: usize = 32;
/// Of the layer norm before attention.
const NORM_EPS: f32 = 1e-5;
/// Sides of the depthwise kernels of a mixer and of a feed-forward.
const KERNELS: [[usize; 2]; 2] = [[3, 3], [7, 7]];

/// All sizes of a tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastVitConfig {
    /// Blocks, and which optional parts there are.
    pub form: FastVitForm,
    /// Channels of each stage.
    pub widths: Vec<usize>,
    /// Hidden channels of the feed-forward of each stage.
    pub hidden: Vec<usize>,
    /// Hidden channels of the squeeze-excite in the downsample of each stage; 0 where there is none.
    pub downsample_se: Vec<usize>,
    /// Hidden channels of the squeeze-excite of the final conv.
    pub final_se: usize,
    /// Every module of branches is one folded convolution.
    pub folded: bool,
}

impl FastVitConfig {
    /// A tower with layer norms and without squeeze-excite in its downsamples, as FastViTHD: attention in the stages
    /// after the third.
    pub fn fastvithd(widths: &[usize], blocks: &[usize], expansion: usize) -> Self {
        let last = widths.last().copied().unwrap_or(0);
        Self {
            form: FastVitForm {
                blocks: blocks.to_vec(),
                attention: (0..blocks.len()).map(|stage| stage > 2).collect(),
                stem_scale: false,
                downsample_se: false,
                batch_norm: false,
            },
            widths: widths.to_vec(),
            hidden: widths.iter().map(|width| expansion * width).collect(),
            downsample_se: vec![0; widths.len()],
            // A sixteenth of the channels after the final conv.
            final_se: (2 * last / 16).max(1),
            folded: false,
        }
    }

    /// A tower with BatchNorms before attention and squeeze-excite in the downsamples of stages 2 and up, as MCi0 to
    /// MCi2.
    pub fn mci(widths: &[usize], blocks: &[usize], expansion: usize) -> Self {
        let mut config = Self::fastvithd(widths, blocks, expansion);
        config.form = FastVitForm { stem_scale: true, downsample_se: true, batch_norm: true, ..config.form };
        // A quarter, rounded to a multiple of 8.
        let hidden = |(s, width): (usize, &usize)| if s > 1 { (width / 4 + 4) / 8 * 8 } else { 0 };
        config.downsample_se = widths.iter().enumerate().map(hidden).map(|h| h.max(8)).collect();
        config.downsample_se[..2.min(widths.len())].fill(0);
        config
    }

    /// The sizes of a tower in a checkpoint.
    ///
    /// # Errors
    /// When a tensor that tells one is missing.
    pub fn of(checkpoint: &RawCheckpoint) -> Result<Self, TrainError> {
        let naming = &checkpoint.naming;
        let form = naming
            .fast_vit()
            .ok_or_else(|| TrainError::Structure { reason: "the image tower is no FastViT".to_owned() })?;
        let name = |ours: &str| {
            let found = naming.module(ours).map(|(name, _)| name);
            found.ok_or_else(|| TrainError::NoName { family: naming.family.name(), ours: ours.to_owned() })
        };
        let first = |ours: &str| -> Result<usize, TrainError> {
            let name = name(ours)?;
            let shape = checkpoint.shape(&name).ok_or(TrainError::Missing { name })?;
            Ok(shape.first().copied().unwrap_or(0))
        };
        let stages = 0..form.blocks.len();
        let block = |s: usize, fc: &str| first(&format!("vision.stages.{s}.blocks.0.ffn.{fc}.weight"));
        let widths = stages.clone().map(|s| block(s, "fc2")).collect::<Result<_, _>>()?;
        let hidden = stages.clone().map(|s| block(s, "fc1")).collect::<Result<_, _>>()?;
        let se = |s: usize| match form.downsample_se && s > 1 {
            true => first(&format!("vision.stages.{s}.downsample.se.fc1.weight")),
            false => Ok(0),
        };
        Ok(Self {
            widths,
            hidden,
            downsample_se: stages.map(se).collect::<Result<_, _>>()?,
            final_se: first("vision.final_conv.se.fc1.weight")?,
            folded: checkpoint.is_folded(&name("vision.stem.2")?, FOLDED),
            form,
        })
    }

    /// Channels of the map of features.
    pub fn features(&self) -> usize {
        2 * self.widths.last().copied().unwrap_or(0)
    }

    /// Pixels of the image to one of the map, along a side.
    pub fn stride(&self) -> usize {
        4 << (self.widths.len() - 1)
    }
}

/// The tower.
#[derive(Module, Debug)]
pub struct FastVit {
    stem: Vec<MobileOne>,
    stages: Vec<Stage>,
    final_conv: MobileOne,
    final_se: SqueezeExcite,
}

/// What [`FastVit::forward_by_blocks`] leaves.
pub struct ByBlocks {
    /// Features `[batch, height / stride, width / stride, features]`, which need a gradient.
    pub features: Tensor<4>,
    inputs: Vec<Tensor<4>>,
}

/// Downsample, position encoding, blocks.
#[derive(Module, Debug)]
struct Stage {
    downsample: Option<Downsample>,
    pos_emb: Option<RepCpe>,
    mixer_blocks: Vec<RepMixerBlock>,
    attention_blocks: Vec<AttentionBlock>,
}

/// Depthwise 7x7 /2 that widens, squeeze-excite, GELU, 1x1, GELU.
#[derive(Module, Debug)]
struct Downsample {
    dw: LargeKernel,
    se: Option<SqueezeExcite>,
    pw: MobileOne,
}

/// `x1 = x + ls1 * attention(norm(x)); y = x1 + ls2 * ffn(x1)`: no norm before the feed-forward.
#[derive(Module, Debug)]
struct AttentionBlock {
    layer_norm: Option<LayerNorm>,
    batch_norm: Option<BatchNorm>,
    qkv: Linear,
    proj: Linear,
    layer_scale_1: LayerScale,
    ffn: ConvFfn,
    layer_scale_2: LayerScale,
}

impl FastVit {
    /// Random weights.
    pub fn new(config: &FastVitConfig, device: &Device) -> Self {
        let branches = |scale: bool, identity: bool| match config.folded {
            true => Branches::Folded,
            false => Branches::Training { scale, identity },
        };
        let (c, last) = (config.widths[0], config.widths[config.widths.len() - 1]);
        let scale = config.form.stem_scale;
        let stem = vec![
            MobileOne::new([c, 3, 3, 3], 2, branches(scale, false), device),
            MobileOne::new([c, 1, 3, 3], 2, branches(scale, false), device),
            MobileOne::new([c, c, 1, 1], 1, branches(false, true), device),
        ];
        Self {
            stem,
            stages: (0..config.widths.len()).map(|s| Stage::new(config, s, device)).collect(),
            final_conv: MobileOne::new([2 * last, 1, 3, 3], 1, branches(true, false), device),
            final_se: SqueezeExcite::new(2 * last, config.final_se, device),
        }
    }

    /// Normalised pixels `[batch, height, width, 3]` to features `[batch, height / stride, width / stride, features]`.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.pieces().iter().fold(pixels, |x, piece| piece.forward(x))
    }

    /// As [`Self::forward`], keeping the inputs of its blocks only, which [`Self::backward_by_blocks`] computes anew.
    pub fn forward_by_blocks(&self, pixels: Tensor<4>) -> ByBlocks {
        let (features, inputs) = anew::forward(&self.pieces(), pixels);
        ByBlocks { features: features.require_grad(), inputs }
    }

    /// The backward pass behind [`Self::forward_by_blocks`], given the gradients of a loss along its features: `take` gets
    /// the gradients block by block.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn backward_by_blocks(
        &self,
        kept: ByBlocks,
        gradients: &Gradients,
        take: &mut dyn FnMut(&Gradients) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        match kept.features.grad(gradients) {
            Some(slope) => anew::backward(&self.pieces(), kept.inputs, slope, false, take).map(drop),
            None => Ok(()),
        }
    }

    /// What happens to pixels, in order.
    fn pieces(&self) -> Vec<Box<dyn Piece<4> + '_>> {
        let stem = |stem: &Vec<MobileOne>, x| stem.iter().fold(x, |x, conv| ops::gelu(conv.forward(x)));
        let mut pieces = vec![piece(&self.stem, stem)];
        pieces.extend(self.stages.iter().flat_map(Stage::pieces));
        pieces.push(piece(&self.final_conv, MobileOne::forward));
        pieces.push(piece(&self.final_se, |se: &SqueezeExcite, x| ops::gelu(se.forward(x))));
        pieces
    }
}

impl Stage {
    fn new(config: &FastVitConfig, s: usize, device: &Device) -> Self {
        let (width, hidden, folded) = (config.widths[s], config.hidden[s], config.folded);
        let attention = config.form.attention[s];
        let blocks = |wanted: bool| if wanted { config.form.blocks[s] } else { 0 };
        Self {
            downsample: (s > 0).then(|| Downsample::new(config, s, device)),
            pos_emb: attention.then(|| RepCpe::new(width, folded, device)),
            mixer_blocks: (0..blocks(!attention))
                .map(|_| RepMixerBlock::new(width, hidden, KERNELS, folded, device))
                .collect(),
            attention_blocks: (0..blocks(attention))
                .map(|_| AttentionBlock::new(width, hidden, config.form.batch_norm, device))
                .collect(),
        }
    }

    fn pieces(&self) -> Vec<Box<dyn Piece<4> + '_>> {
        let mut pieces = Vec::new();
        pieces.extend(self.downsample.iter().map(|downsample| piece(downsample, Downsample::forward)));
        pieces.extend(self.pos_emb.iter().map(|pos_emb| piece(pos_emb, RepCpe::forward)));
        pieces.extend(self.mixer_blocks.iter().map(|block| piece(block, RepMixerBlock::forward)));
        pieces.extend(self.attention_blocks.iter().map(|block| piece(block, AttentionBlock::forward)));
        pieces
    }
}

impl Downsample {
    fn new(config: &FastVitConfig, s: usize, device: &Device) -> Self {
        let (width, se) = (config.widths[s], config.downsample_se[s]);
        let branches = match config.folded {
            true => Branches::Folded,
            false => Branches::Training { scale: false, identity: true },
        };
        Self {
            dw: LargeKernel::new(width, config.folded, device),
            se: (se > 0).then(|| SqueezeExcite::new(width, se, device)),
            pw: MobileOne::new([width, width, 1, 1], 1, branches, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.dw.forward(x);
        let x = match &self.se {
            Some(se) => se.forward(x),
            None => x,
        };
        ops::gelu(self.pw.forward(ops::gelu(x)))
    }
}

impl AttentionBlock {
    fn new(width: usize, hidden: usize, batch_norm: bool, device: &Device) -> Self {
        Self {
            layer_norm: (!batch_norm).then(|| LayerNorm::new(width, NORM_EPS, device)),
            batch_norm: batch_norm.then(|| BatchNorm::new(width, device)),
            qkv: Linear::new(width, 3 * width, false, device),
            proj: Linear::new(width, width, true, device),
            layer_scale_1: LayerScale::new(width, device),
            ffn: ConvFfn::new(width, hidden, KERNELS[1], device),
            layer_scale_2: LayerScale::new(width, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, channels] = x.dims();
        let tokens: Tensor<3> = x.clone().reshape([batch, height * width, channels]);
        let normed = match (&self.layer_norm, &self.batch_norm) {
            (Some(norm), _) => norm.forward(tokens),
            (_, Some(norm)) => norm.forward(tokens),
            (None, None) => tokens,
        };
        let heads = channels / HEAD_DIM;
        let mixed = ops::packed_attention(self.qkv.forward(normed), heads.max(1), AttentionMask::Full);
        let mixed = self.proj.forward(mixed).reshape([batch, height, width, channels]);
        let x = self.layer_scale_1.add(x, mixed);
        self.layer_scale_2.add(x.clone(), self.ffn.forward(x))
    }
}

/// The names of the children of a feed-forward's convolution.
pub(crate) fn conv_ffn_names(form: StoredForm, ours: &str) -> Result<[Name; 2], TrainError> {
    match form {
        StoredForm::ConvBatchNorm { child, norm } => Ok([child, norm]),
        other => Err(TrainError::Structure { reason: format!("`{ours}` is stored as {other:?}") }),
    }
}

impl Named for FastVit {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        for (i, conv) in self.stem.iter_mut().enumerate() {
            let (name, _) = with.module(&format!("{ours}.stem.{i}"))?;
            conv.exchange(&name, with)?;
        }
        for (s, stage) in self.stages.iter_mut().enumerate() {
            stage.exchange(&format!("{ours}.stages.{s}"), with)?;
        }
        let (name, _) = with.module(&format!("{ours}.final_conv"))?;
        self.final_conv.exchange(&name, with)?;
        let [fc1, fc2] = ["fc1", "fc2"].map(|fc| layer(with, &format!("{ours}.final_conv.se.{fc}")));
        self.final_se.exchange([&fc1?, &fc2?], with)
    }
}

impl Named for Stage {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        if let Some(downsample) = &mut self.downsample {
            let ours = format!("{ours}.downsample");
            let (name, _) = with.module(&format!("{ours}.dw"))?;
            downsample.dw.exchange(&name, with)?;
            if let Some(se) = &mut downsample.se {
                let [fc1, fc2] = ["fc1", "fc2"].map(|fc| layer(with, &format!("{ours}.se.{fc}")));
                se.exchange([&fc1?, &fc2?], with)?;
            }
            let (name, _) = with.module(&format!("{ours}.pw"))?;
            downsample.pw.exchange(&name, with)?;
        }
        if let Some(pos_emb) = &mut self.pos_emb {
            let (name, _) = with.module(&format!("{ours}.pos_emb"))?;
            pos_emb.exchange(&name, with)?;
        }
        for (b, block) in self.mixer_blocks.iter_mut().enumerate() {
            block.exchange(&format!("{ours}.blocks.{b}"), with)?;
        }
        for (b, block) in self.attention_blocks.iter_mut().enumerate() {
            block.exchange(&format!("{ours}.blocks.{b}"), with)?;
        }
        Ok(())
    }
}

impl Named for RepMixerBlock {
    /// `ours` is the block's, in a tower of images or of texts.
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        let (name, _) = with.module(&format!("{ours}.token_mixer"))?;
        self.token_mixer.exchange(&name, with)?;
        let (name, row) = with.module(&format!("{ours}.ffn.dw"))?;
        self.ffn.exchange(&name, conv_ffn_names(row.form, ours)?, with)?;
        let (name, _) = with.module(&format!("{ours}.layer_scale"))?;
        self.layer_scale.exchange(&name, with)
    }
}

impl Named for AttentionBlock {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        if let Some(norm) = &mut self.layer_norm {
            let name = layer(with, &format!("{ours}.norm"))?;
            norm.exchange(&name, with)?;
            let name = layer(with, &format!("{ours}.attn.qkv"))?;
            self.qkv.exchange(&name, with)?;
        }
        if let Some(norm) = &mut self.batch_norm {
            // One row for both, because they fold into one.
            let (block, _) = with.module(&format!("{ours}.attn.qkv"))?;
            norm.exchange(&format!("{block}.norm"), with)?;
            self.qkv.exchange(&format!("{block}.token_mixer.qkv"), with)?;
        }
        let name = layer(with, &format!("{ours}.attn.proj"))?;
        self.proj.exchange(&name, with)?;
        let (name, _) = with.module(&format!("{ours}.layer_scale_1"))?;
        self.layer_scale_1.exchange(&name, with)?;
        let (name, row) = with.module(&format!("{ours}.ffn.dw"))?;
        self.ffn.exchange(&name, conv_ffn_names(row.form, ours)?, with)?;
        let (name, _) = with.module(&format!("{ours}.layer_scale_2"))?;
        self.layer_scale_2.exchange(&name, with)
    }
}
