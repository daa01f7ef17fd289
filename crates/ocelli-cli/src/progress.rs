//! How far a long job is, on stderr: a bar on a terminal, a few plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::message::size;

/// Jobs below this many bytes get a single line.
const SHORT_BYTES: u64 = 64 << 20;

/// The progress of one job, counted in bytes.
pub enum Progress {
    /// On a terminal.
    Bar(ProgressBar),
    /// Anywhere else: a line each tenth.
    Lines {
        /// What is done.
        label: String,
        /// Bytes of the whole job.
        total: u64,
        /// Percent at which the next line is due.
        next: u64,
    },
}

impl Progress {
    /// Begin a job of `total` bytes; 0 when that is not known.
    pub fn new(label: &str, total: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            let bytes = if total > 0 { format!(" ({})", size(total)) } else { String::new() };
            eprintln!("{label}{bytes}");
            return Self::Lines { label: label.to_owned(), total, next: 10 };
        }
        let template = if total > 0 {
            "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"
        } else {
            "{msg} {bytes} {bytes_per_sec}"
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style.progress_chars("=> "));
        bar.set_message(label.to_owned());
        Self::Bar(bar)
    }

    /// So many bytes are done.
    pub fn at(&mut self, done: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(done),
            Self::Lines { label, total, next } => {
                let percent = if *total < SHORT_BYTES { 0 } else { done * 100 / *total };
                if percent >= *next && percent < 100 {
                    eprintln!("{label}: {percent} %");
                    *next = percent - percent % 10 + 10;
                }
            }
        }
    }

    /// Take the bar away.
    pub fn finish(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// The progress of a job that is counted in pictures or the like, with how many come in a second.
pub struct CountProgress {
    /// On a terminal.
    bar: Option<ProgressBar>,
    label: String,
    total: usize,
    /// Count at which the next line is due, where there is no terminal.
    next: usize,
    start: Instant,
}

impl CountProgress {
    /// Begin a job of `total` things called `label`.
    pub fn new(label: &str, total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {per_sec} {eta}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
            ProgressBar::new(total as u64).with_style(style).with_message(label.to_owned())
        });
        Self { bar, label: label.to_owned(), total, next: total.div_ceil(10), start: Instant::now() }
    }

    /// So many are done.
    pub fn at(&mut self, done: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
        } else if done >= self.next && done < self.total {
            eprintln!("{}: {done}/{}, {:.1} a second", self.label, self.total, self.per_second(done));
            self.next = done + self.total.div_ceil(10);
        }
    }

    /// Write to stderr without harm to the bar.
    pub fn around(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// How many were done in a second so far.
    pub fn per_second(&self, done: usize) -> f64 {
        done as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }

    /// Take the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
