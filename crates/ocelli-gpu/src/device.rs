//! Choosing an adapter and opening it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ocelli_plan::{RunError, WeightError};
use wgpu::{DeviceType, Features, Limits};

use crate::pipeline::Pipeline;

/// Why a GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// There is no adapter at all, or none of the kind that was asked for.
    #[error("no GPU was found ({0}); use --device cpu, or install the system's Vulkan driver")]
    NoAdapter(String),
    /// The adapter would not open.
    #[error("the GPU `{adapter}` cannot be used: {reason}")]
    Open {
        /// Its name.
        adapter: String,
        /// What the driver says.
        reason: String,
    },
    /// One tensor is more than may be bound at once.
    #[error("`{what}` takes {bytes} bytes, the GPU binds at most {limit} at once; use a lower --resolution")]
    TooLarge {
        /// The tensor.
        what: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A network has something that the shaders are not made for.
    #[error("the GPU shaders do not do this: {0}; use --device cpu")]
    Unsupported(String),
    /// A weight could not be read.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The driver reported an error.
    #[error("the GPU failed: {0}; use --device cpu")]
    Failed(String),
}

/// Which adapter is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The quickest that is a GPU; software that emulates one only where there is nothing else.
    #[default]
    Best,
    /// Real GPUs only.
    Hardware,
    /// One whose name contains this text, in any case.
    Named(String),
}

/// Set to 0, this turns sums within subgroups off.
pub const SUBGROUPS_VARIABLE: &str = "OCELLI_GPU_SUBGROUPS";
/// Set to 0, this turns products of 8-bit codes off.
pub const DOT_VARIABLE: &str = "OCELLI_GPU_DOT";

/// How a device is opened.
#[derive(Debug, Clone, Default)]
pub struct GpuOptions {
    /// The adapter.
    pub adapter: AdapterChoice,
    /// Keep activations in f16 where the adapter can; f32 otherwise.
    pub f16: bool,
    /// Force matrix products through workgroup memory on or off; otherwise by the kind of adapter.
    pub tiled: Option<bool>,
    /// Force sums within subgroups on or off; otherwise where the adapter has them and [`SUBGROUPS_VARIABLE`] is not 0.
    pub subgroups: Option<bool>,
    /// Force products of 8-bit codes with quantized activations on or off; otherwise where shaders have them and
    /// [`DOT_VARIABLE`] is not 0. Off, such weights are decoded and activations are not quantized.
    pub dot: Option<bool>,
}

/// What is known of an adapter without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterSummary {
    /// As the driver says it.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `webgpu`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Driver name and version, where known.
    pub driver: String,
    /// Whether shaders can compute in f16.
    pub f16: bool,
    /// Whether shaders have subgroup operations.
    pub subgroups: bool,
    /// Invocations of the smallest and of the largest subgroup.
    pub subgroup_sizes: [u32; 2],
    /// Whether shaders have dot products of four 8-bit codes; the driver may spell them out.
    pub dot: bool,
    /// Most bytes of a buffer that may be bound at once.
    pub max_binding_bytes: u64,
    /// Most bytes of a buffer.
    pub max_buffer_bytes: u64,
}

impl AdapterSummary {
    fn of(instance: &wgpu::Instance, adapter: &wgpu::Adapter) -> Self {
        let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
        let dot = wgpu::WgslLanguageFeatures::Packed4x8IntegerDotProduct;
        Self {
            // Browsers tell little.
            name: if info.name.is_empty() { "WebGPU".to_owned() } else { info.name },
            backend: info.backend.to_string(),
            kind: match info.device_type {
                DeviceType::DiscreteGpu => "discrete",
                DeviceType::IntegratedGpu => "integrated",
                DeviceType::VirtualGpu => "virtual",
                DeviceType::Cpu => "software",
                DeviceType::Other => "other",
            },
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            f16: features.contains(Features::SHADER_F16),
            subgroups: features.contains(Features::SUBGROUP),
            subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
            dot: instance.wgsl_language_features().contains(dot),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
        }
    }
}

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle())
}

/// All adapters of this machine; in a browser the one that it offers.
pub async fn adapters() -> Vec<AdapterSummary> {
    let instance = instance();
    found(&instance).await.iter().map(|adapter| AdapterSummary::of(&instance, adapter)).collect()
}

async fn found(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    if cfg!(target_arch = "wasm32") {
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        return instance.request_adapter(&options).await.into_iter().collect();
    }
    instance.enumerate_adapters(wgpu::Backends::all()).await
}

/// Smaller is better.
fn rank(adapter: &wgpu::Adapter) -> u32 {
    match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

fn is_software(adapter: &wgpu::Adapter) -> bool {
    adapter.get_info().device_type == DeviceType::Cpu
}

/// An open adapter. Clones share it.
#[derive(Clone)]
pub struct GpuDevice(Arc<Opened>);

pub(crate) struct Opened {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    summary: AdapterSummary,
    pub(crate) f16: bool,
    pub(crate) tiled: bool,
    pub(crate) subgroups: bool,
    pub(crate) dot: bool,
    pub(crate) pipelines: Mutex<HashMap<String, Arc<Pipeline>>>,
    /// Bound where an op has no bias, scale or residual.
    pub(crate) nothing: wgpu::Buffer,
    failure: Arc<Mutex<Option<String>>>,
}

impl GpuDevice {
    /// Open an adapter with the limits that every WebGPU device has.
    ///
    /// # Errors
    /// When there is none of the kind asked for, or its driver refuses.
    pub async fn open(options: &GpuOptions) -> Result<Self, GpuError> {
        let instance = instance();
        let mut adapters = found(&instance).await;
        let names: Vec<String> = adapters.iter().map(|a| a.get_info().name).collect();
        let seen = if names.is_empty() { "no adapter".to_owned() } else { names.join(", ") };
        adapters.retain(|adapter| match &options.adapter {
            AdapterChoice::Best => true,
            AdapterChoice::Hardware => !is_software(adapter),
            AdapterChoice::Named(name) => {
                adapter.get_info().name.to_ascii_lowercase().contains(&name.to_ascii_lowercase())
            }
        });
        adapters.sort_by_key(rank);
        let adapter = adapters.first().ok_or(GpuError::NoAdapter(seen))?;
        Self::open_adapter(&instance, adapter, options).await
    }

    async fn open_adapter(
        instance: &wgpu::Instance,
        adapter: &wgpu::Adapter,
        options: &GpuOptions,
    ) -> Result<Self, GpuError> {
        let summary = AdapterSummary::of(instance, adapter);
        let f16 = options.f16 && summary.f16;
        let subgroups = summary.subgroups && options.subgroups.unwrap_or_else(|| allowed(SUBGROUPS_VARIABLE));
        let dot = summary.dot && options.dot.unwrap_or_else(|| allowed(DOT_VARIABLE));
        let mut features = Features::empty();
        features.set(Features::SHADER_F16, f16);
        features.set(Features::SUBGROUP, subgroups);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("ocelli"),
            required_features: features,
            required_limits: Limits::default(),
            ..Default::default()
        };
        let refused = |reason: String| GpuError::Open { adapter: summary.name.clone(), reason };
        let (device, queue) =
            adapter.request_device(&descriptor).await.map_err(|error| refused(error.to_string()))?;
        let failure = Arc::new(Mutex::new(None));
        watch(&device, &failure);
        let nothing = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("nothing"),
            size: 256,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let tiled = options.tiled.unwrap_or(!is_software(adapter));
        let pipelines = Mutex::default();
        let opened =
            Opened { device, queue, summary, f16, tiled, subgroups, dot, pipelines, nothing, failure };
        Ok(Self(Arc::new(opened)))
    }

    /// The adapter.
    pub fn adapter(&self) -> &AdapterSummary {
        &self.0.summary
    }

    /// Whether activations are f16.
    pub fn f16(&self) -> bool {
        self.0.f16
    }

    /// Whether sums within subgroups are used.
    pub fn subgroups(&self) -> bool {
        self.0.subgroups
    }

    /// Whether products of 8-bit codes with quantized activations are used.
    pub fn dot(&self) -> bool {
        self.0.dot
    }

    /// End the device, as a driver does that was reset: what runs on it fails from now on.
    pub fn destroy(&self) {
        self.0.device.destroy();
    }

    /// What the driver reported since the device was opened, if anything: a lost device, no memory.
    pub fn failure(&self) -> Option<String> {
        lock(&self.0.failure).clone()
    }

    /// Keep what went wrong, if it is the first; the error to return.
    pub(crate) fn fail(&self, error: &dyn std::fmt::Display) -> RunError {
        RunError::Device(lock(&self.0.failure).get_or_insert_with(|| error.to_string()).clone())
    }

    pub(crate) fn check(&self) -> Result<(), RunError> {
        self.failure().map_or(Ok(()), |message| Err(RunError::Device(message)))
    }

    /// Bytes of one buffer at most, all of which can be bound.
    pub(crate) fn binding_bytes(&self) -> u64 {
        let limits = self.0.device.limits();
        limits.max_storage_buffer_binding_size.min(limits.max_buffer_size)
    }

    pub(crate) fn opened(&self) -> &Opened {
        &self.0
    }

    /// A buffer of at least `bytes` bytes that shaders read and write.
    pub(crate) fn storage(&self, label: &str, bytes: u64) -> wgpu::Buffer {
        self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.next_multiple_of(16).max(16),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// A storage buffer with these values.
    pub(crate) fn storage_of(&self, label: &str, values: &[f32]) -> wgpu::Buffer {
        let buffer = self.storage(label, size_of_val(values) as u64);
        self.0.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(values));
        buffer
    }
}

/// Keep the first thing that goes wrong outside of a call that could return it.
fn watch(device: &wgpu::Device, failure: &Arc<Mutex<Option<String>>>) {
    let kept = Arc::clone(failure);
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        lock(&kept).get_or_insert(error.to_string());
    }));
    let kept = Arc::clone(failure);
    device.set_device_lost_callback(move |reason, message| {
        let why = if reason == wgpu::DeviceLostReason::Destroyed { "it was destroyed" } else { &message };
        lock(&kept).get_or_insert(format!("the device was lost: {why}"));
    });
}

/// Whether this variable of the environment does not forbid something.
fn allowed(variable: &str) -> bool {
    std::env::var(variable).as_deref() != Ok("0")
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
