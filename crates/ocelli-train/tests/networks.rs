//! Whole tiny networks in training form against PyTorch: output and every gradient in training mode, running statistics
//! after it, and the output in evaluation mode (`tests/fixtures/train/*/`, written by
//! `reference/make_train_fixtures.py` with timm and transformers).

mod support;

use burn::module::Module;
use burn::tensor::{Device, Gradients, Int, Tensor};
use ocelli_testing::{Tensors, fixture};
use ocelli_train::layers::Sight;
use ocelli_train::nets::{
    ClipHead, ClipText, ClipTextConfig, FastVit, FastVitConfig, Qwen2, Qwen2Config, Vit, VitConfig,
};
use ocelli_train::{Exchange, Form, Named, Parameter, TrainError, burn, checkpoint};
use ocelli_weights::{Family, Naming, RawCheckpoint};
use support::{assert_close, input, values};

/// Error allowed beside the size of the values.
const TOLERANCE: f32 = 1e-4;
/// Of gradients, which have gone through some fifty layers in f32, the last BatchNorms over three rows only.
const GRADIENT_TOLERANCE: f32 = 5e-4;

/// Compares the gradient of every tensor, or the tensors themselves, with a file's `grad/…` or `after/…`.
struct Compare<'a> {
    naming: &'a Naming,
    answers: &'a Tensors,
    gradients: Option<&'a Gradients>,
    compared: usize,
}

impl Exchange for Compare<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, name: &str, _: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        let running = name.contains("running_");
        let (key, found) = match self.gradients {
            Some(_) if running => return Ok(()),
            Some(gradients) => {
                let found = parameter.gradient(gradients);
                (format!("grad/{name}"), found.unwrap_or_else(|| panic!("{name} has no gradient")))
            }
            None if running => (format!("after/{name}"), parameter.values()),
            None => return Ok(()),
        };
        assert_close(&key, &found, &self.answers.get(&key).1, GRADIENT_TOLERANCE);
        self.compared += 1;
        Ok(())
    }
}

/// Compare a network's training step. `forward` is called once in training mode and once in evaluation mode.
fn check<N: Named + Module, const D: usize>(
    name: &str,
    network: N,
    naming: &Naming,
    forward: impl Fn(&N, &Device) -> Tensor<D>,
) {
    let answers = Tensors::open(&format!("train/{name}/answers.safetensors"));
    let device = Device::flex();
    let evaluated = forward(&network.valid(), &device);
    assert_close("eval", &values(evaluated), &answers.get("eval").1, TOLERANCE);

    let mut network = network;
    let device = device.autodiff();
    let output = forward(&network, &device);
    assert_close("train", &values(output.clone()), &answers.get("train").1, TOLERANCE);
    let gradients = (output.clone() * input(output.dims(), 0, &device)).sum().backward();
    let mut compare = Compare { naming, answers: &answers, gradients: Some(&gradients), compared: 0 };
    network.exchange("", &mut compare).expect("every tensor has a name");
    assert!(compare.compared > 10, "compared {} gradients", compare.compared);
    compare.gradients = None;
    network.exchange("", &mut compare).expect("every tensor has a name");
}

/// A tower and its head.
#[derive(Module, Debug)]
struct Image {
    fast_vit: Option<FastVit>,
    vit: Option<Vit>,
    head: ClipHead,
}

impl Named for Image {
    fn exchange(&mut self, _: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        if let Some(tower) = &mut self.fast_vit {
            tower.exchange("vision", with)?;
        }
        if let Some(tower) = &mut self.vit {
            tower.exchange("vision", with)?;
        }
        self.head.exchange("vision.head", with)
    }
}

fn check_image(name: &str, shape: [usize; 4]) {
    let checkpoint =
        RawCheckpoint::open_clip(&fixture(&format!("train/{name}/model.safetensors"))).expect("opens");
    let device = Device::flex().autodiff();
    let (fast_vit, vit, features) = if checkpoint.naming.fast_vit().is_some() {
        let config = FastVitConfig::of(&checkpoint).expect("a FastViT");
        (Some(FastVit::new(&config, &device)), None, config.features())
    } else {
        let config = VitConfig::of(&checkpoint).expect("a vision transformer");
        (None, Some(Vit::new(&config, &device)), config.width)
    };
    let mut image = Image { fast_vit, vit, head: ClipHead::new(features, 5, true, &device) };
    assert_eq!(checkpoint::load(&mut image, &checkpoint).expect("loads"), Vec::<String>::new());
    check(name, image, &checkpoint.naming, |image, device| {
        let pixels = input(shape, 7, device);
        let rows = match (&image.fast_vit, &image.vit) {
            (Some(tower), _) => {
                let map = tower.forward(pixels);
                let [n, h, w, c] = map.dims();
                map.reshape([n, h * w, c]).mean_dim(1).reshape([n, c])
            }
            (_, Some(tower)) => tower.forward(pixels),
            _ => unreachable!(),
        };
        image.head.forward(rows)
    });
}

#[test]
fn mci_with_batch_norm_and_squeeze_excite() {
    check_image("mci0", [3, 64, 64, 3]);
}

#[test]
fn fastvithd_of_five_stages() {
    check_image("mci3", [3, 64, 64, 3]);
}

#[test]
fn vision_transformer_with_three_convolutions() {
    check_image("vit_convs", [3, 32, 32, 3]);
}

#[test]
fn vision_transformer_with_patches() {
    check_image("vit_patches", [2, 21, 21, 3]);
}

/// Reads a network alone, which no loader would take for a model.
struct FromFile<'a> {
    naming: &'a Naming,
    file: &'a Tensors,
}

impl Exchange for FromFile<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, name: &str, form: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        let (shape, values) = self.file.get(name);
        assert_eq!(shape, form.stored(&parameter.sizes()), "{name}");
        parameter.set(form.restore(&parameter.sizes(), values));
        Ok(())
    }
}

#[derive(Module, Debug)]
struct Language {
    model: Qwen2,
}

impl Named for Language {
    fn exchange(&mut self, _: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        self.model.exchange("language", with)
    }
}

#[test]
fn qwen2_with_labels() {
    let config = Qwen2Config {
        vocab_rows: 40,
        hidden_size: 24,
        intermediate_size: 32,
        layers: 2,
        heads: 6,
        kv_heads: 2,
        head_dim: 4,
        rope_base: 1e6,
        norm_eps: 1e-6,
        tied: true,
    };
    let naming = Naming::new(Family::AppleLlava, None).expect("a family to train");
    let mut language = Language { model: Qwen2::new(&config, &Device::flex().autodiff()) };
    let file = Tensors::open("train/qwen2/model.safetensors");
    language.exchange("", &mut FromFile { naming: &naming, file: &file }).expect("loads");
    check("qwen2", language, &naming, |language, device| {
        let ids: Vec<i32> = (0..18).map(|i| (i * 7 + 3) % 40).collect();
        let labels: Vec<i32> = (0..18).map(|i| if i % 3 == 0 { -100 } else { ids[i as usize] }).collect();
        let ids = Tensor::<1, Int>::from_data(&ids[..], device).reshape([2, 9]);
        language.model.loss(language.model.embed(ids), &labels, &Sight::causal())
    });
}

#[test]
fn text_tower_with_convolutions() {
    let path = fixture("train/text_v1/model.safetensors");
    let naming = Naming::new(Family::AppleClip, None).expect("a family to train");
    let file = Tensors::read(&path);
    let device = Device::flex();
    let config = ClipTextConfig {
        vocab_size: 30,
        context_length: 20,
        width: 16,
        hidden: 64,
        heads: 2,
        convolutions: vec![Some(11), None, Some(11)],
        causal: false,
        folded: false,
    };
    let mut text = ClipText::new(&config, &device);
    let mut head = ClipHead::new(16, 6, false, &device);
    let mut from = FromFile { naming: &naming, file: &file };
    text.exchange("text", &mut from).expect("loads");
    head.exchange("text.head", &mut from).expect("loads");
    let ids: Vec<i32> = (0..40)
        .map(|i| match i % 20 {
            14 => 29,
            15.. => 0,
            _ => i * 11 % 29,
        })
        .collect();
    let ids = Tensor::<1, Int>::from_data(&ids[..], &device).reshape([2, 20]);
    let found = values(head.forward(text.forward(ids)));
    let expected = Tensors::open("train/text_v1/answers.safetensors").get("eval").1;
    assert_close("text", &found, &expected, TOLERANCE);
}
