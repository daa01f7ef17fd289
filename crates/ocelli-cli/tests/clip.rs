//! `embed`, `classify` and `trace` with a MobileCLIP, as a user runs them.

mod support;

use std::io::Write;
use std::process::Stdio;

use ocelli_testing::{Tensors, fixture};
use support::{assert_exit, json_lines, ocelli, path, run, stderr, stdout};

fn model(name: &str) -> Vec<String> {
    let (model, tokenizer) = (path(name), path("clip-tokenizer"));
    ["--model", &model, "--tokenizer", &tokenizer, "--dtype", "f32", "--orientation", "ignore"]
        .map(str::to_owned)
        .to_vec()
}

fn with_model(args: &[&str], name: &str) -> std::process::Output {
    let home = tempfile::tempdir().expect("home");
    let model = model(name);
    let args: Vec<&str> = args.iter().copied().chain(model.iter().map(String::as_str)).collect();
    run(home.path(), &args)
}

/// Row `i` of a stored matrix, of length 1.
fn expected(name: &str, i: usize) -> Vec<f32> {
    let (shape, values) = Tensors::open("mobileclip-expected.safetensors").get(name);
    let row = &values[i * shape[1]..][..shape[1]];
    let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
    row.iter().map(|v| v / length).collect()
}

fn index_of(picture: &str) -> usize {
    let text = std::fs::read_to_string(fixture("mobileclip-expected.json")).expect("fixture");
    let json: serde_json::Value = serde_json::from_str(&text).expect("json");
    json["images"].as_array().expect("images").iter().position(|name| name == picture).expect("picture")
}

fn assert_close(got: &serde_json::Value, want: &[f32]) {
    let got: Vec<f64> = got.as_array().expect("list").iter().map(|v| v.as_f64().expect("number")).collect();
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(want).all(|(g, w)| (g - f64::from(*w)).abs() < 5e-5), "{got:?} is not {want:?}");
}

#[test]
fn embeddings_are_those_of_open_clip_and_a_bad_file_is_skipped() {
    let (good, other) = (path("images/rgb_160x120.png"), path("images/wide_300x41.png"));
    let text = "a photo of a dog";
    let args =
        ["embed", "--json", "--image", &good, "--image", "nope.png", "--image", &other, "--text", text];
    let output = with_model(&args, "mobileclip-s0");
    assert_exit(&output, 1);
    assert_eq!(stderr(&output).matches("nope.png").count(), 1, "{}", stderr(&output));
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 3);
    for (line, name) in lines.iter().zip(["rgb_160x120.png", "wide_300x41.png"]) {
        assert_eq!((line["kind"].as_str(), line["dim"].as_u64()), (Some("image"), Some(24)));
        assert!(line["input"].as_str().expect("input").ends_with(name));
        assert_close(&line["embedding"], &expected("s0/image_features", index_of(name)));
    }
    assert_eq!((lines[2]["kind"].as_str(), lines[2]["input"].as_str()), (Some("text"), Some(text)));
    assert_close(&lines[2]["embedding"], &expected("s0/text_features", 0));
}

#[test]
fn a_list_on_stdin_and_files_of_numbers() {
    let home = tempfile::tempdir().expect("home");
    let mut args = vec!["embed".to_owned(), "--image".into(), "-".into()];
    args.extend(model("mobileclip-b"));
    let mut child = ocelli(home.path())
        .args(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ocelli runs");
    let list = format!("{}\n{}\n", path("images/rgb_160x120.png"), path("images/six_3x2.png"));
    child.stdin.take().expect("stdin").write_all(list.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("output");
    assert_exit(&output, 0);
    assert_eq!(json_lines(&output).len(), 2);

    for name in ["out.npy", "out.safetensors"] {
        let file = home.path().join(name);
        let (images, out) = (path("images"), file.to_str().expect("utf-8").to_owned());
        let output = with_model(&["embed", "--image", &images, "--out", &out], "mobileclip-b");
        assert_exit(&output, 0);
        assert_eq!(stdout(&output), "");
        let bytes = std::fs::read(&file).expect("file");
        let values = bytes[bytes.len() - 19 * 24 * 4..].chunks_exact(4);
        let values: Vec<f32> = values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        for row in values.chunks_exact(24) {
            assert!((row.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-4, "{name}");
        }
    }
    let output = with_model(&["embed", "--text", "x", "--out", "out.csv"], "mobileclip-b");
    assert_exit(&output, 1);
    assert!(stderr(&output).contains(".npy"), "{}", stderr(&output));
}

#[test]
fn labels_have_open_clips_probabilities() {
    let text = std::fs::read_to_string(fixture("mobileclip-expected.json")).expect("fixture");
    let json: serde_json::Value = serde_json::from_str(&text).expect("json");
    let captions: Vec<&str> = json["captions"].as_array().expect("captions")[..2]
        .iter()
        .map(|c| c.as_str().expect("caption"))
        .collect();
    let home = tempfile::tempdir().expect("home");
    let file = home.path().join("labels.txt");
    std::fs::write(&file, captions.join("\n")).expect("labels");
    let picture = path("images/rgb_160x120.png");
    let args = ["classify", &picture, "--labels-file", file.to_str().expect("utf-8"), "--json"];
    let output = with_model(&args, "mobileclip-l14");
    assert_exit(&output, 0);
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 1);
    let labels = lines[0]["labels"].as_array().expect("labels");
    let (shape, logits) = Tensors::open("mobileclip-expected.safetensors").get("l14/logits_per_image");
    let row = &logits[index_of("rgb_160x120.png") * shape[1]..];
    let exact = |label: &str| {
        let at = captions.iter().position(|c| *c == label).expect("label");
        1.0 / (1.0 + f64::from(row[1 - at] - row[at]).exp())
    };
    for label in labels {
        let got = label["probability"].as_f64().expect("probability");
        assert!((got - exact(label["label"].as_str().expect("label"))).abs() < 2e-3, "{label}");
    }
    let top =
        with_model(&["classify", &picture, "--labels", "a,b,c", "--top", "1", "--json"], "mobileclip-l14");
    assert_eq!(json_lines(&top)[0]["labels"].as_array().expect("labels").len(), 1);
}

#[test]
fn templates_and_wrong_arguments() {
    let picture = path("images/rgb_160x120.png");
    let plain =
        with_model(&["classify", &picture, "--labels", "dog,cat", "--template", "7"], "mobileclip-s0");
    assert_exit(&plain, 0);
    assert_eq!(stdout(&plain).lines().count(), 3);
    let wrong =
        with_model(&["classify", &picture, "--labels", "dog", "--template", "a dog"], "mobileclip-s0");
    assert_exit(&wrong, 1);
    assert!(stderr(&wrong).contains("{}"), "{}", stderr(&wrong));
    let home = tempfile::tempdir().expect("home");
    let usage = run(home.path(), &["classify", &picture, "--model", "x"]);
    assert_exit(&usage, 2);
    let foreign = run(home.path(), &["embed", "--text", "x", "--model", &path("mobileclip-s0")]);
    assert_exit(&foreign, 1);
    assert!(stderr(&foreign).contains("714"), "{}", stderr(&foreign));
}

#[test]
fn trace_writes_the_stages_of_both_towers() {
    let home = tempfile::tempdir().expect("home");
    let out = home.path().join("stages.safetensors");
    let picture = path("images/rgb_160x120.png");
    let out_name = out.to_str().expect("utf-8");
    let args = ["trace", &picture, "--prompt", "a photo of a dog", "--out", out_name];
    assert_exit(&with_model(&args, "mobileclip-s0"), 0);
    let (stages, want) = (Tensors::read(&out), Tensors::open("mobileclip-expected.safetensors"));
    for (ours, theirs) in [
        ("vision.stages.3", "s0/vision/stages.3"),
        ("vision.final_conv", "s0/vision/final_conv"),
        ("text.resblocks.1", "s0/text/resblocks.1"),
        ("text.ln_final", "s0/text/ln_final"),
    ] {
        let error = ocelli_testing::relative_error(&stages.values(ours), &want.values(theirs));
        assert!(error <= 2e-5, "{ours}: {error:.1e}");
    }
}

#[test]
fn a_random_model_embeds() {
    let home = tempfile::tempdir().expect("home");
    let dir = home.path().join("tiny");
    let dir = dir.to_str().expect("utf-8");
    let written = run(home.path(), &["synth", "mobileclip-tiny", dir, "--json"]);
    assert_exit(&written, 0);
    assert_eq!(json_lines(&written)[0]["arch"], "mobileclip-tiny");
    assert!(stderr(&written).contains("its embeddings mean nothing"), "{}", stderr(&written));
    let (one, other) = (path("images/rgb_160x120.png"), path("images/six_3x2.png"));
    let args = ["embed", "--json", "--model", dir, "--image", &one, "--image", &other, "--text", "a dog"];
    let output = run(home.path(), &args);
    assert_exit(&output, 0);
    let lines = json_lines(&output);
    let embedding = |i: usize| -> Vec<f64> {
        let values = lines[i]["embedding"].as_array().expect("list");
        values.iter().map(|v| v.as_f64().expect("number")).collect()
    };
    for i in 0..3 {
        assert_eq!(lines[i]["dim"], 32);
        assert!((embedding(i).iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-4, "{}", lines[i]);
    }
    assert!(embedding(0) != embedding(1) && embedding(1) != embedding(2));
}
