//! Whole runs on drawn scenes with a very small FastVLM: it learns, goes on bit for bit after a kill, keeps frozen parts,
//! and answers in the engine as it was trained.

mod support;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ocelli::{FastVlm as Engine, ImageOptions, LoadOptions, Request, Rgb8};
use ocelli_drawn::{Scene, Split, scene_seed};
use ocelli_text::{Qwen2Tokenizer, Template};
use ocelli_train::burn::tensor::Device;
use ocelli_train::drawn::{DrawnConfig, DrawnScenes, texts};
use ocelli_train::export::export_vlm;
use ocelli_train::fit::vlm::{LearningRates, Sources, VlmConfig, train};
use ocelli_train::fit::{AdamWConfig, Record, Run, Schedule};
use ocelli_train::fresh::FreshVlm;
use ocelli_train::lora::{self, LoraConfig};
use ocelli_train::nets::FastVlm;
use ocelli_train::precision::Precision;
use safetensors::SafeTensors;
use support::runs;

const SIZE: usize = 64;

fn fresh() -> FreshVlm {
    FreshVlm {
        widths: vec![8, 16, 32, 32, 64],
        blocks: vec![1; 5],
        expansion: 2,
        resolution: SIZE,
        hidden_size: 32,
        intermediate_size: 64,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        vocabulary: 400,
        seed: 3,
    }
}

fn new_model(dir: &Path) {
    let texts = texts(1, 200);
    fresh().write(dir, texts.iter().map(String::as_str)).expect("written");
}

fn config(steps: u64) -> VlmConfig {
    VlmConfig {
        batch: 4,
        accumulate: 1,
        resolution: SIZE,
        smaller_first: Vec::new(),
        learning_rates: LearningRates { vision: 3e-3, projector: 3e-3, language: 3e-3 },
        schedule: Schedule { steps, warmup_steps: 2, ..Schedule::default() },
        optimizer: AdamWConfig::default(),
        lora: None,
        checkpoint_activations: false,
        dtype: Precision::F32,
        evaluate_every: 0,
        evaluate_samples: 4,
        seed: 5,
        save_every: 1000,
    }
}

/// Train on so many scenes, stopping after `stop` steps; the losses.
fn run(dir: &Path, model: &Path, config: &VlmConfig, scenes: usize, stop: Option<u64>) -> Vec<Record> {
    let device = Device::flex().autodiff();
    let (network, _, naming) = FastVlm::open(model, &device).expect("opens");
    let tokenizer = Qwen2Tokenizer::from_dir(model).expect("a tokenizer");
    let drawn =
        DrawnConfig { scenes, seed: 9, questions: 2, short: 0, kinds: None, letters: None, held_back: false };
    let examples = DrawnScenes::new(drawn, &tokenizer, Template::Apple, false);
    let held_back =
        DrawnScenes::new(DrawnConfig { held_back: true, ..drawn }, &tokenizer, Template::Apple, false);
    let run = Run::open(dir, model, config).expect("a folder");
    let mut records = Vec::new();
    let mut progress = |record: &Record| {
        records.push(record.clone());
        if Some(record.step) == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let sources = Sources { examples: &examples, held_back: Some(&held_back) };
    let tell = |bad: &str| panic!("a bad scene: {bad}");
    train(network, &device, &naming, &sources, config, &run, &mut progress, &tell).expect("trains");
    records
}

fn weights(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("model.safetensors")).expect("weights")
}

fn last(dir: &Path) -> PathBuf {
    Run::last_of(dir).expect("a checkpoint")
}

fn losses(records: &[Record]) -> Vec<f32> {
    records.iter().map(|record| record.loss).collect()
}

#[test]
fn a_stopped_run_goes_on_bit_for_bit() {
    let dir = tempfile::tempdir().expect("a folder");
    let [model, whole, halves] = ["model", "whole", "halves"].map(|name| dir.path().join(name));
    new_model(&model);
    let config = VlmConfig { accumulate: 2, evaluate_every: 3, ..config(6) };
    let expected = run(&whole, &model, &config, 40, None);
    assert!(expected[2].held_back_loss.is_some() && expected[1].held_back_loss.is_none());
    let mut found = run(&halves, &model, &config, 40, Some(3));
    found.extend(run(&halves, &model, &config, 40, None));
    assert_eq!(losses(&found), losses(&expected));
    assert_eq!(found[5].held_back_loss, expected[5].held_back_loss);
    assert!(weights(&last(&halves)) == weights(&last(&whole)));
    // Another setting is another run.
    let other = VlmConfig { batch: 8, ..config };
    let error = Run::open(&whole, &model, &other).map(|_| ()).expect_err("another run").to_string();
    assert!(error.contains("batch"), "{error}");
}

#[test]
fn frozen_parts_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    let [model, out] = ["model", "out"].map(|name| dir.path().join(name));
    new_model(&model);
    let learning_rates = LearningRates { vision: 0.0, projector: 1e-2, language: 0.0 };
    run(&out, &model, &VlmConfig { learning_rates, ..config(3) }, 12, None);
    let [before, after] = [weights(&model), weights(&last(&out))];
    let [before, after] = [&before, &after].map(|bytes| SafeTensors::deserialize(bytes).expect("tensors"));
    assert_eq!(before.len(), after.len());
    for (name, view) in before.iter() {
        let same = view.data() == after.tensor(name).expect("the same names").data();
        assert_eq!(same, !name.contains("mm_projector"), "{name}");
    }
}

#[test]
fn layers_computed_anew_give_the_same_steps() {
    let dir = tempfile::tempdir().expect("a folder");
    let [model, kept, anew] = ["model", "kept", "anew"].map(|name| dir.path().join(name));
    new_model(&model);
    let expected = losses(&run(&kept, &model, &config(4), 16, None));
    let config = VlmConfig { checkpoint_activations: true, ..config(4) };
    let found = losses(&run(&anew, &model, &config, 16, None));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-4, "{found}, not {expected}");
    }
}

/// The operands of products are rounded, what is learned is not.
#[test]
fn bf16_learns_as_f32_does() {
    let dir = tempfile::tempdir().expect("a folder");
    let [model, exact, whole, halves, little] =
        ["model", "exact", "whole", "halves", "little"].map(|name| dir.path().join(name));
    new_model(&model);
    let expected = losses(&run(&exact, &model, &config(12), 16, None));
    let rounded = VlmConfig { dtype: Precision::Bf16, ..config(12) };
    let found = losses(&run(&whole, &model, &rounded, 16, None));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 0.02 * expected, "{found:?}, not {expected:?}");
    }
    assert!(found != expected && found[11] < 0.9 * found[0], "{found:?}");
    // It goes on bit for bit.
    let mut again = losses(&run(&halves, &model, &rounded, 16, Some(5)));
    again.extend(losses(&run(&halves, &model, &rounded, 16, None)));
    assert_eq!(again, found);
    assert!(weights(&last(&halves)) == weights(&last(&whole)));

    // Weights of about 0.02 are 6e-5 to 1.2e-4 apart in bf16; steps of a hundredth of that count all the same.
    let rates = LearningRates { vision: 1e-6, projector: 1e-6, language: 1e-6 };
    let checkpointed = VlmConfig {
        learning_rates: rates,
        checkpoint_activations: true,
        schedule: Schedule { steps: 3, warmup_steps: 1, ..Schedule::default() },
        ..rounded
    };
    run(&little, &model, &checkpointed, 16, None);
    let [before, after] = [weights(&model), weights(&last(&little))];
    let [before, after] = [&before, &after].map(|bytes| SafeTensors::deserialize(bytes).expect("tensors"));
    let name = "model.layers.1.mlp.down_proj.weight";
    let values = |file: &SafeTensors| -> Vec<f32> {
        let view = file.tensor(name).expect("a matrix");
        assert_eq!(view.dtype(), safetensors::Dtype::F32);
        view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let (before, after) = (values(&before), values(&after));
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert!(moved > before.len() * 9 / 10, "{moved} of {} moved", before.len());
    let farthest = before.iter().zip(&after).map(|(b, a)| (b - a).abs()).fold(0.0, f32::max);
    assert!(farthest < 1e-5, "{farthest}");
}

#[test]
fn adapters_leave_the_model_and_merge_into_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let [model, whole, halves, merged] =
        ["model", "whole", "halves", "merged"].map(|name| dir.path().join(name));
    new_model(&model);
    let lora = LoraConfig { rank: 4, alpha: 8.0, targets: vec!["q_proj".into(), "down_proj".into()] };
    let learning_rates = LearningRates { vision: 0.0, projector: 1e-3, language: 1e-2 };
    let config = VlmConfig { lora: Some(lora.clone()), learning_rates, ..config(6) };
    let expected = run(&whole, &model, &config, 12, None);
    let mut found = run(&halves, &model, &config, 12, Some(2));
    found.extend(run(&halves, &model, &config, 12, None));
    assert_eq!(losses(&found), losses(&expected));
    let adapter = last(&whole);
    let bytes = std::fs::read(adapter.join("adapter_model.safetensors")).expect("adapters");
    assert_eq!(bytes, std::fs::read(last(&halves).join("adapter_model.safetensors")).expect("adapters"));
    let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
    assert_eq!(tensors.tensor(name).expect("PEFT's name").shape(), [4, 32]);
    assert_eq!(tensors.len(), 2 * 2 * 2);
    assert!(!adapter.join("model.safetensors").exists());
    assert_eq!(lora::read_config(&adapter).expect("a config"), lora);

    lora::write_merged(&model, &adapter, &merged).expect("merged");
    let [before, after] = [weights(&model), weights(&merged)];
    let [before, after] = [&before, &after].map(|bytes| SafeTensors::deserialize(bytes).expect("tensors"));
    for (name, view) in before.iter() {
        let same = view.data() == after.tensor(name).expect("the same names").data();
        let changed =
            name.contains("q_proj.weight") || name.contains("down_proj.weight") || name.contains("projector");
        assert_eq!(same, !changed, "{name}");
    }
    // The merged model loses as much as the one with adapters did after its last step.
    let again = VlmConfig {
        lora: None,
        learning_rates: LearningRates { language: 1e-9, ..learning_rates },
        ..config
    };
    let begin = losses(&run(&dir.path().join("again"), &merged, &again, 12, Some(1)))[0];
    assert!(begin < expected[0].loss, "{begin} after training, {} before", expected[0].loss);
}

/// What it has learned by heart it says in the engine, folded and in bf16.
#[test]
fn the_engine_says_what_was_learned() {
    let dir = tempfile::tempdir().expect("a folder");
    let [model, out, shipped] = ["model", "out", "shipped"].map(|name| dir.path().join(name));
    new_model(&model);
    let scenes = 4;
    let records =
        run(&out, &model, &VlmConfig { optimizer: AdamWConfig::default(), ..config(220) }, scenes, None);
    let loss = records.last().expect("steps").loss;
    assert!(loss < 0.1, "a loss of {loss} on {scenes} scenes");
    export_vlm(&last(&out), &shipped).expect("exported");
    assert!(export_vlm(&last(&out), &shipped).is_err(), "nothing is overwritten");
    let config = std::fs::read_to_string(shipped.join("config.json")).expect("a configuration");
    assert!(config.contains("\"torch_dtype\": \"bfloat16\""), "{config}");
    let engine =
        Engine::load(&shipped, &LoadOptions { threads: 1, ..LoadOptions::default() }).expect("loads");
    let tokenizer = Qwen2Tokenizer::from_dir(&model).expect("a tokenizer");
    let drawn =
        DrawnConfig { scenes, seed: 9, questions: 2, short: 0, kinds: None, letters: None, held_back: false };
    let learned = DrawnScenes::new(drawn, &tokenizer, Template::Apple, false);
    let (mut asked, mut right) = (0, 0);
    for index in 0..scenes {
        let scene = Scene::any(Split::Train, scene_seed(9, index));
        let picture = scene.draw(SIZE);
        let rgb = Rgb8 { height: SIZE, width: SIZE, pixels: picture.rgb };
        let image = engine.prepare_rgb(&rgb, &ImageOptions::default()).expect("an image");
        for [question, answer] in learned.questions(index) {
            let request = Request { max_tokens: 40, ..Request::ask(&question, vec![image.clone()]) };
            let said = engine.generate(&request, &mut |_| {}).expect("an answer").text;
            asked += 1;
            right += usize::from(said == answer);
        }
    }
    assert!(asked == 8 && right >= 7, "{right} of {asked} right");
}

const RECIPE: &str = r#"
stage = "2"
[new]
widths = [8, 16, 32, 32, 64]
blocks = [1, 1, 1, 1, 1]
resolution = 64
hidden_size = 32
intermediate_size = 64
layers = 2
heads = 2
kv_heads = 1
vocabulary = 400
[data.drawn]
scenes = 400
seed = 9
questions = 2
[train]
batch = 4
resolution = 64
learning_rates = { vision = 1e-3, projector = 1e-3, language = 1e-3 }
schedule = { steps = 24 }
save_every = 5
"#;

#[test]
fn a_killed_run_ends_as_one_that_was_not() {
    let whole = runs::killed_ends_alike("vlm", RECIPE, 24);
    let page = std::fs::read_to_string(whole.path().join("curves.html")).expect("a page");
    assert!(page.contains("<polyline"));
}
