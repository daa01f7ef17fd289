//! FastViT with a MobileCLIP trunk: pixels to a map of features. FastViTHD, the vision tower of FastVLM, is one
//! of them (mci3); mci0, mci1, mci2 and mci4 are those of MobileCLIP, and differ in widths, depths and parts.
//!
//! FastVLM (Vasu et al., CVPR 2025, arXiv 2412.13303); reference: `apple/ml-fastvlm`,
//! `llava/model/multimodal_encoder/mobileclip/mci.py`, and timm `fastvit.py` (`fastvit_mci3`).
//! Weights are in folded form: every block of branches is one convolution.

use ocelli_plan::{Activation, Element, FeatureMap, MlpWeights, PlanBuilder, PlanError, Rows};

/// Values of an attention head; fixed in all towers of the family.
const HEAD_DIM: usize = 32;
/// Of the channel layer norm before attention.
const NORM_EPS: f32 = 1e-5;

/// Append the tower to a plan whose input `pixel_values` `[resolution^2, 3]` it declares.
///
/// Returns the map `[resolution / stride, resolution / stride, features]`, stride 32 or 64: row-major, one row a visual token.
///
/// # Errors
/// When a weight is missing or does not fit.
pub fn fastvithd(b: &mut PlanBuilder<'_>, resolution: usize) -> Result<FeatureMap, PlanError> {
    let pixels = b.input("pixel_values", Rows::Fixed(resolution * resolution), 3, Element::F32);
    let mut x = FeatureMap { tensor: pixels, height: resolution, width: resolution };
    x = stem(b, x)?;
    for stage in 0.. {
        let name = format!("vision.stages.{stage}");
        if !b.weights().contains(&format!("{name}.blocks.0.ffn.fc1.weight")) {
            break;
        }
        x = stage_of(b, x, &name)?;
        b.stage(&name, x.tensor);
    }
    x = b.depthwise(x, "vision.final_conv", 1, Activation::None)?;
    x.tensor = b.squeeze_excite(x.tensor, "vision.final_conv.se", Activation::Gelu)?;
    b.stage("vision.final_conv", x.tensor);
    Ok(x)
}

/// 3x3 /2, depthwise 3x3 /2, 1x1, each with GELU.
fn stem(b: &mut PlanBuilder<'_>, mut x: FeatureMap) -> Result<FeatureMap, PlanError> {
    x = b.conv(x, "vision.stem.0", 2, 1, Activation::Gelu)?;
    b.stage("vision.stem.0", x.tensor);
    x = b.depthwise(x, "vision.stem.1", 2, Activation::Gelu)?;
    b.stage("vision.stem.1", x.tensor);
    x.tensor = b.linear(x.tensor, "vision.stem.2", Activation::Gelu)?;
    b.stage("vision.stem.2", x.tensor);
    Ok(x)
}

/// Downsample, position encoding, blocks; each of the first two only where its weights exist.
fn stage_of(b: &mut PlanBuilder<'_>, mut x: FeatureMap, name: &str) -> Result<FeatureMap, PlanError> {
    let downsample = format!("{name}.downsample");
    if b.weights().contains(&format!("{downsample}.dw.weight")) {
        x = downsample_of(b, x, &downsample)?;
        b.stage(&downsample, x.tensor);
    }
    let pos_emb = format!("{name}.pos_emb");
    if b.weights().contains(&format!("{pos_emb}.weight")) {
        x = b.depthwise(x, &pos_emb, 1, Activation::None)?;
        b.stage(&pos_emb, x.tensor);
    }
    for block in 0.. {
        let block = format!("{name}.blocks.{block}");
        if !b.weights().contains(&format!("{block}.ffn.fc1.weight")) {
            break;
        }
        x = if b.weights().contains(&format!("{block}.attn.qkv.weight")) {
            attention_block(b, x, &block)?
        } else {
            rep_mixer_block(b, x, &block)?
        };
    }
    Ok(x)
}

/// Depthwise 7x7 /2 that widens, squeeze-and-excite where it exists, GELU, 1x1, GELU.
fn downsample_of(b: &mut PlanBuilder<'_>, x: FeatureMap, name: &str) -> Result<FeatureMap, PlanError> {
    let (dw, se) = (format!("{name}.dw"), format!("{name}.se"));
    let mut x = if b.weights().contains(&format!("{se}.fc1.weight")) {
        let mut x = b.depthwise(x, &dw, 2, Activation::None)?;
        x.tensor = b.squeeze_excite(x.tensor, &se, Activation::Gelu)?;
        x
    } else {
        b.depthwise(x, &dw, 2, Activation::Gelu)?
    };
    x.tensor = b.linear(x.tensor, &format!("{name}.pw"), Activation::Gelu)?;
    Ok(x)
}

/// `x = dw(x); y = x + layer_scale * ffn(x)`: over pixels, and in `clip_text` over positions.
pub(crate) fn rep_mixer_block(
    b: &mut PlanBuilder<'_>,
    x: FeatureMap,
    name: &str,
) -> Result<FeatureMap, PlanError> {
    let x = b.depthwise_stream(x, &format!("{name}.token_mixer"))?;
    conv_ffn(b, x, name, "layer_scale")
}

/// `x1 = x + ls1 * attention(norm(x)); y = x1 + ls2 * ffn(x1)`: no norm before the feed-forward. The norm of
/// mci0 to mci2 is a BatchNorm, which is folded into the queries, keys and values.
fn attention_block(b: &mut PlanBuilder<'_>, x: FeatureMap, name: &str) -> Result<FeatureMap, PlanError> {
    let norm = format!("{name}.norm");
    let has_norm = b.weights().contains(&format!("{norm}.weight"));
    let normed = if has_norm { b.layer_norm(x.tensor, &norm, NORM_EPS)? } else { x.tensor };
    let qkv = b.linear(normed, &format!("{name}.attn.qkv"), Activation::None)?;
    let heads = b.cols(qkv) / (3 * HEAD_DIM);
    let mixed = b.attention(qkv, heads, false)?;
    let (proj, scale) = (format!("{name}.attn.proj"), format!("{name}.layer_scale_1"));
    let tensor = b.scaled_linear(mixed, &proj, &scale, x.tensor)?;
    conv_ffn(b, FeatureMap { tensor, ..x }, name, "layer_scale_2")
}

/// `x + layer_scale * fc2(gelu(fc1(dw(x))))`.
fn conv_ffn(
    b: &mut PlanBuilder<'_>,
    x: FeatureMap,
    name: &str,
    scale: &str,
) -> Result<FeatureMap, PlanError> {
    let local = b.depthwise(x, &format!("{name}.ffn.dw"), 1, Activation::None)?;
    let names = MlpWeights {
        fc1: format!("{name}.ffn.fc1"),
        fc2: format!("{name}.ffn.fc2"),
        scale: Some(format!("{name}.{scale}")),
    };
    let tensor = b.mlp(local.tensor, &names, Activation::Gelu, Some(x.tensor))?;
    Ok(FeatureMap { tensor, ..x })
}
