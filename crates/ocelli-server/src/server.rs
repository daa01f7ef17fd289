//! Binding, routes, and an end that loses no answer.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use ocelli_photos::PhotoSearch;
use tokio::sync::{Notify, Semaphore};

use crate::kept::Kept;
use crate::{ServeError, api, guard, page, pictures};

/// The largest picture that may be sent to search with.
pub const MAX_PICTURE_BYTES: usize = 64 << 20;
/// Thumbnails that are kept in memory: about 4000.
const KEPT_BYTES: usize = 64 << 20;
/// How long an answer in hand may take when the server is stopped.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What all requests share.
pub struct Shared {
    pub photos: PhotoSearch,
    pub kept: Mutex<Kept>,
    /// Work that is done at once.
    pub turns: Semaphore,
}

/// A search page that has its port and waits to be run.
///
/// ```no_run
/// use ocelli_photos::PhotoSearch;
/// use ocelli_server::Server;
///
/// let load = || Err(ocelli_photos::PhotoError::Load("only pictures can be looked for".into()));
/// let photos = PhotoSearch::open("photos.sqlite".as_ref(), Box::new(load))?;
/// let server = Server::bind(photos, 7878)?;
/// println!("{}", server.address());
/// server.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    stopper: Stopper,
}

/// Ends a running server, from any thread.
#[derive(Clone, Default)]
pub struct Stopper(Arc<(AtomicBool, Notify)>);

impl Stopper {
    /// Take no more requests, finish those in hand, and let [`Server::run`] return. Returns whether that was asked
    /// for before.
    pub fn stop(&self) -> bool {
        let before = self.0.0.swap(true, Relaxed);
        self.0.1.notify_one();
        before
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(&self.0);
        async move { shared.1.notified().await }
    }
}

impl Server {
    /// Take a port of 127.0.0.1; 0 takes a free one.
    ///
    /// # Errors
    /// When the port is taken or may not be used.
    pub fn bind(photos: PhotoSearch, port: u16) -> Result<Self, ServeError> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|source| match source.kind() {
                ErrorKind::AddrInUse => ServeError::PortTaken(port),
                _ => ServeError::Port { port, source },
            })?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let turns = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        let kept = Mutex::new(Kept::new(KEPT_BYTES));
        let shared = Arc::new(Shared { photos, kept, turns: Semaphore::new(turns) });
        Ok(Self { listener, address, shared, stopper: Stopper::default() })
    }

    /// Where the page is, as in `http://127.0.0.1:7878/`.
    pub fn address(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What ends it.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serve until the stopper is used.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn run(self) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (app, stopper) = (router(self.shared), self.stopper);
        let done = runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let (closing, close) = tokio::sync::oneshot::channel::<()>();
            let stopped = stopper.stopped();
            let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
                stopped.await;
                // Its receiver waits below, or the server has ended.
                let _ = closing.send(());
            });
            tokio::select! {
                served = serving => served,
                () = async {
                    // An error means that the server has ended by itself, which the other branch sees.
                    if close.await.is_ok() { tokio::time::sleep(LAST_ANSWERS).await } else { std::future::pending().await }
                } => Ok(()),
            }
        });
        // A search that still runs is not waited for.
        runtime.shutdown_background();
        Ok(done?)
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/api/search", get(api::search))
        .route("/api/search", post(api::search_picture).layer(from_fn(refuse_large)))
        .route("/api/similar/{id}", get(api::similar))
        .route("/api/picture/{id}", get(api::picture))
        .route("/api/stats", get(api::stats))
        .route("/thumb/{id}", get(pictures::thumbnail))
        .route("/file/{id}", get(pictures::file));
    for (path, content_type, content) in page::FILES {
        router = router.route(path, get(move || async move { page::file(content_type, content) }));
    }
    router
        .fallback(api::nothing_here)
        .layer(DefaultBodyLimit::max(MAX_PICTURE_BYTES))
        .layer(from_fn(guard::guard))
        .with_state(shared)
}

/// Says so before a body is read that is told to be too large.
async fn refuse_large(request: Request, next: Next) -> Response {
    let told =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match told {
        Some(told) if told > MAX_PICTURE_BYTES as u64 => api::too_large().into_response(),
        _ => next.run(request).await,
    }
}
