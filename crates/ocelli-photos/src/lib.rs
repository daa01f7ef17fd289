//! Photo search: a model that understands pictures and an index that finds vectors, put together.
//!
//! [`index_photos`] reads pictures, asks the model for their embeddings and stores them; [`PhotoSearch`] turns words
//! and pictures into a vector and asks the index. This crate never knows terminals, HTTP or command lines.

#![forbid(unsafe_code)]

mod error;
mod indexing;
mod json;
mod photo;
mod search;

pub use error::PhotoError;
pub use indexing::{IndexingOptions, Progress, Report, index_photos};
pub use json::{camera, date_time, found_object, path_of, picture_object, when};
pub use photo::{EXTENSIONS, is_picture_path, thumbnail_of};
pub use search::{Found, LoadModel, Look, PhotoSearch, Request, Results, graph_pays};
