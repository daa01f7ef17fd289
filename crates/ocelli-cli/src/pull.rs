//! `ocelli pull`: a model from the hub, file by file, checked, and continued where it ended.
//!
//! A file grows under the name `NAME.HASH.partial` and gets its own name only when its hash is right.
//! The beginning of the hash in the name keeps pieces of two versions apart.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::home::{ModelId, PullRecord};
use crate::hub::{Hash, Hub, HubError, Listing, RemoteFile};
use crate::message::{printable, size};
use crate::progress::Progress;

const PARTIAL: &str = ".partial";
const LOCK: &str = ".ocelli-pull.lock";
/// Bytes read and written at once.
const PIECE: usize = 1 << 18;
/// How often a broken connection is tried again without a byte more.
const ATTEMPTS: u32 = 4;
/// Before the first of them; doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Lines of a licence that are shown.
const LICENCE_LINES: usize = 24;

/// Run the command.
pub fn pull(name: &str, endpoint: Option<&str>, as_json: bool) -> anyhow::Result<bool> {
    let id = ModelId::parse(name)?;
    if !id.is_repository() {
        bail!("`{name}` is not a model on the hub: it is a short name or ORG/REPO; see `ocelli pull --help`");
    }
    let hub = Hub::new(endpoint)?;
    let mut listing = hub.list(&id)?;
    listing.files = wanted(std::mem::take(&mut listing.files));
    if !listing.files.iter().any(|file| is_weights(&file.name)) {
        bail!("{} has no weights that ocelli reads: neither *.safetensors nor *.pt", id.as_str());
    }
    for file in &mut listing.files {
        if file.hash.is_none() || file.bytes.is_none() {
            hub.describe(&id, file)?;
        }
        if file.hash.is_none() {
            eprintln!("ocelli: the server tells no hash of {}: it cannot be checked", file.name);
        }
    }
    let dir = id.dir();
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let _lock = lock(&dir, &id)?;
    let taken = bring(&hub, &id, &listing, &dir)?;
    let bytes: u64 = listing.files.iter().filter_map(|file| file.bytes).sum();
    let unchecked = listing.files.iter().filter(|file| file.hash.is_none()).count();
    let checked = if unchecked == 0 { "all".to_owned() } else { format!("all but {unchecked}") };
    eprintln!(
        "{}: {} files, {}, {taken} downloaded, {checked} checked",
        id.as_str(),
        listing.files.len(),
        size(bytes)
    );
    let mut out = std::io::stdout();
    if as_json {
        let report = json!({
            "id": id.as_str(),
            "dir": dir.display().to_string(),
            "files": listing.files.len(),
            "downloaded": taken,
            "bytes": bytes,
            "commit": listing.commit,
            "licence": ocelli::licence_file(&dir).map(|path| path.display().to_string()),
        });
        writeln!(out, "{report}")?;
    } else {
        writeln!(out, "{}", dir.display())?;
    }
    Ok(true)
}

/// Make the directory hold every file of the list; returns how many were downloaded.
fn bring(hub: &Hub, id: &ModelId, listing: &Listing, dir: &Path) -> anyhow::Result<usize> {
    let mut record = PullRecord {
        id: id.as_str().to_owned(),
        endpoint: hub.endpoint().to_owned(),
        commit: listing.commit.clone(),
        complete: false,
    };
    let mut missing = Vec::new();
    for file in &listing.files {
        if !is_whole(&dir.join(&file.name), file)? {
            missing.push(file);
        }
    }
    // Licence first, so that it is read before the weights come.
    missing.sort_by_key(|file| (is_weights(&file.name), !is_licence(&file.name), &file.name));
    if !missing.is_empty() {
        check_space(dir, &missing)?;
        record.write(dir)?;
    }
    let mut shown = missing.is_empty();
    for &file in &missing {
        if is_weights(&file.name) && !shown {
            show_licence(id, listing, dir);
            shown = true;
        }
        download(hub, id, file, dir)?;
    }
    record.complete = true;
    if PullRecord::read(dir).as_ref() != Some(&record) {
        record.write(dir)?;
    }
    if !shown {
        show_licence(id, listing, dir);
    }
    Ok(missing.len())
}

/// The files of a repository that a model is made of. Weights are the shards of an index, else
/// `model.safetensors`, else all `*.safetensors`, and `*.pt` only where there is nothing better.
fn wanted(files: Vec<RemoteFile>) -> Vec<RemoteFile> {
    let has = |name: &str| files.iter().any(|file| file.name == name);
    let (index, single) = (has("model.safetensors.index.json"), has("model.safetensors"));
    let any = files.iter().any(|file| is_plain(&file.name) && file.name.ends_with(".safetensors"));
    let wants = |name: &str| {
        if name.ends_with(".safetensors") {
            let shard = name.starts_with("model-") && name.contains("-of-");
            return if index { shard } else { !single || name == "model.safetensors" };
        }
        (name.ends_with(".pt") && !any) || is_licence(name) || is_description(name)
    };
    let keep: Vec<bool> = files.iter().map(|file| is_plain(&file.name) && wants(&file.name)).collect();
    files.into_iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect()
}

/// A name without folders and without anything that a path or an address would read otherwise.
fn is_plain(name: &str) -> bool {
    !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".pt")
}

fn is_licence(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["license", "licence", "notice"].iter().any(|begin| name.starts_with(begin))
}

/// What says how a model is built, how text becomes tokens and pictures become pixels.
fn is_description(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "open_clip_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "video_preprocessor_config.json",
        "vocab.json",
    ];
    NAMES.contains(&name) || name.to_ascii_lowercase().starts_with("readme")
}

/// Only one `pull` at a time may write a model; the lock goes with the process.
fn lock(dir: &Path, id: &ModelId) -> anyhow::Result<File> {
    let path = dir.join(LOCK);
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another `ocelli pull` is at work on {}", id.as_str()),
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("locking {}", path.display())),
    }
}

/// Whether a file is there and right.
fn is_whole(path: &Path, file: &RemoteFile) -> anyhow::Result<bool> {
    let Ok(found) = std::fs::metadata(path) else { return Ok(false) };
    if !found.is_file() || file.bytes.is_some_and(|bytes| bytes != found.len()) {
        return Ok(false);
    }
    hash_is_right(path, file)
}

/// Whether the bytes of a file have the hash they should have; true when there is none to compare.
fn hash_is_right(path: &Path, file: &RemoteFile) -> anyhow::Result<bool> {
    let reading = || format!("reading {}", path.display());
    let found = match &file.hash {
        None => return Ok(true),
        Some(Hash::Sha256(_)) => digest(Sha256::new(), path).with_context(reading)?,
        Some(Hash::GitBlob(_)) => {
            let bytes = std::fs::metadata(path).with_context(reading)?.len();
            digest(Sha1::new_with_prefix(format!("blob {bytes}\0")), path).with_context(reading)?
        }
    };
    Ok(file.hash.as_ref().is_some_and(|hash| hash.hex() == found))
}

fn digest<D: Digest>(mut state: D, path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            n => state.update(&piece[..n]),
        }
    }
    Ok(state.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn check_space(dir: &Path, missing: &[&RemoteFile]) -> anyhow::Result<()> {
    let rest = |file: &&RemoteFile| file.bytes.unwrap_or(0).saturating_sub(length(&partial_path(dir, file)));
    let needed: u64 = missing.iter().map(rest).fold(0, u64::saturating_add);
    // Not every file system can say; then writing finds out.
    if let Ok(free) = fs4::available_space(dir)
        && free < needed
    {
        bail!(
            "{} needs {} more, but only {} are free there; free some space or set OCELLI_HOME to another disk",
            dir.display(),
            size(needed),
            size(free)
        );
    }
    Ok(())
}

fn partial_path(dir: &Path, file: &RemoteFile) -> PathBuf {
    let version = file.hash.as_ref().map_or("unknown", |hash| &hash.hex()[..12]);
    dir.join(format!("{}.{version}{PARTIAL}", file.name))
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

/// Why a piece of a file did not come.
enum Broken {
    /// Trying again may help.
    Passing(anyhow::Error),
    /// It will not.
    Final(anyhow::Error),
}

impl From<HubError> for Broken {
    fn from(error: HubError) -> Self {
        if error.may_pass() { Self::Passing(error.into()) } else { Self::Final(error.into()) }
    }
}

/// One file, from what is there of it to its hash and its own name.
fn download(hub: &Hub, id: &ModelId, file: &RemoteFile, dir: &Path) -> anyhow::Result<()> {
    let partial = partial_path(dir, file);
    remove_other_versions(dir, file, &partial)?;
    let mut progress = Progress::new(&file.name, file.bytes.unwrap_or(0));
    let mut failures = 0;
    loop {
        let before = length(&partial);
        match append(hub, id, file, &partial, &mut progress) {
            Ok(()) => break,
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Passing(error)) => {
                failures = if length(&partial) > before { 1 } else { failures + 1 };
                if failures >= ATTEMPTS {
                    let there = size(length(&partial));
                    return Err(error.context(format!(
                        "{} ended after {there}; run `ocelli pull {}` again, it goes on from there",
                        file.name,
                        id.as_str()
                    )));
                }
                std::thread::sleep(FIRST_WAIT * 2u32.pow(failures - 1));
            }
        }
    }
    progress.finish();
    if !hash_is_right(&partial, file)? {
        remove(&partial)?;
        bail!(
            "{} came with the wrong hash and was removed: it was damaged on the way or has just been replaced; \
             run `ocelli pull {}` again",
            file.name,
            id.as_str()
        );
    }
    let path = dir.join(&file.name);
    let whole = OpenOptions::new().append(true).open(&partial).and_then(|f| f.sync_all());
    whole
        .and_then(|()| std::fs::rename(&partial, &path))
        .with_context(|| format!("writing {}", path.display()))
}

/// Ask for what is missing of a file and write it.
fn append(
    hub: &Hub,
    id: &ModelId,
    file: &RemoteFile,
    partial: &Path,
    progress: &mut Progress,
) -> Result<(), Broken> {
    let mut out =
        OpenOptions::new().create(true).append(true).open(partial).map_err(|e| write_error(partial, e))?;
    let mut have = length(partial);
    // Without a hash nothing tells whether the beginning belongs to the same version.
    if file.hash.is_none() || file.bytes.is_some_and(|bytes| have > bytes) {
        out.set_len(0).map_err(|e| write_error(partial, e))?;
        have = 0;
    }
    if have > 0 && file.bytes == Some(have) {
        return Ok(());
    }
    let mut piece = hub.open(id, file, have)?;
    if piece.begin != have {
        out.set_len(0).map_err(|e| write_error(partial, e))?;
        have = 0;
        if piece.begin != 0 {
            let begin = piece.begin;
            return Err(Broken::Passing(anyhow::anyhow!(
                "the server began at byte {begin}, which was not asked for"
            )));
        }
    }
    let mut buffer = vec![0; PIECE];
    loop {
        progress.at(have);
        let n = piece.reader.read(&mut buffer).map_err(|e| Broken::Passing(e.into()))?;
        if n == 0 {
            break;
        }
        out.write_all(&buffer[..n]).map_err(|e| write_error(partial, e))?;
        have += n as u64;
        if let Some(bytes) = file.bytes
            && have > bytes
        {
            remove(partial).map_err(Broken::Final)?;
            let sent = format!("{} is longer than the {bytes} bytes the server told", file.name);
            return Err(Broken::Final(anyhow::anyhow!("{sent}; it was removed, try again later")));
        }
    }
    match file.bytes {
        Some(bytes) if have < bytes => {
            Err(Broken::Passing(anyhow::anyhow!("the server ended at byte {have} of {bytes}")))
        }
        _ => Ok(()),
    }
}

fn write_error(path: &Path, error: std::io::Error) -> Broken {
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let advice = if full { "; free some space and run the same command again" } else { "" };
    Broken::Final(anyhow::anyhow!("cannot write {}: {error}{advice}", path.display()))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    std::fs::remove_file(path).with_context(|| format!("removing {}", path.display()))
}

/// Pieces of earlier versions of the same file will never be completed.
fn remove_other_versions(dir: &Path, file: &RemoteFile, partial: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let version = name.strip_prefix(&file.name).and_then(|rest| rest.strip_prefix('.'));
        let version = version.and_then(|rest| rest.strip_suffix(PARTIAL));
        if version.is_some_and(|version| !version.contains('.')) && path != partial {
            remove(&path)?;
        }
    }
    Ok(())
}

/// The notice goes to stderr, the file stays beside the weights.
fn show_licence(id: &ModelId, listing: &Listing, dir: &Path) {
    let card = printable(listing.licence.as_deref().unwrap_or("unnamed"));
    let text = ocelli::licence_file(dir).and_then(|path| Some((std::fs::read(&path).ok()?, path)));
    let Some((text, path)) = text else {
        eprintln!(
            "{} has no licence file; its card names: {card}. Read its page before you use it.",
            id.as_str()
        );
        return;
    };
    eprintln!("\nThe weights of {} have their own licence (its card names: {card}):\n", id.as_str());
    let text = printable(&String::from_utf8_lossy(&text));
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().take(LICENCE_LINES) {
        eprintln!("  {line}");
    }
    let more = lines.len().saturating_sub(LICENCE_LINES);
    let more = if more > 0 { format!("({more} more lines) ") } else { String::new() };
    eprintln!("\n  {more}The whole text: {}\n", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(given: &[&str]) -> Vec<String> {
        let file = |name: &&str| RemoteFile { name: (*name).to_owned(), bytes: None, hash: None };
        wanted(given.iter().map(file).collect()).into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn only_what_a_model_is_made_of_is_taken() {
        let kept = ["config.json", "LICENSE", "README.md", "model.safetensors", "tokenizer.json"];
        let left =
            [".gitattributes", "llava_qwen.py", "onnx/model.onnx", "../config.json", "pytorch_model.bin"];
        assert_eq!(names(&[&kept[..], &left[..]].concat()), kept);
    }

    #[test]
    fn weights_are_taken_once() {
        let shards = ["model.safetensors.index.json", "model-00001-of-00002.safetensors"];
        assert_eq!(names(&[&shards[..], &["consolidated.safetensors"]].concat()), shards);
        assert_eq!(names(&["model.safetensors", "model.fp16.safetensors"]), ["model.safetensors"]);
        assert_eq!(names(&["a.pt", "open_clip_model.safetensors"]), ["open_clip_model.safetensors"]);
        assert_eq!(names(&["mobileclip_s0.pt"]), ["mobileclip_s0.pt"]);
    }

    #[test]
    fn hashes_are_those_of_git_and_sha256() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("f");
        std::fs::write(&path, "hello\n").expect("write");
        let is = |hash| {
            let file = RemoteFile { name: "f".into(), bytes: None, hash: Some(hash) };
            hash_is_right(&path, &file).expect("read")
        };
        // `git hash-object` and `sha256sum` of the same file.
        assert!(is(Hash::GitBlob("ce013625030ba8dba906f756967f9e9ca394464a".into())));
        assert!(is(Hash::Sha256("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".into())));
        assert!(!is(Hash::GitBlob("0".repeat(40))));
    }
}
