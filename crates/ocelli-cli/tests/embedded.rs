//! The models that are part of the program: taken where none is named, unpacked once, checked and mended.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use ocelli_tiny::Embedded;
use serde_json::{Value, json};
use support::{assert_exit, json_lines, ocelli, path, run, stderr, stdout};

/// What is said about the FastVLM.
const HINT: &str = "ocelli: ocelli-tiny is a demonstration and a test on pictures that Ocelli draws (`ocelli synth-data`), \
                    no photo captioner; `ocelli pull fastvlm-0.5b` gets a model for photos\n";
/// What is said about the MobileCLIP.
const CLIP_HINT: &str = "ocelli: ocelli-tiny-clip is a demonstration and a test on pictures that Ocelli draws (`ocelli synth-data`), \
     not for photos; `ocelli pull mobileclip2-s0` gets a model for photos\n";

fn unpacked(home: &Path, model: Embedded) -> PathBuf {
    home.join("models/.embedded").join(model.content_hash()).join(model.name())
}

fn picture() -> String {
    path("images/rgb_160x120.png")
}

fn caption(home: &Path) -> Output {
    run(home, &["caption", &picture(), "--max-tokens", "4", "--json"])
}

fn text(output: &Output) -> Value {
    assert_exit(output, 0);
    json_lines(output)[0]["text"].clone()
}

#[test]
fn a_fresh_home_gets_the_fastvlm_once() {
    let home = tempfile::tempdir().expect("home");
    let first = caption(home.path());
    assert_exit(&first, 0);
    assert_eq!(json_lines(&first).len(), 1, "nothing but the answer is on stdout");
    assert_eq!(json_lines(&first)[0]["model"], "ocelli-tiny");
    assert_eq!(stderr(&first), HINT);
    let dir = unpacked(home.path(), Embedded::FastVlm);
    let modified =
        || fs::metadata(dir.join("model.safetensors")).and_then(|found| found.modified()).expect("time");
    let before = modified();
    assert_eq!(text(&caption(home.path())), text(&first));
    assert_eq!(modified(), before);
    assert!(!unpacked(home.path(), Embedded::MobileClip).exists(), "only what is needed is unpacked");
}

#[test]
fn a_name_stands_for_the_model_whatever_lies_around() {
    let (home, elsewhere) = (tempfile::tempdir().expect("home"), tempfile::tempdir().expect("folder"));
    for folder in [elsewhere.path().join("ocelli-tiny"), home.path().join("models/ocelli-tiny")] {
        fs::create_dir_all(folder).expect("folder");
    }
    let unnamed = text(&caption(home.path()));
    let named = ["caption", &picture(), "--max-tokens", "4", "--json", "--model", "ocelli-tiny"];
    let named = ocelli(home.path()).args(named).current_dir(elsewhere.path()).output().expect("ocelli runs");
    assert_eq!(text(&named), unnamed);
    assert_eq!(stderr(&named), HINT);
}

#[test]
fn a_damaged_file_is_mended() {
    let home = tempfile::tempdir().expect("home");
    let before = text(&caption(home.path()));
    let dir = unpacked(home.path(), Embedded::FastVlm);
    for file in Embedded::FastVlm.files() {
        let mut damaged = file.bytes.to_vec();
        damaged[file.bytes.len() / 2] ^= 0x55;
        fs::write(dir.join(file.name), &damaged).expect("damage");
    }
    fs::remove_file(dir.join("tokenizer.json")).expect("remove");
    let mended = caption(home.path());
    assert_eq!(text(&mended), before);
    assert_eq!(stderr(&mended), HINT);
    for file in Embedded::FastVlm.files() {
        assert!(fs::read(dir.join(file.name)).expect("file") == file.bytes, "{}", file.name);
    }
}

#[test]
fn a_home_that_cannot_be_written_is_told_and_done_without() {
    let around = tempfile::tempdir().expect("folder");
    let (home, temporary) = (around.path().join("home"), around.path().join("temporary"));
    fs::write(&home, "a file, not a folder").expect("write");
    fs::create_dir(&temporary).expect("folder");
    let picture = picture();
    let with =
        |args: &[&str]| ocelli(&home).args(args).env("TMPDIR", &temporary).output().expect("ocelli runs");
    let left = || fs::read_dir(&temporary).expect("folder").count();

    let output = with(&["caption", &picture, "--max-tokens", "4", "--json"]);
    let elsewhere = tempfile::tempdir().expect("home");
    assert_eq!(text(&output), text(&caption(elsewhere.path())));
    let said = stderr(&output);
    assert!(
        said.contains("ocelli-tiny cannot be unpacked there; using ") && said.contains("set OCELLI_HOME"),
        "{said}"
    );
    assert!(said.ends_with(HINT) && said.lines().count() == 2, "{said}");
    let output = with(&["list", "--json"]);
    assert_exit(&output, 0);
    assert_eq!((json_lines(&output).len(), stderr(&output).matches("this once").count()), (2, 1));
    assert_exit(&with(&["caption", "no.png"]), 1);
    #[cfg(unix)]
    assert_eq!(left(), 0, "nothing is left over");

    fs::remove_dir_all(&temporary).expect("remove");
    let output = with(&["caption", &picture]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("ocelli-tiny cannot be unpacked"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

#[test]
fn processes_that_begin_at_once_do_no_harm() {
    let home = tempfile::tempdir().expect("home");
    let picture = picture();
    let begin = |_| {
        let mut command = ocelli(home.path());
        command.args(["caption", &picture, "--max-tokens", "4", "--json"]);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("ocelli runs")
    };
    let children: Vec<_> = (0..4).map(begin).collect();
    let outputs: Vec<Output> = children.into_iter().map(|c| c.wait_with_output().expect("output")).collect();
    let texts: Vec<Value> = outputs.iter().map(text).collect();
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{texts:?}");
    assert!(outputs.iter().all(|output| stderr(output) == HINT));
    let names = Embedded::FastVlm.files().iter().map(|file| file.name);
    let dir = fs::read_dir(unpacked(home.path(), Embedded::FastVlm)).expect("directory");
    assert_eq!(dir.count(), names.count(), "nothing written aside is left");
}

#[test]
fn commands_for_one_picture_take_the_fastvlm() {
    let home = tempfile::tempdir().expect("home");
    let (picture, out) = (picture(), home.path().join("stages.safetensors"));
    let ask = run(home.path(), &["ask", &picture, "What color is the circle?", "--max-tokens", "4"]);
    assert_exit(&ask, 0);
    assert_eq!((stderr(&ask).as_str(), stdout(&ask).is_empty()), (HINT, false));
    let chat = run(home.path(), &["chat", &picture]);
    assert_exit(&chat, 0);
    assert!(stderr(&chat).starts_with(HINT), "{}", stderr(&chat));
    let trace = [
        "trace",
        &picture,
        "--prompt",
        "Describe the image.",
        "--out",
        out.to_str().expect("utf-8"),
        "--json",
    ];
    let trace = run(home.path(), &trace);
    assert_exit(&trace, 0);
    assert_eq!(json_lines(&trace)[0]["model"], "ocelli-tiny");
    assert!(stderr(&trace).starts_with(HINT), "{}", stderr(&trace));

    // These look at no picture of the user's.
    let inspect = run(home.path(), &["inspect", "--json"]);
    assert_exit(&inspect, 0);
    assert!(json_lines(&inspect)[0]["model"].as_str().expect("path").ends_with("ocelli-tiny"));
    assert_eq!(stderr(&inspect), "");
    let bench = run(home.path(), &["bench", "encode", "--runs", "1", "--json"]);
    assert_exit(&bench, 0);
    assert!(json_lines(&bench).iter().any(|record| record["model"] == "ocelli-tiny"), "{}", stdout(&bench));
    let eval = run(home.path(), &["eval", "drawn", "--scenes", "3", "--json"]);
    assert_exit(&eval, 0);
    assert_eq!(json_lines(&eval).len(), 12);
    let quantize = run(home.path(), &["quantize", "--json", "--weights", "q8"]);
    assert!(
        json_lines(&quantize)[0]["pictures"].as_array().is_some_and(|p| p.len() == 3),
        "{}",
        stderr(&quantize)
    );

    // A model that was asked for gets no hint.
    let other =
        run(home.path(), &["caption", &picture, "--model", &path("fastvlm-apple"), "--max-tokens", "1"]);
    assert_exit(&other, 0);
    assert_eq!(stderr(&other), "");
}

#[test]
fn commands_for_many_pictures_take_the_mobileclip() {
    let home = tempfile::tempdir().expect("home");
    let (picture, pictures) = (picture(), home.path().join("pictures"));
    let classify = run(home.path(), &["classify", &picture, "--labels", "a circle,a square", "--json"]);
    assert_exit(&classify, 0);
    assert_eq!(json_lines(&classify)[0]["labels"].as_array().map(Vec::len), Some(2));
    assert_eq!(stderr(&classify).matches(CLIP_HINT).count(), 1, "{}", stderr(&classify));
    assert!(!unpacked(home.path(), Embedded::FastVlm).exists(), "only what is needed is unpacked");
    let embed = run(home.path(), &["embed", "--image", &picture, "--text", "a circle"]);
    assert_exit(&embed, 0);
    assert_eq!(json_lines(&embed).len(), 2);
    assert_eq!(stderr(&embed), CLIP_HINT);

    fs::create_dir(&pictures).expect("folder");
    for name in ["rgb_160x120.png", "square_192.png", "wide_300x41.png"] {
        fs::copy(path(&format!("images/{name}")), pictures.join(name)).expect("copy");
    }
    let folder = pictures.to_str().expect("utf-8");
    let index = run(home.path(), &["index", folder, "--json"]);
    assert_exit(&index, 0);
    assert_eq!(stderr(&index).matches(CLIP_HINT).count(), 1, "{}", stderr(&index));
    let like = pictures.join("square_192.png");
    for args in [["search", "a red circle"], ["similar", like.to_str().expect("utf-8")]] {
        let found = run(home.path(), &[&args[..], &["--json", "--min-score", "0"]].concat());
        assert_exit(&found, 0);
        assert!(!json_lines(&found).is_empty(), "{args:?}: {}", stderr(&found));
    }
    // The index goes on with the model that made it, whatever is taken by default.
    let again = run(home.path(), &["index", folder, "--json"]);
    assert_exit(&again, 0);
    let bench = run(home.path(), &["bench", "embed", "--runs", "1", "--json"]);
    assert_exit(&bench, 0);
    assert!(
        json_lines(&bench).iter().any(|record| record["model"] == "ocelli-tiny-clip"),
        "{}",
        stdout(&bench)
    );
    let eval = run(home.path(), &["eval", "drawn", "--scenes", "3", "--json", "--model", "ocelli-tiny-clip"]);
    assert_exit(&eval, 0);
    assert_eq!(json_lines(&eval)[0]["kind"], "zeroshot");
}

#[test]
fn both_are_listed_and_cannot_be_removed() {
    let home = tempfile::tempdir().expect("home");
    let listed = json_lines(&run(home.path(), &["list", "--json"]));
    assert_eq!(listed.len(), 2);
    for (model, entry) in Embedded::ALL.into_iter().zip(&listed) {
        let dir = unpacked(home.path(), model);
        assert_eq!((&entry["id"], &entry["origin"]), (&json!(model.name()), &json!("embedded")));
        assert_eq!(entry["dir"], json!(dir.to_str().expect("utf-8")));
        assert_eq!((&entry["error"], entry["licence"].is_string()), (&json!(null), true), "{entry}");
        let removed = run(home.path(), &["rm", model.name(), "--yes"]);
        assert_exit(&removed, 1);
        assert!(stderr(&removed).contains("part of the program"), "{}", stderr(&removed));
        assert!(dir.is_dir());
    }
}
