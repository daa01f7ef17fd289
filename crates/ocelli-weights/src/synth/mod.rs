//! Random checkpoints of the sizes and in the layouts of the released models, to measure and test with.
//!
//! The numbers mean nothing, but activations stay of ordinary size through all layers: a network that runs
//! denormals or infinities would measure nothing. The same seed gives the same files on every machine.

mod arch;
mod clip_towers;
mod fastvit;
mod fastvlm;
mod mobileclip;
mod module;
mod random;
mod tensor;
mod write;

pub use arch::SynthArch;
pub use tensor::{Group, SynthDtype, SynthTensor};
pub use write::{SynthError, synth};
