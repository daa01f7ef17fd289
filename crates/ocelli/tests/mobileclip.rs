//! Tiny MobileCLIP checkpoints of every variant against the answers of open_clip and timm.

use ocelli::{ClipOptions, DType, DecodeOptions, Isa, MobileClip, Orientation, SynthArch};
use ocelli_testing::{Tensors, fixture, relative_error};
use serde_json::Value;

const EXPECTED: &str = "mobileclip-expected.safetensors";
/// Similarities are multiplied with about 37 here.
const LOGIT_LIMIT: f32 = 2e-3;

fn expected() -> Value {
    let text = std::fs::read_to_string(fixture("mobileclip-expected.json")).expect("fixture");
    serde_json::from_str(&text).expect("fixture")
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().expect("list").iter().map(|v| v.as_str().expect("string").to_owned()).collect()
}

fn load(path: &str, dtype: DType, isa: Isa) -> MobileClip {
    let tokenizer = Some(fixture("clip-tokenizer"));
    let options = ClipOptions { dtype, isa: Some(isa), threads: 2, tokenizer, ..ClipOptions::default() };
    MobileClip::load(&fixture(path), &options).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn best() -> Isa {
    *Isa::available().last().expect("scalar at least")
}

fn decode() -> DecodeOptions {
    DecodeOptions { orientation: Orientation::Ignore, ..DecodeOptions::default() }
}

/// Row `i` of a stored matrix.
fn row(name: &str, i: usize) -> Vec<f32> {
    let (shape, values) = Tensors::open(EXPECTED).get(name);
    values[i * shape[1]..][..shape[1]].to_vec()
}

/// Features before they are normalised, of every picture, against `NAME/image_features`.
fn compare_images(path: &str, want: &str, dtype: DType, isa: Isa, limit: f64) {
    let model = load(path, dtype, isa);
    for (i, name) in strings(&expected()["images"]).iter().enumerate() {
        if name.starts_with("gray16") {
            continue; // The fixture has Pillow's clipped white picture; we take the high byte.
        }
        let image = model.open_image(&fixture("images").join(name), &decode()).expect(name);
        let stages = model.trace_image(&image).expect(name);
        let got = &stages.last().expect("features").values;
        let error = relative_error(got, &row(want, i));
        assert!(error <= limit, "{path} {isa} {}: {name} differs by {error:.1e}", dtype.name());
    }
}

fn compare_texts(path: &str, want: &str, dtype: DType, isa: Isa, limit: f64) {
    let model = load(path, dtype, isa);
    for (i, caption) in strings(&expected()["captions"]).iter().enumerate() {
        let stages = model.trace_text(caption).expect(caption);
        let got = &stages.last().expect("features").values;
        let error = relative_error(got, &row(want, i));
        assert!(error <= limit, "{path} {isa} {}: {caption:?} differs by {error:.1e}", dtype.name());
    }
}

const OPEN_CLIP: [&str; 5] = ["s0", "s2", "s3", "b", "l14"];

#[test]
fn features_of_every_variant_in_f32() {
    for name in OPEN_CLIP {
        let path = format!("mobileclip-{name}");
        compare_images(&path, &format!("{name}/image_features"), DType::F32, best(), 5e-5);
        compare_texts(&path, &format!("{name}/text_features"), DType::F32, best(), 5e-5);
    }
}

#[test]
fn folded_and_timm_files_of_s0() {
    let folded = "mobileclip-s0/open_clip_model_reparam.safetensors";
    compare_images(folded, "s0/image_features_reparam", DType::F32, best(), 5e-5);
    compare_images(folded, "s0/image_features", DType::F32, best(), 5e-5);
    let timm = "mobileclip-s0/model.safetensors";
    compare_images(timm, "s0/image_features", DType::F32, best(), 5e-5);
    let model = load(timm, DType::F32, best());
    assert!(model.embed_texts(&["x"]).unwrap_err().to_string().contains("both towers"));
}

/// MobileCLIP2-S4 as Apple publishes it, in f16; the first B; the first S0, whose text tower has convolutions.
#[test]
fn apples_pt_files() {
    compare_images("mobileclip-s4", "s4/image_features", DType::F32, best(), 5e-5);
    compare_texts("mobileclip-s4", "s4/text_features", DType::F32, best(), 5e-5);
    let b = "mobileclip-b/mobileclip_b.pt";
    compare_images(b, "b/image_features", DType::F32, best(), 5e-5);
    compare_texts(b, "b/text_features", DType::F32, best(), 5e-5);
    let s0 = "mobileclip-s0/mobileclip_s0.pt";
    compare_images(s0, "s0/image_features", DType::F32, best(), 5e-5);
    compare_texts(s0, "s0/text_features_mct_v1", DType::F32, best(), 5e-5);
}

#[test]
fn features_on_every_instruction_set() {
    for isa in Isa::available() {
        for (dtype, limit) in [(DType::F32, 5e-5), (DType::Bf16, 5e-2)] {
            compare_images("mobileclip-s0", "s0/image_features", dtype, isa, limit);
            compare_images("mobileclip-b", "b/image_features", dtype, isa, limit);
            compare_texts("mobileclip-b", "b/text_features", dtype, isa, limit);
            compare_texts("mobileclip-s0/mobileclip_s0.pt", "s0/text_features_mct_v1", dtype, isa, limit);
        }
    }
}

/// Each stage against its fixture, so that the first difference is named.
#[test]
fn every_stage_equals_its_fixture() {
    let want = Tensors::open(EXPECTED);
    let names = want.names();
    for (name, least) in [("s0", 10), ("s3", 12), ("b", 5), ("l14", 5)] {
        let model = load(&format!("mobileclip-{name}"), DType::F32, best());
        let picture = fixture("images").join("rgb_160x120.png");
        let image = model.open_image(&picture, &decode()).expect("image");
        let mut stages = model.trace_image(&image).expect("trace");
        let captions = strings(&expected()["captions"]);
        stages.extend(model.trace_text(&captions[0]).expect("trace"));
        let mut compared = 0;
        for stage in stages {
            let key = format!(
                "{name}/{}",
                stage.name.replacen("vision.", "vision/", 1).replacen("text.", "text/", 1)
            );
            if !names.contains(&key) || key.ends_with("_features") {
                continue;
            }
            let (shape, values) = want.get(&key);
            assert_eq!(stage.shape, shape, "{key}");
            let error = relative_error(&stage.values, &values);
            assert!(error <= 2e-5, "{key} differs by {error:.1e}");
            compared += 1;
        }
        assert!(compared >= least, "{name}: only {compared} stages have a fixture");
    }
}

#[test]
fn tokens_similarities_and_probabilities() {
    let (all, want) = (expected(), Tensors::open(EXPECTED));
    let captions = strings(&all["captions"]);
    for name in OPEN_CLIP {
        let model = load(&format!("mobileclip-{name}"), DType::F32, best());
        let ids: Vec<f32> =
            captions.iter().flat_map(|c| model.tokens(c).expect("tokens").ids).map(|id| id as f32).collect();
        let stored =
            all["token_ids"].as_array().expect("ids").iter().flat_map(|row| row.as_array().expect("row"));
        assert_eq!(ids, stored.map(|v| v.as_f64().expect("id") as f32).collect::<Vec<_>>());
        let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
        let labels = model.embed_texts(&captions).expect("texts");
        let (logits, probs) =
            (want.get(&format!("{name}/logits_per_image")), want.get(&format!("{name}/probs")));
        for (i, picture) in strings(&all["images"]).iter().enumerate() {
            if picture.starts_with("gray16") {
                continue;
            }
            let image = model.open_image(&fixture("images").join(picture), &decode()).expect(picture);
            let scores = model.zero_shot(&image, &labels).expect(picture);
            assert!(scores.is_sorted_by(|a, b| a.probability >= b.probability), "{picture}");
            for score in scores {
                let at = i * captions.len() + score.label;
                let logit = score.similarity * model.config().logit_scale;
                assert!((logit - logits.1[at]).abs() <= LOGIT_LIMIT, "{name} {picture}: logit {logit}");
                assert!((score.probability - probs.1[at]).abs() <= 2e-3, "{name} {picture}");
            }
        }
    }
}

#[test]
fn embeddings_have_length_one_and_labels_average_their_templates() {
    let model = load("mobileclip-s0", DType::F32, best());
    let one = model.embed_label("dog", &["a photo of a {}"]).expect("label");
    assert_eq!(one, model.embed_texts(&["a photo of a dog"]).expect("text")[0]);
    let two = model.embed_label("dog", &["a photo of a {}", "{}"]).expect("label");
    for v in [&one, &two] {
        assert!((v.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    assert_ne!(one, two);
}

#[test]
fn a_foreign_vocabulary_is_refused() {
    let model = MobileClip::load(&fixture("mobileclip-s0"), &ClipOptions::default()).expect("model");
    let error = model.embed_texts(&["x"]).unwrap_err().to_string();
    assert!(error.contains("49408") && error.contains("714"), "{error}");
}

/// Every kind of block of `synth`'s tiny model, with the vocabulary that is built in: embeddings have length 1, are
/// those of the scalar kernels, and differ from input to input.
#[test]
fn a_random_model_embeds() {
    let dir = tempfile::tempdir().expect("directory");
    ocelli_weights::synth(SynthArch::MobileClipTiny, dir.path(), 1, false, &mut |_, _| {}).expect("written");
    let embeddings = |isa| {
        let options = ClipOptions { dtype: DType::F32, isa: Some(isa), threads: 2, ..ClipOptions::default() };
        let model = MobileClip::load(dir.path(), &options).expect("a model");
        let pictures = ["images/rgb_160x120.png", "images/tall_75x200.png"];
        let pictures = pictures.map(|name| model.open_image(&fixture(name), &decode()).expect(name));
        let mut all = model.embed_images(&pictures).expect("image embeddings");
        all.extend(model.embed_texts(&["a photo of a dog", "two cats", ""]).expect("text embeddings"));
        all
    };
    let (fast, exact) = (embeddings(best()), embeddings(Isa::Scalar));
    for (i, (fast, exact)) in fast.iter().zip(&exact).enumerate() {
        let length = fast.iter().map(|v| v * v).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-5, "{i}: length {length}");
        assert!(relative_error(fast, exact) < 1e-4, "{i}");
    }
    for (i, a) in fast.iter().enumerate() {
        for (j, b) in fast.iter().enumerate().take(i) {
            let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert!(cosine < 0.9999, "{i} and {j} are alike: {cosine}");
        }
    }
}

/// Most pictures of a batch have a thread of their own, the last ones share both, and none gets other bits for it.
#[test]
fn a_picture_in_a_batch_is_the_picture_alone() {
    for (path, dtype) in [("mobileclip-b", DType::Bf16), ("mobileclip-s0", DType::F32)] {
        let model = load(path, dtype, best());
        let names = ["rgb_160x120.png", "tall_75x200.png"];
        let pictures = names.map(|n| model.open_image(&fixture("images").join(n), &decode()).expect(n));
        let batch: Vec<_> = (0..11).map(|i| pictures[usize::from(i % 3 == 0)].clone()).collect();
        let alone = pictures.map(|picture| model.embed_images(&[picture]).expect("alone").remove(0));
        assert_ne!(alone[0], alone[1]);
        for (i, got) in model.embed_images(&batch).expect("batch").iter().enumerate() {
            assert_eq!(*got, alone[usize::from(i % 3 == 0)], "{path}: picture {i}");
        }
    }
}

/// Change the first value of a tensor of a safetensors file.
fn change(file: &std::path::Path, tensor: &str) {
    let mut bytes = std::fs::read(file).expect("file");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("header");
    let begin = json[tensor]["data_offsets"][0].as_u64().expect(tensor) as usize;
    bytes[8 + header + begin] ^= 1;
    std::fs::write(file, bytes).expect("write");
}

#[test]
fn a_fingerprint_names_the_text_tower() {
    let fingerprint = |path: &std::path::Path, dtype| {
        let tokenizer = Some(fixture("clip-tokenizer"));
        let options = ClipOptions { dtype, tokenizer, ..ClipOptions::default() };
        let model = MobileClip::load(path, &options).expect("model");
        model.text_fingerprint().expect("fingerprint")
    };
    let s0 = fingerprint(&fixture("mobileclip-s0"), DType::F32);
    assert_eq!(s0, fingerprint(&fixture("mobileclip-s0"), DType::Bf16));
    for other in ["mobileclip-s0/mobileclip_s0.pt", "mobileclip-b", "mobileclip-l14"] {
        assert_ne!(s0, fingerprint(&fixture(other), DType::F32), "{other}");
    }
    // The same tower in another file, folded or not, has the same name.
    let reparameterized = "mobileclip-s0/open_clip_model_reparam.safetensors";
    assert_eq!(s0, fingerprint(&fixture(reparameterized), DType::F32));

    let dir = tempfile::tempdir().expect("dir");
    for name in ["open_clip_config.json", "open_clip_model.safetensors"] {
        std::fs::copy(fixture("mobileclip-s0").join(name), dir.path().join(name)).expect("copy");
    }
    assert_eq!(s0, fingerprint(dir.path(), DType::F32));
    let file = dir.path().join("open_clip_model.safetensors");
    change(&file, "visual.trunk.head.fc.weight");
    assert_eq!(s0, fingerprint(dir.path(), DType::F32), "the image tower does not count");
    let mut before = s0;
    for tensor in
        ["text.ln_final.bias", "text.text_projection", "text.transformer.resblocks.1.mlp.c_fc.weight"]
    {
        change(&file, tensor);
        let after = fingerprint(dir.path(), DType::F32);
        assert_ne!(before, after, "{tensor}");
        before = after;
    }
    let image_tower = MobileClip::load(&fixture("mobileclip-s0/model.safetensors"), &ClipOptions::default());
    assert!(image_tower.expect("model").text_fingerprint().is_err());
}
