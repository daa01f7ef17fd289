//! What can go wrong: when the server starts, and in the answer to a request.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ocelli_index::IndexError;
use ocelli_photos::PhotoError;
use serde_json::json;

use crate::api::json_response;

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another program has the port.
    #[error(
        "port {0} is in use, maybe by another search page: choose one with --port, or --port 0 for a free one"
    )]
    PortTaken(u16),
    /// The port cannot be used.
    #[error("port {port} cannot be used ({source}): choose another with --port, or --port 0 for a free one")]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refused something else.
    #[error("serving the search page: {0}")]
    Io(#[from] std::io::Error),
}

/// An answer that is no success: `{"error": message}`.
#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<PhotoError> for Refusal {
    fn from(error: PhotoError) -> Self {
        let status = match &error {
            PhotoError::Index(IndexError::NoPicture(_)) => StatusCode::NOT_FOUND,
            PhotoError::Index(IndexError::Query { .. } | IndexError::Filter(_) | IndexError::NoDirection)
            | PhotoError::Image(_)
            | PhotoError::Io { .. } => StatusCode::BAD_REQUEST,
            PhotoError::Index(_)
            | PhotoError::Model(_)
            | PhotoError::Load(_)
            | PhotoError::OtherModel { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json_response(self.status, &json!({"error": self.message}))
    }
}
