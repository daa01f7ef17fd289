//! `caption`, `ask`, `chat` and `trace` as other programs call them.

mod support;

use std::io::{Read, Write};
use std::process::{Output, Stdio};

use ocelli_testing::{Tensors, fixture, relative_error};
use serde_json::{Value, json};
use support::{assert_exit, fields, json_lines, ocelli, path, run, stderr, stdout};

fn case(key: &str) -> Value {
    let text = std::fs::read(fixture("fastvlm-expected.json")).expect("fixture");
    let all: Value = serde_json::from_slice(&text).expect("fixture");
    all["cases"].as_array().expect("cases").iter().find(|c| c["key"] == key).expect(key).clone()
}

/// Run with the fixture model in f32, for answers of 16 tokens as the fixtures have them.
fn answer(model: &str, args: &[&str]) -> Output {
    let model = path(model);
    let fixed = ["--model", &model, "--dtype", "f32", "--max-tokens", "16", "--ignore-eos"];
    let home = tempfile::tempdir().expect("home");
    run(home.path(), &[args, &fixed].concat())
}

fn apple(args: &[&str]) -> Output {
    answer("fastvlm-apple", args)
}

fn picture(name: &str) -> String {
    path(&format!("images/{name}"))
}

#[test]
fn a_caption_has_the_promised_fields_and_the_ids_of_transformers() {
    let image = picture("rgb_160x120.png");
    let output = apple(&["caption", &image, "--json"]);
    assert_exit(&output, 0);
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 1);
    let (got, want) = (&lines[0], case("apple/one_image"));
    let names = [
        "device",
        "finish_reason",
        "image",
        "kernels",
        "model",
        "peak_rss_bytes",
        "quant",
        "text",
        "timings",
        "token_ids",
        "usage",
    ];
    assert_eq!(fields(got), names);
    assert_eq!(
        fields(&got["usage"]),
        ["cached_tokens", "completion_tokens", "image_tokens", "prompt_tokens"]
    );
    let timings = [
        "decode_ms_per_token",
        "encode_ms",
        "load_ms",
        "prefill_ms",
        "preprocess_ms",
        "tokens_per_s",
        "total_ms",
        "ttft_ms",
    ];
    assert_eq!(fields(&got["timings"]), timings);
    assert_eq!(got["image"], json!(image));
    assert_eq!(got["token_ids"], want["greedy_ids"]);
    assert_eq!(got["text"], want["greedy_text"]);
    assert_eq!(got["finish_reason"], "length");
    assert_eq!(got["usage"]["prompt_tokens"], want["seq_len"]);
    assert_eq!(got["usage"]["image_tokens"], 9);
    assert_eq!(got["usage"]["completion_tokens"], 16);
    assert_eq!((&got["model"], &got["device"]), (&json!("fastvlm-apple"), &json!("cpu")));
    assert!(timings.iter().all(|name| got["timings"][name].as_f64().expect(name) > 0.0));
}

#[test]
fn every_way_to_ask_has_the_ids_of_transformers() {
    let (rgb, tall, palette) =
        (picture("rgb_160x120.png"), picture("tall_75x200.png"), picture("palette_90x70.png"));
    let sign = "What is left of the sign?";
    let questions: [(&str, &str, &[&str]); 7] = [
        ("apple/text_only", "fastvlm-apple", &["How many people are in the picture?"]),
        ("apple/two_images", "fastvlm-apple", &["--together", &rgb, &tall, sign]),
        ("apple/system", "fastvlm-apple", &["--system", "Be brief.", &palette, "Answer with 🙂 or 42."]),
        ("native/one_image", "fastvlm-native", &["--fit", "crop", &rgb, "Describe the image."]),
        ("native/text_only", "fastvlm-native", &["How many people are in the picture?"]),
        ("native/two_images", "fastvlm-native", &["--fit", "crop", "--together", &rgb, &tall, sign]),
        ("mlx-8/one_image", "fastvlm-mlx-8bit", &["--vision", "APPLE", &rgb, "Describe the image."]),
    ];
    let tower = path("fastvlm-apple");
    for (key, model, args) in questions {
        let args: Vec<&str> = args.iter().map(|a| if *a == "APPLE" { &tower } else { *a }).collect();
        let output = answer(model, &[&["ask", "--json", "--orientation", "ignore"][..], &args].concat());
        assert_exit(&output, 0);
        assert_eq!(json_lines(&output)[0]["token_ids"], case(key)["greedy_ids"], "{key}");
    }
}

#[test]
fn several_pictures_get_one_result_each_and_a_bad_one_does_not_stop_the_rest() {
    let (first, last) = (picture("rgb_160x120.png"), picture("tall_75x200.png"));
    let broken = tempfile::tempdir().expect("directory");
    let broken = broken.path().join("broken.jpg");
    std::fs::write(&broken, b"\xff\xd8\xff\xe0 no picture").expect("write");
    let broken = broken.to_str().expect("utf-8");
    let output = apple(&["caption", "--json", &first, broken, "nope.png", &last]);
    assert_exit(&output, 1);
    let lines = json_lines(&output);
    assert_eq!(
        lines.iter().map(|l| l["image"].clone()).collect::<Vec<_>>(),
        [&first, broken, "nope.png", &last]
    );
    assert_eq!(lines[0]["token_ids"], case("apple/one_image")["greedy_ids"]);
    assert_eq!(lines[3]["token_ids"], case("apple/one_image_other")["greedy_ids"]);
    assert!(lines[1]["error"].as_str().expect("error").contains("broken.jpg"));
    assert_eq!(fields(&lines[2]), ["error", "image"]);
    let said = stderr(&output);
    assert_eq!(said.matches("os error 2").count(), 1, "a cause is told once: {said}");

    let text = apple(&["caption", &first, "nope.png", &last]);
    assert_exit(&text, 1);
    let results =
        [&case("apple/one_image"), &case("apple/one_image_other")].map(|c| c["greedy_text"].clone());
    let want: String = results.iter().map(|t| format!("{}\n", t.as_str().expect("text"))).collect();
    assert_eq!(stdout(&text), want, "stdout holds results only");
}

#[test]
fn the_same_picture_again_is_taken_from_memory() {
    let image = picture("rgb_160x120.png");
    let lines = json_lines(&apple(&["ask", "--json", &image, &image, "Describe the image."]));
    assert_eq!(lines[0]["usage"]["cached_tokens"], 0);
    let prompt = lines[1]["usage"]["prompt_tokens"].as_u64().expect("tokens");
    assert_eq!(lines[1]["usage"]["cached_tokens"], prompt - 1);
    assert_eq!(lines[1]["timings"]["encode_ms"], 0.0);
    assert_eq!(lines[0]["token_ids"], lines[1]["token_ids"]);
}

#[test]
fn answers_end_at_the_limit_and_before_a_stop_text() {
    let image = picture("rgb_160x120.png");
    let home = tempfile::tempdir().expect("home");
    let model = path("fastvlm-apple");
    let base = ["caption", &image, "--json", "--model", &model, "--dtype", "f32", "--ignore-eos"];
    let get = |more: &[&str]| json_lines(&run(home.path(), &[&base, more].concat())).remove(0);
    let short = get(&["--max-tokens", "3"]);
    assert_eq!(short["usage"]["completion_tokens"], 3);
    assert_eq!(short["finish_reason"], "length");
    assert_eq!(short["text"], "em say");
    let stopped = get(&["--max-tokens", "16", "--stop", "never", "--stop", "ayL"]);
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["text"], "em s");
}

#[test]
fn a_seed_gives_the_same_text_on_one_thread_and_two() {
    let image = picture("rgb_160x120.png");
    let ids = |threads: &str, seed: &str| {
        let options = ["--temperature", "1.5", "--top-k", "50", "--seed", seed, "--threads", threads];
        let output = apple(&[&["caption", &image, "--json"][..], &options].concat());
        assert_exit(&output, 0);
        json_lines(&output)[0]["token_ids"].clone()
    };
    assert_eq!(ids("1", "7"), ids("2", "7"));
    assert_eq!(ids("2", "7"), ids("2", "7"));
    assert_ne!(ids("1", "7"), ids("1", "8"));
}

/// Give `chat` these lines.
fn chat(args: &[&str], lines: &str) -> Output {
    let (home, model) = (tempfile::tempdir().expect("home"), path("fastvlm-apple"));
    let fixed = ["chat", "--model", &model, "--dtype", "f32", "--max-tokens", "8", "--ignore-eos"];
    let mut child = ocelli(home.path())
        .args([&fixed[..], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ocelli runs");
    child.stdin.take().expect("stdin").write_all(lines.as_bytes()).expect("write");
    child.wait_with_output().expect("wait")
}

#[test]
fn a_chat_remembers_its_turns_and_takes_pictures() {
    let (rgb, tall) = (picture("rgb_160x120.png"), picture("tall_75x200.png"));
    let output = chat(&["--json", &rgb], &format!("Describe the image.\n\n/image {tall}\nAnd this one?\n"));
    assert_exit(&output, 0);
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 2);
    let case = case("apple/one_image");
    let begin = &case["greedy_ids"].as_array().expect("ids")[..8];
    assert_eq!(lines[0]["token_ids"].as_array().expect("ids"), begin);
    assert_eq!(lines[0]["image"], json!(rgb));
    assert_eq!(lines[1]["image"], json!(tall));
    assert_eq!(lines[1]["usage"]["image_tokens"], 18);
    let (first, cached) = (&lines[0]["usage"]["prompt_tokens"], &lines[1]["usage"]["cached_tokens"]);
    assert!(cached.as_u64() >= first.as_u64(), "the second turn reuses the first: {cached} of {first}");
}

#[test]
fn a_chat_goes_on_after_a_mistake() {
    let output = chat(&[], "/image nope.png\n/image\nHow many people are in the picture?\n");
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("nope.png") && said.contains("/image needs a file"), "{said}");
    assert_eq!(stdout(&output).lines().count(), 1, "one answer: {}", stdout(&output));
    let case = case("apple/text_only");
    assert!(case["greedy_text"].as_str().expect("text").starts_with(stdout(&output).trim_end()));
}

#[test]
fn a_trace_has_the_promised_stages() {
    let directory = tempfile::tempdir().expect("directory");
    let out = directory.path().join("stages.safetensors");
    let image = picture("rgb_160x120.png");
    let prompt = "Describe the image.";
    let args = ["trace", &image, "--prompt", prompt, "--out", out.to_str().expect("utf-8"), "--json"];
    let output = apple(&args);
    assert_exit(&output, 0);
    let report = &json_lines(&output)[0];
    assert_eq!(fields(report), ["device", "image", "kernels", "model", "out", "stages"]);
    let stages = Tensors::read(&out);
    assert_eq!(report["stages"].as_array().expect("stages").len(), stages.names().len());
    let shapes: [(&str, &[usize]); 5] = [
        ("pixel_values", &[3, 192, 192]),
        ("projected", &[9, 64]),
        ("inputs_embeds", &[41, 64]),
        ("final_norm", &[41, 64]),
        ("vision.final_conv", &[128, 3, 3]),
    ];
    for (name, shape) in shapes {
        assert_eq!(stages.get(name).0, shape, "{name}");
    }
    for name in ["vision.stem.0", "vision.stages.0", "hidden.0"] {
        assert!(stages.names().iter().any(|n| n == name), "{name}");
    }
    let want = Tensors::open("fastvlm-expected.safetensors");
    let error = relative_error(&stages.values("logits"), &want.values("apple/one_image/logits"));
    assert!(error <= 2e-5, "logits differ by {error:.1e}");
}

#[test]
fn wrong_usage_is_told_as_such() {
    let home = tempfile::tempdir().expect("home");
    let image = picture("rgb_160x120.png");
    let wrong: [&[&str]; 11] = [
        &[],
        &["caption"],
        &["no-such-command"],
        &["caption", &image, "--no-such-flag"],
        &["caption", &image, "--temperature", "-1"],
        &["caption", &image, "--temperature", "nan"],
        &["caption", &image, "--top-p", "0"],
        &["caption", &image, "--stop", ""],
        &["caption", &image, "--device", "abacus"],
        &["ask", &image],
        &["synth", "fastvlm-70b", "dir"],
    ];
    for args in wrong {
        let output = run(home.path(), args);
        assert_exit(&output, 2);
        assert_eq!(stdout(&output), "", "{args:?}");
    }
    let output = run(home.path(), &["caption", &image, "--model", "no/such"]);
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("no model `no/such`") && stderr(&output).contains("ocelli pull no/such")
    );
}

/// Ctrl-C in the middle of an answer: what is done so far is given, the other pictures are left.
#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_answer_cleanly() {
    let (home, model) = (tempfile::tempdir().expect("home"), path("fastvlm-apple"));
    // More text than a pipe holds: the program cannot be done before it is interrupted.
    let images = vec![picture("rgb_160x120.png"); 50];
    let mut child = ocelli(home.path())
        .arg("caption")
        .args(&images)
        .args(["--model", &model, "--ignore-eos", "--max-tokens", "1000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ocelli runs");
    let mut out = child.stdout.take().expect("stdout");
    let mut first = [0; 8];
    out.read_exact(&mut first).expect("the beginning of an answer");
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.expect("kill").success());
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).expect("the rest");
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(1), "ended by itself, not by the signal");
    assert!(rest.ends_with(b"\n"));
    let begun = stderr(&output).matches("rgb_160x120.png:").count();
    assert!(begun < images.len(), "{begun} pictures were begun");
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let (home, model) = (tempfile::tempdir().expect("home"), path("fastvlm-apple"));
    let mut child = ocelli(home.path())
        .args(["caption", &picture("rgb_160x120.png"), "--model", &model])
        .args(["--ignore-eos", "--max-tokens", "1000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ocelli runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "");
}
