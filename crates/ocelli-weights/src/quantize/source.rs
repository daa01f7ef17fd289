//! Weights that are quantized while they are read.

use std::sync::Arc;

use ocelli_plan::{BlockFormat, WeightError, WeightSource};
use ocelli_quant::{decode_row, encode_row};

use super::QuantPolicy;

/// The same weights with the matrices that the policy names in blocks. Those that are stored in blocks stay so.
pub fn quantized(source: Arc<dyn WeightSource>, policy: QuantPolicy) -> Arc<dyn WeightSource> {
    Arc::new(Quantized { source, policy })
}

struct Quantized {
    source: Arc<dyn WeightSource>,
    policy: QuantPolicy,
}

impl WeightSource for Quantized {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.source.shape(name)
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Result<(), WeightError> {
        self.source.read_rows(name, first_row, out)?;
        if self.source.block_format(name).is_some() {
            return Ok(());
        }
        let Some((format, cols)) = self.block_format(name).zip(self.cols(name)) else { return Ok(()) };
        let mut blocks = vec![0; format.row_bytes(cols)];
        for row in out.chunks_exact_mut(cols) {
            encode_row(format, row, &mut blocks);
            decode_row(format, &blocks, row);
        }
        Ok(())
    }

    fn block_format(&self, name: &str) -> Option<BlockFormat> {
        let stored = self.source.block_format(name);
        stored.or_else(|| self.policy.format_of(name, self.source.shape(name)?))
    }

    fn read_blocks(&self, name: &str, first_row: usize, out: &mut [u8]) -> Result<(), WeightError> {
        if self.source.block_format(name).is_some() {
            return self.source.read_blocks(name, first_row, out);
        }
        let Some((format, cols)) = self.block_format(name).zip(self.cols(name)) else {
            return Err(WeightError::new(name, "it is not stored in blocks"));
        };
        let mut row = vec![0.0; cols];
        for (i, blocks) in out.chunks_exact_mut(format.row_bytes(cols)).enumerate() {
            self.source.read_rows(name, first_row + i, &mut row)?;
            encode_row(format, &row, blocks);
        }
        Ok(())
    }
}

impl Quantized {
    fn cols(&self, name: &str) -> Option<usize> {
        Some(self.source.shape(name)?.iter().skip(1).product())
    }
}
