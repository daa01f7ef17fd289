//! Our own blocks: 32 values, or a whole row, with one scale and a signed code each.
//!
//! ```text
//! value[i] = scale * code[i]        q8, int8: code in -127..=127, q4: code in -8..=7
//! ```
//!
//! The scale is an f16 for the 32 values of a block of q8 and q4, and an f32 for a row of int8.
//!
//! The product of an f16 scale and such a code is exact in f32, so everybody who decodes a block gets the same
//! bits, whatever the instruction set. There is no minimum: on bell-shaped weights symmetric 4-bit codes
//! in groups of 32 have a smaller error than codes with a minimum in groups of 64 of the same size
//! (`symmetric_codes_are_as_good_as_those_with_a_minimum` below measures it).

use half::f16;
use ocelli_plan::BlockFormat;

const GROUP: usize = BlockFormat::GROUP;

/// 32 values in 8 bits each.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct BlockQ8 {
    /// What a code of 1 is worth.
    pub scale: f16,
    /// The codes.
    pub codes: [i8; GROUP],
}

/// 32 values in 4 bits each.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct BlockQ4 {
    /// What a code of 1 is worth; negative where the largest value is positive.
    pub scale: f16,
    /// Two codes a byte in two's complement: code `2 i` in the lower half, code `2 i + 1` in the upper.
    pub codes: [u8; GROUP / 2],
}

const _: () = assert!(size_of::<BlockQ8>() == BlockFormat::Q8.block_bytes(GROUP) && size_of::<BlockQ8>() == 34);
const _: () = assert!(size_of::<BlockQ4>() == BlockFormat::Q4.block_bytes(GROUP) && size_of::<BlockQ4>() == 18);

impl BlockQ8 {
    /// Codes of the values: each comes back within half a scale, and a block of zeros exactly.
    ///
    /// A value that is no finite number makes the scale NaN, one beyond 127 times the largest f16
    /// makes it infinite: readers refuse such blocks. Below an f16 a scale becomes 0.
    pub fn encode(values: &[f32; GROUP]) -> Self {
        let Some(peak) = peak(values) else { return Self { scale: f16::NAN, codes: [0; GROUP] } };
        let scale = f16::from_f32(peak.abs() / 127.0);
        let per_scale = inverse(scale);
        Self { scale, codes: values.map(|v| round(v * per_scale).clamp(-127.0, 127.0) as i8) }
    }

    /// The values.
    pub fn decode(&self) -> [f32; GROUP] {
        let scale = self.scale.to_f32();
        self.codes.map(|code| scale * f32::from(code))
    }

    /// The block as it is stored, little-endian.
    pub fn to_bytes(&self) -> [u8; 34] {
        let mut bytes = [0; 34];
        bytes[..2].copy_from_slice(&self.scale.to_le_bytes());
        bytes[2..].iter_mut().zip(self.codes).for_each(|(byte, code)| *byte = code as u8);
        bytes
    }

    /// The block that [`Self::to_bytes`] stored.
    pub fn from_bytes(bytes: &[u8; 34]) -> Self {
        let mut codes = [0; GROUP];
        codes.iter_mut().zip(&bytes[2..]).for_each(|(code, &byte)| *code = byte as i8);
        Self { scale: f16::from_le_bytes([bytes[0], bytes[1]]), codes }
    }
}

impl BlockQ4 {
    /// Codes of the values, with the scale of [`Self::DIVISORS`] that has the smallest squared error.
    ///
    /// Blocks of zeros come back exactly; extreme values are as for [`BlockQ8::encode`], with 8 in
    /// place of 127.
    pub fn encode(values: &[f32; GROUP]) -> Self {
        let Some(peak) = peak(values) else { return Self { scale: f16::NAN, codes: [0; GROUP / 2] } };
        let (mut best, mut least) = (Self { scale: f16::ZERO, codes: [0; GROUP / 2] }, f32::INFINITY);
        for divisor in Self::DIVISORS {
            let scale = f16::from_f32(peak / divisor);
            let (step, per_scale) = (scale.to_f32(), inverse(scale));
            let codes = values.map(|v| round(v * per_scale).clamp(-8.0, 7.0));
            let mut error = 0.0;
            for (v, code) in values.iter().zip(codes) {
                error += (v - step * code) * (v - step * code);
            }
            if error < least || !scale.is_finite() {
                (best, least) = (Self::pack(scale, codes.map(|c| c as i8)), error);
            }
        }
        best
    }

    /// What the value of largest magnitude is divided by to get the scale: -8 gives it the code that
    /// reaches farthest, smaller ones trade its error for those of the others.
    const DIVISORS: [f32; 5] = [-8.0, -7.6, -7.2, -8.5, -9.0];

    fn pack(scale: f16, codes: [i8; GROUP]) -> Self {
        let mut block = Self { scale, codes: [0; GROUP / 2] };
        for (byte, pair) in block.codes.iter_mut().zip(codes.as_chunks::<2>().0) {
            *byte = (pair[0] as u8 & 15) | (pair[1] as u8) << 4;
        }
        block
    }

    /// The codes, in -8..=7.
    pub fn unpack(&self) -> [i8; GROUP] {
        let mut codes = [0; GROUP];
        for (pair, &byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(&self.codes) {
            *pair = [(byte << 4) as i8 >> 4, byte as i8 >> 4];
        }
        codes
    }

    /// The values.
    pub fn decode(&self) -> [f32; GROUP] {
        let scale = self.scale.to_f32();
        self.unpack().map(|code| scale * f32::from(code))
    }

    /// The block as it is stored, little-endian.
    pub fn to_bytes(&self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[..2].copy_from_slice(&self.scale.to_le_bytes());
        bytes[2..].copy_from_slice(&self.codes);
        bytes
    }

    /// The block that [`Self::to_bytes`] stored.
    pub fn from_bytes(bytes: &[u8; 18]) -> Self {
        let mut codes = [0; GROUP / 2];
        codes.copy_from_slice(&bytes[2..]);
        Self { scale: f16::from_le_bytes([bytes[0], bytes[1]]), codes }
    }
}

/// The value of largest magnitude, or `None` if one is no finite number.
fn peak(values: &[f32; GROUP]) -> Option<f32> {
    if !values.iter().all(|v| v.is_finite()) {
        return None;
    }
    let largest = values.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    Some(if values.contains(&largest) { largest } else { -largest })
}

fn inverse(scale: f16) -> f32 {
    if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() }
}

/// The nearest integer, ties to even, for magnitudes below 2^22: without a library call, so that the
/// loops around it become vector code on every machine.
fn round(v: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (v.clamp(-1e6, 1e6) + MAGIC) - MAGIC
}

/// Encode one row; its last block is padded with zeros.
///
/// # Panics
/// When `blocks` is not [`BlockFormat::row_bytes`] of the values long.
///
/// ```
/// use ocelli_plan::BlockFormat;
/// use ocelli_quant::{decode_row, encode_row};
/// let row = [1.0, -0.5, 0.25];
/// let mut blocks = [0; 34];
/// encode_row(BlockFormat::Q8, &row, &mut blocks);
/// let mut back = [0.0; 3];
/// decode_row(BlockFormat::Q8, &blocks, &mut back);
/// assert!(row.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.004));
/// ```
pub fn encode_row(format: BlockFormat, values: &[f32], blocks: &mut [u8]) {
    assert_eq!(blocks.len(), format.row_bytes(values.len()), "blocks of a row");
    if format == BlockFormat::Int8 {
        return encode_whole_row(values, blocks);
    }
    for (values, block) in values.chunks(GROUP).zip(blocks.chunks_exact_mut(format.block_bytes(GROUP))) {
        let mut group = [0.0; GROUP];
        group[..values.len()].copy_from_slice(values);
        match format {
            BlockFormat::Q4 => block.copy_from_slice(&BlockQ4::encode(&group).to_bytes()),
            _ => block.copy_from_slice(&BlockQ8::encode(&group).to_bytes()),
        }
    }
}

/// The scale is the largest magnitude over 127, so each value comes back within half of it. A value that is no
/// finite number makes it NaN: readers refuse such rows.
fn encode_whole_row(values: &[f32], row: &mut [u8]) {
    let most = values.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let scale = if values.iter().all(|v| v.is_finite()) { most / 127.0 } else { f32::NAN };
    let per_scale = if scale > 0.0 { 127.0 / most } else { 0.0 };
    let (head, codes) = row.split_at_mut(size_of::<f32>());
    head.copy_from_slice(&scale.to_le_bytes());
    for (code, v) in codes.iter_mut().zip(values) {
        *code = round(v * per_scale).clamp(-127.0, 127.0) as i8 as u8;
    }
}

/// Decode one row.
///
/// # Panics
/// When `blocks` is not [`BlockFormat::row_bytes`] of the values long.
pub fn decode_row(format: BlockFormat, blocks: &[u8], values: &mut [f32]) {
    assert_eq!(blocks.len(), format.row_bytes(values.len()), "blocks of a row");
    if format == BlockFormat::Int8 {
        return decode_whole_row(blocks, values);
    }
    for (values, block) in values.chunks_mut(GROUP).zip(blocks.chunks_exact(format.block_bytes(GROUP))) {
        let group = match (format, block.first_chunk(), block.first_chunk()) {
            (BlockFormat::Q8, Some(block), _) => BlockQ8::from_bytes(block).decode(),
            (BlockFormat::Q4, _, Some(block)) => BlockQ4::from_bytes(block).decode(),
            _ => unreachable!("blocks have the format's length"),
        };
        values.copy_from_slice(&group[..values.len()]);
    }
}

fn decode_whole_row(row: &[u8], values: &mut [f32]) {
    if let Some((scale, codes)) = row.split_first_chunk() {
        let scale = f32::from_le_bytes(*scale);
        values.iter_mut().zip(codes).for_each(|(v, &code)| *v = scale * f32::from(code as i8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Affine, decode_affine_row, encode_affine_row};

    const FORMATS: [BlockFormat; 2] = [BlockFormat::Q8, BlockFormat::Q4];
    const ALL: [BlockFormat; 3] = [BlockFormat::Q8, BlockFormat::Q4, BlockFormat::Int8];

    /// SplitMix64 in -1..1.
    fn random(state: &mut u64) -> f32 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// A sum of uniform values: bell-shaped, as trained weights are.
    fn bell(state: &mut u64) -> f32 {
        (0..6).map(|_| random(state)).sum::<f32>() * 0.02
    }

    fn round_trip(format: BlockFormat, values: &[f32]) -> Vec<f32> {
        let mut blocks = vec![0; format.row_bytes(values.len())];
        encode_row(format, values, &mut blocks);
        let mut back = vec![f32::NAN; values.len()];
        decode_row(format, &blocks, &mut back);
        back
    }

    fn rms_error(values: &[f32], back: &[f32]) -> f64 {
        let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        (values.iter().zip(back).map(square).sum::<f64>() / values.len() as f64).sqrt()
    }

    /// The rounding of the scale to f16 (2^-11) moves the largest code by 127 * 2^-11 of a step.
    #[test]
    fn errors_are_bounded_at_every_length_and_size() {
        let mut state = 3;
        for length in 1..=97 {
            for size in [1e-2, 1.0, 1e3] {
                let values: Vec<f32> = (0..length).map(|_| random(&mut state) * size).collect();
                for (format, half_step) in [(BlockFormat::Q8, 0.57 / 127.0), (BlockFormat::Q4, 1.01 / 8.0)] {
                    let back = round_trip(format, &values);
                    for (values, back) in values.chunks(GROUP).zip(back.chunks(GROUP)) {
                        let most = values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                        for (a, b) in values.iter().zip(back) {
                            assert!((a - b).abs() <= half_step * most, "{format:?} {a} {b} of {most}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_are_exact_and_extremes_are_kept_or_told() {
        for format in FORMATS {
            assert_eq!(round_trip(format, &[0.0; 45]), [0.0; 45]);
            // Below half of the smallest f16 a scale is zero; the error is at most the value.
            assert_eq!(round_trip(format, &[1e-9; 32]), [0.0; 32]);
            let mut row = [0.0; 32];
            row[7] = 3e5;
            assert!((round_trip(format, &row)[7] / 3e5 - 1.0).abs() < 0.1, "{format:?}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38] {
                row[7] = bad;
                assert!(!round_trip(format, &row)[7].is_finite(), "{format:?} {bad}");
            }
        }
    }

    #[test]
    fn a_whole_row_has_one_scale() {
        let mut state = 11;
        for length in 1..=97 {
            for size in [1e-30, 1e-2, 1.0, 1e30] {
                let values: Vec<f32> = (0..length).map(|_| random(&mut state) * size).collect();
                let most = values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                for (a, b) in values.iter().zip(round_trip(BlockFormat::Int8, &values)) {
                    assert!((a - b).abs() <= 0.501 / 127.0 * most, "{a} {b} of {most}");
                }
            }
        }
        assert_eq!(round_trip(BlockFormat::Int8, &[0.0; 45]), [0.0; 45]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(round_trip(BlockFormat::Int8, &[1.0, bad, 2.0]).iter().all(|v| v.is_nan()), "{bad}");
        }
    }

    /// Encoding what was decoded changes nothing: codes of codes are the same codes.
    #[test]
    fn decoded_rows_encode_to_themselves() {
        let mut state = 13;
        for format in ALL {
            let values: Vec<f32> = (0..64).map(|_| random(&mut state)).collect();
            let once = round_trip(format, &values);
            let twice = round_trip(format, &once);
            let worst = once.iter().zip(&twice).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
            // The 4-bit search may trade differently.
            assert!(worst < if format == BlockFormat::Q4 { 0.2 } else { 1e-6 }, "{format:?} {worst}");
        }
    }

    /// The largest magnitude, of either sign, is never cut off by more than the trade allows.
    #[test]
    fn outliers_survive() {
        for sign in [1.0, -1.0] {
            let mut values = [0.01; 32];
            values[31] = sign;
            let back = round_trip(BlockFormat::Q4, &values);
            assert!((back[31] - sign).abs() < 1e-3, "{}", back[31]);
        }
    }

    #[test]
    fn codes_round_trip_through_bytes() {
        let mut state = 9;
        for _ in 0..100 {
            let values: [f32; 32] = std::array::from_fn(|_| random(&mut state));
            let (q8, q4) = (BlockQ8::encode(&values), BlockQ4::encode(&values));
            assert_eq!(BlockQ8::from_bytes(&q8.to_bytes()), q8);
            assert_eq!(BlockQ4::from_bytes(&q4.to_bytes()), q4);
            assert_eq!(BlockQ4::pack(q4.scale, q4.unpack()), q4);
            assert!(q8.codes.iter().all(|&c| c != i8::MIN));
        }
        let all = BlockQ4::pack(f16::ONE, std::array::from_fn(|i| (i % 16) as i8 - 8));
        assert_eq!(all.decode()[..17], std::array::from_fn::<f32, 17, _>(|i| (i % 16) as f32 - 8.0));
    }

    /// The choice of the search and of having no minimum, at the same 4.5 bits a value.
    #[test]
    fn symmetric_codes_are_as_good_as_those_with_a_minimum() {
        let mut state = 5;
        let values: Vec<f32> = (0..64 * 2000).map(|_| bell(&mut state)).collect();
        let ours = rms_error(&values, &round_trip(BlockFormat::Q4, &values));
        let plain: Vec<f32> = values
            .as_chunks::<GROUP>()
            .0
            .iter()
            .flat_map(|group| {
                let scale = f16::from_f32(peak(group).expect("finite") / -8.0);
                let per_scale = inverse(scale);
                group.map(|v| round(v * per_scale).clamp(-8.0, 7.0) * scale.to_f32())
            })
            .collect();
        let plain = rms_error(&values, &plain);
        let with_minimum = |group: usize| {
            let layout = Affine::new(4, group).expect("known");
            let (mut codes, groups) = (vec![0; values.len() / 8], values.len() / group);
            let (mut scales, mut biases) = (vec![0.0; groups], vec![0.0; groups]);
            encode_affine_row(layout, &values, &mut codes, &mut scales, &mut biases).expect("fits");
            let mut back = vec![0.0; values.len()];
            decode_affine_row(layout, &codes, &scales, &biases, &mut back).expect("fits");
            rms_error(&values, &back)
        };
        let (half, same) = (with_minimum(32), with_minimum(64));
        println!(
            "q4 {ours:.3e}, without search {plain:.3e}, minimum in groups of 64 {same:.3e}, of 32 {half:.3e}"
        );
        assert!(ours < 0.97 * plain && ours < same, "{ours} {plain} {same}");
    }
}
