//! The model hub as far as `pull` needs it: what files a repository has, and their bytes from any
//! place on. The interface is that of <https://huggingface.co/docs/hub/api>.

use std::io::Read;
use std::time::Duration;

use serde_json::Value;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::home::ModelId;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A server that is silent for so long has gone.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 5;

/// Why the hub gave no answer that helps.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("{endpoint} has no {what}: check the name, it is written ORG/REPO")]
    NotFound { endpoint: String, what: String },
    #[error(
        "{endpoint} refuses {id} (HTTP {status}): {}. Open {endpoint}/{id} in a browser; if it asks you to, \
         accept its terms, make a token under {endpoint}/settings/tokens and set HF_TOKEN to it",
        if *token { "HF_TOKEN is set but does not open it" } else { "it is private or gated, or does not exist" }
    )]
    Refused { endpoint: String, id: String, status: u16, token: bool },
    #[error("{endpoint} answers {what} with HTTP {status}; try again later")]
    Status { endpoint: String, what: String, status: u16 },
    #[error(
        "cannot reach {endpoint}: {reason}; check the network and HF_ENDPOINT, then run the same command again"
    )]
    Unreachable { endpoint: String, reason: String },
    #[error("{endpoint} does not speak the hub's API: {reason}; check HF_ENDPOINT")]
    NotAHub { endpoint: String, reason: String },
    #[error("`{0}` is not the address of a server: it begins with https:// or http://")]
    Endpoint(String),
}

impl HubError {
    /// Whether trying again may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            Self::Unreachable { .. } => true,
            _ => false,
        }
    }
}

/// What the bytes of a file have to hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hash {
    /// Of large files.
    Sha256(String),
    /// Of small files: SHA-1 over `blob LENGTH\0` and the bytes, as git has it.
    GitBlob(String),
}

impl Hash {
    /// From an entity tag or a field; the kind is told by the length.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
        match text.len() {
            64 if hex => Some(Self::Sha256(text)),
            40 if hex => Some(Self::GitBlob(text)),
            _ => None,
        }
    }

    /// The digits.
    pub fn hex(&self) -> &str {
        let (Self::Sha256(hex) | Self::GitBlob(hex)) = self;
        hex
    }
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    pub name: String,
    pub bytes: Option<u64>,
    pub hash: Option<Hash>,
}

/// A repository.
#[derive(Debug)]
pub struct Listing {
    pub commit: Option<String>,
    /// The licence as the repository's card names it.
    pub licence: Option<String>,
    pub files: Vec<RemoteFile>,
}

/// A file's bytes from some place on.
pub struct Piece {
    /// Where the server begins: the place asked for, or 0 when it cannot begin elsewhere.
    pub begin: u64,
    pub reader: Box<dyn Read>,
}

/// A server with models.
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Hub {
    /// The server of `--endpoint`, else of `HF_ENDPOINT`, else the public one; with `HF_TOKEN`.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(endpoint: Option<&str>) -> Result<Self, HubError> {
        let from = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        let endpoint = endpoint.map(str::to_owned).or_else(|| from("HF_ENDPOINT"));
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
            return Err(HubError::Endpoint(endpoint));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("ocelli/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            // Large files come from other hosts: the token is not for them.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .build()
            .new_agent();
        let token = from("HF_TOKEN").map(|token| token.trim().to_owned());
        Ok(Self { agent, endpoint, token })
    }

    /// The address of the server.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The files of a repository.
    ///
    /// # Errors
    /// When the server has none, refuses, or cannot be reached.
    pub fn list(&self, id: &ModelId) -> Result<Listing, HubError> {
        let url = format!("{}/api/models/{}", self.endpoint, id.as_str());
        let mut response = self.get(&format!("{url}/revision/main?blobs=true"), None)?;
        if response.status().as_u16() == 404 {
            // Some mirrors know no revisions.
            response = self.get(&format!("{url}?blobs=true"), None)?;
        }
        self.check(&response, id, &format!("model {}", id.as_str()))?;
        let text = response.body_mut().read_to_string().map_err(|e| self.unreachable(&e))?;
        let not_a_hub = |reason: String| HubError::NotAHub { endpoint: self.endpoint.clone(), reason };
        let listing: Value = serde_json::from_str(&text).map_err(|e| not_a_hub(e.to_string()))?;
        let files =
            listing["siblings"].as_array().ok_or_else(|| not_a_hub("the list of files is missing".into()))?;
        Ok(Listing {
            commit: listing["sha"].as_str().map(str::to_owned),
            licence: listing["cardData"]["license"].as_str().map(str::to_owned),
            files: files.iter().filter_map(remote_file).collect(),
        })
    }

    /// Ask for the size and hash of a file where the list did not tell them.
    ///
    /// # Errors
    /// When the server has no such file, refuses, or cannot be reached.
    pub fn describe(&self, id: &ModelId, file: &mut RemoteFile) -> Result<(), HubError> {
        let mut url = self.url(id, &file.name);
        // The headers with the hash are those of the hub, not those of the host it sends us to.
        for _ in 0..MOST_REDIRECTS {
            let request = self.agent.head(&url).config().max_redirects(0).build();
            let response = self.authorized(request, &url).call().map_err(|e| self.unreachable(&e))?;
            let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
            if matches!(response.status().as_u16(), 405 | 501) {
                return Ok(()); // A mirror without HEAD: nothing more to learn.
            }
            let redirect = response.status().is_redirection();
            let tag = text("x-linked-etag").or_else(|| if redirect { None } else { text("etag") });
            let size = text("x-linked-size").or_else(|| if redirect { None } else { text("content-length") });
            if !redirect {
                self.check(&response, id, &format!("file {} in {}", file.name, id.as_str()))?;
            }
            file.hash = file.hash.take().or_else(|| tag.and_then(Hash::parse));
            file.bytes = file.bytes.or_else(|| size.and_then(|s| s.parse().ok()));
            match text("location") {
                Some(location) if redirect && file.hash.is_none() => url = self.absolute(location),
                _ => break,
            }
        }
        Ok(())
    }

    /// The bytes of a file from `begin` on.
    ///
    /// # Errors
    /// When the server has no such file, refuses, or cannot be reached.
    pub fn open(&self, id: &ModelId, file: &RemoteFile, begin: u64) -> Result<Piece, HubError> {
        let response = self.get(&self.url(id, &file.name), (begin > 0).then_some(begin))?;
        self.check(&response, id, &format!("file {} in {}", file.name, id.as_str()))?;
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
        let begins = range.and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        let partial = response.status().as_u16() == 206;
        let begin = if partial { begins.unwrap_or(begin) } else { 0 };
        Ok(Piece { begin, reader: Box::new(response.into_body().into_reader()) })
    }

    fn url(&self, id: &ModelId, file: &str) -> String {
        format!("{}/{}/resolve/main/{file}", self.endpoint, id.as_str())
    }

    fn absolute(&self, location: &str) -> String {
        if location.starts_with('/') { format!("{}{location}", self.host()) } else { location.to_owned() }
    }

    /// Scheme and host of the endpoint.
    fn host(&self) -> &str {
        let after_scheme = self.endpoint.find("://").map_or(0, |at| at + 3);
        let path = self.endpoint[after_scheme..].find('/');
        path.map_or(&self.endpoint, |at| &self.endpoint[..after_scheme + at])
    }

    fn get(&self, url: &str, begin: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut request = self.authorized(self.agent.get(url), url);
        if let Some(begin) = begin {
            request = request.header(header::RANGE, format!("bytes={begin}-"));
        }
        request.call().map_err(|e| self.unreachable(&e))
    }

    /// With the token, for addresses of the hub itself only.
    fn authorized<B>(&self, request: ureq::RequestBuilder<B>, url: &str) -> ureq::RequestBuilder<B> {
        let ours = url.strip_prefix(self.host()).is_some_and(|rest| rest.starts_with('/'));
        match &self.token {
            Some(token) if ours => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            _ => request,
        }
    }

    fn check<T>(&self, response: &Response<T>, id: &ModelId, what: &str) -> Result<(), HubError> {
        let (endpoint, status) = (self.endpoint.clone(), response.status().as_u16());
        match status {
            200..300 => Ok(()),
            401 | 403 => {
                let (id, token) = (id.as_str().to_owned(), self.token.is_some());
                Err(HubError::Refused { endpoint, id, status, token })
            }
            404 => Err(HubError::NotFound { endpoint, what: what.to_owned() }),
            _ => Err(HubError::Status { endpoint, what: what.to_owned(), status }),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> HubError {
        HubError::Unreachable { endpoint: self.endpoint.clone(), reason: error.to_string() }
    }
}

fn remote_file(sibling: &Value) -> Option<RemoteFile> {
    let name = sibling["rfilename"].as_str()?.to_owned();
    let large = &sibling["lfs"];
    // Of a large file, `blobId` is the hash of a pointer.
    let hash = if large.is_object() { &large["sha256"] } else { &sibling["blobId"] };
    let bytes = large["size"].as_u64().or_else(|| sibling["size"].as_u64());
    Some(RemoteFile { name, bytes, hash: hash.as_str().and_then(Hash::parse) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hashes_are_told_by_their_length() {
        let (long, short) = ("A".repeat(64), "b".repeat(40));
        assert_eq!(Hash::parse(&format!("\"{long}\"")), Some(Hash::Sha256("a".repeat(64))));
        assert_eq!(Hash::parse(&format!("W/\"{short}\"")), Some(Hash::GitBlob(short)));
        assert_eq!(Hash::parse("\"some-tag\""), None);
    }

    #[test]
    fn the_pointer_of_a_large_file_is_not_its_hash() {
        let (sha256, blob) = ("1".repeat(64), "2".repeat(40));
        let large =
            json!({"rfilename": "a", "size": 9, "blobId": blob, "lfs": {"sha256": sha256, "size": 9}});
        let file = remote_file(&large).expect("file");
        assert_eq!((file.bytes, file.hash), (Some(9), Some(Hash::Sha256(sha256))));
        let small = remote_file(&json!({"rfilename": "a", "size": 3, "blobId": blob})).expect("file");
        assert_eq!(small.hash, Some(Hash::GitBlob(blob)));
    }
}
