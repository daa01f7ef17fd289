//! How much memory a run of a FastVLM takes, told before it starts.
//!
//! On the CPU everything is f32, and an operation keeps its inputs until the backward pass. What the layers keep is
//! counted here, beside weights, gradients and the optimizer.

use crate::fit::vlm::VlmConfig;
use crate::nets::{FastVitConfig, Qwen2Config};

/// Bytes of a value.
const F32: u64 = 4;
/// The program itself, its threads and the samples that are made ahead.
const BASE: u64 = 256 << 20;
/// What gradients on their way and freed blocks add to what is kept.
const SLACK: f64 = 1.25;

/// Bytes of the parts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// All weights.
    pub weights: u64,
    /// Gradients, their sums over batches, and the two moments, of what is trained.
    pub optimizer: u64,
    /// What a batch leaves for its backward pass.
    pub activations: u64,
}

impl Estimate {
    /// Of one run whose samples have so many tokens of text, with every size as it is in the recipe.
    pub fn new(
        vision: &FastVitConfig,
        language: &Qwen2Config,
        config: &VlmConfig,
        text_tokens: usize,
    ) -> Self {
        let rates = config.learning_rates;
        let [tower, projector, model] =
            [tower_weights(vision), projector_weights(vision, language), language_weights(language)];
        let adapters = config.lora.as_ref().map(|lora| adapter_weights(language, lora.rank));
        let trained = [
            if rates.vision > 0.0 { tower } else { 0 },
            if rates.projector > 0.0 { projector } else { 0 },
            match adapters {
                Some(adapters) => adapters,
                None if rates.language > 0.0 => model,
                None => 0,
            },
        ];
        let image_tokens = (config.resolution / vision.stride()).pow(2);
        let rows = config.batch * (image_tokens + text_tokens);
        let mut kept = rows * language_values(language, config.checkpoint_activations);
        // Logits and their gradients, at the places that count: at most all of the text.
        kept += 2 * config.batch * text_tokens * language.vocab_rows;
        kept += config.batch * tower_values(vision, config.resolution, rates.vision > 0.0);
        Self {
            weights: F32 * (tower + projector + model + adapters.unwrap_or(0)),
            // Optimizers see a gradient twice: as the graph's and as a sum.
            optimizer: 4 * F32 * trained.iter().sum::<u64>(),
            activations: (F32 as f64 * kept as f64 * SLACK) as u64,
        }
    }

    /// All of it, with the program.
    pub fn total(&self) -> u64 {
        self.weights + self.optimizer + self.activations + BASE
    }
}

fn tower_weights(config: &FastVitConfig) -> u64 {
    let sizes = config.widths.iter().zip(&config.hidden).zip(&config.form.blocks).zip(&config.form.attention);
    let blocks: usize = sizes
        .map(|(((&width, &hidden), &blocks), &attention)| {
            let mixer = if attention { 4 * width * width } else { 20 * width };
            blocks * (mixer + 2 * width * hidden + 70 * width) + width * width + 130 * width
        })
        .sum();
    let features = config.features();
    (blocks + 2 * features * config.final_se + 20 * features + config.widths[0] * (config.widths[0] + 60))
        as u64
}

fn projector_weights(vision: &FastVitConfig, language: &Qwen2Config) -> u64 {
    let hidden = language.hidden_size;
    (vision.features() * hidden + hidden * hidden + 2 * hidden) as u64
}

/// Weights of the linears of a layer.
fn layer_linears(c: &Qwen2Config) -> [(usize, usize); 7] {
    let (h, i, q, kv) = (c.hidden_size, c.intermediate_size, c.heads * c.head_dim, c.kv_heads * c.head_dim);
    [(h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)]
}

fn language_weights(c: &Qwen2Config) -> u64 {
    let layer: usize = layer_linears(c).iter().map(|(inputs, outputs)| inputs * outputs).sum();
    let tables = if c.tied { 1 } else { 2 };
    (c.layers * (layer + 4 * c.hidden_size) + tables * c.vocab_rows * c.hidden_size) as u64
}

fn adapter_weights(c: &Qwen2Config, rank: usize) -> u64 {
    let layer: usize = layer_linears(c).iter().map(|(inputs, outputs)| rank * (inputs + outputs)).sum();
    (c.layers * layer) as u64
}

/// Values that a position leaves in the language model.
fn language_values(c: &Qwen2Config, checkpointed: bool) -> usize {
    let (h, i, q, kv) = (c.hidden_size, c.intermediate_size, c.heads * c.head_dim, c.kv_heads * c.head_dim);
    // Two norms, the sums, projections before and after the rotation, the mixture; the three of the feed-forward.
    let layer = 6 * h + 3 * q + 4 * kv + 4 * i;
    if checkpointed { c.layers * h + 2 * layer } else { c.layers * layer + 4 * h }
}

/// Values that a picture leaves in the tower; of a frozen one those of its widest operation.
fn tower_values(config: &FastVitConfig, resolution: usize, trained: bool) -> usize {
    let first = config.widths[0];
    // Windows of the first convolution, then convolutions, norms and activations.
    let half = (resolution / 2).pow(2);
    let stem = half * (3 + 27 + 3 * first) + half / 4 * 7 * first;
    if !trained {
        return half * (27 + 3 * first);
    }
    let mut values = stem;
    let mut side = resolution / 4;
    for (s, &width) in config.widths.iter().enumerate() {
        if s > 0 {
            side = side.div_ceil(2);
            values += side * side * 8 * width;
        }
        let mixer = if config.form.attention[s] { 8 * width } else { 5 * width };
        values += config.form.blocks[s] * side * side * (mixer + 5 * width + 2 * config.hidden[s]);
    }
    values + side * side * 5 * config.features()
}
