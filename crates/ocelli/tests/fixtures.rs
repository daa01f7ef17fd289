//! Tiny FastVLM checkpoints in every layout against the answers of transformers.

use ocelli::{DType, FastVlm, Fit, ImageOptions, Isa, LoadOptions, Orientation, Request, Role, Turn};
use ocelli_testing::{Tensors, fixture, relative_error};
use serde_json::Value;

fn load(dir: &str, dtype: DType, threads: usize) -> FastVlm {
    let vision = dir.contains("mlx").then(|| fixture("fastvlm-apple"));
    let options = LoadOptions { vision, dtype, threads, ..LoadOptions::default() };
    FastVlm::load(&fixture(dir), &options).unwrap_or_else(|e| panic!("{dir}: {e}"))
}

fn expected() -> Value {
    let text = std::fs::read_to_string(fixture("fastvlm-expected.json")).expect("fixture");
    serde_json::from_str(&text).expect("fixture")
}

fn case(key: &str) -> Value {
    let all = expected();
    all["cases"].as_array().expect("cases").iter().find(|c| c["key"] == key).expect(key).clone()
}

/// The turns of a rendered prompt; pictures stand before the text.
fn turns(prompt: &str, native: bool) -> (Option<String>, Vec<Turn>) {
    let (mut system, mut turns) = (None, vec![]);
    for block in prompt.split("<|im_start|>").skip(1) {
        let Some((role, text)) = block.split_once('\n') else { continue };
        let Some(text) = text.strip_suffix("<|im_end|>\n") else { continue };
        let images = text.matches("<image>").count();
        let text = text.replace("<image>\n", "").replace("<image>", "");
        let text = if native { text.strip_prefix('\n').unwrap_or(&text).to_owned() } else { text };
        match role {
            "system" => system = Some(text),
            "user" => turns.push(Turn { role: Role::User, text, images }),
            _ => turns.push(Turn { role: Role::Assistant, text, images }),
        }
    }
    let default = system.as_deref() == Some("You are a helpful assistant.");
    (system.filter(|_| !default), turns)
}

fn request(model: &FastVlm, case: &Value) -> Request {
    let native = case["layout"] == "native";
    let fit = if case["preprocess"] == "crop" { Fit::Crop } else { Fit::Pad };
    let options = ImageOptions { fit, orientation: Orientation::Ignore, ..ImageOptions::default() };
    let names = case["images"].as_array().expect("images").iter();
    let images = names
        .map(|n| fixture("images").join(n.as_str().expect("name")))
        .map(|path| model.open_image_with(&path, &options).expect("image"))
        .collect();
    let (system, turns) = turns(case["prompt"].as_str().expect("prompt"), native);
    let mut request = Request::ask("", images);
    (request.system, request.turns) = (system, turns);
    (request.max_tokens, request.ignore_eos) = (16, true);
    request
}

fn ids(case: &Value) -> Vec<u32> {
    case["greedy_ids"].as_array().expect("ids").iter().map(|v| v.as_u64().expect("id") as u32).collect()
}

fn keys(layout: &str) -> Vec<String> {
    let all = expected();
    let cases = all["cases"].as_array().expect("cases").iter();
    cases.filter(|c| c["layout"] == layout).map(|c| c["key"].as_str().expect("key").to_owned()).collect()
}

#[test]
fn greedy_ids_equal_those_of_transformers_in_every_case() {
    for (dir, layout) in [("fastvlm-apple", "apple"), ("fastvlm-native", "native")] {
        let model = load(dir, DType::F32, 2);
        for key in keys(layout) {
            let case = case(&key);
            let answer = model.generate(&request(&model, &case), &mut |_| ()).expect(&key);
            assert_eq!(answer.token_ids, ids(&case), "{key}");
            assert_eq!(answer.text, case["greedy_text"].as_str().expect("text"), "{key}");
            assert_eq!(answer.usage.prompt_tokens as u64, case["seq_len"].as_u64().expect("len"), "{key}");
        }
    }
}

#[test]
fn greedy_ids_equal_those_of_mlx_codes() {
    let picture = case("apple/one_image");
    for (dir, key) in [
        ("fastvlm-mlx-fp16", "mlx-16/one_image"),
        ("fastvlm-mlx-8bit", "mlx-8/one_image"),
        ("fastvlm-mlx-4bit", "mlx-4/one_image"),
    ] {
        let model = load(dir, DType::F32, 2);
        let request = request(&model, &picture);
        let answer = model.generate(&request, &mut |_| ()).expect(key);
        assert_eq!(answer.token_ids, ids(&case(key)), "{key}");
        let stages = model.trace(&request).expect(key);
        let stage = |name: &str| &stages.iter().find(|s| s.name == name).expect("stage").values;
        let want = Tensors::open("fastvlm-expected.safetensors");
        assert!(relative_error(stage("projected"), &want.values(&format!("{key}/projected"))) <= 2e-5);
        let (logits, last) = (stage("logits"), want.values(&format!("{key}/last_logits")));
        assert!(max_difference(&logits[logits.len() - last.len()..], &last) <= 5e-4, "{key}");
    }
}

fn max_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max)
}

/// Each stage against its fixture, so that the first difference is named.
fn compare_stages(dtype: DType, isa: Isa, limit: f64) {
    let options = LoadOptions { dtype, isa: Some(isa), threads: 2, ..LoadOptions::default() };
    let model = FastVlm::load(&fixture("fastvlm-apple"), &options).expect("model");
    let stages = model.trace(&request(&model, &case("apple/one_image"))).expect("trace");
    let want = Tensors::open("fastvlm-expected.safetensors");
    let names = want.names();
    let mut compared = 0;
    for stage in &stages {
        let name = match stage.name.strip_prefix("vision.") {
            Some(part) => format!("vision/rgb_160x120.png/{part}"),
            None if stage.name == "projected" => "projected/rgb_160x120.png".to_owned(),
            None => format!("apple/one_image/{}", stage.name),
        };
        // transformers' last hidden state is the normed one, stored as `final_norm`.
        if !names.contains(&name) {
            continue;
        }
        let (shape, values) = want.get(&name);
        assert_eq!(stage.shape, shape, "{name}");
        let error = relative_error(&stage.values, &values);
        assert!(error <= limit, "{} {isa}: {} differs by {error:.1e}", dtype.name(), stage.name);
        if dtype == DType::F32 && stage.name == "logits" {
            assert!(max_difference(&stage.values, &values) <= 5e-4);
        }
        compared += 1;
    }
    assert!(compared >= 20, "only {compared} stages have a fixture");
}

#[test]
fn every_stage_equals_its_fixture_on_every_instruction_set() {
    for isa in Isa::available() {
        compare_stages(DType::F32, isa, 2e-5);
        compare_stages(DType::Bf16, isa, 5e-2);
    }
}

/// Position of the largest logit of each prompt position, over all cases of a layout.
fn top_1(dtype: DType, isa: Isa) -> Vec<usize> {
    let options = LoadOptions { dtype, isa: Some(isa), threads: 2, ..LoadOptions::default() };
    let model = FastVlm::load(&fixture("fastvlm-apple"), &options).expect("model");
    let mut tops = Vec::new();
    for key in keys("apple") {
        let stages = model.trace(&request(&model, &case(&key))).expect(&key);
        let logits = stages.iter().find(|s| s.name == "logits").expect("logits");
        let rows = logits.values.chunks_exact(logits.shape[1]);
        tops.extend(rows.map(|row| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]))));
    }
    tops.into_iter().flatten().collect()
}

/// These tiny networks amplify rounding: every kernel set, the scalar reference too, agrees with f32 on 94 to 97
/// of a hundred positions, whatever the seed. At the real size it is more: see docs/numerics.md.
#[test]
fn bf16_chooses_the_same_token_nearly_everywhere() {
    let want = top_1(DType::F32, Isa::Scalar);
    for isa in Isa::available() {
        let got = top_1(DType::Bf16, isa);
        assert_eq!(got.len(), want.len());
        let same = got.iter().zip(&want).filter(|(g, w)| g == w).count();
        assert!(same * 100 >= want.len() * 93, "{isa}: {same} of {}", want.len());
    }
}

#[test]
fn projected_features_of_every_picture() {
    let model = load("fastvlm-native", DType::F32, 2);
    let want = Tensors::open("fastvlm-expected.safetensors");
    let options = ImageOptions { orientation: Orientation::Ignore, ..ImageOptions::default() };
    for name in want.names().iter().filter_map(|n| n.strip_prefix("projected/").map(str::to_owned)) {
        if name.starts_with("gray16") {
            continue; // The fixture has Pillow's clipped white picture; we take the high byte.
        }
        let image = model.open_image_with(&fixture("images").join(&name), &options).expect(&name);
        let stages = model.trace(&Request::ask("x", vec![image])).expect(&name);
        let got = &stages.iter().find(|s| s.name == "projected").expect("stage").values;
        let error = relative_error(got, &want.values(&format!("projected/{name}")));
        assert!(error <= 2e-5, "{name}: {error:.1e}");
    }
}

#[test]
fn one_thread_equals_two_and_a_cached_answer_equals_a_fresh_one() {
    for dtype in [DType::F32, DType::Bf16] {
        let (one, two) = (load("fastvlm-apple", dtype, 1), load("fastvlm-apple", dtype, 2));
        let case = case("apple/two_images");
        let fresh = two.generate(&request(&two, &case), &mut |_| ()).expect("answer");
        assert_eq!(fresh.usage.cached_tokens, 0);
        let single = one.generate(&request(&one, &case), &mut |_| ()).expect("answer");
        assert_eq!(single.token_ids, fresh.token_ids);
        let cached = two.generate(&request(&two, &case), &mut |_| ()).expect("answer");
        assert_eq!(cached.token_ids, fresh.token_ids);
        assert_eq!(cached.usage.cached_tokens, cached.usage.prompt_tokens - 1);
        assert_eq!(cached.timings.encode_ms, 0.0);
    }
}

#[test]
fn a_long_prompt_gives_the_same_answer_however_it_is_cut() {
    let text = |words: usize| (0..words).map(|i| format!("{} ", i * 7919 % 1000)).collect::<String>();
    let ask = |words| Request { max_tokens: 8, ..Request::ask(&text(words), vec![]) };
    for dtype in [DType::F32, DType::Bf16] {
        let (one, two) = (load("fastvlm-apple", dtype, 2), load("fastvlm-apple", dtype, 2));
        let fresh = one.generate(&ask(600), &mut |_| ()).expect("answer");
        assert!(fresh.usage.prompt_tokens > 1024, "{} tokens are no three chunks", fresh.usage.prompt_tokens);
        two.generate(&ask(100), &mut |_| ()).expect("answer");
        let rest = two.generate(&ask(600), &mut |_| ()).expect("answer");
        assert!(rest.usage.cached_tokens > 100, "{} tokens were kept", rest.usage.cached_tokens);
        assert_eq!(rest.token_ids, fresh.token_ids, "{dtype:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_text_whatever_the_threads() {
    let case = case("apple/one_image");
    let text = |threads: usize, seed: u64| {
        let model = load("fastvlm-apple", DType::F32, threads);
        let mut request = request(&model, &case);
        (request.sampling.temperature, request.sampling.seed) = (1.0, seed);
        model.generate(&request, &mut |_| ()).expect("answer").token_ids
    };
    assert_eq!(text(1, 7), text(3, 7));
    assert_ne!(text(1, 7), text(1, 8));
}

#[test]
fn pieces_make_the_text_and_a_cancelled_answer_says_so() {
    let model = load("fastvlm-apple", DType::F32, 2);
    let case = case("apple/one_image");
    let mut pieces = String::new();
    let answer = model.generate(&request(&model, &case), &mut |p| pieces.push_str(p)).expect("answer");
    assert_eq!(pieces, answer.text);
    let request = request(&model, &case);
    let cancel = request.cancel.clone();
    let answer = model.generate(&request, &mut |_| cancel.cancel()).expect("answer");
    assert_eq!(answer.finish_reason.name(), "cancelled");
    assert!(!answer.token_ids.is_empty() && answer.token_ids.len() < 16);
    request.cancel.reset();
    let again = model.generate(&request, &mut |_| ()).expect("answer");
    assert_eq!(again.token_ids, ids(&case));
}

#[test]
fn resolutions_give_their_visual_tokens() {
    let model = load("fastvlm-apple", DType::F32, 2);
    let tokens = [256, 448, 512, 768, 1024, 1536].map(|r| model.image_tokens(r));
    assert_eq!(tokens, [16, 49, 64, 144, 256, 576]);
    let options = ImageOptions { resolution: Some(448), ..ImageOptions::default() };
    let path = fixture("images").join("rgb_160x120.png");
    let image = model.open_image_with(&path, &options).expect("image");
    let answer = model.generate(&Request::ask("hi", vec![image]), &mut |_| ()).expect("answer");
    assert_eq!(answer.usage.image_tokens, 49);
    let wrong = ImageOptions { resolution: Some(100), ..ImageOptions::default() };
    assert!(model.open_image_with(&path, &wrong).unwrap_err().to_string().contains("multiple of 64"));
}
