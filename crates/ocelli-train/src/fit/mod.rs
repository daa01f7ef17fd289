//! The training run: steps of an optimizer over batches, a learning rate that rises and falls, checkpoints from which a
//! run goes on bit for bit, and a record of every step.
//!
//! [`vlm`] trains a FastVLM; what it learns from is behind [`vlm::Examples`]. [`clip`] trains a MobileCLIP.

mod adamw;
pub mod clip;
pub mod page;
mod records;
mod run;
mod schedule;
mod steps;
pub mod vlm;

pub use adamw::{AdamW, AdamWConfig};
pub use records::{Record, Records};
pub use run::Run;
pub use schedule::Schedule;
pub(crate) use steps::STEPS_IN_MEMORY;
