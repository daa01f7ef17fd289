//! Random checkpoints in Apple's layout, of the sizes of the released models, to measure and test with.
//!
//! The numbers mean nothing, but activations stay of ordinary size through all layers: a network that runs
//! denormals or infinities would measure nothing. The same seed gives the same files on every machine.

mod arch;
mod random;
mod write;

pub use arch::{Group, SynthArch, SynthDtype, SynthTensor};
pub use write::{SynthError, synth};
