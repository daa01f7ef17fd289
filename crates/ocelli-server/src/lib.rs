//! Serves the photo search page to the machine it runs on: a page, its JSON, thumbnails and pictures over HTTP.
//!
//! This crate is the only one that knows HTTP. It must never know the command line, the terminal, or how a search
//! is computed: that is [`PhotoSearch`](ocelli_photos::PhotoSearch).
//!
//! | request | answer | file |
//! |---|---|---|
//! | `GET /`, `/page.css`, `/page.js`, `/icon.svg` | the page | `page.rs`, `page/` |
//! | `GET /api/search?q=` | pictures like these words | `api.rs`, `parameters.rs` |
//! | `POST /api/search` | pictures like the one in the body | `api.rs` |
//! | `GET /api/similar/ID` | pictures like one of the index | `api.rs` |
//! | `GET /api/picture/ID` | all that is known of a picture | `api.rs` |
//! | `GET /api/stats` | what the index holds | `api.rs` |
//! | `GET /thumb/ID` | a small JPEG | `pictures.rs`, `kept.rs` |
//! | `GET /file/ID` | the picture, as a browser can show it | `pictures.rs` |
//!
//! Photos are private, so every request passes `guard.rs`: other machines do not reach 127.0.0.1, and other web
//! pages in the user's browser are refused.

#![forbid(unsafe_code)]

mod api;
mod error;
mod guard;
mod kept;
mod page;
mod parameters;
mod pictures;
mod server;

pub use error::ServeError;
pub use server::{MAX_PICTURE_BYTES, Server, Stopper};
