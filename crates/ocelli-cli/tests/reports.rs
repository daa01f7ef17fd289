//! `inspect`, `doctor`, `synth` and `completions`, and what is refused before loading.

mod support;

use std::io::Write;
use std::path::Path;

use ocelli_weights::SynthArch;
use serde_json::{Map, Value, json};
use support::{assert_exit, fields, json_lines, ocelli, path, run, stderr, stdout};

#[test]
fn inspect_tells_what_a_model_is_before_it_is_loaded() {
    let home = tempfile::tempdir().expect("home");
    let output = run(home.path(), &["inspect", &path("fastvlm-apple"), "--json"]);
    assert_exit(&output, 0);
    let report = &json_lines(&output)[0];
    assert_eq!(report["family"], "Apple llava_qwen2");
    assert_eq!(report["folded"], true);
    assert_eq!(report["stored_dtypes"], json!(["bf16"]));
    assert_eq!(report["vision"]["widths"], json!([4, 8, 16, 32, 64]));
    assert_eq!((&report["vision"]["image_tokens"], &report["language"]["layers"]), (&json!(9), &json!(2)));
    assert_eq!(report["licence"], Value::Null);
    for dtype in ["bf16", "f32"] {
        let plan = &report["memory"][dtype];
        let parts = ["weights_bytes", "activations_bytes", "cache_bytes"];
        let sum: u64 = parts.iter().map(|part| plan[part].as_u64().expect(part)).sum();
        assert_eq!(plan["total_bytes"].as_u64(), Some(sum));
    }
    let bytes = |dtype: &str| report["memory"][dtype]["weights_bytes"].as_u64();
    assert!(bytes("f32") > bytes("bf16"));
    let text = stdout(&run(home.path(), &["inspect", &path("fastvlm-apple")]));
    assert!(text.contains("family: Apple llava_qwen2") && text.contains("no licence file found"), "{text}");
    let missing = run(home.path(), &["inspect", "no/such"]);
    assert_exit(&missing, 1);
    assert!(stderr(&missing).contains("no model `no/such`"));
}

#[test]
fn inspect_tells_the_towers_of_a_mobileclip() {
    let home = tempfile::tempdir().expect("home");
    let inspect = |name: &str| {
        let output = run(home.path(), &["inspect", &path(name), "--json"]);
        assert_exit(&output, 0);
        json_lines(&output).remove(0)
    };
    // Apple's file of the first S0: nothing but tensors, in training form, convolutions in the text tower.
    let s0 = inspect("mobileclip-s0/mobileclip_s0.pt");
    assert_eq!((&s0["family"], &s0["folded"]), (&json!("Apple MobileCLIP"), &json!(false)));
    assert_eq!((&s0["files"], &s0["embed_dim"]), (&json!(["mobileclip_s0.pt"]), &json!(24)));
    assert_eq!(
        (&s0["vision"]["kind"], &s0["vision"]["widths"]),
        (&json!("FastViT"), &json!([8, 16, 32, 64]))
    );
    assert_eq!((&s0["text"]["layers"], &s0["text"]["convolution_layers"]), (&json!(4), &json!(2)));
    assert_eq!((&s0["text"]["width"], &s0["text"]["causal"]), (&json!(32), &json!(false)));
    assert_eq!(
        (&s0["preprocess"]["mean"], &s0["preprocess"]["std"]),
        (&json!([0.0, 0.0, 0.0]), &json!([1.0, 1.0, 1.0]))
    );

    let l14 = inspect("mobileclip-l14");
    assert_eq!(l14["preprocess"]["interpolation"], "bicubic");
    assert_eq!(l14["preprocess"]["mean"], json!([0.481_454_67, 0.457_827_5, 0.408_210_72]));
    assert_eq!((&l14["preprocess"]["size"], &l14["stored_dtypes"]), (&json!(56), &json!(["bf16"])));
    let vision = &l14["vision"];
    assert_eq!((&vision["kind"], &vision["width"]), (&json!("vision transformer"), &json!(32)));
    // 56 pixels are 4 patches of 14 a side, and the class token.
    assert_eq!((&vision["layers"], &vision["positions"]), (&json!(2), &json!(17)));
    for report in [&s0, &l14] {
        let count = |value: &Value| value["parameters"].as_u64().expect("parameters");
        // The logit scale is one more.
        assert_eq!(count(report), count(&report["vision"]) + count(&report["text"]) + 1);
        assert!(report["logit_scale"].as_f64().is_some_and(|scale| (scale - 37.5247).abs() < 1e-3));
    }
    assert_eq!(inspect("mobileclip-b")["text"]["causal"], true);

    let timm = path("mobileclip-s0/model.safetensors");
    let tower = run(home.path(), &["inspect", &timm]);
    assert_exit(&tower, 0);
    let text = stdout(&tower);
    assert!(text.contains("family: timm image tower") && text.contains("text: none"), "{text}");
    let other = run(home.path(), &["inspect", &timm, "--vision", &path("fastvlm-apple")]);
    assert_exit(&other, 1);
    assert!(stderr(&other).contains("--vision is for FastVLM"), "{}", stderr(&other));
    let broken = home.path().join("broken.pt");
    std::fs::write(&broken, b"no zip").expect("write");
    let broken = run(home.path(), &["inspect", broken.to_str().expect("utf-8")]);
    assert_exit(&broken, 1);
    assert!(stderr(&broken).contains("broken.pt"), "{}", stderr(&broken));
}

#[test]
fn doctor_tells_what_would_be_used() {
    let home = tempfile::tempdir().expect("home");
    let output = run(home.path(), &["doctor", "--json"]);
    assert_exit(&output, 0);
    let report = &json_lines(&output)[0];
    let names = [
        "available_kernels",
        "available_memory_bytes",
        "cpu_features",
        "device",
        "dtype",
        "gpus",
        "home",
        "kept_models",
        "kernels",
        "models",
        "processor",
        "system",
        "threads",
        "version",
    ];
    assert_eq!(fields(report), names);
    assert_eq!(report["home"], json!(home.path()));
    assert!(report["threads"].as_u64() >= Some(1));
    let text = run(home.path(), &["doctor"]);
    assert_exit(&text, 0);
    let text = String::from_utf8(text.stdout).expect("text");
    for gpu in report["gpus"].as_array().expect("a list") {
        let line = format!(
            "\n  {}: {}; ",
            gpu["name"].as_str().expect("name"),
            gpu["backend"].as_str().expect("backend")
        );
        assert!(text.contains(&line) && !text.contains('{'), "{text}");
    }
    let forced = ocelli(home.path()).args(["doctor", "--json"]).env("OCELLI_ISA", "scalar").output();
    assert_eq!(json_lines(&forced.expect("ocelli runs"))[0]["kernels"], "scalar");
    let wrong = ocelli(home.path()).args(["doctor"]).env("OCELLI_ISA", "abacus").output();
    assert_exit(&wrong.expect("ocelli runs"), 1);
}

#[test]
fn synth_writes_plain_lines_and_a_model_that_answers() {
    let home = tempfile::tempdir().expect("home");
    let dir = home.path().join("tiny");
    let dir = dir.to_str().expect("utf-8");
    let output = run(home.path(), &["synth", "fastvlm-tiny", dir, "--json"]);
    assert_exit(&output, 0);
    let report = &json_lines(&output)[0];
    assert_eq!(fields(report), ["arch", "dir", "seed", "weight_bytes"]);
    assert_eq!((&report["arch"], &report["seed"]), (&json!("fastvlm-tiny"), &json!(1)));
    let said = stderr(&output);
    assert!(!said.contains('\r') && said.lines().count() == 2, "{said:?}");
    let again = run(home.path(), &["synth", "fastvlm-tiny", dir]);
    assert_exit(&again, 1);
    assert!(stderr(&again).contains("--force") && stdout(&again).is_empty());
    let answer = run(home.path(), &["ask", "hi", "--model", dir, "--json", "--max-tokens", "2"]);
    assert_exit(&answer, 0);
    assert_eq!(json_lines(&answer)[0]["usage"]["image_tokens"], 0);
}

#[test]
fn completions_exist_for_every_shell() {
    let home = tempfile::tempdir().expect("home");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(home.path(), &["completions", shell]);
        assert_exit(&output, 0);
        let text = stdout(&output);
        assert!(text.contains("ocelli") && text.contains("caption") && text.contains("pull"), "{shell}");
    }
}

#[test]
fn every_command_has_help() {
    let home = tempfile::tempdir().expect("home");
    let all = stdout(&run(home.path(), &["--help"]));
    for command in [
        "caption",
        "ask",
        "chat",
        "classify",
        "embed",
        "labels",
        "eval",
        "inspect",
        "trace",
        "synth",
        "synth-data",
        "pull",
        "list",
        "rm",
        "doctor",
        "completions",
    ] {
        assert!(all.contains(command), "{command}");
        assert_exit(&run(home.path(), &[command, "--help"]), 0);
    }
}

/// A model of a real layout whose language model is too wide for any machine; on the disk it is a hole.
fn write_huge(dir: &Path) {
    const WIDTH: u64 = 1 << 30;
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(dir.join("config.json")).expect("config")).expect("JSON");
    config["intermediate_size"] = json!(WIDTH);
    std::fs::write(dir.join("config.json"), config.to_string()).expect("write");
    let (mut header, mut begin) = (Map::new(), 0);
    for tensor in SynthArch::FastVlmTiny.tensors() {
        let mut shape: Vec<u64> = tensor.shape.iter().map(|&dim| dim as u64).collect();
        if tensor.name.contains(".mlp.") && tensor.name.contains("model.layers.") {
            shape[usize::from(tensor.name.contains("down_proj"))] = WIDTH;
        }
        let (width, dtype) = if tensor.bytes() == tensor.len() * 2 { (2, "BF16") } else { (8, "I64") };
        let end = begin + shape.iter().product::<u64>() * width;
        header.insert(tensor.name, json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
        begin = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut file = std::fs::File::create(dir.join("model.safetensors")).expect("file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("write");
    file.write_all(header.as_bytes()).expect("write");
    file.set_len(8 + header.len() as u64 + begin).expect("a file with a hole");
}

#[cfg(target_os = "linux")]
#[test]
fn a_model_that_does_not_fit_in_memory_is_refused_with_both_numbers() {
    let home = tempfile::tempdir().expect("home");
    let dir = home.path().join("huge");
    let name = dir.to_str().expect("utf-8");
    assert_exit(&run(home.path(), &["synth", "fastvlm-tiny", name]), 0);
    write_huge(&dir);
    let inspected = run(home.path(), &["inspect", name, "--json"]);
    assert_exit(&inspected, 0);
    let needed = json_lines(&inspected)[0]["memory"]["bf16"]["total_bytes"].as_u64().expect("bytes");
    assert!(needed > 1 << 39);
    let output = run(home.path(), &["ask", "hi", "--model", name]);
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(
        said.contains(&format!("needs {} MiB", needed >> 20)) && said.contains("MiB are available"),
        "{said}"
    );
}
