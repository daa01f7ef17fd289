//! Builds a plan op by op, taking every width from the shapes of the weights.

use std::collections::HashMap;
use std::fmt;

use crate::op::{
    Activation, Add, AddPositions, Attention, CachedAttention, Conv, DepthwiseConv, Embed, GatedLinear,
    LayerNorm, Linear, MeanPool, Mlp, Op, RmsNorm, Rope, SqueezeExcite, TakeLastRow,
};
use crate::plan::{Element, Plan, Rows, TensorDecl, TensorId, WeightDecl, WeightId, WeightLayout};
use crate::weights::{WeightError, WeightSource};

/// A weight does not fit the network, or two parts of it do not fit each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanError {
    /// A weight is missing or unreadable.
    Weight(WeightError),
    /// Shapes that must agree do not.
    Shape(String),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Weight(error) => error.fmt(f),
            PlanError::Shape(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for PlanError {}

impl From<WeightError> for PlanError {
    fn from(error: WeightError) -> Self {
        PlanError::Weight(error)
    }
}

/// A tensor seen as an image `[height, width, channels]`.
#[derive(Debug, Clone, Copy)]
pub struct FeatureMap {
    /// `[height * width, channels]`, row-major: row `y * width + x`.
    pub tensor: TensorId,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels a row.
    pub width: usize,
}

/// Heads of an attention with a cache.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
}

/// Names of the weights of a feed-forward.
#[derive(Debug, Clone)]
pub struct MlpWeights {
    /// Prefix of the first product's `weight` and `bias`.
    pub fc1: String,
    /// Prefix of the second product's `weight` and `bias`.
    pub fc2: String,
    /// Full name of the layer scale.
    pub scale: Option<String>,
}

/// Collects the ops of a plan; every method appends one op and returns its output.
pub struct PlanBuilder<'w> {
    weights: &'w dyn WeightSource,
    plan: Plan,
    known: HashMap<WeightDecl, WeightId>,
    trace: bool,
}

impl<'w> PlanBuilder<'w> {
    /// An empty plan over these weights. `max_rows` bounds the tensors with [`Rows::Bound`].
    pub fn new(name: &str, weights: &'w dyn WeightSource, max_rows: usize) -> Self {
        let plan = Plan { name: name.to_owned(), tensors: vec![], weights: vec![], ops: vec![], max_rows };
        Self { weights, plan, known: HashMap::new(), trace: false }
    }

    /// Keep every tensor that [`Self::stage`] names, so that it can be read after the run.
    pub fn trace(mut self, trace: bool) -> Self {
        self.trace = trace;
        self
    }

    /// The finished plan.
    pub fn finish(self) -> Plan {
        self.plan
    }

    /// Shapes of the weights that the plan is built over.
    pub fn weights(&self) -> &'w dyn WeightSource {
        self.weights
    }

    /// A tensor that is written from outside before the plan runs.
    pub fn input(&mut self, name: &str, rows: Rows, cols: usize, element: Element) -> TensorId {
        let name = name.to_owned();
        self.push(TensorDecl { name, rows, cols, element, is_input: true, is_output: false })
    }

    /// Name a result and keep it to the end.
    pub fn output(&mut self, name: &str, id: TensorId) {
        let tensor = &mut self.plan.tensors[id.index()];
        tensor.name = name.to_owned();
        tensor.is_output = true;
    }

    /// Name an intermediate result; kept only when tracing.
    pub fn stage(&mut self, name: &str, id: TensorId) {
        if self.trace {
            self.output(name, id);
        }
    }

    /// Columns of a tensor.
    pub fn cols(&self, id: TensorId) -> usize {
        self.plan.tensor(id).cols
    }

    /// `activation(x W^T + b)` with `prefix.weight` and, when the checkpoint has it, `prefix.bias`.
    ///
    /// # Errors
    /// When a weight is missing or its shape does not fit `x`.
    pub fn linear(&mut self, x: TensorId, prefix: &str, act: Activation) -> Result<TensorId, PlanError> {
        self.linear_parts(x, &[prefix.to_owned()], act, None)
    }

    /// One product with several matrices side by side, such as query, key and value, then the
    /// optional `residual` added.
    ///
    /// # Errors
    /// When a weight is missing or its shape does not fit `x`.
    pub fn linear_parts(
        &mut self,
        x: TensorId,
        prefixes: &[String],
        activation: Activation,
        residual: Option<TensorId>,
    ) -> Result<TensorId, PlanError> {
        let weight = self.matrix(x, prefixes, WeightLayout::Matrix)?;
        let bias = self.optional_bias(prefixes)?;
        let out = self.temp_like(x, self.plan.weight(weight).rows, self.element_of(residual));
        self.check_residual(residual, out)?;
        let op = Linear { x, weight, bias, activation, scale: None, residual, out };
        Ok(self.emit(Op::Linear(op)))
    }

    /// `residual + scale * (x W^T + b)` with a layer scale.
    ///
    /// # Errors
    /// When a weight is missing or its shape does not fit.
    pub fn scaled_linear(
        &mut self,
        x: TensorId,
        prefix: &str,
        scale: &str,
        residual: TensorId,
    ) -> Result<TensorId, PlanError> {
        let prefixes = [prefix.to_owned()];
        let weight = self.matrix(x, &prefixes, WeightLayout::Matrix)?;
        let bias = self.optional_bias(&prefixes)?;
        let n = self.plan.weight(weight).rows;
        let scale = Some(self.vector(scale, n)?);
        let out = self.temp_like(x, n, self.element_of(Some(residual)));
        self.check_residual(Some(residual), out)?;
        let activation = Activation::None;
        Ok(self.emit(Op::Linear(Linear {
            x,
            weight,
            bias,
            activation,
            scale,
            residual: Some(residual),
            out,
        })))
    }

    /// `x W^T + b` as f32, with the full name of the matrix: a head.
    ///
    /// # Errors
    /// When the weight is missing or its shape does not fit `x`.
    pub fn logits(&mut self, x: TensorId, weight_name: &str) -> Result<TensorId, PlanError> {
        let weight = self.matrix_named(x, vec![weight_name.to_owned()], WeightLayout::Matrix)?;
        let out = self.temp_like(x, self.plan.weight(weight).rows, Element::F32);
        let bias = self.optional_bias(&[weight_name.trim_end_matches(".weight").to_owned()])?;
        let (activation, scale, residual) = (Activation::None, None, None);
        Ok(self.emit(Op::Linear(Linear { x, weight, bias, activation, scale, residual, out })))
    }

    /// `silu(x G^T) * (x U^T)`.
    ///
    /// # Errors
    /// When a weight is missing or its shape does not fit `x`.
    pub fn gated_linear(&mut self, x: TensorId, gate: &str, up: &str) -> Result<TensorId, PlanError> {
        let weight = self.matrix(x, &[gate.to_owned(), up.to_owned()], WeightLayout::GatePair)?;
        let out = self.temp_like(x, self.plan.weight(weight).rows / 2, Element::Activation);
        Ok(self.emit(Op::GatedLinear(GatedLinear { x, weight, out })))
    }

    /// `residual + scale * (activation(x A^T + a) B^T + b)`.
    ///
    /// # Errors
    /// When a weight is missing or its shape does not fit.
    pub fn mlp(
        &mut self,
        x: TensorId,
        names: &MlpWeights,
        activation: Activation,
        residual: Option<TensorId>,
    ) -> Result<TensorId, PlanError> {
        let fc1 = self.matrix(x, std::slice::from_ref(&names.fc1), WeightLayout::Matrix)?;
        let hidden = self.plan.weight(fc1).rows;
        let fc2 = self.matrix_of(hidden, vec![weight_of(&names.fc2)], WeightLayout::Matrix)?;
        let n = self.plan.weight(fc2).rows;
        let bias1 = self.vector(&bias_of(&names.fc1), hidden)?;
        let bias2 = self.vector(&bias_of(&names.fc2), n)?;
        let scale = names.scale.as_deref().map(|name| self.vector(name, n)).transpose()?;
        let out = self.temp_like(x, n, self.element_of(residual));
        self.check_residual(residual, out)?;
        Ok(self.emit(Op::Mlp(Mlp { x, fc1, bias1, activation, fc2, bias2, scale, residual, out })))
    }

    /// Depthwise convolution with `prefix.weight` `[out, 1, k, l]`, and `k / 2` and `l / 2` zeros around the map.
    ///
    /// # Errors
    /// When a weight is missing, or its outputs are no multiple of the map's channels.
    pub fn depthwise(
        &mut self,
        map: FeatureMap,
        prefix: &str,
        stride: usize,
        activation: Activation,
    ) -> Result<FeatureMap, PlanError> {
        self.depthwise_as(map, prefix, stride, activation, Element::Activation)
    }

    /// Depthwise convolution at step 1 whose result is the residual stream itself, and keeps its type.
    ///
    /// # Errors
    /// As for [`Self::depthwise`].
    pub fn depthwise_stream(&mut self, map: FeatureMap, prefix: &str) -> Result<FeatureMap, PlanError> {
        let element = self.plan.tensor(map.tensor).element;
        self.depthwise_as(map, prefix, 1, Activation::None, element)
    }

    fn depthwise_as(
        &mut self,
        map: FeatureMap,
        prefix: &str,
        stride: usize,
        activation: Activation,
        element: Element,
    ) -> Result<FeatureMap, PlanError> {
        let name = weight_of(prefix);
        let shape = self.shape(&name)?;
        let channels_in = self.cols(map.tensor);
        let fits = matches!(shape[..], [out, 1, k, l] if k % 2 == 1 && l % 2 == 1 && out.is_multiple_of(channels_in));
        if !fits {
            let why = format!("expected [multiple of {channels_in}, 1, odd, odd], found {shape:?}");
            return Err(WeightError::new(&name, why).into());
        }
        let (channels, kernel) = (shape[0], [shape[2], shape[3]]);
        let weight = self.declare(vec![name], channels, kernel[0] * kernel[1], WeightLayout::Depthwise);
        let bias = self.optional_bias(&[prefix.to_owned()])?;
        let (h, w) = (map.height.div_ceil(stride), map.width.div_ceil(stride));
        let out = self.temp(Rows::Fixed(h * w), channels, element);
        let FeatureMap { tensor: x, height, width } = map;
        self.emit(Op::DepthwiseConv(DepthwiseConv {
            x,
            weight,
            bias,
            activation,
            height,
            width,
            kernel,
            stride,
            out,
        }));
        Ok(FeatureMap { tensor: out, height: h, width: w })
    }

    /// Dense convolution with `prefix.weight` `[out, in, k, k]`.
    ///
    /// # Errors
    /// When a weight is missing or does not fit the map.
    pub fn conv(
        &mut self,
        map: FeatureMap,
        prefix: &str,
        stride: usize,
        padding: usize,
        activation: Activation,
    ) -> Result<FeatureMap, PlanError> {
        let name = weight_of(prefix);
        let shape = self.shape(&name)?;
        let channels_in = self.cols(map.tensor);
        let FeatureMap { tensor: x, height, width } = map;
        let fits = matches!(shape[..], [_, c, k, k2]
            if c == channels_in && k == k2 && k > 0 && k <= height + 2 * padding && k <= width + 2 * padding);
        if !fits {
            let why = format!("expected [out, {channels_in}, k, k] no larger than the map, found {shape:?}");
            return Err(WeightError::new(&name, why).into());
        }
        let (channels, kernel) = (shape[0], shape[2]);
        let weight = self.declare(vec![name], channels, kernel * kernel * channels_in, WeightLayout::Conv);
        let bias = self.optional_bias(&[prefix.to_owned()])?;
        let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        let (h, w) = (side(height), side(width));
        let out = self.temp(Rows::Fixed(h * w), channels, Element::Activation);
        self.emit(Op::Conv(Conv {
            x,
            weight,
            bias,
            activation,
            height,
            width,
            kernel,
            stride,
            padding,
            out,
        }));
        Ok(FeatureMap { tensor: out, height: h, width: w })
    }

    /// Layer norm over each row with `prefix.weight` and `prefix.bias`.
    ///
    /// # Errors
    /// When a weight is missing or does not fit `x`.
    pub fn layer_norm(&mut self, x: TensorId, prefix: &str, eps: f32) -> Result<TensorId, PlanError> {
        let cols = self.cols(x);
        let weight = self.vector(&weight_of(prefix), cols)?;
        let bias = self.vector(&bias_of(prefix), cols)?;
        let out = self.temp_like(x, cols, Element::Activation);
        Ok(self.emit(Op::LayerNorm(LayerNorm { x, weight, bias, eps, out })))
    }

    /// RMS norm over each row with `prefix.weight`.
    ///
    /// # Errors
    /// When the weight is missing or does not fit `x`.
    pub fn rms_norm(&mut self, x: TensorId, prefix: &str, eps: f32) -> Result<TensorId, PlanError> {
        let cols = self.cols(x);
        let weight = self.vector(&weight_of(prefix), cols)?;
        let out = self.temp_like(x, cols, Element::Activation);
        Ok(self.emit(Op::RmsNorm(RmsNorm { x, weight, eps, out })))
    }

    /// Attention over one block of rows.
    ///
    /// # Errors
    /// When the columns are not three times `heads` heads.
    pub fn attention(&mut self, qkv: TensorId, heads: usize, causal: bool) -> Result<TensorId, PlanError> {
        let cols = self.cols(qkv);
        if heads == 0 || !cols.is_multiple_of(3 * heads) {
            return Err(PlanError::Shape(format!(
                "{cols} columns are no queries, keys, values of {heads} heads"
            )));
        }
        let head_dim = cols / (3 * heads);
        let out = self.temp_like(qkv, cols / 3, Element::Activation);
        Ok(self.emit(Op::Attention(Attention { qkv, heads, head_dim, causal, out })))
    }

    /// Rotary embedding of queries and keys in place, then attention against layer `layer` of the cache.
    ///
    /// # Errors
    /// When the columns of `qkv` are not those of `shape`.
    pub fn cached_attention(
        &mut self,
        qkv: TensorId,
        shape: AttentionShape,
        rope_base: f32,
        layer: usize,
    ) -> Result<TensorId, PlanError> {
        let AttentionShape { heads, kv_heads, head_dim } = shape;
        let (cols, expected) = (self.cols(qkv), (heads + 2 * kv_heads) * head_dim);
        if cols != expected || kv_heads == 0 || !heads.is_multiple_of(kv_heads) || !head_dim.is_multiple_of(2)
        {
            let why = format!(
                "{heads} query heads and {kv_heads} key heads of {head_dim} need {expected} columns, found {cols}"
            );
            return Err(PlanError::Shape(why));
        }
        self.emit(Op::Rope(Rope { x: qkv, heads: heads + kv_heads, head_dim, base: rope_base }));
        let out = self.temp_like(qkv, heads * head_dim, Element::Activation);
        Ok(self.emit(Op::CachedAttention(CachedAttention { qkv, heads, kv_heads, head_dim, layer, out })))
    }

    /// Rows of a table by id, as activations or f32.
    ///
    /// # Errors
    /// When the table is missing or not two-dimensional.
    pub fn embed(&mut self, ids: TensorId, table: &str, element: Element) -> Result<TensorId, PlanError> {
        let shape = self.shape(table)?;
        let &[rows, cols] = shape else {
            return Err(WeightError::new(table, format!("expected [rows, cols], found {shape:?}")).into());
        };
        let table = self.declare(vec![table.to_owned()], rows, cols, WeightLayout::Table);
        let out = self.temp_like(ids, cols, element);
        Ok(self.emit(Op::Embed(Embed { ids, table, out })))
    }

    /// Squeeze-and-excite with `prefix.fc1` and `prefix.fc2`, then the activation.
    ///
    /// # Errors
    /// When a weight is missing or does not fit.
    pub fn squeeze_excite(
        &mut self,
        x: TensorId,
        prefix: &str,
        activation: Activation,
    ) -> Result<TensorId, PlanError> {
        let (name1, name2) = (format!("{prefix}.fc1"), format!("{prefix}.fc2"));
        let fc1 = self.matrix(x, std::slice::from_ref(&name1), WeightLayout::Matrix)?;
        let hidden = self.plan.weight(fc1).rows;
        let fc2 = self.matrix_of(hidden, vec![weight_of(&name2)], WeightLayout::Matrix)?;
        let cols = self.cols(x);
        if self.plan.weight(fc2).rows != cols {
            let why = format!("expected {cols} outputs, found {}", self.plan.weight(fc2).rows);
            return Err(WeightError::new(&weight_of(&name2), why).into());
        }
        let bias1 = self.vector(&bias_of(&name1), hidden)?;
        let bias2 = self.vector(&bias_of(&name2), cols)?;
        let out = self.temp_like(x, cols, Element::Activation);
        Ok(self.emit(Op::SqueezeExcite(SqueezeExcite { x, fc1, bias1, fc2, bias2, activation, out })))
    }

    /// Mean over all rows.
    pub fn mean_pool(&mut self, x: TensorId) -> TensorId {
        let out = self.temp(Rows::Fixed(1), self.cols(x), Element::Activation);
        self.emit(Op::MeanPool(MeanPool { x, out }))
    }

    /// `a + b`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn add(&mut self, a: TensorId, b: TensorId) -> Result<TensorId, PlanError> {
        let out = self.temp_like(a, self.cols(a), Element::Activation);
        self.check_residual(Some(b), out)?;
        Ok(self.emit(Op::Add(Add { a, b, out })))
    }

    /// Position embeddings added to rows of a fixed number; with `first`, a class token is put in front of them.
    ///
    /// # Errors
    /// When a weight is missing, or the table has not a row for each row of `x` or of the result.
    pub fn add_positions(
        &mut self,
        x: TensorId,
        first: Option<&str>,
        table: &str,
    ) -> Result<TensorId, PlanError> {
        let (cols, shape) = (self.cols(x), self.shape(table)?);
        let Rows::Fixed(rows) = self.plan.tensor(x).rows else {
            return Err(PlanError::Shape(format!("`{table}` needs a fixed number of rows")));
        };
        let out_rows = rows + usize::from(first.is_some());
        if shape != [rows, cols] && shape != [out_rows, cols] {
            let why =
                format!("expected [{out_rows}, {cols}], found {shape:?}; another picture size or context?");
            return Err(WeightError::new(table, why).into());
        }
        let first = first.map(|name| self.vector(name, cols)).transpose()?;
        let table = self.declare(vec![table.to_owned()], shape[0], cols, WeightLayout::Table);
        let out = self.temp(Rows::Fixed(out_rows), cols, Element::F32);
        Ok(self.emit(Op::AddPositions(AddPositions { x, first, table, out })))
    }

    /// The last of the rows that are bound when the plan runs.
    pub fn take_last_row(&mut self, x: TensorId) -> TensorId {
        let (cols, element) = (self.cols(x), self.plan.tensor(x).element);
        let out = self.temp(Rows::Fixed(1), cols, element);
        self.emit(Op::TakeLastRow(TakeLastRow { x, out }))
    }

    fn push(&mut self, tensor: TensorDecl) -> TensorId {
        self.plan.tensors.push(tensor);
        TensorId(self.plan.tensors.len() as u32 - 1)
    }

    fn temp(&mut self, rows: Rows, cols: usize, element: Element) -> TensorId {
        self.push(TensorDecl { name: String::new(), rows, cols, element, is_input: false, is_output: false })
    }

    fn temp_like(&mut self, x: TensorId, cols: usize, element: Element) -> TensorId {
        self.temp(self.plan.tensor(x).rows, cols, element)
    }

    fn emit(&mut self, op: Op) -> TensorId {
        let out = op.writes();
        self.plan.ops.push(op);
        out
    }

    fn shape(&self, name: &str) -> Result<&'w [usize], WeightError> {
        self.weights.shape(name).ok_or_else(|| WeightError::missing(name))
    }

    fn declare(&mut self, parts: Vec<String>, rows: usize, cols: usize, layout: WeightLayout) -> WeightId {
        let decl = WeightDecl { parts, rows, cols, layout };
        if let Some(&id) = self.known.get(&decl) {
            return id;
        }
        let id = WeightId(self.plan.weights.len() as u32);
        self.plan.weights.push(decl.clone());
        self.known.insert(decl, id);
        id
    }

    fn matrix(
        &mut self,
        x: TensorId,
        prefixes: &[String],
        layout: WeightLayout,
    ) -> Result<WeightId, PlanError> {
        self.matrix_named(x, prefixes.iter().map(|p| weight_of(p)).collect(), layout)
    }

    fn matrix_named(
        &mut self,
        x: TensorId,
        names: Vec<String>,
        layout: WeightLayout,
    ) -> Result<WeightId, PlanError> {
        self.matrix_of(self.cols(x), names, layout)
    }

    /// Declare `[n, k]` matrices side by side; 1x1 convolutions `[n, k, 1, 1]` are matrices too.
    fn matrix_of(
        &mut self,
        k: usize,
        names: Vec<String>,
        layout: WeightLayout,
    ) -> Result<WeightId, PlanError> {
        let mut rows = 0;
        for name in &names {
            let shape = self.shape(name)?;
            let is_matrix =
                matches!(shape[..], [_, c] if c == k) || matches!(shape[..], [_, c, 1, 1] if c == k);
            if !is_matrix {
                let why = format!("expected [n, {k}] or [n, {k}, 1, 1], found {shape:?}");
                return Err(WeightError::new(name, why).into());
            }
            if layout == WeightLayout::GatePair && rows != 0 && rows != shape[0] {
                let why = format!("expected {rows} rows like its partner, found {}", shape[0]);
                return Err(WeightError::new(name, why).into());
            }
            rows += shape[0];
        }
        Ok(self.declare(names, rows, k, layout))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<WeightId, PlanError> {
        let shape = self.shape(name)?;
        if shape != [len] {
            return Err(WeightError::new(name, format!("expected [{len}], found {shape:?}")).into());
        }
        Ok(self.declare(vec![name.to_owned()], len, 1, WeightLayout::Vector))
    }

    /// The biases of matrices that stand side by side: all of them have one or none has.
    fn optional_bias(&mut self, prefixes: &[String]) -> Result<Option<WeightId>, PlanError> {
        let names: Vec<String> = prefixes.iter().map(|p| bias_of(p)).collect();
        if names.iter().all(|name| !self.weights.contains(name)) {
            return Ok(None);
        }
        let mut len = 0;
        for (prefix, name) in prefixes.iter().zip(&names) {
            let (rows, shape) = (self.shape(&weight_of(prefix))?[0], self.shape(name)?);
            if shape != [rows] {
                return Err(WeightError::new(name, format!("expected [{rows}], found {shape:?}")).into());
            }
            len += rows;
        }
        Ok(Some(self.declare(names, len, 1, WeightLayout::Vector)))
    }

    /// A residual keeps its type: where the stream begins in f32 it stays so, whatever is added to it.
    fn element_of(&self, residual: Option<TensorId>) -> Element {
        residual.map_or(Element::Activation, |id| self.plan.tensor(id).element)
    }

    fn check_residual(&self, residual: Option<TensorId>, out: TensorId) -> Result<(), PlanError> {
        let Some(residual) = residual else { return Ok(()) };
        let (a, b) = (self.plan.tensor(residual), self.plan.tensor(out));
        if a.cols == b.cols && a.rows == b.rows && a.element != Element::U32 {
            return Ok(());
        }
        Err(PlanError::Shape(format!("cannot add {:?} x {} to {:?} x {}", a.rows, a.cols, b.rows, b.cols)))
    }
}

fn weight_of(prefix: &str) -> String {
    format!("{prefix}.weight")
}

fn bias_of(prefix: &str) -> String {
    format!("{prefix}.bias")
}
