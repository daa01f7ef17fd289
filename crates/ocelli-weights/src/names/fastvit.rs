//! FastViT with a MobileCLIP trunk: FastViTHD (mci3), mci0 to mci2 and mci4.
//!
//! timm names from `huggingface/pytorch-image-models` `timm/models/fastvit.py`, Apple's from
//! `apple/ml-fastvlm` `llava/model/multimodal_encoder/mobileclip/mci.py` (592b4ad).

use super::{Dim, Form, Name, Row, ScaleBranch, Size, When};

const C: Dim = Dim::S(1, Size::Width);
const C2: Dim = Dim::S(2, Size::Width);
const C3: Dim = Dim::S(3, Size::Width);
const EXPANDED: Dim = Dim::S(1, Size::Expanded);
const SE: Dim = Dim::S(1, Size::DownsampleSe);
const FINAL_SE: Dim = Dim::S(1, Size::FinalSe);
const EMBED: Dim = Dim::S(1, Size::EmbedDim);
const ONE: Dim = Dim::N(1);
const THREE: Dim = Dim::N(3);
const SEVEN: Dim = Dim::N(7);

const STEM_CONV: Form = Form::MobileOne { scale: ScaleBranch::InStem, identity: false };
const POINTWISE: Form = Form::MobileOne { scale: ScaleBranch::Absent, identity: true };
const CONV_FFN: Form = Form::ConvBatchNorm {
    child: Name { timm: "conv", apple: "conv" },
    norm: Name { timm: "bn", apple: "bn" },
};
const REP_MIXER: Form = Form::RepMixer { scale: ScaleBranch::Required };
const FINAL_CONV: Form = Form::MobileOne { scale: ScaleBranch::Required, identity: false };

const fn row(
    ours: &'static str,
    timm: &'static str,
    apple: &'static str,
    form: Form,
    shape: &'static [Dim],
    when: When,
) -> Row {
    Row { ours, timm, apple, form, shape, when }
}

/// The beginning: rows without placeholders, in the scope of stage 0.
#[rustfmt::skip]
pub static STEM: [Row; 3] = [
    row("stem.0", "stem.0", "patch_embed.0", STEM_CONV, &[C, THREE, THREE, THREE], When::Always),
    row("stem.1", "stem.1", "patch_embed.1", STEM_CONV, &[C, ONE, THREE, THREE], When::Always),
    row("stem.2", "stem.2", "patch_embed.2", POINTWISE, &[C, C, ONE, ONE], When::Always),
];

/// Once a stage.
#[rustfmt::skip]
pub static STAGE: [Row; 12] = [
    row("stages.{s}.downsample.dw", "stages.{s}.downsample.proj.0", "network.{down}.proj.0", Form::LargeKernel, &[C, ONE, SEVEN, SEVEN], When::Downsample),
    row("stages.{s}.downsample.se.fc1.weight", "stages.{s}.downsample.proj.0.se.fc1.weight", "network.{down}.proj.0.se.fc1.weight", Form::Tensor, &[SE, C, ONE, ONE], When::DownsampleSe),
    row("stages.{s}.downsample.se.fc1.bias", "stages.{s}.downsample.proj.0.se.fc1.bias", "network.{down}.proj.0.se.fc1.bias", Form::Tensor, &[SE], When::DownsampleSe),
    row("stages.{s}.downsample.se.fc2.weight", "stages.{s}.downsample.proj.0.se.fc2.weight", "network.{down}.proj.0.se.fc2.weight", Form::Tensor, &[C, SE, ONE, ONE], When::DownsampleSe),
    row("stages.{s}.downsample.se.fc2.bias", "stages.{s}.downsample.proj.0.se.fc2.bias", "network.{down}.proj.0.se.fc2.bias", Form::Tensor, &[C], When::DownsampleSe),
    row("stages.{s}.downsample.pw", "stages.{s}.downsample.proj.1", "network.{down}.proj.1", POINTWISE, &[C, C, ONE, ONE], When::Downsample),
    // Stages of attention are the ones with a positional encoding, in every released variant.
    row("stages.{s}.pos_emb", "stages.{s}.pos_emb", "network.{cpe}", Form::RepCpe, &[C, ONE, SEVEN, SEVEN], When::Attention),
    // After the last stage each channel makes two.
    row("final_conv", "final_conv", "conv_exp", FINAL_CONV, &[C2, ONE, THREE, THREE], When::LastStage),
    row("final_conv.se.fc1.weight", "final_conv.se.fc1.weight", "conv_exp.se.reduce.weight", Form::Tensor, &[FINAL_SE, C2, ONE, ONE], When::LastStage),
    row("final_conv.se.fc1.bias", "final_conv.se.fc1.bias", "conv_exp.se.reduce.bias", Form::Tensor, &[FINAL_SE], When::LastStage),
    row("final_conv.se.fc2.weight", "final_conv.se.fc2.weight", "conv_exp.se.expand.weight", Form::Tensor, &[C2, FINAL_SE, ONE, ONE], When::LastStage),
    row("final_conv.se.fc2.bias", "final_conv.se.fc2.bias", "conv_exp.se.expand.bias", Form::Tensor, &[C2], When::LastStage),
];

/// Once a block.
#[rustfmt::skip]
pub static BLOCK: [Row; 15] = [
    row("stages.{s}.blocks.{b}.token_mixer", "stages.{s}.blocks.{b}.token_mixer", "network.{blocks}.{b}.token_mixer", REP_MIXER, &[C, ONE, THREE, THREE], When::RepMixer),
    row("stages.{s}.blocks.{b}.layer_scale", "stages.{s}.blocks.{b}.layer_scale.gamma", "network.{blocks}.{b}.layer_scale", Form::PerChannel, &[C], When::RepMixer),
    row("stages.{s}.blocks.{b}.norm.weight", "stages.{s}.blocks.{b}.norm.weight", "network.{blocks}.{b}.norm.weight", Form::Tensor, &[C], When::LayerNorm),
    row("stages.{s}.blocks.{b}.norm.bias", "stages.{s}.blocks.{b}.norm.bias", "network.{blocks}.{b}.norm.bias", Form::Tensor, &[C], When::LayerNorm),
    row("stages.{s}.blocks.{b}.attn.qkv.weight", "stages.{s}.blocks.{b}.token_mixer.qkv.weight", "network.{blocks}.{b}.token_mixer.qkv.weight", Form::Tensor, &[C3, C], When::LayerNorm),
    row("stages.{s}.blocks.{b}.attn.qkv", "stages.{s}.blocks.{b}", "network.{blocks}.{b}", Form::BatchNormLinear, &[C3, C], When::BatchNorm),
    row("stages.{s}.blocks.{b}.attn.proj.weight", "stages.{s}.blocks.{b}.token_mixer.proj.weight", "network.{blocks}.{b}.token_mixer.proj.weight", Form::Tensor, &[C, C], When::Attention),
    row("stages.{s}.blocks.{b}.attn.proj.bias", "stages.{s}.blocks.{b}.token_mixer.proj.bias", "network.{blocks}.{b}.token_mixer.proj.bias", Form::Tensor, &[C], When::Attention),
    row("stages.{s}.blocks.{b}.layer_scale_1", "stages.{s}.blocks.{b}.layer_scale_1.gamma", "network.{blocks}.{b}.layer_scale_1", Form::PerChannel, &[C], When::Attention),
    row("stages.{s}.blocks.{b}.layer_scale_2", "stages.{s}.blocks.{b}.layer_scale_2.gamma", "network.{blocks}.{b}.layer_scale_2", Form::PerChannel, &[C], When::Attention),
    row("stages.{s}.blocks.{b}.ffn.dw", "stages.{s}.blocks.{b}.mlp", "network.{blocks}.{b}.convffn", CONV_FFN, &[C, ONE, SEVEN, SEVEN], When::Always),
    row("stages.{s}.blocks.{b}.ffn.fc1.weight", "stages.{s}.blocks.{b}.mlp.fc1.weight", "network.{blocks}.{b}.convffn.fc1.weight", Form::Tensor, &[EXPANDED, C, ONE, ONE], When::Always),
    row("stages.{s}.blocks.{b}.ffn.fc1.bias", "stages.{s}.blocks.{b}.mlp.fc1.bias", "network.{blocks}.{b}.convffn.fc1.bias", Form::Tensor, &[EXPANDED], When::Always),
    row("stages.{s}.blocks.{b}.ffn.fc2.weight", "stages.{s}.blocks.{b}.mlp.fc2.weight", "network.{blocks}.{b}.convffn.fc2.weight", Form::Tensor, &[C, EXPANDED, ONE, ONE], When::Always),
    row("stages.{s}.blocks.{b}.ffn.fc2.bias", "stages.{s}.blocks.{b}.mlp.fc2.bias", "network.{blocks}.{b}.convffn.fc2.bias", Form::Tensor, &[C], When::Always),
];

/// The projection to CLIP's space, in timm's style.
pub static HEAD: [Row; 2] = [
    row("head.weight", "head.fc.weight", "head.fc.weight", Form::Tensor, &[EMBED, C2], When::LastStage),
    row("head.bias", "head.fc.bias", "head.fc.bias", Form::Tensor, &[EMBED], When::LastStage),
];

/// The same in Apple's style.
pub static HEAD_APPLE: [Row; 1] =
    [row("head.weight", "head.proj", "head.proj", Form::Transposed, &[EMBED, C2], When::LastStage)];

/// Keys of the tower that FastVLM never uses: the CLIP projection.
pub static UNUSED: [&str; 3] = ["head.proj", "head.fc.weight", "head.fc.bias"];

/// What only an attention block has, in every style. Any one is enough, so that a missing one is missed.
pub static ATTENTION_KEYS: [&str; 5] =
    ["norm.", "token_mixer.qkv.", "token_mixer.proj.", "layer_scale_1", "layer_scale_2"];

/// BatchNorm counters, of no use after training, wherever they are.
pub const COUNTER: &str = "num_batches_tracked";

/// First parts of the names in timm's style, by which a tower is recognised.
pub static TIMM_ROOTS: [&str; 3] = ["stem.", "stages.", "final_conv."];
/// First parts of the names in Apple's style.
pub static APPLE_ROOTS: [&str; 3] = ["patch_embed.", "network.", "conv_exp."];
