//! Qwen2, the language model of FastVLM: embeddings of a chunk of positions to logits.
//!
//! Qwen2 technical report, arXiv 2407.10671; reference: transformers `models/qwen2/modeling_qwen2.py`.

use ocelli_plan::{
    Activation, AttentionShape, Element, Plan, PlanBuilder, PlanError, Rows, TensorId, WeightSource,
};

/// The table of token embeddings, `[vocabulary, hidden_size]`; tied models take it for the head too.
pub const EMBEDDING: &str = "language.embed_tokens.weight";

/// What the shapes of the weights do not say.
#[derive(Debug, Clone, Copy)]
pub struct Qwen2Shape {
    /// Number of layers.
    pub layers: usize,
    /// Heads of queries, of keys and values, and their size.
    pub attention: AttentionShape,
    /// Base of the rotary angles.
    pub rope_base: f32,
    /// Of every RMS norm.
    pub norm_eps: f32,
}

/// Positions whose logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// The last of the chunk: all that generation needs.
    Last,
    /// Every one, with the stages `hidden.N` and `final_norm` kept: for comparing engines.
    AllTraced,
}

/// The plan of the language model over chunks of up to `max_rows` positions and a cache.
///
/// Input `inputs_embeds` `[rows, hidden_size]` (f32); output `logits` `[1 or rows, vocab_size]` (f32).
///
/// # Errors
/// When a weight is missing or does not fit.
pub fn qwen2(
    weights: &dyn WeightSource,
    shape: &Qwen2Shape,
    max_rows: usize,
    logits: LogitRows,
) -> Result<Plan, PlanError> {
    let traced = logits == LogitRows::AllTraced;
    let mut b = PlanBuilder::new("qwen2", weights, max_rows).trace(traced);
    let hidden_size = weights.shape(EMBEDDING).map_or(0, |s| s[1]);
    let mut x = b.input("inputs_embeds", Rows::Bound, hidden_size, Element::F32);
    for layer in 0..shape.layers {
        x = layer_of(&mut b, x, shape, layer)?;
        b.stage(&format!("hidden.{}", layer + 1), x);
    }
    if logits == LogitRows::Last {
        x = b.take_last_row(x);
    }
    x = b.rms_norm(x, "language.norm", shape.norm_eps)?;
    b.stage("final_norm", x);
    // Tied models have no head of their own.
    const HEAD: &str = "language.lm_head.weight";
    let head = if weights.contains(HEAD) { HEAD } else { EMBEDDING };
    let logits = b.logits(x, head)?;
    b.output("logits", logits);
    Ok(b.finish())
}

/// `x1 = x + attention(norm(x)); y = x1 + down(silu(gate(norm(x1))) * up(norm(x1)))`.
fn layer_of(
    b: &mut PlanBuilder<'_>,
    x: TensorId,
    shape: &Qwen2Shape,
    layer: usize,
) -> Result<TensorId, PlanError> {
    let name = format!("language.layers.{layer}");
    let normed = b.rms_norm(x, &format!("{name}.input_norm"), shape.norm_eps)?;
    let parts = ["q", "k", "v"].map(|p| format!("{name}.attn.{p}_proj"));
    let qkv = b.linear_parts(normed, &parts, Activation::None, None)?;
    let mixed = b.cached_attention(qkv, shape.attention, shape.rope_base, layer)?;
    let x = b.linear_parts(mixed, &[format!("{name}.attn.o_proj")], Activation::None, Some(x))?;
    let normed = b.rms_norm(x, &format!("{name}.post_attention_norm"), shape.norm_eps)?;
    let gate = format!("{name}.mlp.gate_proj");
    let hidden = b.gated_linear(normed, &gate, &format!("{name}.mlp.up_proj"))?;
    b.linear_parts(hidden, &[format!("{name}.mlp.down_proj")], Activation::None, Some(x))
}
