//! From the program to a directory.
//!
//! Each file is compared with the embedded one before the directory is used, and written aside and renamed where it
//! is missing or damaged. So nobody finds half a file, and several processes may do this at once: whoever renames
//! last puts the same bytes there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Embedded, File};

/// Why a model could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}: {} cannot be unpacked there", path.display(), model.name())]
pub struct UnpackError {
    /// The model.
    pub model: Embedded,
    /// What could not be written.
    pub path: PathBuf,
    /// Why not.
    pub source: std::io::Error,
}

/// Write a model to `into/HASH/NAME`, or find it there, and return that directory. What is there and right stays
/// untouched, so the directory may be read-only by then.
///
/// # Errors
/// When a file or directory cannot be written.
pub fn unpack(model: Embedded, into: &Path) -> Result<PathBuf, UnpackError> {
    let dir = into.join(model.content_hash()).join(model.name());
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| UnpackError { model, path, source }
    };
    fs::create_dir_all(&dir).map_err(failed(&dir))?;
    for file in model.files() {
        let path = dir.join(file.name);
        if !holds(&path, file) {
            write(&path, file).map_err(failed(&path))?;
        }
    }
    Ok(dir)
}

/// Whether a file has exactly these bytes.
fn holds(path: &Path, file: &File) -> bool {
    let same_length = fs::metadata(path).is_ok_and(|found| found.len() == file.bytes.len() as u64);
    same_length && fs::read(path).is_ok_and(|bytes| bytes == file.bytes)
}

/// Write a file aside and rename it.
fn write(path: &Path, file: &File) -> std::io::Result<()> {
    // Threads of one process must not share the file aside.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let aside = path.with_file_name(format!("{}.{}-{next}.partial", file.name, std::process::id()));
    let written = fs::File::create(&aside)
        .and_then(|mut to| to.write_all(file.bytes).and_then(|()| to.sync_all()))
        .and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // What is left of it is of no use; that it stays is a lesser evil than another error.
        let _ = fs::remove_file(&aside);
    }
    written
}
