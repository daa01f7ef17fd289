//! The projector of FastVLM: visual features to rows that the language model reads as embeddings.
//!
//! LLaVA's `mlp2x_gelu`: linear, exact GELU, linear.

use ocelli_plan::{Activation, MlpWeights, PlanBuilder, PlanError, TensorId};

/// Append the projector: `[tokens, features]` to `[tokens, hidden_size]`.
///
/// # Errors
/// When a weight is missing or does not fit.
pub fn projector(b: &mut PlanBuilder<'_>, features: TensorId) -> Result<TensorId, PlanError> {
    let names = MlpWeights { fc1: "projector.fc1".into(), fc2: "projector.fc2".into(), scale: None };
    b.mlp(features, &names, Activation::Gelu, None)
}
