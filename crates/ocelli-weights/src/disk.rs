//! Whether a directory has room, before hours of writing find out.

use std::path::{Path, PathBuf};

/// The disk is too small.
#[derive(Debug, thiserror::Error)]
#[error("{} needs {needed} bytes, but only {free} are free there", dir.display())]
pub struct DiskFull {
    /// The directory.
    pub dir: PathBuf,
    /// Bytes that it is to hold.
    pub needed: u64,
    /// Bytes free.
    pub free: u64,
}

/// Fail unless `needed` bytes are free.
pub(crate) fn check_space(dir: &Path, needed: u64) -> Result<(), DiskFull> {
    // Not every file system can say; then writing finds out.
    match available_space(dir) {
        Ok(free) if free < needed => Err(DiskFull { dir: dir.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

#[cfg(not(target_family = "wasm"))]
fn available_space(dir: &Path) -> std::io::Result<u64> {
    fs4::available_space(dir)
}

#[cfg(target_family = "wasm")]
fn available_space(_dir: &Path) -> std::io::Result<u64> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_any_disk_has_is_an_error_with_both_figures() {
        let dir = std::env::temp_dir();
        assert!(check_space(&dir, 0).is_ok());
        let error = check_space(&dir, u64::MAX).expect_err("no disk is so large").to_string();
        assert!(error.contains(&format!("needs {} bytes, but only", u64::MAX)), "{error}");
    }
}
