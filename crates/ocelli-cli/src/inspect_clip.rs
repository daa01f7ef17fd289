//! `inspect` for a MobileCLIP: sizes of both towers, how pictures are prepared, and how many parameters there are.

use std::path::Path;

use ocelli::{ClipCheckpoint, licence_file};
use ocelli_weights::{ClipTower, Interpolation, Weights};
use serde_json::{Value, json};

use crate::kept::types_of;
use crate::report::print;

/// Report on a directory or a weight file.
///
/// # Errors
/// When it is no MobileCLIP, or one that is damaged.
pub fn inspect(path: &Path, as_json: bool) -> anyhow::Result<bool> {
    let checkpoint = ClipCheckpoint::open(path)?;
    let (config, weights) = (&checkpoint.config, checkpoint.weights());
    let dir = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let interpolation = match config.image.interpolation {
        Interpolation::Bilinear => "bilinear",
        Interpolation::Bicubic => "bicubic",
    };
    let crop = if config.image.squash {
        "none: both sides are scaled"
    } else {
        "middle, after the shorter side is scaled"
    };
    let text = config.text.as_ref().map(|text| {
        json!({
            "width": dim(weights, "text.token_embedding.weight", 1),
            "layers": text.layers,
            "convolution_layers": convolution_layers(weights),
            "heads": text.heads,
            "intermediate_size": dim(weights, "text.blocks.0.mlp.fc1.weight", 0)
                .or_else(|| dim(weights, "text.blocks.0.ffn.fc1.weight", 0)),
            "causal": text.causal,
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "parameters": weights.parameter_count("text."),
        })
    });
    let report = [
        ("model", json!(path.display().to_string())),
        ("family", json!(checkpoint.report.family.name())),
        ("files", json!(checkpoint.report.files)),
        ("folded", json!(checkpoint.report.folded)),
        ("stored_dtypes", json!(types_of(weights))),
        ("stored_bytes", json!(weights.iter().map(|tensor| tensor.bytes as u64).sum::<u64>())),
        ("licence", json!(licence_file(dir).map(|path| path.display().to_string()))),
        ("embed_dim", json!(config.embed_dim)),
        ("logit_scale", json!(config.text.is_some().then_some(config.logit_scale))),
        ("parameters", json!(weights.parameter_count(""))),
        (
            "preprocess",
            json!({
                "size": config.image.size,
                "mean": config.image.mean.map(shortest),
                "std": config.image.std.map(shortest),
                "interpolation": interpolation,
                "crop": crop,
            }),
        ),
        ("vision", vision(&checkpoint)),
        ("text", text.unwrap_or(json!("none"))),
        ("ignored_tensors", json!(checkpoint.report.ignored.len())),
    ];
    print(&report, as_json)
}

fn vision(checkpoint: &ClipCheckpoint) -> Value {
    let weights = checkpoint.weights();
    let mut report = match &checkpoint.config.tower {
        ClipTower::FastVit(info) => json!({
            "kind": "FastViT",
            "widths": info.widths,
            "blocks": info.blocks,
            "attention": info.attention,
            "features": info.features,
            "stride": info.stride,
        }),
        ClipTower::Vit { layers, heads, conv_stem } => json!({
            "kind": "vision transformer",
            "width": dim(weights, "vision.pos_embed", 1),
            "layers": layers,
            "heads": heads,
            "intermediate_size": dim(weights, "vision.blocks.0.mlp.fc1.weight", 0),
            "positions": dim(weights, "vision.pos_embed", 0),
            "stem": if *conv_stem { "three convolutions" } else { "one patch convolution" },
        }),
    };
    report["parameters"] = json!(weights.parameter_count("vision."));
    report
}

/// One dimension of a tensor, if there is such a tensor.
fn dim(weights: &Weights, name: &str, at: usize) -> Option<usize> {
    weights.iter().find(|tensor| tensor.name == name)?.shape.get(at).copied()
}

/// How many layers of the text tower are convolutions, as in the first MobileCLIP-S0.
fn convolution_layers(weights: &Weights) -> usize {
    weights
        .iter()
        .filter(|t| t.name.starts_with("text.blocks.") && t.name.ends_with(".token_mixer.weight"))
        .count()
}

/// An f32 as people wrote it, not with the digits of an f64.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}
