//! The vision transformers of MobileCLIP-B and MobileCLIP2-L-14: pixels to tokens, the class token first.
//!
//! MobileCLIP (Vasu et al., CVPR 2024, arXiv 2311.17049); reference: timm `vision_transformer.py` and
//! `vision_transformer_hybrid.py` (`vit_base_mci_224`, `vit_large_patch14_clip_224`).

use ocelli_plan::{Activation, Element, FeatureMap, PlanBuilder, PlanError, Rows, TensorId};

use crate::transformer::transformer_block;

/// timm's default, with a convolutional stem.
const CONV_STEM_NORM_EPS: f32 = 1e-6;
/// CLIP's own.
const CLIP_NORM_EPS: f32 = 1e-5;

/// What the shapes of the weights do not say.
#[derive(Debug, Clone, Copy)]
pub struct VitShape {
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Patches by three convolutions, and no position for the class token; otherwise by one, with a norm behind.
    pub conv_stem: bool,
}

/// Append the tower to a plan whose input `pixel_values` `[resolution^2, 3]` it declares.
///
/// Returns normed tokens `[1 + patches, width]`; the first is the class token, which holds the picture.
///
/// # Errors
/// When a weight is missing or does not fit, such as positions for another resolution.
pub fn vit(b: &mut PlanBuilder<'_>, shape: &VitShape, resolution: usize) -> Result<TensorId, PlanError> {
    let pixels = b.input("pixel_values", Rows::Fixed(resolution * resolution), 3, Element::F32);
    let map = FeatureMap { tensor: pixels, height: resolution, width: resolution };
    let eps = if shape.conv_stem { CONV_STEM_NORM_EPS } else { CLIP_NORM_EPS };
    let patches = if shape.conv_stem { conv_stem(b, map)? } else { patch_stem(b, map)? };
    b.stage("vision.patch_embed", patches);
    let mut x = b.add_positions(patches, Some("vision.cls_token"), "vision.pos_embed")?;
    if !shape.conv_stem {
        x = b.layer_norm(x, "vision.norm_pre", eps)?;
    }
    b.stage("vision.embedded", x);
    for block in 0..shape.layers {
        let name = format!("vision.blocks.{block}");
        x = transformer_block(b, x, &name, shape.heads, false, eps)?;
        b.stage(&name, x);
    }
    let tokens = b.layer_norm(x, "vision.norm", eps)?;
    b.stage("vision.norm", tokens);
    Ok(tokens)
}

/// 4x4 /4 and 2x2 /2 with GELU, 2x2 /2.
fn conv_stem(b: &mut PlanBuilder<'_>, map: FeatureMap) -> Result<TensorId, PlanError> {
    let map = b.conv(map, "vision.stem.0", 4, 0, Activation::Gelu)?;
    let map = b.conv(map, "vision.stem.1", 2, 0, Activation::Gelu)?;
    Ok(b.conv(map, "vision.stem.2", 2, 0, Activation::None)?.tensor)
}

/// One convolution as wide as its step.
fn patch_stem(b: &mut PlanBuilder<'_>, map: FeatureMap) -> Result<TensorId, PlanError> {
    const NAME: &str = "vision.patch_embed";
    let side = b.weights().shape(&format!("{NAME}.weight")).map_or(1, |s| s[2]);
    Ok(b.conv(map, NAME, side, 0, Activation::None)?.tensor)
}
