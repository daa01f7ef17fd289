//! `labels`: lists of labels kept under a name, one JSON file each, with the embeddings that a model gave them.
//!
//! The embeddings go with the identity of the text tower and the compute type. Another model gets its own,
//! which are computed anew and not kept.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ocelli::{MobileClip, templates};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::{ClipArgs, OrientationArg, SaveLabelsArgs};
use crate::clip::{chosen_templates, labels, load};
use crate::home::label_sets;
use crate::message::{message, printable, size};
use crate::progress::CountProgress;
use crate::whole::write_whole;

/// The version of the files.
const FORMAT: u32 = 1;
/// Bytes of a longer name would not fit in a file name everywhere.
const LONGEST_NAME: usize = 100;
/// Embeddings that take longer than this many texts are worth a progress line.
const MANY_TEXTS: usize = 500;

/// Labels, the texts around them, and their embeddings, where a model has been asked.
#[derive(Serialize, Deserialize)]
pub struct LabelSet {
    format: u32,
    /// The labels in their order.
    pub labels: Vec<String>,
    /// Texts with `{}` for the label; without any, a label stands for itself.
    pub templates: Vec<String>,
    embedded: Option<Embedded>,
}

#[derive(Serialize, Deserialize)]
struct Embedded {
    model: Identity,
    /// `[labels, embed_dim]`, rows of length 1.
    embeddings: Vec<Vec<f32>>,
}

/// Two text towers of the same fingerprint and compute type give the same embeddings.
#[derive(Serialize, Deserialize)]
struct Identity {
    /// For people.
    name: String,
    fingerprint: String,
    dtype: String,
}

impl Identity {
    fn of(model: &MobileClip) -> anyhow::Result<Self> {
        let name = model.config().name.clone();
        Ok(Self { name, fingerprint: model.text_fingerprint()?, dtype: model.dtype().name().to_owned() })
    }
}

impl LabelSet {
    /// A set that no model has seen.
    pub fn new(labels: Vec<String>, templates: Vec<String>) -> Self {
        Self { format: FORMAT, labels, templates, embedded: None }
    }

    /// The set that is kept under a name.
    ///
    /// # Errors
    /// When there is none, or its file is damaged.
    pub fn read(name: &str) -> anyhow::Result<Self> {
        let path = path_of(name)?;
        if !path.is_file() {
            bail!(
                "no label set `{name}` under {}; `ocelli labels list` shows what there is",
                label_sets().display()
            );
        }
        Self::open(&path).with_context(|| {
            format!("{} is damaged: `ocelli labels save {name}` makes it anew", path.display())
        })
    }

    fn open(path: &Path) -> anyhow::Result<Self> {
        let set: Self = serde_json::from_slice(&std::fs::read(path)?)?;
        if set.format != FORMAT {
            bail!("it has format {}, this program reads {FORMAT}", set.format);
        }
        if set.labels.is_empty() {
            bail!("it has no labels");
        }
        if let Some(template) = set.templates.iter().find(|t| !t.contains(templates::PLACE)) {
            bail!("template `{template}` has no {} for the label", templates::PLACE);
        }
        if let Some(Embedded { embeddings, .. }) = &set.embedded {
            let dim = embeddings.first().map_or(0, Vec::len);
            let even = embeddings.iter().all(|e| e.len() == dim && e.iter().all(|v| v.is_finite()));
            if embeddings.len() != set.labels.len() || !even {
                bail!("its embeddings do not fit its {} labels", set.labels.len());
            }
        }
        Ok(set)
    }

    /// The embeddings of the labels: those that are kept, or new ones where this model did not make them.
    /// `name` is that of a kept set.
    ///
    /// # Errors
    /// When the model has no text tower.
    pub fn embeddings(&self, name: Option<&str>, model: &MobileClip) -> anyhow::Result<Vec<Vec<f32>>> {
        let (Some(name), Some(kept)) = (name, &self.embedded) else {
            return embed(&self.labels, &self.templates, model);
        };
        let (theirs, ours) = (&kept.model, Identity::of(model)?);
        let dim = kept.embeddings.first().map_or(0, Vec::len);
        let same = theirs.fingerprint == ours.fingerprint && theirs.dtype == ours.dtype;
        if same && dim == model.config().embed_dim {
            return Ok(kept.embeddings.clone());
        }
        let told = |model: &Identity| format!("{} in {}", printable(&model.name), printable(&model.dtype));
        eprintln!(
            "ocelli: label set {name} was embedded by another model ({}, this is {}): embedding it again; \
             `ocelli labels save` with this model would keep that",
            told(theirs),
            told(&ours)
        );
        embed(&self.labels, &self.templates, model)
    }

    fn json(&self, name: &str, path: &Path) -> serde_json::Value {
        let model = self.embedded.as_ref().map(|embedded| &embedded.model);
        json!({
            "name": name,
            "file": path.display().to_string(),
            "labels": self.labels,
            "templates": self.templates,
            "model": model.map(|model| &model.name),
            "fingerprint": model.map(|model| &model.fingerprint),
            "dtype": model.map(|model| &model.dtype),
            "dim": self.embedded.as_ref().and_then(|e| Some(e.embeddings.first()?.len())),
        })
    }
}

/// An embedding for each label, with progress on stderr where there are many texts.
///
/// # Errors
/// When the model has no text tower.
pub fn embed(labels: &[String], templates: &[String], model: &MobileClip) -> anyhow::Result<Vec<Vec<f32>>> {
    let templates: Vec<&str> = templates.iter().map(String::as_str).collect();
    let many = labels.len() * templates.len().max(1) > MANY_TEXTS;
    let mut progress = many.then(|| CountProgress::new("labels", labels.len()));
    let mut embeddings = Vec::with_capacity(labels.len());
    for label in labels {
        embeddings.push(model.embed_label(label, &templates)?);
        if let Some(progress) = &mut progress {
            progress.at(embeddings.len());
        }
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(embeddings)
}

/// The file of a set: its name must be nothing but a name.
fn path_of(name: &str) -> anyhow::Result<PathBuf> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with('.') || !name.bytes().all(plain) {
        bail!(
            "`{}` is no name for a label set: use ASCII letters, digits, `-`, `_` and `.`, at most {LONGEST_NAME}, \
             no `.` in front",
            name.escape_default()
        );
    }
    Ok(label_sets().join(format!("{name}.json")))
}

/// `ocelli labels save`.
pub fn save(args: &SaveLabelsArgs) -> anyhow::Result<bool> {
    let path = path_of(&args.name)?;
    let labels = labels(args.labels.as_deref(), args.labels_file.as_deref())?;
    let mut set = LabelSet::new(labels, chosen_templates(&args.templates)?);
    if let Some(model) = clip_arguments(args) {
        let model = load(&model)?;
        let embeddings = embed(&set.labels, &set.templates, &model)?;
        set.embedded = Some(Embedded { model: Identity::of(&model)?, embeddings });
    }
    let folder = label_sets();
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let replaced = path.exists();
    let mut bytes = serde_json::to_vec(&set)?;
    bytes.push(b'\n');
    write_whole(&path, &bytes)?;
    let embedded = match &set.embedded {
        Some(embedded) => format!("embedded by {}", printable(&embedded.model.name)),
        None => "without embeddings, since no --model was given".to_owned(),
    };
    eprintln!(
        "{} label set {}: {} labels, {} templates, {embedded}",
        if replaced { "replaced" } else { "kept" },
        args.name,
        set.labels.len(),
        set.templates.len()
    );
    if args.json {
        writeln!(std::io::stdout(), "{}", set.json(&args.name, &path))?;
    }
    Ok(true)
}

/// The model that is to embed the labels, if any.
fn clip_arguments(args: &SaveLabelsArgs) -> Option<ClipArgs> {
    Some(ClipArgs {
        model: args.model.clone()?,
        tokenizer: args.tokenizer.clone(),
        device: args.device,
        threads: args.threads,
        dtype: args.dtype,
        orientation: OrientationArg::Exif,
        max_pixels: 0,
    })
}

/// `ocelli labels list`.
pub fn list(as_json: bool) -> anyhow::Result<bool> {
    let sets = kept();
    let mut out = std::io::stdout().lock();
    if sets.is_empty() && !as_json {
        eprintln!("no label sets under {}; `ocelli labels save` makes one", label_sets().display());
    }
    let mut rows = vec![["name", "labels", "templates", "model", "dtype", "size"].map(str::to_owned)];
    for (name, path) in &sets {
        let bytes = std::fs::metadata(path).map_or(0, |found| found.len());
        match LabelSet::open(path) {
            Ok(set) if as_json => {
                let mut line = set.json(name, path);
                line["bytes"] = json!(bytes);
                writeln!(out, "{line}")?;
            }
            Ok(set) => {
                let model = set.embedded.map(|embedded| embedded.model);
                let (model, dtype) = model.map_or(("-".to_owned(), "-".to_owned()), |m| (m.name, m.dtype));
                let counts = [set.labels.len(), set.templates.len()].map(|n| n.to_string());
                let [labels, templates] = counts;
                rows.push([
                    name.clone(),
                    labels,
                    templates,
                    printable(&model),
                    printable(&dtype),
                    size(bytes),
                ]);
            }
            Err(error) => {
                eprintln!("ocelli: {} is damaged: {}", path.display(), message(&error));
                if as_json {
                    let file = path.display().to_string();
                    writeln!(out, "{}", json!({"name": name, "file": file, "error": message(&error)}))?;
                } else {
                    let row = [name, "?", "?", "?", "?", &size(bytes)];
                    rows.push(row.map(str::to_owned));
                }
            }
        }
    }
    if rows.len() > 1 {
        let widths: Vec<usize> =
            (0..6).map(|c| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0)).collect();
        for row in &rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(text, &w)| format!("{text:w$}")).collect();
            writeln!(out, "{}", cells.join("  ").trim_end())?;
        }
    }
    Ok(true)
}

/// Names and files of all sets, in order. Files of other names are not ours.
fn kept() -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(label_sets()).into_iter().flatten().flatten();
    let mut sets: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.strip_suffix(".json")?.to_owned();
            path_of(&name).ok().filter(|path| path.is_file()).map(|path| (name, path))
        })
        .collect();
    sets.sort();
    sets
}

/// `ocelli labels rm`.
pub fn remove(name: &str) -> anyhow::Result<bool> {
    let path = path_of(name)?;
    if !path.is_file() {
        bail!(
            "no label set `{name}` under {}; `ocelli labels list` shows what there is",
            label_sets().display()
        );
    }
    std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    eprintln!("removed label set {name}");
    Ok(true)
}
