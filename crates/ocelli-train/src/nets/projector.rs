//! The `mlp2x_gelu` projector of FastVLM: image features to rows of the language model, two linears with a GELU between
//! (`apple/ml-fastvlm` `llava/model/multimodal_projector/builder.py`).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::layer;
use crate::TrainError;
use crate::layers::Linear;
use crate::ops;
use crate::tensors::{Exchange, Named};

/// The projector.
#[derive(Module, Debug)]
pub struct Projector {
    fc1: Linear,
    fc2: Linear,
}

impl Projector {
    /// Random weights.
    pub fn new(features: usize, hidden_size: usize, device: &Device) -> Self {
        Self {
            fc1: Linear::new(features, hidden_size, true, device),
            fc2: Linear::new(hidden_size, hidden_size, true, device),
        }
    }

    /// `[batch, tokens, features]` to `[batch, tokens, hidden_size]`.
    pub fn forward(&self, features: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(ops::gelu(self.fc1.forward(features)))
    }
}

impl Named for Projector {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        for (linear, child) in [(&mut self.fc1, "fc1"), (&mut self.fc2, "fc2")] {
            let name = layer(with, &format!("{ours}.{child}"))?;
            linear.exchange(&name, with)?;
        }
        Ok(())
    }
}
