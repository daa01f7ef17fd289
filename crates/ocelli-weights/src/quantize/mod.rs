//! Quantizing the matrices of the language model: while they are read ([`quantized`]) or into a new
//! checkpoint ([`write_quantized`]). Both encode the same values with the same code, so both give the
//! same bits.

mod source;
mod write;

use ocelli_plan::BlockFormat;

pub use source::quantized;
pub use write::{QuantizeError, write_quantized};

/// Which blocks each matrix gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantPolicy {
    /// The matrices of the layers.
    pub layers: BlockFormat,
    /// The embedding and the head, which are one matrix in the small models.
    pub head: BlockFormat,
}

impl QuantPolicy {
    /// The policy that goes by a format's name. The embedding and the head stay in 8 bits: every token
    /// goes through them twice, and nothing after the head can make good what it loses.
    pub const fn of(weights: BlockFormat) -> Self {
        Self { layers: weights, head: BlockFormat::Q8 }
    }

    /// The blocks of a tensor under our name, or `None` where it stays as it is: norms, biases, everything
    /// outside of the language model, and matrices whose rows are no whole blocks.
    pub fn format_of(&self, name: &str, shape: &[usize]) -> Option<BlockFormat> {
        let language = name.strip_prefix("language.")?;
        let &[_, cols] = shape else { return None };
        if !cols.is_multiple_of(BlockFormat::GROUP) {
            return None;
        }
        let in_layer = language.starts_with("layers.");
        Some(if in_layer { self.layers } else { self.head })
    }
}
