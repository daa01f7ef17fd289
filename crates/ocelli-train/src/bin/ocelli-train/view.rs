//! What a run shows of itself: a bar with a curve on a terminal, a line now and then elsewhere, and the page of curves.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use ocelli_train::fit::{Record, page};

/// From one line to the next where there is no terminal, and from one writing of the page to the next.
const LINES: Duration = Duration::from_secs(10);
const PAGES: Duration = Duration::from_secs(30);
/// Characters of the curve.
const CURVE: usize = 24;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The view of a run.
pub struct View {
    bar: Option<ProgressBar>,
    json: bool,
    page: PathBuf,
    name: String,
    records: Vec<Record>,
    lined: Option<Instant>,
    paged: Instant,
}

impl View {
    /// Of the run in a folder that has these records already. With `json` records go to stdout.
    pub fn new(dir: &Path, earlier: Vec<Record>, json: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{msg}\n[{bar:40}] {pos}/{len} steps, {eta} left";
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
            bar.with_position(earlier.last().map_or(0, |record| record.step))
        });
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let page = dir.join("curves.html");
        Self { bar, json, page, name, records: earlier, lined: None, paged: Instant::now() }
    }

    /// A step was taken.
    pub fn step(&mut self, record: &Record) {
        if self.json {
            println!("{}", serde_json::to_string(record).expect("a record is JSON"));
        }
        self.records.push(record.clone());
        if let Some(bar) = &self.bar {
            bar.set_length(record.steps);
            bar.set_position(record.step);
            bar.set_message(format!("{} {}", curve(&self.records), line(record)));
        } else if self.lined.is_none_or(|at| at.elapsed() >= LINES) || record.step == record.steps {
            let left = seconds_left(&self.records);
            eprintln!("step {}/{}: {}, {} left", record.step, record.steps, line(record), duration(left));
            self.lined = Some(Instant::now());
        }
        if self.paged.elapsed() >= PAGES {
            self.write_page();
        }
    }

    /// Something that the user should know.
    pub fn tell(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// The run is over, or stopped.
    pub fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
        self.write_page();
        eprintln!("curves: {}", self.page.display());
    }

    /// The page is no part of the run: what cannot be written is told, and the run goes on.
    fn write_page(&mut self) {
        self.paged = Instant::now();
        if let Err(error) = std::fs::write(&self.page, page::page(&self.name, &self.records)) {
            self.tell(&format!("ocelli train: cannot write {}: {error}", self.page.display()));
        }
    }
}

fn line(record: &Record) -> String {
    let recall = record.held_back_recall.map_or_else(String::new, |share| format!(", recall {share:.3}"));
    let held_back =
        record.held_back_loss.map_or_else(String::new, |loss| format!(" (held back {loss:.4}{recall})"));
    let bad = if record.bad_samples > 0 { format!(", {} bad", record.bad_samples) } else { String::new() };
    format!("loss {:.4}{held_back}, {:.1} samples/s{bad}", record.loss, record.samples_per_s)
}

/// The losses so far as a row of bars.
fn curve(records: &[Record]) -> String {
    let group = records.len().div_ceil(CURVE).max(1);
    let means: Vec<f32> =
        records.chunks(group).map(|c| c.iter().map(|r| r.loss).sum::<f32>() / c.len() as f32).collect();
    let (low, high) = means.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    let bar = |v: &f32| BARS[((v - low) / (high - low).max(1e-9) * 7.0).round().clamp(0.0, 7.0) as usize];
    means.iter().map(bar).collect()
}

/// By the speed of the last steps.
fn seconds_left(records: &[Record]) -> f64 {
    let Some(last) = records.last() else { return 0.0 };
    let recent = &records[records.len().saturating_sub(50)..];
    let speeds: f64 = recent.iter().map(|r| r.samples as f64 / r.samples_per_s.max(1e-9)).sum();
    (last.steps - last.step) as f64 * speeds / recent.len() as f64
}

fn duration(seconds: f64) -> String {
    match seconds as u64 {
        s if s >= 3600 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        s if s >= 60 => format!("{} min {:02} s", s / 60, s % 60),
        s => format!("{s} s"),
    }
}
