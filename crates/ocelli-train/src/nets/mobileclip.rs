//! MobileCLIP: an image tower and a text tower with their projections into one space.
//!
//! MobileCLIP (arXiv 2311.17049); reference: open_clip `model.py` (`CustomTextCLIP`) over timm's towers.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use ocelli_weights::{ClipConfig, Family, RawCheckpoint};

use super::{ClipHead, ClipText, ClipTextConfig, FastVit, FastVitConfig, Vit, VitConfig};
use crate::TrainError;
use crate::tensors::{Exchange, Form, Named};

/// open_clip's name of SigLIP's bias; the engine, which compares embeddings only, has none of its own.
const LOGIT_BIAS: &str = "logit_bias";

/// Sizes of an image tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageTower {
    /// MCi.
    FastVit(FastVitConfig),
    /// A vision transformer.
    Vit(VitConfig),
}

/// The whole model.
#[derive(Module, Debug)]
pub struct MobileClip {
    /// Pixels to embeddings.
    pub image: ImageSide,
    /// Ids to embeddings.
    pub text: TextSide,
    /// How alike two embeddings are.
    pub similarity: Similarity,
}

/// An image tower with its projection.
#[derive(Module, Debug)]
pub struct ImageSide {
    fast_vit: Option<FastVit>,
    vit: Option<Vit>,
    head: ClipHead,
}

/// A text tower with its projection.
#[derive(Module, Debug)]
pub struct TextSide {
    tower: ClipText,
    head: ClipHead,
}

/// What the cosine of two embeddings is multiplied with, and what is added then.
#[derive(Module, Debug)]
pub struct Similarity {
    /// Logarithm of the factor, `[1]`.
    pub log_scale: Param<Tensor<1>>,
    /// What is added, `[1]`; only SigLIP has it.
    pub bias: Option<Param<Tensor<1>>>,
}

impl MobileClip {
    /// `ln(1 / 0.07)`, as CLIP begins.
    const LOGIT_SCALE: f32 = 2.659_26;

    /// Random weights. `image_bias` gives the image head the bias that timm's has.
    pub fn new(
        image: &ImageTower,
        text: &ClipTextConfig,
        embed_dim: usize,
        image_bias: bool,
        device: &Device,
    ) -> Self {
        let (fast_vit, vit, features) = match image {
            ImageTower::FastVit(config) => (Some(FastVit::new(config, device)), None, config.features()),
            ImageTower::Vit(config) => (None, Some(Vit::new(config, device)), config.width),
        };
        let head = ClipHead::new(features, embed_dim, image_bias, device);
        let tower = ClipText::new(text, device);
        let text = TextSide { tower, head: ClipHead::new(text.width, embed_dim, false, device) };
        let log_scale = Param::from_tensor(Tensor::full([1], Self::LOGIT_SCALE, device));
        let similarity = Similarity { log_scale, bias: None };
        Self { image: ImageSide { fast_vit, vit, head }, text, similarity }
    }

    /// The sizes of the towers of a checkpoint.
    ///
    /// # Errors
    /// When a tensor that tells one is missing, or there is no text tower.
    pub fn sizes(
        raw: &RawCheckpoint,
        config: &ClipConfig,
    ) -> Result<(ImageTower, ClipTextConfig), TrainError> {
        let image = match raw.naming.fast_vit() {
            Some(_) => ImageTower::FastVit(FastVitConfig::of(raw)?),
            None => ImageTower::Vit(VitConfig::of(raw)?),
        };
        let no_text = || TrainError::Structure { reason: "the checkpoint has no text tower".into() };
        let text = config.text.as_ref().ok_or_else(no_text)?;
        Ok((image, ClipTextConfig::of(raw, Some(text.heads), text.causal)?))
    }

    /// A random network of the structure of a checkpoint; with `fold` in folded form, whatever form the checkpoint is
    /// in.
    ///
    /// # Errors
    /// As [`Self::sizes`].
    pub fn like(
        raw: &RawCheckpoint,
        config: &ClipConfig,
        fold: bool,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let (mut image, mut text) = Self::sizes(raw, config)?;
        if let ImageTower::FastVit(config) = &mut image {
            config.folded |= fold;
        }
        text.folded |= fold;
        // timm's towers have a bias in their last linear, Apple's a matrix alone.
        let image_bias = raw.naming.family != Family::AppleClip;
        let mut network = Self::new(&image, &text, config.embed_dim, image_bias, device);
        if raw.shape(LOGIT_BIAS).is_some() {
            network.similarity.add_bias(0.0, device);
        }
        Ok(network)
    }

    /// Normalised pixels `[pictures, height, width, 3]` to embeddings `[pictures, embed_dim]`, not of length 1.
    pub fn embed_images(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.image.forward(pixels)
    }

    /// Ids `[texts, context_length]` to embeddings `[texts, embed_dim]`, not of length 1.
    pub fn embed_texts(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        self.text.head.forward(self.text.tower.forward(ids))
    }
}

impl ImageSide {
    fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        let features = match (&self.fast_vit, &self.vit) {
            (Some(tower), _) => {
                let map = tower.forward(pixels);
                let [pictures, height, width, channels] = map.dims();
                map.reshape([pictures, height * width, channels]).mean_dim(1).reshape([pictures, channels])
            }
            (_, Some(tower)) => tower.forward(pixels),
            _ => unreachable!("one of the two towers"),
        };
        self.head.forward(features)
    }
}

impl Similarity {
    /// Have a bias that begins with this value.
    pub fn add_bias(&mut self, value: f32, device: &Device) {
        self.bias = Some(Param::from_tensor(Tensor::full([1], value, device)));
    }
}

impl Named for MobileClip {
    fn exchange(&mut self, _: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        self.image.exchange("vision", with)?;
        self.text.exchange("text", with)?;
        self.similarity.exchange("logit_scale", with)
    }
}

impl Named for ImageSide {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        if let Some(tower) = &mut self.fast_vit {
            tower.exchange(ours, with)?;
        }
        if let Some(tower) = &mut self.vit {
            tower.exchange(ours, with)?;
        }
        self.head.exchange(&format!("{ours}.head"), with)
    }
}

impl Named for TextSide {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        self.tower.exchange(ours, with)?;
        self.head.exchange(&format!("{ours}.head"), with)
    }
}

impl Named for Similarity {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        let (name, _) = with.module(ours)?;
        with.tensor(&name, Form::Scalar, &mut self.log_scale)?;
        match &mut self.bias {
            Some(bias) => with.tensor(LOGIT_BIAS, Form::Scalar, bias),
            None => Ok(()),
        }
    }
}
