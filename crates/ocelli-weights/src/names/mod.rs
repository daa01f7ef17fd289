//! Name tables: one row a module, with our name, its name in each style of checkpoint, how its weights are
//! stored, and the shape of the result. Code that reads the rows is generic; a new network is a new table.
//!
//! Placeholders in names: `{s}` stage, `{b}` block, `{l}` layer; and in Apple's names, which number the
//! children of one flat list, `{blocks}`, `{down}` and `{cpe}`: the place of that part of the stage.

pub mod clip_text;
pub mod fastvit;
pub mod projector;
pub mod qwen2;
pub mod vit;

/// Which names a checkpoint uses for the modules of a FastViT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// timm, and so open_clip and transformers.
    Timm,
    /// Apple's own modules (ml-fastvlm, ml-mobileclip).
    Apple,
    /// mlx-vlm: Apple's names, but for the stem.
    Mlx,
}

/// One module.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Our name.
    pub ours: &'static str,
    /// Its name in timm's style.
    pub timm: &'static str,
    /// Its name in Apple's style.
    pub apple: &'static str,
    /// How it is stored.
    pub form: Form,
    /// Shape of the weight that comes out.
    pub shape: &'static [Dim],
    /// When the module is there.
    pub when: When,
}

/// How a module is stored, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One tensor, taken as it is. The row's names are the tensor's.
    Tensor,
    /// One tensor of one value a channel, stored as `[C]`, `[C,1,1]` or `[1,1,C]`.
    PerChannel,
    /// MobileOne block: `sum of BN(conv(x))` with the branches of [`MOBILE_ONE`].
    MobileOne {
        /// Whether there is a 1x1 branch beside a larger kernel.
        scale: ScaleBranch,
        /// Whether there is a branch of BatchNorm alone.
        identity: bool,
    },
    /// Large-kernel conv: `BN(conv 7x7) + BN(conv 3x3)`.
    LargeKernel,
    /// RepMixer: `x + layer_scale * (mixer(x) - norm(x))`.
    RepMixer {
        /// Whether the mixer has a 1x1 branch.
        scale: ScaleBranch,
    },
    /// Conditional positional encoding: `x + conv(x)`.
    RepCpe,
    /// A tensor whose dimensions of length 1 do not count.
    Squeezed,
    /// One matrix, stored `[in, out]`.
    Transposed,
    /// Conv and BatchNorm that no checkpoint folds, in a child, with the name of the BatchNorm in there.
    ConvBatchNorm {
        /// The child.
        child: Name,
        /// Its BatchNorm.
        norm: Name,
    },
    /// `Linear(BN(x))`: only possible with a bias, which the linear has not in the checkpoint.
    BatchNormLinear,
}

/// The 1x1 branch of a MobileOne block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleBranch {
    /// Never there.
    Absent,
    /// Always there.
    Required,
    /// In the whole stem or nowhere in it: mci0 to mci2 have it, mci3 and mci4 have not.
    InStem,
}

/// Condition on the network, found from its keys, under which a row applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Everywhere its placeholders go.
    Always,
    /// In every stage but the first.
    Downsample,
    /// In stages 2 and up, if any downsample has squeeze-excite.
    DownsampleSe,
    /// In stages of RepMixer blocks.
    RepMixer,
    /// In stages of attention blocks.
    Attention,
    /// In stages of attention blocks, if their norm is a layer norm.
    LayerNorm,
    /// In stages of attention blocks, if their norm is a BatchNorm.
    BatchNorm,
    /// In the last stage.
    LastStage,
}

/// One dimension of an expected shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// A number.
    N(usize),
    /// A multiple of a size that the tensors themselves decide.
    S(usize, Size),
}

/// Sizes found from the shapes: the value that most tensors agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Size {
    /// Channels of the stage.
    Width,
    /// Hidden channels of the ConvFFN of the stage.
    Expanded,
    /// Hidden channels of the squeeze-excite in the downsample of the stage.
    DownsampleSe,
    /// Hidden channels of the squeeze-excite of the final conv.
    FinalSe,
    HiddenSize,
    IntermediateSize,
    /// Rows of q_proj: num_heads * head_dim.
    QueryRows,
    /// Rows of k_proj and v_proj: num_kv_heads * head_dim.
    KeyValueRows,
    VocabRows,
    /// Of the blocks of a vision transformer.
    TransformerWidth,
    TransformerHidden,
    StemWidth,
    /// Rows of the position table of a vision transformer.
    ImagePositions,
    PatchSide,
    TextWidth,
    TextHidden,
    /// Positions that a convolution over a text spans.
    TextKernel,
    TextVocab,
    ContextLength,
    EmbedDim,
}

/// A branch in training form: a conv without bias and its BatchNorm, or a BatchNorm alone.
#[derive(Debug, Clone, Copy)]
pub struct BranchRow {
    /// Name in timm's style, under the module.
    pub timm: &'static str,
    /// Name in Apple's style, under the module.
    pub apple: &'static str,
    /// What is before the BatchNorm.
    pub conv: BranchConv,
}

/// What a branch has before its BatchNorm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchConv {
    /// Nothing.
    Identity,
    /// A conv of the module's own kernel size.
    Full,
    /// A conv of this kernel size, to be centred in the module's.
    Kernel(usize),
}

/// Branches of a MobileOne block: full kernel, 1x1, identity.
pub static MOBILE_ONE: [BranchRow; 3] = [
    BranchRow { timm: "conv_kxk.0", apple: "rbr_conv.0", conv: BranchConv::Full },
    BranchRow { timm: "conv_scale", apple: "rbr_scale", conv: BranchConv::Kernel(1) },
    BranchRow { timm: "identity", apple: "rbr_skip", conv: BranchConv::Identity },
];

/// Branches of a large-kernel conv.
pub static LARGE_KERNEL: [BranchRow; 2] = [
    BranchRow { timm: "large_conv", apple: "lkb_origin", conv: BranchConv::Full },
    BranchRow { timm: "small_conv", apple: "small_conv", conv: BranchConv::Kernel(3) },
];

/// A name that differs between the styles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// In timm's style.
    pub timm: &'static str,
    /// In Apple's style.
    pub apple: &'static str,
}

impl Name {
    /// The name in a style.
    pub fn in_style(self, style: Style) -> &'static str {
        match style {
            Style::Timm => self.timm,
            Style::Apple | Style::Mlx => self.apple,
        }
    }
}

/// The folded conv of every module but the large-kernel one.
pub static FOLDED: Name = Name { timm: "reparam_conv", apple: "reparam_conv" };
/// The folded conv of a large-kernel module.
pub static FOLDED_LARGE_KERNEL: Name = Name { timm: "reparam_conv", apple: "lkb_reparam" };
/// The conv of a conditional positional encoding in training form.
pub static CPE_CONV: Name = Name { timm: "pos_enc", apple: "pe" };
/// The BatchNorm that a RepMixer subtracts.
pub static REP_MIXER_NORM: BranchRow =
    BranchRow { timm: "norm.identity", apple: "norm.rbr_skip", conv: BranchConv::Identity };
/// The layer scale of a RepMixer in training form.
pub static REP_MIXER_SCALE: Name = Name { timm: "layer_scale.gamma", apple: "layer_scale" };

impl BranchRow {
    /// Its name under the module in a style.
    pub fn name(&self, style: Style) -> &'static str {
        Name { timm: self.timm, apple: self.apple }.in_style(style)
    }
}

impl Row {
    /// The module's name in a style, placeholders not yet filled in.
    pub fn name(&self, style: Style) -> String {
        match style {
            Style::Timm => self.timm.to_owned(),
            Style::Apple => self.apple.to_owned(),
            // mlx-vlm holds the stem in a module of its own.
            Style::Mlx => self.apple.replacen("patch_embed.", "patch_embed.blocks.", 1),
        }
    }
}
