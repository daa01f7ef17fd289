//! Who may ask, and what browsers may do with an answer.
//!
//! The address 127.0.0.1 keeps other machines out, but not other pages in the user's browser:
//! - a page whose name was made to point here ("DNS rebinding") sends its own name as `Host`: refused;
//! - a page may send a form or a picture here: a `POST` must name this page as its `Origin`;
//! - a page may ask for pictures to show or count them: browsers tell where a request comes from
//!   (`Sec-Fetch-Site`), and do not show what says `Cross-Origin-Resource-Policy: same-origin`.
//!
//! There is no password: other people who are logged in to this machine can ask too.

use axum::extract::Request;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::Refusal;

/// The page needs its own files and the preview of a picture in hand, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Let a request of our own page pass, and mark the answer.
pub async fn guard(request: Request, next: Next) -> Response {
    let mut response = match check(request.method(), request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn check(method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let forbidden = |message: &str| Err(Refusal::new(StatusCode::FORBIDDEN, message));
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text("host").filter(|host| is_this_machine(host)) else {
        return forbidden("this page is only for localhost and 127.0.0.1");
    };
    if method == Method::POST && text("origin") != Some(&format!("http://{host}")) {
        return forbidden("a picture may only be sent from the search page itself");
    }
    // Following a link to the page is fine; old browsers and programs say nothing.
    let from = text("sec-fetch-site").unwrap_or("none");
    if path != "/" && !matches!(from, "none" | "same-origin") {
        return forbidden("only the search page itself may ask for this");
    }
    Ok(())
}

/// Whether a `Host` is `localhost` or `127.0.0.1`; its port may be that of a tunnel.
fn is_this_machine(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    (name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost")) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_pass() {
        for host in ["localhost", "LocalHost:80", "127.0.0.1", "127.0.0.1:7878"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:7878",
            "localhost:x:1",
            "::1",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
