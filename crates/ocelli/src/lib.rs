//! FastVLM on the user's own machine: an image and a question in, streamed text out.
//!
//! ```no_run
//! use ocelli::{FastVlm, LoadOptions, Request};
//!
//! let model = FastVlm::load("fastvlm-0.5b".as_ref(), &LoadOptions::default())?;
//! let image = model.open_image("photo.jpg".as_ref())?;
//! let request = Request::ask("What is in the picture?", vec![image]);
//! let answer = model.generate(&request, &mut |piece| print!("{piece}"))?;
//! println!("\nfirst token after {:.0} ms", answer.timings.ttft_ms);
//! # Ok::<(), ocelli::Error>(())
//! ```
//!
//! This crate never knows HTTP, terminals or checkpoint names.

#![forbid(unsafe_code)]

mod answer;
mod engine;
mod error;
mod fastvlm;
mod folder;
mod gate;
mod memory;
mod mobileclip;
mod packed;
mod prefix;
mod profile;
mod request;
mod running;
mod sampler;
mod self_test;
mod trace;

pub use answer::{Answer, FinishReason, Timings, Usage};
pub use engine::DeviceChoice;
pub use error::Error;
pub use fastvlm::{FastVlm, LoadOptions, memory_plan};
pub use gate::{Compared, GREEDY_TOKENS, GateLimits, built_in_images, compare};
pub use memory::{MemoryPlan, available_memory_bytes, peak_rss_bytes, reset_peak_rss};
pub use mobileclip::{ClipImage, ClipOptions, LabelScore, MobileClip};
pub use ocelli_gpu::{AdapterChoice, AdapterSummary};

/// The GPUs of this machine, and software that stands in for one; reads no model.
pub fn adapters() -> Vec<AdapterSummary> {
    pollster::block_on(ocelli_gpu::adapters())
}

pub use ocelli_cpu::{Isa, MachineLimits, available_threads};
pub use ocelli_image::{DecodeOptions, ImageError, Orientation, Rgb8};
pub use ocelli_plan::{BlockFormat, DType};
pub use ocelli_text::{Role, Turn, templates};
pub use ocelli_weights::{
    Checkpoint, ClipCheckpoint, ClipConfig, Directory, FileBytes, Folder, LoadReport, QuantPolicy,
    QuantizeError, SynthArch, licence_file, write_quantized,
};
pub use profile::{ModelMemory, OpProfile};
pub use request::{CancelToken, Fit, Image, ImageOptions, Request, Sampling};
pub use trace::Stage;
