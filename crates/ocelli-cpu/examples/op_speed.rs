//! How long single ops take at the shapes that the networks have, for work on kernels.
//!
//! ```text
//! cargo run --release -p ocelli-cpu --example op_speed -- [FILTER] [--threads N] [--f32] [--q8 | --q4]
//! ```
//!
//! Prints the median of at least 0.3 seconds for each op whose name has `FILTER` in it. `OCELLI_ISA` chooses the kernels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ocelli_cpu::{CpuDevice, CpuWeights, Isa, KvCache, OpTimes};
use ocelli_plan::{
    Activation, AttentionShape, BlockFormat, DType, Element, FeatureMap, MlpWeights, Plan, PlanBuilder,
    PlanError, Rows, TensorId,
};
use ocelli_testing::{RandomWeights, Rng};

/// One op with random weights.
struct Subject {
    name: String,
    plan: Plan,
    weights: Arc<RandomWeights>,
    rows: usize,
    /// Multiplications, for the rate.
    macs: usize,
    cached: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = match args.iter().position(|arg| arg == "--threads") {
        Some(at) => args.get(at + 1).ok_or("--threads needs a number")?.parse()?,
        None => 0,
    };
    let dtype = if args.iter().any(|arg| arg == "--f32") { DType::F32 } else { DType::Bf16 };
    let format = [("--q8", BlockFormat::Q8), ("--q4", BlockFormat::Q4)]
        .into_iter()
        .find_map(|(flag, format)| args.iter().any(|arg| arg == flag).then_some(format));
    let filter = args.first().filter(|arg| !arg.starts_with("--")).map_or("", String::as_str);
    let device = CpuDevice::new(Isa::detect()?, dtype, threads);
    println!("{} {dtype:?}, {} threads", device.isa(), device.threads());
    for subject in subjects()? {
        if subject.name.contains(filter) {
            time(&device, &subject, format)?;
        }
    }
    Ok(())
}

fn time(
    device: &CpuDevice,
    subject: &Subject,
    format: Option<BlockFormat>,
) -> Result<(), Box<dyn std::error::Error>> {
    let weights = match format {
        Some(format) => Arc::new(RandomWeights::clone(&subject.weights).quantized(format)),
        None => Arc::clone(&subject.weights),
    };
    let weights = CpuWeights::new(device.clone(), weights);
    let plan = weights.prepare(subject.plan.clone())?;
    let mut arena = plan.new_arena();
    let x = plan.plan().find("x").ok_or("no input")?;
    let cols = plan.plan().tensor(x).cols;
    plan.write(&mut arena, x, &Rng::new(1).values(subject.rows * cols));
    let mut times: Vec<Duration> = Vec::new();
    let begin = Instant::now();
    while times.len() < 5 || begin.elapsed() < Duration::from_millis(300) {
        let mut cache = subject.cached.then(|| KvCache::new(1, KV_HEADS, 64));
        let mut ops = OpTimes::default();
        let rows = subject.rows.min(plan.plan().max_rows);
        plan.run_timed(&mut arena, rows, cache.as_mut(), &|| false, &mut ops)?;
        times.extend(ops.times.last());
    }
    times.sort();
    let median = times[times.len() / 2].as_secs_f64();
    println!(
        "{:28} {:8.3} ms  {:7.0} GFLOP/s",
        subject.name,
        median * 1e3,
        2.0 * subject.macs as f64 / median / 1e9
    );
    Ok(())
}

const KV_HEADS: usize = 2;

fn subjects() -> Result<Vec<Subject>, PlanError> {
    let mut all = vec![first_convolution(1024, 96)?];
    for (side, width) in [(256, 96), (128, 192), (64, 384), (32, 768), (16, 1536)] {
        let rows = side * side;
        all.push(mlp(rows, width, 4 * width)?);
        all.push(depthwise(side, width, 7, Activation::None)?);
        if width < 768 {
            all.push(depthwise(side, width, 3, Activation::None)?);
        } else {
            all.push(linear(rows, width, 3 * width)?);
            all.push(linear(rows, width, width)?);
            all.push(attention(rows, width)?);
        }
    }
    // A text, and a picture of MobileCLIP2-B.
    for (rows, width) in [(77, 512), (197, 768)] {
        all.push(mlp(rows, width, 4 * width)?);
        all.push(linear(rows, width, 3 * width)?);
        all.push(linear(rows, width, width)?);
        all.push(attention(rows, width)?);
    }
    // Few rows, whose matrices come from memory: sixteen has the last map of MobileCLIP2-S4.
    for rows in [1, 4, 16, 32] {
        all.push(mlp(rows, 2048, 8192)?);
    }
    all.push(linear(16, 2048, 6144)?);
    for (k, n) in [(896, 1152), (896, 896), (4864, 896)] {
        all.push(linear(280, k, n)?);
    }
    all.push(gated(280, 896, 4864)?);
    all.push(cached_attention(280)?);
    Ok(all)
}

/// A plan of one op over an input `[rows, cols]`, which a norm brings into the compute type.
fn subject(
    name: String,
    (rows, cols): (usize, usize),
    macs: usize,
    shapes: &[(&str, &[usize])],
    cached: bool,
    op: impl FnOnce(&mut PlanBuilder<'_>, TensorId) -> Result<TensorId, PlanError>,
) -> Result<Subject, PlanError> {
    let norm = [cols];
    let shapes: Vec<_> = shapes.iter().copied().chain([("norm.weight", &norm[..])]).collect();
    let weights = Arc::new(RandomWeights::new(&shapes));
    let (decl, bound) = if cached { (Rows::Bound, rows) } else { (Rows::Fixed(rows), 1) };
    let mut builder = PlanBuilder::new("op", &*weights, bound);
    let x = builder.input("x", decl, cols, Element::F32);
    let x = builder.rms_norm(x, "norm", 1e-6)?;
    let y = op(&mut builder, x)?;
    builder.output("y", y);
    Ok(Subject { name, plan: builder.finish(), weights: Arc::clone(&weights), rows, macs, cached })
}

fn mlp(rows: usize, width: usize, hidden: usize) -> Result<Subject, PlanError> {
    let shapes: [(&str, &[usize]); 5] = [
        ("a.weight", &[hidden, width]),
        ("a.bias", &[hidden]),
        ("b.weight", &[width, hidden]),
        ("b.bias", &[width]),
        ("scale", &[width]),
    ];
    let name = format!("mlp {rows} {width} {hidden}");
    subject(name, (rows, width), 2 * rows * width * hidden, &shapes, false, |builder, x| {
        let names = MlpWeights { fc1: "a".into(), fc2: "b".into(), scale: Some("scale".into()) };
        builder.mlp(x, &names, Activation::Gelu, Some(x))
    })
}

fn linear(rows: usize, k: usize, n: usize) -> Result<Subject, PlanError> {
    let shapes: [(&str, &[usize]); 2] = [("a.weight", &[n, k]), ("a.bias", &[n])];
    subject(format!("linear {rows} {k} {n}"), (rows, k), rows * k * n, &shapes, false, |builder, x| {
        builder.linear(x, "a", Activation::None)
    })
}

fn gated(rows: usize, k: usize, n: usize) -> Result<Subject, PlanError> {
    let shapes: [(&str, &[usize]); 2] = [("g.weight", &[n, k]), ("u.weight", &[n, k])];
    subject(format!("gated {rows} {k} {n}"), (rows, k), 2 * rows * k * n, &shapes, false, |builder, x| {
        builder.gated_linear(x, "g", "u")
    })
}

fn depthwise(side: usize, width: usize, kernel: usize, activation: Activation) -> Result<Subject, PlanError> {
    let shapes: [(&str, &[usize]); 2] = [("a.weight", &[width, 1, kernel, kernel]), ("a.bias", &[width])];
    let name = format!("depthwise {kernel}x{kernel} {side} {width}");
    let macs = side * side * width * kernel * kernel;
    subject(name, (side * side, width), macs, &shapes, false, |builder, x| {
        let map = FeatureMap { tensor: x, height: side, width: side };
        Ok(builder.depthwise(map, "a", 1, activation)?.tensor)
    })
}

/// The first op of FastViTHD, whose input is a picture in f32.
fn first_convolution(side: usize, width: usize) -> Result<Subject, PlanError> {
    let shapes: [(&str, &[usize]); 2] = [("a.weight", &[width, 3, 3, 3]), ("a.bias", &[width])];
    let weights = Arc::new(RandomWeights::new(&shapes));
    let rows = side * side;
    let mut builder = PlanBuilder::new("op", &*weights, 1);
    let tensor = builder.input("x", Rows::Fixed(rows), 3, Element::F32);
    let map = FeatureMap { tensor, height: side, width: side };
    let y = builder.conv(map, "a", 2, 1, Activation::Gelu)?.tensor;
    builder.output("y", y);
    let (name, macs) = (format!("conv 3x3 {side} {width}"), rows / 4 * width * 27);
    Ok(Subject { name, plan: builder.finish(), weights, rows, macs, cached: false })
}

fn attention(rows: usize, width: usize) -> Result<Subject, PlanError> {
    let heads = width / 32;
    let macs = 2 * rows * rows * width;
    subject(format!("attention {rows} {width}"), (rows, 3 * width), macs, &[], false, |builder, x| {
        builder.attention(x, heads, false)
    })
}

fn cached_attention(rows: usize) -> Result<Subject, PlanError> {
    let shape = AttentionShape { heads: 14, kv_heads: KV_HEADS, head_dim: 64 };
    let macs = rows * rows * 14 * 64;
    let cols = (14 + 2 * KV_HEADS) * 64;
    subject(format!("cached attention {rows}"), (rows, cols), macs, &[], true, |builder, x| {
        builder.cached_attention(x, shape, 1e6, 0)
    })
}
