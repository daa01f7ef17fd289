//! The recipes that come with Ocelli are ones that the program reads.

use std::path::Path;

use ocelli_train::recipe::{ClipData, ClipRecipe, VlmRecipe};
use ocelli_train::vlm_data::llava::{Corpus, Source};

fn recipes() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes")
}

#[test]
fn all_are_read() {
    let files = std::fs::read_dir(recipes()).expect("recipes").map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    assert!(files.len() >= 14, "{files:?}");
    for file in files.iter().filter(|file| !file.to_string_lossy().contains("clip")) {
        let recipe = VlmRecipe::read(file, &[]).expect("a recipe");
        let (sizes, lora) = (&recipe.train, &recipe.train.lora);
        assert!(sizes.batch * sizes.accumulate > 0 && sizes.save_every > 0);
        lora.as_ref().map_or(Ok(()), |lora| lora.check()).expect("adapters");
    }
}

#[test]
fn that_of_the_small_mobileclip_too() {
    let recipe = ClipRecipe::read(&recipes().join("ocelli-tiny-clip.toml"), &["train.batch=64".to_owned()]);
    let recipe = recipe.expect("a recipe");
    assert!(recipe.new.is_some() && matches!(recipe.data, ClipData::Drawn(_)));
    assert_eq!(recipe.train.batch, 64);
}

#[test]
fn what_no_recipe_says_is_refused() {
    let file = recipes().join("ocelli-tiny.toml");
    let refused = |change: &str| VlmRecipe::read(&file, &[change.to_owned()]).expect_err(change).to_string();
    assert!(refused("train.bach=3").contains("bach"));
    assert!(
        refused("train.batch=\"three\"").contains("batch")
            || refused("train.batch=\"three\"").contains("integer")
    );
    assert!(refused("nonsense").contains("KEY=VALUE"));
    let missing = VlmRecipe::read(Path::new("no-such.toml"), &[]).expect_err("no file").to_string();
    assert!(missing.contains("no-such.toml"));
}

#[test]
fn ten_pictures_are_whole() {
    let dir = recipes().join("ten-pictures");
    let corpus = Corpus::read(&[Source { file: dir.join("train.json"), images: dir }]).expect("a list");
    assert!(corpus.bad.is_empty() && corpus.samples.len() == 10);
    assert!(corpus.samples.iter().all(|sample| sample.images.iter().all(|image| image.is_file())));
}
