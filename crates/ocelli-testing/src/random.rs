//! Seeded random numbers and weights.

use std::collections::HashMap;

use ocelli_plan::{WeightError, WeightSource};

/// SplitMix64: small, seeded, the same on every machine.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator for this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    /// A value in -1..1.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `n` values in -1..1.
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.uniform()).collect()
    }
}

/// Named tensors of random values in -1..1 divided by the square root of the row length.
#[derive(Debug, Clone, Default)]
pub struct RandomWeights {
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
}

impl RandomWeights {
    /// Tensors of these names and shapes; a tensor's values depend on its name only.
    pub fn new(shapes: &[(&str, &[usize])]) -> Self {
        let mut weights = Self::default();
        for (name, shape) in shapes {
            let seed = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
            let row: usize = shape[1..].iter().product();
            let scale = 1.0 / (row as f32).sqrt();
            let values = Rng::new(seed).values(shape.iter().product());
            let values = values.iter().map(|v| v * scale).collect();
            weights.tensors.insert((*name).to_owned(), (shape.to_vec(), values));
        }
        weights
    }
}

impl WeightSource for RandomWeights {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|(shape, _)| &shape[..])
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Result<(), WeightError> {
        let (shape, values) = self.tensors.get(name).ok_or_else(|| WeightError::missing(name))?;
        let first = first_row * shape[1..].iter().product::<usize>();
        let rows = values.get(first..first + out.len());
        out.copy_from_slice(rows.ok_or_else(|| WeightError::new(name, "rows outside of the tensor"))?);
        Ok(())
    }
}
