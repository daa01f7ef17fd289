//! Runs a plan on the CPU.
//!
//! Each op has a scalar reference, which is its specification, and kernels written once over sixteen
//! lanes and compiled for each instruction set; the best that the CPU has is chosen at run time.
//! This crate never knows checkpoint names, images, prompts or what a network means.

// Without any instruction set there is the reference alone.
#![cfg_attr(all(target_arch = "wasm32", not(target_feature = "simd128")), allow(dead_code, unused))]

mod attention;
mod buffer;
mod conv;
mod cores;
mod depthwise;
mod isa;
mod kv_cache;
#[cfg(target_arch = "x86_64")]
mod kv_tiles;
mod limits;
mod linear;
mod math;
mod matmul;
mod norm;
mod op_times;
mod pack;
mod packed_file;
mod pool;
mod pooling;
mod reference;
mod rope;
mod scratch;
mod session;
mod simd;
mod view;

pub use isa::{ISA_VARIABLE, Isa, IsaError};
pub use kv_cache::KvCache;
pub use limits::MachineLimits;
pub use op_times::OpTimes;
pub use pool::{Pool, available_threads};
pub use session::{Arena, CpuDevice, CpuWeights, PreparedPlan};
