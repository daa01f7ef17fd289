//! Opening a model directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ocelli_plan::WeightSource;

use crate::bind::{Bound, Draft, Module, Sizes, Source};
use crate::config::{FastVlmConfig, JsonFile, VisionInfo};
use crate::error::LoadError;
use crate::family::{Family, Spelling, Tower, detect, detect_tower};
use crate::folder::{Directory, Folder};
use crate::names::{Row, Size, Style, fastvit, projector, qwen2};
use crate::quantization::Quantization;
use crate::report::LoadReport;
use crate::shards::TensorFiles;
use crate::structure::{FastVit, leading_index};
use crate::weights::Weights;

/// Channels of one attention head of the tower, in every variant.
const VISION_HEAD_DIM: usize = 32;
/// Image pixels over stage 0 pixels along a side; each further stage halves once more.
const STEM_STRIDE: usize = 4;

/// A FastVLM checkpoint: sizes, weights under our names, and what happened to each tensor of the files.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Sizes and constants.
    pub config: FastVlmConfig,
    /// What happened to each tensor.
    pub report: LoadReport,
    weights: Weights,
    /// Those of the model, and those of the tower where that is another checkpoint's.
    files: Vec<TensorFiles>,
    /// Our names by the keys of tensors that are taken as they are.
    ours: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Open a model directory. Maps the files and checks every name, type and shape; reads no weights.
    ///
    /// With `vision_dir` the vision tower, and only that, comes from another checkpoint. It wins over a tower of
    /// the model directory.
    ///
    /// # Errors
    /// When a file is broken, the model is of a kind that is not supported, config and tensors disagree, or any
    /// tensor is missing, unused or misshapen.
    ///
    /// ```no_run
    /// use ocelli_plan::WeightSource;
    /// let checkpoint = ocelli_weights::Checkpoint::open("FastVLM-0.5B".as_ref(), None)?;
    /// let norm = checkpoint.weights().read("language.norm.weight");
    /// # Ok::<(), ocelli_weights::LoadError>(())
    /// ```
    pub fn open(dir: &Path, vision_dir: Option<&Path>) -> Result<Self, LoadError> {
        let vision = vision_dir.map(Directory::new);
        Self::open_folder(&Directory::new(dir), vision.as_ref().map(|dir| dir as &dyn Folder))
    }

    /// As [`Self::open`], from folders that need not be directories.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_folder(folder: &dyn Folder, vision: Option<&dyn Folder>) -> Result<Self, LoadError> {
        let config_file = JsonFile::read(folder, "config.json")?;
        let mut config = FastVlmConfig::read(folder, &config_file)?;
        let main = Source {
            files: TensorFiles::open(folder)?,
            quantization: Quantization::from_config(&config_file.value)?,
        };
        let spelling = detect(&main.files)?;
        config.family = spelling.family;
        let other = vision.map(open_source).transpose()?;
        let vision_dir = vision.map(Folder::path);
        let (tower_source, tower) = find_tower(folder.path(), &main, spelling, vision_dir, other.as_ref())?;
        let vit = FastVit::infer(&tower_source.files, tower)?;

        let mut modules = tower_modules(tower_source, &vit);
        modules.extend(projector_modules(&main, spelling, vit.stages.len() - 1));
        check_layers(&config, count_layers(&main, spelling))?;
        modules.extend(language_modules(&main, spelling, config.num_layers));
        let lm_head = lm_head_module(&main, spelling);
        config.tie = lm_head.is_none();
        modules.extend(lm_head);

        let draft = Draft::new(modules, &language_sizes(&config).map(|(size, _, n)| (size, n)))?;
        check_sizes(&config, &draft.sizes)?;
        config.vision = vision_info(&vit, &draft.sizes)?;
        check_features(&config, &config_file)?;

        let mut report = LoadReport::new(spelling.family);
        report.files = file_names(&main, other.as_ref());
        let bound = draft.bind(&mut report);
        sort_out_rest(&main, spelling, other.as_ref().map(|source| (source, tower)), &bound, &mut report);
        if !report.is_complete() {
            return Err(LoadError::Tensors(Box::new(report)));
        }
        let weights = Weights::new(bound.tensors);
        let ours = bound.ours;
        let files = [Some(main), other].into_iter().flatten().map(|source| source.files).collect();
        Ok(Self { config, report, weights, files, ours })
    }

    /// A number that tells checkpoints apart, whatever their names. Reads the first bytes of every tensor.
    pub fn fingerprint(&self) -> u64 {
        self.over_files(TensorFiles::fingerprint)
    }

    /// A number that changes with every write to a file.
    pub fn state(&self) -> u64 {
        self.over_files(TensorFiles::state)
    }

    fn over_files(&self, number: fn(&TensorFiles) -> u64) -> u64 {
        self.files.iter().fold(0, |all: u64, files| all.rotate_left(17) ^ number(files))
    }

    /// Our name of a tensor that is taken from the files as it is.
    pub(crate) fn our_name(&self, key: &str) -> Option<&str> {
        self.ours.get(key).map(String::as_str)
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

/// The licence that came with a model, `LICENSE*` in any case, if there is one.
pub fn licence_file(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            (name.starts_with("license") || name.starts_with("licence")) && path.is_file()
        })
        .collect();
    found.sort();
    found.into_iter().next()
}

/// Files of a folder of which only the tower is wanted; a `config.json` matters only if it says how tensors
/// are quantized.
fn open_source(folder: &dyn Folder) -> Result<Source, LoadError> {
    let quantization = match JsonFile::read_if_there(folder, "config.json")? {
        Some(config) => Quantization::from_config(&config.value)?,
        None => Quantization::default(),
    };
    Ok(Source { files: TensorFiles::open(folder)?, quantization })
}

fn find_tower<'a>(
    dir: &Path,
    main: &'a Source,
    spelling: &Spelling,
    vision_dir: Option<&Path>,
    other: Option<&'a Source>,
) -> Result<(&'a Source, Tower), LoadError> {
    let none = |dir: &Path, family: Family, reason: &str| LoadError::NoVisionTower {
        dir: dir.to_owned(),
        family: family.name(),
        reason: reason.to_owned(),
    };
    if let (Some(dir), Some(other)) = (vision_dir, other) {
        let found = detect_tower(&other.files);
        let tower = found.map(|(_, tower)| tower);
        return tower.map(|tower| (other, tower)).ok_or_else(|| {
            none(dir, spelling.family, "was given for its vision tower but has none in its safetensors files")
        });
    }
    match spelling.tower {
        Some(tower) if tower.count(&main.files) > 0 => Ok((main, tower)),
        Some(_) => Err(none(
            dir,
            spelling.family,
            "has no vision tower; pass --vision DIR with a checkpoint that has the same tower",
        )),
        None => Err(none(
            dir,
            spelling.family,
            "has its vision tower in a CoreML package, which cannot be read; pass --vision DIR with another \
             checkpoint of the same model (for example Apple's original one)",
        )),
    }
}

/// A row's names with the placeholders of a stage and a block filled in.
pub(crate) fn tower_module<'a>(
    source: &'a Source,
    vit: &FastVit,
    row: &'static Row,
    s: usize,
    b: usize,
) -> Module<'a> {
    Module {
        source,
        row,
        ours: format!("vision.{}", vit.place(row.ours, s, b)),
        theirs: format!("{}{}", vit.tower.prefix, vit.place(&row.name(vit.tower.style), s, b)),
        scope: s,
        style: vit.tower.style,
        channels_last: vit.tower.channels_last,
        stem_scale: vit.stem_scale,
    }
}

pub(crate) fn tower_modules<'a>(source: &'a Source, vit: &FastVit) -> Vec<Module<'a>> {
    vit.rows().into_iter().map(|(row, s, b)| tower_module(source, vit, row, s, b)).collect()
}

/// A module outside of the tower, whose names are the same in all styles.
pub(crate) fn plain_module<'a>(
    source: &'a Source,
    row: &'static Row,
    ours: String,
    theirs: String,
    scope: usize,
) -> Module<'a> {
    let style = Style::Timm;
    Module { source, row, ours, theirs, scope, style, channels_last: false, stem_scale: false }
}

fn projector_modules<'a>(source: &'a Source, spelling: &Spelling, last_stage: usize) -> Vec<Module<'a>> {
    let linears = [&projector::FC1, &projector::FC2].into_iter().zip(spelling.projector);
    let rows = linears.flat_map(|(rows, prefix)| rows.iter().map(move |row| (row, prefix)));
    rows.map(|(row, prefix)| {
        let (ours, theirs) = (format!("projector.{}", row.ours), format!("{prefix}{}", row.timm));
        plain_module(source, row, ours, theirs, last_stage)
    })
    .collect()
}

fn language_modules<'a>(source: &'a Source, spelling: &Spelling, layers: usize) -> Vec<Module<'a>> {
    let module = |row: &'static Row, l: usize| {
        let fill = |name: &str| name.replace("{l}", &l.to_string());
        let (ours, theirs) = (format!("language.{}", fill(row.ours)), fill(row.timm));
        plain_module(source, row, ours, format!("{}{theirs}", spelling.language), 0)
    };
    let mut modules: Vec<_> = qwen2::MODEL.iter().map(|row| module(row, 0)).collect();
    for l in 0..layers {
        modules.extend(qwen2::LAYER.iter().map(|row| module(row, l)));
    }
    modules
}

/// The head, if the files have one.
fn lm_head_module<'a>(source: &'a Source, spelling: &Spelling) -> Option<Module<'a>> {
    let row = &qwen2::LM_HEAD;
    let mut names = spelling.lm_head.iter().map(|prefix| format!("{prefix}{}", row.timm));
    let theirs = names.find(|name| source.files.contains(name))?;
    Some(plain_module(source, row, format!("language.{}", row.ours), theirs, 0))
}

/// The greatest layer index and one.
fn count_layers(source: &Source, spelling: &Spelling) -> usize {
    let prefix = format!("{}layers.", spelling.language);
    let names = source.files.names_under(&prefix);
    let indices = names.filter_map(|name| Some(leading_index(&name[prefix.len()..])?.0));
    indices.max().map_or(0, |last| last.saturating_add(1))
}

fn check_layers(config: &FastVlmConfig, tensors: usize) -> Result<(), LoadError> {
    if config.num_layers == tensors {
        return Ok(());
    }
    Err(LoadError::ConfigMismatch { field: "num_hidden_layers", config: config.num_layers, tensors })
}

/// What the config says about the sizes of the language model.
fn language_sizes(config: &FastVlmConfig) -> [(Size, &'static str, usize); 5] {
    [
        (Size::HiddenSize, "hidden_size", config.hidden_size),
        (Size::IntermediateSize, "intermediate_size", config.intermediate_size),
        (Size::QueryRows, "num_attention_heads * head_dim", config.num_heads.saturating_mul(config.head_dim)),
        (
            Size::KeyValueRows,
            "num_key_value_heads * head_dim",
            config.num_kv_heads.saturating_mul(config.head_dim),
        ),
        (Size::VocabRows, "vocab_size", config.vocab_size),
    ]
}

/// The vocabulary may be padded with rows, all other sizes must be equal.
fn check_sizes(config: &FastVlmConfig, sizes: &Sizes) -> Result<(), LoadError> {
    for (size, field, config) in language_sizes(config) {
        let Some(tensors) = sizes.get(size, 0) else { continue };
        let fits = if size == Size::VocabRows { tensors >= config } else { tensors == config };
        if !fits {
            return Err(LoadError::ConfigMismatch { field, config, tensors });
        }
    }
    Ok(())
}

pub(crate) fn vision_info(vit: &FastVit, sizes: &Sizes) -> Result<VisionInfo, LoadError> {
    let error = |reason| Err(LoadError::Structure { reason });
    let mut info = VisionInfo::default();
    for (s, stage) in vit.stages.iter().enumerate() {
        let Some(width) = sizes.get(Size::Width, s) else {
            return error(format!("nothing tells the width of stage {s}"));
        };
        if let Some(before) = info.widths.last()
            && width % before != 0
        {
            return error(format!("stage {s} has {width} channels, no multiple of the {before} before it"));
        }
        if stage.attention && width % VISION_HEAD_DIM != 0 {
            return error(format!(
                "stage {s} has {width} channels, no multiple of {VISION_HEAD_DIM} (one head)"
            ));
        }
        info.widths.push(width);
        info.blocks.push(stage.blocks);
        info.attention.push(stage.attention);
    }
    info.features = 2 * info.widths.last().copied().unwrap_or(0);
    info.stride = STEM_STRIDE << (vit.stages.len() - 1);
    Ok(info)
}

fn check_features(config: &FastVlmConfig, file: &JsonFile) -> Result<(), LoadError> {
    match file.size("mm_hidden_size")? {
        Some(size) if size != config.vision.features => Err(LoadError::ConfigMismatch {
            field: "mm_hidden_size",
            config: size,
            tensors: config.vision.features,
        }),
        _ => Ok(()),
    }
}

/// Every key that was not used is either known to be of no use, or a problem.
fn sort_out_rest(
    main: &Source,
    spelling: &Spelling,
    other: Option<(&Source, Tower)>,
    bound: &Bound,
    report: &mut LoadReport,
) {
    let main_tower = spelling.tower.map_or("\0", |tower| tower.prefix);
    let is_used =
        |source: &Source, name: &str| bound.used.contains(&(std::ptr::from_ref(source), name.to_owned()));
    for name in main.files.names().filter(|name| !is_used(main, name)) {
        let replaced = other.is_some() && name.starts_with(main_tower);
        sort_out(name, main_tower, replaced, report);
    }
    let Some((source, tower)) = other else { return };
    for name in source.files.names_under(tower.prefix).filter(|name| !is_used(source, name)) {
        sort_out(name, tower.prefix, false, report);
    }
}

fn sort_out(name: &str, tower: &str, replaced: bool, report: &mut LoadReport) {
    let counter = name.rsplit('.').next() == Some(fastvit::COUNTER);
    let head = name.strip_prefix(tower).is_some_and(|name| fastvit::UNUSED.contains(&name));
    if counter || head || replaced {
        report.ignored.push(name.to_owned());
    } else {
        report.unused.push(name.to_owned());
    }
}

fn file_names(main: &Source, other: Option<&Source>) -> Vec<String> {
    let sources = std::iter::once(main).chain(other);
    sources.flat_map(|source| source.files.files.iter().map(|file| file.file_name())).collect()
}
