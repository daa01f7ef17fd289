//! A picture index: vectors, ids and metadata in, the nearest out. It knows no model and decodes no picture.
//!
//! Truth is one SQLite file ([`Index`], [`Writer`]). Beside it may stand two files that are made from it
//! whenever they are missing or stale: the vectors as one matrix ([`Vectors`]), and a graph over them
//! ([`Graph`]).
//!
//! ```
//! use ocelli_index::{Candidate, Config, Content, Details, Encoding, Found, Index, Writer};
//!
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("index.sqlite");
//! let config = Config { model: "my-model".into(), dim: 2, encoding: Encoding::F16 };
//! let mut writer = Writer::open(&path, &config)?;
//! let found = |name: &str, vector| Found {
//!     file: Candidate { path: name.into(), size: 1, modified_ns: 0 },
//!     content: Content::New { hash: ocelli_index::hash(name.as_bytes()), details: Details::default(), vector },
//! };
//! writer.commit(&[found("/a.jpg", vec![1.0, 0.0]), found("/b.jpg", vec![0.0, 1.0])])?;
//!
//! let index = Index::open(&path)?;
//! let answer = index.vectors()?.search(&[0.1, 0.9], 1, None)?;
//! let best = index.picture(answer.hits[0].id)?;
//! assert_eq!(best.files[0].to_str(), Some("/b.jpg"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]

mod background;
mod duplicates;
mod encoding;
mod error;
mod filter;
mod graph;
#[allow(unsafe_code)]
mod kernels;
#[allow(unsafe_code)]
mod mapped;
mod query;
mod scan;
mod search;
mod stats;
mod store;
#[cfg(test)]
mod testing;
mod vectors;
mod writer;

pub use background::Background;
pub use duplicates::near_duplicates;
pub use encoding::Encoding;
pub use error::{IndexError, Result};
pub use filter::{Filter, Near, parse_date};
pub use graph::Graph;
pub use kernels::{Kernel, QueryI16};
pub use query::{Query, Term};
pub use scan::{Candidate, Scan, ScanOptions};
pub use search::{Answer, Hit, Selection};
pub use stats::{Count, Stats};
pub use store::{Config, Details, Failure, Index, Picture, hash};
pub use vectors::Vectors;
pub use writer::{Content, Found, Removed, Writer};

/// Most numbers that a vector may have.
pub const MAX_DIM: usize = 4096;
