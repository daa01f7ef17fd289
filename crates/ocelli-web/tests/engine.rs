//! The module in Node against the library on this machine: the same token ids, the same embeddings.
//!
//! Needs Node and the folder that `cargo run -p xtask -- web` writes, named by `OCELLI_WEB_PKG`; says so when one is
//! missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use ocelli::{ClipOptions, DType, FastVlm, ImageOptions, LoadOptions, MobileClip, Request, Rgb8};
use ocelli_testing::fixture;
use ocelli_tiny::{Embedded, unpack};
use serde_json::{Value, json};

const VARIABLE: &str = "OCELLI_WEB_PKG";
const QUESTION: &str = "What colour is the square? Answer “red”, or 12 naïve words.";
const TEXTS: [&str; 3] = ["a photo of a cat", "Zwei Hunde &amp; ein Café", ""];
/// Ours and theirs add products in another order, in f32.
const TOLERANCE: f32 = 1e-4;

/// The module's folder, or none with a word why.
fn package() -> Option<PathBuf> {
    let package = std::env::var_os(VARIABLE).map(|dir| std::path::absolute(dir).expect("a path"));
    let node = Command::new("node").arg("--version").output().is_ok_and(|output| output.status.success());
    match package {
        Some(package) if node => Some(package),
        Some(_) => {
            println!("SKIPPED: there is no node");
            None
        }
        None => {
            println!("SKIPPED: {VARIABLE} names no folder that `cargo run -p xtask -- web` wrote");
            None
        }
    }
}

/// A picture with a gradient and a red square, and an alpha that nobody should see.
fn picture(dir: &Path, width: usize, height: usize) -> (Rgb8, Value) {
    let mut rgba = Vec::new();
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let square = (width / 4..width / 2).contains(&x) && (height / 4..height / 2).contains(&y);
        let pixel = if square { [220, 20, 30] } else { [(x * 3 % 256) as u8, (y * 5 % 256) as u8, 140] };
        rgba.extend(pixel);
        rgba.push(((x + y) % 256) as u8);
    }
    let path = dir.join(format!("{width}x{height}.rgba"));
    std::fs::write(&path, &rgba).expect("written");
    let picture = Rgb8::from_rgba(height, width, &rgba).expect("a picture");
    (picture, json!({ "rgba": path, "width": width, "height": height }))
}

/// A copy of a fixture with the small tokenizer of all of them.
fn with_tokenizer(to: &Path, model: &Path) -> PathBuf {
    std::fs::create_dir(to).expect("a directory");
    for from in [model, &fixture("clip-tokenizer")] {
        for entry in std::fs::read_dir(from).expect("a directory") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
        }
    }
    to.to_owned()
}

fn run(package: &Path, dir: &Path, cases: &Value) -> Value {
    let list = dir.join("cases.json");
    std::fs::write(&list, cases.to_string()).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine.mjs");
    let output = Command::new("node").arg(script).arg(package).arg(list).output().expect("node runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {errors}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// What every engine does.
fn check_common(answer: &Value, kind: &str, bytes: usize) {
    let info = &answer["info"];
    assert_eq!(
        (&info["kind"], &info["device"], &info["dtype"]),
        (&kind.into(), &"wasm".into(), &"f32".into())
    );
    assert_eq!(info["weight_bytes"].as_u64().expect("bytes"), bytes as u64);
    assert_eq!(answer["progress"][0], "weights");
    assert!(answer["steps"].as_u64().expect("steps") > 1);
    assert!(text(&answer["webgpu"]).contains("use device \"wasm\""), "{}", answer["webgpu"]);
    assert!(text(&answer["other_device"]).contains("abacus"), "{}", answer["other_device"]);
    assert!(text(&answer["broken"]).contains("the handle is closed"), "{}", answer["broken"]);
    assert!(text(&answer["broken"]).contains("the model/"), "{}", answer["broken"]);
    assert!(answer["wrong_kind"].is_string(), "{}", answer["wrong_kind"]);
}

#[test]
fn answers_are_those_of_the_library() {
    let Some(package) = package() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let tiny = unpack(Embedded::FastVlm, dir.path()).expect("the embedded model");
    let (first, first_json) = picture(dir.path(), 120, 75);
    let (second, second_json) = picture(dir.path(), 40, 64);
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    for dir in [tiny, fixture("fastvlm-apple"), fixture("fastvlm-native")] {
        let options = LoadOptions { dtype: DType::F32, threads: 1, ..LoadOptions::default() };
        let model = FastVlm::load(&dir, &options).expect("model");
        let prepare = |rgb| model.prepare_rgb(rgb, &ImageOptions::default()).expect("image");
        let (first, second) = (prepare(&first), prepare(&second));
        let mut requests = Vec::new();
        let mut answers = Vec::new();
        for (images, places) in
            [(vec![first.clone()], json!([0])), (vec![first, second], json!([0, 1])), (vec![], json!([]))]
        {
            let mut request = Request::ask(QUESTION, images);
            request.max_tokens = 24;
            request.ignore_eos = true;
            answers.push(model.generate(&request, &mut |_| ()).expect("answer"));
            let asked = json!({ "prompt": QUESTION, "max_new_tokens": 24, "ignore_eos": true });
            requests.push(json!({ "request": asked, "pictures": places }));
        }
        let pictures = [&first_json, &second_json];
        let options = json!({ "device": "wasm", "dtype": "f32" });
        cases.push(json!({ "dir": dir, "options": options, "pictures": pictures, "requests": requests }));
        expected.push((dir, model.weight_bytes(), answers));
    }
    let found = run(&package, dir.path(), &cases.into());
    for (answer, (dir, bytes, expected)) in
        found["answers"].as_array().expect("answers").iter().zip(&expected)
    {
        check_common(answer, "fastvlm", *bytes);
        for (found, expected) in answer["generated"].as_array().expect("answers").iter().zip(expected) {
            assert_eq!(found["token_ids"], json!(expected.token_ids), "{}", dir.display());
            assert_eq!(found["text"], expected.text);
            assert_eq!(found["finish_reason"], "length");
            assert_eq!(found["usage"]["prompt_tokens"], expected.usage.prompt_tokens);
            assert_eq!(found["usage"]["image_tokens"], expected.usage.image_tokens);
            assert!(found["timings"]["ttft_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{}", found["timings"]);
            let pieces = found["pieces"].as_array().expect("pieces").iter().map(text).collect::<String>();
            assert_eq!(pieces, expected.text);
        }
        assert!(text(&answer["wrong_picture"]).contains("7 bytes"), "{}", answer["wrong_picture"]);
        assert!(answer["wrong_json"].is_string());
        assert_eq!(answer["thrown_inside"], "the listener broke");
        assert_eq!(answer["cancelled"], "cancelled");
        assert!(text(&answer["no_config"]).contains("the model/config.json"), "{}", answer["no_config"]);
    }
    assert_eq!(expected.len(), found["answers"].as_array().expect("answers").len());
    assert_eq!(found["probe"]["simd"], true);
    assert!(found["probe"]["webgpu"].is_null() && found["probe"]["reason"].is_string(), "{}", found["probe"]);
}

#[test]
fn embeddings_are_those_of_the_library() {
    let Some(package) = package() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let tiny = unpack(Embedded::MobileClip, dir.path()).expect("the embedded model");
    let (first, first_json) = picture(dir.path(), 120, 75);
    let (second, second_json) = picture(dir.path(), 40, 64);
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    let fixtures = ["mobileclip-s0", "mobileclip-s2", "mobileclip-b"];
    let fixtures = fixtures.map(|name| with_tokenizer(&dir.path().join(name), &fixture(name)));
    for dir in [tiny].into_iter().chain(fixtures) {
        let options = ClipOptions { dtype: DType::F32, threads: 1, ..ClipOptions::default() };
        let model = MobileClip::load(&dir, &options).expect("model");
        let images = [&first, &second].map(|picture| model.prepare_image(picture));
        let images = model.embed_images(&images).expect("embeddings");
        let texts = model.embed_texts(&TEXTS).expect("embeddings");
        let options = json!({ "device": "wasm", "dtype": "f32" });
        let pictures = [&first_json, &second_json];
        cases.push(json!({ "dir": dir, "options": options, "pictures": pictures, "texts": TEXTS }));
        expected.push((dir, model.config().logit_scale, images, texts));
    }
    let found = run(&package, dir.path(), &cases.into());
    let found = found["answers"].as_array().expect("answers");
    assert_eq!(found.len(), expected.len());
    for (answer, (dir, logit_scale, images, texts)) in found.iter().zip(&expected) {
        // Towers are packed when they are first needed: at once after loading there is nothing.
        assert_eq!(answer["info"]["kind"], "mobileclip");
        assert_eq!(answer["info"]["embed_dim"], images[0].len());
        assert!((answer["logit_scale"].as_f64().expect("a number") as f32 - logit_scale).abs() < 1e-3);
        for (found, expected) in [(&answer["images"], images), (&answer["texts"], texts)] {
            let found = found.as_array().expect("rows");
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let found: Vec<f32> = serde_json::from_value(found.clone()).expect("numbers");
                assert_eq!(found.len(), expected.len());
                let most = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(most < TOLERANCE, "{}: {most}", dir.display());
            }
        }
        assert!(answer["wrong_kind"].is_string(), "{}", answer["wrong_kind"]);
    }
}
