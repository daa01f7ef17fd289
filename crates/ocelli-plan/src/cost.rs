//! What an op has to do, whatever device does it: operations and bytes.
//!
//! These are lower limits for a roofline: every tensor is counted once, as if nothing had to be read twice.

use crate::op::Op;
use crate::plan::{DType, Element, Plan, TensorId, WeightId};

/// The work of one op in one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpCost {
    /// Floating-point operations; a multiplication and an addition are two. Products count in full, the other
    /// ops with the steps of their formulas; an exponential, a root and a division are one each.
    pub flops: u64,
    /// Bytes of the activations that are read and written, and of keys and values in the cache (f32).
    pub activation_bytes: u64,
}

impl Plan {
    /// The work of `op` with `rows` bound rows, `past` positions in the key/value cache and activations of
    /// type `dtype`. Weights are not in it: their size is the device's choice, see [`Op::weights`].
    pub fn op_cost(&self, op: &Op, rows: usize, past: usize, dtype: DType) -> OpCost {
        let written = self.bound_bytes(op.writes(), rows, dtype);
        let read = match op {
            // One row of its input.
            Op::TakeLastRow(_) => written,
            _ => op.reads().into_iter().map(|id| self.bound_bytes(id, rows, dtype)).sum(),
        };
        let mut cost = OpCost { flops: self.flops(op, rows, past), activation_bytes: read + written };
        if let Op::CachedAttention(o) = op {
            // Keys and values that were there are read, those of the new rows are written and read.
            let position = 2 * o.kv_heads * o.head_dim * size_of::<f32>();
            cost.activation_bytes += ((past + 2 * rows) * position) as u64;
        }
        cost
    }

    fn bound_bytes(&self, id: TensorId, rows: usize, dtype: DType) -> u64 {
        let decl = self.tensor(id);
        let size = match decl.element {
            Element::Activation => dtype.size(),
            Element::F32 | Element::U32 => 4,
        };
        (self.rows(id, rows) * decl.cols * size) as u64
    }

    fn flops(&self, op: &Op, rows: usize, past: usize) -> u64 {
        let elements = |id: TensorId| self.rows(id, rows) * self.tensor(id).cols;
        let weight = |id: WeightId| {
            let decl = self.weight(id);
            decl.rows * decl.cols
        };
        let product = |x: TensorId, w: WeightId| 2 * self.rows(x, rows) * weight(w);
        let flops = match op {
            Op::Linear(o) => product(o.x, o.weight),
            Op::GatedLinear(o) => product(o.x, o.weight),
            Op::Mlp(o) => product(o.x, o.fc1) + product(o.x, o.fc2),
            Op::DepthwiseConv(o) => 2 * elements(o.out) * o.kernel[0] * o.kernel[1],
            Op::Conv(o) => product(o.out, o.weight),
            // Mean, difference, square, sum, scale, weight, bias.
            Op::LayerNorm(o) => 7 * elements(o.x),
            // Square, sum, scale, weight.
            Op::RmsNorm(o) => 4 * elements(o.x),
            Op::Attention(o) => {
                let n = self.rows(o.qkv, rows);
                let pairs = if o.causal { n * (n + 1) / 2 } else { n * n };
                4 * pairs * o.heads * o.head_dim
            }
            Op::CachedAttention(o) => {
                let pairs = rows * past + rows * (rows + 1) / 2;
                4 * pairs * o.heads * o.head_dim
            }
            // Two products and a sum for each value.
            Op::Rope(o) => 3 * self.rows(o.x, rows) * o.heads * o.head_dim,
            Op::SqueezeExcite(o) => 2 * elements(o.x) + 2 * (weight(o.fc1) + weight(o.fc2)),
            Op::MeanPool(o) => elements(o.x),
            Op::Add(o) => elements(o.out),
            Op::AddPositions(o) => elements(o.out),
            Op::Embed(_) | Op::TakeLastRow(_) => 0,
        };
        flops as u64
    }
}

impl Op {
    /// Weights that the op reads whole: tables of which it gathers rows are not among them.
    pub fn weights(&self) -> Vec<WeightId> {
        match self {
            Op::Linear(o) => [Some(o.weight), o.bias, o.scale].into_iter().flatten().collect(),
            Op::GatedLinear(o) => vec![o.weight],
            Op::Mlp(o) => {
                let all = [Some(o.fc1), Some(o.bias1), Some(o.fc2), Some(o.bias2), o.scale];
                all.into_iter().flatten().collect()
            }
            Op::DepthwiseConv(o) => [Some(o.weight), o.bias].into_iter().flatten().collect(),
            Op::Conv(o) => [Some(o.weight), o.bias].into_iter().flatten().collect(),
            Op::LayerNorm(o) => vec![o.weight, o.bias],
            Op::RmsNorm(o) => vec![o.weight],
            Op::SqueezeExcite(o) => vec![o.fc1, o.bias1, o.fc2, o.bias2],
            Op::AddPositions(o) => o.first.into_iter().collect(),
            Op::Attention(_)
            | Op::CachedAttention(_)
            | Op::Rope(_)
            | Op::Embed(_)
            | Op::MeanPool(_)
            | Op::Add(_)
            | Op::TakeLastRow(_) => vec![],
        }
    }

    /// Whether nearly all of its work is a product with a matrix, which some processors have units of their
    /// own for.
    pub fn is_matrix_product(&self) -> bool {
        matches!(self, Op::Linear(_) | Op::GatedLinear(_) | Op::Mlp(_) | Op::Conv(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Activation, CachedAttention, Linear, Rows, TakeLastRow, TensorDecl, WeightDecl, WeightLayout,
    };

    fn plan(cols: [usize; 3]) -> Plan {
        let tensor = |cols| TensorDecl {
            name: String::new(),
            rows: Rows::Bound,
            cols,
            element: Element::Activation,
            is_input: false,
            is_output: false,
        };
        let matrix = WeightDecl {
            parts: vec!["w".into()],
            rows: cols[1],
            cols: cols[0],
            layout: WeightLayout::Matrix,
        };
        let (tensors, weights) = (cols.map(tensor).to_vec(), vec![matrix]);
        Plan { name: "test".into(), tensors, weights, ops: vec![], max_rows: 100 }
    }

    #[test]
    fn a_product_counts_two_for_each_weight_and_row() {
        let plan = plan([8, 24, 8]);
        let (x, out) = (TensorId(0), TensorId(1));
        let activation = Activation::None;
        let (bias, scale, residual) = (None, None, None);
        let op = Op::Linear(Linear { x, weight: WeightId(0), bias, activation, scale, residual, out });
        let cost = plan.op_cost(&op, 5, 0, DType::Bf16);
        assert_eq!(cost.flops, 2 * 5 * 8 * 24);
        assert_eq!(cost.activation_bytes, 5 * (8 + 24) * 2);
        assert_eq!(plan.op_cost(&op, 5, 0, DType::F32).activation_bytes, 5 * (8 + 24) * 4);
        assert_eq!((op.weights(), op.is_matrix_product()), (vec![WeightId(0)], true));
    }

    #[test]
    fn the_last_row_is_all_that_is_read_of_it() {
        let mut plan = plan([8, 24, 8]);
        plan.tensors[2].rows = Rows::Fixed(1);
        let op = Op::TakeLastRow(TakeLastRow { x: TensorId(0), out: TensorId(2) });
        assert_eq!(plan.op_cost(&op, 50, 0, DType::Bf16), OpCost { flops: 0, activation_bytes: 2 * 8 * 2 });
    }

    #[test]
    fn cached_attention_sees_all_positions_before() {
        let plan = plan([8, 24, 8]);
        let (qkv, out) = (TensorId(1), TensorId(2));
        let op =
            Op::CachedAttention(CachedAttention { qkv, heads: 2, kv_heads: 1, head_dim: 4, layer: 0, out });
        // One row after ten sees eleven positions; two products of 4 values for each of 2 heads.
        assert_eq!(plan.op_cost(&op, 1, 10, DType::F32).flops, 11 * 2 * 2 * 4 * 2);
        // Three rows from nothing see 1 + 2 + 3.
        assert_eq!(plan.op_cost(&op, 3, 0, DType::F32).flops, 6 * 2 * 2 * 4 * 2);
        let cache = 2 * 4 * 4;
        assert_eq!(plan.op_cost(&op, 1, 10, DType::F32).activation_bytes, (24 + 8) * 4 + 12 * cache);
        assert!(!op.is_matrix_product());
    }
}
