//! Opening a MobileCLIP: an open_clip directory, timm's image tower alone, or one of Apple's `.pt` files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ocelli_plan::WeightSource;
use serde_json::Value;

use crate::bind::{Draft, Module, Sizes, Source};
use crate::checkpoint::{plain_module, tower_module, tower_modules, vision_info};
use crate::config::{JsonFile, VisionInfo, directory_name};
use crate::error::LoadError;
use crate::family::{Family, Tower};
use crate::folder::{Directory, Folder};
use crate::names::{Row, Size, Style, clip_text, fastvit, vit};
use crate::quantization::Quantization;
use crate::report::LoadReport;
use crate::shards::TensorFiles;
use crate::structure::{FastVit, leading_index};
use crate::weights::Weights;

/// Where open_clip, and Apple for MobileCLIP2, put the towers.
const OPEN_CLIP: Places = Places { tower: "visual.trunk.", text: "text.", style: Style::Timm };
/// Where Apple put them for the first MobileCLIP.
const APPLE_V1: Places = Places { tower: "image_encoder.model.", text: "text_encoder.", style: Style::Apple };
/// timm's image tower alone.
const TIMM: Places = Places { tower: "", text: "\0", style: Style::Timm };
const CONFIG: &str = "open_clip_config.json";
const LOGIT_SCALE: &str = "logit_scale";
/// Values of an attention head in the released vision transformers.
const VIT_HEAD_DIM: usize = 64;
/// In models too narrow for that.
const TINY_HEAD_DIM: usize = 16;
/// More than any network has.
const MAX_LAYERS: usize = 1024;
/// Of CLIP's own training pictures.
pub(crate) const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
pub(crate) const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// open_clip clamps at `exp` of this, as CLIP was trained.
const MAX_LOGIT_SCALE: f32 = 100.0;

/// How pictures are scaled to the tower's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Interpolation {
    Bilinear,
    Bicubic,
}

/// What the image tower wants to see.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipImageConfig {
    /// Side in pixels.
    pub size: usize,
    /// Subtracted from pixels in 0..1.
    pub mean: [f32; 3],
    /// Divided by.
    pub std: [f32; 3],
    /// The filter.
    pub interpolation: Interpolation,
    /// Both sides are scaled to `size`; otherwise the shorter one, and the middle is cut out.
    pub squash: bool,
}

/// Sizes of the text tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipTextConfig {
    /// Positions of every text, padding included.
    pub context_length: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Each position sees those before it only.
    pub causal: bool,
}

/// The kind of image tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClipTower {
    /// MCi: stages of convolutions and attention.
    FastVit(VisionInfo),
    /// A vision transformer.
    Vit {
        /// Number of blocks.
        layers: usize,
        /// Attention heads.
        heads: usize,
        /// Patches by three convolutions (MobileCLIP-B), not by one.
        conv_stem: bool,
    },
}

/// Sizes and constants of a MobileCLIP.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// Who wrote it.
    pub family: Family,
    /// The directory's name.
    pub name: String,
    /// Length of the embeddings.
    pub embed_dim: usize,
    /// What the image tower wants to see.
    pub image: ClipImageConfig,
    /// The image tower.
    pub tower: ClipTower,
    /// The text tower, if there is one.
    pub text: Option<ClipTextConfig>,
    /// What similarities are multiplied with before the softmax, at most 100; 1 without a text tower.
    pub logit_scale: f32,
}

/// A MobileCLIP checkpoint: sizes, weights under our names, and what happened to each tensor.
#[derive(Debug, Clone)]
pub struct ClipCheckpoint {
    /// Sizes and constants.
    pub config: ClipConfig,
    /// What happened to each tensor.
    pub report: LoadReport,
    files: TensorFiles,
    weights: Weights,
}

impl ClipCheckpoint {
    /// Open a directory, or one file of it: safetensors, or Apple's `.pt`. Maps the file and checks every name, type and shape;
    /// reads no weights.
    ///
    /// # Errors
    /// When a file is broken, the model is of a kind that is not supported, config and tensors disagree, or any
    /// tensor is missing, unused or misshapen.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let (folder, file) = folder_and_file(path);
        Self::open_in(&folder, file.as_deref())
    }

    /// As [`Self::open`], from a folder that need not be a directory.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_folder(folder: &dyn Folder) -> Result<Self, LoadError> {
        Self::open_in(folder, None)
    }

    fn open_in(folder: &dyn Folder, file: Option<&str>) -> Result<Self, LoadError> {
        let (files, family) = open_files(folder, file)?;
        let source = Source { files, quantization: Quantization::default() };
        match family {
            Family::AppleClip => both_towers(folder, &source, family, APPLE_V1),
            Family::OpenClip => both_towers(folder, &source, family, OPEN_CLIP),
            _ => timm(folder, &source),
        }
    }

    /// Whether a directory or file looks like a MobileCLIP rather than a FastVLM.
    pub fn is_clip(path: &Path) -> bool {
        path.is_file() || Self::is_clip_folder(&Directory::new(path))
    }

    /// Whether a folder looks like a MobileCLIP rather than a FastVLM.
    pub fn is_clip_folder(folder: &dyn Folder) -> bool {
        let architecture = JsonFile::read(folder, "config.json").ok();
        let timm = architecture.is_some_and(|c| c.value.get("architecture").is_some_and(Value::is_string));
        folder.has(CONFIG) || timm || weight_file(folder).is_some()
    }

    /// A number that tells checkpoints apart, whatever their names: embeddings of two of them cannot be compared. Reads
    /// the first bytes of every tensor.
    pub fn fingerprint(&self) -> u64 {
        self.files.fingerprint()
    }

    /// A number that changes with every write to a file.
    pub fn state(&self) -> u64 {
        self.files.state()
    }

    /// The weights, for inspection.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The weights, for a network or a device.
    pub fn weight_source(&self) -> Arc<dyn WeightSource> {
        Arc::new(self.weights.clone())
    }
}

/// The folder of a path, and the file of it that the path names.
pub(crate) fn folder_and_file(path: &Path) -> (Directory, Option<String>) {
    if path.is_dir() {
        return (Directory::new(path), None);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (Directory::new(path.parent().unwrap_or(Path::new("."))), Some(name))
}

/// The tensors of a folder or of one file of it, and whose they are.
pub(crate) fn open_files(
    folder: &dyn Folder,
    file: Option<&str>,
) -> Result<(TensorFiles, Family), LoadError> {
    let file = file.map(str::to_owned).or_else(|| weight_file(folder));
    let files = match &file {
        Some(file) => TensorFiles::open_file(folder, file)?,
        None => TensorFiles::open(folder)?,
    };
    let family = if files.any_under(APPLE_V1.tower) {
        Family::AppleClip
    } else if files.any_under(OPEN_CLIP.tower) {
        Family::OpenClip
    } else {
        Family::Timm
    };
    Ok((files, family))
}

/// The image tower and the prefix of the text tower in a family of MobileCLIPs.
pub(crate) fn prefixes(family: Family) -> Option<(Tower, &'static str)> {
    let places = match family {
        Family::OpenClip => OPEN_CLIP,
        Family::AppleClip => APPLE_V1,
        Family::Timm => TIMM,
        _ => return None,
    };
    Some((Tower { prefix: places.tower, style: places.style, channels_last: false }, places.text))
}

/// The file to take where the rule for FastVLM would not find the right one.
fn weight_file(folder: &dyn Folder) -> Option<String> {
    const OPEN_CLIP: &str = "open_clip_model.safetensors";
    if folder.has(OPEN_CLIP) {
        return Some(OPEN_CLIP.to_owned());
    }
    let extension = |name: &String| Path::new(name).extension().map(std::ffi::OsStr::to_owned);
    let mut names = folder.names().ok()?;
    names.retain(|name| extension(name).is_some_and(|e| e == "pt" || e == "safetensors"));
    // A directory with nothing but one `.pt`.
    names.pop().filter(|name| names.is_empty() && extension(name).is_some_and(|e| e == "pt"))
}

/// Where a family puts the towers, and how it names their parts.
#[derive(Clone, Copy)]
struct Places {
    tower: &'static str,
    text: &'static str,
    style: Style,
}

fn both_towers(
    folder: &dyn Folder,
    source: &Source,
    family: Family,
    places: Places,
) -> Result<ClipCheckpoint, LoadError> {
    let json = JsonFile::read_if_there(folder, CONFIG)?;
    let path = folder.path().join(CONFIG);
    let fields = json.as_ref().map(|json| Fields { path, value: &json.value });
    let model = fields.as_ref().map(|fields| fields.under("model_cfg")).transpose()?;
    let text = match &model {
        Some(model) => {
            let mut text = text_config(&model.under("text_cfg")?)?;
            if has_text_convolutions(source, places) {
                // open_clip knows no such tower; what is configured has other layers.
                text.layers = text_layers(source, places);
            }
            text
        }
        None => text_from_shapes(source, places)?,
    };
    let image = match &fields {
        Some(fields) => image_config(&fields.under("preprocess_cfg")?)?,
        None => image_from_keys(source, places),
    };
    let mut modules = text_modules(source, places, text.layers);
    if source.files.contains(LOGIT_SCALE) {
        modules.push(plain_module(
            source,
            &clip_text::LOGIT_SCALE,
            LOGIT_SCALE.into(),
            LOGIT_SCALE.into(),
            0,
        ));
    }
    let embed_dim = model.map(|model| model.size("embed_dim")).transpose()?;
    bind(folder.path(), source, Parts { family, places, image, text: Some(text) }, modules, embed_dim)
}

/// The text tower of a file without configuration, as all released ones are.
fn text_from_shapes(source: &Source, places: Places) -> Result<ClipTextConfig, LoadError> {
    let shape = |row: &Row| -> Option<[usize; 2]> {
        let (_, info) = source.files.get(&format!("{}{}", places.text, row.name(places.style)))?;
        let dims: Vec<usize> = info.shape.iter().copied().filter(|&dim| dim != 1).collect();
        dims.try_into().ok()
    };
    let [embedding, positions, ..] = &clip_text::MODEL;
    let (Some([vocab_size, width]), Some([context_length, _])) = (shape(embedding), shape(positions)) else {
        let reason = "there is no text tower, or its embeddings have other than two dimensions".to_owned();
        return Err(LoadError::Structure { reason });
    };
    let layers = text_layers(source, places);
    let causal = has_conv_stem(source, places);
    Ok(ClipTextConfig { context_length, vocab_size, layers, heads: (width / VIT_HEAD_DIM).max(1), causal })
}

fn text_layers(source: &Source, places: Places) -> usize {
    let list = if places.style == Style::Apple { "transformer." } else { "transformer.resblocks." };
    count_layers(source, &format!("{}{list}", places.text))
}

fn has_text_convolutions(source: &Source, places: Places) -> bool {
    (0..text_layers(source, places)).any(|l| is_text_convolution(source, places, l))
}

/// Whether layer `l` is one of convolutions; any of its parts is enough, so that a missing one is missed.
fn is_text_convolution(source: &Source, places: Places, l: usize) -> bool {
    let layer = format!("{}transformer.{l}.", places.text);
    clip_text::REP_MIXER_KEYS.iter().any(|key| source.files.any_under(&format!("{layer}{key}")))
}

/// What the released models of this structure want to see (open_clip `pretrained.py`): only the towers of five
/// stages and the one with a single patch convolution were trained with CLIP's own mean.
fn image_from_keys(source: &Source, places: Places) -> ClipImageConfig {
    let five_stages = source.files.any_under(&format!("{}stages.4.", places.tower));
    let patch = source.files.any_under(&format!("{}patch_embed.proj.", places.tower));
    let (mean, std) = if five_stages || patch { (CLIP_MEAN, CLIP_STD) } else { ([0.0; 3], [1.0; 3]) };
    let size = if patch || has_conv_stem(source, places) { 224 } else { 256 };
    let interpolation = if patch { Interpolation::Bicubic } else { Interpolation::Bilinear };
    ClipImageConfig { size, mean, std, interpolation, squash: false }
}

fn timm(folder: &dyn Folder, source: &Source) -> Result<ClipCheckpoint, LoadError> {
    let json = JsonFile::read(folder, "config.json")?;
    let fields = Fields { path: folder.path().join("config.json"), value: &json.value };
    let image = timm_image_config(&fields.under("pretrained_cfg")?)?;
    let parts = Parts { family: Family::Timm, places: TIMM, image, text: None };
    bind(folder.path(), source, parts, Vec::new(), None)
}

struct Parts {
    family: Family,
    places: Places,
    image: ClipImageConfig,
    text: Option<ClipTextConfig>,
}

/// Bind the image tower and the other modules.
fn bind<'a>(
    dir: &Path,
    source: &'a Source,
    parts: Parts,
    mut modules: Vec<Module<'a>>,
    embed_dim: Option<usize>,
) -> Result<ClipCheckpoint, LoadError> {
    let places = parts.places;
    let tower = Tower { prefix: places.tower, style: places.style, channels_last: false };
    let apple = places.style == Style::Apple;
    let stages = if apple { "network." } else { "stages." };
    let fast_vit = source.files.any_under(&format!("{}{stages}", places.tower));
    let fast_vit = fast_vit.then(|| FastVit::infer(&source.files, tower)).transpose()?;
    let blocks = if apple { "transformer." } else { "blocks." };
    let blocks = count_layers(source, &format!("{}{blocks}", places.tower));
    match &fast_vit {
        Some(vit) => {
            modules.extend(tower_modules(source, vit));
            let last = vit.stages.len() - 1;
            let head: &[Row] = if apple { &fastvit::HEAD_APPLE } else { &fastvit::HEAD };
            modules.extend(head.iter().map(|row| tower_module(source, vit, row, last, 0)));
        }
        None => modules.extend(vit_modules(source, places, blocks)),
    }
    let prefer: Vec<(Size, usize)> = embed_dim.map(|dim| (Size::EmbedDim, dim)).into_iter().collect();
    let draft = Draft::new(modules, &prefer)?;
    check(&draft.sizes, Size::EmbedDim, "embed_dim", embed_dim)?;
    if let Some(text) = &parts.text {
        check(&draft.sizes, Size::TextVocab, "vocab_size", Some(text.vocab_size))?;
        check(&draft.sizes, Size::ContextLength, "context_length", Some(text.context_length))?;
    }
    let tower = match &fast_vit {
        Some(vit) => ClipTower::FastVit(vision_info(vit, &draft.sizes)?),
        None => vit_tower(&draft.sizes, blocks, source, places)?,
    };
    let embed_dim = draft.sizes.get(Size::EmbedDim, 0).unwrap_or(0);
    let text_width = draft.sizes.get(Size::TextWidth, 0).unwrap_or(0);
    let mut report = LoadReport::new(parts.family);
    report.files = source.files.files.iter().map(|file| file.file_name()).collect();
    let bound = draft.bind(&mut report);
    for name in source.files.names() {
        if bound.used.contains(&(std::ptr::from_ref(source), name.to_owned())) {
            continue;
        }
        let counter = name.rsplit('.').next() == Some(fastvit::COUNTER);
        let other_tower = parts.text.is_none() && name.starts_with(places.text);
        // What SigLIP's training adds to every similarity alike: no answer depends on it.
        let bias = name == "logit_bias";
        if counter || other_tower || bias { &mut report.ignored } else { &mut report.unused }
            .push(name.to_owned());
    }
    if !report.is_complete() {
        return Err(LoadError::Tensors(Box::new(report)));
    }
    let weights = Weights::new(bound.tensors);
    if let Some(text) = &parts.text
        && !text_width.is_multiple_of(text.heads)
    {
        let reason = format!("the text tower is {text_width} wide, no multiple of {} heads", text.heads);
        return Err(LoadError::Structure { reason });
    }
    let Parts { family, image, text, .. } = parts;
    let logit_scale = match weights.read(LOGIT_SCALE) {
        Ok(values) => values.first().map_or(1.0, |v| v.exp().min(MAX_LOGIT_SCALE)),
        Err(_) => 1.0,
    };
    let name = directory_name(dir);
    let config = ClipConfig { family, name, embed_dim, image, tower, text, logit_scale };
    Ok(ClipCheckpoint { config, report, files: source.files.clone(), weights })
}

fn check(sizes: &Sizes, size: Size, field: &'static str, config: Option<usize>) -> Result<(), LoadError> {
    match (sizes.get(size, 0), config) {
        (Some(tensors), Some(config)) if tensors != config => {
            Err(LoadError::ConfigMismatch { field, config, tensors })
        }
        _ => Ok(()),
    }
}

fn vit_tower(sizes: &Sizes, layers: usize, source: &Source, places: Places) -> Result<ClipTower, LoadError> {
    let width = sizes.get(Size::TransformerWidth, 0).unwrap_or(0);
    let head_dim = if width.is_multiple_of(VIT_HEAD_DIM) { VIT_HEAD_DIM } else { TINY_HEAD_DIM };
    if layers == 0 || width == 0 || !width.is_multiple_of(head_dim) {
        let reason =
            format!("{layers} blocks of width {width} are neither a FastViT nor a vision transformer");
        return Err(LoadError::Structure { reason });
    }
    let conv_stem = has_conv_stem(source, places);
    Ok(ClipTower::Vit { layers, heads: width / head_dim, conv_stem })
}

fn has_conv_stem(source: &Source, places: Places) -> bool {
    let stem = if places.style == Style::Apple { "patch_emb." } else { "patch_embed.backbone." };
    source.files.any_under(&format!("{}{stem}", places.tower))
}

fn vit_modules(source: &Source, places: Places, layers: usize) -> Vec<Module<'_>> {
    let module = |row, l| styled(source, places, ("vision", places.tower), row, l);
    let stem: &[Row] = if has_conv_stem(source, places) { &vit::CONV_STEM } else { &vit::PATCH_STEM };
    let head: &[Row] = if places.style == Style::Apple { &vit::HEAD_APPLE } else { &vit::HEAD };
    let mut modules: Vec<_> = vit::COMMON.iter().chain(stem).chain(head).map(|row| module(row, 0)).collect();
    for l in 0..layers {
        modules.extend(vit::BLOCK.iter().map(|row| module(row, l)));
    }
    modules
}

fn text_modules(source: &Source, places: Places, layers: usize) -> Vec<Module<'_>> {
    let module = |row, l| styled(source, places, ("text", places.text), row, l);
    let mut modules: Vec<_> = clip_text::MODEL.iter().map(|row| module(row, 0)).collect();
    for l in 0..layers {
        let rows: &[Row] = if is_text_convolution(source, places, l) {
            &clip_text::REP_MIXER_BLOCK
        } else {
            &clip_text::BLOCK
        };
        modules.extend(rows.iter().map(|row| module(row, l)));
    }
    modules
}

/// A module of layer `l`, under our prefix and theirs.
fn styled<'a>(
    source: &'a Source,
    places: Places,
    (ours, theirs): (&str, &str),
    row: &'static Row,
    l: usize,
) -> Module<'a> {
    let fill = |name: &str| name.replace("{l}", &l.to_string());
    let ours = format!("{ours}.{}", fill(row.ours));
    let theirs = format!("{theirs}{}", fill(&row.name(places.style)));
    Module { style: places.style, ..plain_module(source, row, ours, theirs, 0) }
}

/// The greatest index under a prefix and one.
fn count_layers(source: &Source, prefix: &str) -> usize {
    let names = source.files.names_under(prefix);
    let indices = names.filter_map(|name| Some(leading_index(&name[prefix.len()..])?.0));
    indices.max().map_or(0, |last| last.saturating_add(1).min(MAX_LAYERS))
}

fn text_config(text: &Fields) -> Result<ClipTextConfig, LoadError> {
    let layers = text.size("layers")?;
    if layers > MAX_LAYERS {
        return Err(text.error("layers", format!("= {layers}; at most {MAX_LAYERS} are possible")));
    }
    Ok(ClipTextConfig {
        context_length: text.size("context_length")?,
        vocab_size: text.size("vocab_size")?,
        layers,
        heads: text.size("heads")?,
        causal: !text.value.get("no_causal_mask").and_then(Value::as_bool).unwrap_or(false),
    })
}

fn image_config(preprocess: &Fields) -> Result<ClipImageConfig, LoadError> {
    let squash = match preprocess.value.get("resize_mode").and_then(Value::as_str) {
        None | Some("shortest") => false,
        Some("squash") => true,
        Some(other) => return Err(preprocess.unsupported("resize_mode", other, "shortest, squash")),
    };
    let size = preprocess.value.get("size").and_then(|size| side(size).or_else(|| side(size.get(0)?)));
    Ok(ClipImageConfig {
        size: size.ok_or_else(|| preprocess.error("size", "is no side in pixels".into()))?,
        mean: preprocess.three("mean")?,
        std: preprocess.three("std")?,
        interpolation: interpolation(preprocess)?,
        squash,
    })
}

fn timm_image_config(pretrained: &Fields) -> Result<ClipImageConfig, LoadError> {
    let size = pretrained.value.get("input_size").and_then(|size| side(size.get(2)?));
    Ok(ClipImageConfig {
        size: size.ok_or_else(|| pretrained.error("input_size", "is no [3, side, side]".into()))?,
        mean: pretrained.three("mean")?,
        std: pretrained.three("std")?,
        interpolation: interpolation(pretrained)?,
        squash: false,
    })
}

fn side(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok().filter(|side| (1..=4096).contains(side))
}

fn interpolation(fields: &Fields) -> Result<Interpolation, LoadError> {
    match fields.value.get("interpolation").and_then(Value::as_str) {
        Some("bilinear") => Ok(Interpolation::Bilinear),
        None | Some("bicubic") => Ok(Interpolation::Bicubic),
        Some(other) => Err(fields.unsupported("interpolation", other, "bilinear, bicubic")),
    }
}

/// An object of a configuration file, with readers that name the field when it is wrong.
struct Fields<'a> {
    path: PathBuf,
    value: &'a Value,
}

impl<'a> Fields<'a> {
    fn under(&self, field: &str) -> Result<Fields<'a>, LoadError> {
        match self.value.get(field) {
            Some(value) if value.is_object() => Ok(Fields { path: self.path.clone(), value }),
            _ => Err(self.error(field, "is missing".into())),
        }
    }

    fn size(&self, field: &str) -> Result<usize, LoadError> {
        let size = self.value.get(field).and_then(Value::as_u64).filter(|size| (1..1 << 31).contains(size));
        let size = size.and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| self.error(field, "is no positive size".into()))
    }

    fn three(&self, field: &str) -> Result<[f32; 3], LoadError> {
        let values = self.value.get(field).and_then(Value::as_array);
        let numbers: Vec<f32> =
            values.into_iter().flatten().filter_map(|v| Some(v.as_f64()? as f32)).collect();
        let three: Option<[f32; 3]> = numbers.try_into().ok();
        let fits = |v: &[f32; 3]| v.iter().all(|v| v.is_finite()) && (field != "std" || !v.contains(&0.0));
        three.filter(fits).ok_or_else(|| self.error(field, "is not three numbers".into()))
    }

    fn error(&self, field: &str, reason: String) -> LoadError {
        LoadError::Config { path: self.path.clone(), field: field.to_owned(), reason }
    }

    fn unsupported(&self, field: &str, found: &str, supported: &str) -> LoadError {
        let (field, found, supported) = (field.to_owned(), found.to_owned(), supported.to_owned());
        LoadError::Unsupported { field, found, supported }
    }
}
