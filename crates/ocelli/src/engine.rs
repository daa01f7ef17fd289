//! One face for the devices that run plans.
//!
//! Reading a result is the only thing that is awaited: natively it blocks, in a browser it lets the page go on.

use std::sync::Arc;

use ocelli_cpu::{CpuDevice, CpuWeights, Isa, KvCache};
use ocelli_gpu::{AdapterChoice, GpuArena, GpuDevice, GpuKvCache, GpuOptions, GpuPlan, GpuWeights};
use ocelli_plan::{DType, Plan, RunError, TensorId, WeightSource};

use crate::Error;
use crate::packed::PackedCache;
use crate::sampler::argmax;
use crate::self_test::self_test;

/// Where networks run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU, until a GPU's figures are known to be better.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU through Vulkan, Metal, Direct3D or the browser's WebGPU. One that gives wrong answers in a test of its
    /// shaders is not used: the CPU is, and a note says so.
    Gpu(AdapterChoice),
}

/// How the CPU and matrices are used.
#[derive(Debug, Clone)]
pub(crate) struct EngineOptions {
    pub(crate) device: DeviceChoice,
    pub(crate) dtype: DType,
    pub(crate) threads: usize,
    pub(crate) isa: Option<Isa>,
}

/// The weights of one checkpoint on a device.
pub(crate) enum Engine {
    Cpu(CpuWeights),
    Gpu(GpuWeights),
}

/// A plan that is ready to run.
pub(crate) enum Prepared {
    Cpu(ocelli_cpu::PreparedPlan),
    Gpu(GpuPlan),
}

/// Memory for one run of a plan at a time.
pub(crate) enum Arena {
    Cpu(ocelli_cpu::Arena),
    Gpu(Box<GpuArena>),
}

/// Keys and values of a language model.
pub(crate) enum Cache {
    Cpu(KvCache),
    Gpu(GpuKvCache),
}

/// A page has no files to keep packed weights in.
const HAS_FILES: bool = !cfg!(target_family = "wasm");

const MIXED: &str = "plans, arenas and caches are of one device";

impl Engine {
    /// The engine of these options. The note says why it is another device than was asked for.
    ///
    /// # Errors
    /// When `OCELLI_ISA` names no instruction set of this CPU, or there is no GPU that opens.
    pub(crate) async fn open(
        options: &EngineOptions,
        source: Arc<dyn WeightSource>,
    ) -> Result<(Self, Option<String>), Error> {
        let mut note = None;
        if let DeviceChoice::Gpu(adapter) = &options.device {
            let wanted = GpuOptions {
                adapter: adapter.clone(),
                f16: options.dtype == DType::Bf16,
                ..GpuOptions::default()
            };
            let device = GpuDevice::open(&wanted).await?;
            let wrong = match self_test(&device, options.dtype).await {
                Ok(None) => return Ok((Self::gpu(device, source, options.dtype), None)),
                Ok(Some(wrong)) => wrong,
                Err(Error::Gpu(error)) => error.to_string(),
                Err(Error::Run(error @ RunError::Device(_))) => error.to_string(),
                Err(other) => return Err(other),
            };
            let name = &device.adapter().name;
            note = Some(format!("the GPU `{name}` is not used, the CPU is: {wrong}"));
        }
        let isa = options.isa.map_or_else(Isa::detect, Ok)?;
        Ok((Self::cpu(CpuDevice::new(isa, options.dtype, options.threads), source), note))
    }

    /// Take what an earlier start packed.
    pub(crate) fn open_packed(&self, packed: Option<&PackedCache>) {
        if let (Engine::Cpu(weights), Some(packed), true) = (self, packed, HAS_FILES) {
            packed.open(weights);
        }
    }

    /// Keep what was packed for the next start.
    pub(crate) fn save_packed(&self, packed: Option<&PackedCache>) {
        if let (Engine::Cpu(weights), Some(packed), true) = (self, packed, HAS_FILES) {
            packed.save(weights);
        }
    }

    pub(crate) fn cpu(device: CpuDevice, source: Arc<dyn WeightSource>) -> Self {
        Engine::Cpu(CpuWeights::new(device, source))
    }

    pub(crate) fn gpu(device: GpuDevice, source: Arc<dyn WeightSource>, dtype: DType) -> Self {
        Engine::Gpu(GpuWeights::new(device, source, dtype))
    }

    pub(crate) fn prepare(&self, plan: Plan) -> Result<Prepared, Error> {
        Ok(match self {
            Engine::Cpu(weights) => Prepared::Cpu(weights.prepare(plan)?),
            Engine::Gpu(weights) => Prepared::Gpu(weights.prepare(plan)?),
        })
    }

    pub(crate) fn new_cache(&self, layers: usize, kv_heads: usize, head_dim: usize) -> Cache {
        match self {
            Engine::Cpu(_) => Cache::Cpu(KvCache::new(layers, kv_heads, head_dim)),
            Engine::Gpu(weights) => Cache::Gpu(GpuKvCache::new(weights.device(), layers, kv_heads, head_dim)),
        }
    }

    /// What happened to the device, if it can be used no more.
    pub(crate) fn failure(&self) -> Option<String> {
        match self {
            Engine::Cpu(_) => None,
            Engine::Gpu(weights) => weights.device().failure(),
        }
    }

    /// End a GPU's device, as a driver does that is reset.
    pub(crate) fn lose(&self) {
        if let Engine::Gpu(weights) = self {
            weights.device().destroy();
        }
    }

    /// The CPU's weights, for what only it can do.
    pub(crate) fn on_cpu(&self) -> Result<&CpuWeights, Error> {
        match self {
            Engine::Cpu(weights) => Ok(weights),
            Engine::Gpu(_) => Err(Error::CpuOnly),
        }
    }

    /// Bytes of the weights as the device keeps them.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Engine::Cpu(weights) => weights.bytes(),
            Engine::Gpu(weights) => weights.bytes(),
        }
    }

    /// `cpu` or `gpu`.
    pub(crate) fn device_name(&self) -> &'static str {
        match self {
            Engine::Cpu(_) => "cpu",
            Engine::Gpu(_) => "gpu",
        }
    }

    /// Name of the instruction set, or of the adapter.
    pub(crate) fn kernels(&self) -> &str {
        match self {
            Engine::Cpu(weights) => weights.device().isa().name(),
            Engine::Gpu(weights) => &weights.device().adapter().name,
        }
    }

    /// Type of matrices.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Engine::Cpu(weights) => weights.device().dtype(),
            Engine::Gpu(weights) => weights.dtype(),
        }
    }

    /// Threads of the CPU; 1 where another device works.
    pub(crate) fn threads(&self) -> usize {
        match self {
            Engine::Cpu(weights) => weights.device().threads(),
            Engine::Gpu(_) => 1,
        }
    }
}

impl Prepared {
    pub(crate) fn plan(&self) -> &Plan {
        match self {
            Prepared::Cpu(plan) => plan.plan(),
            Prepared::Gpu(plan) => plan.plan(),
        }
    }

    pub(crate) fn arena_bytes(&self) -> usize {
        match self {
            Prepared::Cpu(plan) => plan.arena_bytes(),
            Prepared::Gpu(plan) => plan.arena_bytes(),
        }
    }

    pub(crate) fn new_arena(&self) -> Arena {
        match self {
            Prepared::Cpu(plan) => Arena::Cpu(plan.new_arena()),
            Prepared::Gpu(plan) => Arena::Gpu(Box::new(plan.new_arena())),
        }
    }

    /// Write an input of f32 values.
    pub(crate) fn write(&self, arena: &mut Arena, id: TensorId, values: &[f32]) {
        match (self, arena) {
            (Prepared::Cpu(plan), Arena::Cpu(arena)) => plan.write(arena, id, values),
            (Prepared::Gpu(plan), Arena::Gpu(arena)) => plan.write(arena, id, values),
            _ => unreachable!("{MIXED}"),
        }
    }

    /// Write an input of token ids.
    pub(crate) fn write_ids(&self, arena: &mut Arena, id: TensorId, ids: &[u32]) {
        match (self, arena) {
            (Prepared::Cpu(plan), Arena::Cpu(arena)) => plan.write_ids(arena, id, ids),
            (Prepared::Gpu(plan), Arena::Gpu(arena)) => plan.write_ids(arena, id, ids),
            _ => unreachable!("{MIXED}"),
        }
    }

    /// Run all ops; a GPU may work on while this returns.
    pub(crate) fn run(
        &self,
        arena: &mut Arena,
        rows: usize,
        cache: Option<&mut Cache>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), RunError> {
        match (self, arena, cache) {
            (Prepared::Cpu(plan), Arena::Cpu(arena), None) => plan.run(arena, rows, None, stop),
            (Prepared::Cpu(plan), Arena::Cpu(arena), Some(Cache::Cpu(cache))) => {
                plan.run(arena, rows, Some(cache), stop)
            }
            (Prepared::Gpu(plan), Arena::Gpu(arena), None) => plan.run(arena, rows, None, stop),
            (Prepared::Gpu(plan), Arena::Gpu(arena), Some(Cache::Gpu(cache))) => {
                plan.run(arena, rows, Some(cache), stop)
            }
            _ => unreachable!("{MIXED}"),
        }
    }

    /// A tensor as f32, `[rows, cols]` row-major.
    pub(crate) async fn read(
        &self,
        arena: &mut Arena,
        id: TensorId,
        rows: usize,
    ) -> Result<Vec<f32>, RunError> {
        match (self, arena) {
            (Prepared::Cpu(plan), Arena::Cpu(arena)) => Ok(plan.read(arena, id, rows)),
            (Prepared::Gpu(plan), Arena::Gpu(arena)) => plan.read(arena, id, rows).await,
            _ => unreachable!("{MIXED}"),
        }
    }

    /// Index of the largest value of a tensor of one row, the first of equal ones.
    pub(crate) async fn largest(&self, arena: &mut Arena, id: TensorId) -> Result<u32, RunError> {
        match (self, arena) {
            (Prepared::Cpu(plan), Arena::Cpu(arena)) => Ok(argmax(&plan.read(arena, id, 1))),
            (Prepared::Gpu(plan), Arena::Gpu(arena)) => plan.largest(arena, id).await,
            _ => unreachable!("{MIXED}"),
        }
    }
}

impl Cache {
    /// Positions seen.
    pub(crate) fn len(&self) -> usize {
        match self {
            Cache::Cpu(cache) => cache.len(),
            Cache::Gpu(cache) => cache.len(),
        }
    }

    /// Forget all positions from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        match self {
            Cache::Cpu(cache) => cache.truncate(len),
            Cache::Gpu(cache) => cache.truncate(len),
        }
    }

    /// Make room for `positions` in all.
    pub(crate) fn reserve(&mut self, positions: usize) {
        match self {
            Cache::Cpu(cache) => cache.reserve(positions),
            Cache::Gpu(cache) => cache.reserve(positions),
        }
    }
}
