//! A new FastVLM with random weights, as a checkpoint in Apple's layout to train from.

use std::path::Path;

use burn::tensor::Device;
use ocelli_weights::{Family, Naming};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::TrainError;
use crate::checkpoint;
use crate::nets::{FastVitConfig, FastVlm, Qwen2Config};
use crate::tensors::{Exchange, Form, Named, Parameter};

/// Sizes of a new FastVLM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreshVlm {
    /// Channels of the five stages of the tower.
    pub widths: Vec<usize>,
    /// Their blocks.
    pub blocks: Vec<usize>,
    /// Hidden channels of a feed-forward of the tower, in its channels.
    #[serde(default = "three")]
    pub expansion: usize,
    /// Width and height of pictures.
    pub resolution: usize,
    /// Channels of the language model.
    pub hidden_size: usize,
    /// Hidden channels of its feed-forward.
    pub intermediate_size: usize,
    /// Its layers.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Ordinary tokens, at most: 256 bytes, and merges learned from the texts.
    pub vocabulary: usize,
    /// Of the random weights.
    #[serde(default)]
    pub seed: u64,
}

fn three() -> usize {
    3
}

/// Of the layer scales of a tower that is trained from the beginning: at the 1e-5 of deep towers a short training would
/// begin with hardly any tower.
const LAYER_SCALE: f32 = 0.1;

impl FreshVlm {
    /// Write the checkpoint: configs, a tokenizer whose merges are learned from `texts`, weights in training form.
    ///
    /// # Errors
    /// When the sizes do not fit together, or a file cannot be written.
    pub fn write<'a>(&self, dir: &Path, texts: impl IntoIterator<Item = &'a str>) -> Result<(), TrainError> {
        self.check()?;
        let write = |source| TrainError::Write { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(write)?;
        let base = ocelli_text::write_learned_qwen2_tokenizer(dir, texts, self.vocabulary, false)
            .map_err(|e| TrainError::Structure { reason: e.to_string() })?;
        for (name, value) in
            [("config.json", self.config(base)), ("generation_config.json", generation(base))]
        {
            let text = serde_json::to_string_pretty(&value).expect("JSON") + "\n";
            std::fs::write(dir.join(name), text).map_err(write)?;
        }
        let device = Device::flex();
        device.seed(self.seed);
        let vision = FastVitConfig::fastvithd(&self.widths, &self.blocks, self.expansion);
        let naming = Naming::new(Family::AppleLlava, Some(&vision.form));
        let naming = naming.ok_or(TrainError::Structure { reason: "no names for this tower".into() })?;
        let mut network = FastVlm::new(&vision, &self.language(base), &device);
        network.exchange("", &mut LayerScales { naming: &naming })?;
        checkpoint::save(&mut network, &naming, &dir.join("model.safetensors"))
    }

    fn check(&self) -> Result<(), TrainError> {
        let wrong = |reason: String| Err(TrainError::Structure { reason });
        let stride = 4 << self.widths.len().saturating_sub(1);
        if self.widths.len() != 5 || self.blocks.len() != 5 {
            return wrong(format!(
                "a tower has 5 stages, not {} widths and {} blocks",
                self.widths.len(),
                self.blocks.len()
            ));
        }
        if let Some(pair) =
            self.widths.windows(2).find(|pair| pair[0] == 0 || !pair[1].is_multiple_of(pair[0]))
        {
            return wrong(format!(
                "a stage has a multiple of the channels of the one before: {} after {}",
                pair[1], pair[0]
            ));
        }
        if self.widths[3..].iter().any(|width| !width.is_multiple_of(32)) || self.blocks.contains(&0) {
            return wrong("the last two stages have heads of 32 channels, and every stage a block".into());
        }
        if self.resolution == 0 || !self.resolution.is_multiple_of(stride) {
            return wrong(format!("pictures of {} pixels: give a multiple of {stride}", self.resolution));
        }
        let Self { hidden_size, heads, kv_heads, .. } = *self;
        if heads == 0
            || kv_heads == 0
            || !heads.is_multiple_of(kv_heads)
            || !hidden_size.is_multiple_of(2 * heads)
        {
            return wrong(format!(
                "{hidden_size} channels do not make {heads} heads with {kv_heads} of keys and values"
            ));
        }
        Ok(())
    }

    /// Rows of the embedding: ordinary and control tokens, up to a multiple of 16.
    fn rows(base: usize) -> usize {
        (base + 3).next_multiple_of(16)
    }

    fn language(&self, base: usize) -> Qwen2Config {
        Qwen2Config {
            vocab_rows: Self::rows(base),
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.hidden_size / self.heads,
            rope_base: 1e6,
            norm_eps: 1e-6,
            tied: true,
        }
    }

    /// `config.json` with the fields of the released checkpoints.
    fn config(&self, base: usize) -> Value {
        json!({
            "architectures": ["LlavaQwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": base,
            "eos_token_id": base + 2,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "image_aspect_ratio": "pad",
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": 32768,
            "max_window_layers": self.layers,
            "mm_hidden_size": 2 * self.widths.last().copied().unwrap_or(0),
            "mm_patch_merge_type": "flat",
            "mm_projector_type": "mlp2x_gelu",
            "mm_use_im_patch_token": false,
            "mm_use_im_start_end": false,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": format!("mobileclip_l_{}", self.resolution),
            "model_type": "llava_qwen2",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "sliding_window": 32768,
            "tie_word_embeddings": true,
            "tokenizer_model_max_length": 8192,
            "tokenizer_padding_side": "right",
            "torch_dtype": "float32",
            "unfreeze_mm_vision_tower": true,
            "use_cache": true,
            "use_mm_proj": true,
            "use_sliding_window": false,
            "vocab_size": Self::rows(base),
        })
    }
}

/// Sets every layer scale, which are the tensors stored with dimensions behind the channels, to [`LAYER_SCALE`].
pub(crate) struct LayerScales<'a> {
    pub(crate) naming: &'a Naming,
}

impl Exchange for LayerScales<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, _: &str, form: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        if form == Form::PerChannel {
            parameter.set(vec![LAYER_SCALE; parameter.sizes().iter().product()]);
        }
        Ok(())
    }
}

/// `generation_config.json`: greedy.
fn generation(base: usize) -> Value {
    json!({"bos_token_id": base, "do_sample": false, "eos_token_id": [base + 2, base], "pad_token_id": base})
}
