//! MobileCLIP in training form, as it is released, in f32: for open_clip where that knows the model, and in
//! Apple's own layout where it does not.

use serde_json::{Value, json};

use super::arch::MARKER;
use super::clip_towers::{TextSizes, VitSizes};
use super::fastvit::{FastVitSizes, Layout};
use super::module::{Draw, Modules};
use super::tensor::{Fill, Group, SynthDtype, SynthTensor, TensorList};
use crate::clip::{CLIP_MEAN, CLIP_STD};
use crate::family::Tower;
use crate::names::{Row, Size, Style, fastvit, vit};

/// The logit scale: `exp` of it is 55 to 90, a little below the limit of 100 that trained models reach.
const LOGIT_SCALE: Fill = Fill::Between(4.0, 4.5);

/// What a model is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    layout: ClipLayout,
    image: ImageTower,
    text: TextSizes,
    embed_dim: usize,
}

/// Who can open the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClipLayout {
    /// open_clip: `open_clip_config.json` and `open_clip_model.safetensors`.
    OpenClip,
    /// Apple's names, and nothing that says a size.
    Apple,
}

/// An image tower and what it wants to see.
#[derive(Debug, Clone, Copy)]
struct ImageTower {
    timm_name: &'static str,
    kind: TowerKind,
    /// Side of the pictures.
    size_px: usize,
    /// Pictures are normalised with the mean of CLIP's own; otherwise they stay in 0..1.
    clip_mean: bool,
    bicubic: bool,
    /// Of timm, in training only.
    drop_path: f64,
}

#[derive(Debug, Clone, Copy)]
enum TowerKind {
    FastVit(FastVitSizes),
    Vit(VitSizes),
}

// Towers: timm 1.0.31 `fastvit.py`, `vision_transformer.py`, `vision_transformer_hybrid.py`; combinations and
// preprocessing: open_clip 3.3 `model_configs/`, `pretrained.py`; S0 of version 1: `apple/ml-mobileclip`
// `mobileclip/configs/mobileclip_s0.json`.

const MCI0_SIZES: FastVitSizes = FastVitSizes {
    widths: &[64, 128, 256, 512],
    blocks: &[2, 6, 10, 2],
    expansion: 3,
    batch_norm: true,
    pixel_rms: 0.5,
};
const MCI3_SIZES: FastVitSizes = FastVitSizes {
    widths: &[96, 192, 384, 768, 1536],
    blocks: &[2, 12, 24, 4, 2],
    expansion: 4,
    batch_norm: false,
    pixel_rms: 1.0,
};
const VIT_B_SIZES: VitSizes =
    VitSizes { width: 768, layers: 12, positions: 196, patch: None, pixel_rms: 0.5 };
const VIT_L_SIZES: VitSizes =
    VitSizes { width: 1024, layers: 24, positions: 257, patch: Some(14), pixel_rms: 1.0 };

const MCI0: ImageTower = ImageTower {
    timm_name: "fastvit_mci0",
    kind: TowerKind::FastVit(MCI0_SIZES),
    size_px: 256,
    clip_mean: false,
    bicubic: false,
    drop_path: 0.0,
};
const MCI1: ImageTower = ImageTower {
    timm_name: "fastvit_mci1",
    kind: TowerKind::FastVit(FastVitSizes { blocks: &[4, 12, 20, 4], ..MCI0_SIZES }),
    ..MCI0
};
const MCI2: ImageTower = ImageTower {
    timm_name: "fastvit_mci2",
    kind: TowerKind::FastVit(FastVitSizes {
        widths: &[80, 160, 320, 640],
        blocks: &[4, 12, 24, 4],
        ..MCI0_SIZES
    }),
    ..MCI0
};
const MCI3: ImageTower =
    ImageTower { timm_name: "fastvit_mci3", kind: TowerKind::FastVit(MCI3_SIZES), clip_mean: true, ..MCI0 };
const MCI4: ImageTower = ImageTower {
    timm_name: "fastvit_mci4",
    kind: TowerKind::FastVit(FastVitSizes {
        widths: &[128, 256, 512, 1024, 2048],
        blocks: &[2, 12, 24, 4, 4],
        ..MCI3_SIZES
    }),
    ..MCI3
};
const VIT_B: ImageTower =
    ImageTower { timm_name: "vit_base_mci_224", kind: TowerKind::Vit(VIT_B_SIZES), size_px: 224, ..MCI0 };
const VIT_L: ImageTower = ImageTower {
    timm_name: "vit_large_patch14_clip_224",
    kind: TowerKind::Vit(VIT_L_SIZES),
    size_px: 224,
    clip_mean: true,
    bicubic: true,
    drop_path: 0.1,
};

const TEXT: TextSizes = TextSizes { width: 512, heads: 8, layers: 12, convolutions: false, causal: false };
const WIDE_TEXT: TextSizes = TextSizes { width: 768, heads: 12, ..TEXT };

/// MobileCLIP2-S0.
pub(super) const S0: Sizes = Sizes { layout: ClipLayout::OpenClip, image: MCI0, text: TEXT, embed_dim: 512 };
/// MobileCLIP-S1.
pub(super) const S1: Sizes = Sizes { image: MCI1, ..S0 };
/// MobileCLIP-S2 and MobileCLIP2-S2.
pub(super) const S2: Sizes = Sizes { image: MCI2, ..S0 };
/// MobileCLIP2-S3.
pub(super) const S3: Sizes = Sizes { image: MCI3, text: WIDE_TEXT, embed_dim: 768, ..S0 };
/// MobileCLIP2-S4.
pub(super) const S4: Sizes = Sizes { image: MCI4, ..S3 };
/// MobileCLIP-B, MobileCLIP-B (LT) and MobileCLIP2-B.
pub(super) const B: Sizes = Sizes { image: VIT_B, text: TextSizes { causal: true, ..TEXT }, ..S0 };
/// MobileCLIP2-L-14.
pub(super) const L14: Sizes = Sizes { image: VIT_L, ..S3 };
/// MobileCLIP-S0, the first one. open_clip has no text tower with layers of convolutions.
pub(super) const S0_V1: Sizes =
    Sizes { layout: ClipLayout::Apple, text: TextSizes { layers: 6, convolutions: true, ..TEXT }, ..S0 };
/// The same in small: every kind of block of the towers that begin with convolutions.
pub(super) const TINY: Sizes = Sizes {
    image: ImageTower {
        kind: TowerKind::FastVit(FastVitSizes {
            widths: &[8, 16, 32, 64],
            blocks: &[1, 1, 2, 1],
            ..MCI0_SIZES
        }),
        ..MCI0
    },
    text: TextSizes { width: 64, heads: 1, layers: 3, ..S0_V1.text },
    embed_dim: 32,
    ..S0_V1
};

impl Sizes {
    pub(super) fn layout(&self) -> ClipLayout {
        self.layout
    }

    pub(super) fn tensors(&self) -> Vec<SynthTensor> {
        let (style, image, text) = match self.layout {
            ClipLayout::OpenClip => (Style::Timm, "visual.trunk.", "text."),
            ClipLayout::Apple => (Style::Apple, "image_encoder.model.", "text_encoder."),
        };
        let mut list = TensorList::new(SynthDtype::F32);
        match &self.image.kind {
            TowerKind::FastVit(sizes) => {
                let tower = Tower { prefix: image, style, channels_last: false };
                sizes.add_to(&mut list, Layout { tower, folded: false });
                let rows: &[Row] = if style == Style::Apple { &fastvit::HEAD_APPLE } else { &fastvit::HEAD };
                self.head(&mut list, style, image, rows, (Size::Width, sizes.features() / 2));
            }
            TowerKind::Vit(sizes) => {
                sizes.add_to(&mut list, style, image);
                let rows: &[Row] = if style == Style::Apple { &vit::HEAD_APPLE } else { &vit::HEAD };
                self.head(&mut list, style, image, rows, (Size::TransformerWidth, sizes.width));
            }
        }
        self.text.add_to(&mut list, style, text, self.embed_dim);
        list.begin(Group::LogitScale, "");
        list.add("logit_scale", &[], LOGIT_SCALE);
        list.tensors
    }

    /// The projection of the image tower, from as many channels as `width` says.
    fn head(
        &self,
        list: &mut TensorList,
        style: Style,
        prefix: &str,
        rows: &[Row],
        (size, width): (Size, usize),
    ) {
        list.begin(Group::Head, prefix);
        let mut modules = Modules { list, style, folded: false, stem_scale: false };
        for row in rows {
            let draw = if row.ours.ends_with(".bias") { Draw::As(Fill::BIAS) } else { Draw::Gain(1.0) };
            let number = |of: Size| if of == size { width } else { self.embed_dim };
            modules.add(row, &row.name(style), number, draw);
        }
    }

    /// `open_clip_config.json`, as open_clip writes it; in Apple's layout `config.json` with the name alone.
    pub(super) fn config(&self, name: &str, mark: Value) -> Value {
        if self.layout == ClipLayout::Apple {
            return json!({ "architecture": name.replace('-', "_"), MARKER: mark });
        }
        let image = &self.image;
        let pool = if matches!(image.kind, TowerKind::FastVit(_)) { "avg" } else { "token" };
        let (mean, std) = if image.clip_mean { (CLIP_MEAN, CLIP_STD) } else { ([0.0; 3], [1.0; 3]) };
        json!({
            "model_cfg": {
                "embed_dim": self.embed_dim,
                "vision_cfg": {
                    "timm_model_name": image.timm_name,
                    "timm_model_pretrained": false,
                    "timm_pool": pool,
                    "timm_proj": null,
                    "timm_drop": 0.0,
                    "timm_drop_path": image.drop_path,
                    "image_size": image.size_px,
                },
                "text_cfg": self.text.config(),
                "custom_text": true,
            },
            "preprocess_cfg": {
                "size": image.size_px,
                "mode": "RGB",
                "mean": mean,
                "std": std,
                "interpolation": if image.bicubic { "bicubic" } else { "bilinear" },
                "resize_mode": "shortest",
                "fill_color": 0,
            },
            MARKER: mark,
        })
    }
}
