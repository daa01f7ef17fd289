//! The configuration of a FastVLM checkpoint: `config.json` in its flat form (Apple, MLX) and its nested form
//! (transformers), and the image size from whichever file says it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::LoadError;
use crate::family::Family;
use crate::folder::Folder;

/// Longest prompt with image rows when the checkpoint says nothing (Apple's configs say the same).
const DEFAULT_MAX_POSITIONS: usize = 8192;
/// Side of the square image when the checkpoint says nothing.
const DEFAULT_IMAGE_SIZE: usize = 1024;
/// Image side in pixels over tokens a row: the total stride of FastViTHD.
const TOTAL_STRIDE: usize = 64;
/// transformers leaves out fields of a nested config that have the class's defaults; these are Qwen2's.
const QWEN2_VOCAB_SIZE: usize = 151_936;
const QWEN2_RMS_NORM_EPS: f64 = 1e-6;
const QWEN2_MAX_POSITIONS: usize = 32_768;

/// Sizes and constants of a FastVLM model.
#[derive(Debug, Clone, PartialEq)]
pub struct FastVlmConfig {
    /// Who wrote the checkpoint.
    pub family: Family,
    /// Name of the model directory.
    pub name: String,
    /// Width of the language model.
    pub hidden_size: usize,
    /// Layers of the language model.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Values of one head.
    pub head_dim: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Rows of the embedding that have a meaning; the tensor may have more.
    pub vocab_size: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary embedding.
    pub rope_theta: f32,
    /// Longest sequence, image rows included.
    pub max_positions: usize,
    /// Side of the square image in pixels.
    pub image_size: usize,
    /// Id that stands for the image, if the tokenizer has one.
    pub image_token_index: Option<i64>,
    /// Whether the embedding is also the head: exactly when the files have no `lm_head`, whatever
    /// `tie_word_embeddings` says (it is known to be wrong in some copies).
    pub tie: bool,
    /// The tower, as its tensors describe it.
    pub vision: VisionInfo,
}

/// Structure of a FastViT tower.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VisionInfo {
    /// Channels of each stage.
    pub widths: Vec<usize>,
    /// Blocks of each stage.
    pub blocks: Vec<usize>,
    /// Whether the blocks of the stage are attention blocks.
    pub attention: Vec<bool>,
    /// Channels of the features.
    pub features: usize,
    /// Image pixels over feature pixels along a side.
    pub stride: usize,
}

/// A parsed JSON file with readers that name the field when it is wrong.
#[derive(Debug)]
pub(crate) struct JsonFile {
    path: PathBuf,
    pub(crate) value: Value,
}

/// A part of a [`JsonFile`] and where it is in there.
#[derive(Debug, Clone, Copy)]
struct Section<'a> {
    file: &'a JsonFile,
    value: &'a Value,
    prefix: &'static str,
}

impl FastVlmConfig {
    /// Read the configuration files of a folder. What only the tensors tell (`family`, `tie`, `vision`) is
    /// filled in by the caller.
    pub(crate) fn read(folder: &dyn Folder, file: &JsonFile) -> Result<Self, LoadError> {
        let top = Section { file, value: &file.value, prefix: "" };
        let nested = check_model_type(top)?;
        let text = if nested { top.section("text_config", "text_config.")? } else { top };
        if nested {
            text.supported("model_type", &["qwen2"])?;
        }
        check_supported(top, text)?;

        let hidden_size = text.size("hidden_size")?;
        let num_heads = text.size("num_attention_heads")?;
        let num_kv_heads = text.size_or("num_key_value_heads", num_heads)?;
        let head_dim = text.size_or("head_dim", hidden_size / num_heads)?;
        if hidden_size % num_heads != 0 && text.get("head_dim").is_none() {
            let reason = format!("= {hidden_size} is no multiple of num_attention_heads = {num_heads}");
            return Err(text.error("hidden_size", reason));
        }
        if num_heads % num_kv_heads != 0 {
            let reason = format!("= {num_heads} is no multiple of num_key_value_heads = {num_kv_heads}");
            return Err(text.error("num_attention_heads", reason));
        }
        if head_dim % 2 != 0 {
            return Err(text.error("head_dim", format!("= {head_dim} is odd; rotary embedding needs pairs")));
        }
        Ok(Self {
            family: Family::AppleLlava,
            name: directory_name(folder.path()),
            hidden_size,
            num_layers: text.size("num_hidden_layers")?,
            num_heads,
            num_kv_heads,
            head_dim,
            intermediate_size: text.size("intermediate_size")?,
            vocab_size: text.size_or("vocab_size", QWEN2_VOCAB_SIZE)?,
            rms_norm_eps: text.positive_or("rms_norm_eps", Some(QWEN2_RMS_NORM_EPS))?,
            rope_theta: rope_theta(text)?,
            max_positions: max_positions(top, text)?,
            image_size: image_size(folder, top)?,
            image_token_index: top.integer("image_token_index")?,
            tie: false,
            vision: VisionInfo::default(),
        })
    }
}

impl JsonFile {
    pub(crate) fn read(folder: &dyn Folder, name: &str) -> Result<Self, LoadError> {
        let path = folder.path().join(name);
        match folder.read(name) {
            Err(source) => Err(LoadError::Io { path, source }),
            Ok(text) => match serde_json::from_slice(&text) {
                Err(source) => Err(LoadError::Json { path, source }),
                Ok(value) => Ok(Self { path, value }),
            },
        }
    }

    /// `None` if there is no such file.
    pub(crate) fn read_if_there(folder: &dyn Folder, name: &str) -> Result<Option<Self>, LoadError> {
        if folder.has(name) { Self::read(folder, name).map(Some) } else { Ok(None) }
    }

    /// A field of the file as a size, if it has one.
    pub(crate) fn size(&self, field: &'static str) -> Result<Option<usize>, LoadError> {
        let top = Section { file: self, value: &self.value, prefix: "" };
        if top.get(field).is_none() { Ok(None) } else { top.size(field).map(Some) }
    }
}

/// Whether the config is the nested one of transformers.
fn check_model_type(top: Section) -> Result<bool, LoadError> {
    top.supported("model_type", &["llava_qwen2", "fastvlm", "fast_vlm"])?;
    if top.get("model_type").is_none() {
        return Err(
            top.error("model_type", "is missing; supported: llava_qwen2 (Apple, MLX), fast_vlm".into())
        );
    }
    Ok(top.get("text_config").is_some_and(|text| text.get("hidden_size").is_some()))
}

/// Refuse every variant that would be computed wrongly.
fn check_supported(top: Section, text: Section) -> Result<(), LoadError> {
    text.supported("hidden_act", &["silu"])?;
    top.supported("mm_projector_type", &["mlp2x_gelu"])?;
    top.supported("projector_hidden_act", &["gelu"])?;
    top.supported("mm_patch_merge_type", &["flat"])?;
    if text.get("use_sliding_window").and_then(Value::as_bool) == Some(true) {
        return Err(text.unsupported("use_sliding_window", "true".into(), "false".into()));
    }
    for field in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = text.get(field) else { continue };
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        if kind.is_some_and(|kind| kind.as_str() != Some("default")) {
            return Err(text.unsupported(field, rope.to_string(), "rope_type \"default\"".into()));
        }
    }
    if let Some(tower) = top.get("mm_vision_tower").and_then(Value::as_str)
        && !["mobileclip", "fastvit"].iter().any(|known| tower.contains(known))
    {
        return Err(top.unsupported("mm_vision_tower", format!("\"{tower}\""), "mobileclip_l_*".into()));
    }
    let architecture = top.get("vision_config").and_then(|v| v.get("architecture")).and_then(Value::as_str);
    match architecture {
        Some(name) if !name.contains("fastvit") => {
            Err(top.unsupported("vision_config.architecture", format!("\"{name}\""), "fastvit_*".into()))
        }
        _ => Ok(()),
    }
}

/// In `rope_parameters` since transformers 5, in `rope_theta` before.
fn rope_theta(text: Section) -> Result<f32, LoadError> {
    match text.get("rope_parameters") {
        Some(value) if value.get("rope_theta").is_some() => {
            let prefix =
                if text.prefix.is_empty() { "rope_parameters." } else { "text_config.rope_parameters." };
            Section { file: text.file, value, prefix }.positive_or("rope_theta", None)
        }
        _ => text.positive_or("rope_theta", None),
    }
}

/// What the tokenizer is limited to, as Apple's code does, but not more than the model was made for.
fn max_positions(top: Section, text: Section) -> Result<usize, LoadError> {
    let tokenizer = top.size_or("tokenizer_model_max_length", DEFAULT_MAX_POSITIONS)?;
    Ok(tokenizer.min(text.size_or("max_position_embeddings", QWEN2_MAX_POSITIONS)?))
}

/// Apple: the number at the end of `mm_vision_tower`. Others: the image processor's size, or what the number of
/// image tokens implies.
fn image_size(folder: &dyn Folder, top: Section) -> Result<usize, LoadError> {
    if let Some(size) = top.get("mm_vision_tower").and_then(Value::as_str).and_then(trailing_number) {
        return Ok(size);
    }
    for name in ["processor_config.json", "preprocessor_config.json"] {
        let Some(file) = JsonFile::read_if_there(folder, name)? else { continue };
        if let Some(size) = processor_size(&file.value) {
            return Ok(size);
        }
    }
    let Some(tokens) = top.integer("image_seq_length")? else { return Ok(DEFAULT_IMAGE_SIZE) };
    let side = usize::try_from(tokens).unwrap_or(0).isqrt();
    match side.checked_mul(TOTAL_STRIDE) {
        Some(size) if side > 0 && (side * side) as i64 == tokens => Ok(size),
        _ => Err(top.error("image_seq_length", format!("= {tokens} is no square number"))),
    }
}

fn trailing_number(name: &str) -> Option<usize> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name.get(name.len() - digits..)?.parse().ok().filter(|&size| is_image_size(size))
}

/// Sizes that a preprocessor could be asked for; keeps nonsense out of later products.
fn is_image_size(size: usize) -> bool {
    (1..=16_384).contains(&size)
}

/// `crop_size` or `size` of an image processor, in the file itself or under `image_processor`.
fn processor_size(file: &Value) -> Option<usize> {
    let processor = file.get("image_processor").unwrap_or(file);
    let sides = ["crop_size", "size"].iter().filter_map(|field| processor.get(field));
    let mut sizes = sides.filter_map(|side| {
        let named = ["height", "shortest_edge"].iter().find_map(|key| side.get(key));
        usize::try_from(named.unwrap_or(side).as_u64()?).ok()
    });
    sizes.find(|&size| is_image_size(size))
}

pub(crate) fn directory_name(dir: &Path) -> String {
    let full = dir.canonicalize();
    let path = full.as_deref().unwrap_or(dir);
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl<'a> Section<'a> {
    /// The field, unless it is null.
    fn get(self, field: &str) -> Option<&'a Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    fn section(self, field: &str, prefix: &'static str) -> Result<Self, LoadError> {
        match self.get(field) {
            Some(value) => Ok(Section { file: self.file, value, prefix }),
            None => Err(self.error(field, "is missing".into())),
        }
    }

    fn error(self, field: &str, reason: String) -> LoadError {
        let field = format!("{}{field}", self.prefix);
        LoadError::Config { path: self.file.path.clone(), field, reason }
    }

    fn unsupported(self, field: &str, found: String, supported: String) -> LoadError {
        LoadError::Unsupported { field: format!("{}{field}", self.prefix), found, supported }
    }

    /// A field that, if it is there, must be one of a few words.
    fn supported(self, field: &str, words: &[&str]) -> Result<(), LoadError> {
        match self.get(field) {
            Some(value) if !value.as_str().is_some_and(|word| words.contains(&word)) => {
                Err(self.unsupported(field, value.to_string(), words.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// A positive size that must be there. Sizes beyond 2^31 are nonsense and would overflow products.
    fn size(self, field: &str) -> Result<usize, LoadError> {
        let value = self.get(field).ok_or_else(|| self.error(field, "is missing".into()))?;
        let size = value.as_u64().filter(|size| (1..1 << 31).contains(size));
        let size = size.and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| self.error(field, format!("= {value} is no positive size")))
    }

    fn size_or(self, field: &str, default: usize) -> Result<usize, LoadError> {
        if self.get(field).is_none() { Ok(default) } else { self.size(field) }
    }

    fn positive_or(self, field: &str, default: Option<f64>) -> Result<f32, LoadError> {
        let Some(value) = self.get(field) else {
            return default.map(|value| value as f32).ok_or_else(|| self.error(field, "is missing".into()));
        };
        let number = value.as_f64().map(|v| v as f32).filter(|v| v.is_finite() && *v > 0.0);
        number.ok_or_else(|| self.error(field, format!("= {value} is no positive number")))
    }

    fn integer(self, field: &str) -> Result<Option<i64>, LoadError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = value.as_i64();
        number.map(Some).ok_or_else(|| self.error(field, format!("= {value} is no integer")))
    }
}
