//! What can go wrong when scenes are written to files.

use std::path::{Path, PathBuf};

/// Why a data set could not be written. Messages say what to do next where it is known.
#[derive(Debug, thiserror::Error)]
pub enum DrawnError {
    /// The directory holds something else.
    #[error("{} holds other files: choose an empty directory, or one of a data set to go on with", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds another data set.
    #[error(
        "{} holds scenes of {found}, not of {asked}: choose another directory, or go on with the same settings",
        path.display()
    )]
    OtherDataset {
        /// The directory.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// A setting that cannot be.
    #[error("{0}")]
    Setting(String),
    /// A picture could not be encoded.
    #[error("encoding a picture: {0}")]
    Png(#[from] png::EncodingError),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl DrawnError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, DrawnError>;
