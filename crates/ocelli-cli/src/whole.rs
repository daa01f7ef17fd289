//! Files that are there whole or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Write a file aside and rename it, so that nobody ever finds half of it.
///
/// # Errors
/// When it cannot be written; nothing is left of it then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    replace(path, |aside| {
        let mut file = std::fs::File::create(aside)?;
        file.write_all(bytes)?;
        Ok(file.sync_all()?)
    })
}

/// As [`write_whole`], with a file that `write` makes.
///
/// # Errors
/// What `write` returns, or when its file cannot be renamed; nothing is left of it then.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.partial", std::process::id()));
    let aside = PathBuf::from(aside);
    let written = write(&aside).and_then(|()| Ok(std::fs::rename(&aside, path)?));
    if written.is_err() {
        // What is left of it is of no use; that it stays is a lesser evil than another error.
        let _ = std::fs::remove_file(&aside);
    }
    written.with_context(|| format!("writing {}", path.display()))
}
