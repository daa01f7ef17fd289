//! A new MobileCLIP is a checkpoint that the engine loads with its own tokenizer, and that training begins from.

use burn::tensor::Device;
use ocelli::{ClipOptions, DType, Rgb8};
use ocelli_train::fresh_clip::FreshClip;
use ocelli_train::nets::{ClipTextConfig, FastVitConfig, ImageTower, MobileClip};
use ocelli_train::{burn, checkpoint};
use ocelli_weights::RawCheckpoint;

const TEXTS: [&str; 2] = ["a red circle", "a blue square and a red circle"];

fn small() -> FreshClip {
    let sizes = r#"{"widths": [8, 16, 32, 64], "blocks": [1, 1, 1, 1], "resolution": 64, "embed_dim": 24,
        "text_width": 32, "text_layers": 2, "text_heads": 2, "context_length": 16, "vocabulary": 530}"#;
    serde_json::from_str(sizes).expect("sizes")
}

#[test]
fn the_engine_loads_it_and_training_begins_from_it() {
    let dir = tempfile::tempdir().expect("a folder");
    small().write(dir.path(), TEXTS).expect("written");
    let options = ClipOptions { dtype: DType::F32, threads: 1, ..ClipOptions::default() };
    let engine = ocelli::MobileClip::load(dir.path(), &options).expect("loads");
    let text = engine.embed_texts(&["a red circle"]).expect("embeds");
    assert_eq!(text[0].len(), 24);
    // Its own tokenizer: "red" and "circle" are one token each.
    assert_eq!(engine.tokens("a red circle").expect("a tokenizer").end, 4);
    let picture = Rgb8 { height: 70, width: 64, pixels: vec![90; 70 * 64 * 3] };
    assert_eq!(engine.embed_images(&[engine.prepare_image(&picture)]).expect("embeds")[0].len(), 24);

    let raw = RawCheckpoint::open_clip(dir.path()).expect("opens");
    let image = ImageTower::FastVit(FastVitConfig::of(&raw).expect("a tower"));
    let text = ClipTextConfig::of(&raw, Some(2), false).expect("a text tower");
    let mut network = MobileClip::new(&image, &text, 24, true, &Device::flex());
    assert_eq!(checkpoint::load(&mut network, &raw).expect("loads"), Vec::<String>::new());
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let reason = |fresh: FreshClip| fresh.write(dir.path(), TEXTS).expect_err("refused").to_string();
    assert!(reason(FreshClip { widths: vec![8, 16, 32], ..small() }).contains("4 stages"));
    assert!(
        reason(FreshClip { widths: vec![8, 16, 24, 64], ..small() }).contains("multiple of the channels")
    );
    assert!(reason(FreshClip { widths: vec![8, 16, 32, 32 + 16], ..small() }).contains("48 after 32"));
    assert!(reason(FreshClip { resolution: 100, ..small() }).contains("multiple of 32"));
    assert!(reason(FreshClip { text_heads: 5, ..small() }).contains("5 heads"));
    assert!(reason(FreshClip { vocabulary: 100, ..small() }).contains("514"));
}
