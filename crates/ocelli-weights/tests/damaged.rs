//! One thing wrong with a checkpoint gives an error that names it.

mod support;

use ocelli_weights::{Checkpoint, LoadError, LoadReport};
use safetensors::tensor::Dtype;
use support::{Raw, Tensors, edit_config, fixture, open_edited, read_dir, write_dir};

const TOWER: &str = "model.vision_tower.vision_tower.model.";

/// The report of a load that must fail because of its tensors.
fn report(name: &str, edit: impl FnOnce(&mut Tensors)) -> LoadReport {
    match open_edited(name, edit).expect_err("a damaged checkpoint") {
        LoadError::Tensors(report) => *report,
        other => panic!("{other}"),
    }
}

fn error(name: &str, edit: impl FnOnce(&mut Tensors)) -> String {
    open_edited(name, edit).expect_err("a damaged checkpoint").to_string()
}

/// Every single tensor of the file that is used is missed when it is gone.
#[test]
fn every_tensor_is_missed() {
    for name in ["fastvlm-apple", "fastvlm-native"] {
        let intact = Checkpoint::open(&fixture(name), None).expect("a checkpoint");
        for key in read_dir(&fixture(name)).keys() {
            if intact.report.ignored.contains(key) || key == "lm_head.weight" {
                continue;
            }
            let text = error(name, |tensors| {
                tensors.remove(key);
            });
            assert!(text.contains(&format!("missing `{key}`")), "{key}: {text}");
        }
    }
}

/// Every single tensor that has another name is missed, found unused, and suggested.
#[test]
fn every_renamed_tensor_is_named() {
    let intact = Checkpoint::open(&fixture("fastvlm-apple"), None).expect("a checkpoint");
    for key in read_dir(&fixture("fastvlm-apple")).keys() {
        if intact.report.ignored.contains(key) || key == "lm_head.weight" {
            continue;
        }
        let renamed = format!("{key}_");
        let report = report("fastvlm-apple", |tensors| {
            let raw = tensors.remove(key).expect("the tensor");
            tensors.insert(renamed.clone(), raw);
        });
        assert!(report.missing.contains(key), "{report}");
        assert!(report.unused.contains(&renamed), "{report}");
        let text = report.to_string();
        assert!(text.contains(&format!("missing `{key}` (did you mean `{renamed}`?)")), "{text}");
    }
}

/// Every single tensor of another shape is the one that is named, with both shapes.
#[test]
fn every_misshapen_tensor_is_named() {
    for name in ["fastvlm-apple", "fastvlm-native"] {
        let intact = Checkpoint::open(&fixture(name), None).expect("a checkpoint");
        for (key, raw) in read_dir(&fixture(name)) {
            if intact.report.ignored.contains(&key) {
                continue;
            }
            for axis in 0..raw.shape.len() {
                let mut shape = raw.shape.clone();
                shape[axis] += 1;
                let result = open_edited(name, |tensors| {
                    let size = if raw.dtype == Dtype::F32 { 4 } else { 2 };
                    let bytes = vec![0; size * shape.iter().product::<usize>()];
                    tensors.insert(key.clone(), Raw { shape: shape.clone(), bytes, dtype: raw.dtype });
                });
                let text = match result {
                    Err(LoadError::Tensors(report)) => {
                        assert_eq!(report.misshapen.len(), 1, "{report}");
                        let misshapen = &report.misshapen[0];
                        assert_eq!((&misshapen.name, &misshapen.found), (&key, &shape));
                        assert!(
                            misshapen.expected == raw.shape || misshapen.expected == raw.shape[..1],
                            "{report}"
                        );
                        continue;
                    }
                    Err(other) => other.to_string(),
                    Ok(_) => panic!("{key} {shape:?} loads"),
                };
                panic!("{key} {shape:?}: {text}");
            }
        }
    }
}

#[test]
fn another_rank_is_misshapen() {
    let key = format!("{TOWER}network.0.0.convffn.fc1.weight");
    let report = report("fastvlm-apple", |tensors| {
        tensors.get_mut(&key).expect("the tensor").shape = vec![16, 4];
    });
    assert_eq!(report.misshapen[0].name, key);
    assert_eq!(report.misshapen[0].expected, [16, 4, 1, 1]);
}

#[test]
fn a_tensor_too_many_is_unused() {
    for extra in ["model.layers.0.self_attn.o_proj.bias", "something.else"] {
        let report = report("fastvlm-apple", |tensors| {
            tensors.insert(extra.to_owned(), Raw::f32(&[64], &[0.0; 64]));
        });
        assert_eq!(report.unused, [extra]);
    }
}

/// A block, a layer or a stage that is missing in the middle.
#[test]
fn gaps_are_missing() {
    let gap = |prefix: &'static str| {
        move |tensors: &mut Tensors| tensors.retain(|name, _| !name.starts_with(prefix))
    };
    let text = error("fastvlm-native", gap("model.vision_tower.timm_model.stages.1.blocks.0."));
    assert!(
        text.contains("missing `model.vision_tower.timm_model.stages.1.blocks.0.mlp.conv.conv.weight`"),
        "{text}"
    );
    let text = error("fastvlm-native", gap("model.language_model.layers.0."));
    assert!(text.contains("missing `model.language_model.layers.0."), "{text}");
    let text = error("fastvlm-native", gap("model.vision_tower.timm_model.stages.2."));
    assert!(text.contains("stage 2"), "{text}");
    let text = error("fastvlm-apple", gap("model.vision_tower.vision_tower.model.network.6."));
    assert!(text.contains("network.6"), "{text}");
    let text = error("fastvlm-apple", gap("model.vision_tower.vision_tower.model.network.3."));
    assert!(text.contains("network.3"), "{text}");
    // The last layer: what is left is a smaller model than the config says.
    let text = error("fastvlm-native", gap("model.language_model.layers.1."));
    assert!(text.contains("num_hidden_layers = 2") && text.contains("tensors say 1"), "{text}");
    let text = error("fastvlm-apple", gap("model.vision_tower."));
    assert!(text.contains("no vision tower") && text.contains("--vision"), "{text}");
    let text = error("fastvlm-apple", gap("model.mm_projector."));
    assert!(text.contains("missing `model.mm_projector.0.weight`"), "{text}");
}

#[test]
fn hostile_indices_cost_nothing() {
    for (name, key) in [
        ("fastvlm-native", "model.vision_tower.timm_model.stages.99999999999999999999.x"),
        ("fastvlm-native", "model.vision_tower.timm_model.stages.1.blocks.4000000000.x"),
        ("fastvlm-native", "model.language_model.layers.4000000000.x"),
        ("fastvlm-native", "model.language_model.layers.99999999999999999999.x"),
        ("fastvlm-apple", "model.vision_tower.vision_tower.model.network.4000000000.x.y"),
        ("fastvlm-apple", "model.vision_tower.vision_tower.model.network.0.4000000000.x"),
    ] {
        let text = error(name, |tensors| {
            tensors.insert(key.to_owned(), Raw::f32(&[1], &[0.0]));
        });
        assert!(text.len() < 2000, "{text}");
    }
}

#[test]
fn unknown_keys() {
    let text = error("fastvlm-apple", |tensors| {
        *tensors = std::mem::take(tensors).into_iter().map(|(k, v)| (format!("module.{k}"), v)).collect();
    });
    assert!(text.contains("cannot recognise") && text.contains("`module.lm_head.weight`"), "{text}");
    assert!(text.contains("Apple llava_qwen2") && text.contains("mlx-vlm"), "{text}");
    let text = error("fastvlm-apple", Tensors::clear);
    assert!(text.contains("cannot recognise"), "{text}");
}

#[test]
fn wrong_dtypes() {
    for dtype in [Dtype::I64, Dtype::F64, Dtype::U8] {
        let key = "model.layers.1.mlp.up_proj.weight";
        let text = error("fastvlm-apple", |tensors| {
            let raw = tensors.get_mut(key).expect("the tensor");
            let size = if dtype == Dtype::U8 { 1 } else { 8 };
            *raw = Raw { dtype, bytes: vec![0; raw.bytes.len() / 2 * size], shape: raw.shape.clone() };
        });
        assert!(text.contains(key) && text.contains(&format!("{dtype:?}")), "{text}");
    }
}

#[test]
fn damaged_quantization() {
    let like = fixture("fastvlm-mlx-4bit");
    let tower = fixture("fastvlm-apple");
    let error = |edit: &dyn Fn(&mut Tensors), config: &dyn Fn(&mut serde_json::Value)| {
        let mut tensors = read_dir(&like);
        edit(&mut tensors);
        let dir = write_dir(&like, &tensors);
        edit_config(dir.path(), |c| config(c));
        Checkpoint::open(dir.path(), Some(&tower)).expect_err("a damaged checkpoint").to_string()
    };
    let module = "language_model.model.layers.1.mlp.up_proj";
    for part in ["scales", "biases", "weight"] {
        let key = format!("{module}.{part}");
        let text = error(&|tensors| drop(tensors.remove(&key)), &|_| {});
        assert!(text.contains(&format!("missing `{key}`")), "{text}");
    }
    let text = error(
        &|tensors| {
            let raw = tensors.get_mut(&format!("{module}.scales")).expect("the tensor");
            (raw.shape, raw.bytes) = (vec![raw.shape[0], 2], vec![0; raw.bytes.len() * 2]);
        },
        &|_| {},
    );
    assert!(text.contains("unknown quantization") && text.contains(module), "{text}");
    for (bits, group) in [(2, 64), (3, 64), (6, 64), (4, 128), (4, 16), (4, 0), (0, 64)] {
        let quantization = serde_json::json!({ "bits": bits, "group_size": group });
        let text = error(&|_| {}, &|config| config["quantization"] = quantization.clone());
        assert!(text.contains("unknown quantization") && text.contains("4 or 8 bits"), "{text}");
    }
    // Layouts that can be read, but not the ones of these tensors.
    for (bits, group) in [(8, 64), (4, 32)] {
        let quantization = serde_json::json!({ "bits": bits, "group_size": group });
        let text = error(&|_| {}, &|config| config["quantization"] = quantization.clone());
        assert!(text.contains("unknown quantization"), "{text}");
    }
    let text = error(&|_| {}, &|config| config["quantization"] = serde_json::Value::Null);
    assert!(text.contains("no \"quantization\""), "{text}");
    let mode = serde_json::json!({ "bits": 4, "group_size": 32, "mode": "mxfp4" });
    let text = error(&|_| {}, &|config| config["quantization"] = mode.clone());
    assert!(text.contains("mxfp4"), "{text}");
}

/// A tower of another size than the projector was made for.
#[test]
fn tower_of_another_model() {
    let like = fixture("fastvlm-apple");
    let tiny = tempfile::tempdir().expect("a directory");
    ocelli_weights::synth(ocelli_weights::SynthArch::FastVlmTiny, tiny.path(), 1, false, &mut |_, _| {})
        .expect("written");
    let text = Checkpoint::open(&like, Some(tiny.path())).expect_err("another tower").to_string();
    assert!(text.contains("mm_hidden_size = 128") && text.contains("256"), "{text}");
    let dir = write_dir(&like, &read_dir(&like));
    edit_config(dir.path(), |config| config["mm_hidden_size"] = serde_json::Value::Null);
    let text = Checkpoint::open(dir.path(), Some(tiny.path())).expect_err("another tower").to_string();
    assert!(text.contains("`model.mm_projector.0.weight` has shape [64, 128], expected [64, 256]"), "{text}");
}

/// When every tensor that tells a size is wrong, they are all named; none is quietly left out.
#[test]
fn sizes_that_nothing_tells() {
    for shape in [vec![8, 128], vec![0, 128, 1, 1]] {
        let report = report("fastvlm-apple", |tensors| {
            for (name, raw) in tensors.iter_mut().filter(|(name, _)| name.contains("conv_exp.se.")) {
                let shape = if name.contains("reduce.bias") { vec![0] } else { shape.clone() };
                let bytes = vec![0; 2 * shape.iter().product::<usize>()];
                *raw = Raw { shape, bytes, dtype: raw.dtype };
            }
        });
        assert_eq!(report.misshapen.len(), 4, "{report}");
    }
}
