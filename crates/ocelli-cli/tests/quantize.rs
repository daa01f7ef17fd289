//! `quantize` and `--quant` as other programs call them.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{assert_exit, fields, json_lines, path, run, stderr, stdout};

/// Token ids of an answer about a picture, and how the model says that it is quantized.
fn ask(home: &Path, image: &str, model: &[&str]) -> (Value, Value) {
    let args = ["caption", image, "--json", "--ignore-eos", "--max-tokens", "16"];
    let output = run(home, &[&args[..], model].concat());
    assert_exit(&output, 0);
    let line = json_lines(&output).remove(0);
    (line["token_ids"].clone(), line["quant"].clone())
}

#[test]
fn a_quantized_model_is_compared_written_and_answers_like_quant() {
    let home = tempfile::tempdir().expect("home");
    let (model, image) = (path("fastvlm-apple"), path("images/rgb_160x120.png"));
    let out = home.path().join("q8");
    let to = out.to_str().expect("utf-8");
    let args = ["quantize", &model, to, "--weights", "q8", "--image", &image, "--json"];
    let output = run(home.path(), &args);
    assert_exit(&output, 0);
    let report = &json_lines(&output)[0];
    let names = [
        "broken",
        "head",
        "layers",
        "limits",
        "model",
        "out",
        "passed",
        "pictures",
        "vision",
        "weight_bytes",
    ];
    assert_eq!(fields(report), names);
    let figures = ["greedy", "image", "image_cosine", "kl_max", "kl_mean", "positions", "top1"];
    assert_eq!(fields(&report["pictures"][0]), figures);
    assert_eq!(report["passed"], json!(true));
    let ask = |model: &[&str]| ask(home.path(), &image, model);
    let stored = ask(&["--model", to]);
    assert_eq!(stored, ask(&["--model", &model, "--quant", "q8"]));
    assert_eq!(stored.1, json!("q8"));
    assert_eq!(ask(&["--model", &model]).1, json!(null));
    let again = run(home.path(), &args);
    assert_exit(&again, 1);
    assert!(stderr(&again).contains("exists"), "{}", stderr(&again));
    let twice = run(home.path(), &["caption", &image, "--model", to, "--quant", "q4"]);
    assert_exit(&twice, 1);
    assert!(stderr(&twice).contains("quantized already (q8)"), "{}", stderr(&twice));
}

#[test]
fn without_a_directory_only_the_table_is_printed() {
    let home = tempfile::tempdir().expect("home");
    let output = run(home.path(), &["quantize", &path("fastvlm-apple"), "--weights", "q8"]);
    assert_exit(&output, 0);
    let text = stdout(&output);
    assert!(text.starts_with("picture") && text.lines().count() == 5, "{text}");
    assert!(std::fs::read_dir(home.path()).expect("home").next().is_none());
}

/// In 4 bits a random model is too far from itself: nothing is written, unless it is asked for.
#[test]
fn over_a_limit_nothing_is_written_unless_forced() {
    let home = tempfile::tempdir().expect("home");
    let out = home.path().join("q4");
    let model = path("fastvlm-apple");
    let args = ["quantize", &model, out.to_str().expect("utf-8"), "--weights", "q4", "--head", "q4"];
    let output = run(home.path(), &args);
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("KL divergence") && stderr(&output).contains("--force"),
        "{}",
        stderr(&output)
    );
    assert!(std::fs::read_dir(home.path()).expect("home").next().is_none());
    assert_exit(&run(home.path(), &[&args[..], &["--force"]].concat()), 0);
    assert!(out.join("model.safetensors").is_file() && out.join("tokenizer.json").is_file());
}

#[test]
fn the_tower_is_quantized_while_loading_and_into_a_file() {
    let home = tempfile::tempdir().expect("home");
    let (model, image) = (path("fastvlm-apple"), path("images/rgb_160x120.png"));
    let out = home.path().join("q8");
    let to = out.to_str().expect("utf-8");
    let args =
        ["quantize", &model, to, "--weights", "q8", "--vision", "q8", "--image", &image, "--json", "--force"];
    let output = run(home.path(), &args);
    assert_exit(&output, 0);
    assert_eq!(json_lines(&output)[0]["vision"], json!("q8"));
    let ask = |model: &[&str]| ask(home.path(), &image, model);
    let stored = ask(&["--model", to]);
    assert_eq!(stored, ask(&["--model", &model, "--quant", "q8", "--quant-vision", "q8"]));
    assert_eq!(stored.1, json!("q8+vision-int8"));
    assert_eq!(ask(&["--model", &model, "--quant-vision", "q8"]).1, json!("vision-int8"));
    assert_eq!(ask(&["--model", &model, "--quant-vision", "bf16"]).1, json!(null));
}
