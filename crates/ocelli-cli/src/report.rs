//! `inspect` and `doctor`: what there is, without running it.

use std::path::Path;

use ocelli::{Checkpoint, DType, Isa, available_memory_bytes, available_threads, licence_file, memory_plan};
use serde_json::{Value, json};

use crate::model::home;

/// `ocelli inspect`.
pub fn inspect(dir: &Path, vision: Option<&Path>, as_json: bool) -> anyhow::Result<bool> {
    let checkpoint = Checkpoint::open(dir, vision)?;
    let (config, weights) = (&checkpoint.config, checkpoint.weights());
    let mut dtypes: Vec<String> = weights.iter().map(|t| t.dtype.to_string()).collect();
    dtypes.sort_unstable();
    dtypes.dedup();
    let memory = |dtype| -> anyhow::Result<Value> {
        let plan = memory_plan(&checkpoint, dtype)?;
        Ok(json!({
            "weights_bytes": plan.weights,
            "activations_bytes": plan.activations,
            "cache_bytes": plan.cache,
            "total_bytes": plan.total(),
        }))
    };
    let report = json!({
        "model": dir.display().to_string(),
        "family": checkpoint.report.family.name(),
        "folded": checkpoint.report.folded,
        "stored_dtypes": dtypes,
        "vision": {
            "widths": config.vision.widths,
            "blocks": config.vision.blocks,
            "parameters": weights.parameter_count("vision."),
            "image_size": config.image_size,
            "image_tokens": (config.image_size / config.vision.stride).pow(2),
        },
        "language": {
            "layers": config.num_layers,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "heads": config.num_heads,
            "kv_heads": config.num_kv_heads,
            "vocab_size": config.vocab_size,
            "tied_head": config.tie,
            "parameters": weights.parameter_count("language."),
        },
        "projector_parameters": weights.parameter_count("projector."),
        "ignored_tensors": checkpoint.report.ignored.len(),
        "licence": licence_file(dir).map(|p| p.display().to_string()),
        "memory": {"f32": memory(DType::F32)?, "bf16": memory(DType::Bf16)?},
    });
    print(&report, as_json);
    Ok(true)
}

/// `ocelli doctor`.
pub fn doctor(as_json: bool) -> anyhow::Result<bool> {
    let chosen = Isa::detect()?;
    let report = json!({
        "kernels": chosen.name(),
        "available_kernels": Isa::available().iter().map(|isa| isa.name()).collect::<Vec<_>>(),
        "threads": available_threads(),
        "available_memory_bytes": available_memory_bytes(),
        "home": home().display().to_string(),
        "models": home().join("models").display().to_string(),
        "device": "cpu",
    });
    print(&report, as_json);
    Ok(true)
}

fn print(report: &Value, as_json: bool) {
    if as_json {
        println!("{report}");
    } else {
        print_text(report, 0);
    }
}

fn print_text(report: &Value, indent: usize) {
    let Value::Object(fields) = report else { return };
    for (name, value) in fields {
        let pad = " ".repeat(indent);
        if value.is_object() {
            println!("{pad}{name}:");
            print_text(value, indent + 2);
        } else {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            println!("{pad}{name}: {text}");
        }
    }
}
