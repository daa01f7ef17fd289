//! Every op case on every instruction set that this machine has, against the scalar reference.

use std::sync::Arc;

use ocelli_cpu::{CpuDevice, CpuWeights, Isa, KvCache};
use ocelli_plan::{Activation, BlockFormat, DType, Element, PlanBuilder, Rows};
use ocelli_testing::{Input, OpCase, RandomWeights, Rng, op_cases, quantized_op_cases, relative_error};

/// Outputs of all runs of a case, one after the other.
fn answer(case: &OpCase, isa: Isa, dtype: DType, threads: usize) -> Vec<f32> {
    let weights = CpuWeights::new(CpuDevice::new(isa, dtype, threads), case.weights.clone());
    let plan = weights.prepare(case.plan.clone()).expect(&case.name);
    let mut arena = plan.new_arena();
    let mut cache = case.cache.map(|(layers, heads, dim)| KvCache::new(layers, heads, dim));
    case.each_run(|input, rows, y| {
        match input {
            Input::Ids(id, ids) => plan.write_ids(&mut arena, id, ids),
            Input::Values(id, values) => plan.write(&mut arena, id, values),
        }
        plan.run(&mut arena, rows.min(case.plan.max_rows), cache.as_mut(), &|| false).expect(&case.name);
        plan.read(&mut arena, y, rows)
    })
}

fn kernels_quietly() -> impl Iterator<Item = Isa> {
    Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar)
}

fn kernels() -> Vec<Isa> {
    let found: Vec<Isa> = kernels_quietly().collect();
    let names: Vec<&str> = found.iter().map(|isa| isa.name()).collect();
    println!("kernels tested on this machine: {names:?}");
    found
}

/// Whether several rows in bf16 are rounded before they meet weights in groups, or the weights are: where there is no
/// instruction for it, they are not.
fn rounds_blocks(isa: Isa) -> bool {
    !["wasm", "scalar"].contains(&isa.name())
}

/// The cases of matrix products with weights in blocks.
fn quantized() -> impl Iterator<Item = OpCase> {
    [BlockFormat::Q8, BlockFormat::Q4, BlockFormat::Int8].into_iter().flat_map(quantized_op_cases)
}

/// Each weight is off by up to 2^-9 of itself, or each activation by up to 1/254 of the largest of its group, and a gated
/// unit multiplies two such sums.
const QUANTIZED_BF16: f64 = 2e-2;

/// Hidden rows that differ in their last places may get neighbouring 8-bit codes: a few in ten thousand in f32, more
/// in bf16.
const HIDDEN_CODES: [f64; 2] = [1e-3, 1e-2];

/// Report every failing case, not the first.
fn check(limit: f64, dtype: DType) {
    let mut failures = Vec::new();
    for case in op_cases().into_iter().chain(quantized()) {
        let want = answer(&case, Isa::Scalar, dtype, 1);
        assert!(want.iter().all(|v| v.is_finite()), "{}", case.name);
        for isa in kernels() {
            let error = relative_error(&answer(&case, isa, dtype, 2), &want);
            // The reference computes with exact quantized weights and activations.
            let rounded = rounds_blocks(isa) && dtype == DType::Bf16 && case.name.starts_with('q');
            let limit = match () {
                () if rounded => QUANTIZED_BF16,
                () if case.name.starts_with("int8") => HIDDEN_CODES[usize::from(dtype == DType::Bf16)],
                () => limit,
            };
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

/// `OCELLI_EVERY_CASE=5` takes every fifth case only: an emulator has no time for all of them, twice.
fn every() -> usize {
    std::env::var("OCELLI_EVERY_CASE").ok().and_then(|n| n.parse().ok()).unwrap_or(1).max(1)
}

#[test]
fn one_thread_equals_many_bit_for_bit() {
    for case in op_cases().into_iter().chain(quantized()).step_by(every()) {
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

/// `y` of a product over `rows` rows in chunks of these lengths.
fn in_chunks(format: BlockFormat, isa: Isa, dtype: DType, chunks: &[usize]) -> Vec<f32> {
    const K: usize = 200;
    let weights =
        RandomWeights::new(&[("a.weight", &[K, K]), ("g.weight", &[70, K]), ("u.weight", &[70, K])]);
    let weights = Arc::new(weights.quantized(format));
    let mut b = PlanBuilder::new("chunks", &*weights, 64);
    let x = b.input("x", Rows::Bound, K, Element::F32);
    let x = b.linear(x, "a", Activation::None).expect("plan");
    let y = b.gated_linear(x, "g", "u").expect("plan");
    b.output("y", y);
    let case = OpCase {
        name: format!("{} in chunks", format.name()),
        plan: b.finish(),
        weights: weights.clone(),
        x: Rng::new(7).values(64 * K),
        ids: vec![],
        runs: chunks.to_vec(),
        cache: None,
    };
    answer(&case, isa, dtype, 2)
}

/// What holds for quantized weights: rows do not depend on the rows beside them; in bf16 only if there are any, and then
/// a row alone differs by no more than rounding does.
#[test]
fn quantized_rows_are_the_same_alone_and_beside_others() {
    for format in [BlockFormat::Q8, BlockFormat::Q4, BlockFormat::Int8] {
        for isa in kernels() {
            for dtype in [DType::F32, DType::Bf16] {
                let whole = in_chunks(format, isa, dtype, &[64]);
                assert_eq!(whole, in_chunks(format, isa, dtype, &[2, 30, 17, 3, 12]), "{isa} {dtype:?}");
                let single = in_chunks(format, isa, dtype, &[1; 64]);
                if rounds_blocks(isa) && dtype == DType::Bf16 && format != BlockFormat::Int8 {
                    let error = relative_error(&single, &whole);
                    assert!(error < QUANTIZED_BF16, "{isa}: {error:.2e}");
                } else {
                    assert_eq!(whole, single, "{isa} {dtype:?}");
                }
            }
        }
    }
}

/// Sums of integers are exact, so all instruction sets give the same bits, whatever the sizes.
#[test]
fn int8_products_have_the_same_bits_everywhere() {
    let mut cases = Vec::new();
    for rows in (1..=70).chain([128, 257]) {
        let (k, n) = ((rows * 37) % 211 + 1, (rows * 23) % 97 + 1);
        cases.push((rows, k, n));
    }
    cases.extend([
        (40, 1100, 33),
        (33, 64, 32),
        (300, 1025, 40),
        (65, 2100, 17),
        (16, 128, 48),
        (7, 4000, 1),
    ]);
    for (rows, k, n) in cases {
        let weights = RandomWeights::new(&[("w.weight", &[n, k, 1, 1]), ("w.bias", &[n])]);
        let weights = Arc::new(weights.quantized(BlockFormat::Int8));
        let mut b = PlanBuilder::new("int8", &*weights, 1);
        let x = b.input("x", Rows::Fixed(rows), k, Element::F32);
        let y = b.linear(x, "w", Activation::None).expect("plan");
        b.output("y", y);
        let mut x = Rng::new(k as u64).values(rows * k);
        // A row of zeros, one of tiny values, and one with a single large value.
        x[(rows - 1) * k..].fill(0.0);
        x[rows / 2 * k..][..k].iter_mut().for_each(|v| *v *= 1e-37);
        x[rows / 3 * k] = 1e4;
        let name = format!("int8 {rows}x{k}x{n}");
        let (plan, runs) = (b.finish(), vec![rows]);
        let case = OpCase { name, plan, weights: weights.clone(), x, ids: vec![], runs, cache: None };
        for dtype in [DType::F32, DType::Bf16] {
            let want = answer(&case, Isa::Scalar, dtype, 1);
            for isa in kernels_quietly() {
                for threads in [1, 3] {
                    let got = answer(&case, isa, dtype, threads);
                    assert_eq!(got, want, "{isa} {dtype:?} {threads} threads {}", case.name);
                }
            }
        }
    }
}

/// A file may hold any bytes: a scale that is no finite number is named, not computed with.
#[test]
fn broken_scales_are_refused() {
    let mut values = vec![0.5; 40 * 70];
    values[33 * 70 + 3] = f32::NAN;
    for format in [BlockFormat::Q4, BlockFormat::Int8] {
        broken_scale_is_refused(&values, format);
    }
}

fn broken_scale_is_refused(values: &[f32], format: BlockFormat) {
    let weights = RandomWeights::with("w.weight", &[40, 70], values.to_vec());
    let weights = Arc::new(weights.quantized(format));
    let mut b = PlanBuilder::new("broken", &*weights, 1);
    let x = b.input("x", Rows::Fixed(1), 70, Element::F32);
    let y = b.linear(x, "w", Activation::None).expect("plan");
    b.output("y", y);
    let plan = b.finish();
    for isa in kernels() {
        let weights = CpuWeights::new(CpuDevice::new(isa, DType::Bf16, 2), weights.clone());
        let prepared = weights.prepare(plan.clone()).map(|_| ());
        let error = prepared.expect_err("a scale that is NaN").to_string();
        assert!(error.contains("w.weight") && error.contains("row 33"), "{error}");
    }
}
