//! A plan with its shaders chosen and its memory laid out, and the loop that runs it.

use std::collections::HashMap;
use std::sync::Arc;

use half::f16;
use ocelli_plan::{Element, Plan, Rows, RunError, SlotLayout, TensorId, WeightId, WeightSource, plan_slots};

use crate::device::{GpuDevice, GpuError};
use crate::emit::{AngleTable, Binding, Dispatch, Launch, RunShape, Step, Steps, emit, scalar_of};
use crate::kv_cache::GpuKvCache;
use crate::largest::{self, Largest};
use crate::pipeline::Scalar;
use crate::signal::Signal;
use crate::uniforms::UNIFORM_STRIDE;
use crate::weights::Weight;

/// A plan that is ready to run on a device.
pub struct GpuPlan {
    device: GpuDevice,
    source: Arc<dyn WeightSource>,
    plan: Plan,
    steps: Steps,
    layout: SlotLayout,
    weights: Vec<Arc<Weight>>,
}

/// Memory for the activations of one run at a time of one plan.
pub struct GpuArena {
    tensors: Vec<wgpu::Buffer>,
    scratch: Vec<wgpu::Buffer>,
    angles: Vec<wgpu::Buffer>,
    uniforms: wgpu::Buffer,
    /// One a step; none where the cache is bound, or nothing is.
    groups: Vec<Option<wgpu::BindGroup>>,
    /// Those with a cache, by step; for the buffers of this number.
    cache_groups: HashMap<usize, wgpu::BindGroup>,
    cache_buffers: Option<u64>,
    ids: Vec<u32>,
    /// What the uniforms were last written for.
    shape: Option<RunShape>,
    launches: Vec<Option<Launch>>,
    staging: Option<wgpu::Buffer>,
    largest: Option<Largest>,
}

impl GpuPlan {
    pub(crate) fn new(
        device: &GpuDevice,
        source: Arc<dyn WeightSource>,
        plan: Plan,
        weights: &[Arc<Weight>],
    ) -> Result<Self, GpuError> {
        let steps = emit(device, &*source, &plan, weights)?;
        let limit = device.binding_bytes();
        let sizes: Vec<usize> = plan.tensor_ids().map(|id| tensor_bytes(device, &plan, id)).collect();
        for (id, &bytes) in plan.tensor_ids().zip(&sizes) {
            if bytes as u64 > limit {
                let tensor = plan.tensor(id);
                let what = format!("{} of {} columns in {}", tensor.name, tensor.cols, plan.name);
                return Err(GpuError::TooLarge { what, bytes: bytes as u64, limit });
            }
        }
        let layout = plan_slots(&plan, &sizes);
        let weights = weights.to_vec();
        // For later; pipelines are made while loading.
        largest::pipelines(device, Scalar::F32);
        Ok(Self { device: device.clone(), source, plan, steps, layout, weights })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of one arena.
    pub fn arena_bytes(&self) -> usize {
        self.layout.bytes.iter().sum::<usize>() + self.steps.scratch.iter().sum::<usize>()
    }

    /// Memory for one run at a time.
    pub fn new_arena(&self) -> GpuArena {
        let buffer = |bytes: usize| self.device.storage("activations", bytes as u64);
        let angle_bytes = |table: &AngleTable| self.plan.max_rows * table.half_dim * 8;
        let uniforms = self.device.opened().device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("uniforms"),
            size: (self.steps.steps.len() * UNIFORM_STRIDE).max(UNIFORM_STRIDE) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut arena = GpuArena {
            tensors: self.layout.bytes.iter().map(|&bytes| buffer(bytes)).collect(),
            scratch: self.steps.scratch.iter().map(|&bytes| buffer(bytes)).collect(),
            angles: self.steps.angles.iter().map(|table| buffer(angle_bytes(table))).collect(),
            uniforms,
            groups: Vec::new(),
            cache_groups: HashMap::new(),
            cache_buffers: None,
            ids: Vec::new(),
            shape: None,
            launches: Vec::new(),
            staging: None,
            largest: None,
        };
        arena.groups = self.steps.steps.iter().map(|step| self.bind_group(&arena, step, None)).collect();
        arena
    }

    /// The buffers of a step; none for one that needs a cache when none is given.
    fn bind_group(
        &self,
        arena: &GpuArena,
        step: &Step,
        cache: Option<&GpuKvCache>,
    ) -> Option<wgpu::BindGroup> {
        let Step::Dispatch(dispatch) = step else { return None };
        let opened = self.device.opened();
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &arena.uniforms,
                offset: 0,
                size: std::num::NonZeroU64::new(UNIFORM_STRIDE as u64),
            }),
        }];
        for (at, &binding) in dispatch.bindings.iter().enumerate() {
            let buffer = match binding {
                Binding::Tensor(id) => self.buffer(arena, id),
                Binding::Scratch(index) => &arena.scratch[index],
                Binding::Constant(index) => &self.steps.constants[index],
                Binding::Angles(index) => &arena.angles[index],
                Binding::Cache(layer) => cache?.layer(layer),
                Binding::Nothing => &opened.nothing,
                Binding::Codes(weight, part) => &self.matrix_part(weight, part).codes,
                Binding::Scales(weight, part) => {
                    self.matrix_part(weight, part).scales.as_ref().unwrap_or(&opened.nothing)
                }
                Binding::Values(weight) => match &*self.weights[weight.index()] {
                    Weight::Vector(buffer) | Weight::Kernels(buffer) => buffer,
                    _ => unreachable!("the plan declares values where ops take them"),
                },
            };
            entries
                .push(wgpu::BindGroupEntry { binding: at as u32 + 1, resource: buffer.as_entire_binding() });
        }
        Some(opened.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &dispatch.pipelines[0].layout,
            entries: &entries,
        }))
    }

    fn matrix_part(&self, id: WeightId, part: usize) -> &crate::weights::Part {
        match &*self.weights[id.index()] {
            Weight::Matrix(matrix) => &matrix.parts[part],
            _ => unreachable!("the plan declares a matrix where ops take one"),
        }
    }

    fn buffer<'a>(&self, arena: &'a GpuArena, id: TensorId) -> &'a wgpu::Buffer {
        &arena.tensors[self.layout.slots[id.index()]]
    }

    /// Write an input of f32 values, `[rows, cols]` row-major.
    ///
    /// # Panics
    /// When the tensor is no f32 tensor, or has not room for the values.
    pub fn write(&self, arena: &mut GpuArena, id: TensorId, values: &[f32]) {
        let tensor = self.plan.tensor(id);
        assert_eq!(tensor.element, Element::F32, "`{}` is not f32", tensor.name);
        assert!(values.len() <= self.plan.rows(id, self.plan.max_rows) * tensor.cols, "`{}`", tensor.name);
        self.send_rows(arena, id, values);
    }

    fn send_rows(&self, arena: &GpuArena, id: TensorId, values: &[f32]) {
        let cols = self.plan.tensor(id).cols;
        let width = cols.next_multiple_of(4);
        let scalar = scalar_of(&self.device, &self.plan, id);
        let queue = &self.device.opened().queue;
        if width == cols && scalar == Scalar::F32 {
            queue.write_buffer(self.buffer(arena, id), 0, bytemuck::cast_slice(values));
            return;
        }
        let mut bytes = Vec::with_capacity(values.len().div_ceil(cols) * width * scalar.size());
        for row in values.chunks_exact(cols) {
            let filled = row.iter().copied().chain(std::iter::repeat_n(0.0, width - cols));
            match scalar {
                Scalar::F32 => filled.for_each(|v| bytes.extend(v.to_le_bytes())),
                Scalar::F16 => filled.for_each(|v| bytes.extend(f16::from_f32(v).to_le_bytes())),
            }
        }
        queue.write_buffer(self.buffer(arena, id), 0, &bytes);
    }

    /// Write an input of token ids.
    ///
    /// # Panics
    /// When the tensor is no tensor of ids.
    pub fn write_ids(&self, arena: &mut GpuArena, id: TensorId, ids: &[u32]) {
        assert_eq!(self.plan.tensor(id).element, Element::U32, "`{}` has no ids", self.plan.tensor(id).name);
        arena.ids = ids.to_vec();
    }

    /// Hand all ops to the device with `rows` bound rows; it works on while this returns. `stop` is asked before.
    ///
    /// # Errors
    /// [`RunError::Cancelled`] when `stop` said so; a weight or an id that cannot be read; a device that failed.
    ///
    /// # Panics
    /// When `rows` is beyond the plan's limit, or the plan needs a cache that is not given.
    pub fn run(
        &self,
        arena: &mut GpuArena,
        rows: usize,
        mut cache: Option<&mut GpuKvCache>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), RunError> {
        assert!(rows <= self.plan.max_rows, "{rows} rows in a plan for {}", self.plan.max_rows);
        if rows == 0 && self.plan.tensors.iter().any(|tensor| tensor.rows == Rows::Bound) {
            return Ok(());
        }
        if stop() {
            return Err(RunError::Cancelled);
        }
        self.device.check()?;
        let past = cache.as_ref().map_or(0, |cache| cache.len());
        if let Some(cache) = cache.as_deref_mut() {
            cache.reserve(past + rows);
            self.bind_cache(arena, cache);
        }
        self.set_shape(arena, RunShape { rows: rows as u32, past: past as u32 });
        self.encode(arena, rows)?;
        if let Some(cache) = cache {
            cache.advance(rows);
        }
        self.device.check()
    }

    /// Bind the cache's buffers where this arena has bound others.
    fn bind_cache(&self, arena: &mut GpuArena, cache: &GpuKvCache) {
        let buffers = Some(cache.buffers_id);
        if arena.cache_buffers == buffers {
            return;
        }
        arena.cache_groups.clear();
        for (at, step) in self.steps.steps.iter().enumerate() {
            if arena.groups[at].is_none()
                && let Some(group) = self.bind_group(arena, step, Some(cache))
            {
                arena.cache_groups.insert(at, group);
            }
        }
        arena.cache_buffers = buffers;
    }

    /// Work out all launches for these rows, and the angles of their positions.
    fn set_shape(&self, arena: &mut GpuArena, shape: RunShape) {
        if arena.shape == Some(shape) {
            return;
        }
        let queue = &self.device.opened().queue;
        let mut bytes = vec![0; self.steps.steps.len() * UNIFORM_STRIDE];
        arena.launches.clear();
        for (at, step) in self.steps.steps.iter().enumerate() {
            let launch = match step {
                Step::Dispatch(dispatch) => Some((dispatch.launch)(shape)),
                _ => None,
            };
            if let Some(launch) = &launch {
                bytes[at * UNIFORM_STRIDE..][..launch.uniforms.len()].copy_from_slice(&launch.uniforms);
            }
            arena.launches.push(launch);
        }
        queue.write_buffer(&arena.uniforms, 0, &bytes);
        for (table, buffer) in self.steps.angles.iter().zip(&arena.angles) {
            queue.write_buffer(buffer, 0, bytemuck::cast_slice(&angles(*table, shape)));
        }
        arena.shape = Some(shape);
    }

    fn encode(&self, arena: &GpuArena, rows: usize) -> Result<(), RunError> {
        let opened = self.device.opened();
        let new = || opened.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut encoder = new();
        let mut pass = None;
        for (at, step) in self.steps.steps.iter().enumerate() {
            match step {
                Step::Dispatch(dispatch) => {
                    let pass = pass.get_or_insert_with(|| {
                        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime()
                    });
                    dispatch_one(pass, arena, at, dispatch);
                }
                Step::CopyLastRow { x, out } => {
                    pass = None;
                    let scalar = scalar_of(&self.device, &self.plan, *x);
                    let bytes = self.plan.tensor(*x).cols.next_multiple_of(4) * scalar.size();
                    let last = (self.plan.rows(*x, rows) - 1) * bytes;
                    let (from, to) = (self.buffer(arena, *x), self.buffer(arena, *out));
                    encoder.copy_buffer_to_buffer(from, last as u64, to, 0, bytes as u64);
                }
                Step::Embed { ids, table, out } => {
                    // What the host writes comes before what it submits afterwards.
                    pass = None;
                    opened.queue.submit([std::mem::replace(&mut encoder, new()).finish()]);
                    let count = self.plan.rows(*ids, rows);
                    self.embed(arena, &arena.ids[..count.min(arena.ids.len())], *table, *out)?;
                }
            }
        }
        drop(pass);
        opened.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// Gather rows of a table; this reads the checkpoint.
    fn embed(&self, arena: &GpuArena, ids: &[u32], table: WeightId, out: TensorId) -> Result<(), RunError> {
        let (decl, cols) = (self.plan.weight(table), self.plan.tensor(out).cols);
        let mut values = vec![0.0; ids.len() * cols];
        for (&id, row) in ids.iter().zip(values.chunks_exact_mut(cols)) {
            if id as usize >= decl.rows {
                return Err(RunError::Id { id, vocabulary: decl.rows });
            }
            self.source.read_rows(&decl.parts[0], id as usize, row)?;
        }
        self.send_rows(arena, out, &values);
        Ok(())
    }

    /// Read a tensor as f32, `[rows, cols]` row-major, with `rows` bound rows, once the device has written it.
    ///
    /// # Errors
    /// When the device failed.
    pub async fn read(&self, arena: &mut GpuArena, id: TensorId, rows: usize) -> Result<Vec<f32>, RunError> {
        let (rows, cols) = (self.plan.rows(id, rows), self.plan.tensor(id).cols);
        let scalar = scalar_of(&self.device, &self.plan, id);
        let width = cols.next_multiple_of(4);
        let bytes = (rows * width * scalar.size()) as u64;
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let values = self.buffer(arena, id).clone();
        self.fetch(
            arena,
            bytes,
            |encoder, staging| encoder.copy_buffer_to_buffer(&values, 0, staging, 0, bytes),
            |view| {
                let mut out = Vec::with_capacity(rows * cols);
                for row in view.chunks_exact(width * scalar.size()) {
                    match scalar {
                        Scalar::F32 => out.extend(
                            row.chunks_exact(4)
                                .take(cols)
                                .map(|v| f32::from_le_bytes([v[0], v[1], v[2], v[3]])),
                        ),
                        Scalar::F16 => out.extend(
                            row.chunks_exact(2).take(cols).map(|v| f16::from_le_bytes([v[0], v[1]]).to_f32()),
                        ),
                    }
                }
                out
            },
        )
        .await
    }

    /// Index of the largest value of a tensor of one row, the first of equal ones, once the device has written it.
    /// A value that is no number is the largest only where all are none.
    ///
    /// # Errors
    /// When the device failed.
    ///
    /// # Panics
    /// When the tensor has more than one row.
    pub async fn largest(&self, arena: &mut GpuArena, id: TensorId) -> Result<u32, RunError> {
        let tensor = self.plan.tensor(id);
        assert_eq!(tensor.rows, Rows::Fixed(1), "`{}` has not one row", tensor.name);
        let kept = arena.largest.take().filter(|largest| largest.of == id);
        let largest = kept.unwrap_or_else(|| {
            let (values, scalar) = (self.buffer(arena, id), scalar_of(&self.device, &self.plan, id));
            Largest::new(&self.device, id, values, tensor.cols as u32, scalar)
        });
        let fill =
            |encoder: &mut wgpu::CommandEncoder, staging: &wgpu::Buffer| largest.encode(encoder, staging);
        let read = |view: &[u8]| u32::from_le_bytes([view[0], view[1], view[2], view[3]]);
        let index = self.fetch(arena, size_of::<u32>() as u64, fill, read).await;
        arena.largest = Some(largest);
        index
    }

    /// Submit what `fill` encodes, which writes `bytes` bytes to a buffer that the host reads, and wait for it.
    async fn fetch<R>(
        &self,
        arena: &mut GpuArena,
        bytes: u64,
        fill: impl FnOnce(&mut wgpu::CommandEncoder, &wgpu::Buffer),
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, RunError> {
        let staging = self.staging(arena, bytes);
        let opened = self.device.opened();
        let mut encoder = opened.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        fill(&mut encoder, &staging);
        opened.queue.submit([encoder.finish()]);
        let mapped = Signal::new();
        let done = mapped.clone();
        staging.map_async(wgpu::MapMode::Read, ..bytes, move |result| done.send(result));
        // Natively this waits and calls back; in a browser the event loop does.
        let polled = opened.device.poll(wgpu::PollType::wait_indefinitely());
        polled.map_err(|error| self.device.fail(&error))?;
        mapped.wait().await.map_err(|error| self.device.fail(&error))?;
        let out = read(&staging.get_mapped_range(..bytes).map_err(|error| self.device.fail(&error))?);
        staging.unmap();
        arena.staging = Some(staging);
        self.device.check()?;
        Ok(out)
    }

    /// A buffer that the host can read, the one of the last read where it is large enough.
    fn staging(&self, arena: &mut GpuArena, bytes: u64) -> wgpu::Buffer {
        let kept = arena.staging.take().filter(|buffer| buffer.size() >= bytes);
        kept.unwrap_or_else(|| {
            self.device.opened().device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read-back"),
                size: bytes,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }
}

fn dispatch_one(pass: &mut wgpu::ComputePass<'static>, arena: &GpuArena, at: usize, dispatch: &Dispatch) {
    let Some(launch) = &arena.launches[at] else { return };
    if launch.groups.contains(&0) {
        return;
    }
    let group = arena.groups[at].as_ref().or_else(|| arena.cache_groups.get(&at));
    let group = group.expect("plans with cached attention run with a cache");
    pass.set_pipeline(&dispatch.pipelines[launch.pipeline].pipeline);
    pass.set_bind_group(0, group, &[(at * UNIFORM_STRIDE) as u32]);
    let [x, y, z] = launch.groups;
    pass.dispatch_workgroups(x, y, z);
}

/// Cosine and sine of each row's position, `[rows][half_dim]`.
fn angles(table: AngleTable, shape: RunShape) -> Vec<[f32; 2]> {
    let mut out = Vec::with_capacity(shape.rows as usize * table.half_dim);
    for row in 0..shape.rows {
        for i in 0..table.half_dim {
            let frequency = 1.0 / table.base.powf(i as f32 / table.half_dim as f32);
            let angle = (shape.past + row) as f32 * frequency;
            out.push([angle.cos(), angle.sin()]);
        }
    }
    out
}

/// Bytes of a tensor on the device at the largest number of rows.
fn tensor_bytes(device: &GpuDevice, plan: &Plan, id: TensorId) -> usize {
    let decl = plan.tensor(id);
    if decl.element == Element::U32 {
        // Ids stay with the host.
        return 0;
    }
    plan.rows(id, plan.max_rows) * decl.cols.next_multiple_of(4) * scalar_of(device, plan, id).size()
}
