//! Block quantization layouts: encode and decode as pure functions.
//!
//! This crate never knows files, threads, instruction sets or tensor names.
#![forbid(unsafe_code)]

mod affine;
mod blocks;

pub use affine::{Affine, QuantError, decode_affine_row, encode_affine_row};
pub use blocks::{BlockQ4, BlockQ8, decode_row, encode_row};
