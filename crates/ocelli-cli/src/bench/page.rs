//! The page of `suite`: tables and plots in one file that loads nothing.

use serde_json::Value;

use super::plot::{Axis, Series, bars, chart, number};
use crate::html::escape;
use crate::message::size;

/// Colours of light and dark; nothing may be loaded.
const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Ocelli on this machine</title>
<style>
:root { color-scheme: light dark; --ink: #1c1d1f; --quiet: #6a6d73; --rule: #d9dbdf; --paper: #ffffff;
  --s0: #2a6fbb; --s1: #d0722a; --s2: #3a8f63; --s3: #8a5cc2; --s4: #b8405e; --s5: #7a7f87; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7ea; --quiet: #9a9da4; --rule: #3a3d43; --paper: #17181b;
    --s0: #6aa9ee; --s1: #f0a060; --s2: #70c79a; --s3: #b99aec; --s4: #ee8098; --s5: #a6abb3; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p.note, dt, .legend { color: var(--quiet); }
p.warning { border-left: 4px solid var(--s4); padding-left: .7rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dd { margin: 0; }
svg { width: 100%; height: auto; max-width: 46rem; display: block; margin: .6rem 0; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.grid { stroke: var(--rule); } .line { fill: none; stroke-width: 2; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); }
.s3 { --c: var(--s3); } .s4 { --c: var(--s4); } .s5 { --c: var(--s5); }
.bar, .dot { fill: var(--c); } .line { stroke: var(--c); }
.legend span { margin-right: 1.2rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; background: var(--c); }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .7rem .15rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
</style>
"#;

/// The page for these records.
pub fn page(machine: &Value, records: &[Value]) -> String {
    let records = Records(records);
    let model = records.0.first().and_then(|r| r["model"].as_str()).unwrap_or("no model");
    let mut page = format!("{HEAD}<h1>{}</h1>", escape(model));
    if records.0.iter().any(|r| r["quiet"] == false) {
        page += "<p class=\"warning\">Other programs kept this machine busy: times are too long.</p>";
    }
    if records.0.iter().any(|r| r["stopped"] == true) {
        page += "<p class=\"warning\">Stopped before the end: some measurements are missing or short.</p>";
    }
    page += &facts(machine, records.0.first());
    page += &first_token(&records);
    page += &encoder(&records);
    page += &towers(&records);
    page += &token_by_token(&records);
    page += &frontier(&records);
    page += &sustained(&records);
    page += &memory(&records);
    page += &roofline(&records);
    page + "<p class=\"note\">Medians; percentiles by linear interpolation. Definitions: docs/performance.md of Ocelli.</p>\n"
}

/// All measurements.
struct Records<'a>(&'a [Value]);

impl<'a> Records<'a> {
    /// Those of one bench and one measure; an empty measure is any.
    fn of(&self, bench: &str, measure: &str) -> Vec<&'a Value> {
        let fits = |r: &&Value| r["bench"] == bench && (measure.is_empty() || r["measure"] == measure);
        self.0.iter().filter(fits).collect()
    }

    fn one(&self, bench: &str, measure: &str) -> Option<&'a Value> {
        self.of(bench, measure).into_iter().next()
    }
}

fn value(record: &Value, name: &str) -> f64 {
    record[name].as_f64().unwrap_or(f64::NAN)
}

fn section(title: &str, note: &str, body: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    format!("<h2>{}</h2><p class=\"note\">{}</p>{body}\n", escape(title), escape(note))
}

fn facts(machine: &Value, record: Option<&Value>) -> String {
    let mut rows = String::new();
    let mut row = |name: &str, value: &Value| {
        let text = match value {
            Value::Null => return,
            Value::String(text) => text.clone(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            other => other.to_string(),
        };
        rows += &format!("<dt>{}</dt><dd>{}</dd>", escape(&name.replace('_', " ")), escape(&text));
    };
    for name in
        ["cpu", "cores", "features", "system", "power", "governor", "flush_to_zero", "version", "commit"]
    {
        row(name, &machine[name]);
    }
    for name in ["dtype", "quant", "threads", "kernels", "load1"] {
        row(name, record.map_or(&Value::Null, |r| &r[name]));
    }
    format!("<dl>{rows}</dl>\n")
}

/// A table of times, one line a record; a column that no record fills is left out.
fn times(records: &[&Value], names: &[&str]) -> String {
    const TIMES: [&str; 5] = ["median_ms", "min_ms", "p90_ms", "p99_ms", "n"];
    if records.is_empty() {
        return String::new();
    }
    let filled = |name: &&&str| records.iter().any(|record| !record[**name].is_null());
    let columns: Vec<&str> = names.iter().chain(&TIMES).filter(filled).copied().collect();
    let title = |name: &&str| match *name {
        "n" | "op" => (*name).to_owned(),
        _ => name.replace("_ms", " ms").replace("_per_s", "/s").replace('_', " "),
    };
    let head: String = columns.iter().map(|name| format!("<th>{}</th>", escape(&title(name)))).collect();
    let line = |record: &&Value| {
        let cells = columns.iter().map(|name| format!("<td>{}</td>", cell(name, &record[*name])));
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let lines: String = records.iter().map(line).collect();
    format!("<div class=\"table\"><table><tr>{head}</tr>{lines}</table></div>")
}

fn cell(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => escape(text),
        Value::Number(n) => {
            let value = n.as_f64().unwrap_or(f64::NAN);
            match n.as_u64() {
                _ if name.starts_with("of_") => format!("{:.0} %", value * 100.0),
                Some(whole) if whole < 100_000 => whole.to_string(),
                _ => number(value),
            }
        }
        _ => String::new(),
    }
}

fn first_token(records: &Records) -> String {
    let part = |measure| records.one("ttft", measure).map_or(0.0, |r| value(r, "median_ms"));
    let (preprocess, encode, prefill) = (part("preprocess"), part("encode"), part("prefill"));
    let rest = (part("ttft") - preprocess - encode - prefill).max(0.0);
    let row = vec![("first token".to_owned(), vec![preprocess, encode, prefill, rest])];
    let plot = bars(&row, &["preprocess", "encode", "prefill", "other"], "ms");
    let table = times(&records.of("ttft", ""), &["measure", "resolution", "tokens"]);
    section(
        "Time to the first token",
        "From decoded pixels to the first token id; nothing is cached.",
        &(plot + &table),
    )
}

fn encoder(records: &Records) -> String {
    let found = records.of("encode", "encode");
    let points = found.iter().map(|r| (value(r, "resolution"), value(r, "median_ms"))).collect();
    let notes =
        found.iter().map(|r| format!("{} px: {:.1} ms", r["resolution"], value(r, "median_ms"))).collect();
    let series = [Series { name: "encoder".into(), points, notes, line: true }];
    let axes = (Axis { title: "side of the picture, px", log: false }, Axis { title: "ms", log: false });
    let body = chart(&axes.0, &axes.1, &series) + &times(&found, &["resolution", "tokens"]);
    section("Encoder", "Vision tower and projector.", &body)
}

fn towers(records: &Records) -> String {
    let table = times(&records.of("embed", ""), &["measure", "batch", "resolution", "images_per_s"]);
    let image = records.of("embed", "image");
    let row = |r: &&Value| (format!("batch {}", r["batch"]), vec![value(r, "images_per_s")]);
    let rows: Vec<(String, Vec<f64>)> = image.iter().map(row).collect();
    section(
        "Towers",
        "One call for a batch of pictures; one text.",
        &(bars(&rows, &["pictures"], "a second") + &table),
    )
}

fn token_by_token(records: &Records) -> String {
    let table = times(&records.of("decode", ""), &["resolution", "context", "tokens", "tokens_per_s"]);
    section("Decoding", "Time from one token to the next.", &table)
}

fn frontier(records: &Records) -> String {
    let found = records.of("pareto", "ttft");
    let points = found.iter().map(|r| (value(r, "image_tokens"), value(r, "median_ms"))).collect();
    let notes =
        found.iter().map(|r| format!("{} px: {:.1} ms", r["resolution"], value(r, "median_ms"))).collect();
    let series = [Series { name: "resolutions".into(), points, notes, line: true }];
    let axes =
        (Axis { title: "visual tokens", log: false }, Axis { title: "ms to the first token", log: false });
    let pick = |r: &&Value| {
        let (budget, best) = (number(value(r, "ttft_budget_ms")), &r["resolution"]);
        format!("<p>Within {budget} ms: {best} px, {} visual tokens.</p>", r["image_tokens"])
    };
    let picks: String = records.of("pareto", "pick").iter().map(pick).collect();
    let body = chart(&axes.0, &axes.1, &series) + &picks + &times(&found, &["resolution", "image_tokens"]);
    section("Resolution and time", "Answers of one token.", &body)
}

fn sustained(records: &Records) -> String {
    let Some(whole) = records.one("sustained", "whole") else { return String::new() };
    let pair = |p: &Value| Some((p.get(0)?.as_f64()?, p.get(1)?.as_f64()?));
    let points = whole["series_s_ms"].as_array().into_iter().flatten().filter_map(pair).collect();
    let series = [Series { name: "answers".into(), points, notes: vec![], line: true }];
    let axes = (Axis { title: "seconds", log: false }, Axis { title: "ms to the first token", log: false });
    let table = times(&records.of("sustained", ""), &["measure", "window_s", "clock_mhz", "temperature_c"]);
    section("Without a pause", "Answers one after another.", &(chart(&axes.0, &axes.1, &series) + &table))
}

fn memory(records: &Records) -> String {
    let Some(record) = records.one("memory", "peak") else { return String::new() };
    let names = ["peak_rss_bytes", "load_peak_rss_bytes", "weights_bytes", "arena_bytes", "cache_bytes"];
    let row = |name: &&str| {
        let label = name.trim_end_matches("_bytes").replace("rss", "resident").replace('_', " ");
        (label, vec![value(record, name) / (1 << 20) as f64])
    };
    let rows: Vec<(String, Vec<f64>)> = names.iter().map(row).collect();
    let peak = record["peak_rss_bytes"].as_u64().map(size).unwrap_or_default();
    section(
        "Memory",
        &format!("Peak while loading and answering once: {peak}."),
        &bars(&rows, &["memory"], "MiB"),
    )
}

fn roofline(records: &Records) -> String {
    let Some(limits) = records.one("ops", "limits") else { return String::new() };
    let read = value(limits, "read_bytes_per_s");
    let parts = ["encoder", "prefill", "decode", "image", "text"];
    let ops: Vec<(&str, Vec<&Value>)> = parts
        .iter()
        .map(|part| (*part, records.of("ops", part)))
        .filter(|(_, ops)| !ops.is_empty())
        .collect();
    let single = |r: &&&Value| r["op"] != "total" && value(r, "flops") > 0.0 && value(r, "bytes") > 0.0;
    let mut series: Vec<Series> = ops
        .iter()
        .map(|(part, ops)| {
            let shown: Vec<&&Value> = ops.iter().filter(single).collect();
            Series {
                name: (*part).to_owned(),
                points: shown
                    .iter()
                    .map(|r| (value(r, "flops") / value(r, "bytes"), value(r, "flops_per_s")))
                    .collect(),
                notes: shown.iter().map(|r| note(r)).collect(),
                line: false,
            }
        })
        .collect();
    // From the least to the most operations a byte, whatever the ops are.
    let (least, most) = (0.1, 1e4);
    for (name, field) in [("bf16 limit", "bf16_flops_per_s"), ("f32 limit", "f32_flops_per_s")] {
        let peak = value(limits, field);
        if peak > 0.0 {
            let ridge = (peak / read).clamp(least, most);
            let points =
                vec![(least, (read * least).min(peak)), (ridge, (read * ridge).min(peak)), (most, peak)];
            series.push(Series { name: name.to_owned(), points, notes: vec![], line: true });
        }
    }
    let axes = (Axis { title: "FLOP a byte", log: true }, Axis { title: "FLOP/s", log: true });
    let mut body = chart(&axes.0, &axes.1, &series);
    for (part, ops) in ops {
        let rows: Vec<(String, Vec<f64>)> = ops
            .iter()
            .filter(|r| r["op"] != "total")
            .map(|r| (r["op"].as_str().unwrap_or("").to_owned(), vec![value(r, "median_ms")]))
            .collect();
        let names =
            ["op", "count", "flops", "bytes", "flops_per_s", "bytes_per_s", "limit_ms", "of_limit", "bound"];
        body += &format!("<h2>Ops: {part}</h2>{}{}", bars(&rows, &["time"], "ms"), times(&ops, &names));
    }
    let note = format!(
        "The lines are what this machine does at most, measured: {}B/s read from memory.",
        number(read)
    );
    section("Roofline", &note, &body)
}

fn note(op: &Value) -> String {
    let share = value(op, "of_limit") * 100.0;
    format!(
        "{}: {} FLOP/s, {share:.0} % of its limit",
        op["op"].as_str().unwrap_or(""),
        number(value(op, "flops_per_s"))
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_loads_nothing_and_shows_what_there_is() {
        let records = [
            json!({"bench": "ttft", "measure": "ttft", "model": "a<b>", "resolution": 512, "tokens": 90, "n": 3,
                "median_ms": 200.0, "min_ms": 190.0, "p90_ms": 210.0, "p99_ms": 212.0, "quiet": false}),
            json!({"bench": "ops", "measure": "limits", "read_bytes_per_s": 3e10, "f32_flops_per_s": 4e11}),
            json!({"bench": "ops", "measure": "encoder", "op": "linear", "flops": 1000, "bytes": 10,
                "flops_per_s": 1e9, "of_limit": 0.5, "median_ms": 3.0, "n": 1, "count": 2}),
        ];
        let page = page(&json!({"cpu": "A & B"}), &records);
        for loads in ["http:", "https:", "src=", "@import", "url(", "<script", "<link"] {
            assert!(!page.contains(loads), "{loads}");
        }
        assert!(
            page.contains("a&lt;b&gt;") && page.contains("A &amp; B") && page.contains("<h2>Roofline</h2>")
        );
        assert!(page.contains("times are too long") && page.contains("<h2>Time to the first token</h2>"));
        // Nothing was measured of these.
        for title in ["Memory", "Without a pause", "Towers", "Decoding"] {
            assert!(!page.contains(&format!("<h2>{title}</h2>")), "{title}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
