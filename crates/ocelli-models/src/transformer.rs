//! The pre-norm transformer block that CLIP's vision and text towers share.

use ocelli_plan::{Activation, MlpWeights, PlanBuilder, PlanError, TensorId};

/// `x1 = x + proj(attention(norm1(x))); y = x1 + fc2(gelu(fc1(norm2(x1))))`.
pub(crate) fn transformer_block(
    b: &mut PlanBuilder<'_>,
    x: TensorId,
    name: &str,
    heads: usize,
    causal: bool,
    norm_eps: f32,
) -> Result<TensorId, PlanError> {
    let normed = b.layer_norm(x, &format!("{name}.norm1"), norm_eps)?;
    let qkv = b.linear(normed, &format!("{name}.attn.qkv"), Activation::None)?;
    let mixed = b.attention(qkv, heads, causal)?;
    let x = b.linear_parts(mixed, &[format!("{name}.attn.proj")], Activation::None, Some(x))?;
    let normed = b.layer_norm(x, &format!("{name}.norm2"), norm_eps)?;
    let names = MlpWeights { fc1: format!("{name}.mlp.fc1"), fc2: format!("{name}.mlp.fc2"), scale: None };
    b.mlp(normed, &names, Activation::Gelu, Some(x))
}
