//! Ops of a plan as dispatches of shaders.

mod attention;
mod conv;
mod linear;
mod pooling;
mod rows;

use std::sync::Arc;

use ocelli_plan::{Element, Op, Plan, Rows, TensorId, WeightId, WeightSource};

use crate::device::{GpuDevice, GpuError};
use crate::pipeline::{Access, Pipeline, Prelude, Scalar};
use crate::weights::{Matrix, Weight};

/// Most workgroups of a dispatch along one side, in every WebGPU.
pub(crate) const MOST_GROUPS: u32 = 65_535;

/// What is known only when a plan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunShape {
    /// Rows that are bound.
    pub(crate) rows: u32,
    /// Positions in the cache before them.
    pub(crate) past: u32,
}

/// Rows of a tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    Fixed(u32),
    Bound,
}

impl Count {
    pub(crate) fn at(self, shape: RunShape) -> u32 {
        match self {
            Count::Fixed(rows) => rows,
            Count::Bound => shape.rows,
        }
    }
}

/// What is bound to a shader.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Binding {
    Tensor(TensorId),
    /// Codes of a part of a matrix.
    Codes(WeightId, usize),
    /// Scales of a part of a matrix, if it has them.
    Scales(WeightId, usize),
    /// A vector or the kernels of a convolution.
    Values(WeightId),
    /// Memory that an op needs within itself.
    Scratch(usize),
    /// Values that belong to the plan.
    Constant(usize),
    /// Cosines and sines of the rows' positions.
    Angles(usize),
    /// A layer of the cache.
    Cache(usize),
    Nothing,
}

/// One launch: which of the pipelines, with which uniforms, over how many workgroups.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) pipeline: usize,
    pub(crate) uniforms: Vec<u8>,
    pub(crate) groups: [u32; 3],
}

impl Launch {
    pub(crate) fn new(uniforms: impl bytemuck::NoUninit, groups: [u32; 3]) -> Self {
        Self { pipeline: 0, uniforms: bytemuck::bytes_of(&uniforms).to_vec(), groups }
    }
}

pub(crate) type Launcher = Box<dyn Fn(RunShape) -> Launch + Send + Sync>;

/// One shader over given buffers.
pub(crate) struct Dispatch {
    /// Those that a launch chooses from; they bind the same.
    pub(crate) pipelines: Vec<Arc<Pipeline>>,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) launch: Launcher,
}

/// What a run does, in order.
pub(crate) enum Step {
    Dispatch(Dispatch),
    /// The host gathers rows of a table.
    Embed {
        ids: TensorId,
        table: WeightId,
        out: TensorId,
    },
    /// The last row of a tensor to another.
    CopyLastRow {
        x: TensorId,
        out: TensorId,
    },
}

/// Angles of a rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AngleTable {
    pub(crate) half_dim: usize,
    pub(crate) base: f32,
}

/// The steps of a plan and what they need beside its tensors and weights.
pub(crate) struct Steps {
    pub(crate) steps: Vec<Step>,
    /// Bytes of each scratch buffer.
    pub(crate) scratch: [usize; 4],
    pub(crate) constants: Vec<wgpu::Buffer>,
    pub(crate) angles: Vec<AngleTable>,
}

/// Turns ops into steps.
pub(crate) struct Emitter<'a> {
    pub(crate) device: &'a GpuDevice,
    pub(crate) source: &'a dyn WeightSource,
    pub(crate) plan: &'a Plan,
    weights: &'a [Arc<Weight>],
    steps: Steps,
}

/// The steps of all ops of a plan.
pub(crate) fn emit(
    device: &GpuDevice,
    source: &dyn WeightSource,
    plan: &Plan,
    weights: &[Arc<Weight>],
) -> Result<Steps, GpuError> {
    let steps = Steps { steps: vec![], scratch: [0; 4], constants: vec![], angles: vec![] };
    let mut emitter = Emitter { device, source, plan, weights, steps };
    for op in &plan.ops {
        emitter.op(op)?;
    }
    Ok(emitter.steps)
}

/// Type of a tensor's elements on a device.
pub(crate) fn scalar_of(device: &GpuDevice, plan: &Plan, id: TensorId) -> Scalar {
    match plan.tensor(id).element {
        Element::Activation if device.f16() => Scalar::F16,
        _ => Scalar::F32,
    }
}

impl Emitter<'_> {
    fn op(&mut self, op: &Op) -> Result<(), GpuError> {
        match op {
            Op::Linear(o) => self.linear(o),
            Op::GatedLinear(o) => self.gated_linear(o),
            Op::Mlp(o) => self.mlp(o),
            Op::DepthwiseConv(o) => self.depthwise(o),
            Op::Conv(o) => self.conv(o),
            Op::LayerNorm(o) => self.norm(o.x, o.weight, Some(o.bias), o.eps, o.out),
            Op::RmsNorm(o) => self.norm(o.x, o.weight, None, o.eps, o.out),
            Op::Attention(o) => self.attention(o)?,
            Op::CachedAttention(o) => self.cached_attention(o)?,
            Op::Rope(o) => self.rope(o),
            Op::Embed(o) => self.steps.steps.push(Step::Embed { ids: o.ids, table: o.table, out: o.out }),
            Op::SqueezeExcite(o) => self.squeeze_excite(o),
            Op::MeanPool(o) => self.mean(o.x, Binding::Tensor(o.out), self.scalar(o.out)),
            Op::Add(o) => self.add(o.a, (Binding::Tensor(o.b), self.scalar(o.b)), 0, o.out),
            Op::AddPositions(o) => self.add_positions(o)?,
            Op::TakeLastRow(o) => self.steps.steps.push(Step::CopyLastRow { x: o.x, out: o.out }),
        }
        Ok(())
    }

    pub(crate) fn scalar(&self, id: TensorId) -> Scalar {
        scalar_of(self.device, self.plan, id)
    }

    /// Type of what an op keeps within itself.
    pub(crate) fn activation(&self) -> Scalar {
        if self.device.f16() { Scalar::F16 } else { Scalar::F32 }
    }

    pub(crate) fn rows(&self, id: TensorId) -> Count {
        match self.plan.tensor(id).rows {
            Rows::Fixed(rows) => Count::Fixed(rows as u32),
            Rows::Bound => Count::Bound,
        }
    }

    /// Most rows that a tensor can have.
    pub(crate) fn most_rows(&self, id: TensorId) -> usize {
        self.plan.rows(id, self.plan.max_rows)
    }

    pub(crate) fn cols(&self, id: TensorId) -> usize {
        self.plan.tensor(id).cols
    }

    /// Vectors of four a row.
    pub(crate) fn cols4(&self, id: TensorId) -> u32 {
        self.cols(id).div_ceil(4) as u32
    }

    pub(crate) fn matrix_of(&self, id: WeightId) -> &Matrix {
        match &*self.weights[id.index()] {
            Weight::Matrix(matrix) => matrix,
            _ => unreachable!("the plan declares a matrix where ops take one"),
        }
    }

    /// At least `bytes` bytes of a scratch buffer.
    pub(crate) fn scratch(&mut self, index: usize, bytes: usize) -> Binding {
        self.steps.scratch[index] = self.steps.scratch[index].max(bytes);
        Binding::Scratch(index)
    }

    pub(crate) fn constant(&mut self, buffer: wgpu::Buffer) -> Binding {
        self.steps.constants.push(buffer);
        Binding::Constant(self.steps.constants.len() - 1)
    }

    pub(crate) fn angles(&mut self, table: AngleTable) -> Binding {
        let known = self.steps.angles.iter().position(|&other| other == table);
        Binding::Angles(known.unwrap_or_else(|| {
            self.steps.angles.push(table);
            self.steps.angles.len() - 1
        }))
    }

    pub(crate) fn push(&mut self, dispatch: Dispatch) {
        self.steps.steps.push(Step::Dispatch(dispatch));
    }

    /// One shader that reads all of its bindings but the last, which it writes.
    pub(crate) fn dispatch(
        &mut self,
        name: &str,
        prelude: &Prelude,
        files: &[&str],
        bindings: Vec<Binding>,
        launch: Launcher,
    ) {
        let mut access = vec![Access::Read; bindings.len()];
        if let Some(last) = access.last_mut() {
            *last = Access::Write;
        }
        let pipelines = vec![self.device.pipeline(name, prelude, files, &access)];
        self.push(Dispatch { pipelines, bindings, launch });
    }
}

/// Values of a weight, or nothing.
pub(crate) fn optional(id: Option<WeightId>) -> Binding {
    id.map_or(Binding::Nothing, Binding::Values)
}

/// Workgroups for rows that may be more than fit along one side.
pub(crate) fn row_groups(rows: u32) -> [u32; 2] {
    [rows.min(MOST_GROUPS), rows.div_ceil(MOST_GROUPS)]
}
