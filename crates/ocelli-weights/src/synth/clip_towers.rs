//! The transformers of MobileCLIP: image towers of B and L-14, and every text tower.

use serde_json::{Value, json};

use super::module::{Draw, GELU_GAIN, Modules};
use super::tensor::{Fill, Group, TensorList};
use crate::names::{Row, Size, Style, clip_text, vit};

/// Words of CLIP's vocabulary.
const VOCAB: usize = 49_408;
/// Positions of every text.
const CONTEXT: usize = 77;
/// Positions that a convolution over a text spans (`apple/ml-mobileclip`, `mobileclip/modules/text/repmixer.py`).
const TEXT_KERNEL: usize = 11;
/// Hidden over outer width of an MLP.
const EXPANSION: usize = 4;
/// Parts of the width of MobileCLIP-B that its first two patch convolutions have.
const STEM_PART: usize = 4;
/// The gain of queries, keys and values: scores of standard deviation 2, so that attention is no even mean.
const ATTENTION_GAIN: f32 = 1.4;
/// What is added at the beginning, so that a row is about 1 wide.
const TOKENS: Fill = Fill::Random { mean: 0.0, std: 0.8 };
const POSITIONS: Fill = Fill::Random { mean: 0.0, std: 0.6 };

/// Sizes of a vision transformer. Heads are 64 wide.
#[derive(Debug, Clone, Copy)]
pub(super) struct VitSizes {
    pub(super) width: usize,
    pub(super) layers: usize,
    /// Rows of the position table.
    pub(super) positions: usize,
    /// Side of the patches of the single convolution; without, there are three convolutions.
    pub(super) patch: Option<usize>,
    /// Root mean square of the normalised pixels.
    pub(super) pixel_rms: f32,
}

/// Sizes of a text tower.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextSizes {
    pub(super) width: usize,
    pub(super) heads: usize,
    /// Layers, those of convolutions included.
    pub(super) layers: usize,
    /// The first and the last layer are of convolutions.
    pub(super) convolutions: bool,
    pub(super) causal: bool,
}

impl VitSizes {
    /// All tensors but the head's.
    pub(super) fn add_to(&self, list: &mut TensorList, style: Style, prefix: &str) {
        list.begin(Group::Tower, prefix);
        let mut modules = Modules { list, style, folded: false, stem_scale: false };
        let stem: &[Row] = if self.patch.is_some() { &vit::PATCH_STEM } else { &vit::CONV_STEM };
        for row in stem.iter().chain(&vit::COMMON) {
            modules.add(row, &row.name(style), |size| self.size(size), self.draw(row, style));
        }
        for l in 0..self.layers {
            for row in &vit::BLOCK {
                let name = row.name(style).replace("{l}", &l.to_string());
                modules.add(row, &name, |size| self.size(size), self.draw(row, style));
            }
        }
    }

    fn size(&self, size: Size) -> usize {
        match size {
            Size::TransformerHidden => EXPANSION * self.width,
            Size::StemWidth => self.width / STEM_PART,
            Size::ImagePositions => self.positions,
            Size::PatchSide => self.patch.unwrap_or(0),
            // The tower's rows have no other sizes.
            _ => self.width,
        }
    }

    fn draw(&self, row: &Row, style: Style) -> Draw {
        match row.ours {
            "stem.0" | "patch_embed.weight" => Draw::Gain(1.0 / self.pixel_rms),
            "stem.1" | "stem.2.weight" => Draw::Gain(GELU_GAIN),
            // `[1, 1, width]`.
            "cls_token" => Draw::After(2, TOKENS),
            "pos_embed" => Draw::After(if style == Style::Apple { 2 } else { 1 }, POSITIONS),
            name => transformer(name, self.layers),
        }
    }
}

impl TextSizes {
    /// All tensors, the projection to `embed_dim` values included.
    pub(super) fn add_to(&self, list: &mut TensorList, style: Style, prefix: &str, embed_dim: usize) {
        list.begin(Group::Text, prefix);
        let mut modules = Modules { list, style, folded: false, stem_scale: false };
        let number = |size| match size {
            Size::TextHidden => EXPANSION * self.width,
            Size::TextVocab => VOCAB,
            Size::ContextLength => CONTEXT,
            Size::TextKernel => TEXT_KERNEL,
            Size::EmbedDim => embed_dim,
            // The tower's rows have no other sizes.
            _ => self.width,
        };
        for row in &clip_text::MODEL {
            modules.add(row, &row.name(style), number, self.draw(row, style));
        }
        for l in 0..self.layers {
            let convolutions = self.convolutions && (l == 0 || l + 1 == self.layers);
            let rows: &[Row] = if convolutions { &clip_text::REP_MIXER_BLOCK } else { &clip_text::BLOCK };
            for row in rows {
                let name = row.name(style).replace("{l}", &l.to_string());
                modules.add(row, &name, number, self.draw(row, style));
            }
        }
    }

    fn draw(&self, row: &Row, style: Style) -> Draw {
        match row.ours.trim_start_matches("blocks.{l}.") {
            "token_embedding.weight" => Draw::As(TOKENS),
            "pos_embed" => Draw::After(if style == Style::Apple { 2 } else { 0 }, POSITIONS),
            // Training form only, so the noise is the branches'.
            "token_mixer" => Draw::Residual { noise: 0.0 },
            "layer_scale" => Draw::As(Fill::LAYER_SCALE),
            "ffn.fc2.weight" => Draw::Gain(GELU_GAIN),
            _ => transformer(row.ours, self.layers),
        }
    }

    /// `text_cfg` of open_clip.
    pub(super) fn config(&self) -> Value {
        json!({
            "context_length": CONTEXT,
            "vocab_size": VOCAB,
            "width": self.width,
            "heads": self.heads,
            "layers": self.layers,
            "no_causal_mask": !self.causal,
        })
    }
}

/// How a row of a transformer of so many layers is drawn.
fn transformer(ours: &str, layers: usize) -> Draw {
    // Every layer adds two terms to the residual; together they are about as large as one row.
    let residual = 1.0 / (2.0 * layers as f32).sqrt();
    match ours.trim_start_matches("blocks.{l}.") {
        "norm.weight" | "norm1.weight" | "norm2.weight" | "norm_pre.weight" => Draw::As(Fill::NORM),
        "attn.qkv.weight" => Draw::Gain(ATTENTION_GAIN),
        "attn.proj.weight" => Draw::Gain(residual),
        "mlp.fc2.weight" => Draw::Gain(GELU_GAIN * residual),
        name if name.ends_with(".bias") => Draw::As(Fill::BIAS),
        _ => Draw::Gain(1.0),
    }
}
