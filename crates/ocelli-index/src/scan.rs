//! What changed under some directories since the index last looked: a `stat` for each file, no more.

use std::collections::{HashMap, HashSet};
use std::fs::{FileType, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::store::{Failure, Index, path_in};
use crate::{IndexError, Result};

/// Which files of a directory count.
#[derive(Clone, Copy, Debug)]
pub struct ScanOptions<'a> {
    /// Endings of names, in lower case and without dot.
    pub extensions: &'a [&'a str],
    /// Whether names that begin with a dot are looked into.
    pub hidden: bool,
    /// Whether files that failed before are tried again although they have not changed.
    pub retry: bool,
}

/// A file to look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Absolute, without symbolic links in the directories that were asked for.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Scan {
    /// New or changed files, in the order of the paths.
    pub candidates: Vec<Candidate>,
    /// Files that are as they were.
    pub unchanged: usize,
    /// Directories that could not be read; what the index has of them stays.
    pub unreadable: Vec<Failure>,
    gone: Vec<PathBuf>,
}

impl Scan {
    /// Files of the index that are no longer there.
    pub fn gone(&self) -> &[PathBuf] {
        &self.gone
    }
}

impl Index {
    /// Walk `roots` and compare them with the index. Directories behind symbolic links are not entered.
    ///
    /// # Errors
    /// When a root does not exist, or the database cannot be read.
    pub fn scan(&self, roots: &[PathBuf], options: &ScanOptions<'_>) -> Result<Scan> {
        let roots = roots
            .iter()
            .map(|root| root.canonicalize().map_err(IndexError::io(root)))
            .collect::<Result<Vec<_>>>()?;
        let mut known = self.files_under(&roots)?;
        let mut walk = Walk { options, seen: HashSet::new(), scan: Scan::default(), known: &mut known };
        for root in &roots {
            walk.enter(root);
        }
        let mut scan = walk.scan;
        let hidden_from_us = |path: &Path| scan.unreadable.iter().any(|dir| path.starts_with(&dir.path));
        let mut gone: Vec<PathBuf> = known.into_keys().filter(|path| !hidden_from_us(path)).collect();
        gone.sort();
        scan.gone = gone;
        scan.candidates.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(scan)
    }

    fn files_under(&self, roots: &[PathBuf]) -> Result<HashMap<PathBuf, Known>> {
        let mut query = self.db.prepare("SELECT path, size, modified_ns, reason IS NOT NULL FROM files")?;
        let rows = query.query_map([], |row| {
            let known =
                Known { size: row.get::<_, i64>(1)? as u64, modified_ns: row.get(2)?, failed: row.get(3)? };
            Ok((path_in(row, 0)?, known))
        })?;
        let under = |path: &Path| roots.iter().any(|root| path.starts_with(root));
        rows.filter(|row| row.as_ref().map_or(true, |(path, _)| under(path))).map(|row| Ok(row?)).collect()
    }
}

/// A file as the index knows it.
struct Known {
    size: u64,
    modified_ns: i64,
    failed: bool,
}

struct Walk<'a> {
    options: &'a ScanOptions<'a>,
    /// Roots may lie in each other.
    seen: HashSet<PathBuf>,
    scan: Scan,
    /// Files that were not met yet.
    known: &'a mut HashMap<PathBuf, Known>,
}

impl Walk<'_> {
    /// A root: a directory, or one file.
    fn enter(&mut self, root: &Path) {
        match std::fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => self.directory(root),
            Ok(metadata) => self.file(root, &metadata),
            Err(error) => self.failed(root, &error),
        }
    }

    fn directory(&mut self, dir: &Path) {
        if !self.seen.insert(dir.to_owned()) {
            return;
        }
        let entries = match std::fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => return self.failed(dir, &error),
        };
        for entry in entries {
            let path = entry.path();
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if hidden && !self.options.hidden {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.directory(&path),
                Ok(kind) if self.counts(&path, kind) => match std::fs::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => self.file(&path, &metadata),
                    // A link to a directory, or one that leads nowhere.
                    _ => {}
                },
                Ok(_) => {}
                Err(error) => self.failed(&path, &error),
            }
        }
    }

    fn counts(&self, path: &Path, kind: FileType) -> bool {
        let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        (kind.is_file() || kind.is_symlink())
            && ending.is_some_and(|ending| self.options.extensions.contains(&ending.as_str()))
    }

    fn file(&mut self, path: &Path, metadata: &Metadata) {
        if !self.seen.insert(path.to_owned()) {
            return;
        }
        let candidate =
            Candidate { path: path.to_owned(), size: metadata.len(), modified_ns: modified_ns(metadata) };
        let known = self.known.remove(path);
        let same = known.is_some_and(|known| {
            known.size == candidate.size
                && known.modified_ns == candidate.modified_ns
                && !(known.failed && self.options.retry)
        });
        if same { self.scan.unchanged += 1 } else { self.scan.candidates.push(candidate) }
    }

    fn failed(&mut self, path: &Path, error: &std::io::Error) {
        self.scan.unreadable.push(Failure { path: path.to_owned(), reason: error.to_string() });
    }
}

/// Nanoseconds since 1970, negative before; 0 where the system has no such time.
fn modified_ns(metadata: &Metadata) -> i64 {
    let Ok(time) = metadata.modified() else { return 0 };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i64,
        Err(before) => -(before.duration().as_nanos() as i64),
    }
}
