//! Measurements as they are told: a JSON object or a line of text each.

use std::io::Write;

use anyhow::bail;
use ocelli::CancelToken;
use serde_json::{Map, Value, json};

use super::args::MeasureArgs;
use super::load::{LoadWatch, Reading};
use super::machine;
use super::stats::Summary;
use crate::message::size;

/// What is measured: the same in all records of one model.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Name of the model.
    pub model: String,
    /// Compute type.
    pub dtype: &'static str,
    /// How it is quantized, if it is.
    pub quant: Option<&'static str>,
    /// Threads in use.
    pub threads: usize,
    /// `cpu` or `gpu`.
    pub device: &'static str,
    /// The instruction set that runs, or the GPU.
    pub kernels: String,
}

/// Takes measurements, tells them, and watches the machine meanwhile.
pub struct Recorder {
    args: MeasureArgs,
    facts: Map<String, Value>,
    watch: LoadWatch,
    /// Told that the machine is not quiet; once is enough.
    warned: bool,
    loud: bool,
    /// Stops the measurements.
    pub cancel: CancelToken,
    /// All records so far.
    pub records: Vec<Value>,
}

impl Recorder {
    /// Begin, before anything of ours loads the machine.
    ///
    /// # Errors
    /// When the machine has to be quiet and is not.
    pub fn new(args: &MeasureArgs) -> anyhow::Result<Self> {
        let cancel = CancelToken::default();
        let on_interrupt = cancel.clone();
        // A second Ctrl-C does not wait for what is running.
        ctrlc::set_handler(move || {
            if on_interrupt.is_cancelled() {
                std::process::exit(130);
            }
            on_interrupt.cancel();
        })?;
        let (facts, watch) = (machine::facts(), LoadWatch::new());
        let mut recorder =
            Self { args: args.clone(), facts, watch, warned: false, loud: false, cancel, records: vec![] };
        let first = recorder.watch.first();
        recorder.judge(&first);
        if recorder.args.require_quiet {
            match first.is_quiet(recorder.args.quiet_load) {
                Some(true) => {}
                Some(false) => bail!("--require-quiet: nothing was measured"),
                None => bail!("--require-quiet: this system does not tell its load"),
            }
        }
        Ok(recorder)
    }

    /// Whether somebody asked to stop.
    pub fn stopped(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Facts about the machine.
    pub fn facts(&self) -> &Map<String, Value> {
        &self.facts
    }

    /// Do something a few times to warm up and then `runs` times, and return what the latter gave. Whoever asks to
    /// stop gets what was whole by then.
    ///
    /// # Errors
    /// Those of `once`.
    pub fn repeat<T>(
        &mut self,
        runs: usize,
        mut once: impl FnMut(&CancelToken) -> anyhow::Result<T>,
    ) -> anyhow::Result<Vec<T>> {
        let mut results = Vec::with_capacity(runs);
        for run in 0..self.args.warmup + runs {
            if run == self.args.warmup {
                // The load while we measure counts, not that while we load and warm up.
                self.watch.read();
            }
            if self.stopped() {
                break;
            }
            let result = once(&self.cancel);
            if self.stopped() {
                break;
            }
            let result = result?;
            if run >= self.args.warmup {
                results.push(result);
            }
        }
        Ok(results)
    }

    /// How busy others were since the measurement began.
    pub fn reading(&mut self) -> Reading {
        self.watch.read()
    }

    /// Tell a series of times in ms; nothing is told where there are none.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn times(
        &mut self,
        names: [&str; 2],
        subject: &Subject,
        values: &[f64],
        reading: &Reading,
        extra: &[(&str, Value)],
    ) -> anyhow::Result<()> {
        let Some(summary) = Summary::of(values) else { return Ok(()) };
        let mut fields = summary.fields();
        if self.args.times {
            fields.insert("times_ms".to_owned(), json!(values));
        }
        self.tell(names, subject, fields, reading, extra)
    }

    /// Tell a measurement of no times.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn values(
        &mut self,
        names: [&str; 2],
        subject: &Subject,
        reading: &Reading,
        extra: &[(&str, Value)],
    ) -> anyhow::Result<()> {
        self.tell(names, subject, Map::new(), reading, extra)
    }

    fn tell(
        &mut self,
        [bench, measure]: [&str; 2],
        subject: &Subject,
        times: Map<String, Value>,
        reading: &Reading,
        extra: &[(&str, Value)],
    ) -> anyhow::Result<()> {
        let quiet = self.judge(reading);
        let mut record = self.facts.clone();
        let fields = [
            ("bench", json!(bench)),
            ("measure", json!(measure)),
            ("model", json!(subject.model)),
            ("dtype", json!(subject.dtype)),
            ("quant", json!(subject.quant)),
            ("device", json!(subject.device)),
            ("threads", json!(subject.threads)),
            ("kernels", json!(subject.kernels)),
            ("load1", json!(reading.load1)),
            ("load1_others", json!(reading.load1_others)),
            ("busy_others", json!(reading.busy_others)),
            ("quiet", json!(quiet)),
            ("peak_rss_bytes", json!(ocelli::peak_rss_bytes())),
            // What a Ctrl-C cut short says so.
            ("stopped", json!(self.stopped().then_some(true))),
        ];
        let given = extra.iter().map(|(name, value)| (*name, value.clone()));
        for (name, value) in fields.into_iter().chain(given).filter(|(_, value)| !value.is_null()) {
            record.insert(name.to_owned(), value);
        }
        record.extend(times);
        let record = Value::Object(record);
        let line = if self.args.json { record.to_string() } else { text(&record, extra) };
        self.records.push(record);
        writeln!(std::io::stdout(), "{line}")?;
        Ok(())
    }

    /// Whether the machine is quiet; says so on stderr when it is not.
    fn judge(&mut self, reading: &Reading) -> Option<bool> {
        let quiet = reading.is_quiet(self.args.quiet_load);
        if quiet == Some(false) {
            self.loud = true;
            if !std::mem::replace(&mut self.warned, true) {
                let others = reading.load1_others.unwrap_or(0.0).max(reading.busy_others.unwrap_or(0.0));
                let limit = self.args.quiet_load;
                eprintln!(
                    "ocelli: this machine is not quiet: the load of other programs is {others:.2}, the limit {limit}; \
                     times will be too long (records say \"quiet\": false)"
                );
            }
        }
        quiet
    }

    /// The exit status: false when somebody stopped it, or the machine had to be quiet and was not.
    pub fn finish(&self) -> bool {
        if self.stopped() {
            eprintln!("ocelli: stopped; what was measured until then is told");
        }
        let refused = self.args.require_quiet && self.loud;
        if refused {
            eprintln!("ocelli: --require-quiet: the machine did not stay quiet");
        }
        !self.stopped() && !refused
    }
}

/// A record for people: names, then what was measured.
fn text(record: &Value, extra: &[(&str, Value)]) -> String {
    let word = |name: &str| record[name].as_str().unwrap_or_default();
    if !word("op").is_empty() {
        return op_text(record);
    }
    let mut line = format!("{:<10}{:<15}", word("bench"), word("measure"));
    let ms = |name: &str| record[name].as_f64();
    if let (Some(n), Some(median), Some(min)) = (record["n"].as_u64(), ms("median_ms"), ms("min_ms")) {
        line += &format!(" median {median:>9.2} ms  min {min:>9.2}");
        if let (Some(p90), Some(p99)) = (ms("p90_ms"), ms("p99_ms")) {
            line += &format!("  p90 {p90:>9.2}  p99 {p99:>9.2}");
        }
        line += &format!("  n {n}");
    }
    for (name, value) in extra {
        line += &match value {
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
            _ => format!("  {} {}", label(name), shown(name, value)),
        };
    }
    if record["quiet"] == json!(false) {
        line += "  (not quiet)";
    }
    line
}

/// A line of the roofline's table.
fn op_text(record: &Value) -> String {
    let word = |name: &str| record[name].as_str().unwrap_or_default();
    let number = |name: &str| record[name].as_f64().unwrap_or(0.0);
    format!(
        "{:<8} {:<17}{:>4} {:>10.3} ms {:>10.1} GFLOP/s {:>7.1} GB/s  limit {:>9.3} ms {:>4.0} %  {}",
        word("measure"),
        word("op"),
        number("count"),
        number("median_ms"),
        number("flops_per_s") / 1e9,
        number("bytes_per_s") / 1e9,
        number("limit_ms"),
        number("of_limit") * 100.0,
        word("bound"),
    )
}

fn label(name: &str) -> String {
    let name = ["_bytes", "_per_s", "_ms", "_mhz", "_c", "_s"]
        .iter()
        .fold(name, |name, unit| name.trim_end_matches(unit));
    name.replace('_', " ")
}

/// A value with the unit of its name.
fn shown(name: &str, value: &Value) -> String {
    let Some(number) = value.as_f64() else {
        return value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    };
    match name {
        _ if name.ends_with("bytes_per_s") => format!("{:.1} GB/s", number / 1e9),
        _ if name.ends_with("flops_per_s") => format!("{:.1} GFLOP/s", number / 1e9),
        _ if name.ends_with("ops_per_s") => format!("{:.1} GOP/s", number / 1e9),
        _ if name.ends_with("_per_s") => format!("{number:.2}/s"),
        _ if name.ends_with("bytes") => size(number as u64),
        _ if name.ends_with("flops") => format!("{:.3} GFLOP", number / 1e9),
        _ if name.ends_with("_ms") => format!("{number:.2} ms"),
        _ if name.ends_with("_s") => format!("{number:.1} s"),
        _ if name.ends_with("_mhz") => format!("{number:.0} MHz"),
        _ if name.ends_with("_c") => format!("{number:.0} C"),
        _ if name.starts_with("of_") => format!("{:.0} %", number * 100.0),
        _ if value.is_u64() => value.to_string(),
        _ => format!("{number:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_their_units() {
        let shown = |name: &str, value: f64| super::shown(name, &json!(value));
        assert_eq!(shown("read_bytes_per_s", 3.05e10), "30.5 GB/s");
        assert_eq!(shown("flops_per_s", 2e12), "2000.0 GFLOP/s");
        assert_eq!(shown("tokens_per_s", 71.25), "71.25/s");
        assert_eq!(shown("window_s", 60.0), "60.0 s");
        assert_eq!(shown("of_limit", 0.456), "46 %");
        assert_eq!(super::shown("weights_bytes", &json!(1_250_000_000u64)), "1.2 GB");
        assert_eq!(super::shown("tokens", &json!(256)), "256");
        assert_eq!(label("arena_bytes"), "arena");
    }

    #[test]
    fn a_line_says_what_was_measured() {
        let record = json!({
            "bench": "ttft", "measure": "encode", "n": 3, "median_ms": 12.0, "min_ms": 11.0, "p90_ms": 13.0,
            "p99_ms": 13.5, "quiet": false,
        });
        let line = text(&record, &[("resolution", json!(512)), ("none", Value::Null)]);
        assert!(
            line.starts_with("ttft      encode") && line.ends_with("n 3  resolution 512  (not quiet)"),
            "{line}"
        );
    }
}
