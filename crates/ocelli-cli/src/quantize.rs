//! `quantize`: compare a quantized model with the original, and write it if it is close enough.

use std::io::Write;
use std::path::Path;

use anyhow::bail;
use ocelli::{
    BlockFormat, Compared, FastVlm, GREEDY_TOKENS, GateLimits, LoadOptions, QuantPolicy, QuantizeError, built_in_images,
    compare, write_quantized,
};
use serde_json::{Value, json};

use crate::args::{QuantizeArgs, VisionArg};
use crate::home::find;
use crate::message::size;
use crate::model::compute_type;
use crate::progress::Progress;

/// `ocelli quantize`. False when the gate is not passed.
pub fn quantize(args: &QuantizeArgs) -> anyhow::Result<bool> {
    let from = find(&args.model)?;
    if let Some(out) = args.out.as_ref().filter(|out| out.exists()) {
        // Before minutes of work.
        return Err(QuantizeError::Exists { dir: out.clone() }.into());
    }
    let policy = QuantPolicy {
        layers: Some(args.weights.format()),
        head: Some(args.head.format()),
        int8_vision: args.vision == VisionArg::Q8,
    };
    let (names, pictures) = gate(args, &from, policy)?;
    let limits = GateLimits::of(policy.layers);
    let broken = limits.broken(&pictures);
    let passed = broken.is_empty();
    let mut bytes = None;
    if let Some(out) = args.out.as_ref().filter(|_| passed || args.force) {
        bytes = Some(write(&from, out, policy)?);
    }
    if args.json {
        let report = report(args, policy, &limits, &names, &pictures, &broken, bytes);
        writeln!(std::io::stdout(), "{report}")?;
    } else {
        std::io::stdout().write_all(table(&names, &pictures, &limits).as_bytes())?;
    }
    for reason in &broken {
        eprintln!("ocelli: {reason}");
    }
    match (&args.out, bytes) {
        (Some(out), Some(bytes)) => eprintln!("wrote {} to {}", size(bytes), out.display()),
        (Some(_), None) => eprintln!("ocelli: nothing was written; --force writes it all the same"),
        _ => {}
    }
    Ok(passed || (args.force && bytes.is_some()))
}

/// Load both models and compare them on the pictures, whose names come with the figures.
fn gate(
    args: &QuantizeArgs,
    from: &Path,
    policy: QuantPolicy,
) -> anyhow::Result<(Vec<String>, Vec<Compared>)> {
    let (dtype, threads) = (compute_type(args.dtype), args.threads);
    let options = LoadOptions { dtype, threads, ..LoadOptions::default() };
    let original = FastVlm::load(from, &options)?;
    let quantized = FastVlm::load(from, &LoadOptions { quant: Some(policy), ..options })?;
    let mut names: Vec<String> = args.images.iter().map(|path| path.display().to_string()).collect();
    let mut images = Vec::new();
    for path in &args.images {
        images.push(original.open_image(path)?);
    }
    if images.is_empty() {
        images = built_in_images(&original)?;
        names = (1..=images.len()).map(|i| format!("drawn {i}")).collect();
    }
    if images.is_empty() {
        bail!("there is no picture to compare on");
    }
    Ok((names, compare(&original, &quantized, &images)?))
}

fn write(from: &Path, out: &Path, policy: QuantPolicy) -> anyhow::Result<u64> {
    let mut progress = None;
    let bytes = write_quantized(from, out, policy, &mut |done, total| {
        progress.get_or_insert_with(|| Progress::new("writing", total)).at(done);
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(bytes)
}

fn table(names: &[String], pictures: &[Compared], limits: &GateLimits) -> String {
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("picture".len());
    let mut text = format!(
        "{:width$}  {:>9}  {:>8}  {:>8}  {:>6}  greedy of {GREEDY_TOKENS}\n",
        "picture", "cosine", "KL mean", "KL max", "top-1"
    );
    for (name, c) in names.iter().zip(pictures) {
        let equal = (c.greedy * GREEDY_TOKENS as f64).round();
        text += &format!(
            "{name:width$}  {:>9.6}  {:>8.4}  {:>8.4}  {:>6.3}  {equal}\n",
            c.image_cosine, c.kl, c.kl_max, c.top1
        );
    }
    text + &format!(
        "{:width$}  {:>9}  {:>8}  {:>8}  {:>6}\n",
        "limit of the mean", limits.image_cosine, limits.kl, "", limits.top1
    )
}

fn report(
    args: &QuantizeArgs,
    policy: QuantPolicy,
    limits: &GateLimits,
    names: &[String],
    pictures: &[Compared],
    broken: &[String],
    bytes: Option<u64>,
) -> Value {
    let pictures: Vec<Value> = names
        .iter()
        .zip(pictures)
        .map(|(name, c)| {
            json!({
                "image": name,
                "positions": c.positions,
                "image_cosine": c.image_cosine,
                "kl_mean": c.kl,
                "kl_max": c.kl_max,
                "top1": c.top1,
                "greedy": c.greedy,
            })
        })
        .collect();
    json!({
        "model": args.model,
        "out": bytes.and(args.out.as_ref()).map(|out| out.display().to_string()),
        "layers": policy.layers.map(BlockFormat::name),
        "head": policy.head.map(BlockFormat::name),
        "vision": if policy.int8_vision { "q8" } else { "bf16" },
        "limits": {"image_cosine": limits.image_cosine, "kl_mean": limits.kl, "top1": limits.top1},
        "pictures": pictures,
        "passed": broken.is_empty(),
        "broken": broken,
        "weight_bytes": bytes,
    })
}
