//! Which tensors a random checkpoint has, and how each is filled.

use std::str::FromStr;

use serde_json::{Value, json};

/// Channels that a head of the CLIP projection has in FastViTHD; FastVLM carries it along unused.
const CLIP_EMBEDDING: usize = 768;
/// Hidden over outer channels of a ConvFFN.
const EXPANSION: usize = 4;
/// Channels over hidden channels of the last squeeze-excite.
const SE_REDUCTION: usize = 16;
/// Stages whose blocks are attention blocks, in a tower of five stages.
const FIRST_ATTENTION_STAGE: usize = 3;
/// Root mean square of GELU of a standard normal, 0.652.
const GELU_RMS: f32 = 0.652;
/// The gain of a linear after a GELU that keeps the size of what goes in.
const GELU_GAIN: f32 = 1.0 / GELU_RMS;
/// The gain of a conv before a GELU whose input is about 0.5 wide, so that as much comes out: a GELU keeps less
/// of small values.
const SMALL_GELU_GAIN: f32 = 1.4;
/// Root mean square of the features of these random towers, about (0.69 with the 0.5B sizes at 512 px).
const FEATURE_RMS: f32 = 0.65;
/// Root mean square of `silu(g) * u` of two standard normals, 0.597.
const SWIGLU_RMS: f32 = 0.597;
/// Standard deviation of the logits. A trained model's are about as wide.
const LOGIT_STD: f32 = 2.5;
/// Root mean square of pixels in 0..1.
const PIXEL_RMS: f32 = 0.5;

/// A model of which a random checkpoint can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SynthArch {
    /// Every block type once, 256 px: for tests.
    FastVlmTiny,
    /// FastVLM-0.5B.
    FastVlm05B,
    /// FastVLM-1.5B.
    FastVlm15B,
    /// FastVLM-7B.
    FastVlm7B,
}

/// The element types a random checkpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SynthDtype {
    /// All numbers.
    Bf16,
    /// BatchNorm counters.
    I64,
}

/// Part of the model that a tensor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// The vision tower as far as it is used.
    Tower,
    /// The unused CLIP projection.
    Head,
    /// The projector.
    Projector,
    /// The language model with its embedding and head.
    Language,
}

/// One tensor of a random checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthTensor {
    /// Apple's name.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: SynthDtype,
    /// Part of the model.
    pub group: Group,
    /// Whether it is a parameter; running statistics are not.
    pub parameter: bool,
    pub(super) fill: Fill,
}

/// How the values of a tensor are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill {
    /// Integers, all zero.
    Zero,
    /// Uniform with this mean and standard deviation.
    Random { mean: f32, std: f32 },
    /// Uniform between two bounds.
    Between(f32, f32),
    /// Depthwise kernels `[C, 1, k, k]` that copy their input, with noise.
    Identity { noise: f32 },
}

struct Sizes {
    widths: [usize; 5],
    blocks: [usize; 5],
    image_size: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab_rows: usize,
    tied: bool,
    bos: usize,
}

impl SynthArch {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::FastVlmTiny, Self::FastVlm05B, Self::FastVlm15B, Self::FastVlm7B];

    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::FastVlmTiny => "fastvlm-tiny",
            Self::FastVlm05B => "fastvlm-0.5b",
            Self::FastVlm15B => "fastvlm-1.5b",
            Self::FastVlm7B => "fastvlm-7b",
        }
    }

    /// FastVLM paper (arXiv 2412.13303), table of models; Qwen2 sizes from its configs.
    fn sizes(self) -> Sizes {
        let real = Sizes {
            widths: [96, 192, 384, 768, 1536],
            blocks: [2, 12, 24, 4, 2],
            image_size: 1024,
            hidden: 896,
            intermediate: 4864,
            layers: 24,
            heads: 14,
            kv_heads: 2,
            vocab_rows: 151_936,
            tied: true,
            bos: 151_643,
        };
        match self {
            Self::FastVlmTiny => Sizes {
                widths: [8, 16, 32, 64, 128],
                blocks: [1; 5],
                image_size: 256,
                hidden: 64,
                intermediate: 192,
                layers: 2,
                heads: 4,
                kv_heads: 2,
                // 512 words, 3 special tokens and `<image>`, padded to a multiple of 64.
                vocab_rows: 576,
                bos: 512,
                ..real
            },
            Self::FastVlm05B => real,
            Self::FastVlm15B => {
                Sizes { hidden: 1536, intermediate: 8960, layers: 28, heads: 12, kv_heads: 2, ..real }
            }
            Self::FastVlm7B => Sizes {
                hidden: 3584,
                intermediate: 18_944,
                layers: 28,
                heads: 28,
                kv_heads: 4,
                vocab_rows: 152_064,
                tied: false,
                ..real
            },
        }
    }

    /// Every tensor of the checkpoint. Writes and allocates no weights.
    pub fn tensors(self) -> Vec<SynthTensor> {
        let sizes = self.sizes();
        let mut list = List::default();
        tower(&mut list, &sizes);
        projector(&mut list, &sizes);
        language(&mut list, &sizes);
        list.tensors
    }

    /// Parameters of one part, as PyTorch counts them: without running statistics.
    pub fn parameter_count(self, group: Group) -> u64 {
        let tensors = self.tensors();
        let parameters = tensors.iter().filter(|tensor| tensor.group == group && tensor.parameter);
        parameters.map(SynthTensor::len).sum()
    }

    /// `config.json`, with the fields Apple's has.
    pub fn config(self, seed: u64) -> Value {
        let s = self.sizes();
        json!({
            "architectures": ["LlavaQwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": s.bos,
            "eos_token_id": s.bos + 2,
            "freeze_mm_mlp_adapter": false,
            "hidden_act": "silu",
            "hidden_size": s.hidden,
            "image_aspect_ratio": "pad",
            "image_grid_pinpoints": null,
            "initializer_range": 0.02,
            "intermediate_size": s.intermediate,
            "max_position_embeddings": 32768,
            "max_window_layers": s.layers,
            "mm_hidden_size": 2 * s.widths[4],
            "mm_patch_merge_type": "flat",
            "mm_projector_lr": null,
            "mm_projector_type": "mlp2x_gelu",
            "mm_use_im_patch_token": false,
            "mm_use_im_start_end": false,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": format!("mobileclip_l_{}", s.image_size),
            "model_type": "llava_qwen2",
            "num_attention_heads": s.heads,
            "num_hidden_layers": s.layers,
            "num_key_value_heads": s.kv_heads,
            MARKER: { "arch": self.name(), "seed": seed },
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "sliding_window": 32768,
            "tie_word_embeddings": s.tied,
            "tokenizer_model_max_length": 8192,
            "tokenizer_padding_side": "right",
            "torch_dtype": "bfloat16",
            "tune_mm_mlp_adapter": false,
            "unfreeze_mm_vision_tower": true,
            "use_cache": true,
            "use_mm_proj": true,
            "use_sliding_window": false,
            "vocab_size": s.vocab_rows,
        })
    }

    /// `generation_config.json`, with the fields Apple's has.
    pub(super) fn generation_config(self) -> Value {
        let bos = self.sizes().bos;
        json!({
            "bos_token_id": bos,
            "do_sample": true,
            "eos_token_id": [bos + 2, bos],
            "pad_token_id": bos,
            "repetition_penalty": 1.1,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
        })
    }
}

/// Field of `config.json` that says the checkpoint is random.
pub(super) const MARKER: &str = "ocelli_synth";

impl FromStr for SynthArch {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|arch| arch.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("unknown model `{name}`; known: {known}")
        })
    }
}

impl SynthTensor {
    /// How many values it has.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }

    /// How many bytes it takes in the file.
    pub fn bytes(&self) -> u64 {
        self.len() * if self.dtype == SynthDtype::Bf16 { 2 } else { 8 }
    }
}

/// Tensors in the making.
#[derive(Default)]
struct List {
    tensors: Vec<SynthTensor>,
    prefix: String,
    group: Option<Group>,
}

impl List {
    fn begin(&mut self, group: Group, prefix: &str) {
        (self.group, self.prefix) = (Some(group), prefix.to_owned());
    }

    fn add(&mut self, name: &str, shape: &[usize], fill: Fill) {
        let statistic = ["running_mean", "running_var", "num_batches_tracked"];
        self.tensors.push(SynthTensor {
            name: format!("{}{name}", self.prefix),
            shape: shape.to_vec(),
            dtype: if fill == Fill::Zero { SynthDtype::I64 } else { SynthDtype::Bf16 },
            group: self.group.unwrap_or(Group::Language),
            parameter: !statistic.iter().any(|leaf| name.ends_with(leaf)),
            fill,
        });
    }

    /// Weights that keep the size of what goes in, times `gain`; `fan_in` is all but the first dimension.
    fn weight(&mut self, name: &str, shape: &[usize], gain: f32) {
        let fan_in: usize = shape.iter().skip(1).product();
        self.random(name, shape, gain / (fan_in as f32).sqrt());
    }

    fn random(&mut self, name: &str, shape: &[usize], std: f32) {
        self.add(name, shape, Fill::Random { mean: 0.0, std });
    }

    /// A small bias, so that code which forgets it is found.
    fn bias(&mut self, name: &str, len: usize) {
        self.random(name, &[len], 0.05);
    }

    fn weight_and_bias(&mut self, name: &str, shape: &[usize], gain: f32) {
        self.weight(&format!("{name}.weight"), shape, gain);
        self.bias(&format!("{name}.bias"), shape[0]);
    }

    /// Near the identity but not on it.
    fn batch_norm(&mut self, name: &str, channels: usize) {
        self.add(&format!("{name}.weight"), &[channels], Fill::Between(0.8, 1.2));
        self.bias(&format!("{name}.bias"), channels);
        self.random(&format!("{name}.running_mean"), &[channels], 0.05);
        self.add(&format!("{name}.running_var"), &[channels], Fill::Between(0.7, 1.3));
        self.add(&format!("{name}.num_batches_tracked"), &[], Fill::Zero);
    }

    fn norm_weight(&mut self, name: &str, len: usize) {
        self.add(name, &[len], Fill::Between(0.8, 1.2));
    }
}

fn tower(list: &mut List, sizes: &Sizes) {
    list.begin(Group::Tower, "model.vision_tower.vision_tower.model.");
    let first = sizes.widths[0];
    // Each of the three convs of the stem is followed by a GELU.
    list.weight_and_bias("patch_embed.0.reparam_conv", &[first, 3, 3, 3], 1.0 / PIXEL_RMS);
    list.weight_and_bias("patch_embed.1.reparam_conv", &[first, 1, 3, 3], GELU_GAIN);
    list.weight_and_bias("patch_embed.2.reparam_conv", &[first, first, 1, 1], GELU_GAIN);
    let mut at = 0;
    for (s, (&width, &blocks)) in sizes.widths.iter().zip(&sizes.blocks).enumerate() {
        if s > 0 {
            let name = format!("network.{at}.proj");
            list.weight_and_bias(&format!("{name}.0.lkb_reparam"), &[width, 1, 7, 7], SMALL_GELU_GAIN);
            list.weight_and_bias(&format!("{name}.1.reparam_conv"), &[width, width, 1, 1], GELU_GAIN);
            at += 1;
        }
        if s >= FIRST_ATTENTION_STAGE {
            let name = format!("network.{at}.reparam_conv");
            list.add(&format!("{name}.weight"), &[width, 1, 7, 7], Fill::Identity { noise: 0.02 });
            list.bias(&format!("{name}.bias"), width);
            at += 1;
        }
        for b in 0..blocks {
            block(list, &format!("network.{at}.{b}"), width, s >= FIRST_ATTENTION_STAGE);
        }
        at += 1;
    }
    let last = sizes.widths[4];
    let squeezed = 2 * last / SE_REDUCTION;
    list.weight_and_bias("conv_exp.reparam_conv", &[2 * last, 1, 3, 3], SMALL_GELU_GAIN);
    list.weight_and_bias("conv_exp.se.reduce", &[squeezed, 2 * last, 1, 1], 1.0);
    list.weight("conv_exp.se.expand.weight", &[2 * last, squeezed, 1, 1], 1.0);
    // Gates around 0.73.
    list.add("conv_exp.se.expand.bias", &[2 * last], Fill::Random { mean: 1.0, std: 0.5 });
    list.begin(Group::Head, "model.vision_tower.vision_tower.model.");
    let embedding = if last == 1536 { CLIP_EMBEDDING } else { last / 2 };
    list.random("head.proj", &[2 * last, embedding], 0.02);
}

fn block(list: &mut List, name: &str, width: usize, attention: bool) {
    let scale = Fill::Between(0.1, 0.3);
    if attention {
        list.norm_weight(&format!("{name}.norm.weight"), width);
        list.bias(&format!("{name}.norm.bias"), width);
        list.weight(&format!("{name}.token_mixer.qkv.weight"), &[3 * width, width], 1.0);
        list.weight_and_bias(&format!("{name}.token_mixer.proj"), &[width, width], 1.0);
        list.add(&format!("{name}.layer_scale_1"), &[width, 1, 1], scale);
        list.add(&format!("{name}.layer_scale_2"), &[width, 1, 1], scale);
    } else {
        let mixer = format!("{name}.token_mixer.reparam_conv");
        list.add(&format!("{mixer}.weight"), &[width, 1, 3, 3], Fill::Identity { noise: 0.03 });
        list.bias(&format!("{mixer}.bias"), width);
        list.add(&format!("{name}.layer_scale"), &[width, 1, 1], scale);
    }
    let hidden = EXPANSION * width;
    list.weight(&format!("{name}.convffn.conv.conv.weight"), &[width, 1, 7, 7], 1.0);
    list.batch_norm(&format!("{name}.convffn.conv.bn"), width);
    list.weight_and_bias(&format!("{name}.convffn.fc1"), &[hidden, width, 1, 1], 1.0);
    list.weight_and_bias(&format!("{name}.convffn.fc2"), &[width, hidden, 1, 1], GELU_GAIN);
}

fn projector(list: &mut List, sizes: &Sizes) {
    list.begin(Group::Projector, "model.mm_projector.");
    let features = 2 * sizes.widths[4];
    list.weight_and_bias("0", &[sizes.hidden, features], 1.0 / FEATURE_RMS);
    // Image rows as large as token embeddings.
    let std = embedding_std(sizes);
    list.weight("2.weight", &[sizes.hidden, sizes.hidden], GELU_GAIN * std);
    list.random("2.bias", &[sizes.hidden], 0.05 * std);
}

/// A unit row through these as head gives logits of [`LOGIT_STD`].
fn embedding_std(sizes: &Sizes) -> f32 {
    LOGIT_STD / (sizes.hidden as f32).sqrt()
}

fn language(list: &mut List, sizes: &Sizes) {
    let (hidden, heads) = (sizes.hidden, sizes.heads);
    let kv_rows = hidden / heads * sizes.kv_heads;
    // Every layer adds two terms to the residual; together they are about as large as one row.
    let residual = 1.0 / (2.0 * sizes.layers as f32).sqrt();
    list.begin(Group::Language, "");
    list.random("model.embed_tokens.weight", &[sizes.vocab_rows, hidden], embedding_std(sizes));
    for l in 0..sizes.layers {
        list.begin(Group::Language, &format!("model.layers.{l}."));
        list.norm_weight("input_layernorm.weight", hidden);
        list.weight_and_bias("self_attn.q_proj", &[hidden, hidden], 1.0);
        list.weight_and_bias("self_attn.k_proj", &[kv_rows, hidden], 1.0);
        list.weight_and_bias("self_attn.v_proj", &[kv_rows, hidden], 1.0);
        list.weight("self_attn.o_proj.weight", &[hidden, hidden], residual);
        list.norm_weight("post_attention_layernorm.weight", hidden);
        list.weight("mlp.gate_proj.weight", &[sizes.intermediate, hidden], 1.0);
        list.weight("mlp.up_proj.weight", &[sizes.intermediate, hidden], 1.0);
        list.weight("mlp.down_proj.weight", &[hidden, sizes.intermediate], residual / SWIGLU_RMS);
    }
    list.begin(Group::Language, "");
    list.norm_weight("model.norm.weight", hidden);
    if !sizes.tied {
        list.random("lm_head.weight", &[sizes.vocab_rows, hidden], embedding_std(sizes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by instantiating the modules in PyTorch (timm 1.0.31 `fastvit_mci3`, reparameterized, with the 768
    /// head; transformers' Qwen2), tied embeddings counted once.
    #[test]
    fn parameter_counts_are_those_of_the_released_models() {
        let millions = |n: u64| (n as f64 / 1e4).round() / 100.0;
        for (arch, language) in [
            (SynthArch::FastVlm05B, 494.03),
            (SynthArch::FastVlm15B, 1543.71),
            (SynthArch::FastVlm7B, 7615.62),
        ] {
            let tower = arch.parameter_count(Group::Tower);
            assert_eq!(millions(tower), 122.71);
            assert_eq!(millions(tower + arch.parameter_count(Group::Head)), 125.07);
            assert_eq!(millions(arch.parameter_count(Group::Language)), language);
        }
    }

    #[test]
    fn names_are_unique_and_read_back() {
        for arch in SynthArch::ALL {
            let names: std::collections::HashSet<String> =
                arch.tensors().into_iter().map(|t| t.name).collect();
            assert_eq!(names.len(), arch.tensors().len());
            assert_eq!(arch.name().parse(), Ok(arch));
        }
        assert!("fastvlm-3b".parse::<SynthArch>().unwrap_err().contains("fastvlm-0.5b"));
    }
}
