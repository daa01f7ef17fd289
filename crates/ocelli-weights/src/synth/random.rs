//! Random bf16 and f32 numbers, the same on every machine: integers from a counter, and a few rounded f32
//! operations a number.

use half::bf16;

use super::tensor::{Fill, SynthDtype};
use crate::fnv::Fnv;

/// The stream of one tensor.
pub(super) struct Stream {
    key: u64,
    counter: u64,
}

impl Stream {
    pub(super) fn new(seed: u64, tensor: &str) -> Self {
        Self { key: mix(seed).wrapping_add(hashed(tensor)), counter: 0 }
    }

    /// Four numbers evenly spread over -1..1; never 0, 1 or -1.
    fn next(&mut self) -> [f32; 4] {
        self.counter += 1;
        let bits = mix(self.key.wrapping_add(self.counter.wrapping_mul(GOLDEN_RATIO)));
        // 16 bits a number are more than bf16 keeps, and enough for f32: no two rows of a matrix are alike.
        std::array::from_fn(|i| f32::from((bits >> (16 * i)) as u16) * (1.0 / 32768.0) - (65535.0 / 65536.0))
    }

    /// Fill `out` with little-endian numbers of type `dtype`, from value `first` of the tensor on. Calls must go
    /// through the tensor in order, in pieces of whole multiples of 4 numbers but for the last.
    pub(super) fn fill(
        &mut self,
        fill: Fill,
        shape: &[usize],
        first: u64,
        dtype: SynthDtype,
        out: &mut [u8],
    ) {
        let (mean, amplitude) = mean_and_amplitude(fill);
        let centre = identity_taps(fill, shape);
        let value = |at: u64, u: f32| {
            let value = mean + amplitude * u;
            let copies = centre.is_some_and(|taps| at % taps == taps / 2);
            if copies { value + 1.0 } else { value }
        };
        match dtype {
            SynthDtype::Bf16 => self.each(first, out, |at, u, bytes: &mut [u8; 2]| {
                *bytes = bf16::from_f32(value(at, u)).to_le_bytes();
            }),
            SynthDtype::F32 => self.each(first, out, |at, u, bytes: &mut [u8; 4]| {
                *bytes = value(at, u).to_le_bytes();
            }),
            SynthDtype::I64 => out.fill(0),
        }
    }

    /// Calls `write` for every value of `out`, of `N` bytes, with its place in the tensor and a number.
    fn each<const N: usize>(&mut self, first: u64, out: &mut [u8], write: impl Fn(u64, f32, &mut [u8; N])) {
        for (i, four) in out.chunks_mut(4 * N).enumerate() {
            for (j, (out, u)) in four.as_chunks_mut::<N>().0.iter_mut().zip(self.next()).enumerate() {
                write(first + (4 * i + j) as u64, u, out);
            }
        }
    }
}

/// Mean and half width of the uniform distribution; the standard deviation of -1..1 is 1/sqrt(3).
fn mean_and_amplitude(fill: Fill) -> (f32, f32) {
    match fill {
        Fill::Zero => (0.0, 0.0),
        Fill::Random { mean, std } => (mean, std * 1.732_050_8),
        Fill::Between(low, high) => ((low + high) * 0.5, (high - low) * 0.5),
        Fill::Identity { noise } => (0.0, noise * 1.732_050_8),
    }
}

/// Values of one depthwise kernel, if its middle one gets 1 added.
fn identity_taps(fill: Fill, shape: &[usize]) -> Option<u64> {
    matches!(fill, Fill::Identity { .. }).then(|| shape.iter().skip(1).map(|&dim| dim as u64).product())
}

const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The hash of the name, mixed so that similar names give unlike streams.
fn hashed(name: &str) -> u64 {
    let mut hash = Fnv::default();
    hash.add(name.as_bytes());
    mix(hash.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(fill: Fill, shape: &[usize], seed: u64, name: &str) -> Vec<f32> {
        let mut bytes = vec![0; 2 * shape.iter().product::<usize>()];
        Stream::new(seed, name).fill(fill, shape, 0, SynthDtype::Bf16, &mut bytes);
        bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect()
    }

    #[test]
    fn moments() {
        let shape = [400, 500];
        for (fill, mean, std) in [
            (Fill::Random { mean: 0.0, std: 0.02 }, 0.0, 0.02),
            (Fill::Random { mean: 1.0, std: 0.1 }, 1.0, 0.1),
            (Fill::Between(0.8, 1.2), 1.0, 0.4 / 12f32.sqrt()),
        ] {
            let v = values(fill, &shape, 3, "a");
            let n = v.len() as f32;
            let found = v.iter().sum::<f32>() / n;
            let variance = v.iter().map(|x| (x - found) * (x - found)).sum::<f32>() / n;
            assert!((found - mean).abs() < 0.02 * std, "{fill:?}: mean {found}");
            assert!((variance.sqrt() / std - 1.0).abs() < 0.01, "{fill:?}: std {}", variance.sqrt());
        }
    }

    /// These exact numbers are what makes checkpoints the same everywhere.
    #[test]
    fn pinned() {
        let v = values(Fill::Random { mean: 0.0, std: 1.0 }, &[8], 1, "model.norm.weight");
        assert_eq!(v, PINNED);
        assert_ne!(v, values(Fill::Random { mean: 0.0, std: 1.0 }, &[8], 2, "model.norm.weight"));
        assert_ne!(v, values(Fill::Random { mean: 0.0, std: 1.0 }, &[8], 1, "model.norm.weighs"));
    }

    /// The same numbers, rounded less.
    #[test]
    fn f32_and_bf16_agree() {
        let fill = Fill::Identity { noise: 0.3 };
        let mut bytes = vec![0; 4 * 45];
        Stream::new(1, "a").fill(fill, &[5, 1, 3, 3], 0, SynthDtype::F32, &mut bytes);
        let fine = bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
        let coarse = values(fill, &[5, 1, 3, 3], 1, "a");
        assert!(fine.clone().map(|v| bf16::from_f32(v).to_f32()).eq(coarse.iter().copied()));
        assert!(!fine.eq(coarse));
    }

    const PINNED: [f32; 8] =
        [1.5234375, -1.578125, 0.19238281, 1.390625, -1.3828125, -0.76171875, 1.0, -0.9453125];

    #[test]
    fn identity_kernels_have_one_in_the_middle() {
        let v = values(Fill::Identity { noise: 0.01 }, &[5, 1, 3, 3], 1, "a");
        for (i, v) in v.iter().enumerate() {
            let centre = if i % 9 == 4 { 1.0 } else { 0.0 };
            assert!((v - centre).abs() < 0.03, "{i}: {v}");
        }
    }
}
