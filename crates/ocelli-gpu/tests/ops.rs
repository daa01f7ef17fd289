//! Every op case on every adapter that this machine has, against the scalar reference.

use std::sync::Arc;

use ocelli_cpu::{CpuDevice, CpuWeights, Isa, KvCache};
use ocelli_gpu::{AdapterChoice, AdapterSummary, GpuDevice, GpuKvCache, GpuOptions, GpuWeights};
use ocelli_plan::{BlockFormat, DType, WeightError, WeightSource};
use ocelli_testing::{Input, OpCase, RandomWeights, op_cases, quantized_op_cases, relative_error};
use pollster::block_on;

/// The values of quantized weights as plain numbers. The reference rounds activations to eight bits where weights are
/// int8 codes, as the CPU does; the shaders do not.
struct Decoded(Arc<RandomWeights>);

impl WeightSource for Decoded {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.shape(name)
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Result<(), WeightError> {
        self.0.read_rows(name, first_row, out)
    }
}

/// Outputs of all runs of a case by the scalar reference in f32.
fn reference(case: &OpCase) -> Vec<f32> {
    let source = Arc::new(Decoded(case.weights.clone()));
    let weights = CpuWeights::new(CpuDevice::new(Isa::Scalar, DType::F32, 1), source);
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

fn answer(case: &OpCase, device: &GpuDevice, dtype: DType) -> Vec<f32> {
    let source: Arc<dyn WeightSource> = case.weights.clone();
    let weights = GpuWeights::new(device.clone(), source, dtype);
    let plan = weights.prepare(case.plan.clone()).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let mut arena = plan.new_arena();
    let mut cache = case.cache.map(|(layers, heads, dim)| GpuKvCache::new(device, layers, heads, dim));
    case.each_run(|input, rows, y| {
        match input {
            Input::Ids(id, ids) => plan.write_ids(&mut arena, id, ids),
            Input::Values(id, values) => plan.write(&mut arena, id, values),
        }
        plan.run(&mut arena, rows.min(case.plan.max_rows), cache.as_mut(), &|| false).expect(&case.name);
        block_on(plan.read(&mut arena, y, rows)).expect(&case.name)
    })
}

/// Every adapter, or a word that there is none.
fn adapters() -> Vec<AdapterSummary> {
    let found = block_on(ocelli_gpu::adapters());
    if found.is_empty() {
        println!("SKIPPED: this machine has no GPU and no software Vulkan (Debian: mesa-vulkan-drivers)");
    }
    found
}

fn open(adapter: &AdapterSummary, f16: bool, tiled: bool) -> GpuDevice {
    let options = GpuOptions { adapter: AdapterChoice::Named(adapter.name.clone()), f16, tiled: Some(tiled) };
    block_on(GpuDevice::open(&options)).expect("an adapter opens")
}

/// Report every failing case, not the first.
fn check(device: &GpuDevice, dtype: DType, limit: f64, cases: impl Iterator<Item = OpCase>) {
    let mut failures = Vec::new();
    let mut count = 0;
    for case in cases {
        let error = relative_error(&answer(&case, device, dtype), &reference(&case));
        if error.is_nan() || error > limit {
            failures.push(format!("{}: {error:.2e}", case.name));
        }
        count += 1;
    }
    println!("{count} cases on {} in {dtype:?}", device.adapter().name);
    assert!(failures.is_empty(), "{} over {limit}:\n{}", failures.len(), failures.join("\n"));
}

fn quantized() -> impl Iterator<Item = OpCase> {
    [BlockFormat::Q8, BlockFormat::Q4, BlockFormat::Int8].into_iter().flat_map(quantized_op_cases)
}

/// f32 sums in another order.
#[test]
fn f32_equals_the_reference() {
    for adapter in adapters() {
        check(&open(&adapter, false, false), DType::F32, 5e-6, op_cases().into_iter().chain(quantized()));
    }
}

/// The products that real GPUs use.
#[test]
fn tiles_equal_the_reference() {
    for adapter in adapters() {
        let products =
            |case: &OpCase| ["linear", "gated", "mlp", "q8", "q4"].iter().any(|p| case.name.starts_with(p));
        let cases = op_cases().into_iter().chain(quantized()).filter(products).step_by(3);
        check(&open(&adapter, false, true), DType::F32, 5e-6, cases);
    }
}

/// Matrices rounded to bf16.
#[test]
fn bf16_matrices_are_near_the_reference() {
    for adapter in adapters() {
        check(&open(&adapter, false, false), DType::Bf16, 6e-3, op_cases().into_iter().step_by(5));
    }
}

/// Activations rounded to f16 as well.
#[test]
fn f16_is_near_the_reference() {
    for adapter in adapters() {
        let device = open(&adapter, true, false);
        if device.f16() {
            check(&device, DType::F32, 3e-3, op_cases().into_iter().chain(quantized()).step_by(3));
        } else {
            println!("SKIPPED: {} has no f16", adapter.name);
        }
    }
}

/// One after the other in the same place in memory, as answers take turns: neither sees the other's keys.
#[test]
fn caches_that_take_turns_with_one_arena_stay_apart() {
    for adapter in adapters() {
        let device = open(&adapter, false, false);
        let case = op_cases().into_iter().find(|case| case.cache == Some((1, 2, 16)) && case.runs.len() == 3);
        let case = OpCase { runs: vec![16, 16, 1], ..case.expect("a case in three runs") };
        let want = reference(&case);
        let weights = GpuWeights::new(device.clone(), case.weights.clone(), DType::F32);
        let plan = weights.prepare(case.plan.clone()).expect("plan");
        let mut arena = plan.new_arena();
        let (x, y) = (plan.plan().find("x").expect("input"), plan.plan().find("y").expect("output"));
        let cols = plan.plan().tensor(x).cols;
        let mut run = |cache: &mut GpuKvCache, rows: std::ops::Range<usize>| {
            plan.write(&mut arena, x, &case.x[rows.start * cols..rows.end * cols]);
            plan.run(&mut arena, rows.len(), Some(cache), &|| false).expect("run");
            block_on(plan.read(&mut arena, y, rows.len())).expect("read")
        };
        let mut cache = GpuKvCache::new(&device, 1, 2, 16);
        let mut got = run(&mut cache, 0..16);
        let first = std::mem::replace(&mut cache, GpuKvCache::new(&device, 1, 2, 16));
        run(&mut cache, 5..21);
        cache = first;
        got.extend(run(&mut cache, 16..32));
        got.extend(run(&mut cache, 32..33));
        let error = relative_error(&got, &want);
        assert!(error < 5e-6, "differs by {error:.1e}");
    }
}
