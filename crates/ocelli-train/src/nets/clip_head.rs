//! The projection of a CLIP tower into the space of both.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ocelli_weights::names::Form as StoredForm;

use crate::TrainError;
use crate::layers::Linear;
use crate::tensors::{Exchange, Form, Named};

/// A linear, with the bias that timm's image heads have, Apple's and those of texts have not.
#[derive(Module, Debug)]
pub struct ClipHead {
    linear: Linear,
}

impl ClipHead {
    /// Random weights.
    pub fn new(features: usize, embed_dim: usize, bias: bool, device: &Device) -> Self {
        Self { linear: Linear::new(features, embed_dim, bias, device) }
    }

    /// `[batch, features]` to `[batch, embed_dim]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.linear.forward(features)
    }
}

impl Named for ClipHead {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        let (name, row) = with.module(&format!("{ours}.weight"))?;
        let form = if row.form == StoredForm::Transposed { Form::Transposed } else { Form::AsIs };
        with.tensor(&name, form, &mut self.linear.weight)?;
        if let Some(bias) = &mut self.linear.bias {
            let (name, _) = with.module(&format!("{ours}.bias"))?;
            with.tensor(&name, Form::AsIs, bias)?;
        }
        Ok(())
    }
}
