//! `list` and `rm`: the models that are kept here.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ocelli::{Checkpoint, ClipCheckpoint};
use ocelli_tiny::Embedded;
use ocelli_weights::{LoadError, Weights};
use serde_json::{Value, json};

use crate::embedded;
use crate::home::{ModelId, PullRecord, models};
use crate::message::{message, size};

/// Configuration files, of which a model has one.
const CONFIGS: [&str; 2] = ["config.json", "open_clip_config.json"];
/// The field of them that marks a random checkpoint of `synth`.
const SYNTH_MARK: &str = "ocelli_synth";

/// A model under the models folder, or an embedded one.
struct Kept {
    id: String,
    dir: PathBuf,
    bytes: u64,
    /// `embedded`, `pulled`, `incomplete`, `synthetic` or `copied`.
    origin: &'static str,
    /// Family and stored types, or why it does not open.
    content: Result<(String, Vec<String>), String>,
}

impl Kept {
    fn new(id: String, dir: PathBuf) -> Self {
        let origin = match PullRecord::read(&dir) {
            _ if embedded::in_dir(&dir).is_some() => "embedded",
            Some(record) if record.complete => "pulled",
            Some(_) => "incomplete",
            None if is_synthetic(&dir) => "synthetic",
            None => "copied",
        };
        let content = content(&dir).map_err(|error| message(&error.into()));
        Self { id, bytes: bytes_under(&dir), dir, origin, content }
    }

    fn json(&self) -> Value {
        let (family, types) = self.content.clone().ok().unzip();
        json!({
            "id": self.id,
            "dir": self.dir.display().to_string(),
            "bytes": self.bytes,
            "origin": self.origin,
            "family": family,
            "stored_dtypes": types,
            "licence": ocelli::licence_file(&self.dir).map(|path| path.display().to_string()),
            "error": self.content.as_ref().err(),
        })
    }

    fn columns(&self) -> [String; 6] {
        let (family, types) = match &self.content {
            Ok((family, types)) => (family.clone(), types.join(",")),
            Err(_) => ("?".to_owned(), "?".to_owned()),
        };
        let dir = self.dir.display().to_string();
        [self.id.clone(), size(self.bytes), family, types, self.origin.to_owned(), dir]
    }
}

/// Family and stored types of a model directory.
fn content(dir: &Path) -> Result<(String, Vec<String>), LoadError> {
    let (family, weights) = if ClipCheckpoint::is_clip(dir) {
        let checkpoint = ClipCheckpoint::open(dir)?;
        (checkpoint.report.family, checkpoint.weights().clone())
    } else {
        let checkpoint = Checkpoint::open(dir, None)?;
        (checkpoint.report.family, checkpoint.weights().clone())
    };
    Ok((family.name().to_owned(), types_of(&weights)))
}

/// Types in which weights are stored.
pub fn types_of(weights: &Weights) -> Vec<String> {
    let mut types: Vec<String> = weights.iter().map(|t| t.dtype.to_string()).collect();
    types.sort_unstable();
    types.dedup();
    types
}

/// Names of all models that are kept here.
pub fn kept_names() -> Vec<String> {
    find_all(&models()).into_iter().map(|(id, _)| id).collect()
}

/// `ocelli list`: the embedded models last.
pub fn list(as_json: bool) -> anyhow::Result<bool> {
    let mut all = find_all(&models());
    for model in Embedded::ALL {
        all.push((model.name().to_owned(), embedded::dir(model)?));
    }
    let kept: Vec<Kept> = all.into_iter().map(|(id, dir)| Kept::new(id, dir)).collect();
    let mut out = std::io::stdout().lock();
    if as_json {
        for model in &kept {
            writeln!(out, "{}", model.json())?;
        }
        return Ok(true);
    }
    let mut rows = vec![["name", "size", "family", "dtype", "origin", "where"].map(str::to_owned)];
    rows.extend(kept.iter().map(Kept::columns));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    for row in &rows {
        for (text, &width) in row.iter().zip(&widths) {
            write!(out, "{text:width$}  ")?;
        }
        writeln!(out, "{}", row[5])?;
    }
    if kept.len() == Embedded::ALL.len() {
        eprintln!("no other models under {}; `ocelli pull fastvlm-0.5b` gets one", models().display());
    }
    for model in &kept {
        if let Err(error) = &model.content {
            eprintln!("{}: {error}", model.id);
        }
    }
    Ok(true)
}

/// `ocelli rm`.
pub fn remove(name: &str, yes: bool) -> anyhow::Result<bool> {
    if Embedded::named(name).is_some() {
        bail!("{name} is part of the program and cannot be removed");
    }
    let id = ModelId::parse(name)?;
    let as_written = models().join(name);
    let (shown, dir) = if !name.contains('/') && is_model(&as_written) {
        (name, as_written)
    } else {
        (id.as_str(), id.dir())
    };
    check_inside(shown, &dir)?;
    let bytes = size(bytes_under(&dir));
    if !yes && !confirm(&format!("Remove {shown} ({bytes}, {})?", dir.display()))? {
        eprintln!("nothing removed");
        return Ok(false);
    }
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    if let Some(organisation) = dir.parent().filter(|parent| *parent != models()) {
        // Stays when it holds other models.
        let _ = std::fs::remove_dir(organisation);
    }
    eprintln!("removed {shown}, {bytes}");
    Ok(true)
}

/// Refuse everything but a model directory that lies in our own folder, links included.
fn check_inside(name: &str, dir: &Path) -> anyhow::Result<()> {
    if !is_model(dir) {
        bail!("no model `{name}` under {}; `ocelli list` shows what there is", models().display());
    }
    let real = |path: &Path| path.canonicalize().with_context(|| format!("reading {}", path.display()));
    let inside = real(&models())?.join(dir.strip_prefix(models()).unwrap_or(dir));
    if real(dir)? != inside {
        bail!("{} is a link to another place: remove it yourself", dir.display());
    }
    Ok(())
}

fn confirm(question: &str) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("nobody can be asked here: use --yes to remove without a question");
    }
    eprint!("{question} [y/N] ");
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Models directly under a folder and one below, as `NAME` and `ORG/REPO`, in order.
fn find_all(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for (name, dir) in folders(folder) {
        if is_model(&dir) {
            found.push((name, dir));
            continue;
        }
        let below = folders(&dir).into_iter().filter(|(_, dir)| is_model(dir));
        found.extend(below.map(|(repository, dir)| (format!("{name}/{repository}"), dir)));
    }
    found
}

fn folders(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    // The embedded models lie in a hidden one.
    let mut folders: Vec<(String, PathBuf)> = entries
        .filter(|path| path.is_dir())
        .filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)))
        .filter(|(name, _)| !name.starts_with('.'))
        .collect();
    folders.sort();
    folders
}

fn is_model(dir: &Path) -> bool {
    CONFIGS.iter().any(|config| dir.join(config).is_file()) || PullRecord::read(dir).is_some()
}

fn is_synthetic(dir: &Path) -> bool {
    CONFIGS.iter().any(|config| {
        let config = std::fs::read(dir.join(config)).unwrap_or_default();
        serde_json::from_slice::<Value>(&config).is_ok_and(|config| config.get(SYNTH_MARK).is_some())
    })
}

/// Bytes of all files of a directory, folders below included, links not followed.
fn bytes_under(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_under(&entry.path()),
            Ok(found) if found.is_file() => found.len(),
            _ => 0,
        })
        .sum()
}
