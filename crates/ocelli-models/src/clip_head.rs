//! The heads of MobileCLIP: features to the space that pictures and texts share.

use ocelli_plan::{Element, Plan, PlanBuilder, PlanError, Rows, WeightSource};

use crate::fastvithd::fastvithd;

/// The plan of an MCi image tower: input `pixel_values` `[resolution^2, 3]`, output `embedding`
/// `[1, embed_dim]`, not normalised. The trunk is FastVLM's, with other widths and parts.
///
/// # Errors
/// When a weight is missing or does not fit.
pub fn mci(weights: &dyn WeightSource, resolution: usize, trace: bool) -> Result<Plan, PlanError> {
    let mut b = PlanBuilder::new("mci", weights, 1).trace(trace);
    let map = fastvithd(&mut b, resolution)?;
    let pooled = b.mean_pool(map.tensor);
    let embedding = b.logits(pooled, "vision.head.weight")?;
    b.output("embedding", embedding);
    Ok(b.finish())
}

/// The plan of a head over one row: input `token` `[1, width]`, output `embedding` `[1, embed_dim]`, not
/// normalised. `tower` is `vision` or `text`.
///
/// # Errors
/// When a weight is missing or does not fit.
pub fn token_head(weights: &dyn WeightSource, tower: &str) -> Result<Plan, PlanError> {
    let mut b = PlanBuilder::new("token_head", weights, 1);
    let name = format!("{tower}.head");
    let width = weights.shape(&format!("{name}.weight")).map_or(0, |s| s[1]);
    let token = b.input("token", Rows::Fixed(1), width, Element::F32);
    let embedding = b.logits(token, &format!("{name}.weight"))?;
    b.output("embedding", embedding);
    Ok(b.finish())
}
