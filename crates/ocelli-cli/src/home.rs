//! Where models live and how a name finds one.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ocelli_tiny::Embedded;
use serde_json::{Value, json};

use crate::embedded;

/// Short names that `pull` and `--model` know, and the repositories they stand for.
pub const SHORT_NAMES: [(&str, &str); 14] = [
    ("fastvlm-0.5b", "apple/FastVLM-0.5B"),
    ("fastvlm-1.5b", "apple/FastVLM-1.5B"),
    ("fastvlm-7b", "apple/FastVLM-7B"),
    ("mobileclip-s0", "apple/MobileCLIP-S0"),
    ("mobileclip-s1", "apple/MobileCLIP-S1"),
    ("mobileclip-s2", "apple/MobileCLIP-S2"),
    ("mobileclip-b", "apple/MobileCLIP-B"),
    ("mobileclip-blt", "apple/MobileCLIP-B-LT"),
    ("mobileclip2-s0", "timm/MobileCLIP2-S0-OpenCLIP"),
    ("mobileclip2-s2", "timm/MobileCLIP2-S2-OpenCLIP"),
    ("mobileclip2-s3", "timm/MobileCLIP2-S3-OpenCLIP"),
    ("mobileclip2-s4", "timm/MobileCLIP2-S4-OpenCLIP"),
    ("mobileclip2-b", "timm/MobileCLIP2-B-OpenCLIP"),
    ("mobileclip2-l14", "timm/MobileCLIP2-L-14-OpenCLIP"),
];
/// What `pull` notes beside the files it takes.
const RECORD: &str = "ocelli-pull.json";

/// Where everything of ours lives: `OCELLI_HOME`, or the user's data directory.
pub fn home() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("OCELLI_HOME")
        .or_else(|| from("XDG_DATA_HOME").map(|d| d.join("ocelli")))
        .or_else(|| from("HOME").map(|d| d.join(".local/share/ocelli")))
        .unwrap_or_else(|| PathBuf::from(".ocelli"))
}

/// The folder of the models.
pub fn models() -> PathBuf {
    home().join("models")
}

/// The folder of the label sets.
pub fn label_sets() -> PathBuf {
    home().join("labels")
}

/// Where packed weights are kept; `None` where `OCELLI_PACKED=off` says so.
pub fn packed() -> Option<PathBuf> {
    let off = std::env::var_os("OCELLI_PACKED").is_some_and(|value| value == "off");
    (!off).then(|| home().join("packed"))
}

/// The name of a model under [`models`], `NAME` or `ORG/REPO`: safe as a path and in an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelId(String);

impl ModelId {
    /// Check a name; short names become their repositories.
    ///
    /// # Errors
    /// When it is no name, such as `../x` or `/etc`.
    pub fn parse(name: &str) -> anyhow::Result<Self> {
        let short = SHORT_NAMES.iter().find(|(short, _)| short.eq_ignore_ascii_case(name));
        if let Some((_, repository)) = short {
            return Ok(Self((*repository).to_owned()));
        }
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| plain(part)) {
            let short = SHORT_NAMES.map(|(short, _)| short).join(", ");
            bail!("`{}` is not a model's name: it is {short} or ORG/REPO", name.escape_default());
        }
        Ok(Self(name.to_owned()))
    }

    /// As written in an address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names a repository, `ORG/REPO`.
    pub fn is_repository(&self) -> bool {
        self.0.contains('/')
    }

    /// Where this model lives.
    pub fn dir(&self) -> PathBuf {
        models().join(&self.0)
    }
}

/// The directory of a model named by the user: an embedded model, a directory, or a model that is kept here.
///
/// # Errors
/// When there is none, it was pulled only in part, or there is no place to unpack it.
pub fn find(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(model) = Embedded::named(name) {
        return embedded::dir(model);
    }
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    // A model kept under exactly this name goes before what a short name stands for.
    let as_written = models().join(name);
    let Ok(id) = ModelId::parse(name) else {
        bail!("no model `{}`: there is no such directory", name.escape_default());
    };
    let dir = if !name.contains('/') && as_written.is_dir() { as_written } else { id.dir() };
    if !dir.is_dir() {
        let hint = if id.is_repository() { format!("; `ocelli pull {name}` gets it") } else { String::new() };
        bail!("no model `{name}`: it is neither a directory nor under {}{hint}", models().display());
    }
    if PullRecord::read(&dir).is_some_and(|record| !record.complete) {
        bail!("{} is not complete: run `ocelli pull {name}` again, it goes on where it ended", id.as_str());
    }
    Ok(dir)
}

/// What is known about where a model came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullRecord {
    /// The repository.
    pub id: String,
    /// The server.
    pub endpoint: String,
    /// The version of the repository, where the server told it.
    pub commit: Option<String>,
    /// Whether every file is there.
    pub complete: bool,
}

impl PullRecord {
    /// Of a model directory, if `pull` made it. A damaged record counts as an incomplete pull.
    pub fn read(dir: &Path) -> Option<Self> {
        let text = std::fs::read(dir.join(RECORD)).ok()?;
        let record: Value = serde_json::from_slice(&text).unwrap_or_default();
        let text = |field: &str| record[field].as_str().map(str::to_owned);
        Some(Self {
            id: text("id").unwrap_or_default(),
            endpoint: text("endpoint").unwrap_or_default(),
            commit: text("commit"),
            complete: record["complete"].as_bool().unwrap_or(false),
        })
    }

    /// Keep it in a model directory.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(RECORD);
        let record = json!({
            "id": self.id, "endpoint": self.endpoint, "commit": self.commit, "complete": self.complete,
        });
        std::fs::write(&path, format!("{record:#}\n")).with_context(|| format!("writing {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_stand_for_repositories() {
        assert_eq!(ModelId::parse("fastvlm-7b").expect("name").as_str(), "apple/FastVLM-7B");
        assert_eq!(ModelId::parse("FastVLM-0.5B").expect("name").as_str(), "apple/FastVLM-0.5B");
        assert_eq!(ModelId::parse("mobileclip-blt").expect("name").as_str(), "apple/MobileCLIP-B-LT");
        assert!(!ModelId::parse("random-tiny").expect("name").is_repository());
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in
            ["", "/", "..", "../x", "a/..", "a/../b", "/etc", "a/b/c", ".hidden", "a\\b", "a b", "a?b"]
        {
            assert!(ModelId::parse(name).is_err(), "{name}");
        }
    }
}
