//! From files to the index: every worker reads, decodes and embeds a picture of its own, one thread stores.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ocelli::{DecodeOptions, MobileClip};
use ocelli_index::{Candidate, Content, Failure, Found, Index, Removed, Scan, Writer, hash};

use crate::PhotoError;
use crate::photo;

/// Files that are stored at once; a killed run loses no more than these.
const BATCH: usize = 64;
/// A batch that is not full is stored after this time.
const BATCH_TIME: Duration = Duration::from_secs(2);

/// How photos are indexed.
#[derive(Clone, Copy, Debug)]
pub struct IndexingOptions {
    /// How pictures are decoded.
    pub decode: DecodeOptions,
    /// Pictures that are worked on at once. The model should run each on one thread.
    pub workers: usize,
}

/// How far a run is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Files that are looked into.
    pub total: usize,
    /// Files that were.
    pub done: usize,
    /// New pictures.
    pub added: usize,
    /// Files whose content the index had already.
    pub known: usize,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The end of its progress.
    pub progress: Progress,
    /// Files that could not be indexed in this run.
    pub failures: Vec<Failure>,
    /// Files that were as the index had them.
    pub unchanged: usize,
    /// What is no longer there.
    pub removed: Removed,
    /// Whether it was stopped before the end.
    pub stopped: bool,
    /// How long it took.
    pub seconds: f64,
}

/// What a worker found in a file.
enum Outcome {
    Content(Content),
    /// The same bytes as another file of this run, which may not be stored yet.
    Same([u8; 32]),
}

/// Index the candidates of a scan and take out what is gone. `stop` is asked between pictures; what was done until
/// then stays. `progress` is called after every file.
///
/// # Errors
/// When the database or the model fails. A file that cannot be indexed is noted there and in the report.
pub fn index_photos(
    writer: &mut Writer,
    model: &MobileClip,
    scan: &Scan,
    options: &IndexingOptions,
    stop: &(dyn Fn() -> bool + Sync),
    progress: &mut dyn FnMut(&Progress),
) -> Result<Report, PhotoError> {
    let start = Instant::now();
    let mut store = Store::new(scan.candidates.len());
    let work = Work {
        model,
        options,
        index: writer.path().to_owned(),
        seen: Mutex::default(),
        next: AtomicUsize::new(0),
    };
    let halt = AtomicBool::new(false);
    let stopped = std::thread::scope(|scope| {
        let workers = options.workers.max(1);
        let (send, receive) = sync_channel(2 * workers);
        for _ in 0..workers {
            let (send, work, halt) = (send.clone(), &work, &halt);
            scope.spawn(move || work.run(&scan.candidates, &send, &|| halt.load(Relaxed)));
        }
        drop(send);
        loop {
            halt.store(halt.load(Relaxed) || stop(), Relaxed);
            let received = match receive.recv_timeout(Duration::from_millis(200)) {
                Ok(found) => found.and_then(|(file, outcome)| store.take(writer, file, outcome)),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Ok::<_, PhotoError>(halt.load(Relaxed)),
            };
            // On an error the workers see that nobody listens.
            received.and_then(|()| store.flush_in_time(writer))?;
            progress(&store.report.progress);
        }
    })?;
    store.flush(writer)?;
    store.resolve_same(writer)?;
    progress(&store.report.progress);
    let removed = if stopped { Removed::default() } else { writer.finish(scan)? };
    let seconds = start.elapsed().as_secs_f64();
    Ok(Report { removed, stopped, seconds, unchanged: scan.unchanged, ..store.report })
}

/// What the workers share.
struct Work<'a> {
    model: &'a MobileClip,
    options: &'a IndexingOptions,
    index: std::path::PathBuf,
    /// Contents that a worker of this run has taken.
    seen: Mutex<HashSet<[u8; 32]>>,
    next: AtomicUsize,
}

type Sent = Result<(Candidate, Outcome), PhotoError>;

impl Work<'_> {
    fn run(&self, files: &[Candidate], send: &SyncSender<Sent>, stop: &dyn Fn() -> bool) {
        let index = match Index::open(&self.index) {
            Ok(index) => index,
            // Nobody listens when the run has failed already.
            Err(error) => return drop(send.send(Err(error.into()))),
        };
        while !stop() {
            let Some(file) = files.get(self.next.fetch_add(1, Relaxed)) else { return };
            let sent = self.look(&index, &file.path).map(|outcome| (file.clone(), outcome));
            if send.send(sent).is_err() {
                return;
            }
        }
    }

    fn look(&self, index: &Index, path: &Path) -> Result<Outcome, PhotoError> {
        let unreadable = |reason: String| Ok(Outcome::Content(Content::Unreadable(reason)));
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => return unreadable(error.to_string()),
        };
        let hash = hash(&bytes);
        if let Some(id) = index.picture_with(&hash)? {
            return Ok(Outcome::Content(Content::Known(id)));
        }
        if !self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(hash) {
            return Ok(Outcome::Same(hash));
        }
        let (pixels, details) = match photo::read(&bytes, &self.options.decode) {
            Ok(read) => read,
            Err(error) => return unreadable(error.to_string()),
        };
        drop(bytes);
        let image = self.model.prepare_image(&pixels);
        drop(pixels);
        let vector = self.model.embed_images(&[image])?.remove(0);
        if !vector.iter().all(|x| x.is_finite()) {
            return unreadable("the model gave numbers that are not finite".to_owned());
        }
        Ok(Outcome::Content(Content::New { hash, details, vector }))
    }
}

/// Files on their way into the index.
struct Store {
    batch: Vec<Found>,
    since: Instant,
    same: Vec<(Candidate, [u8; 32])>,
    report: Report,
}

impl Store {
    fn new(total: usize) -> Self {
        let report = Report { progress: Progress { total, ..Progress::default() }, ..Report::default() };
        Self { batch: Vec::new(), since: Instant::now(), same: Vec::new(), report }
    }

    fn take(&mut self, writer: &mut Writer, file: Candidate, outcome: Outcome) -> Result<(), PhotoError> {
        match outcome {
            Outcome::Same(hash) => self.same.push((file, hash)),
            Outcome::Content(content) => self.count(file, content),
        }
        if self.batch.len() >= BATCH { self.flush(writer) } else { Ok(()) }
    }

    fn count(&mut self, file: Candidate, content: Content) {
        let progress = &mut self.report.progress;
        progress.done += 1;
        match &content {
            Content::Known(_) => progress.known += 1,
            Content::New { .. } => progress.added += 1,
            Content::Unreadable(reason) => {
                self.report.failures.push(Failure { path: file.path.clone(), reason: reason.clone() });
            }
        }
        self.batch.push(Found { file, content });
    }

    fn flush_in_time(&mut self, writer: &mut Writer) -> Result<(), PhotoError> {
        if self.since.elapsed() >= BATCH_TIME { self.flush(writer) } else { Ok(()) }
    }

    fn flush(&mut self, writer: &mut Writer) -> Result<(), PhotoError> {
        writer.commit(&self.batch)?;
        self.batch.clear();
        self.since = Instant::now();
        Ok(())
    }

    /// Files with the bytes of another one: that one is stored by now, or could not be.
    fn resolve_same(&mut self, writer: &mut Writer) -> Result<(), PhotoError> {
        for (file, hash) in std::mem::take(&mut self.same) {
            let content = match writer.picture_with(&hash)? {
                Some(id) => Content::Known(id),
                None => Content::Unreadable("a copy of a file that cannot be read".to_owned()),
            };
            self.count(file, content);
        }
        self.flush(writer)
    }
}
