//! A plan with its weights packed and its memory laid out, and the loop that runs it.

use std::path::Path;
use std::sync::Arc;

use half::bf16;
use ocelli_plan::{
    AddPositions, ArenaLayout, DType, Element, Op, Plan, Rows, RunError, TensorId, WeightError, WeightId,
    WeightSource, plan_arena,
};

use crate::Isa;
use crate::attention::{attention, cached_attention};
use crate::buffer::Buffer;
use crate::conv::{DenseConv, conv};
use crate::depthwise::{Depthwise, depthwise};
use crate::isa::HAS_REFERENCE;
use crate::kv_cache::KvCache;
use crate::linear::{MlpParts, gated_linear, linear, mlp};
use crate::matmul::Finish;
use crate::norm::{Norm, norm};
use crate::pack::{Matrix, Packed, WeightStore};
use crate::pool::Pool;
use crate::pooling::{SqueezeWeights, add, mean_pool, squeeze_excite};
use crate::reference;
use crate::rope::rope;
use crate::view::{Kind, View};

/// How plans are run: instruction set, compute type and threads.
#[derive(Clone)]
pub struct CpuDevice {
    isa: Isa,
    dtype: DType,
    pool: Arc<Pool>,
}

impl CpuDevice {
    /// A device with its own threads; 0 threads means one for each core.
    pub fn new(isa: Isa, dtype: DType, threads: usize) -> Self {
        Self { isa, dtype, pool: Arc::new(Pool::new(threads)) }
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Type of activations and matrices.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Threads that share each op.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Call `task(i)` once for each `i` in `0..count`, on all threads. A plan that a task runs has one thread: many
    /// small networks at a time lose less than one after another, each of whose ops all threads share.
    pub fn each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.pool.run(count, task);
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// The weights of one checkpoint on a device, packed as plans need them and shared between plans.
pub struct CpuWeights {
    device: CpuDevice,
    store: WeightStore,
}

impl CpuWeights {
    /// Nothing is packed before the first [`Self::prepare`].
    pub fn new(device: CpuDevice, source: Arc<dyn WeightSource>) -> Self {
        let store = WeightStore::new(source, device.dtype, device.isa);
        Self { device, store }
    }

    /// The device that the weights are packed for.
    pub fn device(&self) -> &CpuDevice {
        &self.device
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.store.bytes()
    }

    /// Take packed matrices from a file that [`Self::save_packed_file`] wrote with the same `key`, as far as it has
    /// them; any other file, or none, changes nothing. Call it before the first [`Self::prepare`]. Never for the scalar
    /// reference.
    pub fn use_packed_file(&self, path: &Path, key: u64) {
        if self.device.isa != Isa::Scalar {
            self.store.use_file(path, key);
        }
    }

    /// Bytes of packed matrices that are in no file yet.
    pub fn unsaved_bytes(&self) -> usize {
        self.store.unsaved_bytes()
    }

    /// Write the packed matrices to a file, aside and then renamed. `key` stands for checkpoint and compute type.
    ///
    /// # Errors
    /// When it cannot be written; nothing is left of it then.
    pub fn save_packed_file(&self, path: &Path, key: u64) -> std::io::Result<()> {
        self.store.save(path, key)
    }

    /// Pack the plan's weights and lay out its memory.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn prepare(&self, plan: Plan) -> Result<PreparedPlan, WeightError> {
        let weights = self.store.prepare(&plan, &self.device.pool)?;
        let layout = plan_arena(&plan, self.device.dtype);
        Ok(PreparedPlan { device: self.device.clone(), plan, layout, weights })
    }
}

/// Memory for the activations of one run at a time of one plan.
pub struct Arena(Buffer);

/// A plan that is ready to run. Running takes `&self`: any number of arenas may be in use at a time.
pub struct PreparedPlan {
    device: CpuDevice,
    plan: Plan,
    layout: ArenaLayout,
    weights: Vec<Arc<Packed>>,
}

impl PreparedPlan {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device that it runs on.
    pub fn device(&self) -> &CpuDevice {
        &self.device
    }

    /// Bytes of one arena.
    pub fn arena_bytes(&self) -> usize {
        self.layout.bytes
    }

    /// Bytes of a weight as it is packed; 0 for a table, which stays in the file.
    pub fn weight_bytes(&self, id: WeightId) -> usize {
        self.weights[id.index()].bytes()
    }

    /// Memory for one run at a time.
    pub fn new_arena(&self) -> Arena {
        Arena(Buffer::zeroed(self.layout.bytes))
    }

    /// Run all ops in order with `rows` bound rows. `stop` is asked before each op. Without any row a plan that
    /// binds them computes nothing, and its outputs stay as they are.
    ///
    /// # Errors
    /// [`RunError::Cancelled`] when `stop` said so; a weight or an id that cannot be read.
    ///
    /// # Panics
    /// When `rows` is beyond the plan's limit, or the plan needs a cache that is not given or of
    /// another shape.
    pub fn run(
        &self,
        arena: &mut Arena,
        rows: usize,
        mut cache: Option<&mut KvCache>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), RunError> {
        assert!(rows <= self.plan.max_rows, "{rows} rows in a plan for {}", self.plan.max_rows);
        if rows == 0 && self.plan.tensors.iter().any(|tensor| tensor.rows == Rows::Bound) {
            return Ok(());
        }
        let run = Run { prepared: self, arena: arena.0.as_mut_ptr(), rows };
        for op in &self.plan.ops {
            if stop() {
                return Err(RunError::Cancelled);
            }
            if HAS_REFERENCE && self.device.isa == Isa::Scalar {
                reference::run(&run, op, cache.as_deref_mut())?;
            } else {
                run.run(op, cache.as_deref_mut())?;
            }
        }
        if let Some(cache) = cache {
            cache.advance(rows);
        }
        Ok(())
    }

    /// Write an input of f32 values, `[rows, cols]` row-major.
    ///
    /// # Panics
    /// When the tensor is no f32 tensor, or has not room for the values.
    pub fn write(&self, arena: &mut Arena, id: TensorId, values: &[f32]) {
        assert_eq!(self.plan.tensor(id).element, Element::F32, "`{}` is not f32", self.plan.tensor(id).name);
        self.copy_in(arena, id, values);
    }

    /// Write an input of token ids.
    ///
    /// # Panics
    /// When the tensor is no tensor of ids, or has not room for them.
    pub fn write_ids(&self, arena: &mut Arena, id: TensorId, ids: &[u32]) {
        assert_eq!(self.plan.tensor(id).element, Element::U32, "`{}` has no ids", self.plan.tensor(id).name);
        self.copy_in(arena, id, ids);
    }

    fn copy_in<T: Copy>(&self, arena: &mut Arena, id: TensorId, values: &[T]) {
        assert!(size_of_val(values) <= self.plan.tensor_bytes(id, self.device.dtype));
        // SAFETY: the tensor has room for the values, and `arena` is borrowed for writing.
        unsafe {
            let to = arena.0.as_mut_ptr().add(self.layout.offsets[id.index()]).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }

    /// Read a tensor as f32, `[rows, cols]` row-major, with `rows` bound rows.
    pub fn read(&self, arena: &mut Arena, id: TensorId, rows: usize) -> Vec<f32> {
        let run = Run { prepared: self, arena: arena.0.as_mut_ptr(), rows };
        read_view(run.view(id))
    }
}

/// Values of a view as f32, row-major.
pub(crate) fn read_view(view: View) -> Vec<f32> {
    let mut out = Vec::with_capacity(view.rows * view.cols);
    for row in 0..view.rows {
        // SAFETY: the row is in the tensor and of the view's type.
        unsafe {
            match view.kind {
                Kind::F32 => out.extend_from_slice(std::slice::from_raw_parts(view.row(row), view.cols)),
                Kind::Bf16 => {
                    let values: &[bf16] = std::slice::from_raw_parts(view.row(row), view.cols);
                    out.extend(values.iter().map(|v| v.to_f32()));
                }
                Kind::U32 => {
                    let values: &[u32] = std::slice::from_raw_parts(view.row(row), view.cols);
                    out.extend(values.iter().map(|&v| v as f32));
                }
                #[cfg(not(target_arch = "wasm32"))]
                Kind::Codes => unreachable!("codes are of one product, no tensor"),
            }
        }
    }
    out
}

/// Write f32 values, row-major, rounded to the view's type.
pub(crate) fn write_view(view: View, values: &[f32]) {
    for (row, values) in values.chunks_exact(view.cols).enumerate() {
        // SAFETY: the row is in the tensor and of the view's type.
        unsafe {
            match view.kind {
                Kind::Bf16 => {
                    let to: &mut [bf16] = std::slice::from_raw_parts_mut(view.row(row), view.cols);
                    to.iter_mut().zip(values).for_each(|(to, &v)| *to = bf16::from_f32(v));
                }
                _ => std::slice::from_raw_parts_mut(view.row(row), view.cols).copy_from_slice(values),
            }
        }
    }
}

/// One run of a plan: where its tensors are and how many rows are bound.
pub(crate) struct Run<'a> {
    prepared: &'a PreparedPlan,
    arena: *mut u8,
    rows: usize,
}

impl Run<'_> {
    pub(crate) fn plan(&self) -> &Plan {
        &self.prepared.plan
    }

    pub(crate) fn view(&self, id: TensorId) -> View {
        let decl = self.prepared.plan.tensor(id);
        let kind = match (decl.element, self.prepared.device.dtype) {
            (Element::Activation, DType::Bf16) => Kind::Bf16,
            (Element::U32, _) => Kind::U32,
            _ => Kind::F32,
        };
        // SAFETY: the planner's offsets are inside of the arena.
        let at = unsafe { self.arena.add(self.prepared.layout.offsets[id.index()]) };
        let rows = self.prepared.plan.rows(id, self.rows);
        View { at, rows, cols: decl.cols, stride: decl.cols, kind }
    }

    pub(crate) fn weight(&self, id: WeightId) -> &Packed {
        &self.prepared.weights[id.index()]
    }

    fn vector(&self, id: WeightId) -> &[f32] {
        self.weight(id).vector()
    }

    fn matrix(&self, id: WeightId) -> &Matrix {
        self.weight(id).matrix()
    }

    /// Token ids of a view.
    pub(crate) fn ids(&self, id: TensorId) -> &[u32] {
        let view = self.view(id);
        assert_eq!(view.kind, Kind::U32);
        // SAFETY: the tensor holds that many ids; ops do not write ids.
        unsafe { std::slice::from_raw_parts(view.at.cast(), view.rows * view.cols) }
    }

    /// Gather rows of a table; this reads the checkpoint, not packed memory.
    pub(crate) fn embed(&self, ids: &[u32], table: WeightId, out: View) -> Result<(), RunError> {
        let Packed::Table { source, name } = self.weight(table) else {
            unreachable!("the plan declares a table where it gathers")
        };
        let vocabulary = self.plan().weight(table).rows;
        let mut values = vec![0.0; ids.len() * out.cols];
        for (&id, row) in ids.iter().zip(values.chunks_exact_mut(out.cols)) {
            if id as usize >= vocabulary {
                return Err(RunError::Id { id, vocabulary });
            }
            source.read_rows(name, id as usize, row)?;
        }
        write_view(out, &values);
        Ok(())
    }

    /// Add position embeddings, which are read from the checkpoint: a small part of a tower's work.
    pub(crate) fn add_positions(&self, op: &AddPositions) -> Result<(), RunError> {
        let Packed::Table { source, name } = self.weight(op.table) else {
            unreachable!("the plan declares a table where it adds positions")
        };
        let (x, out) = (self.view(op.x), self.view(op.out));
        let mut table = source.read(name)?;
        if let Some(first) = op.first {
            let first = &self.vector(first)[..x.cols];
            if table.len() == x.rows * x.cols {
                table.splice(..0, std::iter::repeat_n(0.0, x.cols));
            }
            table.iter_mut().zip(first).for_each(|(t, f)| *t += f);
        }
        let skip = (out.rows - x.rows) * x.cols;
        table[skip..].iter_mut().zip(read_view(x)).for_each(|(t, v)| *t += v);
        write_view(out, &table);
        Ok(())
    }

    fn run(&self, op: &Op, cache: Option<&mut KvCache>) -> Result<(), RunError> {
        let (isa, pool) = (self.prepared.device.isa, &*self.prepared.device.pool);
        let view = |id| self.view(id);
        match op {
            Op::Linear(o) => {
                let finish = Finish {
                    bias: o.bias.map(|id| self.vector(id)),
                    activation: o.activation,
                    scale: o.scale.map(|id| self.vector(id)),
                    residual: o.residual.map(view),
                    out: view(o.out),
                };
                linear(isa, pool, view(o.x), self.matrix(o.weight), &finish);
            }
            Op::GatedLinear(o) => gated_linear(isa, pool, view(o.x), self.matrix(o.weight), view(o.out)),
            Op::Mlp(o) => {
                let finish = Finish {
                    bias: Some(self.vector(o.bias2)),
                    activation: ocelli_plan::Activation::None,
                    scale: o.scale.map(|id| self.vector(id)),
                    residual: o.residual.map(view),
                    out: view(o.out),
                };
                let parts = MlpParts {
                    x: view(o.x),
                    fc1: self.matrix(o.fc1),
                    bias1: self.vector(o.bias1),
                    activation: o.activation,
                    hidden: self.plan().weight(o.fc1).rows,
                    fc2: self.matrix(o.fc2),
                    finish,
                };
                mlp(isa, pool, &parts);
            }
            Op::DepthwiseConv(o) => {
                let Packed::Depthwise { weights, stride } = self.weight(o.weight) else {
                    unreachable!("the plan declares depthwise kernels where ops take them")
                };
                let conv = Depthwise {
                    x: view(o.x),
                    weights,
                    weight_stride: *stride,
                    bias: o.bias.map(|id| self.vector(id)),
                    activation: o.activation,
                    height: o.height,
                    width: o.width,
                    kernel: o.kernel,
                    stride: o.stride,
                    out: view(o.out),
                };
                depthwise(isa, pool, &conv);
            }
            Op::Conv(o) => {
                let dense = DenseConv {
                    x: view(o.x),
                    weight: self.matrix(o.weight),
                    bias: o.bias.map(|id| self.vector(id)),
                    activation: o.activation,
                    height: o.height,
                    width: o.width,
                    kernel: o.kernel,
                    stride: o.stride,
                    padding: o.padding,
                    out: view(o.out),
                };
                conv(isa, pool, &dense);
            }
            Op::LayerNorm(o) => {
                let kind = Norm::Layer { weight: self.vector(o.weight), bias: self.vector(o.bias) };
                norm(isa, pool, view(o.x), kind, o.eps, view(o.out));
            }
            Op::RmsNorm(o) => {
                let kind = Norm::Rms { weight: self.vector(o.weight) };
                norm(isa, pool, view(o.x), kind, o.eps, view(o.out));
            }
            Op::Attention(o) => attention(isa, pool, view(o.qkv), o.heads, o.causal, view(o.out)),
            Op::CachedAttention(o) => {
                let cache = needed(cache);
                cached_attention(isa, pool, view(o.qkv), o.heads, cache, o.layer, view(o.out));
            }
            Op::Rope(o) => rope(isa, pool, view(o.x), o.heads, o.head_dim, o.base, needed(cache).len()),
            Op::Embed(o) => self.embed(self.ids(o.ids), o.table, view(o.out))?,
            Op::SqueezeExcite(o) => {
                let weights = SqueezeWeights {
                    fc1: self.matrix(o.fc1),
                    bias1: self.vector(o.bias1),
                    hidden: self.plan().weight(o.fc1).rows,
                    fc2: self.matrix(o.fc2),
                    bias2: self.vector(o.bias2),
                };
                squeeze_excite(isa, pool, view(o.x), &weights, o.activation, view(o.out));
            }
            Op::MeanPool(o) => mean_pool(isa, pool, view(o.x), view(o.out)),
            Op::Add(o) => add(isa, pool, view(o.a), view(o.b), view(o.out)),
            Op::AddPositions(o) => self.add_positions(o)?,
            Op::TakeLastRow(o) => take_last_row(view(o.x), view(o.out)),
        }
        Ok(())
    }
}

/// # Panics
/// When the caller runs a language model without a cache.
pub(crate) fn needed(cache: Option<&mut KvCache>) -> &mut KvCache {
    cache.expect("plans with cached attention run with a cache")
}

pub(crate) fn take_last_row(x: View, out: View) {
    let last = View { rows: 1, ..x };
    // SAFETY: the last row is in the tensor.
    let at = unsafe { x.at.add((x.rows - 1) * x.stride * x.kind.bytes()) };
    write_view(out, &read_view(View { at, ..last }));
}
