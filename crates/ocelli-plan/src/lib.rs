//! Shapes, the closed set of ops, the plan builder and the arena planner.
//!
//! This crate never knows files, threads, instruction sets or checkpoint names.

mod weights;

pub use weights::{WeightError, WeightSource};
