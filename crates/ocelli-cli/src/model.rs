//! Finding, making and loading models.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use ocelli::{DType, FastVlm, LoadOptions, SynthArch};

use crate::args::{Device, Dtype, ModelArgs};

/// Token ids of the real Qwen2 tokenizer below the special tokens.
const QWEN2_BASE_VOCAB: usize = 151_643;
/// The same of the tiny random model.
const TINY_BASE_VOCAB: usize = 512;

/// Where models live: `OCELLI_HOME`, or the user's data directory.
pub fn home() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("OCELLI_HOME")
        .or_else(|| from("XDG_DATA_HOME").map(|d| d.join("ocelli")))
        .or_else(|| from("HOME").map(|d| d.join(".local/share/ocelli")))
        .unwrap_or_else(|| PathBuf::from(".ocelli"))
}

/// The directory that `--model` means.
fn find(model: Option<&str>) -> anyhow::Result<PathBuf> {
    let Some(name) = model else { return default_model() };
    let path = PathBuf::from(name);
    if path.is_dir() {
        return Ok(path);
    }
    let kept = home().join("models").join(name);
    if kept.is_dir() {
        return Ok(kept);
    }
    bail!("no model `{name}`: it is neither a directory nor under {}", home().join("models").display())
}

/// No model comes with the program yet: make a random one once.
fn default_model() -> anyhow::Result<PathBuf> {
    eprintln!("ocelli: no --model given: using a random tiny model, its words mean nothing yet");
    let dir = home().join("models").join("random-tiny");
    if !dir.join("tokenizer.json").is_file() {
        write(SynthArch::FastVlmTiny, &dir, 1, true, &mut |_, _| ())?;
    }
    Ok(dir)
}

/// Load the model of the arguments; returns it with the time that took in ms.
pub fn load(args: &ModelArgs) -> anyhow::Result<(FastVlm, PathBuf, f64)> {
    if args.device == Device::Gpu {
        bail!("--device gpu is not supported yet: use cpu or auto");
    }
    let dir = find(args.model.as_deref())?;
    let dtype = match args.dtype {
        Dtype::F32 => DType::F32,
        Dtype::Auto | Dtype::Bf16 => DType::Bf16,
    };
    let start = Instant::now();
    let (vision, threads) = (args.vision.clone(), args.threads);
    let model = FastVlm::load(&dir, &LoadOptions { vision, dtype, threads, ..LoadOptions::default() })?;
    Ok((model, dir, start.elapsed().as_secs_f64() * 1e3))
}

/// `ocelli synth`.
pub fn synth(arch: &str, dir: &Path, seed: u64, force: bool) -> anyhow::Result<bool> {
    let arch: SynthArch = arch.parse().map_err(anyhow::Error::msg)?;
    let mut shown = u64::MAX;
    write(arch, dir, seed, force, &mut |done, total| {
        let percent = done * 100 / total.max(1);
        if percent != shown {
            eprint!("\rwriting {percent} %");
            shown = percent;
        }
    })?;
    eprintln!("\rwrote {} to {}; random weights, its words mean nothing", arch.name(), dir.display());
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
    let tiny = arch == SynthArch::FastVlmTiny;
    let vocabulary = if tiny { TINY_BASE_VOCAB } else { QWEN2_BASE_VOCAB };
    ocelli_text::write_synthetic_qwen2_tokenizer(dir, vocabulary, false)
        .with_context(|| format!("writing the tokenizer to {}", dir.display()))
}
