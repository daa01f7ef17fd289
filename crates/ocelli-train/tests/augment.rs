//! Stored augmentations against torchvision on Pillow's pictures, byte for byte (`tests/fixtures/train/augment.*`, written
//! by `reference/make_augment_fixtures.py`).

use ocelli_image::{DecodeOptions, Orientation};
use ocelli_testing::{Tensors, fixture};
use ocelli_train::clip_data::Augmentation;
use serde_json::Value;

#[test]
fn stored_augmentations_give_the_same_bytes() {
    let cases = std::fs::read_to_string(fixture("train/augment.json")).expect("a fixture");
    let cases: Vec<Value> = serde_json::from_str(&cases).expect("a list");
    let expected = Tensors::open("train/augment.safetensors");
    assert!(cases.len() > 90, "{} cases", cases.len());
    let options = DecodeOptions { orientation: Orientation::Ignore, ..DecodeOptions::default() };
    let mut wrong = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let picture = fixture("images").join(case["picture"].as_str().expect("a name"));
        let picture = ocelli_image::open(&picture, &options).expect("a picture");
        let steps: Augmentation =
            serde_json::from_value(case["settings"].clone()).unwrap_or_else(|e| panic!("{case}: {e}"));
        let found = steps.replay(&picture, &case["stored"]).unwrap_or_else(|e| panic!("{case}: {e}"));
        let (shape, values) = expected.get(&i.to_string());
        assert_eq!([found.height, found.width, 3].to_vec(), shape, "{case}");
        let differ = values.iter().zip(&found.pixels).filter(|(a, b)| **a != f32::from(**b)).count();
        if differ > 0 {
            wrong.push(format!("{differ} of {} bytes of {i}: {case}", values.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_does_not_suit_the_picture_is_told() {
    let picture =
        ocelli_image::open(&fixture("images/six_3x2.png"), &DecodeOptions::default()).expect("a picture");
    let steps = Augmentation::usual(8);
    let reason = |stored: &str| {
        let stored = serde_json::from_str(stored).expect("JSON");
        steps.replay(&picture, &stored).expect_err("refused")
    };
    assert!(reason("{}").contains("no list"));
    assert!(reason("[[0,0,2,3]]").contains("1 stored parameters where the settings take 2"));
    assert!(reason("[[0,0,3,3],null]").contains("another picture"));
    assert!(reason("[[18446744073709551615,0,3,3],null]").contains("another picture"));
    assert!(reason("[[0,0,0,0],null]").contains("another picture"));
    assert!(reason("[[0,0,2],null]").contains("takes 4 numbers"));
    assert!(reason("[[0,-1,2,3],null]").contains("random_resized_crop"));
    assert!(reason("[[0,0,2,3],[[14,0.0]]]").contains("no operation 14"));
    assert!(reason("[[0,0,2,3],[[1,1e300]]]").contains("too far"));
    assert!(reason("[[0,0,2,3],[[10,9.0]]]").contains("9 bits"));
    assert!(reason("[[0,0,2,3],[[1]]]").contains("pairs"));
    let many = format!("[[0,0,2,3],{:?}]", vec![[0, 0]; 100]);
    assert!(reason(&many).contains("100 operations"));
    let refused =
        |settings: &str| serde_json::from_str::<Augmentation>(settings).expect_err("refused").to_string();
    assert!(refused(r#"{"mixup": {"enable": true}}"#).contains("mixup"));
    assert!(refused(r#"{"rotate": {}}"#).contains("unknown field"));
    assert!(refused(r#"{"center_crop": {"size": 1000000}}"#).contains("CenterCrop"));
    assert!(refused(r#"{"resize": {"size": 8, "interpolation": "lanczos"}}"#).contains("lanczos"));
    assert!(refused(r#"{"rand_augment": {"interpolation": "bilinear"}}"#).contains("nearest"));
}

#[test]
fn settings_are_written_as_they_are_read() {
    let steps = Augmentation::usual(224);
    let text = serde_json::to_string(&steps).expect("JSON");
    assert_eq!(serde_json::from_str::<Augmentation>(&text).expect("settings"), steps);
    let published = r#"{"normalize": {"mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711]}, "rand_augment": {"enable": true, "p": 1.0},
        "random_resized_crop": {"interpolation": "bicubic", "size": 224}, "to_rgb": {"enable": true},
        "to_tensor": {"enable": true}}"#;
    assert_eq!(serde_json::from_str::<Augmentation>(published).expect("settings"), steps);
}
