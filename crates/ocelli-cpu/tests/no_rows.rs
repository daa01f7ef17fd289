//! A run of no rows: what a chunk may be after a prefix that is all known.

use std::sync::Arc;

use ocelli_cpu::{CpuDevice, CpuWeights, Isa, KvCache};
use ocelli_plan::{Activation, AttentionShape, DType, Element, PlanBuilder, Rows};
use ocelli_testing::{RandomWeights, Rng};

const ROWS: usize = 3;

/// The last row of `ROWS` that come in these runs.
fn last_row(isa: Isa, dtype: DType, runs: &[usize]) -> Vec<f32> {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 4 };
    let weights = Arc::new(RandomWeights::new(&[("qkv.weight", &[16, 5]), ("o.weight", &[7, 8])]));
    let mut b = PlanBuilder::new("no rows", &*weights, ROWS);
    let x = b.input("x", Rows::Bound, 5, Element::F32);
    let qkv = b.linear(x, "qkv", Activation::None).expect("plan");
    let rows = b.cached_attention(qkv, shape, 10_000.0, 0).expect("plan");
    let rows = b.linear(rows, "o", Activation::Gelu).expect("plan");
    let y = b.take_last_row(rows);
    b.output("y", y);
    let plan =
        CpuWeights::new(CpuDevice::new(isa, dtype, 2), weights.clone()).prepare(b.finish()).expect("weights");
    let (mut arena, mut cache) = (plan.new_arena(), KvCache::new(1, 1, 4));
    let values = Rng::new(1).values(ROWS * 5);
    let mut first = 0;
    for &rows in runs {
        plan.write(&mut arena, x, &values[first * 5..][..rows * 5]);
        plan.run(&mut arena, rows, Some(&mut cache), &|| false).expect("run");
        first += rows;
        assert_eq!(cache.len(), first);
    }
    plan.read(&mut arena, y, 1)
}

#[test]
fn a_run_of_no_rows_changes_nothing() {
    for isa in Isa::available() {
        for dtype in [DType::F32, DType::Bf16] {
            let want = last_row(isa, dtype, &[2, 1]);
            assert_eq!(last_row(isa, dtype, &[0, 2, 0, 1, 0]), want, "{isa} {dtype:?}");
        }
    }
}
