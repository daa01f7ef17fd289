//! `--device gpu` on every adapter of this machine, software ones too.

mod support;

use std::path::Path;

use serde_json::Value;
use support::{assert_exit, json_lines, ocelli, path, run, stderr};

/// Names of the adapters that `doctor` lists, or a word that there is none.
fn adapters(home: &Path) -> Vec<String> {
    let output = run(home, &["doctor", "--json"]);
    assert_exit(&output, 0);
    let report = &json_lines(&output)[0];
    let listed = report["gpus"].as_array().expect("a list").iter();
    let names: Vec<String> = listed.map(|gpu| gpu["name"].as_str().expect("name").to_owned()).collect();
    if names.is_empty() {
        println!("SKIPPED: this machine has no GPU and no software Vulkan (Debian: mesa-vulkan-drivers)");
    }
    names
}

fn lines(home: &Path, adapter: Option<&str>, args: &[&str]) -> Vec<Value> {
    let mut command = ocelli(home);
    command.args(args).args(["--json", "--dtype", "f32"]);
    if let Some(adapter) = adapter {
        command.args(["--device", "gpu"]).env("OCELLI_GPU", adapter);
    }
    let output = command.output().expect("ocelli runs");
    assert_exit(&output, 0);
    json_lines(&output)
}

#[test]
fn answers_and_classes_are_those_of_the_cpu() {
    let home = tempfile::tempdir().expect("home");
    let picture = path("../../docs/images/drawn-scene.png");
    let ask = ["caption", &picture, "--max-tokens", "30"];
    let classify =
        ["classify", &picture, "--model", "ocelli-tiny-clip", "--labels", "a red circle,a purple diamond"];
    for adapter in adapters(home.path()) {
        let (cpu, gpu) = (lines(home.path(), None, &ask), lines(home.path(), Some(&adapter), &ask));
        assert_eq!(gpu[0]["text"], cpu[0]["text"]);
        assert_eq!(gpu[0]["token_ids"], cpu[0]["token_ids"]);
        assert_eq!((&cpu[0]["device"], &gpu[0]["device"]), (&"cpu".into(), &"gpu".into()));
        assert_eq!(gpu[0]["kernels"], adapter);
        let (cpu, gpu) = (lines(home.path(), None, &classify), lines(home.path(), Some(&adapter), &classify));
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            let first = |line: &Value| line["labels"][0]["similarity"].as_f64().expect("similarity");
            assert_eq!(cpu["labels"][0]["label"], gpu["labels"][0]["label"]);
            assert!((first(cpu) - first(gpu)).abs() < 1e-4, "{cpu} {gpu}");
        }
    }
}

#[test]
fn bench_takes_a_gpu_for_whole_answers_and_says_what_only_the_cpu_tells() {
    let home = tempfile::tempdir().expect("home");
    for adapter in adapters(home.path()) {
        let bench = |args: &[&str]| {
            let mut command = ocelli(home.path());
            command.arg("bench").args(args).args(["--device", "gpu", "--json"]).env("OCELLI_GPU", &adapter);
            command.output().expect("ocelli runs")
        };
        let output = bench(&["encode", "--runs", "2", "--resolution", "256"]);
        assert_exit(&output, 0);
        assert!(json_lines(&output).iter().all(|line| line["device"] == "gpu"));
        let output = bench(&["ops"]);
        assert_exit(&output, 1);
        assert!(stderr(&output).contains("--device cpu"), "{}", stderr(&output));
    }
}

#[test]
fn a_gpu_that_is_not_there_is_told() {
    let home = tempfile::tempdir().expect("home");
    let picture = path("../../docs/images/drawn-scene.png");
    let mut command = ocelli(home.path());
    let output =
        command.args(["caption", &picture, "--device", "gpu"]).env("OCELLI_GPU", "no such adapter").output();
    let output = output.expect("ocelli runs");
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("no GPU was found") && stderr(&output).contains("--device cpu"));
}
