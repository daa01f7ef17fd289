//! Checkpoints for training: every tensor as it is stored, nothing folded, and the names under which a family of
//! checkpoints stores our modules.

use std::path::Path;

use crate::clip;
use crate::convert::{is_float, to_f32};
use crate::error::LoadError;
use crate::family::{Family, SPELLINGS, Spelling, Tower, detect};
use crate::folder::Directory;
use crate::names::{Name, Row, Style, clip_text, fastvit, projector, qwen2, vit};
use crate::shards::TensorFiles;
use crate::structure::{FastVit, Stage};

/// The names of a family of checkpoints for the modules of one network, by our names.
#[derive(Debug, Clone)]
pub struct Naming {
    /// The family.
    pub family: Family,
    tower: Tower,
    /// Of a FastViT; none for a vision transformer.
    fast_vit: Option<FastVit>,
    text: Option<&'static str>,
    spelling: Option<&'static Spelling>,
}

/// What a FastViT is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastVitForm {
    /// Blocks of each stage.
    pub blocks: Vec<usize>,
    /// Whether a stage has attention.
    pub attention: Vec<bool>,
    /// Whether the stem has 1x1 branches in training form.
    pub stem_scale: bool,
    /// Whether downsamples have squeeze-excite.
    pub downsample_se: bool,
    /// Whether the norm before attention is a BatchNorm.
    pub batch_norm: bool,
}

impl Naming {
    /// The names for a network that is yet to be written; `form` of a FastViT, none for a vision transformer.
    ///
    /// Returns none for a family whose checkpoints are not trained from: those of MLX.
    pub fn new(family: Family, form: Option<&FastVitForm>) -> Option<Self> {
        let spelling = SPELLINGS.iter().find(|spelling| spelling.family == family);
        let (tower, text) = match family {
            Family::AppleLlava | Family::Native => (spelling?.tower?, None),
            Family::OpenClip | Family::AppleClip | Family::Timm => {
                let (tower, text) = clip::prefixes(family)?;
                (tower, (family != Family::Timm).then_some(text))
            }
            Family::MlxUpstream | Family::MlxApp => return None,
        };
        let fast_vit = form.map(|form| fast_vit(form, tower));
        Some(Self { family, tower, fast_vit, text, spelling })
    }

    /// The style of its names.
    pub fn style(&self) -> Style {
        self.tower.style
    }

    /// The form of the FastViT.
    pub fn fast_vit(&self) -> Option<FastVitForm> {
        self.fast_vit.as_ref().map(|vit| FastVitForm {
            blocks: vit.stages.iter().map(|stage| stage.blocks).collect(),
            attention: vit.stages.iter().map(|stage| stage.attention).collect(),
            stem_scale: vit.stem_scale,
            downsample_se: vit.downsample_se,
            batch_norm: vit.batch_norm,
        })
    }

    /// The family's name of a module or tensor, and its row of the tables; none if the family has no such module.
    ///
    /// Ours begin with `vision.`, `text.`, `projector.` or `language.`.
    pub fn module(&self, ours: &str) -> Option<(String, &'static Row)> {
        let (part, name) = ours.split_once('.').unwrap_or((ours, ""));
        match part {
            "vision" => self.vision_module(name),
            "text" => {
                let rows = [&clip_text::MODEL[..], &clip_text::BLOCK, &clip_text::REP_MIXER_BLOCK];
                let (row, places) = find(&rows, name)?;
                Some((format!("{}{}", self.text?, fill(&row.name(self.tower.style), &places)), row))
            }
            "logit_scale" => Some((clip_text::LOGIT_SCALE.ours.to_owned(), &clip_text::LOGIT_SCALE)),
            "projector" => {
                let [first, second] = self.spelling?.projector;
                let ours = |rows: &'static [Row]| find(&[rows], name);
                let (prefix, (row, _)) = match ours(&projector::FC1) {
                    Some(found) => (first, found),
                    None => (second, ours(&projector::FC2)?),
                };
                Some((format!("{prefix}{}", row.timm), row))
            }
            "language" if name == qwen2::LM_HEAD.ours => {
                let prefix = self.spelling?.lm_head.first()?;
                Some((format!("{prefix}{}", qwen2::LM_HEAD.timm), &qwen2::LM_HEAD))
            }
            "language" => {
                let (row, places) = find(&[&qwen2::MODEL, &qwen2::LAYER], name)?;
                Some((format!("{}{}", self.spelling?.language, fill(row.timm, &places)), row))
            }
            _ => None,
        }
    }

    fn vision_module(&self, name: &str) -> Option<(String, &'static Row)> {
        let style = self.tower.style;
        let prefix = self.tower.prefix;
        let apple = style == Style::Apple;
        let Some(fast_vit) = &self.fast_vit else {
            let head: &'static [Row] = if apple { &vit::HEAD_APPLE } else { &vit::HEAD };
            let rows = [&vit::COMMON[..], &vit::CONV_STEM, &vit::PATCH_STEM, &vit::BLOCK, head];
            let (row, places) = find(&rows, name)?;
            return Some((format!("{prefix}{}", fill(&row.name(style), &places)), row));
        };
        let head: &'static [Row] = if apple { &fastvit::HEAD_APPLE } else { &fastvit::HEAD };
        let (row, places) = find(&[&fastvit::STEM, &fastvit::STAGE, &fastvit::BLOCK, head], name)?;
        let number = |placeholder: &str| {
            places.iter().find(|(name, _)| *name == placeholder).map_or(0, |(_, number)| *number)
        };
        let s = number("{s}");
        if s >= fast_vit.stages.len() {
            return None;
        }
        Some((format!("{prefix}{}", fast_vit.place(&row.name(style), s, number("{b}"))), row))
    }
}

/// A FastViT of a form, its parts at their places in Apple's flat list.
fn fast_vit(form: &FastVitForm, tower: Tower) -> FastVit {
    let mut places = 0..;
    let mut next = |there: bool| if there { places.next().unwrap_or(0) } else { 0 };
    let stages = form.blocks.iter().zip(&form.attention).enumerate().map(|(s, (&blocks, &attention))| {
        let (down_at, cpe_at, blocks_at) = (next(s > 0), next(attention), next(true));
        Stage { blocks, attention, blocks_at, down_at, cpe_at }
    });
    FastVit {
        stages: stages.collect(),
        tower,
        stem_scale: form.stem_scale,
        downsample_se: form.downsample_se,
        batch_norm: form.batch_norm,
    }
}

/// The row of our name, and the numbers for its placeholders.
fn find(tables: &[&'static [Row]], name: &str) -> Option<(&'static Row, Vec<(&'static str, usize)>)> {
    let rows = tables.iter().copied().flatten();
    rows.into_iter().find_map(|row| Some((row, matched(row.ours, name)?)))
}

/// The numbers in a name where a pattern has placeholders; none if it is another name.
fn matched(pattern: &'static str, name: &str) -> Option<Vec<(&'static str, usize)>> {
    let (mut theirs, mut numbers) = (name.split('.'), Vec::new());
    for part in pattern.split('.') {
        let found = theirs.next()?;
        if part.starts_with('{') {
            numbers.push((part, found.parse().ok()?));
        } else if part != found {
            return None;
        }
    }
    theirs.next().is_none().then_some(numbers)
}

fn fill(name: &str, places: &[(&str, usize)]) -> String {
    places.iter().fold(name.to_owned(), |name, (place, number)| name.replace(place, &number.to_string()))
}

/// A checkpoint whose tensors are read as they are stored.
#[derive(Debug, Clone)]
pub struct RawCheckpoint {
    files: TensorFiles,
    /// Its names.
    pub naming: Naming,
}

impl RawCheckpoint {
    /// Open the directory of a FastVLM. Maps the files; reads no weights.
    ///
    /// # Errors
    /// When a file is broken or the checkpoint is of a family that is not trained from.
    pub fn open_fastvlm(dir: &Path) -> Result<Self, LoadError> {
        let files = TensorFiles::open(&Directory::new(dir))?;
        let spelling = detect(&files)?;
        let tower = spelling.tower.filter(|tower| !tower.channels_last && tower.count(&files) > 0);
        let Some(tower) = tower else {
            return Err(LoadError::NoVisionTower {
                dir: dir.to_owned(),
                family: spelling.family.name(),
                reason: "cannot be trained from; take Apple's or transformers' checkpoint of the same model"
                    .into(),
            });
        };
        let fast_vit = Some(FastVit::infer(&files, tower)?);
        let naming =
            Naming { family: spelling.family, tower, fast_vit, text: None, spelling: Some(spelling) };
        Ok(Self { files, naming })
    }

    /// Open a directory of a MobileCLIP, or one file: safetensors, or Apple's `.pt`. Maps the file; reads no weights.
    ///
    /// # Errors
    /// When a file is broken or holds no MobileCLIP.
    pub fn open_clip(path: &Path) -> Result<Self, LoadError> {
        let (folder, file) = clip::folder_and_file(path);
        let (files, family) = clip::open_files(&folder, file.as_deref())?;
        let Some((tower, text)) = clip::prefixes(family) else {
            return Err(LoadError::Structure { reason: "the checkpoint holds no MobileCLIP".to_owned() });
        };
        let list = if tower.style == Style::Apple { "network." } else { "stages." };
        let is_fast_vit = files.any_under(&format!("{}{list}", tower.prefix));
        let fast_vit = is_fast_vit.then(|| FastVit::infer(&files, tower)).transpose()?;
        let text = files.any_under(text).then_some(text);
        Ok(Self { files, naming: Naming { family, tower, fast_vit, text, spelling: None } })
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.names()
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.files.get(name)?.1.shape)
    }

    /// The values of a tensor; none if there is no such tensor or it is not of floats.
    pub fn read(&self, name: &str) -> Option<Vec<f32>> {
        let (_, info) = self.files.get(name)?;
        if !is_float(info.dtype) {
            return None;
        }
        let mut values = vec![0.0; info.shape.iter().product()];
        to_f32(info.dtype, &self.files.bytes(name).ok()?, &mut values);
        Some(values)
    }

    /// Whether a module is stored as one folded convolution of this name.
    pub fn is_folded(&self, module: &str, folded: Name) -> bool {
        self.files.any_under(&format!("{module}.{}.", folded.in_style(self.naming.style())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_loading_looks_for() {
        let form = FastVitForm {
            blocks: vec![1, 1, 1, 1, 1],
            attention: vec![false, false, false, true, true],
            stem_scale: false,
            downsample_se: false,
            batch_norm: false,
        };
        let name = |family, ours: &str| {
            Naming::new(family, Some(&form)).and_then(|naming| Some(naming.module(ours)?.0))
        };
        let expected = [
            (
                Family::AppleLlava,
                "vision.stages.4.blocks.0.ffn.fc1.weight",
                "model.vision_tower.vision_tower.model.network.10.0.convffn.fc1.weight",
            ),
            (
                Family::AppleLlava,
                "vision.stages.3.pos_emb",
                "model.vision_tower.vision_tower.model.network.6",
            ),
            (Family::Native, "vision.stem.1", "model.vision_tower.timm_model.stem.1"),
            (Family::Native, "projector.fc2.bias", "model.multi_modal_projector.linear_2.bias"),
            (
                Family::Native,
                "language.layers.3.mlp.up_proj.weight",
                "model.language_model.layers.3.mlp.up_proj.weight",
            ),
            (
                Family::OpenClip,
                "text.blocks.2.attn.qkv.weight",
                "text.transformer.resblocks.2.attn.in_proj_weight",
            ),
            (Family::AppleClip, "vision.head.weight", "image_encoder.model.head.proj"),
            (Family::AppleClip, "text.blocks.0.token_mixer", "text_encoder.transformer.0.token_mixer"),
            (Family::OpenClip, "logit_scale", "logit_scale"),
        ];
        for (family, ours, theirs) in expected {
            assert_eq!(name(family, ours).as_deref(), Some(theirs), "{family} {ours}");
        }
        assert_eq!(name(Family::OpenClip, "language.norm.weight"), None);
        assert_eq!(name(Family::Native, "vision.stages.5.blocks.0.layer_scale"), None);
    }
}
