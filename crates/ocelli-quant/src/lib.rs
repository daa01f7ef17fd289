//! Block quantization layouts: encode and decode as pure functions.
//!
//! This crate never knows files, threads, instruction sets or tensor names.
#![forbid(unsafe_code)]

mod affine;

pub use affine::{Affine, QuantError, decode_affine_row, encode_affine_row};
