//! Image towers of the FastViT family: FastViTHD of FastVLM, mci0 to mci4 of MobileCLIP.

use super::module::{Draw, GELU_GAIN, Modules};
use super::tensor::{Fill, Group, TensorList};
use crate::family::Tower;
use crate::names::{Row, Size};
use crate::structure::{FastVit, Stage};

/// The first stage whose blocks are attention blocks, and which has a positional encoding.
const FIRST_ATTENTION_STAGE: usize = 3;
/// Channels over hidden channels of the last squeeze-excite.
const FINAL_SE_REDUCTION: usize = 16;
/// The same in the downsamples.
const DOWNSAMPLE_SE_REDUCTION: usize = 4;
/// The gain of a conv before a GELU whose input is about 0.5 wide, so that as much comes out: a GELU keeps less
/// of small values.
const SMALL_GELU_GAIN: f32 = 1.4;
/// Root mean square of the features of these random towers, about (0.69 in FastVLM-0.5B at 512 px).
pub(super) const FEATURE_RMS: f32 = 0.65;

/// Sizes of a tower.
#[derive(Debug, Clone, Copy)]
pub(super) struct FastVitSizes {
    pub(super) widths: &'static [usize],
    pub(super) blocks: &'static [usize],
    /// Hidden over outer channels of a ConvFFN.
    pub(super) expansion: usize,
    /// As in mci0 to mci2: BatchNorm before attention, squeeze-excite in downsamples, and, in training form, 1x1
    /// branches in the stem. Otherwise layer norm and neither.
    pub(super) batch_norm: bool,
    /// Root mean square of the normalised pixels.
    pub(super) pixel_rms: f32,
}

/// How the file stores a tower.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) tower: Tower,
    /// Branches are one conv already.
    pub(super) folded: bool,
}

impl FastVitSizes {
    /// Channels of the features.
    pub(super) fn features(&self) -> usize {
        2 * self.widths.last().copied().unwrap_or(0)
    }

    /// All tensors but the head's.
    pub(super) fn add_to(&self, list: &mut TensorList, layout: Layout) {
        let vit = self.structure(layout.tower);
        list.begin(Group::Tower, layout.tower.prefix);
        let (style, stem_scale) = (layout.tower.style, vit.stem_scale);
        let mut modules = Modules { list, style, folded: layout.folded, stem_scale };
        for (row, s, b) in vit.rows() {
            modules.add(row, &vit.place(&row.name(style), s, b), |size| self.size(size, s), self.draw(row));
        }
    }

    fn size(&self, size: Size, s: usize) -> usize {
        match size {
            Size::Expanded => self.expansion * self.widths[s],
            Size::DownsampleSe => self.widths[s] / DOWNSAMPLE_SE_REDUCTION,
            Size::FinalSe => self.features() / FINAL_SE_REDUCTION,
            // The tower's rows have no other sizes.
            _ => self.widths[s],
        }
    }

    fn structure(&self, tower: Tower) -> FastVit {
        let mut at = 0;
        let mut next = |is_there: bool| {
            at += usize::from(is_there);
            at.saturating_sub(1)
        };
        let stages = self.blocks.iter().enumerate().map(|(s, &blocks)| {
            let attention = s >= FIRST_ATTENTION_STAGE;
            // In the order of Apple's flat list.
            let (down_at, cpe_at, blocks_at) = (next(s > 0), next(attention), next(true));
            Stage { blocks, attention, blocks_at, down_at, cpe_at }
        });
        FastVit {
            stages: stages.collect(),
            tower,
            stem_scale: self.batch_norm,
            downsample_se: self.batch_norm,
            batch_norm: self.batch_norm,
        }
    }

    fn draw(&self, row: &Row) -> Draw {
        let name = row.ours.trim_start_matches("stages.{s}.").trim_start_matches("blocks.{b}.");
        match name {
            // Each of the three convs of the stem is followed by a GELU.
            "stem.0" => Draw::Gain(1.0 / self.pixel_rms),
            "stem.1" | "stem.2" | "downsample.pw" | "ffn.fc2.weight" => Draw::Gain(GELU_GAIN),
            "downsample.dw" | "final_conv" => Draw::Gain(SMALL_GELU_GAIN),
            "pos_emb" => Draw::Residual { noise: 0.02 },
            "token_mixer" => Draw::Residual { noise: 0.03 },
            // Gates around 0.73.
            "downsample.se.fc2.bias" | "final_conv.se.fc2.bias" => {
                Draw::As(Fill::Random { mean: 1.0, std: 0.5 })
            }
            "norm.weight" => Draw::As(Fill::NORM),
            name if name.contains("layer_scale") => Draw::As(Fill::LAYER_SCALE),
            name if name.ends_with(".bias") => Draw::As(Fill::BIAS),
            _ => Draw::Gain(1.0),
        }
    }
}
