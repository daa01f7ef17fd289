//! How much memory a run takes, told before it starts.
//!
//! On the CPU everything is f32, and an operation keeps its inputs until the backward pass. What the layers keep is
//! counted here, beside weights, gradients and the optimizer.

use crate::fit::STEPS_IN_MEMORY;
use crate::fit::clip::{ClipFit, ClipLoss};
use crate::fit::vlm::VlmConfig;
use crate::nets::{ClipTextConfig, FastVitConfig, ImageTower, Qwen2Config, VitConfig, VitStem};

/// Bytes of a value.
const F32: u64 = 4;
/// The program itself and its threads.
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
    /// The pictures of the steps that are made ahead.
    pub samples: u64,
}

impl Estimate {
    /// Of a run of a FastVLM whose samples have a picture and so many tokens of text, with every size as it is in the
    /// recipe.
    pub fn vlm(
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
        kept += config.batch
            * tower_values(vision, config.resolution, rates.vision > 0.0, config.checkpoint_activations);
        Self {
            weights: F32 * (tower + projector + model + adapters.unwrap_or(0)),
            // Optimizers see a gradient twice: as the graph's and as a sum.
            optimizer: 4 * F32 * trained.iter().sum::<u64>(),
            activations: activations(kept),
            samples: samples(config.batch, config.accumulate, config.resolution),
        }
    }

    /// Of a run of a MobileCLIP.
    pub fn clip(image: &ImageTower, text: &ClipTextConfig, embed_dim: usize, config: &ClipFit) -> Self {
        let rates = config.rates();
        let (features, image_weights, image_values) = match image {
            ImageTower::FastVit(c) => {
                (c.features(), tower_weights(c), tower_values(c, config.resolution, rates.image > 0.0, false))
            }
            ImageTower::Vit(c) => {
                (c.width, vit_weights(c), vit_values(c, config.resolution, rates.image > 0.0))
            }
        };
        let sides = [image_weights + (features * embed_dim) as u64, text_weights(text, embed_dim)];
        let learned = [rates.image > 0.0, rates.text > 0.0];
        let trained: u64 =
            sides.iter().zip(learned).map(|(side, learned)| if learned { *side } else { 0 }).sum();
        let (kinds, teachers) = match &config.loss {
            ClipLoss::Reinforced { synthetic, teachers, .. } => {
                (1 + usize::from(*synthetic), teachers.dims.len())
            }
            ClipLoss::Clip {} | ClipLoss::Siglip { .. } => (1, 0),
        };
        let kept = config.batch * (image_values + kinds * text_values(text, rates.text > 0.0))
            // Similarities of the batch and their softmaxes, both ways; those of each teacher too.
            + kinds * (8 + 6 * teachers) * config.batch.pow(2);
        Self {
            weights: F32 * sides.iter().sum::<u64>(),
            optimizer: 4 * F32 * trained,
            activations: activations(kept),
            samples: samples(config.batch, config.accumulate, config.resolution),
        }
    }

    /// All of it, with the program.
    pub fn total(&self) -> u64 {
        self.weights + self.optimizer + self.activations + self.samples + BASE
    }
}

fn activations(values: usize) -> u64 {
    (F32 as f64 * values as f64 * SLACK) as u64
}

/// Pictures of the steps in memory, and once more those of the batch on its way to the network.
fn samples(batch: usize, accumulate: usize, resolution: usize) -> u64 {
    F32 * (batch * (STEPS_IN_MEMORY * accumulate + 1) * 3 * resolution.pow(2)) as u64
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

/// Values that a picture leaves in the tower: with `by_blocks` only inputs, and all of the block that is computed anew
/// with its gradients; of a frozen one those of its widest operation.
fn tower_values(config: &FastVitConfig, resolution: usize, trained: bool, by_blocks: bool) -> usize {
    let half = (resolution / 2).pow(2);
    if !trained {
        return half * (27 + 3 * config.widths[0]);
    }
    let blocks = tower_blocks(config, resolution);
    let sum = |of: fn(&Block) -> usize| blocks.iter().map(of).sum::<usize>();
    let widest = blocks.iter().map(|block| block.kept).max().unwrap_or(0);
    if by_blocks { sum(|block| block.input) + 2 * widest } else { sum(|block| block.kept) }
}

/// Values of a picture in a block of the tower.
struct Block {
    input: usize,
    /// All that its backward pass needs.
    kept: usize,
}

fn tower_blocks(config: &FastVitConfig, resolution: usize) -> Vec<Block> {
    let (first, half) = (config.widths[0], (resolution / 2).pow(2));
    // Windows of the first convolution, then convolutions, norms and activations.
    let stem = half * (3 + 27 + 3 * first) + half / 4 * 7 * first;
    let mut blocks = vec![Block { input: 3 * resolution.pow(2), kept: stem }];
    let (mut side, mut before) = (resolution / 4, first);
    for (s, &width) in config.widths.iter().enumerate() {
        if s > 0 {
            let input = side * side * before;
            side = side.div_ceil(2);
            blocks.push(Block { input, kept: side * side * 8 * width });
        }
        let mixer = if config.form.attention[s] { 8 * width } else { 5 * width };
        let kept = side * side * (mixer + 5 * width + 2 * config.hidden[s]);
        blocks.extend((0..config.form.blocks[s]).map(|_| Block { input: side * side * width, kept }));
        before = width;
    }
    blocks.push(Block { input: side * side * before, kept: side * side * 5 * config.features() });
    blocks
}

/// Values that a position leaves in a layer with norms before attention and feed-forward: sums, normed rows, queries,
/// keys and values, the mixture; the feed-forward before and after its activation.
fn transformer_values(width: usize, hidden: usize) -> usize {
    8 * width + 2 * hidden
}

fn transformer_weights(width: usize, hidden: usize) -> usize {
    4 * width * width + 2 * width * hidden + 9 * width + hidden
}

fn vit_weights(c: &VitConfig) -> u64 {
    let stem = match c.stem {
        VitStem::Convs(stem) => stem * (48 + 4 * stem + 4 * c.width + 4),
        VitStem::Patches(side) => 3 * side * side * c.width,
    };
    (c.layers * transformer_weights(c.width, c.hidden) + stem + (c.positions + 4) * c.width) as u64
}

/// Values that a picture leaves in a transformer; of a frozen one those of its widest layer.
fn vit_values(c: &VitConfig, resolution: usize, trained: bool) -> usize {
    // Windows of the convolutions and what follows them.
    let stem = 3 * resolution.pow(2)
        + match c.stem {
            VitStem::Convs(stem) => resolution.pow(2) / 16 * 7 * stem,
            VitStem::Patches(_) => 0,
        };
    let layer = c.positions * transformer_values(c.width, c.hidden);
    if trained { stem + c.layers * layer } else { stem.max(layer) }
}

fn text_weights(c: &ClipTextConfig, embed_dim: usize) -> u64 {
    let layers = c.convolutions.len() * transformer_weights(c.width, c.hidden);
    (layers + (c.vocab_size + c.context_length + embed_dim + 2) * c.width) as u64
}

/// Values that a text leaves in its tower; of a frozen one those of a layer.
fn text_values(c: &ClipTextConfig, trained: bool) -> usize {
    let layers = if trained { c.convolutions.len() } else { 1 };
    c.context_length * (layers * transformer_values(c.width, c.hidden) + 3 * c.width)
}
