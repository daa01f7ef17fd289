//! The text towers of MobileCLIP: ids to the row at the end of the text.
//!
//! CLIP (arXiv 2103.00020); reference: open_clip `transformer.py` (`TextTransformer`). The first and last layers of the
//! first MobileCLIP-S0 mix positions by convolutions of 1x11 (arXiv 2311.17049, section 3; reference:
//! `apple/ml-mobileclip`, `mobileclip/modules/text/repmixer.py`). Padding takes part in attention: a text is always
//! padded with 0 to the whole context.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use ocelli_weights::RawCheckpoint;
use ocelli_weights::names::{FOLDED, Style};

use super::layer;
use crate::TrainError;
use crate::layers::{AttentionMask, LayerNorm, RepMixerBlock, TransformerBlock, normal};
use crate::tensors::{Exchange, Form, Named};

const NORM_EPS: f32 = 1e-5;
/// Values of an attention head in every released tower.
const HEAD_DIM: usize = 64;

/// All sizes of a tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipTextConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions of every text.
    pub context_length: usize,
    /// Channels.
    pub width: usize,
    /// Hidden channels of the feed-forward.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// For every layer, the width of the kernel of one that mixes positions by a convolution.
    pub convolutions: Vec<Option<usize>>,
    /// Each position sees itself and those before it only.
    pub causal: bool,
    /// Mixers are one folded convolution.
    pub folded: bool,
}

impl ClipTextConfig {
    /// The sizes of a tower in a checkpoint; what its shapes do not tell is as in the released models but for `heads`
    /// and `causal`.
    ///
    /// # Errors
    /// When a tensor that tells one is missing.
    pub fn of(checkpoint: &RawCheckpoint, heads: Option<usize>, causal: bool) -> Result<Self, TrainError> {
        let name = |ours: &str| checkpoint.naming.module(ours).map(|(name, _)| name);
        let shape = |ours: &str| -> Option<Vec<usize>> {
            let shape = checkpoint.shape(&name(ours)?)?.iter().copied();
            Some(shape.collect())
        };
        let needed = |ours: &str| shape(ours).ok_or_else(|| TrainError::Missing { name: ours.to_owned() });
        let mut convolutions = Vec::new();
        let mut hidden = None;
        let mut folded = false;
        for l in 0.. {
            let block = format!("text.blocks.{l}");
            if let Some(fc1) = shape(&format!("{block}.mlp.fc1.weight")) {
                convolutions.push(None);
                hidden = hidden.or(fc1.first().copied());
            } else if let Some(fc1) = shape(&format!("{block}.ffn.fc1.weight")) {
                let ffn = name(&format!("{block}.ffn.dw")).unwrap_or_default();
                let kernel = checkpoint.shape(&format!("{ffn}.conv.conv.weight"));
                convolutions.push(kernel.and_then(|shape| shape.last().copied()));
                hidden = hidden.or(fc1.first().copied());
                let mixer = name(&format!("{block}.token_mixer")).unwrap_or_default();
                folded |= checkpoint.is_folded(&mixer, FOLDED);
            } else {
                break;
            }
        }
        let embedding = needed("text.token_embedding.weight")?;
        let positions = needed("text.pos_embed")?;
        let (&[vocab_size, width], &[.., context_length, _]) = (&embedding[..], &positions[..]) else {
            return Err(TrainError::Structure {
                reason: "the text tower's embeddings are no matrices".to_owned(),
            });
        };
        let heads = heads.unwrap_or((width / HEAD_DIM).max(1));
        let hidden = hidden.ok_or_else(|| TrainError::Missing { name: "text.blocks.0".to_owned() })?;
        Ok(Self { vocab_size, context_length, width, hidden, heads, convolutions, causal, folded })
    }
}

/// The tower, without its projection.
#[derive(Module, Debug)]
pub struct ClipText {
    /// `[vocab_size, width]`.
    token_embedding: Param<Tensor<2>>,
    /// `[context_length, width]`.
    pos_embed: Param<Tensor<2>>,
    /// Layers by convolution, with their places.
    mixer_blocks: Vec<RepMixerBlock>,
    blocks: Vec<TransformerBlock>,
    norm: LayerNorm,
    /// Of every layer, whether it is one of convolutions.
    #[module(skip)]
    convolutions: Vec<bool>,
    #[module(skip)]
    causal: bool,
}

impl ClipText {
    /// Random weights.
    pub fn new(config: &ClipTextConfig, device: &Device) -> Self {
        let (width, hidden) = (config.width, config.hidden);
        let kernels = config.convolutions.iter().copied().flatten();
        let mixer = |kernel| RepMixerBlock::new(width, hidden, [[1, kernel]; 2], config.folded, device);
        let plain = config.convolutions.iter().filter(|kernel| kernel.is_none());
        Self {
            token_embedding: normal([config.vocab_size, width], 0.02, device),
            pos_embed: normal([config.context_length, width], 0.01, device),
            mixer_blocks: kernels.map(mixer).collect(),
            blocks: plain
                .map(|_| TransformerBlock::new(width, hidden, config.heads, NORM_EPS, device))
                .collect(),
            norm: LayerNorm::new(width, NORM_EPS, device),
            convolutions: config.convolutions.iter().map(Option::is_some).collect(),
            causal: config.causal,
        }
    }

    /// Ids `[texts, context_length]` to the normed rows at the end of the texts, `[texts, width]`. The end of a text is
    /// at its greatest id.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        let [texts, positions] = ids.dims();
        let width = self.pos_embed.dims()[1];
        let mut x = burn::tensor::module::embedding(self.token_embedding.val(), ids.clone());
        x = x + self.pos_embed.val().unsqueeze();
        let mask = if self.causal { AttentionMask::Causal } else { AttentionMask::Full };
        let (mut mixers, mut blocks) = (self.mixer_blocks.iter(), self.blocks.iter());
        for &convolution in &self.convolutions {
            x = if convolution {
                let mixer = mixers.next().expect("as many as are marked");
                // Positions are the pixels of a map of one row.
                mixer.forward(x.reshape([texts, 1, positions, width])).reshape([texts, positions, width])
            } else {
                blocks.next().expect("as many as are marked").forward(x, &mask)
            };
        }
        let end: Tensor<3, Int> = ids.argmax(1).unsqueeze_dim(2);
        let rows: Tensor<2> = x.gather(1, end.repeat_dim(2, width)).reshape([texts, width]);
        self.norm.forward(rows)
    }
}

impl Named for ClipText {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        let (name, _) = with.module(&format!("{ours}.token_embedding.weight"))?;
        with.tensor(&name, Form::AsIs, &mut self.token_embedding)?;
        let (name, _) = with.module(&format!("{ours}.pos_embed"))?;
        let ones = if with.style() == Style::Apple { 2 } else { 0 };
        with.tensor(&name, Form::After(ones), &mut self.pos_embed)?;
        let (mut mixers, mut blocks) = (self.mixer_blocks.iter_mut(), self.blocks.iter_mut());
        for (l, &convolution) in self.convolutions.iter().enumerate() {
            let ours = format!("{ours}.blocks.{l}");
            if convolution {
                mixers.next().expect("as many as are marked").exchange(&ours, with)?;
            } else {
                blocks.next().expect("as many as are marked").exchange(&ours, with)?;
            }
        }
        let name = layer(with, &format!("{ours}.norm"))?;
        self.norm.exchange(&name, with)
    }
}
