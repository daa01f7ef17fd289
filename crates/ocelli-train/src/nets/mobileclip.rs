//! MobileCLIP: an image tower and a text tower with their projections into one space.
//!
//! MobileCLIP (arXiv 2311.17049); reference: open_clip `model.py` (`CustomTextCLIP`) over timm's towers.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use ocelli_weights::{ClipConfig, Family, RawCheckpoint};

use super::{ClipHead, ClipText, ClipTextConfig, FastVit, FastVitConfig, Vit, VitConfig};
use crate::TrainError;
use crate::tensors::{Exchange, Form, Named};

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
    fast_vit: Option<FastVit>,
    vit: Option<Vit>,
    image_head: ClipHead,
    text: ClipText,
    text_head: ClipHead,
    /// Logarithm of what similarities are multiplied with, `[1]`.
    pub logit_scale: Param<Tensor<1>>,
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
        Self {
            fast_vit,
            vit,
            image_head: ClipHead::new(features, embed_dim, image_bias, device),
            text: ClipText::new(text, device),
            text_head: ClipHead::new(text.width, embed_dim, false, device),
            logit_scale: Param::from_tensor(Tensor::full([1], Self::LOGIT_SCALE, device)),
        }
    }

    /// A random network of the structure of a checkpoint; with `fold` in folded form, whatever form the checkpoint is
    /// in.
    ///
    /// # Errors
    /// When a tensor that tells a size is missing, or there is no text tower.
    pub fn like(
        raw: &RawCheckpoint,
        config: &ClipConfig,
        fold: bool,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let image = match raw.naming.fast_vit() {
            Some(_) => {
                let config = FastVitConfig::of(raw)?;
                ImageTower::FastVit(FastVitConfig { folded: config.folded || fold, ..config })
            }
            None => ImageTower::Vit(VitConfig::of(raw)?),
        };
        let no_text = || TrainError::Structure { reason: "the checkpoint has no text tower".into() };
        let text = config.text.as_ref().ok_or_else(no_text)?;
        let text = ClipTextConfig::of(raw, Some(text.heads), text.causal)?;
        let text = ClipTextConfig { folded: text.folded || fold, ..text };
        // timm's towers have a bias in their last linear, Apple's a matrix alone.
        let image_bias = raw.naming.family != Family::AppleClip;
        Ok(Self::new(&image, &text, config.embed_dim, image_bias, device))
    }

    /// Normalised pixels `[pictures, height, width, 3]` to embeddings `[pictures, embed_dim]`, not of length 1.
    pub fn embed_images(&self, pixels: Tensor<4>) -> Tensor<2> {
        let features = match (&self.fast_vit, &self.vit) {
            (Some(tower), _) => {
                let map = tower.forward(pixels);
                let [pictures, height, width, channels] = map.dims();
                map.reshape([pictures, height * width, channels]).mean_dim(1).reshape([pictures, channels])
            }
            (_, Some(tower)) => tower.forward(pixels),
            _ => unreachable!("one of the two towers"),
        };
        self.image_head.forward(features)
    }

    /// Ids `[texts, context_length]` to embeddings `[texts, embed_dim]`, not of length 1.
    pub fn embed_texts(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        self.text_head.forward(self.text.forward(ids))
    }
}

impl Named for MobileClip {
    fn exchange(&mut self, _: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        if let Some(tower) = &mut self.fast_vit {
            tower.exchange("vision", with)?;
        }
        if let Some(tower) = &mut self.vit {
            tower.exchange("vision", with)?;
        }
        self.image_head.exchange("vision.head", with)?;
        self.text.exchange("text", with)?;
        self.text_head.exchange("text.head", with)?;
        let (name, _) = with.module("logit_scale")?;
        with.tensor(&name, Form::Scalar, &mut self.logit_scale)
    }
}
