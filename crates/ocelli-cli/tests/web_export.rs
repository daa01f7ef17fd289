//! `web export`: folders that pages load, with every file's hash, and models that are still whole.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{assert_exit, json_lines, path, run, stderr};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("file")).expect("json")
}

/// Each file of a manifest has the size and hash that it says; returns their names.
fn checked(model: &Path) -> Vec<String> {
    let manifest = read(&model.join("manifest.json"));
    assert_eq!(manifest["format"], 1);
    let files = manifest["files"].as_array().expect("files");
    let name = |file: &Value| file["name"].as_str().expect("name").to_owned();
    for file in files {
        let bytes = fs::read(model.join(name(file))).expect("file");
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((&file["bytes"], &file["sha256"]), (&json!(bytes.len()), &json!(hash)), "{}", name(file));
    }
    files.iter().map(name).collect()
}

#[test]
fn models_are_exported_beside_each_other_and_stay_whole() {
    let home = tempfile::tempdir().expect("home");
    let out = home.path().join("out");
    let to = out.to_str().expect("utf-8");
    let export = |args: &[&str]| run(home.path(), &[&["web", "export", "--out", to], args].concat());

    let output = export(&["--json"]);
    assert_exit(&output, 0);
    let report = &json_lines(&output)[0];
    assert_eq!((&report["model"], &report["kind"]), (&json!("ocelli-tiny"), &json!("fastvlm")));
    let model = out.join("models/ocelli-tiny");
    let names = checked(&model);
    assert!(
        names.contains(&"tokenizer.json".to_owned()) && names.contains(&"LICENSE".to_owned()),
        "{names:?}"
    );
    let manifest = read(&model.join("manifest.json"));
    assert!(
        manifest["licence"].as_str().is_some_and(|line| line.starts_with("ocelli-tiny: trained by Ocelli"))
    );
    assert!(manifest["memory"]["weights_bytes"].as_u64() > Some(1 << 20));

    assert_exit(&export(&["--quant", "q4", "--name", "quantized"]), 0);
    checked(&out.join("models/quantized"));
    assert_exit(&export(&["--model", "ocelli-tiny-clip"]), 0);
    checked(&out.join("models/ocelli-tiny-clip"));
    let index = read(&out.join("models/index.json"));
    let kinds = ["fastvlm", "fastvlm", "mobileclip"];
    let listed: Vec<&str> = index["models"]
        .as_array()
        .expect("models")
        .iter()
        .filter_map(|model| model["kind"].as_str())
        .collect();
    assert_eq!(listed, kinds);
    assert_eq!(fs::read_dir(out.join("models")).expect("folder").count(), 4, "three models and the index");

    let picture = path("../../docs/images/drawn-scene.png");
    let caption = |model: &str, more: &[&str]| {
        let output = run(home.path(), &[&["caption", &picture, "--json", "--model", model], more].concat());
        assert_exit(&output, 0);
        json_lines(&output)[0]["token_ids"].clone()
    };
    let exported = model.to_str().expect("utf-8").to_owned();
    assert_eq!(caption(&exported, &[]), caption("ocelli-tiny", &[]));
    let quantized = out.join("models/quantized");
    let quantized = quantized.to_str().expect("utf-8");
    let report = run(home.path(), &["inspect", quantized, "--json"]);
    assert_exit(&report, 0);
    let types = json_lines(&report)[0].to_string();
    assert!(types.contains("q4") || types.contains("Q4"), "{types}");
    assert!(caption(quantized, &[]).as_array().is_some_and(|ids| !ids.is_empty()));
}

/// A MobileCLIP without a vocabulary of its own takes CLIP's along, which is not in the pages' module.
#[test]
fn a_mobileclip_takes_the_vocabulary_along() {
    let home = tempfile::tempdir().expect("home");
    let out = home.path().join("out");
    let model = path("mobileclip-s0");
    let args = ["web", "export", "--out", out.to_str().expect("utf-8"), "--model", &model];
    assert_exit(&run(home.path(), &args), 0);
    let names = checked(&out.join("models/mobileclip-s0"));
    assert!(names.contains(&"clip_merges.bin".to_owned()), "{names:?}");
}

#[test]
fn the_built_page_comes_along() {
    let home = tempfile::tempdir().expect("home");
    let (site, out) = (home.path().join("site"), home.path().join("out"));
    fs::create_dir_all(site.join("pkg")).expect("folder");
    fs::create_dir_all(site.join("models/other")).expect("folder");
    for file in ["index.html", "pkg/ocelli_web.js", "models/other/manifest.json"] {
        fs::write(site.join(file), file).expect("file");
    }
    let (to, from) = (out.to_str().expect("utf-8"), site.to_str().expect("utf-8"));
    let args = ["web", "export", "--out", to, "--site", from, "--json"];
    let output = run(home.path(), &args);
    assert_exit(&output, 0);
    assert_eq!(json_lines(&output)[0]["page"], true);
    assert!(out.join("index.html").is_file() && out.join("pkg/ocelli_web.js").is_file());
    assert!(!out.join("models/other").exists(), "only what was exported is offered");
}

#[test]
fn what_cannot_be_exported_is_said() {
    let home = tempfile::tempdir().expect("home");
    let out = home.path().join("out");
    let to = out.to_str().expect("utf-8");
    let clip = path("mobileclip-s0");
    let (empty, engineless) = (home.path().join("empty"), home.path().join("engineless"));
    for site in [&empty, &engineless] {
        fs::create_dir(site).expect("folder");
    }
    fs::write(engineless.join("index.html"), "").expect("file");
    for (args, reason) in [
        (&["--model", "no/such"][..], "no model `no/such`"),
        (&["--model", &clip, "--quant", "q4"], "--quant is for FastVLM"),
        (&["--name", "../up"], "--name"),
        (&["--site", empty.to_str().expect("utf-8")], "no index.html"),
        (&["--site", engineless.to_str().expect("utf-8")], "cargo run --bin xtask -- web\n"),
    ] {
        let output = run(home.path(), &[&["web", "export", "--out", to], args].concat());
        assert_exit(&output, 1);
        assert!(stderr(&output).contains(reason), "{reason}: {}", stderr(&output));
    }
    let export = || run(home.path(), &["web", "export", "--out", to]);
    let first = export();
    assert_exit(&first, 0);
    let how = format!("npm run build)\n    cp -r web/build/site/. {to}\n");
    assert!(stderr(&first).contains(&how), "{}", stderr(&first));
    let again = export();
    assert_exit(&again, 1);
    assert!(stderr(&again).contains("exists"), "{}", stderr(&again));
}
