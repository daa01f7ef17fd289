//! A run with its view, which Ctrl-C stops in good order.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Context;
use ocelli_train::TrainError;
use ocelli_train::fit::{Record, Run};

use crate::view::View;

/// What a run tells of every step; it may be stopped.
pub type Progress<'a> = dyn FnMut(&Record) -> ControlFlow<()> + 'a;
/// What a run tells of bad samples.
pub type Tell<'a> = dyn Fn(&str) + Sync + 'a;

/// Do a run in a folder that has these records already.
pub fn watched(
    dir: &Path,
    earlier: Vec<Record>,
    json: bool,
    run: impl FnOnce(&mut Progress, &Tell) -> Result<(), TrainError>,
) -> anyhow::Result<()> {
    if let Some(last) = earlier.last() {
        eprintln!("going on after step {}", last.step);
    }
    let stop = stop_flag()?;
    let view = Mutex::new(View::new(dir, earlier, json));
    let mut progress = |record: &Record| {
        lock(&view).step(record);
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let tell = |bad: &str| lock(&view).tell(&format!("left out: {bad}"));
    let done = run(&mut progress, &tell);
    lock(&view).finish();
    done?;
    if let Some(last) = Run::last_of(dir) {
        eprintln!("checkpoint: {}", last.display());
    }
    Ok(())
}

fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Set when the user wants the run to stop; a second time stops at once.
pub fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; once more to stop at once");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}
