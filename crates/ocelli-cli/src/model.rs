//! Finding, making and loading models.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use ocelli::{ClipCheckpoint, DType, FastVlm, LoadOptions, SynthArch};
use ocelli_tiny::Embedded;
use serde_json::json;

use crate::args::{Dtype, ModelArgs};
use crate::device;
use crate::embedded;
use crate::home::{find, packed};
use crate::progress::Progress;

/// Token ids of the real Qwen2 tokenizer below the special tokens.
const QWEN2_BASE_VOCAB: usize = 151_643;
/// The same of the tiny random model.
const TINY_BASE_VOCAB: usize = 512;

/// Where the model of the arguments lies, if it is a MobileCLIP.
pub fn clip_path(args: &ModelArgs) -> Option<PathBuf> {
    let name = args.model.as_deref()?;
    let path = Path::new(name);
    let path = if path.is_file() { path.to_owned() } else { find(name).ok()? };
    ClipCheckpoint::is_clip(&path).then_some(path)
}

/// Load the model of the arguments; returns it with the time that took in ms.
pub fn load(args: &ModelArgs) -> anyhow::Result<(FastVlm, PathBuf, f64)> {
    if args.tokenizer.is_some() {
        bail!("--tokenizer is for MobileCLIP: a FastVLM's tokenizer lies in its own directory");
    }
    let dir = args.model.as_deref().map_or_else(|| embedded::dir(Embedded::FastVlm), find)?;
    let start = Instant::now();
    let (vision, threads) = (args.vision.clone(), args.threads);
    let (dtype, quant, device) = (compute_type(args.dtype), args.policy(), device::choice(args.device));
    let options =
        LoadOptions { vision, dtype, quant, device, threads, packed_dir: packed(), ..LoadOptions::default() };
    let model = FastVlm::load(&dir, &options)?;
    device::tell(model.device_note().as_deref());
    Ok((model, dir, start.elapsed().as_secs_f64() * 1e3))
}

/// The type that the argument stands for.
pub fn compute_type(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Auto | Dtype::Bf16 => DType::Bf16,
    }
}

/// `ocelli synth`.
pub fn synth(arch: SynthArch, dir: &Path, seed: u64, force: bool, as_json: bool) -> anyhow::Result<bool> {
    let mut progress = None;
    let mut bytes = 0;
    write(arch, dir, seed, force, &mut |done, total| {
        bytes = total;
        progress.get_or_insert_with(|| Progress::new("writing", total)).at(done);
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    let what = if arch.is_mobileclip() { "embeddings" } else { "words" };
    eprintln!("wrote {} to {}; random weights, its {what} mean nothing", arch.name(), dir.display());
    if as_json {
        let report = json!({"arch": arch.name(), "dir": dir.display().to_string(), "seed": seed, "weight_bytes": bytes});
        writeln!(std::io::stdout(), "{report}")?;
    }
    Ok(true)
}

fn write(
    arch: SynthArch,
    dir: &Path,
    seed: u64,
    force: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<()> {
    ocelli_weights::synth(arch, dir, seed, force, progress)?;
    if arch.is_mobileclip() {
        // CLIP's vocabulary is built in.
        return Ok(());
    }
    let tiny = arch == SynthArch::FastVlmTiny;
    let vocabulary = if tiny { TINY_BASE_VOCAB } else { QWEN2_BASE_VOCAB };
    ocelli_text::write_synthetic_qwen2_tokenizer(dir, vocabulary, false)
        .with_context(|| format!("writing the tokenizer to {}", dir.display()))
}
