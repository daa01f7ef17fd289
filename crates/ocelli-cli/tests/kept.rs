//! `list` and `rm`.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{assert_exit, fields, json_lines, run, stderr, stdout};

/// A home with a random model under this name.
fn synth(home: &Path, name: &str) {
    let dir = home.join("models").join(name);
    let output = run(home, &["synth", "fastvlm-tiny", dir.to_str().expect("utf-8")]);
    assert_exit(&output, 0);
}

/// What `list` shows before the embedded models.
fn listed(home: &Path) -> Vec<Value> {
    let listed = json_lines(&run(home, &["list", "--json"]));
    listed.into_iter().filter(|model| model["origin"] != "embedded").collect()
}

#[test]
fn kept_models_are_listed() {
    let home = tempfile::tempdir().expect("home");
    let empty = run(home.path(), &["list"]);
    assert_exit(&empty, 0);
    assert_eq!(stdout(&empty).lines().count(), 3, "a heading and the two embedded models");
    assert!(stderr(&empty).contains("no other models under"));

    synth(home.path(), "mine");
    synth(home.path(), "org/theirs");
    std::fs::write(home.path().join("models/org/theirs/config.json"), "{}").expect("write");
    let listed = listed(home.path());
    assert_eq!(listed.len(), 2);
    let names = ["bytes", "dir", "error", "family", "id", "licence", "origin", "stored_dtypes"];
    assert_eq!(fields(&listed[0]), names);
    assert_eq!(listed[0]["id"], "mine");
    assert_eq!(listed[0]["origin"], "synthetic");
    assert_eq!(listed[0]["family"], "Apple llava_qwen2");
    assert_eq!(listed[0]["stored_dtypes"], json!(["bf16"]));
    assert!(listed[0]["bytes"].as_u64().expect("bytes") > 100_000);
    assert_eq!(
        (listed[1]["id"].as_str(), listed[1]["origin"].as_str()),
        (Some("org/theirs"), Some("copied"))
    );
    assert!(listed[1]["error"].is_string(), "a model that does not open says why");

    let text = stdout(&run(home.path(), &["list"]));
    assert!(text.lines().next().expect("heading").starts_with("name"), "{text}");
    assert!(text.contains("mine") && text.contains("org/theirs") && text.contains("Apple llava_qwen2"));
}

#[test]
fn a_random_mobileclip_is_listed() {
    let home = tempfile::tempdir().expect("home");
    let dir = home.path().join("models/clip");
    assert_exit(&run(home.path(), &["synth", "mobileclip-tiny", dir.to_str().expect("utf-8")]), 0);
    let listed = listed(home.path());
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["id"], &listed[0]["origin"]), (&json!("clip"), &json!("synthetic")));
    assert_eq!((&listed[0]["family"], &listed[0]["error"]), (&json!("Apple MobileCLIP"), &json!(null)));
    assert_eq!(listed[0]["stored_dtypes"], json!(["f32"]));
}

#[test]
fn a_model_is_removed_with_yes_only() {
    let home = tempfile::tempdir().expect("home");
    synth(home.path(), "org/one");
    let dir = home.path().join("models/org/one");
    let output = run(home.path(), &["rm", "org/one"]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("use --yes"), "{}", stderr(&output));
    assert!(dir.is_dir());
    assert_exit(&run(home.path(), &["rm", "org/one", "--yes"]), 0);
    assert!(!home.path().join("models/org").exists());
    let output = run(home.path(), &["rm", "org/one", "--yes"]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("no model `org/one`"), "{}", stderr(&output));
}

#[test]
fn nothing_outside_the_models_is_removed() {
    let home = tempfile::tempdir().expect("home");
    synth(home.path(), "org/one");
    let outside = home.path().join("outside");
    std::fs::create_dir(&outside).expect("directory");
    std::fs::write(outside.join("config.json"), "{}").expect("write");
    let absolute = outside.to_str().expect("utf-8");
    for name in ["../outside", "org/../../outside", absolute, "..", ".", "", "org", "org/"] {
        let output = run(home.path(), &["rm", "--yes", name]);
        assert_exit(&output, 1);
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&outside, home.path().join("models/link")).expect("link");
        let output = run(home.path(), &["rm", "--yes", "link"]);
        assert_exit(&output, 1);
        assert!(stderr(&output).contains("link to another place"), "{}", stderr(&output));
        std::os::unix::fs::symlink(home.path(), home.path().join("models/up")).expect("link");
        assert_exit(&run(home.path(), &["rm", "--yes", "up/outside"]), 1);
    }
    assert!(outside.join("config.json").is_file());
    assert!(home.path().join("models/org/one/config.json").is_file());
}
