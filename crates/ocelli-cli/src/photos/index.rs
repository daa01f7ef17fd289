//! `ocelli index`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, bail};
use notify::{RecursiveMode, Watcher};
use ocelli::{DecodeOptions, MobileClip, available_threads};
use ocelli_index::{Config, Index, ScanOptions, Writer};
use ocelli_photos::{EXTENSIONS, IndexingOptions, Report, graph_pays, index_photos};
use serde_json::json;

use super::args::IndexArgs;
use super::{MODEL_NOTE, ROOTS_NOTE, load_model, model_note};
use crate::message::printable;
use crate::progress::CountProgress;

/// After the last change in a folder, before it is looked at: files are often written in parts.
const QUIET: Duration = Duration::from_secs(2);
/// Folders are looked at this often even when the system reports nothing, as on network drives.
const PATROL: Duration = Duration::from_secs(600);
/// Failures that are told one by one; `stats --failures` has them all.
const TOLD: usize = 20;

/// Index folders; with `--watch`, again whenever they change.
pub fn index(args: &IndexArgs) -> anyhow::Result<bool> {
    let path = args.index.path();
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let roots = roots(args, &path)?;
    // Each worker runs one picture on one thread: no core waits for another.
    let model = load_model(&args.model, Some(&path), 1)?;
    let stop = stop_on_ctrl_c()?;
    let mut all_well = run(args, &path, &roots, &model, &stop)?;
    if args.watch {
        let changes = watch(&roots)?;
        eprintln!("watching {} for changes; Ctrl-C ends", counted(roots.len(), "folder"));
        while wait_for_change(&changes, &stop) {
            all_well &= run(args, &path, &roots, &model, &stop)?;
        }
    }
    Ok(all_well)
}

/// One pass over the folders.
fn run(
    args: &IndexArgs,
    path: &Path,
    roots: &[PathBuf],
    model: &MobileClip,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<bool> {
    let config = Config { model: model.identity(), dim: model.config().embed_dim, encoding: args.vectors };
    let mut writer = Writer::open(path, &config)?;
    remember(args, &mut writer, roots)?;
    let options = ScanOptions { extensions: &EXTENSIONS, hidden: args.hidden, retry: args.retry };
    let scan = writer.scan(roots, &options)?;
    for failure in &scan.unreadable {
        eprintln!("ocelli: {}: {}", failure.path.display(), failure.reason);
    }
    let decode = DecodeOptions { max_pixels: args.max_pixels, ..DecodeOptions::default() };
    let workers = if args.model.threads == 0 { available_threads() } else { args.model.threads };
    let mut bar = CountProgress::new("indexing", scan.candidates.len());
    let report = index_photos(
        &mut writer,
        model,
        &scan,
        &IndexingOptions { decode, workers },
        &|| stop.load(Relaxed),
        &mut |progress| bar.at(progress.done),
    )?;
    bar.finish();
    let pictures = writer.len()?;
    drop(writer);
    tell(args, path, pictures, &report)?;
    if !report.stopped {
        prepare_search(args, path, pictures, stop)?;
    }
    Ok(report.failures.is_empty() && scan.unreadable.is_empty() && !report.stopped)
}

/// The folders given, or those that the index was made from.
fn roots(args: &IndexArgs, path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !args.dirs.is_empty() {
        let whole =
            |dir: &PathBuf| dir.canonicalize().with_context(|| format!("there is no {}", dir.display()));
        return args.dirs.iter().map(whole).collect();
    }
    if !path.is_file() {
        bail!("which folder? as in: ocelli index ~/Photos --model mobileclip2-s2");
    }
    let roots = noted_roots(&Index::open(path)?)?;
    if roots.is_empty() {
        bail!("the index knows no folder: name one");
    }
    Ok(roots)
}

fn noted_roots(index: &Index) -> anyhow::Result<Vec<PathBuf>> {
    let note = index.note(ROOTS_NOTE)?.unwrap_or_else(|| "[]".to_owned());
    Ok(serde_json::from_str::<Vec<String>>(&note)?.into_iter().map(PathBuf::from).collect())
}

/// Keep the model and the folders for the next run.
fn remember(args: &IndexArgs, writer: &mut Writer, roots: &[PathBuf]) -> anyhow::Result<()> {
    if let Some(note) = model_note(&args.model) {
        writer.set_note(MODEL_NOTE, &note)?;
    }
    let mut known = noted_roots(writer)?;
    known.extend(roots.iter().cloned());
    known.sort();
    known.dedup();
    // A folder whose name is no Unicode must be named each time.
    let known: Vec<&str> = known.iter().filter_map(|root| root.to_str()).collect();
    Ok(writer.set_note(ROOTS_NOTE, &serde_json::to_string(&known)?)?)
}

fn tell(args: &IndexArgs, path: &Path, pictures: usize, report: &Report) -> anyhow::Result<()> {
    let progress = &report.progress;
    for failure in report.failures.iter().take(TOLD) {
        eprintln!(
            "ocelli: {}: {}",
            printable(&failure.path.display().to_string()),
            printable(&failure.reason)
        );
    }
    if report.failures.len() > TOLD {
        eprintln!("ocelli: and {} more; `ocelli stats --failures` lists them", report.failures.len() - TOLD);
    }
    let rate = progress.done as f64 / report.seconds.max(1e-9);
    if args.json {
        let failures: Vec<_> = report
            .failures
            .iter()
            .map(|failure| json!({"path": failure.path.display().to_string(), "reason": failure.reason}))
            .collect();
        let line = json!({
            "index": path.display().to_string(), "pictures": pictures, "added": progress.added,
            "known": progress.known, "unchanged": report.unchanged, "removed_files": report.removed.files,
            "removed_pictures": report.removed.pictures, "failures": failures, "stopped": report.stopped,
            "seconds": report.seconds, "files_per_s": rate,
        });
        writeln!(std::io::stdout(), "{line}")?;
        return Ok(());
    }
    let mut parts = vec![format!("{} new", progress.added), format!("{} as before", report.unchanged)];
    if progress.known > 0 {
        parts.push(format!("{} moved or copied", progress.known));
    }
    if report.removed.files > 0 {
        parts.push(format!("{} gone", report.removed.files));
    }
    if !report.failures.is_empty() {
        parts.push(format!("{} not readable", report.failures.len()));
    }
    let speed = if progress.done > 0 { format!(", {rate:.1} files a second") } else { String::new() };
    let end = if report.stopped { "stopped; run it again to go on" } else { "done" };
    writeln!(std::io::stdout(), "{}: {}{speed}; {end}", counted(pictures, "picture"), parts.join(", "))?;
    Ok(())
}

/// Write what makes the next search quick.
fn prepare_search(
    args: &IndexArgs,
    path: &Path,
    pictures: usize,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let index = Index::open(path)?;
    let vectors = Arc::new(index.vectors()?);
    if !(args.graph || graph_pays(pictures)) || index.graph(&vectors)?.is_some() {
        return Ok(());
    }
    let mut bar = CountProgress::new("building the graph", pictures);
    let built = index.build_graph(&vectors, &mut |done| {
        bar.at(done);
        !stop.load(Relaxed)
    });
    bar.finish();
    // Without a graph every search reads all vectors, which is right, only slower.
    if let Err(error) = built {
        eprintln!("ocelli: {error}");
    }
    Ok(())
}

fn stop_on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        // The second time, whatever is in hand is dropped; the index stays whole.
        if flag.swap(true, Relaxed) {
            std::process::exit(1);
        }
    })?;
    Ok(stop)
}

/// Something under the folders changed.
type Changes = (Option<notify::RecommendedWatcher>, Receiver<()>);

fn watch(roots: &[PathBuf]) -> anyhow::Result<Changes> {
    let (send, receive) = channel();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is no change; an error may hide one.
        let counts = event.map_or(true, |event| !event.kind.is_access());
        if counts {
            // Nobody listens at the end.
            let _ = send.send(());
        }
    });
    let mut watcher = watcher.context("asking the system to report changes")?;
    for root in roots {
        if let Err(error) = watcher.watch(root, RecursiveMode::Recursive) {
            let every = PATROL.as_secs() / 60;
            eprintln!("ocelli: {}: {error}; it is looked at every {every} minutes instead", root.display());
        }
    }
    Ok((Some(watcher), receive))
}

/// True when it is time to look again, false when the user wants to end.
fn wait_for_change((_watcher, changes): &Changes, stop: &AtomicBool) -> bool {
    let start = std::time::Instant::now();
    let mut changed = false;
    loop {
        if stop.load(Relaxed) {
            return false;
        }
        match changes.recv_timeout(if changed { QUIET } else { Duration::from_millis(300) }) {
            Ok(()) => changed = true,
            Err(RecvTimeoutError::Timeout) if changed || start.elapsed() >= PATROL => return true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// `1 picture`, `2 pictures`.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
