//! Everything that can be wrong with an index.

use std::path::PathBuf;

/// Why an index could not be opened, written or searched. Messages say what to do next where it is known.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// There is no index at this place.
    #[error("there is no index at {}: index a directory first", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is another program's database.
    #[error("{} is a database of another program (application id {found:#x}): choose another file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its application id.
        found: u32,
    },
    /// The file was written by a newer version of this crate.
    #[error("{} has schema {found}, this program knows up to {known}: update the program", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// The index was made by another model, or with another kind of vectors.
    #[error(
        "{} holds vectors of {stored}, not of {asked}, and the two cannot be compared: use {stored}, \
         choose another index file, or delete this one and index again", path.display()
    )]
    OtherModel {
        /// The index.
        path: PathBuf,
        /// The model that made it.
        stored: String,
        /// The model that was asked for.
        asked: String,
    },
    /// Another process is indexing.
    #[error("another process{holder} is indexing into {}: wait until it is done, or stop it", path.display())]
    Busy {
        /// The index.
        path: PathBuf,
        /// Its process id as in ` (123)`, empty where it is not known.
        holder: String,
    },
    /// A vector has the wrong length.
    #[error("a vector of {found} numbers in an index of {expected}: it comes from another model")]
    Dimension {
        /// The index's.
        expected: usize,
        /// The vector's.
        found: usize,
    },
    /// A vector has no direction.
    #[error("a vector is zero or has numbers that are not finite, so it has no direction")]
    NoDirection,
    /// An index cannot have vectors of this length.
    #[error("vectors of {0} numbers cannot be indexed: 1 to 4096 can")]
    UnusableDimension(usize),
    /// No picture has this id.
    #[error("the index has no picture {0}: it may have been removed, search again")]
    NoPicture(i64),
    /// A path cannot be stored on this system.
    #[error("{} cannot be written as Unicode, which is needed on this system: rename it", .0.display())]
    Path(PathBuf),
    /// What the database holds contradicts itself.
    #[error("{} is damaged: {reason}; delete it and index again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What contradicts.
        reason: String,
    },
    /// A file beside the database cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("the index's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// usearch refused.
    #[error("the graph of the index: {0}; delete the file that ends in .graph, it is built again")]
    Graph(String),
    /// A search query cannot be read.
    #[error("the query `{query}`: {reason}")]
    Query {
        /// The query.
        query: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A filter cannot be used.
    #[error("the filter: {0}")]
    Filter(String),
    /// The caller stopped a long computation.
    #[error("stopped")]
    Stopped,
}

impl IndexError {
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, IndexError>;
