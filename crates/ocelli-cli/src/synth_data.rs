//! `synth-data`: scenes of the drawn world as files, for training and for looking at.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use clap::{Args, ValueEnum};
use ocelli_drawn::{DatasetOptions, Split, write_dataset};
use serde_json::json;

use crate::progress::CountProgress;

/// What to draw, and where to.
#[derive(Args, Clone)]
pub struct SynthDataArgs {
    /// Directory to write: an empty one, or one where a run with the same settings was stopped
    pub dir: PathBuf,
    /// How many scenes; a later run with more goes on where this one ends
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub scenes: usize,
    /// Same seed, same files
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// To learn from, or to measure on: evaluation has other scenes and pairs that training never shows
    #[arg(long, value_enum, default_value_t = SplitArg::Train)]
    pub split: SplitArg,
    /// Pixels a side
    #[arg(long, value_name = "PX", default_value_t = 256)]
    pub size: usize,
    /// Threads; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// One JSON object about what was written
    #[arg(long)]
    pub json: bool,
}

/// A split on the command line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitArg {
    /// Never draws nor names the held-out pairs of colour and shape
    Train,
    /// Scenes that no training seed draws; a tenth of them hold a held-out pair
    Eval,
}

/// `ocelli synth-data`.
pub fn synth_data(args: &SynthDataArgs) -> anyhow::Result<bool> {
    let split = if args.split == SplitArg::Eval { Split::Eval } else { Split::Train };
    let options = DatasetOptions {
        scenes: args.scenes,
        seed: args.seed,
        split,
        size: args.size,
        threads: args.threads,
    };
    let progress = Mutex::new(CountProgress::new("drawing", args.scenes));
    let report = write_dataset(&args.dir, &options, &|done| {
        progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).at(done);
    });
    progress.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).finish();
    let report = report?;
    let page = args.dir.join("index.html");
    let kept = if report.kept > 0 { format!(", {} were there", report.kept) } else { String::new() };
    eprintln!(
        "drew {} pictures{kept}, {} questions; look at {}",
        report.drawn,
        report.questions,
        page.display()
    );
    if args.json {
        let line = json!({
            "dir": args.dir.display().to_string(),
            "split": split.name(),
            "seed": args.seed,
            "size_px": args.size,
            "scenes": args.scenes,
            "drawn": report.drawn,
            "kept": report.kept,
            "questions": report.questions,
        });
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(true)
}
