//! Who wrote a checkpoint: prefixes and layouts by family, found from the keys.

use std::fmt;

use crate::error::LoadError;
use crate::names::{Style, fastvit, qwen2};
use crate::report::clip;
use crate::shards::TensorFiles;

/// A family of FastVLM checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Apple's own: `model.vision_tower.vision_tower.model.*`.
    AppleLlava,
    /// transformers `fast_vlm`, in its present and its older LLaVA spelling.
    Native,
    /// mlx-vlm: the whole model, conv weights `[out, kH, kW, in]`.
    MlxUpstream,
    /// Apple's demo app: language model and projector; the tower is a CoreML package.
    MlxApp,
    /// open_clip: image tower `visual.trunk.*`, text tower `text.*`.
    OpenClip,
    /// Apple's first MobileCLIP: `image_encoder.model.*`, `text_encoder.*`.
    AppleClip,
    /// timm: an image tower alone.
    Timm,
}

impl Family {
    /// A short name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::AppleLlava => "Apple llava_qwen2",
            Self::Native => "transformers fast_vlm",
            Self::MlxUpstream => "mlx-vlm",
            Self::MlxApp => "MLX app export",
            Self::OpenClip => "open_clip",
            Self::AppleClip => "Apple MobileCLIP",
            Self::Timm => "timm image tower",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a family puts each part. Prefixes end with a dot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spelling {
    pub(crate) family: Family,
    pub(crate) tower: Option<Tower>,
    pub(crate) projector: [&'static str; 2],
    pub(crate) language: &'static str,
    /// The first one that has a weight is used.
    pub(crate) lm_head: &'static [&'static str],
}

/// Where and how a family writes the vision tower.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tower {
    pub(crate) prefix: &'static str,
    pub(crate) style: Style,
    /// Conv weights are `[out, kH, kW, in]`, not `[out, in, kH, kW]`.
    pub(crate) channels_last: bool,
}

const fn tower(prefix: &'static str, style: Style) -> Option<Tower> {
    Some(Tower { prefix, style, channels_last: matches!(style, Style::Mlx) })
}

/// All spellings. Where two explain the same number of keys, the earlier wins.
pub(crate) static SPELLINGS: [Spelling; 6] = [
    Spelling {
        family: Family::AppleLlava,
        tower: tower("model.vision_tower.vision_tower.model.", Style::Apple),
        projector: ["model.mm_projector.0.", "model.mm_projector.2."],
        language: "model.",
        lm_head: &["lm_head."],
    },
    Spelling {
        family: Family::Native,
        tower: tower("model.vision_tower.timm_model.", Style::Timm),
        projector: ["model.multi_modal_projector.linear_1.", "model.multi_modal_projector.linear_2."],
        language: "model.language_model.",
        lm_head: &["lm_head."],
    },
    Spelling {
        family: Family::Native,
        tower: tower("vision_tower.timm_model.", Style::Timm),
        projector: ["multi_modal_projector.linear_1.", "multi_modal_projector.linear_2."],
        language: "language_model.model.",
        lm_head: &["language_model.lm_head."],
    },
    Spelling {
        family: Family::Native,
        tower: tower("vision_tower.", Style::Timm),
        projector: ["multi_modal_projector.linear_1.", "multi_modal_projector.linear_2."],
        language: "language_model.model.",
        lm_head: &["language_model.lm_head."],
    },
    Spelling {
        family: Family::MlxUpstream,
        tower: tower("vision_tower.vision_model.", Style::Mlx),
        projector: ["mm_projector.0.", "mm_projector.2."],
        language: "language_model.model.",
        lm_head: &["language_model.lm_head.", "lm_head."],
    },
    Spelling {
        family: Family::MlxApp,
        tower: None,
        projector: ["multi_modal_projector.linear_0.", "multi_modal_projector.linear_2."],
        language: "language_model.model.",
        lm_head: &["language_model.lm_head."],
    },
];

impl Tower {
    /// How many keys are named as this tower's are.
    pub(crate) fn count(&self, files: &TensorFiles) -> usize {
        let roots = match self.style {
            Style::Timm => fastvit::TIMM_ROOTS,
            Style::Apple | Style::Mlx => fastvit::APPLE_ROOTS,
        };
        count_roots(files, self.prefix, &roots)
    }
}

/// The spelling that explains most keys.
pub(crate) fn detect(files: &TensorFiles) -> Result<&'static Spelling, LoadError> {
    let mut best: Option<(usize, &Spelling)> = None;
    for spelling in &SPELLINGS {
        let tower = spelling.tower.map_or(0, |t| t.count(files));
        let projector: usize = spelling.projector.iter().map(|p| files.names_under(p).count()).sum();
        let language = count_roots(files, spelling.language, &qwen2::ROOTS);
        let score = tower + projector + language;
        if language > 0 && tower + projector > 0 && best.is_none_or(|(most, _)| score > most) {
            best = Some((score, spelling));
        }
    }
    best.map(|(_, spelling)| spelling).ok_or_else(|| unknown(files))
}

/// The tower in a checkpoint of which nothing else matters.
pub(crate) fn detect_tower(files: &TensorFiles) -> Option<(&'static Spelling, Tower)> {
    let mut best: Option<(usize, &Spelling, Tower)> = None;
    for spelling in &SPELLINGS {
        let Some(tower) = spelling.tower else { continue };
        let score = tower.count(files);
        if score > best.map_or(0, |(most, ..)| most) {
            best = Some((score, spelling, tower));
        }
    }
    best.map(|(_, spelling, tower)| (spelling, tower))
}

fn count_roots(files: &TensorFiles, prefix: &str, roots: &[&str]) -> usize {
    roots.iter().map(|root| files.names_under(&format!("{prefix}{root}")).count()).sum()
}

fn unknown(files: &TensorFiles) -> LoadError {
    let examples: Vec<String> = files.names().take(4).map(|name| format!("`{}`", clip(name))).collect();
    let known = [Family::AppleLlava, Family::Native, Family::MlxUpstream, Family::MlxApp].map(Family::name);
    LoadError::UnknownFamily { count: files.len(), examples: examples.join(", "), known: known.join(", ") }
}
