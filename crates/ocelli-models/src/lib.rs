//! The networks, one file each, as ops in a plan.
//!
//! Widths and depths come from the shapes of the weights and from which of them exist, so a tiny
//! model runs the same code as a real one. This crate never knows files, threads, instruction sets,
//! shaders or block layouts.

#![forbid(unsafe_code)]

mod fastvithd;
mod projector;
mod qwen2;

pub use fastvithd::fastvithd;
pub use projector::projector;
pub use qwen2::{LogitRows, Qwen2Shape, embed_tokens, qwen2};
