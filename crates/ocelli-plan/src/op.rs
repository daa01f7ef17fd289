//! The closed set of ops. Each is specified by the scalar reference in `ocelli-cpu`.

use crate::plan::{TensorId, WeightId};

/// Function applied to each value after the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// The value itself.
    #[default]
    None,
    /// `x * (1 + erf(x / sqrt 2)) / 2`: the exact form.
    Gelu,
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

/// One step of a plan.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // Each variant is documented at its struct.
pub enum Op {
    Linear(Linear),
    GatedLinear(GatedLinear),
    Mlp(Mlp),
    DepthwiseConv(DepthwiseConv),
    Conv(Conv),
    LayerNorm(LayerNorm),
    RmsNorm(RmsNorm),
    Attention(Attention),
    CachedAttention(CachedAttention),
    Rope(Rope),
    Embed(Embed),
    SqueezeExcite(SqueezeExcite),
    MeanPool(MeanPool),
    Add(Add),
    AddPositions(AddPositions),
    TakeLastRow(TakeLastRow),
}

/// `out = residual + scale * activation(x W^T + bias)`; a 1x1 convolution on feature maps.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[rows, k]`.
    pub x: TensorId,
    /// Matrix `[n, k]`.
    pub weight: WeightId,
    /// `[n]`.
    pub bias: Option<WeightId>,
    /// After the bias.
    pub activation: Activation,
    /// Layer scale `[n]`.
    pub scale: Option<WeightId>,
    /// `[rows, n]`, added last.
    pub residual: Option<TensorId>,
    /// `[rows, n]`.
    pub out: TensorId,
}

/// `out = silu(x G^T) * (x U^T)`: the first half of a SwiGLU feed-forward.
#[derive(Debug, Clone)]
pub struct GatedLinear {
    /// `[rows, k]`.
    pub x: TensorId,
    /// Gate pair `[n, k]` twice.
    pub weight: WeightId,
    /// `[rows, n]`.
    pub out: TensorId,
}

/// `out = residual + scale * (activation(x A^T + a) B^T + b)`, the hidden rows never stored.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// `[rows, k]`.
    pub x: TensorId,
    /// Matrix `[hidden, k]`.
    pub fc1: WeightId,
    /// `[hidden]`.
    pub bias1: WeightId,
    /// Between the two products.
    pub activation: Activation,
    /// Matrix `[n, hidden]`.
    pub fc2: WeightId,
    /// `[n]`.
    pub bias2: WeightId,
    /// Layer scale `[n]`.
    pub scale: Option<WeightId>,
    /// `[rows, n]`, added last.
    pub residual: Option<TensorId>,
    /// `[rows, n]`.
    pub out: TensorId,
}

/// Depthwise convolution with zero padding of half the kernel, rounded down.
/// Output channel `o` reads input channel `o / (channels_out / channels_in)`.
#[derive(Debug, Clone)]
pub struct DepthwiseConv {
    /// `[height * width, channels_in]`.
    pub x: TensorId,
    /// Depthwise kernels, one an output channel.
    pub weight: WeightId,
    /// `[channels_out]`.
    pub bias: Option<WeightId>,
    /// After the bias.
    pub activation: Activation,
    /// Input height.
    pub height: usize,
    /// Input width.
    pub width: usize,
    /// Height and width of the kernel, odd.
    pub kernel: [usize; 2],
    /// Step in both directions.
    pub stride: usize,
    /// `[ceil(height / stride) * ceil(width / stride), channels_out]`.
    pub out: TensorId,
}

/// Dense `kernel x kernel` convolution with zero padding.
#[derive(Debug, Clone)]
pub struct Conv {
    /// `[height * width, channels_in]`.
    pub x: TensorId,
    /// Conv kernel `[channels_out, channels_in, kernel, kernel]`.
    pub weight: WeightId,
    /// `[channels_out]`.
    pub bias: Option<WeightId>,
    /// After the bias.
    pub activation: Activation,
    /// Input height.
    pub height: usize,
    /// Input width.
    pub width: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros around the map.
    pub padding: usize,
    /// `[out_height * out_width, channels_out]`.
    pub out: TensorId,
}

/// `out = (x - mean) / sqrt(variance + eps) * weight + bias` over each row, biased variance.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// `[rows, cols]`.
    pub x: TensorId,
    /// `[cols]`.
    pub weight: WeightId,
    /// `[cols]`.
    pub bias: WeightId,
    /// Added to the variance.
    pub eps: f32,
    /// `[rows, cols]`.
    pub out: TensorId,
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` over each row.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// `[rows, cols]`.
    pub x: TensorId,
    /// `[cols]`.
    pub weight: WeightId,
    /// Added to the mean square.
    pub eps: f32,
    /// `[rows, cols]`.
    pub out: TensorId,
}

/// `softmax(q k^T / sqrt(head_dim)) v` over one block of rows.
#[derive(Debug, Clone)]
pub struct Attention {
    /// `[rows, 3 * heads * head_dim]`: queries, keys, values.
    pub qkv: TensorId,
    /// Number of heads.
    pub heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Each row sees itself and the rows before it only.
    pub causal: bool,
    /// `[rows, heads * head_dim]`.
    pub out: TensorId,
}

/// Append the rows' keys and values to a layer of the cache, then attend each row to every
/// position up to its own. Heads share keys and values in groups of `heads / kv_heads`.
#[derive(Debug, Clone)]
pub struct CachedAttention {
    /// `[rows, (heads + 2 * kv_heads) * head_dim]`: queries, keys, values.
    pub qkv: TensorId,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Which layer of the cache.
    pub layer: usize,
    /// `[rows, heads * head_dim]`.
    pub out: TensorId,
}

/// Rotate the first `heads * head_dim` columns in place by each row's position:
/// halves of a head are paired (`rotate_half`), angles are `position / base^(2 i / head_dim)`.
#[derive(Debug, Clone)]
pub struct Rope {
    /// `[rows, cols]`, rotated in place.
    pub x: TensorId,
    /// Heads to rotate: queries and keys.
    pub heads: usize,
    /// Values a head, even.
    pub head_dim: usize,
    /// Base of the angles.
    pub base: f32,
}

/// `out[r] = table[ids[r]]`.
#[derive(Debug, Clone)]
pub struct Embed {
    /// `[rows, 1]` of token ids.
    pub ids: TensorId,
    /// Table `[vocabulary, cols]`.
    pub table: WeightId,
    /// `[rows, cols]`.
    pub out: TensorId,
}

/// `out = activation(x * sigmoid(relu(mean(x) A^T + a) B^T + b))`, the mean over all rows.
#[derive(Debug, Clone)]
pub struct SqueezeExcite {
    /// `[rows, cols]`.
    pub x: TensorId,
    /// Matrix `[hidden, cols]`.
    pub fc1: WeightId,
    /// `[hidden]`.
    pub bias1: WeightId,
    /// Matrix `[cols, hidden]`.
    pub fc2: WeightId,
    /// `[cols]`.
    pub bias2: WeightId,
    /// Applied to the product.
    pub activation: Activation,
    /// `[rows, cols]`.
    pub out: TensorId,
}

/// `out[0] = mean of the rows of x`.
#[derive(Debug, Clone)]
pub struct MeanPool {
    /// `[rows, cols]`.
    pub x: TensorId,
    /// `[1, cols]`.
    pub out: TensorId,
}

/// `out = a + b`.
#[derive(Debug, Clone)]
pub struct Add {
    /// `[rows, cols]`.
    pub a: TensorId,
    /// `[rows, cols]`.
    pub b: TensorId,
    /// `[rows, cols]`.
    pub out: TensorId,
}

/// `out = concat(first, x) + table`: position embeddings, with a class token in front where there is one.
/// A table with as many rows as `x` gives the class token none.
#[derive(Debug, Clone)]
pub struct AddPositions {
    /// `[rows, cols]`.
    pub x: TensorId,
    /// `[cols]`.
    pub first: Option<WeightId>,
    /// Table `[rows or rows + 1, cols]`.
    pub table: WeightId,
    /// `[rows, cols]`, or one row more.
    pub out: TensorId,
}

/// `out[0] = last row of x`.
#[derive(Debug, Clone)]
pub struct TakeLastRow {
    /// `[rows, cols]`.
    pub x: TensorId,
    /// `[1, cols]`.
    pub out: TensorId,
}

impl Op {
    /// Short name, for timings and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Linear(_) => "linear",
            Op::GatedLinear(_) => "gated_linear",
            Op::Mlp(_) => "mlp",
            Op::DepthwiseConv(_) => "depthwise_conv",
            Op::Conv(_) => "conv",
            Op::LayerNorm(_) => "layer_norm",
            Op::RmsNorm(_) => "rms_norm",
            Op::Attention(_) => "attention",
            Op::CachedAttention(_) => "cached_attention",
            Op::Rope(_) => "rope",
            Op::Embed(_) => "embed",
            Op::SqueezeExcite(_) => "squeeze_excite",
            Op::MeanPool(_) => "mean_pool",
            Op::Add(_) => "add",
            Op::AddPositions(_) => "add_positions",
            Op::TakeLastRow(_) => "take_last_row",
        }
    }

    /// Tensors that the op reads.
    pub fn reads(&self) -> Vec<TensorId> {
        match self {
            Op::Linear(o) => [Some(o.x), o.residual].into_iter().flatten().collect(),
            Op::Mlp(o) => [Some(o.x), o.residual].into_iter().flatten().collect(),
            Op::GatedLinear(o) => vec![o.x],
            Op::DepthwiseConv(o) => vec![o.x],
            Op::Conv(o) => vec![o.x],
            Op::LayerNorm(o) => vec![o.x],
            Op::RmsNorm(o) => vec![o.x],
            Op::Attention(o) => vec![o.qkv],
            Op::CachedAttention(o) => vec![o.qkv],
            Op::Rope(o) => vec![o.x],
            Op::Embed(o) => vec![o.ids],
            Op::SqueezeExcite(o) => vec![o.x],
            Op::MeanPool(o) => vec![o.x],
            Op::Add(o) => vec![o.a, o.b],
            Op::AddPositions(o) => vec![o.x],
            Op::TakeLastRow(o) => vec![o.x],
        }
    }

    /// The tensor that the op writes.
    pub fn writes(&self) -> TensorId {
        match self {
            Op::Linear(o) => o.out,
            Op::Mlp(o) => o.out,
            Op::GatedLinear(o) => o.out,
            Op::DepthwiseConv(o) => o.out,
            Op::Conv(o) => o.out,
            Op::LayerNorm(o) => o.out,
            Op::RmsNorm(o) => o.out,
            Op::Attention(o) => o.out,
            Op::CachedAttention(o) => o.out,
            Op::Rope(o) => o.x,
            Op::Embed(o) => o.out,
            Op::SqueezeExcite(o) => o.out,
            Op::MeanPool(o) => o.out,
            Op::Add(o) => o.out,
            Op::AddPositions(o) => o.out,
            Op::TakeLastRow(o) => o.out,
        }
    }
}
