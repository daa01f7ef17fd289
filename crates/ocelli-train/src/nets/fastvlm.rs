//! FastVLM: tower, projector, language model, and the splice of visual tokens into a sequence.
//!
//! FastVLM (arXiv 2412.13303); reference: `apple/ml-fastvlm` `llava/model/llava_arch.py`.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ocelli_weights::{Checkpoint, FastVlmConfig, Naming, RawCheckpoint};

use super::{FastVit, FastVitConfig, Projector, Qwen2, Qwen2Config};
use crate::layers::Sight;
use crate::tensors::{Exchange, Named};
use crate::{TrainError, checkpoint};

/// The whole model.
#[derive(Module, Debug)]
pub struct FastVlm {
    /// Pixels to features.
    pub vision: FastVit,
    /// Features to rows of the language model.
    pub projector: Projector,
    /// The language model.
    pub language: Qwen2,
}

/// Where the rows of a picture go in a sequence: those of an element of the batch begin at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visual {
    /// Element of the batch.
    pub element: usize,
    /// First position of the picture's rows.
    pub position: usize,
}

impl FastVlm {
    /// Random weights.
    pub fn new(vision: &FastVitConfig, language: &Qwen2Config, device: &Device) -> Self {
        Self {
            vision: FastVit::new(vision, device),
            projector: Projector::new(vision.features(), language.hidden_size, device),
            language: Qwen2::new(language, device),
        }
    }

    /// The model of a checkpoint directory, with its configuration and its names.
    ///
    /// # Errors
    /// When a file is broken, or a tensor missing, misshapen or of no part of the network.
    pub fn open(dir: &Path, device: &Device) -> Result<(Self, FastVlmConfig, Naming), TrainError> {
        let raw = RawCheckpoint::open_fastvlm(dir)?;
        let config = Checkpoint::open(dir, None)?.config;
        let mut network = Self::new(&FastVitConfig::of(&raw)?, &Qwen2Config::of(&config, &raw)?, device);
        let unused = checkpoint::load(&mut network, &raw)?;
        if let Some(first) = unused.iter().find(|name| !name.ends_with("head.proj")) {
            return Err(TrainError::Structure {
                reason: format!("the checkpoint has a tensor that no network takes: {first}"),
            });
        }
        Ok((network, config, raw.naming))
    }

    /// Normalised pixels `[pictures, height, width, 3]` to visual tokens `[pictures, tokens, hidden_size]`, row by row.
    pub fn image_embeds(&self, pixels: Tensor<4>) -> Tensor<3> {
        self.project(self.vision.forward(pixels))
    }

    /// Features `[pictures, height, width, features]` to visual tokens `[pictures, tokens, hidden_size]`, row by row.
    pub fn project(&self, features: Tensor<4>) -> Tensor<3> {
        let [pictures, height, width, channels] = features.dims();
        self.projector.forward(features.reshape([pictures, height * width, channels]))
    }

    /// Ids `[batch, positions]` and visual tokens `[pictures, tokens, hidden_size]` to embeddings
    /// `[batch, positions, hidden_size]`: picture `i` takes the places of the ids from `places[i]` on, whatever they
    /// are.
    ///
    /// # Panics
    /// If there is not one place a picture, or a picture does not fit its element.
    pub fn splice(&self, ids: Tensor<2, Int>, images: Tensor<3>, places: &[Visual]) -> Tensor<3> {
        let ([batch, positions], [pictures, tokens, hidden_size]) = (ids.dims(), images.dims());
        assert_eq!(pictures, places.len(), "one place a picture");
        // Rows of the texts, then rows of the pictures; every position takes one of them.
        let mut rows: Vec<i32> = (0..(batch * positions) as i32).collect();
        for (picture, place) in places.iter().enumerate() {
            assert!(place.element < batch && place.position + tokens <= positions, "picture {picture} fits");
            for t in 0..tokens {
                rows[place.element * positions + place.position + t] =
                    (batch * positions + picture * tokens + t) as i32;
            }
        }
        let count = rows.len();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &images.device());
        let texts = self.language.embed(ids).reshape([batch * positions, hidden_size]);
        let all = Tensor::cat(vec![texts, images.reshape([pictures * tokens, hidden_size])], 0);
        all.select(0, rows).reshape([batch, positions, hidden_size])
    }

    /// Mean cross entropy of the labels `[batch * positions]`, those of negative value not counting.
    pub fn loss(
        &self,
        pixels: Tensor<4>,
        ids: Tensor<2, Int>,
        places: &[Visual],
        labels: &[i32],
        sight: &Sight,
    ) -> Tensor<1> {
        let embeds = self.splice(ids, self.image_embeds(pixels), places);
        self.language.loss(embeds, labels, sight)
    }
}

impl Named for FastVlm {
    fn exchange(&mut self, _: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        self.vision.exchange("vision", with)?;
        self.projector.exchange("projector", with)?;
        self.language.exchange("language", with)
    }
}
