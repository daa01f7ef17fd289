//! What tests share: op cases that every device runs against the scalar reference, random weights,
//! and the reader of the fixtures that other programs wrote. Nothing but tests depends on it.

#![forbid(unsafe_code)]

mod edge_cases;
mod fixtures;
mod op_cases;
mod random;

pub use fixtures::{Tensors, fixture, fixtures_dir, relative_error};
pub use op_cases::{Input, OpCase, op_cases, quantized_op_cases};
pub use random::{RandomWeights, Rng};
