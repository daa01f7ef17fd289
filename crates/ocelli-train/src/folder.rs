//! Folders of checkpoints: written aside, renamed when they are whole.

use std::path::Path;

use crate::TrainError;

/// Write a folder beside its place and rename it; what an interrupted attempt has left goes first.
///
/// # Errors
/// When something is at its place, or the error of `write`; nothing is left then.
pub(crate) fn write_whole(
    dir: &Path,
    write: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let failed = |source| TrainError::Write { path: dir.to_owned(), source };
    if dir.exists() {
        return Err(failed(std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            "it exists; give another one",
        )));
    }
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = dir.with_file_name(name);
    match std::fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => std::fs::create_dir_all(&partial).map_err(failed)?,
    }
    let written = write(&partial).and_then(|()| std::fs::rename(&partial, dir).map_err(failed));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_dir_all(&partial);
    }
    written
}

/// Copy everything but weights from one checkpoint to another: configs, tokenizer, licence.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn copy_beside_weights(from: &Path, to: &Path) -> Result<(), TrainError> {
    let read = |e: std::io::Error| TrainError::Read { path: from.to_owned(), reason: e.to_string() };
    for entry in std::fs::read_dir(from).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let weights = [".safetensors", ".pt", ".bin", ".index.json"].iter().any(|end| name.ends_with(end));
        if path.is_file() && !weights {
            let to = to.join(&name);
            std::fs::copy(&path, &to).map_err(|source| TrainError::Write { path: to, source })?;
        }
    }
    Ok(())
}
