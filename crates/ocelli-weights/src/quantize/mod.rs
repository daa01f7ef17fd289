//! Quantizing the matrices of a model: while they are read ([`quantized`]) or into a new
//! checkpoint ([`write_quantized`]). Both encode the same values with the same code, so both give the
//! same bits.

mod source;
mod write;

use ocelli_plan::BlockFormat;

pub use source::quantized;
pub use write::{QuantizeError, write_quantized};

/// Which matrices are quantized, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantPolicy {
    /// Blocks of the matrices of the language model's layers; `None` leaves them as they are.
    pub layers: Option<BlockFormat>,
    /// Blocks of the embedding and the head, which are one matrix in the small models.
    pub head: Option<BlockFormat>,
    /// Whether the wide matrices of the vision tower become [`BlockFormat::Int8`].
    pub int8_vision: bool,
}

/// Matrices of a vision tower with fewer rows or columns stay as they are: they do little of its work, and their sums
/// are short.
const LEAST_VISION_SIDE: usize = 64;
/// Matrices of a vision tower that nearly all of its work goes through, by the ends of their names. Everything else
/// stays: first convolutions see pixels, depthwise kernels and norms are no matrices, the 1x1 products of stem and
/// downsampling do about one operation in a hundred, and squeeze-and-excite multiplies a single row.
const WIDE_VISION: [&str; 6] = [
    ".ffn.fc1.weight",
    ".ffn.fc2.weight",
    ".mlp.fc1.weight",
    ".mlp.fc2.weight",
    ".attn.qkv.weight",
    ".attn.proj.weight",
];

impl QuantPolicy {
    /// Quantizes the vision tower alone.
    pub const VISION: Self = Self { layers: None, head: None, int8_vision: true };

    /// The policy for the language model that goes by a format's name. The embedding and the head stay in 8 bits:
    /// every token goes through them twice, and nothing after the head can make good what it loses.
    pub const fn of(weights: BlockFormat) -> Self {
        Self { layers: Some(weights), head: Some(BlockFormat::Q8), int8_vision: false }
    }

    /// The same with or without the vision tower.
    pub const fn with_vision(self, int8_vision: bool) -> Self {
        Self { int8_vision, ..self }
    }

    /// The blocks of a tensor under our name, or `None` where it stays as it is: norms, biases, convolutions, what
    /// the policy leaves out, and matrices of the language model whose rows are no whole blocks.
    pub fn format_of(&self, name: &str, shape: &[usize]) -> Option<BlockFormat> {
        if name.starts_with("vision.") {
            let (&[rows, cols] | &[rows, cols, 1, 1]) = shape else { return None };
            let wide = rows.min(cols) >= LEAST_VISION_SIDE && WIDE_VISION.iter().any(|end| name.ends_with(end));
            return (self.int8_vision && wide).then_some(BlockFormat::Int8);
        }
        let language = name.strip_prefix("language.")?;
        let &[_, cols] = shape else { return None };
        if !cols.is_multiple_of(BlockFormat::GROUP) {
            return None;
        }
        let in_layer = language.starts_with("layers.");
        if in_layer { self.layers } else { self.head }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_matrices_of_the_vision_tower_are_quantized_and_nothing_else_of_it() {
        let both = QuantPolicy::of(BlockFormat::Q4).with_vision(true);
        let yes: [(&str, &[usize]); 4] = [
            ("vision.stages.0.blocks.1.ffn.fc1.weight", &[384, 96, 1, 1]),
            ("vision.stages.4.blocks.0.attn.qkv.weight", &[4608, 1536]),
            ("vision.stages.3.blocks.0.attn.proj.weight", &[768, 768]),
            ("vision.blocks.7.mlp.fc2.weight", &[768, 3072]),
        ];
        for (name, shape) in yes {
            assert_eq!(both.format_of(name, shape), Some(BlockFormat::Int8), "{name}");
            assert_eq!(QuantPolicy::VISION.format_of(name, shape), Some(BlockFormat::Int8), "{name}");
            assert_eq!(QuantPolicy::of(BlockFormat::Q4).format_of(name, shape), None, "{name}");
        }
        let no: [(&str, &[usize]); 7] = [
            ("vision.stem.2.weight", &[96, 96, 1, 1]),
            ("vision.stages.1.downsample.pw.weight", &[192, 192, 1, 1]),
            ("vision.stages.0.blocks.0.ffn.dw.weight", &[96, 1, 7, 7]),
            ("vision.stages.0.blocks.0.ffn.fc1.weight", &[192, 48, 1, 1]),
            ("vision.final_conv.se.fc1.weight", &[192, 3072, 1, 1]),
            ("vision.stages.0.blocks.0.ffn.fc1.bias", &[384]),
            ("projector.fc1.weight", &[896, 3072]),
        ];
        for (name, shape) in no {
            assert_eq!(both.format_of(name, shape), None, "{name}");
        }
        let (layer, head) = ("language.layers.0.mlp.up_proj.weight", "language.embed_tokens.weight");
        assert_eq!(both.format_of(layer, &[64, 96]), Some(BlockFormat::Q4));
        assert_eq!(both.format_of(head, &[64, 96]), Some(BlockFormat::Q8));
        assert_eq!(QuantPolicy::VISION.format_of(layer, &[64, 96]), None);
    }
}
