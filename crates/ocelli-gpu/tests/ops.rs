//! Every op case on every adapter that this machine has, against the scalar reference.

use std::sync::Arc;

use ocelli_cpu::{CpuDevice, CpuWeights, Isa, KvCache};
use ocelli_gpu::{AdapterChoice, AdapterSummary, GpuDevice, GpuKvCache, GpuOptions, GpuWeights};
use ocelli_plan::{Activation, BlockFormat, DType, Element, PlanBuilder, Rows, WeightError, WeightSource};
use ocelli_testing::{Input, OpCase, RandomWeights, Rng, op_cases, quantized_op_cases, relative_error};
use pollster::block_on;

/// The values of quantized weights as plain numbers. The reference rounds activations to eight bits where weights are
/// int8 codes, as the CPU does; the shaders do only where they have dot products of such codes.
struct Decoded(Arc<RandomWeights>);

impl WeightSource for Decoded {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.shape(name)
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Result<(), WeightError> {
        self.0.read_rows(name, first_row, out)
    }
}

/// Outputs of all runs of a case by the scalar reference in f32, with weights as plain numbers.
fn reference(case: &OpCase) -> Vec<f32> {
    reference_with(case, Arc::new(Decoded(case.weights.clone())))
}

fn reference_with(case: &OpCase, source: Arc<dyn WeightSource>) -> Vec<f32> {
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

/// Nothing but what every adapter has.
fn plain(adapter: &AdapterSummary) -> GpuOptions {
    GpuOptions {
        adapter: AdapterChoice::Named(adapter.name.clone()),
        f16: false,
        tiled: Some(false),
        subgroups: Some(false),
        dot: Some(false),
    }
}

fn open_with(options: &GpuOptions) -> GpuDevice {
    block_on(GpuDevice::open(options)).expect("an adapter opens")
}

fn open(adapter: &AdapterSummary, f16: bool, tiled: bool) -> GpuDevice {
    open_with(&GpuOptions { f16, tiled: Some(tiled), ..plain(adapter) })
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

/// Sums within subgroups in place of trees through workgroup memory: every op, with and without f16.
#[test]
fn subgroups_equal_the_reference() {
    for adapter in adapters() {
        let device = open_with(&GpuOptions { subgroups: Some(true), ..plain(&adapter) });
        if !device.subgroups() {
            println!("SKIPPED: {} has no subgroups", adapter.name);
            continue;
        }
        println!("subgroups of {:?} invocations", adapter.subgroup_sizes);
        check(&device, DType::F32, 5e-6, op_cases().into_iter().chain(quantized().step_by(3)));
        let device = open_with(&GpuOptions { subgroups: Some(true), f16: true, ..plain(&adapter) });
        if device.f16() {
            check(&device, DType::F32, 3e-3, op_cases().into_iter().step_by(7));
        }
    }
}

/// Codes of both sides are whole numbers, so that only scales are rounded: as exact as f32, unless a value of the row lies
/// so near the middle of two codes that a driver's division takes the other one.
#[test]
fn products_of_codes_equal_the_reference() {
    const SIZES: [(usize, usize, usize); 9] = [
        (1, 1, 1),
        (3, 5, 2),
        (4, 64, 16),
        (33, 63, 17),
        (64, 96, 384),
        (65, 384, 96),
        (5, 1090, 130),
        (200, 33, 70),
        (2, 2050, 31),
    ];
    for adapter in adapters() {
        for (subgroups, tiled) in [(false, false), (true, true), (false, true)] {
            let options = GpuOptions {
                dot: Some(true),
                subgroups: Some(subgroups),
                tiled: Some(tiled),
                ..plain(&adapter)
            };
            let device = open_with(&options);
            if !device.dot() {
                println!("SKIPPED: {} has no dot products of 8-bit codes", adapter.name);
                continue;
            }
            for (rows, k, n) in SIZES {
                let case = product_of_codes(rows, k, n);
                let want = reference_with(&case, case.weights.clone());
                let error = relative_error(&answer(&case, &device, DType::F32), &want);
                assert!(error < 1e-6, "{}: {error:.1e}", case.name);
                let decoded = relative_error(&reference(&case), &want);
                assert!(k == 1 || decoded > 1e-4, "{}: the codes make no difference", case.name);
            }
        }
    }
}

/// One product with weights in 8-bit rows, of rows as they come and of one of zeros.
fn product_of_codes(rows: usize, k: usize, n: usize) -> OpCase {
    let weights = RandomWeights::new(&[("w.weight", &[n, k]), ("w.bias", &[n])]);
    let weights = Arc::new(weights.quantized(BlockFormat::Int8));
    let name = format!("int8 {rows}x{k}x{n}");
    let mut b = PlanBuilder::new(&name, &*weights, 1);
    let x = b.input("x", Rows::Fixed(rows), k, Element::F32);
    let y = b.linear(x, "w", Activation::None).expect("case");
    b.output("y", y);
    let mut x = Rng::new(name.len() as u64).values(rows * k);
    if rows > 2 {
        x[k..2 * k].fill(0.0);
    }
    OpCase { name, plan: b.finish(), weights, x, ids: vec![], runs: vec![rows], cache: None }
}

/// Whole chains of ops with products of codes. Activations that differ in their last places may get neighbouring codes.
#[test]
fn networks_with_products_of_codes_are_near_the_reference() {
    for adapter in adapters() {
        for tiled in [false, true] {
            let device = open_with(&GpuOptions { dot: Some(true), tiled: Some(tiled), ..plain(&adapter) });
            if !device.dot() {
                continue;
            }
            let mut failures = Vec::new();
            for case in quantized_op_cases(BlockFormat::Int8).into_iter().step_by(3) {
                let want = reference_with(&case, case.weights.clone());
                let error = relative_error(&answer(&case, &device, DType::F32), &want);
                if error.is_nan() || error > 1e-3 {
                    failures.push(format!("{}: {error:.2e}", case.name));
                }
            }
            assert!(failures.is_empty(), "{}", failures.join("\n"));
        }
    }
}

/// The first of the largest values, as whoever reads all of them finds it.
#[test]
fn the_largest_value_is_found_on_the_device() {
    let sizes = [1, 2, 3, 63, 64, 65, 150, 4095, 16_384, 16_389, 151_936];
    for adapter in adapters() {
        for f16 in [false, true] {
            let device = open_with(&GpuOptions { f16, ..plain(&adapter) });
            for cols in sizes {
                let weights = Arc::new(RandomWeights::new(&[]));
                let mut b = PlanBuilder::new("largest", &*weights, 1);
                let x = b.input("x", Rows::Fixed(1), cols, Element::F32);
                let y = b.add(x, x).expect("plan");
                b.output("y", y);
                let plan = b.finish();
                let weights = GpuWeights::new(device.clone(), weights, DType::F32);
                let plan = weights.prepare(plan).expect("plan");
                let (x, y) = (plan.plan().find("x").expect("x"), plan.plan().find("y").expect("y"));
                let mut arena = plan.new_arena();
                for (what, values) in rows_with_a_largest(cols) {
                    plan.write(&mut arena, x, &values);
                    plan.run(&mut arena, 1, None, &|| false).expect("run");
                    let found = block_on(plan.largest(&mut arena, y)).expect("largest") as usize;
                    let y = block_on(plan.read(&mut arena, y, 1)).expect("read");
                    let want = (0..cols).fold(0, |best, i| {
                        let better = y[i] > y[best] || (y[best].is_nan() && !y[i].is_nan());
                        if better { i } else { best }
                    });
                    assert_eq!(found, want, "{what}, {cols} values, f16 {f16}");
                }
            }
        }
    }
}

fn rows_with_a_largest(cols: usize) -> Vec<(&'static str, Vec<f32>)> {
    let random = Rng::new(cols as u64).values(cols);
    let at = |places: &[usize], value: f32| {
        let mut row = random.clone();
        places.iter().for_each(|&place| row[place % cols] = value);
        row
    };
    let negative: Vec<f32> = random.iter().map(|v| -v.abs() - 1.0).collect();
    let mut zeros = vec![0.0; cols];
    zeros[0] = -0.0;
    vec![
        ("as they come", random.clone()),
        ("all negative", negative),
        ("all equal", vec![-3.0; cols]),
        ("zeros of both signs", zeros),
        ("equal ones", at(&[cols / 2, cols / 3, cols - 1], 7.0)),
        ("in neighbouring workgroups", at(&[63, 64, 65], 7.0)),
        ("the last", at(&[cols - 1], 7.0)),
        ("infinite", at(&[cols / 2], f32::INFINITY)),
        ("all the least", vec![f32::NEG_INFINITY; cols]),
        ("no numbers among them", at(&[0, cols / 2], f32::NAN)),
        ("no number", vec![f32::NAN; cols]),
    ]
}
