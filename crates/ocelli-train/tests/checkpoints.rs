//! Networks through checkpoints: those that other programs wrote give their answers in training form, and what is saved
//! in training form is folded by the ordinary loader and answers the same.

mod support;

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ocelli::{ClipOptions, DType, DecodeOptions, LoadOptions, Orientation, Request, Stage};
use ocelli_testing::{Tensors, fixture};
use ocelli_train::layers::Sight;
use ocelli_train::nets::{
    ClipTextConfig, FastVitConfig, FastVlm, ImageTower, MobileClip, Qwen2Config, VitConfig,
};
use ocelli_train::{Exchange, Form, Named, Parameter, TrainError, burn, checkpoint};

use ocelli_weights::{Checkpoint, ClipCheckpoint, Family, FastVitForm, Naming, RawCheckpoint};
use support::{assert_close, made, values};

const TOLERANCE: f32 = 1e-4;
/// A picture, and a text.
const PICTURE: &str = "images/alpha_64x100.png";
const CAPTION: &str = "two people walking across the street";

fn stage<'a>(stages: &'a [Stage], name: &str) -> &'a Stage {
    stages.iter().find(|stage| stage.name == name).unwrap_or_else(|| {
        panic!("no stage {name} in {:?}", stages.iter().map(|stage| &stage.name).collect::<Vec<_>>())
    })
}

/// A map `[channels, height, width]` as a batch of one `[1, height, width, channels]`.
fn batch_of_map(stage: &Stage, device: &Device) -> Tensor<4> {
    let [channels, height, width] = stage.shape[..] else { panic!("{} is no map", stage.name) };
    let data = TensorData::new(stage.values.clone(), [1, channels, height, width]);
    Tensor::from_data(data, device).permute([0, 2, 3, 1])
}

/// Compare a network with the stages of the engine on a picture and a question.
fn compare_fastvlm(network: &FastVlm, dir: &Path) {
    let device = Device::flex();
    let options = LoadOptions { dtype: DType::F32, threads: 2, ..LoadOptions::default() };
    let engine = ocelli::FastVlm::load(dir, &options).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let image = engine.open_image(&fixture(PICTURE)).expect("a picture");
    let stages = engine.trace(&Request::ask("What is this?", vec![image])).expect("traces");

    let pixels = batch_of_map(stage(&stages, "pixel_values"), &device);
    let features = network.vision.forward(pixels.clone()).permute([0, 3, 1, 2]);
    assert_close("features", &values(features), &stage(&stages, "vision.final_conv").values, TOLERANCE);
    let projected = values(network.image_embeds(pixels));
    assert_close("projected", &projected, &stage(&stages, "projected").values, TOLERANCE);
    let embeds = stage(&stages, "inputs_embeds");
    let data = TensorData::new(embeds.values.clone(), [1, embeds.shape[0], embeds.shape[1]]);
    let rows = network.language.forward(Tensor::from_data(data, &device), &Sight::causal());
    let logits = values(network.language.logits(rows));
    assert_close("logits", &logits, &stage(&stages, "logits").values, TOLERANCE);
}

fn fastvlm_configs(dir: &Path) -> (RawCheckpoint, FastVitConfig, Qwen2Config) {
    let raw = RawCheckpoint::open_fastvlm(dir).expect("opens");
    let config = Checkpoint::open(dir, None).expect("opens").config;
    let vision = FastVitConfig::of(&raw).expect("a tower");
    let language = Qwen2Config::of(&config, &raw).expect("a language model");
    (raw, vision, language)
}

#[test]
fn folded_fastvlms_answer_like_the_engine() {
    for name in ["fastvlm-apple", "fastvlm-native"] {
        let dir = fixture(name);
        let (raw, vision, language) = fastvlm_configs(&dir);
        assert!(vision.folded, "{name}");
        let mut network = FastVlm::new(&vision, &language, &Device::flex());
        let unused = checkpoint::load(&mut network, &raw).expect(name);
        assert!(unused.iter().all(|name| name.contains(".head.")), "{name}: {unused:?}");
        compare_fastvlm(&network, &dir);
    }
}

/// Sets every tensor to random values of ordinary size; statistics of BatchNorms are not trivial.
struct Randomize<'a> {
    naming: &'a Naming,
    salt: usize,
}

impl Exchange for Randomize<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, name: &str, _: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        self.salt += 1;
        let sizes = parameter.sizes();
        let fan_in = sizes.iter().skip(1).product::<usize>().max(1) as f32;
        let change = |value: f32| match sizes.len() {
            1 if name.ends_with("bias") || name.ends_with("running_mean") => 0.2 * value,
            // Scales, variances and layer scales.
            1 => 1.0 + 0.5 * value,
            // Of standard deviation 1 where it is summed: `value` has 0.58.
            _ => value * 1.7 / fan_in.sqrt(),
        };
        parameter.set(made(sizes.iter().product(), self.salt).into_iter().map(change).collect());
        Ok(())
    }
}

/// All files of a fixture but its weights.
fn copy_configs(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a fixture") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_file() && !name.contains("safetensors") && !name.ends_with(".pt") {
            std::fs::copy(&path, to.join(name)).expect("copies");
        }
    }
}

#[test]
fn saved_fastvlms_fold_to_the_same_answers() {
    for name in ["fastvlm-apple", "fastvlm-native"] {
        let (raw, vision, language) = fastvlm_configs(&fixture(name));
        let vision = FastVitConfig { folded: false, ..vision };
        let mut network = FastVlm::new(&vision, &language, &Device::flex());
        network
            .exchange("", &mut Randomize { naming: &raw.naming, salt: 0 })
            .expect("every tensor has a name");

        let dir = tempfile::tempdir().expect("a directory");
        copy_configs(&fixture(name), dir.path());
        checkpoint::save(&mut network, &raw.naming, &dir.path().join("model.safetensors")).expect("saves");
        compare_fastvlm(&network, dir.path());

        let (raw, again, language) = fastvlm_configs(dir.path());
        assert_eq!(again, vision);
        let mut network = FastVlm::new(&again, &language, &Device::flex());
        assert_eq!(checkpoint::load(&mut network, &raw).expect("loads"), Vec::<String>::new());
        compare_fastvlm(&network, dir.path());
    }
}

/// The network of a MobileCLIP checkpoint, random.
fn mobileclip(path: &Path, folded: bool) -> (RawCheckpoint, MobileClip) {
    let raw = RawCheckpoint::open_clip(path).expect("opens");
    let config = ClipCheckpoint::open(path).expect("opens").config;
    let image = match raw.naming.fast_vit() {
        Some(_) => {
            let config = FastVitConfig::of(&raw).expect("a tower");
            assert_eq!(config.folded, folded, "{}", path.display());
            ImageTower::FastVit(config)
        }
        None => ImageTower::Vit(VitConfig::of(&raw).expect("a tower")),
    };
    let text = config.text.expect("a text tower");
    let text = ClipTextConfig::of(&raw, Some(text.heads), text.causal).expect("a text tower");
    let bias = raw.naming.family != Family::AppleClip;
    let network = MobileClip::new(&image, &text, config.embed_dim, bias, &Device::flex());
    (raw, network)
}

fn load_engine(path: &Path) -> ocelli::MobileClip {
    let tokenizer = Some(fixture("clip-tokenizer"));
    let options = ClipOptions { dtype: DType::F32, threads: 2, tokenizer, ..ClipOptions::default() };
    ocelli::MobileClip::load(path, &options).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Image and text features of a network, where the engine's preprocessing gives its pixels and ids.
fn clip_features(
    network: &MobileClip,
    engine: &ocelli::MobileClip,
    picture: &Path,
    text: &str,
) -> [Vec<f32>; 2] {
    let device = Device::flex();
    let decode = DecodeOptions { orientation: Orientation::Ignore, ..DecodeOptions::default() };
    let image = engine.open_image(picture, &decode).expect("a picture");
    let stages = engine.trace_image(&image).expect("traces");
    let image = network.embed_images(batch_of_map(stage(&stages, "pixel_values"), &device));
    let ids: Vec<i32> = engine.tokens(text).expect("a tokenizer").ids.iter().map(|&id| id as i32).collect();
    let count = ids.len();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, count]), &device);
    [values(image), values(network.embed_texts(ids))]
}

#[test]
fn published_mobileclips_give_the_stored_answers() {
    let expected = Tensors::open("mobileclip-expected.safetensors");
    let json = std::fs::read_to_string(fixture("mobileclip-expected.json")).expect("a fixture");
    let json: serde_json::Value = serde_json::from_str(&json).expect("a fixture");
    let row = |name: &str, list: &str, value: &str| {
        let all = json[list].as_array().expect("a list");
        let at = all.iter().position(|v| v == value).unwrap_or_else(|| panic!("{value} in {list}"));
        let (shape, values) = expected.get(name);
        values[at * shape[1]..][..shape[1]].to_vec()
    };
    let (picture, caption) = ("alpha_64x100.png", json["captions"][0].as_str().expect("a caption"));
    for (path, name, text, folded) in [
        ("mobileclip-s0", "s0", "s0/text_features", false),
        ("mobileclip-s0/open_clip_model_reparam.safetensors", "s0", "s0/text_features", true),
        ("mobileclip-s0/mobileclip_s0.pt", "s0", "s0/text_features_mct_v1", false),
        ("mobileclip-s2", "s2", "s2/text_features", false),
        ("mobileclip-s3", "s3", "s3/text_features", false),
        ("mobileclip-b", "b", "b/text_features", false),
        ("mobileclip-b/mobileclip_b.pt", "b", "b/text_features", false),
        ("mobileclip-l14", "l14", "l14/text_features", false),
    ] {
        let path = fixture(path);
        let (raw, mut network) = mobileclip(&path, folded);
        assert_eq!(
            checkpoint::load(&mut network, &raw).expect(name),
            Vec::<String>::new(),
            "{}",
            path.display()
        );
        let [image, caption_row] =
            clip_features(&network, &load_engine(&path), &fixture("images").join(picture), caption);
        assert_close(name, &image, &row(&format!("{name}/image_features"), "images", picture), TOLERANCE);
        assert_close(text, &caption_row, &row(text, "captions", caption), TOLERANCE);
    }
}

#[test]
fn saved_mobileclips_fold_to_the_same_answers() {
    for path in
        ["mobileclip-s0", "mobileclip-s0/mobileclip_s0.pt", "mobileclip-s3", "mobileclip-b", "mobileclip-l14"]
    {
        let path = fixture(path);
        let (raw, mut network) = mobileclip(&path, false);
        network
            .exchange("", &mut Randomize { naming: &raw.naming, salt: 0 })
            .expect("every tensor has a name");
        let dir = tempfile::tempdir().expect("a directory");
        // A file has the configuration beside it: how many heads there are is in no shape.
        copy_configs(if path.is_dir() { &path } else { path.parent().expect("a folder") }, dir.path());
        let file = dir.path().join("saved.safetensors");
        checkpoint::save(&mut network, &raw.naming, &file).expect("saves");
        let engine = load_engine(&file);
        let [image, text] = clip_features(&network, &engine, &fixture(PICTURE), CAPTION);
        let decode = DecodeOptions { orientation: Orientation::Ignore, ..DecodeOptions::default() };
        let stages = engine.trace_image(&engine.open_image(&fixture(PICTURE), &decode).expect("a picture"));
        let last = |stages: Vec<Stage>| stages.into_iter().last().expect("features").values;
        assert_close(&format!("{} image", path.display()), &image, &last(stages.expect("traces")), TOLERANCE);
        assert_close(
            &format!("{} text", path.display()),
            &text,
            &last(engine.trace_text(CAPTION).expect("traces")),
            TOLERANCE,
        );
    }
}

#[test]
fn a_new_network_is_named_as_a_stored_one() {
    let form = FastVitForm {
        blocks: vec![1, 1, 1, 1, 1],
        attention: vec![false, false, false, true, true],
        stem_scale: false,
        downsample_se: false,
        batch_norm: false,
    };
    for name in ["fastvlm-apple", "fastvlm-native"] {
        let (raw, vision, _) = fastvlm_configs(&fixture(name));
        let form = FastVitForm { blocks: vision.form.blocks.clone(), ..form.clone() };
        let naming = Naming::new(raw.naming.family, Some(&form)).expect("a family to train");
        for ours in ["vision.stem.0", "vision.stages.4.pos_emb", "vision.stages.3.blocks.0.layer_scale_1"] {
            assert_eq!(naming.module(ours).expect("a name").0, raw.naming.module(ours).expect("a name").0);
        }
    }
}
