//! The text tower of MobileCLIP: token ids to rows, of which the one at the end of the text holds it.
//!
//! CLIP (Radford et al., arXiv 2103.00020); reference: open_clip `transformer.py` (`TextTransformer`). Padding
//! takes part in attention, so a text is always padded to the whole context. The first and last layers of the
//! first MobileCLIP-S0 mix positions by convolutions of 1x11 instead (MobileCLIP, arXiv 2311.17049, section 3;
//! reference: `apple/ml-mobileclip`, `mobileclip/modules/text/repmixer.py`).

use ocelli_plan::{Element, FeatureMap, Plan, PlanBuilder, PlanError, Rows, WeightSource};

use crate::fastvithd::rep_mixer_block;
use crate::transformer::transformer_block;

const NORM_EPS: f32 = 1e-5;

/// What the shapes of the weights do not say.
#[derive(Debug, Clone, Copy)]
pub struct ClipTextShape {
    /// Positions of every text.
    pub context_length: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Each position sees itself and those before it only.
    pub causal: bool,
}

/// The plan of the tower: input `ids` `[context_length, 1]`, output `tokens` `[context_length, width]`, normed.
///
/// # Errors
/// When a weight is missing or does not fit.
pub fn clip_text(weights: &dyn WeightSource, shape: &ClipTextShape, trace: bool) -> Result<Plan, PlanError> {
    let mut b = PlanBuilder::new("clip_text", weights, 1).trace(trace);
    let ids = b.input("ids", Rows::Fixed(shape.context_length), 1, Element::U32);
    let embedded = b.embed(ids, "text.token_embedding.weight", Element::Activation)?;
    let mut x = b.add_positions(embedded, None, "text.pos_embed")?;
    b.stage("text.embedded", x);
    for layer in 0..shape.layers {
        let name = format!("text.blocks.{layer}");
        x = if weights.contains(&format!("{name}.token_mixer.weight")) {
            // Positions are the pixels of a map of one row.
            let map = FeatureMap { tensor: x, height: 1, width: shape.context_length };
            rep_mixer_block(&mut b, map, &name)?.tensor
        } else {
            transformer_block(&mut b, x, &name, shape.heads, shape.causal, NORM_EPS)?
        };
        b.stage(&format!("text.resblocks.{layer}"), x);
    }
    let tokens = b.layer_norm(x, "text.norm", NORM_EPS)?;
    b.output(if trace { "text.ln_final" } else { "tokens" }, tokens);
    Ok(b.finish())
}
