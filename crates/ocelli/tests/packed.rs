//! Packed weights that are kept between starts: equal answers, and never those of an older checkpoint.

use std::fs;
use std::path::Path;

use ocelli::{
    BlockFormat, ClipOptions, DType, FastVlm, LoadOptions, MobileClip, QuantPolicy, Request, SynthArch,
};
use ocelli_testing::fixture;

fn clip(model: &Path, packed: Option<&Path>) -> Vec<f32> {
    let options =
        ClipOptions { dtype: DType::F32, packed_dir: packed.map(Path::to_owned), ..ClipOptions::default() };
    let model = MobileClip::load(model, &options).expect("model");
    let image = model.open_image(&fixture("images/rgb_160x120.png"), &Default::default()).expect("image");
    let mut all = model.embed_images(&[image]).expect("image").remove(0);
    all.extend(model.embed_texts(&["a dog"]).expect("text").remove(0));
    all
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).map(|entries| entries.map(|e| e.expect("entry").path()).collect());
    entries.unwrap_or_default()
}

#[test]
fn a_second_start_gives_the_same_embeddings_and_an_edit_is_seen() {
    let dir = tempfile::tempdir().expect("dir");
    let (model, packed) = (dir.path().join("model"), dir.path().join("packed"));
    ocelli_weights::synth(SynthArch::MobileClipTiny, &model, 1, false, &mut |_, _| {}).expect("synth");
    let expected = clip(&model, None);
    assert!(files(&packed).is_empty(), "nothing is written unasked");
    assert_eq!(clip(&model, Some(&packed)), expected);
    let kept = files(&packed);
    assert_eq!(kept.len(), 1, "{kept:?}");
    let whole = fs::read(&kept[0]).expect("file");
    assert_eq!(clip(&model, Some(&packed)), expected);
    assert_eq!(fs::read(&kept[0]).expect("file"), whole, "a second start writes nothing");

    // A damaged file is not used, and replaced.
    for damage in [&whole[..100], &vec![0; whole.len()]] {
        fs::remove_file(&kept[0]).expect("removed");
        fs::write(&kept[0], damage).expect("file");
        assert_eq!(clip(&model, Some(&packed)), expected);
        assert_eq!(fs::read(&kept[0]).expect("file"), whole);
    }

    // Zero the last quarter of the weights, which the fingerprint's first bytes of each tensor hardly see.
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    let from = bytes.len() / 4 * 3;
    bytes[from..].fill(0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&weights, bytes).expect("weights");
    let changed = clip(&model, None);
    assert_ne!(changed, expected);
    assert_eq!(clip(&model, Some(&packed)), changed);
    assert_eq!(clip(&model, Some(&packed)), changed);
}

#[test]
fn a_second_start_gives_the_same_answer() {
    let dir = tempfile::tempdir().expect("dir");
    let answer_of = |packed: Option<&Path>, dtype, quant| {
        let packed_dir = packed.map(Path::to_owned);
        let options = LoadOptions { dtype, quant, packed_dir, ..LoadOptions::default() };
        let model = FastVlm::load(&fixture("fastvlm-apple"), &options).expect("model");
        let image = model.open_image(&fixture("images/rgb_160x120.png")).expect("image");
        let mut request = Request::ask("What is this?", vec![image]);
        request.max_tokens = 12;
        model.generate(&request, &mut |_| ()).expect("answer").token_ids
    };
    let answer = |packed: Option<&Path>, dtype| answer_of(packed, dtype, None);
    for dtype in [DType::F32, DType::Bf16] {
        let expected = answer(None, dtype);
        for _ in 0..2 {
            assert_eq!(answer(Some(dir.path()), dtype), expected);
        }
    }
    assert_eq!(files(dir.path()).len(), 2, "one for each type");
    let policies = [QuantPolicy::VISION, QuantPolicy::of(BlockFormat::Q8).with_vision(true)];
    for quant in policies.map(Some) {
        let expected = answer_of(None, DType::Bf16, quant);
        for _ in 0..2 {
            assert_eq!(answer_of(Some(dir.path()), DType::Bf16, quant), expected);
        }
    }
    assert_eq!(files(dir.path()).len(), 4, "and one for each way to quantize");
    // A directory that cannot be made costs nothing but time.
    let blocked = dir.path().join("file");
    fs::write(&blocked, "no directory").expect("file");
    assert!(!answer(Some(&blocked.join("packed")), DType::F32).is_empty());
}
