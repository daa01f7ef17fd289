//! How a vector is stored: f16, or i8 with one scale.

use std::str::FromStr;

use half::f16;

use crate::{IndexError, Result};

/// Largest magnitude of an i8 number.
const I8_PEAK: f32 = 127.0;

/// How vectors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 2 bytes a number.
    F16,
    /// 1 byte a number, and one f32 scale a vector.
    I8,
}

impl Encoding {
    /// `f16` or `i8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::I8 => "i8",
        }
    }

    /// Bytes of the numbers of one vector.
    pub(crate) fn row_bytes(self, dim: usize) -> usize {
        match self {
            Self::F16 => 2 * dim,
            Self::I8 => dim,
        }
    }

    /// Bytes of one vector in the database: for i8, the scale stands in front.
    pub(crate) fn stored_bytes(self, dim: usize) -> usize {
        self.row_bytes(dim) + if self == Self::I8 { 4 } else { 0 }
    }

    /// `vector` at length 1, as the database holds it.
    pub(crate) fn encode(self, vector: &[f32]) -> Result<Vec<u8>> {
        let unit = normalised(vector)?;
        Ok(match self {
            Self::F16 => unit.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            Self::I8 => {
                let scale = unit.iter().fold(0.0_f32, |peak, x| peak.max(x.abs())) / I8_PEAK;
                let numbers = unit.iter().map(|x| (x / scale).round() as i8 as u8);
                scale.to_le_bytes().into_iter().chain(numbers).collect()
            }
        })
    }

    /// What [`Self::encode`] made, as f32.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F16 => {
                bytes.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect()
            }
            Self::I8 => {
                let (scale, numbers) = split_scale(bytes);
                numbers.iter().map(|&x| f32::from(x as i8) * scale).collect()
            }
        }
    }
}

/// The scale in front of an i8 vector, and its numbers.
pub(crate) fn split_scale(bytes: &[u8]) -> (f32, &[u8]) {
    match bytes.split_first_chunk::<4>() {
        Some((scale, numbers)) => (f32::from_le_bytes(*scale), numbers),
        None => (0.0, &[]),
    }
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "f16" => Ok(Self::F16),
            "i8" => Ok(Self::I8),
            _ => Err(format!("vectors are stored as f16 or i8, not as {name}")),
        }
    }
}

/// `vector` divided by its length.
///
/// # Errors
/// When it is zero or not finite.
pub(crate) fn normalised(vector: &[f32]) -> Result<Vec<f32>> {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if !length.is_finite() || length < 1e-12 {
        return Err(IndexError::NoDirection);
    }
    Ok(vector.iter().map(|&x| (f64::from(x) / length) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn vectors_come_back_at_length_one() {
        let mut random = Random::new(5);
        for (encoding, limit) in [(Encoding::F16, 1e-3), (Encoding::I8, 1e-2)] {
            for dim in [1, 3, 512] {
                let unit = random.direction(dim);
                let long: Vec<f32> = unit.iter().map(|x| x * 70.0).collect();
                let bytes = encoding.encode(&long).unwrap();
                assert_eq!(bytes.len(), encoding.stored_bytes(dim));
                let back = encoding.decode(&bytes);
                let error = unit.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(error <= limit, "{encoding:?} {dim}: {error}");
            }
        }
    }

    #[test]
    fn a_vector_without_direction_is_refused() {
        for vector in [vec![], vec![0.0, 0.0], vec![f32::NAN, 1.0], vec![f32::INFINITY]] {
            assert!(matches!(Encoding::F16.encode(&vector), Err(IndexError::NoDirection)));
        }
    }
}
