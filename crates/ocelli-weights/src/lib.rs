//! Checkpoints of every spelling, read under our own tensor names.
//!
//! [`Checkpoint::open`] maps the files of a model directory, recognises who wrote them by their keys,
//! checks every tensor against the name tables of [`names`] and gives [`Weights`]: an
//! [`ocelli_plan::WeightSource`] in which every BatchNorm and every training branch has been folded away.
//!
//! This crate is the only one that knows checkpoint names. It never knows networks, devices or threads.
#![deny(unsafe_code)]

mod bind;
mod checkpoint;
mod clip;
mod config;
mod convert;
mod disk;
mod error;
mod family;
mod fnv;
mod folder;
pub mod names;
mod pt;
mod quantization;
mod quantize;
mod reparameterize;
mod report;
mod safetensors_file;
mod shards;
mod structure;
mod synth;
mod tensor_file;
mod training;
mod weights;

pub use checkpoint::{Checkpoint, licence_file};
pub use clip::{ClipCheckpoint, ClipConfig, ClipImageConfig, ClipTextConfig, ClipTower, Interpolation};
pub use config::{FastVlmConfig, VisionInfo};
pub use disk::DiskFull;
pub use error::LoadError;
pub use family::Family;
pub use fnv::Fnv;
pub use folder::{Directory, FileBytes, Folder};
pub use pt::{PtError, parse_pt};
pub use quantize::{QuantPolicy, QuantizeError, quantized, write_quantized};
pub use report::{LoadReport, Misshapen};
pub use safetensors_file::{Dtype, Header, HeaderError, TensorInfo, header_json, parse_header};
pub use synth::{Group as SynthGroup, SynthArch, SynthDtype, SynthError, SynthTensor, synth};
pub use training::{FastVitForm, Naming, RawCheckpoint};
pub use weights::{StoredDtype, StoredTensor, Weights};
