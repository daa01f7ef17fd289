//! Quantized models from the outside: a written one answers like one quantized while loading, bit for
//! bit, and the gate tells a sound one from a broken one.

use std::path::Path;

use ocelli::{
    BlockFormat, Compared, DType, Error, FastVlm, GateLimits, LoadOptions, QuantPolicy, Request,
    built_in_images, compare, write_quantized,
};
use ocelli_testing::fixture;
use safetensors::SafeTensors;

const FORMATS: [BlockFormat; 2] = [BlockFormat::Q8, BlockFormat::Q4];

fn load(dir: &Path, quant: Option<BlockFormat>, dtype: DType) -> Result<FastVlm, Error> {
    let quant = quant.map(QuantPolicy::of);
    FastVlm::load(dir, &LoadOptions { quant, dtype, threads: 2, ..LoadOptions::default() })
}

fn write(layers: BlockFormat) -> (tempfile::TempDir, std::path::PathBuf) {
    let home = tempfile::tempdir().expect("a directory");
    let out = home.path().join("quantized");
    let from = fixture("fastvlm-apple");
    write_quantized(&from, &out, QuantPolicy::of(layers), &mut |_, _| ()).expect("written");
    (home, out)
}

#[test]
fn a_written_model_answers_as_one_quantized_while_loading() {
    for format in FORMATS {
        let (_home, out) = write(format);
        for dtype in [DType::F32, DType::Bf16] {
            let live = load(&fixture("fastvlm-apple"), Some(format), dtype).expect("on the fly");
            let stored = load(&out, None, dtype).expect("from its file");
            assert_eq!([live.quant(), stored.quant()], [Some(format); 2]);
            assert_eq!(live.weight_bytes(), stored.weight_bytes());
            for image in built_in_images(&live).expect("pictures") {
                let mut request = Request::ask("What is this?", vec![image]);
                (request.max_tokens, request.ignore_eos) = (16, true);
                let ids = |model: &FastVlm| model.generate(&request, &mut |_| ()).expect("answer").token_ids;
                assert_eq!(ids(&live), ids(&stored), "{format:?} {dtype:?}");
                let traces = [&live, &stored].map(|model| model.trace(&request).expect("trace"));
                for (a, b) in traces[0].iter().zip(&traces[1]) {
                    let equal = a.values.iter().zip(&b.values).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(equal && a.name == b.name, "{format:?} {dtype:?} {}", a.name);
                }
            }
        }
        let twice = load(&out, Some(format), DType::Bf16).map(|_| ()).expect_err("quantized twice");
        assert!(twice.to_string().contains("leave out --quant"), "{twice}");
    }
}

#[test]
fn fewer_bits_take_less_memory_and_the_original_has_no_format() {
    let bytes = |quant| load(&fixture("fastvlm-apple"), quant, DType::Bf16).expect("model").weight_bytes();
    let [plain, q8, q4] = [None, Some(BlockFormat::Q8), Some(BlockFormat::Q4)].map(bytes);
    assert!(q4 < q8 && q8 < plain, "{q4} {q8} {plain}");
    assert_eq!(load(&fixture("fastvlm-apple"), None, DType::Bf16).expect("model").quant(), None);
}

/// Write a number over the scale of one block of a matrix `[rows, blocks, 18 or 34]`.
fn set_scale(dir: &Path, tensor: &str, row: usize, scale: f32) {
    let path = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("the file");
    let begin = {
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let view = file.tensor(tensor).expect(tensor);
        let row_bytes = view.shape()[1] * view.shape()[2];
        view.data().as_ptr() as usize - bytes.as_ptr() as usize + row * row_bytes
    };
    bytes[begin..begin + 2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
    std::fs::write(&path, bytes).expect("written");
}

#[test]
fn the_gate_lets_sound_models_pass_and_catches_one_broken_scale() {
    let original = load(&fixture("fastvlm-apple"), None, DType::Bf16).expect("the original");
    let images = built_in_images(&original).expect("pictures");
    let itself = compare(&original, &original, &images).expect("figures");
    assert!(itself.iter().all(|c| c.kl == 0.0 && c.top1 == 1.0 && c.greedy == 1.0), "{itself:?}");
    let mean_kl = |figures: &[Compared]| figures.iter().map(|c| c.kl).sum::<f64>() / figures.len() as f64;
    for format in FORMATS {
        let limits = GateLimits::of(Some(format));
        let (_home, out) = write(format);
        let figures = compare(&original, &load(&out, None, DType::Bf16).expect("model"), &images);
        let sound = figures.expect("figures");
        println!("{format:?}: {sound:?}");
        // Random weights leave the logits nearly tied: in 4 bits no limit for trained ones can hold.
        if format == BlockFormat::Q8 {
            assert_eq!(limits.broken(&sound), [""; 0]);
        }
        set_scale(&out, "model.layers.0.mlp.down_proj.weight", 5, 60_000.0);
        let figures = compare(&original, &load(&out, None, DType::Bf16).expect("model"), &images);
        let figures = figures.expect("figures");
        println!("{format:?} broken: {figures:?}");
        assert!(limits.broken(&figures).iter().any(|b| b.starts_with("KL")), "{format:?}: not caught");
        assert!(mean_kl(&figures) > 2.0 * mean_kl(&sound), "{format:?}: {figures:?}");
        // No number at all is found before anything is computed.
        set_scale(&out, "model.layers.0.mlp.down_proj.weight", 5, f32::NAN);
        let error = load(&out, None, DType::Bf16).map(|_| ()).expect_err("a scale that is NaN").to_string();
        assert!(error.contains("language.layers.0.mlp.down_proj.weight"), "{error}");
    }
}

/// The tower alone, and together with the language model.
const WITH_VISION: [QuantPolicy; 2] =
    [QuantPolicy::VISION, QuantPolicy::of(BlockFormat::Q8).with_vision(true)];

fn load_with(dir: &Path, quant: Option<QuantPolicy>, dtype: DType) -> FastVlm {
    FastVlm::load(dir, &LoadOptions { quant, dtype, threads: 2, ..LoadOptions::default() }).expect("a model")
}

fn write_with(policy: QuantPolicy) -> (tempfile::TempDir, std::path::PathBuf) {
    let home = tempfile::tempdir().expect("a directory");
    let out = home.path().join("quantized");
    write_quantized(&fixture("fastvlm-apple"), &out, policy, &mut |_, _| ()).expect("written");
    (home, out)
}

/// Values of a stage of the answer about a drawn picture.
fn stage(model: &FastVlm, name: &str) -> Vec<f32> {
    let image = built_in_images(model).expect("pictures").remove(0);
    let stages = model.trace(&Request::ask("What is this?", vec![image])).expect("trace");
    stages.into_iter().find(|stage| stage.name == name).expect("a stage of this name").values
}

#[test]
fn a_quantized_tower_is_written_and_read_back_bit_for_bit() {
    for policy in WITH_VISION {
        let (_home, out) = write_with(policy);
        for dtype in [DType::F32, DType::Bf16] {
            let live = load_with(&fixture("fastvlm-apple"), Some(policy), dtype);
            let stored = load_with(&out, None, dtype);
            for model in [&live, &stored] {
                assert!(model.int8_vision());
                assert_eq!(model.quant(), policy.layers);
            }
            assert_eq!(live.quant_name(), stored.quant_name());
            assert_eq!(live.weight_bytes(), stored.weight_bytes());
            for name in ["projected", "logits"] {
                let [a, b] = [&live, &stored].map(|model| stage(model, name));
                assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()), "{name} {dtype:?}");
            }
            // Asked for twice, it is as it was.
            let again = load_with(&out, Some(QuantPolicy::VISION), dtype);
            assert_eq!(stage(&again, "projected"), stage(&stored, "projected"));
        }
    }
    let plain = load_with(&fixture("fastvlm-apple"), None, DType::Bf16);
    assert!(!plain.int8_vision() && plain.quant_name().is_none());
}

/// Only what the policy names differs, and by no more than bf16 may.
#[test]
fn a_quantized_tower_is_close_to_the_original() {
    for dtype in [DType::F32, DType::Bf16] {
        let plain = load_with(&fixture("fastvlm-apple"), None, dtype);
        let int8 = load_with(&fixture("fastvlm-apple"), Some(QuantPolicy::VISION), dtype);
        assert!(int8.weight_bytes() < plain.weight_bytes());
        assert_eq!(stage(&plain, "vision.stem.2"), stage(&int8, "vision.stem.2"));
        let (want, got) = (stage(&plain, "projected"), stage(&int8, "projected"));
        let error = ocelli_testing::relative_error(&got, &want);
        println!("{dtype:?}: projected differs by {error:.2e}");
        assert!(error > 1e-5 && error < 5e-2, "{dtype:?} {error}");
    }
}

/// One scale of one row of the tower: the picture's embeddings give it away.
#[test]
fn the_gate_catches_a_broken_scale_of_the_tower() {
    let original = load_with(&fixture("fastvlm-apple"), None, DType::Bf16);
    let images = built_in_images(&original).expect("pictures");
    let limits = GateLimits::of(None);
    let (_home, out) = write_with(QuantPolicy::VISION);
    let sound = compare(&original, &load_with(&out, None, DType::Bf16), &images).expect("figures");
    println!("sound: {sound:?}");
    assert_eq!(limits.broken(&sound), [""; 0]);
    let name = "model.vision_tower.vision_tower.model.network.10.0.convffn.fc2.weight";
    for (scale, finite) in [(1.0_f32, true), (f32::NAN, false)] {
        set_row_scale(&out, name, 5, scale);
        if !finite {
            let error = load(&out, None, DType::Bf16).map(|_| ()).expect_err("a scale that is NaN");
            assert!(error.to_string().contains("ffn.fc2.weight"), "{error}");
            continue;
        }
        let broken = compare(&original, &load_with(&out, None, DType::Bf16), &images).expect("figures");
        println!("broken: {broken:?}");
        assert!(limits.broken(&broken).iter().any(|b| b.starts_with("cosine")), "{broken:?}");
    }
}

/// Write a number over the scale of a row of a matrix of 8-bit rows.
fn set_row_scale(dir: &Path, tensor: &str, row: usize, scale: f32) {
    let path = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("the file");
    let begin = {
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let view = file.tensor(tensor).expect(tensor);
        view.data().as_ptr() as usize - bytes.as_ptr() as usize + row * view.shape()[1]
    };
    bytes[begin..begin + 4].copy_from_slice(&scale.to_le_bytes());
    std::fs::write(&path, bytes).expect("written");
}
