//! The tiny checkpoints on every GPU of this machine, software ones too, against the CPU and the fixtures.

use ocelli::{
    AdapterChoice, AdapterSummary, BlockFormat, CancelToken, ClipOptions, DType, DecodeOptions, DeviceChoice,
    FastVlm, ImageOptions, LoadOptions, MobileClip, QuantPolicy, Request, Sampling,
};
use ocelli_testing::{Tensors, fixture, relative_error};

/// Every adapter, or a word that there is none.
fn adapters() -> Vec<AdapterSummary> {
    let found = ocelli::adapters();
    if found.is_empty() {
        println!("SKIPPED: this machine has no GPU and no software Vulkan (Debian: mesa-vulkan-drivers)");
    }
    found
}

fn on(adapter: &AdapterSummary) -> DeviceChoice {
    DeviceChoice::Gpu(AdapterChoice::Named(adapter.name.clone()))
}

fn load(dir: &str, dtype: DType, device: DeviceChoice, quant: Option<QuantPolicy>) -> FastVlm {
    let vision = dir.contains("mlx").then(|| fixture("fastvlm-apple"));
    let options = LoadOptions { vision, dtype, quant, device, threads: 2, ..LoadOptions::default() };
    let model = FastVlm::load(&fixture(dir), &options).unwrap_or_else(|e| panic!("{dir}: {e}"));
    assert_eq!(model.device_note(), None);
    model
}

fn request(model: &FastVlm) -> Request {
    let picture = fixture("images").join("rgb_160x120.png");
    let image = model.open_image_with(&picture, &ImageOptions::default()).expect("image");
    let mut request = Request::ask("What is in the picture?", vec![image]);
    (request.max_tokens, request.ignore_eos) = (16, true);
    request
}

fn ids(model: &FastVlm) -> Vec<u32> {
    model.generate(&request(model), &mut |_| ()).expect("answer").token_ids
}

#[test]
fn greedy_tokens_are_those_of_the_cpu_in_every_layout() {
    for adapter in adapters() {
        for dir in ["fastvlm-apple", "fastvlm-native", "fastvlm-mlx-8bit"] {
            let gpu = load(dir, DType::F32, on(&adapter), None);
            assert_eq!((gpu.device_name(), gpu.kernels()), ("gpu", adapter.name.clone()));
            assert_eq!(ids(&gpu), ids(&load(dir, DType::F32, DeviceChoice::Cpu, None)), "{dir}");
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_the_cpu_with_weights_in_blocks() {
    for adapter in adapters() {
        for format in [BlockFormat::Q8, BlockFormat::Q4] {
            let policy = QuantPolicy { layers: Some(format), head: Some(format), int8_vision: false };
            let gpu = load("fastvlm-apple", DType::F32, on(&adapter), Some(policy));
            let cpu = load("fastvlm-apple", DType::F32, DeviceChoice::Cpu, Some(policy));
            assert_eq!(ids(&gpu), ids(&cpu), "{format:?}");
        }
    }
}

/// Each stage against the CPU's, so that the first difference is named.
#[test]
fn every_stage_equals_the_cpus() {
    for adapter in adapters() {
        for (dtype, limit) in [(DType::F32, 2e-5), (DType::Bf16, 3e-2)] {
            let cpu = load("fastvlm-apple", DType::F32, DeviceChoice::Cpu, None);
            let gpu = load("fastvlm-apple", dtype, on(&adapter), None);
            let want = cpu.trace(&request(&cpu)).expect("trace");
            let got = gpu.trace(&request(&gpu)).expect("trace");
            for (want, got) in want.iter().zip(&got) {
                assert_eq!((&got.name, &got.shape), (&want.name, &want.shape));
                let error = relative_error(&got.values, &want.values);
                assert!(error <= limit, "{dtype:?}: {} differs by {error:.1e}", got.name);
            }
        }
    }
}

/// A second question about the same picture keeps the positions that both prompts share.
#[test]
fn kept_positions_change_no_token() {
    for adapter in adapters() {
        let gpu = load("fastvlm-apple", DType::F32, on(&adapter), None);
        let first = ids(&gpu);
        let mut other = request(&gpu);
        other.turns[0].text = "What else?".to_owned();
        let other = gpu.generate(&other, &mut |_| ()).expect("answer");
        assert!(other.usage.cached_tokens > 0);
        let again = gpu.generate(&request(&gpu), &mut |_| ()).expect("answer");
        assert!(again.usage.cached_tokens > 0);
        assert_eq!(again.token_ids, first);
    }
}

#[test]
fn cancelling_ends_an_answer() {
    for adapter in adapters() {
        let gpu = load("fastvlm-apple", DType::F32, on(&adapter), None);
        let mut request = request(&gpu);
        request.cancel = CancelToken::default();
        let (cancel, mut pieces) = (request.cancel.clone(), 0);
        let answer = gpu.generate(&request, &mut |_| {
            pieces += 1;
            cancel.cancel();
        });
        let answer = answer.expect("answer");
        assert_eq!((answer.finish_reason, pieces), (ocelli::FinishReason::Cancelled, 1));
    }
}

/// A penalty needs all logits on the host; without one the GPU finds the likeliest token itself.
#[test]
fn tokens_that_need_all_logits_are_those_of_the_cpu() {
    for adapter in adapters() {
        let ids = |device| {
            let model = load("fastvlm-apple", DType::F32, device, None);
            let mut request = request(&model);
            request.sampling.repetition_penalty = 1.3;
            let penalised = model.generate(&request, &mut |_| ()).expect("answer").token_ids;
            request.sampling = Sampling { temperature: 0.7, top_k: 20, seed: 5, ..Sampling::default() };
            [penalised, model.generate(&request, &mut |_| ()).expect("answer").token_ids]
        };
        assert_eq!(ids(on(&adapter)), ids(DeviceChoice::Cpu));
    }
}

/// A tower in 8-bit rows: the GPU's codes are the CPU's.
#[test]
fn an_int8_tower_gives_the_embeddings_of_the_cpu() {
    for adapter in adapters() {
        let trace = |device| {
            let model = load("fastvlm-apple", DType::F32, device, Some(QuantPolicy::VISION));
            let stages = model.trace(&request(&model)).expect("trace");
            (stages, model.int8_vision())
        };
        let ((want, int8), (got, _)) = (trace(DeviceChoice::Cpu), trace(on(&adapter)));
        assert!(int8, "the tower has 8-bit rows");
        let values = |stages: &[ocelli::Stage]| {
            stages.iter().find(|stage| stage.name == "projected").expect("projected").values.clone()
        };
        let error = relative_error(&values(&got), &values(&want));
        assert!(error < 5e-3, "differs by {error:.1e}");
    }
}

/// As after a laptop's sleep or a driver's reset: the next answer is the same, on the same GPU.
#[test]
fn a_lost_gpu_is_opened_again() {
    for adapter in adapters() {
        let gpu = load("fastvlm-apple", DType::F32, on(&adapter), None);
        let first = ids(&gpu);
        for _ in 0..2 {
            gpu.lose_device();
            assert_eq!(ids(&gpu), first);
            assert_eq!((gpu.device_name(), gpu.device_note()), ("gpu", None));
        }
        // In the middle of an answer, of which somebody has read the beginning, it is an error.
        let mut request = request(&gpu);
        let broken = gpu.generate(&request, &mut |_| gpu.lose_device()).expect_err("lost").to_string();
        assert!(broken.contains("lost"), "{broken}");
        request.max_tokens = 3;
        assert_eq!(gpu.generate(&request, &mut |_| ()).expect("answer").token_ids, first[..3]);
        assert_eq!(gpu.device_name(), "gpu");
    }
}

#[test]
fn a_gpu_that_is_lost_before_it_did_anything_gives_way_to_the_cpu() {
    for adapter in adapters() {
        let gpu = load("fastvlm-apple", DType::F32, on(&adapter), None);
        gpu.lose_device();
        assert_eq!(ids(&gpu), ids(&load("fastvlm-apple", DType::F32, DeviceChoice::Cpu, None)));
        assert_eq!(gpu.device_name(), "cpu");
        let note = gpu.device_note().expect("a note");
        assert!(note.contains(&adapter.name) && note.contains("the CPU is"), "{note}");
    }
}

#[test]
fn embeddings_survive_a_lost_gpu() {
    for adapter in adapters() {
        let options = ClipOptions { dtype: DType::F32, device: on(&adapter), ..ClipOptions::default() };
        let options = ClipOptions { tokenizer: Some(fixture("clip-tokenizer")), ..options };
        let model = MobileClip::load(&fixture("mobileclip-b"), &options).expect("model");
        let picture = fixture("images").join("rgb_160x120.png");
        let image = model.open_image(&picture, &DecodeOptions::default()).expect("image");
        let embed = || (model.embed_images(std::slice::from_ref(&image)), model.embed_texts(&["a cat"]));
        let (before, _) = (embed(), model.lose_device());
        let after = embed();
        assert_eq!(before.0.expect("embedding"), after.0.expect("embedding"));
        assert_eq!(before.1.expect("embedding"), after.1.expect("embedding"));
        assert_eq!((model.device_name(), model.device_note()), ("gpu", None));
    }
}

#[test]
fn embeddings_equal_those_of_open_clip() {
    let expected = std::fs::read_to_string(fixture("mobileclip-expected.json")).expect("fixture");
    let expected: serde_json::Value = serde_json::from_str(&expected).expect("fixture");
    let picture = expected["images"][0].as_str().expect("name");
    let caption = expected["captions"][0].as_str().expect("caption");
    let want = Tensors::open("mobileclip-expected.safetensors");
    for adapter in adapters() {
        for name in ["s0", "s2", "s3", "b", "l14"] {
            let options = ClipOptions {
                dtype: DType::F32,
                device: on(&adapter),
                tokenizer: Some(fixture("clip-tokenizer")),
                ..ClipOptions::default()
            };
            let model = MobileClip::load(&fixture(&format!("mobileclip-{name}")), &options).expect(name);
            let image =
                model.open_image(&fixture("images").join(picture), &DecodeOptions::default()).expect(name);
            let first = |stages: Vec<ocelli::Stage>| stages.last().expect("features").values.clone();
            let pairs = [
                ("image_features", first(model.trace_image(&image).expect(name))),
                ("text_features", first(model.trace_text(caption).expect(name))),
            ];
            for (key, got) in pairs {
                let error = relative_error(&got, &want.values(&format!("{name}/{key}"))[..got.len()]);
                assert!(error <= 5e-5, "{name} {key} differs by {error:.1e}");
            }
        }
    }
}

#[test]
fn a_gpu_that_is_not_there_is_said() {
    let device = DeviceChoice::Gpu(AdapterChoice::Named("no such adapter".to_owned()));
    let options = LoadOptions { device, ..LoadOptions::default() };
    let error = FastVlm::load(&fixture("fastvlm-apple"), &options).err().expect("no adapter").to_string();
    assert!(error.contains("--device cpu"), "{error}");
}
