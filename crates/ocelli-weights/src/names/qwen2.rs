//! Qwen2, named by every family as in transformers (`huggingface/transformers`
//! `models/qwen2/modeling_qwen2.py`), under different prefixes.

use super::{Dim, Form, Row, Size, When};

const H: Dim = Dim::S(1, Size::HiddenSize);
const FFN: Dim = Dim::S(1, Size::IntermediateSize);
const Q: Dim = Dim::S(1, Size::QueryRows);
const KV: Dim = Dim::S(1, Size::KeyValueRows);
const VOCAB: Dim = Dim::S(1, Size::VocabRows);

const fn row(ours: &'static str, theirs: &'static str, shape: &'static [Dim]) -> Row {
    Row { ours, timm: theirs, apple: theirs, form: Form::Tensor, shape, when: When::Always }
}

/// Under the language model's prefix.
#[rustfmt::skip]
pub static MODEL: [Row; 2] = [
    row("embed_tokens.weight", "embed_tokens.weight", &[VOCAB, H]),
    row("norm.weight", "norm.weight", &[H]),
];

/// Once a layer, under the language model's prefix.
#[rustfmt::skip]
pub static LAYER: [Row; 12] = [
    row("layers.{l}.input_norm.weight", "layers.{l}.input_layernorm.weight", &[H]),
    row("layers.{l}.attn.q_proj.weight", "layers.{l}.self_attn.q_proj.weight", &[Q, H]),
    row("layers.{l}.attn.q_proj.bias", "layers.{l}.self_attn.q_proj.bias", &[Q]),
    row("layers.{l}.attn.k_proj.weight", "layers.{l}.self_attn.k_proj.weight", &[KV, H]),
    row("layers.{l}.attn.k_proj.bias", "layers.{l}.self_attn.k_proj.bias", &[KV]),
    row("layers.{l}.attn.v_proj.weight", "layers.{l}.self_attn.v_proj.weight", &[KV, H]),
    row("layers.{l}.attn.v_proj.bias", "layers.{l}.self_attn.v_proj.bias", &[KV]),
    row("layers.{l}.attn.o_proj.weight", "layers.{l}.self_attn.o_proj.weight", &[H, Q]),
    row("layers.{l}.post_attention_norm.weight", "layers.{l}.post_attention_layernorm.weight", &[H]),
    row("layers.{l}.mlp.gate_proj.weight", "layers.{l}.mlp.gate_proj.weight", &[FFN, H]),
    row("layers.{l}.mlp.up_proj.weight", "layers.{l}.mlp.up_proj.weight", &[FFN, H]),
    row("layers.{l}.mlp.down_proj.weight", "layers.{l}.mlp.down_proj.weight", &[H, FFN]),
];

/// The head, under a prefix of its own; absent when the embedding is used for it.
pub static LM_HEAD: Row = row("lm_head.weight", "weight", &[VOCAB, H]);

/// First parts of the names, by which a language model is recognised.
pub static ROOTS: [&str; 3] = ["embed_tokens.", "layers.", "norm."];
