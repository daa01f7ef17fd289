//! Pictures themselves: small copies, and files as a browser can show them.

use std::path::PathBuf;
use std::sync::PoisonError;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use ocelli_image::Format;
use ocelli_photos::thumbnail_of;

use crate::api::{App, Id, blocking, picture_id};
use crate::error::Refusal;
use crate::server::Shared;

/// Longer side of a thumbnail: twice the size it is shown at, for fine screens.
const THUMBNAIL_SIDE: usize = 320;
/// Longer side of the copy of a file that browsers cannot show.
const COPY_SIDE: usize = 2560;
/// An id is never given to another picture, but the file may be edited.
const KEEP: &str = "private, max-age=3600";
const JPEG: &str = "image/jpeg";

/// A small JPEG.
pub async fn thumbnail(State(app): App, id: Id) -> Result<Response, Refusal> {
    let id = picture_id(id)?;
    let kept = |app: &Shared| app.kept.lock().unwrap_or_else(PoisonError::into_inner).get(id);
    if let Some(jpeg) = kept(&app) {
        return Ok(picture_response(JPEG, jpeg));
    }
    let jpeg = blocking(&app, move |app| {
        // Another request may have made it in the meantime.
        if let Some(jpeg) = app.kept.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(jpeg);
        }
        let jpeg = Bytes::from(first_good(app, id, |file| {
            thumbnail_of(file, THUMBNAIL_SIDE).map_err(|error| error.to_string())
        })?);
        app.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(id, jpeg.clone());
        Ok(jpeg)
    });
    Ok(picture_response(JPEG, jpeg.await?))
}

/// The picture's file, or a large JPEG of one that browsers cannot show.
pub async fn file(State(app): App, id: Id) -> Result<Response, Refusal> {
    let id = picture_id(id)?;
    let (content_type, bytes) = blocking(&app, move |app| {
        first_good(app, id, |file| {
            let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            match shown_by_browsers(&bytes) {
                Some(content_type) => Ok((content_type, bytes)),
                None => thumbnail_of(file, COPY_SIDE).map(|jpeg| (JPEG, jpeg)).map_err(|e| e.to_string()),
            }
        })
    })
    .await?;
    Ok(picture_response(content_type, Bytes::from(bytes)))
}

/// What `make` returns for the first of a picture's files that is good for it.
fn first_good<R>(app: &Shared, id: i64, make: impl Fn(&PathBuf) -> Result<R, String>) -> Result<R, Refusal> {
    let mut reason = "the index has no file of this picture".to_owned();
    for file in &app.photos.picture(id)?.files {
        match make(file) {
            Ok(made) => return Ok(made),
            Err(error) => reason = error,
        }
    }
    Err(Refusal::new(
        StatusCode::NOT_FOUND,
        format!("{reason}; run ocelli index to bring the index up to date"),
    ))
}

/// The content type of what browsers show by themselves; not TIFF, raw files and HEIC.
fn shown_by_browsers(bytes: &[u8]) -> Option<&'static str> {
    match Format::of(bytes)? {
        Format::Jpeg => Some(JPEG),
        Format::Png => Some("image/png"),
        Format::Gif => Some("image/gif"),
        Format::WebP => Some("image/webp"),
        Format::Bmp => Some("image/bmp"),
        _ => None,
    }
}

fn picture_response(content_type: &'static str, bytes: Bytes) -> Response {
    ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, KEEP)], bytes).into_response()
}
