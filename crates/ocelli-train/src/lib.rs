//! Training and fine-tuning of the networks that Ocelli runs, on [burn](https://burn.dev).
//!
//! The networks are here in training form, with their branches and BatchNorms: [`nets`] has FastViT (FastVLM's tower
//! and MobileCLIP's), the vision transformers, the text towers, the projector and Qwen2; [`checkpoint`] reads and
//! writes them under the names of the published checkpoints, which the loader of `ocelli` then folds. Activations are
//! `[batch, height, width, channels]` or `[batch, positions, channels]`.
//!
//! The device is chosen at run time: the CPU always, others with the features `cuda` and `wgpu`. On the CPU the heavy
//! operations are our own, forward and backward.
//!
//! [`fit`] has the runs, [`recipe`] the files that say what a run does; what is learned from comes from
//! [`conversations`], [`drawn`] and [`clip_data`].
//!
//! This library never prints: progress is its callers'. It never knows the networks' folded form but as one convolution
//! of a checkpoint.
#![deny(unsafe_code)]

pub mod checkpoint;
pub mod clip_data;
pub mod conversations;
mod cpu;
pub mod drawn;
mod error;
pub mod estimate;
pub mod export;
pub mod fit;
mod folder;
pub mod fresh;
pub mod fresh_clip;
pub mod layers;
pub mod lora;
pub mod losses;
pub mod nets;
pub mod ops;
pub mod precision;
mod random;
pub mod recipe;
pub mod reinforce;
mod tensors;
pub mod vlm_data;

pub use burn;
pub use error::TrainError;
pub use tensors::{Exchange, Form, Named, Parameter};
