//! Runs a plan through WebGPU: Vulkan, Metal and Direct3D natively, `navigator.gpu` in a browser.
//!
//! Each op is one or a few shaders, a `.wgsl` file each, checked against the scalar reference of `ocelli-cpu`.
//! Activations are f32, or f16 where the device has it; matrices f32, bf16 or in the blocks of the checkpoint; sums f32.
//! This crate never knows checkpoint names, images, prompts or what a network means.
#![forbid(unsafe_code)]

mod device;
mod emit;
mod kv_cache;
mod largest;
mod pipeline;
mod session;
mod signal;
mod uniforms;
mod weights;

pub use device::{
    AdapterChoice, AdapterSummary, DOT_VARIABLE, GpuDevice, GpuError, GpuOptions, SUBGROUPS_VARIABLE,
    adapters,
};
pub use kv_cache::GpuKvCache;
pub use pipeline::shader_sources;
pub use session::{GpuArena, GpuPlan};
pub use uniforms::uniform_layouts;
pub use weights::GpuWeights;
