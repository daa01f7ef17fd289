//! Configurations that are wrong or not supported, and where each number is found.

mod support;

use ocelli_weights::{Checkpoint, FastVlmConfig, LoadError};
use serde_json::{Value, json};
use support::{edit_config, fixture, read_dir, write_dir};

fn open(name: &str, edit: impl FnOnce(&mut Value)) -> Result<Checkpoint, LoadError> {
    let like = fixture(name);
    let dir = write_dir(&like, &read_dir(&like));
    edit_config(dir.path(), edit);
    Checkpoint::open(dir.path(), None)
}

fn config(name: &str, edit: impl FnOnce(&mut Value)) -> FastVlmConfig {
    open(name, edit).expect("a checkpoint").config
}

fn error(name: &str, edit: impl FnOnce(&mut Value)) -> String {
    open(name, edit).expect_err("a config that cannot work").to_string()
}

#[test]
fn variants_that_are_not_supported() {
    for (field, value) in [
        ("model_type", json!("qwen2")),
        ("model_type", json!("llama")),
        ("model_type", json!("llava_llama")),
        ("model_type", json!(3)),
        ("rope_scaling", json!({ "type": "yarn", "factor": 4.0 })),
        ("rope_scaling", json!({ "rope_type": "linear", "factor": 2.0 })),
        ("use_sliding_window", json!(true)),
        ("mm_projector_type", json!("linear")),
        ("mm_projector_type", json!("mlp3x_gelu")),
        ("hidden_act", json!("gelu")),
        ("mm_vision_tower", json!("openai/clip-vit-large-patch14-336")),
    ] {
        let text = error("fastvlm-apple", |config| config[field] = value.clone());
        assert!(text.contains(field) && text.contains(&value.to_string()), "{text}");
        assert!(text.contains("supported:"), "{text}");
    }
    let text = error("fastvlm-native", |c| c["text_config"]["rope_parameters"]["rope_type"] = json!("yarn"));
    assert!(text.contains("text_config.rope_parameters") && text.contains("yarn"), "{text}");
    let text = error("fastvlm-native", |c| c["text_config"]["model_type"] = json!("llama"));
    assert!(text.contains("text_config.model_type") && text.contains("qwen2"), "{text}");
    let text = error("fastvlm-native", |c| c["vision_config"]["architecture"] = json!("vit_base"));
    assert!(text.contains("vision_config.architecture"), "{text}");
    for scaling in [json!(null), json!({ "type": "default" })] {
        config("fastvlm-apple", |c| c["rope_scaling"] = scaling);
    }
}

#[test]
fn disagreements_say_both_numbers() {
    for (field, value, tensors) in [
        ("hidden_size", 128, 64),
        ("num_hidden_layers", 3, 2),
        ("num_hidden_layers", 1, 2),
        ("num_attention_heads", 2, 64),
        ("num_key_value_heads", 4, 32),
        ("intermediate_size", 191, 192),
        ("vocab_size", 705, 704),
        ("mm_hidden_size", 3072, 128),
    ] {
        // Keep the head size, so that only one thing is wrong.
        let text = error("fastvlm-apple", |config| {
            config["head_dim"] = 16.into();
            config[field] = value.into();
        });
        assert!(text.contains(field) && text.contains(&tensors.to_string()), "{field}: {text}");
        assert!(matches!(
            open("fastvlm-apple", |config| {
                config["head_dim"] = 16.into();
                config[field] = value.into();
            }),
            Err(LoadError::ConfigMismatch { .. })
        ));
    }
}

#[test]
fn nonsense_numbers() {
    for field in
        ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "rope_theta"]
    {
        for value in [json!(null), json!(0), json!(-1), json!("64"), json!([64])] {
            let text = error("fastvlm-apple", |config| config[field] = value.clone());
            assert!(text.contains(field), "{field} = {value}: {text}");
        }
    }
    for (field, value) in [
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!(1u64 << 40)),
        ("num_key_value_heads", json!(3)),
        ("rms_norm_eps", json!(0.0)),
        ("rms_norm_eps", json!(1e99)),
        ("num_attention_heads", json!(3)),
        ("head_dim", json!(15)),
        ("image_token_index", json!("<image>")),
    ] {
        let text = error("fastvlm-apple", |config| config[field] = value.clone());
        assert!(text.contains(field) || text.contains("hidden_size"), "{field} = {value}: {text}");
    }
}

#[test]
fn broken_json() {
    let like = fixture("fastvlm-apple");
    let dir = write_dir(&like, &read_dir(&like));
    for text in ["", "{", "[]", "null", "{\"model_type\": }", &"[".repeat(100_000)] {
        std::fs::remove_file(dir.path().join("config.json")).expect("removed");
        std::fs::write(dir.path().join("config.json"), text).expect("written");
        let error = Checkpoint::open(dir.path(), None).expect_err("no config").to_string();
        assert!(error.contains("config.json"), "{error}");
    }
    std::fs::remove_file(dir.path().join("config.json")).expect("removed");
    let error = Checkpoint::open(dir.path(), None).expect_err("no config").to_string();
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn image_sizes() {
    let apple = |tower: &str| config("fastvlm-apple", |c| c["mm_vision_tower"] = json!(tower)).image_size;
    assert_eq!(apple("mobileclip_l_1024"), 1024);
    assert_eq!(apple("checkpoints/mobileclip_l_384"), 384);
    assert_eq!(apple("mobileclip_l"), 1024);
    assert_eq!(apple("mobileclip_l_99999999999999999999"), 1024);

    let native = |edit: &dyn Fn(&std::path::Path)| {
        let like = fixture("fastvlm-native");
        let dir = write_dir(&like, &read_dir(&like));
        edit(dir.path());
        Checkpoint::open(dir.path(), None).map(|checkpoint| checkpoint.config.image_size)
    };
    let remove =
        |dir: &std::path::Path| std::fs::remove_file(dir.join("processor_config.json")).expect("there");
    assert_eq!(native(&|_| {}).expect("a checkpoint"), 192);
    // 9 tokens are 3 x 3 of 64 px.
    assert_eq!(native(&remove).expect("a checkpoint"), 192);
    let of = |value: Value| {
        native(&move |dir| {
            remove(dir);
            std::fs::write(dir.join("preprocessor_config.json"), value.to_string()).expect("written");
        })
        .expect("a checkpoint")
    };
    assert_eq!(of(json!({ "crop_size": { "height": 512, "width": 512 } })), 512);
    assert_eq!(of(json!({ "size": { "shortest_edge": 768 } })), 768);
    assert_eq!(of(json!({ "crop_size": 640 })), 640);
    assert_eq!(of(json!({ "do_resize": true })), 192);
    let tokens = |value: Value| {
        native(&move |dir| {
            remove(dir);
            edit_config(dir, |config| config["image_seq_length"] = value.clone());
        })
    };
    assert_eq!(tokens(json!(256)).expect("a checkpoint"), 1024);
    assert_eq!(tokens(json!(null)).expect("a checkpoint"), 1024);
    for wrong in [json!(10), json!(0), json!(-4), json!(i64::MAX)] {
        assert!(tokens(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn other_places() {
    let native = |edit: &dyn Fn(&mut Value)| config("fastvlm-native", |c| edit(&mut c["text_config"]));
    let old = native(&|text| {
        text["rope_parameters"] = json!(null);
        text["rope_theta"] = json!(5e5);
    });
    assert_eq!(old.rope_theta, 5e5);
    assert_eq!(native(&|_| {}).rope_theta, 1e6);
    // Left out by transformers where it is the default.
    assert_eq!(native(&|text| text["rms_norm_eps"] = json!(null)).rms_norm_eps, 1e-6);
    assert_eq!(native(&|text| text["max_position_embeddings"] = json!(4096)).max_positions, 4096);
    assert_eq!(
        config("fastvlm-apple", |c| c["tokenizer_model_max_length"] = json!(2048)).max_positions,
        2048
    );
    // Rows beyond the vocabulary are padding.
    assert_eq!(config("fastvlm-apple", |c| c["vocab_size"] = json!(700)).vocab_size, 700);
}
