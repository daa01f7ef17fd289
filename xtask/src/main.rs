//! Commands for developers.
//!
//! `cargo run -p xtask -- web [--relaxed] [--out DIR]` compiles ocelli-web for browsers and writes the module and its
//! JavaScript to `web/pkg` (`web/pkg-relaxed`), then says how large they are.

mod shrink;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, write::GzEncoder};
use wasm_bindgen_cli_support::Bindgen;

const TARGET: &str = "wasm32-unknown-unknown";
/// The most that a page may have to load before it can load a model.
const MOST_GZIPPED_BYTES: usize = 400_000;
/// What it loads.
const LOADED: [&str; 2] = ["ocelli_web_bg.wasm", "ocelli_web.js"];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("web") => web(arguments),
        _ => bail!("usage: cargo run -p xtask -- web [--relaxed] [--out DIR]"),
    }
}

fn web(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let (mut relaxed, mut out) = (false, None);
    while let Some(argument) = arguments.next() {
        match &argument[..] {
            "--relaxed" => relaxed = true,
            "--out" => out = Some(PathBuf::from(arguments.next().context("--out needs a directory")?)),
            other => bail!("unknown argument {other}"),
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = out.unwrap_or_else(|| root.join(if relaxed { "web/pkg-relaxed" } else { "web/pkg" }));
    let module = compile(&root, relaxed)?;
    let mut bindgen = Bindgen::new();
    bindgen.input_path(&module).web(true)?.typescript(true);
    bindgen.remove_name_section(true).remove_producers_section(true).generate(&out)?;
    let [module, javascript] = LOADED.map(|name| out.join(name));
    let shrunk = shrink::shrink(&std::fs::read(&module)?, &std::fs::read_to_string(&javascript)?)?;
    std::fs::write(&module, shrunk.module)?;
    std::fs::write(&javascript, shrunk.javascript)?;
    // What a MobileCLIP without a tokenizer of its own needs in its folder; loaded with such a model alone.
    let merges = root.join("crates/ocelli-text/src/clip/merges.bin");
    std::fs::copy(&merges, out.join("clip_merges.bin"))
        .with_context(|| format!("copying {}", merges.display()))?;
    let total = LOADED.iter().try_fold(0, |total, name| {
        let bytes = std::fs::read(out.join(name)).with_context(|| format!("reading {name}"))?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&bytes)?;
        let gzipped = gzip.finish()?.len();
        println!("{name}: {} bytes, {gzipped} gzipped", bytes.len());
        Ok::<_, anyhow::Error>(total + gzipped)
    })?;
    println!("together {total} bytes gzipped, in {}", out.display());
    ensure!(
        total <= MOST_GZIPPED_BYTES,
        "more than the {MOST_GZIPPED_BYTES} that a page should have to load"
    );
    Ok(())
}

/// Compile the crate; returns the module.
fn compile(root: &Path, relaxed: bool) -> Result<PathBuf> {
    let features = if relaxed { "+simd128,+relaxed-simd" } else { "+simd128" };
    let cargo = std::env::var_os("CARGO").context("run this by cargo: cargo run -p xtask -- web")?;
    let status = Command::new(cargo)
        .current_dir(root)
        .args(["build", "-p", "ocelli-web", "--lib", "--profile", "web", "--target", TARGET])
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", format!("-C target-feature={features}"))
        .status()?;
    ensure!(status.success(), "ocelli-web could not be compiled");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join(TARGET).join("web/ocelli_web.wasm"))
}
