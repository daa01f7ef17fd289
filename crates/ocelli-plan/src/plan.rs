//! A plan: the tensors, the weights and the ops of one network, in the order in which they run.

use crate::op::Op;
use crate::weights::{BlockFormat, WeightSource};

/// Type in which a device keeps activations and matrices. Sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point.
    F32,
    /// bfloat16: the upper half of an f32.
    Bf16,
}

impl DType {
    /// Bytes of one value.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 => 2,
        }
    }

    /// The name that the command line and the reports use.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
        }
    }
}

/// Number of an activation tensor in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) u32);

/// Number of a weight in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub(crate) u32);

impl TensorId {
    /// Position in [`Plan::tensors`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl WeightId {
    /// Position in [`Plan::weights`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How many rows a tensor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Known when the plan is built: pixels of a feature map, positions of a text.
    Fixed(usize),
    /// Given when the plan is run, at most [`Plan::max_rows`]: the positions of one prefill chunk.
    Bound,
}

/// What one element of an activation tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// The [`DType`] that the device computes in.
    Activation,
    /// Always f32: inputs from outside, logits.
    F32,
    /// Token ids.
    U32,
}

/// An activation tensor `[rows, cols]`, row-major. A feature map `[height, width, channels]`
/// is one with `height * width` rows.
#[derive(Debug, Clone)]
pub struct TensorDecl {
    /// Name of an input, an output or a traced stage; empty for the others.
    pub name: String,
    /// Number of rows.
    pub rows: Rows,
    /// Number of columns: channels.
    pub cols: usize,
    /// Type of an element.
    pub element: Element,
    /// Written from outside before the plan runs.
    pub is_input: bool,
    /// Read from outside after the plan has run, so its memory is never reused.
    pub is_output: bool,
}

/// How a device lays a weight out in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// `[n, k]` for products with rows of `k` values; parts follow each other along `n`.
    Matrix,
    /// Two matrices `[n, k]` whose output columns are needed together, such as gate and up.
    GatePair,
    /// `[rows, cols]` from which single rows are gathered.
    Table,
    /// One value a channel; parts follow each other.
    Vector,
    /// `[channels, 1, k, l]`: a kernel a channel.
    Depthwise,
    /// `[out, in, k, k]`, seen as a matrix `[out, k * k * in]` with the input channel fastest.
    Conv,
}

/// A weight that a plan needs, by our names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightDecl {
    /// Our names of the tensors it is made of, in order.
    pub parts: Vec<String>,
    /// Output size, over all parts.
    pub rows: usize,
    /// Values a row.
    pub cols: usize,
    /// Memory layout.
    pub layout: WeightLayout,
}

impl WeightDecl {
    /// The blocks in which a device keeps this weight: those that all parts of a matrix are stored in.
    pub fn block_format(&self, source: &dyn WeightSource) -> Option<BlockFormat> {
        if !matches!(self.layout, WeightLayout::Matrix | WeightLayout::GatePair) {
            return None;
        }
        let format = source.block_format(self.parts.first()?)?;
        self.parts.iter().all(|part| source.block_format(part) == Some(format)).then_some(format)
    }
}

/// The ops of one network over numbered tensors, in the order in which they run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the plan computes, for messages.
    pub name: String,
    /// Activation tensors.
    pub tensors: Vec<TensorDecl>,
    /// Weights.
    pub weights: Vec<WeightDecl>,
    /// Ops in order.
    pub ops: Vec<Op>,
    /// Most rows that [`Rows::Bound`] tensors can have in one run; 1 when there are none.
    pub max_rows: usize,
}

impl Plan {
    /// The tensor's declaration.
    pub fn tensor(&self, id: TensorId) -> &TensorDecl {
        &self.tensors[id.index()]
    }

    /// The weight's declaration.
    pub fn weight(&self, id: WeightId) -> &WeightDecl {
        &self.weights[id.index()]
    }

    /// The ids of all tensors, in order.
    pub fn tensor_ids(&self) -> impl Iterator<Item = TensorId> + use<> {
        (0..self.tensors.len() as u32).map(TensorId)
    }

    /// The input or output of this name.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        let at = self.tensors.iter().position(|t| t.name == name)?;
        Some(TensorId(at as u32))
    }

    /// Rows of a tensor when the plan runs with `bound_rows`.
    pub fn rows(&self, id: TensorId, bound_rows: usize) -> usize {
        match self.tensor(id).rows {
            Rows::Fixed(n) => n,
            Rows::Bound => bound_rows,
        }
    }

    /// Bytes of a tensor at the largest number of rows, for activations of type `dtype`.
    pub fn tensor_bytes(&self, id: TensorId, dtype: DType) -> usize {
        let decl = self.tensor(id);
        let size = match decl.element {
            Element::Activation => dtype.size(),
            Element::F32 | Element::U32 => 4,
        };
        self.rows(id, self.max_rows) * decl.cols * size
    }

    /// Bytes that the weights of `source` take once a device holds them in `dtype`, or in their blocks.
    /// Gathered tables stay in the file, vectors and depthwise kernels are f32.
    pub fn weight_bytes(&self, source: &dyn WeightSource, dtype: DType) -> usize {
        let bytes = |w: &WeightDecl| match w.layout {
            WeightLayout::Matrix | WeightLayout::GatePair | WeightLayout::Conv => {
                let row = w.cols * dtype.size();
                w.rows * w.block_format(source).map_or(row, |format| format.row_bytes(w.cols))
            }
            WeightLayout::Vector | WeightLayout::Depthwise => w.rows * w.cols * 4,
            WeightLayout::Table => 0,
        };
        self.weights.iter().map(bytes).sum()
    }
}
