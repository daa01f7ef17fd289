//! Stored numbers to f32: little-endian bytes of any alignment in, f32 out.
//!
//! Each loop has one simple body over fixed-size chunks, which the compiler turns into vector code.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::safetensors_file::Dtype;

/// Values converted at once where a buffer is needed; fits the first-level cache.
const CHUNK: usize = 1024;

/// Whether [`to_f32`] knows the type.
pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Convert as many values as both sides hold. Types that are no floats give zeros; they are refused when a
/// checkpoint is opened.
pub(crate) fn to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => f32_to_f32(bytes, out),
        Dtype::BF16 => bf16_to_f32(bytes, out),
        Dtype::F16 => f16_to_f32(bytes, out),
        _ => out.fill(0.0),
    }
}

fn f32_to_f32(bytes: &[u8], out: &mut [f32]) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *out = f32::from_le_bytes(bytes);
    }
}

/// A bf16 is the upper half of an f32.
fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    }
}

fn f16_to_f32(bytes: &[u8], out: &mut [f32]) {
    let mut halves = [f16::ZERO; CHUNK];
    for (out, bytes) in out.chunks_mut(CHUNK).zip(bytes.chunks(2 * CHUNK)) {
        let halves = &mut halves[..out.len().min(bytes.len() / 2)];
        for (half, &bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(bytes);
        }
        halves.convert_to_f32_slice(&mut out[..halves.len()]);
    }
}

/// Little-endian words.
pub(crate) fn to_u32(bytes: &[u8], out: &mut [u32]) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *out = u32::from_le_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// Every bit pattern of the 16-bit types, at an odd address, against the `half` crate one by one.
    #[test]
    fn sixteen_bit_types_are_exact() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let mut bytes = vec![0];
        bytes.extend(bits.iter().flat_map(|b| b.to_le_bytes()));
        let mut out = vec![0.0; bits.len()];
        to_f32(Dtype::BF16, &bytes[1..], &mut out);
        for (&b, &got) in bits.iter().zip(&out) {
            let want = bf16::from_bits(b).to_f32();
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "bf16 {b:#x}");
        }
        to_f32(Dtype::F16, &bytes[1..], &mut out);
        for (&b, &got) in bits.iter().zip(&out) {
            let want = f16::from_bits(b).to_f32();
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "f16 {b:#x}");
        }
    }

    #[test]
    fn all_lengths() {
        for len in (0..70).chain([CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3]) {
            let values: Vec<f32> = (0..len).map(|i| i as f32 * 0.5 - 9.0).collect();
            let as_f32: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let as_f16: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
            let as_bf16: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
            let mut out = vec![f32::NAN; len];
            to_f32(Dtype::F32, &as_f32, &mut out);
            assert_eq!(out, values);
            to_f32(Dtype::F16, &as_f16, &mut out);
            assert_eq!(out, values);
            to_f32(Dtype::BF16, &as_bf16, &mut out);
            let rounded: Vec<f32> = values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
            assert_eq!(out, rounded);
        }
    }
}
