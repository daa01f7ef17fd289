//! The networks, one file each, as ops in a plan.
//!
//! Widths and depths come from the shapes of the weights and from which of them exist, so a tiny
//! model runs the same code as a real one. This crate never knows files, threads, instruction sets,
//! shaders or block layouts.

#![forbid(unsafe_code)]

mod clip_head;
mod clip_text;
mod fastvithd;
mod projector;
mod qwen2;
mod transformer;
mod vit;

pub use clip_head::{mci, token_head};
pub use clip_text::{ClipTextShape, clip_text};
pub use fastvithd::fastvithd;
pub use projector::projector;
pub use qwen2::{EMBEDDING, LogitRows, Qwen2Shape, qwen2};
pub use vit::{VitShape, vit};
