//! Every op case on every instruction set that this machine has, against the scalar reference.

use ocelli_cpu::{CpuDevice, CpuWeights, Isa, KvCache};
use ocelli_plan::DType;
use ocelli_testing::{OpCase, op_cases, relative_error};

/// Outputs of all runs of a case, one after the other.
fn answer(case: &OpCase, isa: Isa, dtype: DType, threads: usize) -> Vec<f32> {
    let weights = CpuWeights::new(CpuDevice::new(isa, dtype, threads), case.weights.clone());
    let plan = weights.prepare(case.plan.clone()).expect(&case.name);
    let mut arena = plan.new_arena();
    let mut cache = case.cache.map(|(layers, heads, dim)| KvCache::new(layers, heads, dim));
    let y = plan.plan().find("y").expect("output");
    let (mut out, mut first) = (Vec::new(), 0);
    for &rows in &case.runs {
        if let Some(ids) = plan.plan().find("ids") {
            plan.write_ids(&mut arena, ids, &case.ids);
        }
        if let Some(x) = plan.plan().find("x") {
            let cols = plan.plan().tensor(x).cols;
            plan.write(&mut arena, x, &case.x[first * cols..][..rows * cols]);
        }
        plan.run(&mut arena, rows.min(plan.plan().max_rows), cache.as_mut(), &|| false).expect(&case.name);
        out.extend(plan.read(&mut arena, y, rows));
        first += rows;
    }
    out
}

fn kernels() -> Vec<Isa> {
    let found: Vec<Isa> = Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar).collect();
    let names: Vec<&str> = found.iter().map(|isa| isa.name()).collect();
    println!("kernels tested on this machine: {names:?}");
    found
}

/// Report every failing case, not the first.
fn check(limit: f64, dtype: DType) {
    let mut failures = Vec::new();
    for case in op_cases() {
        let want = answer(&case, Isa::Scalar, dtype, 1);
        assert!(want.iter().all(|v| v.is_finite()), "{}", case.name);
        for isa in kernels() {
            let error = relative_error(&answer(&case, isa, dtype, 2), &want);
            if error.is_nan() || error > limit {
                failures.push(format!("{isa} {}: {error:.2e}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "over {limit}:\n{}", failures.join("\n"));
}

/// f32 sums in another order: a few units in the last place.
#[test]
fn f32_kernels_equal_the_reference() {
    check(2e-6, DType::F32);
}

/// Sums that differ in the last place of f32 may round to neighbouring bf16 values.
#[test]
fn bf16_kernels_equal_the_reference() {
    check(4e-3, DType::Bf16);
}

#[test]
fn one_thread_equals_many_bit_for_bit() {
    for case in op_cases() {
        for isa in kernels() {
            for dtype in [DType::F32, DType::Bf16] {
                let one = answer(&case, isa, dtype, 1);
                assert_eq!(one, answer(&case, isa, dtype, 3), "{isa} {}", case.name);
            }
        }
    }
}

/// The property that prefix caches and batches rest on: rows do not depend on the rows beside them.
#[test]
fn prefill_in_chunks_equals_one_row_at_a_time_bit_for_bit() {
    for case in op_cases().into_iter().filter(|case| case.cache.is_some()) {
        let total = case.runs.iter().sum();
        let chunks = answer(&case, kernels().last().copied().unwrap_or(Isa::Scalar), DType::F32, 2);
        let single = OpCase { runs: vec![1; total], ..case };
        let steps = answer(&single, kernels().last().copied().unwrap_or(Isa::Scalar), DType::F32, 2);
        assert_eq!(chunks, steps, "{}", single.name);
    }
}
