//! Everything that can be wrong with photo search.

use std::path::PathBuf;

use ocelli_index::IndexError;

/// Why photos could not be indexed or searched.
#[derive(Debug, thiserror::Error)]
pub enum PhotoError {
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ocelli::Error),
    /// The model could not be loaded.
    #[error("{0}")]
    Load(String),
    /// A picture that a query names.
    #[error(transparent)]
    Image(#[from] ocelli::ImageError),
    /// A file that a query names.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The model of the search is not that of the index.
    #[error(
        "the index was made with the model {stored}, this one is {asked}: give the same --model, or index again into another file"
    )]
    OtherModel {
        /// The index's.
        stored: String,
        /// The search's.
        asked: String,
    },
}
