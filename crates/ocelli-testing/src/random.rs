//! Seeded random numbers and weights.

use std::collections::HashMap;

use ocelli_plan::{BlockFormat, WeightError, WeightSource};
use ocelli_quant::{decode_row, encode_row};

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
    blocks: Option<BlockFormat>,
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

    /// One tensor of these values.
    pub fn with(name: &str, shape: &[usize], values: Vec<f32>) -> Self {
        let tensors = HashMap::from([(name.to_owned(), (shape.to_vec(), values))]);
        Self { tensors, blocks: None }
    }

    /// The same weights, those of more than one dimension quantized.
    pub fn quantized(mut self, format: BlockFormat) -> Self {
        self.blocks = Some(format);
        self
    }

    /// `n` rows from row `first`.
    fn rows(&self, name: &str, first: usize, n: usize) -> Result<&[f32], WeightError> {
        let (shape, values) = self.tensors.get(name).ok_or_else(|| WeightError::missing(name))?;
        let cols = shape[1..].iter().product::<usize>();
        let rows = values.get(first * cols..(first + n) * cols);
        rows.ok_or_else(|| WeightError::new(name, "rows outside of the tensor"))
    }
}

impl WeightSource for RandomWeights {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|(shape, _)| &shape[..])
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Result<(), WeightError> {
        let shape = self.shape(name).ok_or_else(|| WeightError::missing(name))?;
        let cols = shape[1..].iter().product::<usize>();
        out.copy_from_slice(self.rows(name, first_row, out.len() / cols)?);
        if let Some(format) = self.block_format(name) {
            let mut blocks = vec![0; format.row_bytes(cols)];
            for row in out.chunks_exact_mut(cols) {
                encode_row(format, row, &mut blocks);
                decode_row(format, &blocks, row);
            }
        }
        Ok(())
    }

    fn block_format(&self, name: &str) -> Option<BlockFormat> {
        self.blocks.filter(|_| self.shape(name).is_some_and(|shape| shape.len() > 1))
    }

    fn read_blocks(&self, name: &str, first_row: usize, out: &mut [u8]) -> Result<(), WeightError> {
        let shape = self.shape(name).ok_or_else(|| WeightError::missing(name))?;
        let cols = shape[1..].iter().product::<usize>();
        let Some(format) = self.block_format(name) else {
            return Err(WeightError::new(name, "it is not stored in blocks"));
        };
        let row_bytes = format.row_bytes(cols);
        for (i, out) in out.chunks_exact_mut(row_bytes).enumerate() {
            encode_row(format, self.rows(name, first_row + i, 1)?, out);
        }
        Ok(())
    }
}
