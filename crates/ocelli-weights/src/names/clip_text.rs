//! The text tower of MobileCLIP, named as in open_clip `src/open_clip/transformer.py` and in
//! `apple/ml-mobileclip` `mobileclip/text_encoder.py` (the text tower of the first S0 also in
//! `mobileclip/modules/text/repmixer.py`).

use super::{Dim, Form, Name, Row, ScaleBranch, Size, When};

const W: Dim = Dim::S(1, Size::TextWidth);
const W3: Dim = Dim::S(3, Size::TextWidth);
const HIDDEN: Dim = Dim::S(1, Size::TextHidden);
const VOCAB: Dim = Dim::S(1, Size::TextVocab);
const CONTEXT: Dim = Dim::S(1, Size::ContextLength);
const KERNEL: Dim = Dim::S(1, Size::TextKernel);
const ONE: Dim = Dim::N(1);
const EMBED: Dim = Dim::S(1, Size::EmbedDim);

/// `timm` is open_clip's name.
const fn row(
    ours: &'static str,
    timm: &'static str,
    apple: &'static str,
    form: Form,
    shape: &'static [Dim],
) -> Row {
    Row { ours, timm, apple, form, shape, when: When::Always }
}

/// Once.
#[rustfmt::skip]
pub static MODEL: [Row; 5] = [
    row("token_embedding.weight", "token_embedding.weight", "embedding_layer.weight", Form::Tensor, &[VOCAB, W]),
    row("pos_embed", "positional_embedding", "positional_embedding.pos_embed.pos_embed", Form::Squeezed, &[CONTEXT, W]),
    row("norm.weight", "ln_final.weight", "final_layer_norm.weight", Form::Tensor, &[W]),
    row("norm.bias", "ln_final.bias", "final_layer_norm.bias", Form::Tensor, &[W]),
    row("head.weight", "text_projection", "projection_layer", Form::Transposed, &[EMBED, W]),
];

/// Once a layer.
#[rustfmt::skip]
pub static BLOCK: [Row; 12] = [
    row("blocks.{l}.norm1.weight", "transformer.resblocks.{l}.ln_1.weight", "transformer.{l}.pre_norm_mha.0.weight", Form::Tensor, &[W]),
    row("blocks.{l}.norm1.bias", "transformer.resblocks.{l}.ln_1.bias", "transformer.{l}.pre_norm_mha.0.bias", Form::Tensor, &[W]),
    row("blocks.{l}.attn.qkv.weight", "transformer.resblocks.{l}.attn.in_proj_weight", "transformer.{l}.pre_norm_mha.1.qkv_proj.weight", Form::Tensor, &[W3, W]),
    row("blocks.{l}.attn.qkv.bias", "transformer.resblocks.{l}.attn.in_proj_bias", "transformer.{l}.pre_norm_mha.1.qkv_proj.bias", Form::Tensor, &[W3]),
    row("blocks.{l}.attn.proj.weight", "transformer.resblocks.{l}.attn.out_proj.weight", "transformer.{l}.pre_norm_mha.1.out_proj.weight", Form::Tensor, &[W, W]),
    row("blocks.{l}.attn.proj.bias", "transformer.resblocks.{l}.attn.out_proj.bias", "transformer.{l}.pre_norm_mha.1.out_proj.bias", Form::Tensor, &[W]),
    row("blocks.{l}.norm2.weight", "transformer.resblocks.{l}.ln_2.weight", "transformer.{l}.pre_norm_ffn.0.weight", Form::Tensor, &[W]),
    row("blocks.{l}.norm2.bias", "transformer.resblocks.{l}.ln_2.bias", "transformer.{l}.pre_norm_ffn.0.bias", Form::Tensor, &[W]),
    row("blocks.{l}.mlp.fc1.weight", "transformer.resblocks.{l}.mlp.c_fc.weight", "transformer.{l}.pre_norm_ffn.1.weight", Form::Tensor, &[HIDDEN, W]),
    row("blocks.{l}.mlp.fc1.bias", "transformer.resblocks.{l}.mlp.c_fc.bias", "transformer.{l}.pre_norm_ffn.1.bias", Form::Tensor, &[HIDDEN]),
    row("blocks.{l}.mlp.fc2.weight", "transformer.resblocks.{l}.mlp.c_proj.weight", "transformer.{l}.pre_norm_ffn.4.weight", Form::Tensor, &[W, HIDDEN]),
    row("blocks.{l}.mlp.fc2.bias", "transformer.resblocks.{l}.mlp.c_proj.bias", "transformer.{l}.pre_norm_ffn.4.bias", Form::Tensor, &[W]),
];

/// Mixes positions by a convolution; no 1x1 branch, because the kernel is one row high.
const REP_MIXER: Form = Form::RepMixer { scale: ScaleBranch::Absent };
const CONV_FFN: Form = Form::ConvBatchNorm {
    child: Name { timm: "conv", apple: "conv" },
    norm: Name { timm: "bn", apple: "bn" },
};

/// Once a layer of convolutions, which only the first MobileCLIP-S0 has; open_clip knows no such layer.
#[rustfmt::skip]
pub static REP_MIXER_BLOCK: [Row; 7] = [
    row("blocks.{l}.token_mixer", "transformer.{l}.token_mixer", "transformer.{l}.token_mixer", REP_MIXER, &[W, ONE, ONE, KERNEL]),
    row("blocks.{l}.layer_scale", "transformer.{l}.layer_scale", "transformer.{l}.layer_scale", Form::PerChannel, &[W]),
    row("blocks.{l}.ffn.dw", "transformer.{l}.convffn", "transformer.{l}.convffn", CONV_FFN, &[W, ONE, ONE, KERNEL]),
    row("blocks.{l}.ffn.fc1.weight", "transformer.{l}.convffn.fc1.weight", "transformer.{l}.convffn.fc1.weight", Form::Tensor, &[HIDDEN, W, ONE, ONE]),
    row("blocks.{l}.ffn.fc1.bias", "transformer.{l}.convffn.fc1.bias", "transformer.{l}.convffn.fc1.bias", Form::Tensor, &[HIDDEN]),
    row("blocks.{l}.ffn.fc2.weight", "transformer.{l}.convffn.fc2.weight", "transformer.{l}.convffn.fc2.weight", Form::Tensor, &[W, HIDDEN, ONE, ONE]),
    row("blocks.{l}.ffn.fc2.bias", "transformer.{l}.convffn.fc2.bias", "transformer.{l}.convffn.fc2.bias", Form::Tensor, &[W]),
];
/// What only such a layer has, beside those that both kinds have.
pub static REP_MIXER_KEYS: [&str; 3] = ["token_mixer.", "convffn.", "layer_scale"];

/// The scale of similarities, beside the towers.
pub static LOGIT_SCALE: Row = row("logit_scale", "logit_scale", "logit_scale", Form::Squeezed, &[]);
