//! A new MobileCLIP with random weights, as a checkpoint in open_clip's layout to train from: four stages of MCi and a
//! text tower without a causal mask, as MobileCLIP-S2 (arXiv 2311.17049, table 14).

use std::path::Path;

use burn::tensor::Device;
use ocelli_weights::{Family, Naming};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::TrainError;
use crate::checkpoint;
use crate::fresh::LayerScales;
use crate::nets::{ClipTextConfig, FastVitConfig, ImageTower, MobileClip};
use crate::tensors::Named;

/// Channels of an attention head in an image tower.
const HEAD_DIM: usize = 32;

/// Sizes of a new MobileCLIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreshClip {
    /// Channels of the four stages of the image tower; 80, 160, 320 and 640 in MobileCLIP-S2.
    pub widths: Vec<usize>,
    /// Their blocks; 4, 12, 24 and 4 in MobileCLIP-S2.
    pub blocks: Vec<usize>,
    /// Hidden channels of a feed-forward of the image tower, in its channels; 3.
    #[serde(default = "three")]
    pub expansion: usize,
    /// Width and height of pictures; 256 in MobileCLIP-S2.
    pub resolution: usize,
    /// Values of an embedding; 512 in MobileCLIP-S2.
    pub embed_dim: usize,
    /// Channels of the text tower; 512 in MobileCLIP-S2.
    pub text_width: usize,
    /// Its layers; 12 in MobileCLIP-S2.
    pub text_layers: usize,
    /// Its heads; 8 in MobileCLIP-S2.
    pub text_heads: usize,
    /// Positions of a text; 77.
    #[serde(default = "context")]
    pub context_length: usize,
    /// Tokens, at most: 512 for bytes, two to begin and to end a text, and merges learned from the texts.
    pub vocabulary: usize,
    /// Of the random weights.
    #[serde(default)]
    pub seed: u64,
}

fn three() -> usize {
    3
}

fn context() -> usize {
    77
}

impl FreshClip {
    /// Write the checkpoint: `open_clip_config.json`, a tokenizer whose merges are learned from `texts`, and
    /// `open_clip_model.safetensors` in training form.
    ///
    /// # Errors
    /// When the sizes do not fit together, or a file cannot be written.
    pub fn write<'a>(&self, dir: &Path, texts: impl IntoIterator<Item = &'a str>) -> Result<(), TrainError> {
        self.check()?;
        let vocabulary = ocelli_text::write_learned_clip_tokenizer(dir, texts, self.vocabulary)
            .map_err(|e| TrainError::Structure { reason: e.to_string() })?;
        let path = dir.join("open_clip_config.json");
        let text = serde_json::to_string_pretty(&self.config(vocabulary)).expect("JSON") + "\n";
        std::fs::write(&path, text).map_err(|source| TrainError::Write { path, source })?;
        let device = Device::flex();
        device.seed(self.seed);
        let vision = FastVitConfig::mci(&self.widths, &self.blocks, self.expansion);
        let naming = Naming::new(Family::OpenClip, Some(&vision.form));
        let naming = naming.ok_or(TrainError::Structure { reason: "no names for this tower".into() })?;
        let (image, text) = (ImageTower::FastVit(vision), self.text(vocabulary));
        let mut network = MobileClip::new(&image, &text, self.embed_dim, true, &device);
        network.exchange("", &mut LayerScales { naming: &naming })?;
        checkpoint::save(&mut network, &naming, &dir.join("open_clip_model.safetensors"))
    }

    fn check(&self) -> Result<(), TrainError> {
        let wrong = |reason: String| Err(TrainError::Structure { reason });
        let (widths, blocks) = (&self.widths, &self.blocks);
        if widths.len() != 4 || blocks.len() != 4 || blocks.contains(&0) {
            return wrong(format!(
                "a tower has 4 stages with blocks, not widths {widths:?} and blocks {blocks:?}"
            ));
        }
        if let Some(pair) = widths.windows(2).find(|pair| pair[0] == 0 || !pair[1].is_multiple_of(pair[0])) {
            let (a, b) = (pair[0], pair[1]);
            return wrong(format!("a stage has a multiple of the channels of the one before: {b} after {a}"));
        }
        if !widths[3].is_multiple_of(HEAD_DIM) {
            return wrong(format!(
                "the last stage has heads of {HEAD_DIM} channels; {} make none",
                widths[3]
            ));
        }
        if self.resolution == 0 || !self.resolution.is_multiple_of(32) {
            return wrong(format!("pictures of {} pixels: give a multiple of 32", self.resolution));
        }
        let (width, heads) = (self.text_width, self.text_heads);
        if width == 0 || heads == 0 || !width.is_multiple_of(heads) || self.text_layers == 0 {
            return wrong(format!(
                "a text tower of {} layers, {width} channels, {heads} heads",
                self.text_layers
            ));
        }
        if self.embed_dim == 0 || self.expansion == 0 || self.context_length < 3 {
            return wrong("embed_dim and expansion are at least 1, context_length 3".into());
        }
        Ok(())
    }

    fn text(&self, vocab_size: usize) -> ClipTextConfig {
        ClipTextConfig {
            vocab_size,
            context_length: self.context_length,
            width: self.text_width,
            hidden: 4 * self.text_width,
            heads: self.text_heads,
            convolutions: vec![None; self.text_layers],
            causal: false,
            folded: false,
        }
    }

    /// `open_clip_config.json` with the fields of the released checkpoints.
    fn config(&self, vocab_size: usize) -> Value {
        json!({
            "model_cfg": {
                "embed_dim": self.embed_dim,
                "vision_cfg": {
                    "timm_model_name": "fastvit_mci2",
                    "timm_model_pretrained": false,
                    "timm_pool": "avg",
                    "timm_proj": null,
                    "timm_drop": 0.0,
                    "timm_drop_path": 0.0,
                    "image_size": self.resolution,
                },
                "text_cfg": {
                    "context_length": self.context_length,
                    "vocab_size": vocab_size,
                    "width": self.text_width,
                    "heads": self.text_heads,
                    "layers": self.text_layers,
                    "no_causal_mask": true,
                },
                "custom_text": true,
            },
            "preprocess_cfg": {
                "size": self.resolution,
                "mode": "RGB",
                "mean": [0.0, 0.0, 0.0],
                "std": [1.0, 1.0, 1.0],
                "interpolation": "bilinear",
                "resize_mode": "shortest",
                "fill_color": 0,
            },
        })
    }
}
