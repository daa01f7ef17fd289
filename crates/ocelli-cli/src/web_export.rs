//! `web export`: a static folder with a model for pages, and the page where it was built.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ocelli::{Checkpoint, ClipCheckpoint, DType, licence_file, memory_plan, write_quantized};
use ocelli_text::{CLIP_MERGES, CLIP_MERGES_FILE};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::WebExportArgs;
use crate::home::find;
use crate::message::size;
use crate::progress::Progress;
use crate::whole::write_whole;

/// Larger files are cut into pieces of this size: some hosts take no more than 100 MB.
const PIECE_BYTES: u64 = 95_000_000;
/// Files that pages need, by the ends of their names; others, such as what `pull` notes, stay.
const ENDS: [&str; 3] = [".json", ".txt", ".safetensors"];
const LEFT_OUT: [&str; 2] = ["ocelli-pull.json", "manifest.json"];
/// The schema of `manifest.json` and `models/index.json`; docs/browser.md describes both.
const FORMAT: u32 = 1;
/// Where `npm run build` puts the page, from the repository's folder.
const BUILT_SITE: &str = "web/build/site";
/// What builds the page there.
const BUILD: &str = "    cargo run --bin xtask -- web
    cargo run --bin xtask -- web --relaxed
    (cd web && npm ci --ignore-scripts && npm run build)";

/// `ocelli web export`.
pub fn export(args: &WebExportArgs) -> anyhow::Result<bool> {
    let from = find(&args.model)?;
    if !from.is_dir() {
        bail!("{} is one file; pages need the model's folder", from.display());
    }
    let name = folder_name(args.name.as_deref(), &from)?;
    let site = built_page(args.site.as_deref())?;
    let models = args.out.join("models");
    let target = models.join(&name);
    if target.exists() {
        bail!("{} exists: remove it, or choose another --name or --out", target.display());
    }
    std::fs::create_dir_all(&models).with_context(|| format!("creating {}", models.display()))?;
    let aside = tempfile::Builder::new().prefix(".partial-").tempdir_in(&models)?;
    let (written, kind) = write_model(args, &from, &name, aside.path())?;
    std::fs::rename(aside.path(), &target).with_context(|| format!("writing {}", target.display()))?;
    list(&models, &name, kind)?;
    if let Some(site) = &site {
        copy_folder(site, &args.out, true)?;
    }
    let files = written.len();
    let bytes: u64 = written.iter().filter_map(|file| file["bytes"].as_u64()).sum();
    if args.json {
        let report = json!({
            "out": args.out.display().to_string(),
            "model": name,
            "kind": kind,
            "files": files,
            "bytes": bytes,
            "page": site.is_some(),
        });
        writeln!(std::io::stdout(), "{report}")?;
    } else {
        eprintln!("wrote {} in {files} files to {}", size(bytes), target.display());
    }
    if site.is_none() {
        eprintln!(
            "ocelli: the model is written, but the page is not built yet. In the repository's folder (it needs Node and \
             `rustup target add wasm32-unknown-unknown`):\n{BUILD}\n    cp -r {BUILT_SITE}/. {}",
            args.out.display()
        );
    }
    Ok(true)
}

/// The model's files and manifest into `to`; returns the manifest's files and the kind.
fn write_model(
    args: &WebExportArgs,
    from: &Path,
    name: &str,
    to: &Path,
) -> anyhow::Result<(Vec<Value>, &'static str)> {
    let clip = ClipCheckpoint::is_clip(from);
    let quantized = tempfile::tempdir_in(to.parent().unwrap_or(to))?;
    let mut source = from.to_owned();
    if let Some(policy) = args.policy() {
        if clip {
            bail!("--quant is for FastVLM; {} is a MobileCLIP", from.display());
        }
        source = quantized.path().join("model");
        let mut progress = None;
        write_quantized(from, &source, policy, &mut |done, total| {
            progress.get_or_insert_with(|| Progress::new("quantizing", total)).at(done);
        })?;
    }
    let mut files = Vec::new();
    let names = exported_names(&source)?;
    if !names.iter().any(|file| file.ends_with(".safetensors")) {
        bail!("{} has no .safetensors file, which pages need", source.display());
    }
    let own = ["tokenizer.json", "vocab.json"].iter().any(|file| names.contains(&(*file).to_owned()));
    let length = |file: &String| std::fs::metadata(source.join(file)).map_or(0, |found| found.len());
    let total: u64 = names.iter().map(length).sum();
    let mut progress = Progress::new("writing", total);
    let mut done = 0;
    for file in &names {
        let reader = std::fs::File::open(source.join(file)).with_context(|| format!("reading {file}"))?;
        files.push(copy(reader, file, to, &mut |bytes| {
            done += bytes;
            progress.at(done);
        })?);
    }
    progress.finish();
    if clip && !own {
        files.push(copy(CLIP_MERGES, CLIP_MERGES_FILE, to, &mut |_| ())?);
    }
    let kind = if clip { "mobileclip" } else { "fastvlm" };
    let mut manifest = json!({ "format": FORMAT, "model": name, "kind": kind, "files": files });
    if let Some(licence) = licence(from) {
        manifest["licence"] = licence.into();
    }
    if !clip {
        let plan = memory_plan(&Checkpoint::open(&source, None)?, DType::Bf16)?;
        manifest["memory"] = json!({ "weights_bytes": plan.weights, "activations_bytes": plan.activations });
    }
    write_whole(&to.join("manifest.json"), &serde_json::to_vec_pretty(&manifest)?)?;
    Ok((files, kind))
}

/// Names of a folder's files that pages need, in order.
fn exported_names(dir: &Path) -> anyhow::Result<Vec<String>> {
    let licence = licence_file(dir);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let wanted = ENDS.iter().any(|end| name.ends_with(end)) || licence.as_deref() == Some(&path);
        if wanted && is_plain(name) && !LEFT_OUT.contains(&name) && path.is_file() {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Whether pages take a file or folder of this name.
fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    !name.is_empty() && !name.starts_with(['.', '-']) && name.chars().all(fits)
}

fn folder_name(asked: Option<&str>, from: &Path) -> anyhow::Result<String> {
    let own = from.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_str()?.to_owned()));
    let name = asked.map(str::to_owned).or(own).unwrap_or_default();
    if !is_plain(&name) {
        bail!("`{name}` cannot be a folder of a page: give --name with letters, digits, . _ + -");
    }
    Ok(name)
}

/// Copy one file in pieces; returns its entry of the manifest.
fn copy(mut from: impl Read, name: &str, to: &Path, done: &mut dyn FnMut(u64)) -> anyhow::Result<Value> {
    let mut whole = Sha256::new();
    let mut pieces: Vec<(PathBuf, u64, String)> = Vec::new();
    let mut bytes = 0;
    loop {
        let path = to.join(format!("{name}.{:03}", pieces.len()));
        let (written, hash) = copy_piece(&mut from, &path, &mut whole, done)?;
        if written == 0 && !pieces.is_empty() {
            std::fs::remove_file(&path)?;
            break;
        }
        bytes += written;
        pieces.push((path, written, hash));
        if written < PIECE_BYTES {
            break;
        }
    }
    let mut entry = json!({ "name": name, "bytes": bytes, "sha256": hex(whole) });
    if let [(path, ..)] = &pieces[..] {
        std::fs::rename(path, to.join(name))?;
    } else {
        let file = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        entry["shards"] = pieces
            .iter()
            .map(|(path, bytes, hash)| json!({ "file": file(path), "bytes": bytes, "sha256": hash }))
            .collect();
    }
    Ok(entry)
}

/// Up to [`PIECE_BYTES`] of what is left; returns how many there were, and their hash.
fn copy_piece(
    from: &mut impl Read,
    path: &Path,
    whole: &mut Sha256,
    done: &mut dyn FnMut(u64),
) -> anyhow::Result<(u64, String)> {
    let mut file = std::fs::File::create(path).with_context(|| format!("writing {}", path.display()))?;
    let (mut hash, mut written, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    while written < PIECE_BYTES {
        let most = buffer.len().min((PIECE_BYTES - written) as usize);
        let read = from.read(&mut buffer[..most])?;
        if read == 0 {
            break;
        }
        let part = &buffer[..read];
        file.write_all(part).with_context(|| format!("writing {}", path.display()))?;
        hash.update(part);
        whole.update(part);
        written += read as u64;
        done(read as u64);
    }
    file.sync_all()?;
    Ok((written, hex(hash)))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first line of the licence that came with a model.
fn licence(dir: &Path) -> Option<String> {
    let text = std::fs::read(licence_file(dir)?).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(format!("{line} (see the licence file)"))
}

/// Put the model into `models/index.json`, in place of one of the same name.
fn list(models: &Path, name: &str, kind: &str) -> anyhow::Result<()> {
    let path = models.join("index.json");
    let known: Option<Value> = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let known = known.and_then(|index| Some(index["models"].as_array()?.clone())).unwrap_or_default();
    let mut entries: Vec<Value> = known.into_iter().filter(|model| model["folder"] != name).collect();
    entries.push(json!({ "folder": name, "kind": kind, "name": name }));
    write_whole(&path, &serde_json::to_vec_pretty(&json!({ "format": FORMAT, "models": entries }))?)
}

/// The folder of the built page: the one asked for, or the usual one where it is there.
fn built_page(asked: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    let built = Path::new(BUILT_SITE);
    let site = asked.or_else(|| built.join("index.html").is_file().then_some(built));
    // The page can be built without the engine, for tests, but then runs no model.
    for file in ["index.html", "pkg/ocelli_web.js"] {
        if let Some(site) = site.filter(|site| !site.join(file).is_file()) {
            bail!(
                "{} has no {file}: build the page first. In the repository's folder:\n{BUILD}",
                site.display()
            );
        }
    }
    Ok(site.map(Path::to_owned))
}

/// Copy a folder; of the page's, its own models stay behind.
fn copy_folder(from: &Path, to: &Path, top: bool) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            if !(top && entry.file_name() == "models") {
                copy_folder(&path, &target, false)?;
            }
        } else {
            std::fs::copy(&path, &target).with_context(|| format!("writing {}", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SHA-256 of so many sevens.
    fn sevens(bytes: u64) -> String {
        let mut hash = Sha256::new();
        std::io::copy(&mut std::io::repeat(7).take(bytes), &mut hash).expect("hash");
        hex(hash)
    }

    #[test]
    fn large_files_are_cut_and_small_ones_are_not() {
        let dir = tempfile::tempdir().expect("folder");
        let export = |name: &str, bytes: u64| {
            copy(std::io::repeat(7).take(bytes), name, dir.path(), &mut |_| ()).expect("copied")
        };
        assert_eq!(export("small", 10), json!({ "name": "small", "bytes": 10, "sha256": sevens(10) }));
        assert_eq!(export("empty", 0)["bytes"], 0);
        let whole = export("whole", PIECE_BYTES);
        assert!(whole.get("shards").is_none() && dir.path().join("whole").is_file());
        let cut = export("cut", 2 * PIECE_BYTES + 1);
        let shards = cut["shards"].as_array().expect("pieces");
        let bytes: Vec<u64> = shards.iter().map(|shard| shard["bytes"].as_u64().expect("size")).collect();
        assert_eq!((bytes, &shards[2]["file"]), (vec![PIECE_BYTES, PIECE_BYTES, 1], &json!("cut.002")));
        assert_eq!(shards[0]["sha256"], sevens(PIECE_BYTES));
        assert_eq!(cut["sha256"], sevens(2 * PIECE_BYTES + 1));
        let left = std::fs::read_dir(dir.path()).expect("folder").count();
        assert_eq!(left, 6, "small, empty, whole and three pieces");
    }
}
