//! Requests that are answered with JSON.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use ocelli_photos::{Look, PhotoSearch, Request, Results, date_time, found_object, picture_object};
use serde_json::{Value, json};

use crate::error::Refusal;
use crate::parameters::Parameters;
use crate::server::{MAX_PICTURE_BYTES, Shared};

/// What every handler gets.
pub type App = State<Arc<Shared>>;
type Asked = Result<Query<Parameters>, QueryRejection>;
pub type Id = Result<Path<i64>, PathRejection>;

/// Pictures like these words, or like the sum that they write.
pub async fn search(app: App, asked: Asked) -> Result<Response, Refusal> {
    let parameters = parameters(asked)?;
    if parameters.q.trim().is_empty() {
        return Err(Refusal::bad_request("q is empty: say what to look for"));
    }
    let query = ocelli_index::Query::parse(&parameters.q).map_err(|e| Refusal::bad_request(e.to_string()))?;
    find(app, Look::Query(query), &parameters).await
}

/// Pictures like the one that was sent.
pub async fn search_picture(
    app: App,
    asked: Asked,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let parameters = parameters(asked)?;
    let bytes = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        status => Refusal::new(status, rejection.body_text()),
    })?;
    if !parameters.q.is_empty() {
        return Err(Refusal::bad_request("search for words or for a picture, not for both"));
    }
    find(app, Look::Bytes(bytes.to_vec()), &parameters).await
}

/// The answer to a picture that is not even read.
pub fn too_large() -> Refusal {
    let limit = MAX_PICTURE_BYTES >> 20;
    let message = format!("the picture's file has more than {limit} MB: search with a smaller copy of it");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// Pictures like one of the index, without that one.
pub async fn similar(app: App, id: Id, asked: Asked) -> Result<Response, Refusal> {
    let (id, parameters) = (picture_id(id)?, parameters(asked)?);
    if !parameters.q.is_empty() {
        return Err(Refusal::bad_request("search for words or for a picture, not for both"));
    }
    find(app, Look::Like(id), &parameters).await
}

/// All that is known of a picture.
pub async fn picture(State(app): App, id: Id) -> Result<Response, Refusal> {
    let id = picture_id(id)?;
    let object = blocking(&app, move |app| {
        let picture = app.photos.picture(id)?;
        let mut object = picture_object(&picture);
        let file = picture.files.iter().find_map(|file| std::fs::metadata(file).ok());
        object["file_bytes"] = json!(file.map(|file| file.len()));
        object["orientation"] = json!(picture.details.orientation);
        object["offset_minutes"] = json!(picture.details.offset_minutes);
        Ok(object)
    });
    Ok(json_response(StatusCode::OK, &object.await?))
}

/// What the index holds.
pub async fn stats(State(app): App) -> Result<Response, Refusal> {
    let stats = blocking(&app, |app| Ok(app.photos.with(|index, _, _| Ok(index.stats()?))?)).await?;
    let cameras: Vec<Value> =
        stats.cameras.iter().map(|count| json!({"name": count.name, "pictures": count.pictures})).collect();
    let object = json!({
        "pictures": stats.pictures,
        "files": stats.files,
        "dated": stats.dated,
        "placed": stats.placed,
        "first": stats.span.map(|(first, _)| date_time(first)),
        "last": stats.span.map(|(_, last)| date_time(last)),
        "cameras": cameras,
    });
    Ok(json_response(StatusCode::OK, &object))
}

/// For any other address.
pub async fn nothing_here(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
}

async fn find(State(app): App, look: Look, parameters: &Parameters) -> Result<Response, Refusal> {
    let (filter, count, min_score) = (parameters.filter()?, parameters.count()?, parameters.min_score()?);
    let same = if let Look::Like(id) = look { Some(id) } else { None };
    // The picture itself would be the first.
    let request = Request { look, filter, count: count + usize::from(same.is_some()), min_score };
    let mut results = blocking(&app, move |app| Ok(app.photos.search(&request)?)).await?;
    results.found.retain(|found| Some(found.picture.id) != same);
    results.found.truncate(count);
    Ok(json_response(StatusCode::OK, &results_object(&results)))
}

fn results_object(results: &Results) -> Value {
    json!({
        "found": results.found.iter().map(found_object).collect::<Vec<_>>(),
        "searched": results.searched,
        "best_score": results.best_score,
        "embed_ms": results.embed_ms,
        "search_ms": results.search_ms,
    })
}

fn parameters(asked: Asked) -> Result<Parameters, Refusal> {
    asked.map(|Query(parameters)| parameters).map_err(|error| Refusal::bad_request(error.body_text()))
}

/// The id in an address.
pub fn picture_id(id: Id) -> Result<i64, Refusal> {
    id.map(|Path(id)| id).map_err(|_| Refusal::bad_request("a picture's id is a whole number"))
}

/// Run what reads files or computes, without holding up other requests.
pub async fn blocking<R: Send + 'static>(
    app: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<R, Refusal> + Send + 'static,
) -> Result<R, Refusal> {
    // Waits its turn: each may need the memory of a decoded picture, and all cores.
    let turn = app.turns.acquire().await;
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || work(&app)).await;
    drop(turn);
    done.unwrap_or_else(|_| {
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "this request met a defect of the program"))
    })
}

/// An answer that is never kept: the index changes.
pub fn json_response(status: StatusCode, value: &Value) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, value.to_string()).into_response()
}

/// `PhotoSearch` is shared by all requests.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<PhotoSearch>();
};
