//! `ocelli-train clip` as a whole, on drawn pairs with a very small new MobileCLIP: it measures itself, goes on bit for bit
//! after a kill, keeps frozen parts, tells its memory, and refuses what cannot be.

mod support;

use ocelli_train::fit::Run;
use safetensors::SafeTensors;
use support::runs::{killed_ends_alike, records, run, said, weights};

const RECIPE: &str = r#"
[new]
widths = [8, 16, 32, 64]
blocks = [1, 1, 1, 1]
resolution = 64
embed_dim = 24
text_width = 32
text_layers = 2
text_heads = 2
context_length = 24
vocabulary = 600
[data.drawn]
scenes = 400
seed = 9
[held_back.drawn]
scenes = 20
seed = 10
held_back = true
[train]
batch = 8
resolution = 64
schedule = { steps = 24 }
evaluate_every = 6
evaluate_samples = 20
save_every = 5
"#;

#[test]
fn a_killed_run_ends_as_one_that_was_not() {
    let whole = killed_ends_alike("clip", RECIPE, 24);
    let records = records(whole.path());
    let measured: Vec<u64> = records
        .iter()
        .filter(|record| record["held_back_loss"].is_f64() && record["held_back_recall"].is_f64())
        .map(|record| record["step"].as_u64().expect("a step"))
        .collect();
    assert_eq!(measured, [6, 12, 18, 24]);
    let page = std::fs::read_to_string(whole.path().join("curves.html")).expect("a page");
    assert!(page.contains("own text is nearest"));
}

#[test]
fn frozen_parts_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    let set = ["--set", "train.learning_rates={ image = 0.0, logit_scale = 0.0 }"];
    let done = run("clip", RECIPE, dir.path(), &[&set[..], &["--set", "train.schedule.steps=3"]].concat());
    assert!(done.status.success(), "{}", said(&done));
    let out = dir.path().join("out");
    let before = std::fs::read(out.join("begin/open_clip_model.safetensors")).expect("weights");
    let after = weights(&out);
    let [before, after] = [&before, &after].map(|bytes| SafeTensors::deserialize(bytes).expect("tensors"));
    assert_eq!(before.len(), after.len());
    for (name, view) in before.iter() {
        let same = view.data() == after.tensor(name).expect("the same names").data();
        assert_eq!(same, !name.starts_with("text."), "{name}");
    }
}

#[test]
fn memory_is_told_and_minded() {
    let dir = tempfile::tempdir().expect("a folder");
    let told = run("clip", RECIPE, dir.path(), &["--estimate", "--json"]);
    assert!(told.status.success() && said(&told).contains("memory: about"), "{}", said(&told));
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert!(told["estimated_bytes"].as_u64().expect("a number") > 1 << 20);
    assert!(Run::last_of(&dir.path().join("out")).is_none());
    // Similarities of a million pairs.
    let large =
        ["--set", "train.batch=1000000", "--set", "data.drawn.scenes=8", "--set", "train.schedule.steps=1"];
    let refused = run("clip", RECIPE, dir.path(), &large);
    assert!(!refused.status.success() && said(&refused).contains("GB are free"), "{}", said(&refused));
    let forced = run("clip", RECIPE, dir.path(), &[&large[..], &["--force"]].concat());
    assert!(forced.status.success(), "{}", said(&forced));
    assert!(Run::last_of(&dir.path().join("out")).is_some());
}

#[test]
fn what_cannot_be_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |recipe: &str, change: &str| {
        let done = run("clip", recipe, dir.path(), &["--set", change]);
        assert!(!done.status.success(), "{change} runs");
        said(&done)
    };
    assert!(refused(RECIPE, "train.learning_rates.text=-1.0").contains("learning rate of -1"));
    assert!(refused(RECIPE, "train.learning_rate=0.0").contains("no part would learn"));
    assert!(refused(RECIPE, "train.learning_rates.projector=1.0").contains("projector"));
    assert!(refused(RECIPE, "held_back.drawn.seeds=1").contains("seeds"));
    assert!(refused(RECIPE, "train.dtype=f16").contains("bf16"));
    assert!(refused(RECIPE, "train.loss.kind=reinforced").contains("teachers"));
    let held_back = RECIPE.find("[held_back").expect("there")..RECIPE.find("[train]").expect("there");
    let without = RECIPE.replace(&RECIPE[held_back], "");
    assert!(refused(&without, "train.batch=4").contains("give [held_back]"));
    assert!(!dir.path().join("out/metrics.jsonl").exists());
}
