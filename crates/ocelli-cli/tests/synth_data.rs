//! `synth-data` as other programs call it.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{assert_exit, fields, json_lines, ocelli, run, stderr};

/// Every file below a directory with its bytes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below").to_str().expect("utf-8").to_owned();
                found.insert(name, std::fs::read(&path).expect("file"));
            }
        }
    }
    found
}

#[test]
fn a_data_set_has_pictures_conversations_captions_and_a_page() {
    let home = tempfile::tempdir().expect("home");
    let dir = home.path().join("drawn");
    let to = dir.to_str().expect("utf-8");
    let args =
        ["synth-data", to, "--scenes", "12", "--seed", "5", "--size", "64", "--split", "eval", "--json"];
    let output = run(home.path(), &args);
    assert_exit(&output, 0);
    let report = &json_lines(&output)[0];
    assert_eq!(fields(report), ["dir", "drawn", "kept", "questions", "scenes", "seed", "size_px", "split"]);
    assert_eq!((&report["drawn"], &report["kept"]), (&json!(12), &json!(0)));
    let text = std::fs::read_to_string(dir.join("drawn.json")).expect("list");
    let list: Vec<Value> = serde_json::from_str(&text).expect("a JSON list");
    assert_eq!(list.len(), 12);
    for entry in &list {
        assert_eq!(fields(entry), ["conversations", "id", "image"]);
        let turns = entry["conversations"].as_array().expect("turns");
        assert_eq!(turns[0]["value"], "<image>\nDescribe the image.");
        for pair in turns.chunks(2) {
            assert_eq!((&pair[0]["from"], &pair[1]["from"]), (&json!("human"), &json!("gpt")));
            assert!(!pair[1]["value"].as_str().expect("answer").is_empty());
        }
        let picture = image::open(dir.join(entry["image"].as_str().expect("path"))).expect("a picture");
        assert_eq!((picture.width(), picture.height()), (64, 64));
    }
    let page = std::fs::read_to_string(dir.join("index.html")).expect("page");
    assert_eq!(page.matches("<img").count(), 12);
    let captions = std::fs::read_to_string(dir.join("captions.jsonl")).expect("captions");
    let first: Value = serde_json::from_str(captions.lines().next().expect("a line")).expect("json");
    assert_eq!(first["caption"], list[0]["conversations"][1]["value"]);

    let other = run(home.path(), &["synth-data", to, "--scenes", "12", "--seed", "6", "--size", "64"]);
    assert_exit(&other, 1);
    assert!(stderr(&other).contains("holds scenes of seed 5"), "{}", stderr(&other));
    let strange = run(home.path(), &["synth-data", home.path().to_str().expect("utf-8")]);
    assert_exit(&strange, 1);
    assert!(stderr(&strange).contains("choose an empty directory"), "{}", stderr(&strange));
    assert_exit(&run(home.path(), &["synth-data", to, "--split", "test"]), 2);
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_same_files() {
    let home = tempfile::tempdir().expect("home");
    let (whole, broken) = (home.path().join("whole"), home.path().join("broken"));
    let args = |dir: &Path| {
        let to = dir.to_str().expect("utf-8").to_owned();
        [
            "synth-data".to_owned(),
            to,
            "--scenes".to_owned(),
            "3000".to_owned(),
            "--size=128".to_owned(),
            "--json".to_owned(),
        ]
    };
    let mut child = ocelli(home.path())
        .args(args(&broken))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ocelli runs");
    let pictures = || std::fs::read_dir(broken.join("images/000")).map_or(0, Iterator::count);
    let start = Instant::now();
    while pictures() < 50 && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert!(!broken.join("drawn.json").exists(), "it was done before it was killed: draw more");
    let before = pictures();
    assert!(before >= 50, "{before}");
    for dir in [&broken, &whole] {
        let output = ocelli(home.path()).args(args(dir)).output().expect("ocelli runs");
        assert_exit(&output, 0);
        let report = &json_lines(&output)[0];
        let (drawn, kept) =
            (report["drawn"].as_u64().expect("drawn"), report["kept"].as_u64().expect("kept"));
        assert_eq!(drawn + kept, 3000);
        assert_eq!(kept > 0, dir == &broken);
    }
    assert!(files(&broken) == files(&whole), "the files differ");
}
