//! The affine layout of MLX (`ml-explore/mlx`, `mlx.core.quantize`): a row is cut into groups of
//! `group_size` values, each stored as a code of `bits` bits with one scale and one bias a group:
//!
//! ```text
//! value[i] = scale[i / group_size] * code[i] + bias[i / group_size]
//! ```
//!
//! Codes lie in u32 words, lowest bits first: code `i` of a word at bits `[i*bits, (i+1)*bits)`.
//! A scale may be negative.

use std::fmt;

/// An affine layout that can be decoded: 4 or 8 bits, groups of 32 or 64 values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Affine {
    bits: u32,
    group_size: usize,
}

impl Affine {
    /// The layout, or `None` if it is none of those supported.
    pub fn new(bits: u32, group_size: usize) -> Option<Self> {
        let known = matches!(bits, 4 | 8) && matches!(group_size, 32 | 64);
        known.then_some(Self { bits, group_size })
    }

    /// Bits of one code.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// Values that share one scale and one bias.
    pub fn group_size(self) -> usize {
        self.group_size
    }

    /// Codes in one u32.
    pub fn codes_per_word(self) -> usize {
        (32 / self.bits) as usize
    }

    /// The greatest code.
    pub fn max_code(self) -> u32 {
        (1 << self.bits) - 1
    }

    /// u32 words that hold a row of `len` values, or `None` if `len` is no multiple of the group size.
    pub fn words_per_row(self, len: usize) -> Option<usize> {
        len.is_multiple_of(self.group_size).then(|| len / self.codes_per_word())
    }
}

/// The lengths of codes, scales, biases and values do not belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantError {
    /// Values of the row.
    pub values: usize,
    /// Words of codes given.
    pub words: usize,
    /// Scales given.
    pub scales: usize,
    /// Biases given.
    pub biases: usize,
    /// The layout.
    pub layout: Affine,
}

impl fmt::Display for QuantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a row of {} values in {} bits and groups of {} does not fit {} words, {} scales and {} biases",
            self.values, self.layout.bits, self.layout.group_size, self.words, self.scales, self.biases
        )
    }
}

impl std::error::Error for QuantError {}

/// Decode one row into `out`, in f32 arithmetic: the product is rounded, then the sum.
///
/// # Errors
/// When the lengths do not belong together; nothing is written then.
///
/// ```
/// use ocelli_quant::{Affine, decode_affine_row};
/// let layout = Affine::new(8, 32).unwrap();
/// let mut row = [0.0; 32];
/// decode_affine_row(layout, &[0x0302_0100; 8], &[0.5], &[-1.0], &mut row).unwrap();
/// assert_eq!(row[..4], [-1.0, -0.5, 0.0, 0.5]);
/// ```
pub fn decode_affine_row(
    layout: Affine,
    codes: &[u32],
    scales: &[f32],
    biases: &[f32],
    out: &mut [f32],
) -> Result<(), QuantError> {
    check(layout, codes.len(), scales.len(), biases.len(), out.len())?;
    let words = layout.group_size / layout.codes_per_word();
    let groups = out.chunks_exact_mut(layout.group_size).zip(codes.chunks_exact(words));
    for ((out, codes), (&scale, &bias)) in groups.zip(scales.iter().zip(biases)) {
        match layout.bits {
            4 => decode_group::<4, 8>(codes, scale, bias, out),
            _ => decode_group::<8, 4>(codes, scale, bias, out),
        }
    }
    Ok(())
}

/// The inner loop has constant shifts and a constant length, so the compiler unrolls it.
fn decode_group<const BITS: u32, const PER_WORD: usize>(
    codes: &[u32],
    scale: f32,
    bias: f32,
    out: &mut [f32],
) {
    for (out, &word) in out.as_chunks_mut::<PER_WORD>().0.iter_mut().zip(codes) {
        for i in 0..PER_WORD {
            let code = (word >> (BITS * i as u32)) & ((1 << BITS) - 1);
            out[i] = scale * (code as f32) + bias;
        }
    }
}

/// Encode one row: the bias is the least value of a group, the scale its range over the greatest code.
///
/// Decoding gives each value back within half a scale (and rounding of f32). A constant group has scale 0
/// and comes back exactly.
///
/// # Errors
/// When the lengths do not belong together; nothing is written then.
pub fn encode_affine_row(
    layout: Affine,
    values: &[f32],
    codes: &mut [u32],
    scales: &mut [f32],
    biases: &mut [f32],
) -> Result<(), QuantError> {
    check(layout, codes.len(), scales.len(), biases.len(), values.len())?;
    let words = layout.group_size / layout.codes_per_word();
    let groups = values.chunks_exact(layout.group_size).zip(codes.chunks_exact_mut(words));
    for ((values, codes), (scale, bias)) in groups.zip(scales.iter_mut().zip(biases)) {
        (*scale, *bias) = encode_group(layout, values, codes);
    }
    Ok(())
}

fn encode_group(layout: Affine, values: &[f32], codes: &mut [u32]) -> (f32, f32) {
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let greatest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = (greatest - least) / layout.max_code() as f32;
    let per_scale = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (word, values) in codes.iter_mut().zip(values.chunks_exact(layout.codes_per_word())) {
        *word = 0;
        for (i, value) in values.iter().enumerate() {
            let code = ((value - least) * per_scale).round() as u32;
            *word |= code.min(layout.max_code()) << (layout.bits * i as u32);
        }
    }
    (scale, least)
}

fn check(
    layout: Affine,
    words: usize,
    scales: usize,
    biases: usize,
    values: usize,
) -> Result<(), QuantError> {
    let groups = values / layout.group_size;
    if layout.words_per_row(values) == Some(words) && scales == groups && biases == groups {
        return Ok(());
    }
    Err(QuantError { values, words, scales, biases, layout })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUTS: [(u32, usize); 4] = [(4, 32), (4, 64), (8, 32), (8, 64)];

    fn random(state: &mut u64) -> f32 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 40) as f32 / (1 << 24) as f32 - 0.5
    }

    fn layout((bits, group): (u32, usize)) -> Affine {
        Affine::new(bits, group).expect("a supported layout")
    }

    #[test]
    fn only_these_layouts() {
        for bits in 0..=33 {
            for group in [0, 1, 16, 32, 48, 64, 128] {
                let known = (bits == 4 || bits == 8) && (group == 32 || group == 64);
                assert_eq!(Affine::new(bits, group).is_some(), known, "{bits} bits, groups of {group}");
            }
        }
    }

    /// Against the definition, one code at a time.
    #[test]
    fn decode_follows_the_definition() {
        let mut state = 7;
        for l in LAYOUTS.map(layout) {
            for groups in 0..5 {
                let len = groups * l.group_size();
                let codes: Vec<u32> =
                    (0..len / l.codes_per_word()).map(|_| (random(&mut state) * 4e9) as i64 as u32).collect();
                let scales: Vec<f32> = (0..groups).map(|_| random(&mut state)).collect();
                let biases: Vec<f32> = (0..groups).map(|_| random(&mut state)).collect();
                let mut out = vec![f32::NAN; len];
                decode_affine_row(l, &codes, &scales, &biases, &mut out).expect("lengths fit");
                for (i, &value) in out.iter().enumerate() {
                    let bit = i * l.bits() as usize;
                    let code = (codes[bit / 32] >> (bit % 32)) & l.max_code();
                    assert_eq!(value, scales[i / l.group_size()] * code as f32 + biases[i / l.group_size()]);
                }
            }
        }
    }

    #[test]
    fn round_trip_is_within_half_a_scale() {
        let mut state = 1;
        for l in LAYOUTS.map(layout) {
            for scale in [1e-6, 0.02, 1.0, 300.0] {
                let groups = 3;
                let values: Vec<f32> =
                    (0..groups * l.group_size()).map(|_| random(&mut state) * scale).collect();
                let mut codes = vec![u32::MAX; values.len() / l.codes_per_word()];
                let (mut scales, mut biases) = (vec![0.0; groups], vec![0.0; groups]);
                encode_affine_row(l, &values, &mut codes, &mut scales, &mut biases).expect("lengths fit");
                let mut back = vec![0.0; values.len()];
                decode_affine_row(l, &codes, &scales, &biases, &mut back).expect("lengths fit");
                for (i, (a, b)) in values.iter().zip(&back).enumerate() {
                    // 1e-5 of a code is the rounding of `(value - least) / scale` in f32.
                    let bound = scales[i / l.group_size()] * (0.5 + 1e-5 * l.max_code() as f32);
                    assert!((a - b).abs() <= bound, "{l:?} {i}: {a} {b}");
                }
            }
        }
    }

    /// Codes survive decode and encode when the row reaches both ends of each group.
    #[test]
    fn codes_round_trip() {
        for l in LAYOUTS.map(layout) {
            let per_word = l.codes_per_word();
            let words: Vec<u32> = (0..l.group_size() / per_word)
                .map(|w| {
                    (0..per_word).fold(0, |word, i| {
                        let code = if w == 0 && i < 2 {
                            [0, l.max_code()][i]
                        } else {
                            (w * 37 + i * 11) as u32 & l.max_code()
                        };
                        word | code << (l.bits() * i as u32)
                    })
                })
                .collect();
            let mut row = vec![0.0; l.group_size()];
            decode_affine_row(l, &words, &[0.25], &[-3.0], &mut row).expect("lengths fit");
            let (mut again, mut scale, mut bias) = (vec![0; words.len()], [0.0], [0.0]);
            encode_affine_row(l, &row, &mut again, &mut scale, &mut bias).expect("lengths fit");
            assert_eq!((again, scale, bias), (words, [0.25], [-3.0]), "{l:?}");
        }
    }

    #[test]
    fn constant_group_is_exact() {
        let l = layout((4, 32));
        let (mut codes, mut scale, mut bias) = ([9; 4], [1.0], [1.0]);
        encode_affine_row(l, &[0.3; 32], &mut codes, &mut scale, &mut bias).expect("lengths fit");
        let mut back = [0.0; 32];
        decode_affine_row(l, &codes, &scale, &bias, &mut back).expect("lengths fit");
        assert_eq!(back, [0.3; 32]);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let l = layout((8, 64));
        let mut out = [0.0; 64];
        for (words, scales, biases, len) in
            [(15, 1, 1, 64), (17, 1, 1, 64), (16, 0, 1, 64), (16, 1, 2, 64), (16, 1, 1, 63), (8, 1, 1, 32)]
        {
            let result = decode_affine_row(
                l,
                &vec![0; words],
                &vec![0.0; scales],
                &vec![0.0; biases],
                &mut out[..len],
            );
            assert!(result.is_err(), "{words} {scales} {biases} {len}");
        }
    }
}
