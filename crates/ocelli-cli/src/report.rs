//! `inspect` and `doctor`: what there is, without running it.

use std::io::Write;
use std::path::Path;

use anyhow::bail;
use ocelli::{
    Checkpoint, ClipCheckpoint, DType, Isa, available_memory_bytes, available_threads, licence_file,
    memory_plan,
};
use serde_json::{Value, json};

use crate::device;
use crate::home::{find, home, models};
use crate::inspect_clip;
use crate::kept::{kept_names, types_of};
use crate::message::size;

/// `ocelli inspect`.
pub fn inspect(model: &str, vision: Option<&Path>, as_json: bool) -> anyhow::Result<bool> {
    let path = Path::new(model);
    let dir = &if path.is_file() { path.to_owned() } else { find(model)? };
    if ClipCheckpoint::is_clip(dir) {
        if vision.is_some() {
            bail!(
                "--vision is for FastVLM: {} is a MobileCLIP, which has its own image tower",
                dir.display()
            );
        }
        return inspect_clip::inspect(dir, as_json);
    }
    let checkpoint = Checkpoint::open(dir, vision)?;
    let (config, weights) = (&checkpoint.config, checkpoint.weights());
    let memory = |dtype| -> anyhow::Result<Value> {
        let plan = memory_plan(&checkpoint, dtype)?;
        Ok(json!({
            "weights_bytes": plan.weights,
            "activations_bytes": plan.activations,
            "cache_bytes": plan.cache,
            "total_bytes": plan.total(),
        }))
    };
    let report = [
        ("model", json!(dir.display().to_string())),
        ("family", json!(checkpoint.report.family.name())),
        ("folded", json!(checkpoint.report.folded)),
        ("stored_dtypes", json!(types_of(weights))),
        ("stored_bytes", json!(weights.iter().map(|t| t.bytes as u64).sum::<u64>())),
        ("licence", json!(licence_file(dir).map(|p| p.display().to_string()))),
        (
            "vision",
            json!({
                "widths": config.vision.widths,
                "blocks": config.vision.blocks,
                "parameters": weights.parameter_count("vision."),
                "image_size": config.image_size,
                "image_tokens": (config.image_size / config.vision.stride).pow(2),
            }),
        ),
        (
            "language",
            json!({
                "layers": config.num_layers,
                "hidden_size": config.hidden_size,
                "intermediate_size": config.intermediate_size,
                "heads": config.num_heads,
                "kv_heads": config.num_kv_heads,
                "vocab_size": config.vocab_size,
                "tied_head": config.tie,
                "parameters": weights.parameter_count("language."),
            }),
        ),
        ("projector_parameters", json!(weights.parameter_count("projector."))),
        ("ignored_tensors", json!(checkpoint.report.ignored.len())),
        (
            "memory",
            json!({
                "bf16": memory(DType::Bf16)?,
                "f32": memory(DType::F32)?,
                "available_bytes": available_memory_bytes(),
            }),
        ),
    ];
    print(&report, as_json)
}

/// `ocelli doctor`.
pub fn doctor(as_json: bool) -> anyhow::Result<bool> {
    let kernels = Isa::detect()?;
    let (processor, features) = processor();
    let gpus = ocelli::adapters();
    let report = [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("system", json!(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))),
        ("processor", json!(processor)),
        ("cpu_features", json!(features)),
        ("available_kernels", json!(Isa::available().iter().map(|isa| isa.name()).collect::<Vec<_>>())),
        ("available_memory_bytes", json!(available_memory_bytes())),
        ("home", json!(home().display().to_string())),
        ("models", json!(models().display().to_string())),
        ("kept_models", json!(kept_names())),
        ("kernels", json!(kernels.name())),
        ("threads", json!(available_threads())),
        ("dtype", json!("bf16")),
        ("device", json!("cpu")),
        (
            "gpus",
            gpus.iter()
                .map(|gpu| if as_json { device::fields(gpu) } else { device::line(gpu).into() })
                .collect(),
        ),
    ];
    print(&report, as_json)
}

/// Name of the processor and those of its features that kernels can use, where Linux tells them.
pub fn processor() -> (Option<String>, Vec<String>) {
    const FEATURES: [&str; 20] = [
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimddp",
        "i8mm",
        "bf16",
    ];
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |names: [&str; 2]| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| names.contains(&name.trim())).map(|(_, value)| value.trim())
    };
    let found: Vec<&str> = field(["flags", "Features"]).unwrap_or_default().split_whitespace().collect();
    let features = FEATURES.iter().filter(|f| found.contains(f)).map(|f| (*f).to_owned()).collect();
    (field(["model name", "Processor"]).map(str::to_owned), features)
}

/// A report on stdout. Text keeps the order of the fields.
pub fn print(report: &[(&str, Value)], as_json: bool) -> anyhow::Result<bool> {
    let mut text = String::new();
    if as_json {
        let fields = report.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        text = format!("{}\n", Value::Object(fields.collect()));
    } else {
        report.iter().for_each(|(name, value)| write_text(name, value, 0, &mut text));
    }
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(true)
}

fn write_text(name: &str, value: &Value, indent: usize, out: &mut String) {
    let label = name.trim_end_matches("_bytes").replace('_', " ");
    *out += &format!("{:indent$}{label}:", "");
    if let Value::Object(fields) = value {
        *out += "\n";
        fields.iter().for_each(|(name, value)| write_text(name, value, indent + 2, out));
    } else if let ("gpus", Some(lines)) = (name, value.as_array().filter(|gpus| !gpus.is_empty())) {
        // Their names have commas: a line each.
        *out += "\n";
        lines.iter().for_each(|line| *out += &format!("{:1$}{2}\n", "", indent + 2, shown("", line)));
    } else {
        *out += &format!(" {}\n", shown(name, value));
    }
}

fn shown(name: &str, value: &Value) -> String {
    match value {
        Value::Null if name == "licence" => "no licence file found".to_owned(),
        Value::Null => "unknown".to_owned(),
        Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => values.iter().map(|v| shown("", v)).collect::<Vec<_>>().join(", "),
        Value::Number(number) if name.ends_with("_bytes") => {
            number.as_u64().map_or_else(|| number.to_string(), size)
        }
        other => other.to_string(),
    }
}
