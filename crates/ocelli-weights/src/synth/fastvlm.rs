//! FastVLM in Apple's layout: FastViTHD, a projector and Qwen2, in bf16.

use serde_json::{Value, json};

use super::arch::MARKER;
use super::fastvit::{FEATURE_RMS, FastVitSizes, Layout};
use super::module::GELU_GAIN;
use super::tensor::{Fill, Group, SynthDtype, SynthTensor, TensorList};
use crate::family::Tower;
use crate::names::Style;

const LAYOUT: Layout = Layout {
    tower: Tower {
        prefix: "model.vision_tower.vision_tower.model.",
        style: Style::Apple,
        channels_last: false,
    },
    folded: true,
};
/// Root mean square of `silu(g) * u` of two standard normals, 0.597.
const SWIGLU_RMS: f32 = 0.597;
/// Standard deviation of the logits. A trained model's are about as wide.
const LOGIT_STD: f32 = 2.5;

/// Sizes of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    tower: FastVitSizes,
    /// Length of the CLIP embeddings that the tower once made.
    clip_embedding: usize,
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

/// FastVLM paper (arXiv 2412.13303), table of models; Qwen2 sizes from its configs.
pub(super) const FASTVLM_05B: Sizes = Sizes {
    tower: FastVitSizes {
        widths: &[96, 192, 384, 768, 1536],
        blocks: &[2, 12, 24, 4, 2],
        expansion: 4,
        batch_norm: false,
        pixel_rms: 0.5,
    },
    clip_embedding: 768,
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
pub(super) const FASTVLM_15B: Sizes =
    Sizes { hidden: 1536, intermediate: 8960, layers: 28, heads: 12, kv_heads: 2, ..FASTVLM_05B };
pub(super) const FASTVLM_7B: Sizes = Sizes {
    hidden: 3584,
    intermediate: 18_944,
    layers: 28,
    heads: 28,
    kv_heads: 4,
    vocab_rows: 152_064,
    tied: false,
    ..FASTVLM_05B
};
/// Every kind of block once.
pub(super) const TINY: Sizes = Sizes {
    tower: FastVitSizes { widths: &[8, 16, 32, 64, 128], blocks: &[1; 5], ..FASTVLM_05B.tower },
    clip_embedding: 64,
    image_size: 256,
    hidden: 64,
    intermediate: 192,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    // 512 words, 3 special tokens and `<image>`, padded to a multiple of 64.
    vocab_rows: 576,
    bos: 512,
    ..FASTVLM_05B
};

impl Sizes {
    pub(super) fn tensors(&self) -> Vec<SynthTensor> {
        let mut list = TensorList::new(SynthDtype::Bf16);
        self.tower.add_to(&mut list, LAYOUT);
        list.begin(Group::Head, LAYOUT.tower.prefix);
        list.random("head.proj", &[self.tower.features(), self.clip_embedding], 0.02);
        projector(&mut list, self);
        language(&mut list, self);
        list.tensors
    }

    /// `config.json`, with the fields Apple's has.
    pub(super) fn config(&self, mark: Value) -> Value {
        json!({
            "architectures": ["LlavaQwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": self.bos,
            "eos_token_id": self.bos + 2,
            "freeze_mm_mlp_adapter": false,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "image_aspect_ratio": "pad",
            "image_grid_pinpoints": null,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 32768,
            "max_window_layers": self.layers,
            "mm_hidden_size": self.tower.features(),
            "mm_patch_merge_type": "flat",
            "mm_projector_lr": null,
            "mm_projector_type": "mlp2x_gelu",
            "mm_use_im_patch_token": false,
            "mm_use_im_start_end": false,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": format!("mobileclip_l_{}", self.image_size),
            "model_type": "llava_qwen2",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            MARKER: mark,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "sliding_window": 32768,
            "tie_word_embeddings": self.tied,
            "tokenizer_model_max_length": 8192,
            "tokenizer_padding_side": "right",
            "torch_dtype": "bfloat16",
            "tune_mm_mlp_adapter": false,
            "unfreeze_mm_vision_tower": true,
            "use_cache": true,
            "use_mm_proj": true,
            "use_sliding_window": false,
            "vocab_size": self.vocab_rows,
        })
    }

    /// `generation_config.json`, with the fields Apple's has.
    pub(super) fn generation_config(&self) -> Value {
        let bos = self.bos;
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

fn projector(list: &mut TensorList, sizes: &Sizes) {
    list.begin(Group::Projector, "model.mm_projector.");
    list.weight_and_bias("0", &[sizes.hidden, sizes.tower.features()], 1.0 / FEATURE_RMS);
    // Image rows as large as token embeddings.
    let std = embedding_std(sizes);
    list.weight("2.weight", &[sizes.hidden, sizes.hidden], GELU_GAIN * std);
    list.random("2.bias", &[sizes.hidden], 0.05 * std);
}

/// A unit row through these as head gives logits of [`LOGIT_STD`].
fn embedding_std(sizes: &Sizes) -> f32 {
    LOGIT_STD / (sizes.hidden as f32).sqrt()
}

fn language(list: &mut TensorList, sizes: &Sizes) {
    let (hidden, heads) = (sizes.hidden, sizes.heads);
    let kv_rows = hidden / heads * sizes.kv_heads;
    // Every layer adds two terms to the residual; together they are about as large as one row.
    let residual = 1.0 / (2.0 * sizes.layers as f32).sqrt();
    list.begin(Group::Language, "");
    list.random("model.embed_tokens.weight", &[sizes.vocab_rows, hidden], embedding_std(sizes));
    for l in 0..sizes.layers {
        list.begin(Group::Language, &format!("model.layers.{l}."));
        list.add("input_layernorm.weight", &[hidden], Fill::NORM);
        list.weight_and_bias("self_attn.q_proj", &[hidden, hidden], 1.0);
        list.weight_and_bias("self_attn.k_proj", &[kv_rows, hidden], 1.0);
        list.weight_and_bias("self_attn.v_proj", &[kv_rows, hidden], 1.0);
        list.weight("self_attn.o_proj.weight", &[hidden, hidden], residual);
        list.add("post_attention_layernorm.weight", &[hidden], Fill::NORM);
        list.weight("mlp.gate_proj.weight", &[sizes.intermediate, hidden], 1.0);
        list.weight("mlp.up_proj.weight", &[sizes.intermediate, hidden], 1.0);
        list.weight("mlp.down_proj.weight", &[hidden, sizes.intermediate], residual / SWIGLU_RMS);
    }
    list.begin(Group::Language, "");
    list.add("model.norm.weight", &[hidden], Fill::NORM);
    if !sizes.tied {
        list.random("lm_head.weight", &[sizes.vocab_rows, hidden], embedding_std(sizes));
    }
}
