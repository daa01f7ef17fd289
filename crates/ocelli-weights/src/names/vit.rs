//! Vision transformers of MobileCLIP-B (`vit_base_mci_224`) and MobileCLIP2-L-14
//! (`vit_large_patch14_clip_224`), named as in timm
//! `timm/models/vision_transformer.py` and in `apple/ml-mobileclip` `mobileclip/image_encoder.py`.

use super::{Dim, Form, Name, Row, Size, When};

const W: Dim = Dim::S(1, Size::TransformerWidth);
const W3: Dim = Dim::S(3, Size::TransformerWidth);
const HIDDEN: Dim = Dim::S(1, Size::TransformerHidden);
const STEM: Dim = Dim::S(1, Size::StemWidth);
const POSITIONS: Dim = Dim::S(1, Size::ImagePositions);
const PATCH: Dim = Dim::S(1, Size::PatchSide);
const EMBED: Dim = Dim::S(1, Size::EmbedDim);
const TWO: Dim = Dim::N(2);
const THREE: Dim = Dim::N(3);
const FOUR: Dim = Dim::N(4);

const fn row(
    ours: &'static str,
    timm: &'static str,
    apple: &'static str,
    form: Form,
    shape: &'static [Dim],
) -> Row {
    Row { ours, timm, apple, form, shape, when: When::Always }
}

/// Conv and BatchNorm number `timm` of the stem.
const fn conv_norm(timm: &'static str, apple: &'static str) -> Form {
    Form::ConvBatchNorm { child: Name { timm, apple }, norm: Name { timm: "bn", apple: "norm" } }
}

/// In every one.
#[rustfmt::skip]
pub static COMMON: [Row; 4] = [
    row("cls_token", "cls_token", "cls_token", Form::Squeezed, &[W]),
    row("pos_embed", "pos_embed", "pos_embed.pos_embed.pos_embed", Form::Squeezed, &[POSITIONS, W]),
    row("norm.weight", "norm.weight", "post_transformer_norm.weight", Form::Tensor, &[W]),
    row("norm.bias", "norm.bias", "post_transformer_norm.bias", Form::Tensor, &[W]),
];

/// Patches by three convolutions.
#[rustfmt::skip]
pub static CONV_STEM: [Row; 4] = [
    row("stem.0", "patch_embed.backbone", "patch_emb", conv_norm("0", "0.block"), &[STEM, THREE, FOUR, FOUR]),
    row("stem.1", "patch_embed.backbone", "patch_emb", conv_norm("1", "1.block"), &[STEM, STEM, TWO, TWO]),
    row("stem.2.weight", "patch_embed.backbone.2.conv.weight", "patch_emb.2.block.conv.weight", Form::Tensor, &[W, STEM, TWO, TWO]),
    row("stem.2.bias", "patch_embed.backbone.2.conv.bias", "patch_emb.2.block.conv.bias", Form::Tensor, &[W]),
];

/// Patches by one convolution, then a norm.
#[rustfmt::skip]
pub static PATCH_STEM: [Row; 3] = [
    row("patch_embed.weight", "patch_embed.proj.weight", "patch_embed.proj.weight", Form::Tensor, &[W, THREE, PATCH, PATCH]),
    row("norm_pre.weight", "norm_pre.weight", "norm_pre.weight", Form::Tensor, &[W]),
    row("norm_pre.bias", "norm_pre.bias", "norm_pre.bias", Form::Tensor, &[W]),
];

/// Once a block.
#[rustfmt::skip]
pub static BLOCK: [Row; 12] = [
    row("blocks.{l}.norm1.weight", "blocks.{l}.norm1.weight", "transformer.{l}.pre_norm_mha.0.weight", Form::Tensor, &[W]),
    row("blocks.{l}.norm1.bias", "blocks.{l}.norm1.bias", "transformer.{l}.pre_norm_mha.0.bias", Form::Tensor, &[W]),
    row("blocks.{l}.attn.qkv.weight", "blocks.{l}.attn.qkv.weight", "transformer.{l}.pre_norm_mha.1.qkv_proj.weight", Form::Tensor, &[W3, W]),
    row("blocks.{l}.attn.qkv.bias", "blocks.{l}.attn.qkv.bias", "transformer.{l}.pre_norm_mha.1.qkv_proj.bias", Form::Tensor, &[W3]),
    row("blocks.{l}.attn.proj.weight", "blocks.{l}.attn.proj.weight", "transformer.{l}.pre_norm_mha.1.out_proj.weight", Form::Tensor, &[W, W]),
    row("blocks.{l}.attn.proj.bias", "blocks.{l}.attn.proj.bias", "transformer.{l}.pre_norm_mha.1.out_proj.bias", Form::Tensor, &[W]),
    row("blocks.{l}.norm2.weight", "blocks.{l}.norm2.weight", "transformer.{l}.pre_norm_ffn.0.weight", Form::Tensor, &[W]),
    row("blocks.{l}.norm2.bias", "blocks.{l}.norm2.bias", "transformer.{l}.pre_norm_ffn.0.bias", Form::Tensor, &[W]),
    row("blocks.{l}.mlp.fc1.weight", "blocks.{l}.mlp.fc1.weight", "transformer.{l}.pre_norm_ffn.1.weight", Form::Tensor, &[HIDDEN, W]),
    row("blocks.{l}.mlp.fc1.bias", "blocks.{l}.mlp.fc1.bias", "transformer.{l}.pre_norm_ffn.1.bias", Form::Tensor, &[HIDDEN]),
    row("blocks.{l}.mlp.fc2.weight", "blocks.{l}.mlp.fc2.weight", "transformer.{l}.pre_norm_ffn.4.weight", Form::Tensor, &[W, HIDDEN]),
    row("blocks.{l}.mlp.fc2.bias", "blocks.{l}.mlp.fc2.bias", "transformer.{l}.pre_norm_ffn.4.bias", Form::Tensor, &[W]),
];

/// The projection to CLIP's space, in timm's style.
pub static HEAD: [Row; 2] = [
    row("head.weight", "head.weight", "head.weight", Form::Tensor, &[EMBED, W]),
    row("head.bias", "head.bias", "head.bias", Form::Tensor, &[EMBED]),
];
/// The same in Apple's style.
pub static HEAD_APPLE: [Row; 1] =
    [row("head.weight", "classifier.proj", "classifier.proj", Form::Transposed, &[EMBED, W])];
