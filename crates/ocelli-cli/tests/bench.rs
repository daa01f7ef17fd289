//! `bench` as other programs call it: its records, its page, and what it refuses.

mod support;

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use support::{assert_exit, json_lines, ocelli, path, run, stderr, stdout};

/// Fields of every record of times.
const REQUIRED: [&str; 17] = [
    "bench",
    "measure",
    "model",
    "dtype",
    "device",
    "threads",
    "kernels",
    "n",
    "median_ms",
    "min_ms",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "max_ms",
    "version",
    "flush_to_zero",
    "cores",
];

fn bench(model: &str, args: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("home");
    let (clip, vocabulary) = (model.starts_with("mobileclip"), path("clip-tokenizer"));
    let vocabulary = ["--tokenizer", &vocabulary];
    let model = path(model);
    let model = ["--model", &model, "--warmup", "0"];
    let vocabulary = if clip { &vocabulary[..] } else { &[] };
    run(home.path(), &[&["bench"][..], args, &model, vocabulary].concat())
}

fn records(model: &str, args: &[&str]) -> Vec<Value> {
    let output = bench(model, &[args, &["--json"]].concat());
    assert_exit(&output, 0);
    json_lines(&output)
}

/// The record has all fields, and its figures are in order.
fn assert_times(record: &Value) {
    for name in REQUIRED {
        assert!(!record[name].is_null(), "{name} is missing: {record}");
    }
    let ms = |name: &str| record[name].as_f64().expect(name);
    assert!(0.0 < ms("min_ms") && ms("min_ms") <= ms("p50_ms") && ms("p50_ms") <= ms("p90_ms"), "{record}");
    assert!(ms("p90_ms") <= ms("p99_ms") && ms("p99_ms") <= ms("max_ms"), "{record}");
    assert_eq!(ms("median_ms"), ms("p50_ms"));
    if cfg!(target_os = "linux") {
        for name in ["load1", "load1_others", "quiet", "peak_rss_bytes", "cpu"] {
            assert!(!record[name].is_null(), "{name} is missing: {record}");
        }
    }
    // The tests are built from a git checkout, or told the commit.
    if let Some(commit) = option_env!("OCELLI_BUILT_FROM") {
        assert_eq!(record["commit"], commit);
    }
}

fn measures(records: &[Value]) -> Vec<&str> {
    records.iter().map(|r| r["measure"].as_str().expect("measure")).collect()
}

#[test]
fn the_first_token_is_told_in_its_parts() {
    let args = ["ttft", "--runs", "3", "--max-tokens", "4", "--resolution", "64,128", "--dtype", "f32"];
    let records = records("fastvlm-apple", &[&args[..], &["--threads", "1"]].concat());
    let parts = ["ttft", "preprocess", "encode", "prefill", "to_4_tokens"];
    assert_eq!(measures(&records), [parts, parts].concat());
    records.iter().for_each(assert_times);
    let (small, large) = records.split_at(5);
    for (records, resolution, image_tokens) in [(small, 64, 1), (large, 128, 4)] {
        let ms = |at: usize| records[at]["median_ms"].as_f64().expect("ms");
        assert!(records.iter().all(|r| r["resolution"] == resolution && r["n"] == 3 && r["bench"] == "ttft"));
        assert_eq!(
            (&records[0]["image_tokens"], &records[2]["tokens"]),
            (&json!(image_tokens), &json!(image_tokens))
        );
        // Of each run the parts are within the whole; so are their least values within the largest whole.
        let least = |at: usize| records[at]["min_ms"].as_f64().expect("ms");
        assert!(least(1) + least(2) + least(3) <= records[0]["max_ms"].as_f64().expect("ms"));
        assert!(ms(4) > least(0), "four tokens take longer than one");
        let positions = records[0]["tokens"].as_u64().expect("tokens");
        assert_eq!(records[4]["tokens"], positions + 4);
        assert_eq!(records[3]["tokens"], positions);
    }
    let first = &records[0];
    assert_eq!((&first["dtype"], &first["threads"]), (&json!("f32"), &json!(1)));
    assert_eq!((&first["model"], &first["device"]), (&json!("fastvlm-apple"), &json!("cpu")));
    assert!(first.get("quant").is_none() && first.get("stopped").is_none());
}

#[test]
fn every_time_is_told_when_asked_for() {
    let args = ["decode", "--runs", "2", "--max-tokens", "4", "--resolution", "64", "--times", "--prompt"];
    let of = |prompt: &str| records("fastvlm-apple", &[&args[..], &[prompt]].concat()).remove(0);
    let (short, long) = (of("a"), of("a a a a a a a a"));
    let times: Vec<f64> = serde_json::from_value(short["times_ms"].clone()).expect("times");
    assert_eq!((times.len() as u64, 6), (short["n"].as_u64().expect("n"), times.len()));
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(least, short["min_ms"].as_f64().expect("least"));
    assert!(short["context"].as_u64() < long["context"].as_u64(), "{short} {long}");
    let without = records("fastvlm-apple", &["encode", "--runs", "1", "--resolution", "64"]);
    assert!(without[0].get("times_ms").is_none());
}

#[test]
fn a_file_is_read_and_decoded_in_each_run() {
    let image = path("images/rgb_160x120.png");
    let records = records("fastvlm-apple", &["ttft", "--runs", "1", "--max-tokens", "1", "--image", &image]);
    assert_eq!(measures(&records), ["ttft", "preprocess", "encode", "prefill"]);
    let missing = bench("fastvlm-apple", &["ttft", "--runs", "1", "--image", "no/such.png"]);
    assert_exit(&missing, 1);
    assert!(stderr(&missing).contains("no/such.png"), "{}", stderr(&missing));
}

#[test]
fn encoder_and_decoder_are_measured_alone() {
    let encode = records("fastvlm-apple", &["encode", "--runs", "2", "--resolution", "64,192"]);
    encode.iter().for_each(assert_times);
    let sizes: Vec<_> = encode.iter().map(|r| (r["resolution"].clone(), r["tokens"].clone())).collect();
    assert_eq!(sizes, [(json!(64), json!(1)), (json!(192), json!(9))]);

    let args = ["decode", "--runs", "2", "--max-tokens", "5", "--resolution", "64"];
    let decode = records("fastvlm-apple", &args);
    assert_eq!(decode.len(), 1);
    assert_times(&decode[0]);
    // Five tokens have four times between them.
    assert_eq!((&decode[0]["n"], &decode[0]["tokens"]), (&json!(8), &json!(5)));
    let per_s = decode[0]["tokens_per_s"].as_f64().expect("rate");
    let bounds =
        1e3 / decode[0]["max_ms"].as_f64().expect("ms")..=1e3 / decode[0]["min_ms"].as_f64().expect("ms");
    assert!(bounds.contains(&per_s), "{}", decode[0]);
    assert!(decode[0]["context"].as_u64() > Some(1));
}

#[test]
fn sustained_compares_its_two_ends() {
    let args = ["sustained", "--minutes", "0.02", "--resolution", "64", "--max-tokens", "2"];
    let records = records("fastvlm-apple", &args);
    assert_eq!(measures(&records), ["first_minute", "last_minute", "whole"]);
    records.iter().for_each(assert_times);
    let n = |at: usize| records[at]["n"].as_u64().expect("n");
    assert!(n(0) < n(2) && n(1) < n(2));
    let series = records[2]["series_s_ms"].as_array().expect("series");
    assert_eq!(series.len() as u64, n(2));
    assert!(series.last().expect("moment")[0].as_f64() >= Some(1.0));
    // Half of 1.2 seconds.
    assert!((records[0]["window_s"].as_f64().expect("window") - 0.6).abs() < 1e-6);
}

#[test]
fn memory_counts_weights_and_arenas() {
    for (model, arch) in [("fastvlm-apple", "vlm"), ("mobileclip-b", "clip")] {
        let records = records(model, &["memory"]);
        assert_eq!(measures(&records), ["peak"], "{arch}");
        let bytes =
            |name: &str| records[0][name].as_u64().unwrap_or_else(|| panic!("{name}: {}", records[0]));
        assert!(bytes("weights_bytes") > 1000 && bytes("arena_bytes") > 1000);
        if cfg!(target_os = "linux") {
            assert!(bytes("peak_rss_bytes") >= bytes("load_peak_rss_bytes"));
            assert!(bytes("peak_rss_bytes") > bytes("weights_bytes") + bytes("arena_bytes"));
        }
        assert!(records[0].get("median_ms").is_none() && records[0]["load_ms"].as_f64() > Some(0.0));
    }
}

#[test]
fn pareto_compares_models_and_picks_within_a_budget() {
    let other = path("fastvlm-native");
    let args = ["pareto", "--model", &other, "--resolution", "64,128", "--runs", "1"];
    let within = |budget: &str| records("fastvlm-apple", &[&args[..], &["--ttft-budget", budget]].concat());
    let generous = within("60s");
    let models: Vec<&Value> =
        generous.iter().filter(|r| r["measure"] == "ttft").map(|r| &r["model"]).collect();
    assert_eq!(models, ["fastvlm-native", "fastvlm-native", "fastvlm-apple", "fastvlm-apple"]);
    let picks: Vec<&Value> = generous.iter().filter(|r| r["measure"] == "pick").collect();
    assert_eq!(picks.len(), 2);
    assert!(picks.iter().all(|p| p["resolution"] == 128 && p["ttft_budget_ms"] == 60_000.0), "{picks:?}");

    let tight = bench("fastvlm-apple", &[&args[..], &["--ttft-budget", "0.001ms", "--json"]].concat());
    assert_exit(&tight, 0);
    assert!(json_lines(&tight).iter().all(|r| r["measure"] != "pick"));
    assert!(stderr(&tight).contains("no resolution is within"), "{}", stderr(&tight));
}

#[test]
fn ops_stand_beside_the_limits_of_the_machine() {
    let records = records("fastvlm-apple", &["ops", "--runs", "2", "--resolution", "64", "--tokens", "20"]);
    let limits = &records[0];
    assert_eq!(limits["measure"], "limits");
    assert!(
        limits["read_bytes_per_s"].as_f64() > Some(1e8) && limits["f32_flops_per_s"].as_f64() > Some(1e8)
    );
    for part in ["encoder", "prefill", "decode"] {
        let ops: Vec<&Value> = records.iter().filter(|r| r["measure"] == part).collect();
        let names: Vec<&str> = ops.iter().map(|r| r["op"].as_str().expect("op")).collect();
        assert!(names.contains(&"linear") && names.contains(&"total"), "{part}: {names:?}");
        assert_eq!(names.contains(&"cached_attention"), part != "encoder");
        let sum = |field: &str| -> u64 {
            ops.iter().filter(|r| r["op"] != "total").map(|r| r[field].as_u64().expect(field)).sum()
        };
        let total = ops.iter().find(|r| r["op"] == "total").expect("total");
        for field in ["flops", "bytes", "count"] {
            assert_eq!(total[field], sum(field), "{part} {field}");
        }
        for op in &ops {
            assert_times(op);
            assert!(op["limit_ms"].as_f64() > Some(0.0) && op["of_limit"].as_f64() > Some(0.0), "{op}");
            assert!(op["bound"] == "memory" || op["bound"] == "compute");
        }
    }
    let flops = |part: &str| {
        let total = records.iter().find(|r| r["measure"] == part && r["op"] == "total").expect("total");
        total["flops"].as_f64().expect("flops")
    };
    assert!(flops("prefill") > 10.0 * flops("decode"));
    let text = stdout(&bench("mobileclip-b", &["ops", "--runs", "1"]));
    assert!(text.contains("GB/s") && text.contains("image") && text.contains("text"), "{text}");
}

#[test]
fn the_towers_of_a_mobileclip_are_measured() {
    let records = records("mobileclip-b", &["embed", "--runs", "2", "--batch", "1,3"]);
    assert_eq!(measures(&records), ["preprocess", "image", "image", "text"]);
    records.iter().for_each(assert_times);
    assert_eq!((&records[1]["batch"], &records[2]["batch"]), (&json!(1), &json!(3)));
    let rate = records[2]["images_per_s"].as_f64().expect("rate");
    let of = |name: &str| 3e3 / records[2][name].as_f64().expect("ms");
    assert!(of("max_ms") <= rate && rate <= of("min_ms"), "{}", records[2]);
}

/// What a page must not have.
fn assert_self_contained(page: &str) {
    for loads in ["http://", "https://", "src=", "@import", "url(", "<script", "<link"] {
        assert!(!page.contains(loads), "the page has `{loads}`");
    }
    assert!(page.starts_with("<!doctype html>") && !page.contains("NaN"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

#[test]
fn the_suite_writes_results_and_a_page_that_loads_nothing() {
    let out = tempfile::tempdir().expect("folder");
    let suite = |model: &str, name: &str, more: &[&str]| {
        let dir = out.path().join(name);
        let to = dir.to_str().expect("utf-8");
        let output = bench(model, &[&["suite", "--runs", "1", "--json", "--out", to], more].concat());
        assert_exit(&output, 0);
        let results: Value =
            serde_json::from_slice(&std::fs::read(dir.join("results.json")).expect("results")).expect("JSON");
        assert_eq!(results["records"], Value::Array(json_lines(&output)));
        assert!(results["machine"]["cores"].as_u64() >= Some(1));
        (results, std::fs::read_to_string(dir.join("report.html")).expect("page"))
    };
    let more = ["--minutes", "0.01", "--ttft-budget", "60s"];
    let (results, page) = suite("fastvlm-apple", "vlm", &more);
    let benches = |results: &Value| -> Vec<String> {
        let mut names: Vec<String> = results["records"]
            .as_array()
            .expect("records")
            .iter()
            .map(|r| r["bench"].as_str().expect("bench").to_owned())
            .collect();
        names.dedup();
        names
    };
    assert_eq!(benches(&results), ["memory", "ttft", "encode", "decode", "pareto", "sustained", "ops"]);
    assert_self_contained(&page);
    for title in ["Time to the first token", "Encoder", "Decoding", "Without a pause", "Memory", "Roofline"] {
        assert!(page.contains(&format!("<h2>{title}</h2>")), "{title}");
    }
    assert!(page.contains("Within 60k ms: 192 px, 9 visual tokens."), "{page}");

    let (results, page) = suite("mobileclip-s0", "clip", &[]);
    assert_eq!(benches(&results), ["memory", "embed", "ops"]);
    assert_self_contained(&page);
    assert!(page.contains("<h2>Towers</h2>") && !page.contains("<h2>Decoding</h2>"));
}

#[test]
fn a_random_model_of_synth_can_be_measured() {
    let home = tempfile::tempdir().expect("home");
    let dir = home.path().join("random");
    let dir = dir.to_str().expect("utf-8");
    assert_exit(&run(home.path(), &["synth", "fastvlm-tiny", dir]), 0);
    let args = ["bench", "ttft", "--model", dir, "--runs", "1", "--warmup", "0", "--max-tokens", "2"];
    let output = run(home.path(), &[&args[..], &["--resolution", "64"]].concat());
    assert_exit(&output, 0);
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.lines().all(|line| line.starts_with("ttft ") && line.contains(" ms")), "{text}");
}

#[test]
fn a_busy_machine_is_not_called_quiet() {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: only Linux tells its load");
        return;
    }
    // Keep a core busy so that others are surely seen: the limit is none at all.
    let stop = AtomicBool::new(false);
    let args = ["sustained", "--minutes", "0.02", "--resolution", "64", "--json", "--quiet-load", "0"];
    let (warned, refused) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let warned = bench("fastvlm-apple", &args);
        let refused = bench("fastvlm-apple", &[&args[..], &["--require-quiet"]].concat());
        stop.store(true, Ordering::Relaxed);
        (warned, refused)
    });
    assert_exit(&warned, 0);
    assert!(stderr(&warned).contains("not quiet"), "{}", stderr(&warned));
    let records = json_lines(&warned);
    assert!(records.iter().all(|r| r["quiet"] == false), "{records:?}");
    assert!(records[0]["busy_others"].as_f64() > Some(0.0), "{}", records[0]);
    assert_exit(&refused, 1);
    assert!(stderr(&refused).contains("--require-quiet"), "{}", stderr(&refused));

    // A limit that no machine reaches.
    let args = ["encode", "--runs", "1", "--resolution", "64", "--quiet-load", "100000", "--require-quiet"];
    assert_eq!(records_of(&bench("fastvlm-apple", &[&args[..], &["--json"]].concat()))[0]["quiet"], true);
}

fn records_of(output: &Output) -> Vec<Value> {
    assert_exit(output, 0);
    json_lines(output)
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let home = tempfile::tempdir().expect("home");
    let wrong: [&[&str]; 10] = [
        &["bench"],
        &["bench", "speed"],
        &["bench", "ttft", "--runs", "0"],
        &["bench", "ttft", "--runs", "many"],
        &["bench", "encode", "--resolution", "448,big"],
        &["bench", "decode", "--max-tokens", "1"],
        &["bench", "sustained", "--minutes", "0"],
        &["bench", "pareto", "--ttft-budget", "soon"],
        &["bench", "embed", "--batch", "0"],
        &["bench", "ttft", "--quiet-load", "-1"],
    ];
    for args in wrong {
        assert_exit(&run(home.path(), args), 2);
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    let home = tempfile::tempdir().expect("home");
    for command in ["ttft", "encode", "decode", "sustained", "memory", "ops", "embed", "pareto", "suite"] {
        let args = ["bench", command, "--model", "no/such"];
        let out = home.path().join("out");
        let suite = ["--out", out.to_str().expect("utf-8")];
        let output = run(home.path(), &[&args[..], if command == "suite" { &suite } else { &[] }].concat());
        assert_exit(&output, 1);
        assert!(stderr(&output).contains("no model `no/such`"), "{command}: {}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
    let clip = bench("mobileclip-b", &["ttft"]);
    assert_exit(&clip, 1);
    assert!(stderr(&clip).contains("bench embed"), "{}", stderr(&clip));
    let vlm = bench("fastvlm-apple", &["embed"]);
    assert_exit(&vlm, 1);
    assert!(stderr(&vlm).contains("bench ttft"), "{}", stderr(&vlm));
    let size = bench("fastvlm-apple", &["encode", "--resolution", "100", "--runs", "1"]);
    assert_exit(&size, 1);
    assert!(stderr(&size).contains("multiple of 64"), "{}", stderr(&size));
}

/// Interrupt a measurement after its first line, or after a while when that is far off.
#[cfg(unix)]
fn interrupted(home: &Path, args: &[&str]) -> Output {
    use std::io::Read;
    let mut child = ocelli(home)
        .args(args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("ocelli runs");
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().expect("kill").success());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    child.stdout.take().expect("stdout").read_to_end(&mut out).expect("stdout");
    child.stderr.take().expect("stderr").read_to_end(&mut err).expect("stderr");
    Output { status: child.wait().expect("exit"), stdout: out, stderr: err }
}

#[test]
#[cfg(unix)]
fn ctrl_c_tells_what_was_measured() {
    let home = tempfile::tempdir().expect("home");
    let model = path("fastvlm-apple");
    let common = ["--model", &model, "--json", "--resolution", "64", "--warmup", "0"];
    let args = ["bench", "ttft", "--runs", "1000000", "--max-tokens", "2"];
    let output = interrupted(home.path(), &[&args[..], &common].concat());
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("stopped"), "{}", stderr(&output));
    let records = json_lines(&output);
    assert_eq!(measures(&records), ["ttft", "preprocess", "encode", "prefill", "to_2_tokens"]);
    records.iter().for_each(assert_times);
    assert!(records.iter().all(|r| r["stopped"] == true && r["n"].as_u64() < Some(1_000_000)));

    let out = home.path().join("out");
    let args = ["bench", "suite", "--minutes", "60", "--runs", "1", "--out", out.to_str().expect("utf-8")];
    let output = interrupted(home.path(), &[&args[..], &common].concat());
    assert_exit(&output, 1);
    let results: Value =
        serde_json::from_slice(&std::fs::read(out.join("results.json")).expect("results")).expect("JSON");
    assert_eq!(results["records"], Value::Array(json_lines(&output)));
    assert_self_contained(&std::fs::read_to_string(out.join("report.html")).expect("page"));
}
