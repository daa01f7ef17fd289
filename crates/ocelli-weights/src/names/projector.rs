//! The `mlp2x_gelu` projector, from image features to rows of the language model: two linears with a GELU
//! between (`apple/ml-fastvlm` `llava/model/multimodal_projector/builder.py`).

use super::{Dim, Form, Row, Size, When};

const H: Dim = Dim::S(1, Size::HiddenSize);
/// Channels after the tower's final conv, which doubles those of the last stage.
const FEATURES: Dim = Dim::S(2, Size::Width);

const fn row(ours: &'static str, theirs: &'static str, shape: &'static [Dim]) -> Row {
    Row { ours, timm: theirs, apple: theirs, form: Form::Tensor, shape, when: When::Always }
}

/// Under the prefix of the first linear.
pub static FC1: [Row; 2] = [row("fc1.weight", "weight", &[H, FEATURES]), row("fc1.bias", "bias", &[H])];
/// Under the prefix of the second linear.
pub static FC2: [Row; 2] = [row("fc2.weight", "weight", &[H, H]), row("fc2.bias", "bias", &[H])];
