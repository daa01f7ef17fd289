//! Known answers through the shaders of a GPU before it is trusted: drivers differ, and a wrong one gives wrong answers
//! without a word.

use std::sync::Arc;

use ocelli_cpu::{CpuDevice, Isa};
use ocelli_gpu::GpuDevice;
use ocelli_models::{LogitRows, Qwen2Shape, qwen2};
use ocelli_plan::{
    Activation, AttentionShape, BlockFormat, DType, Element, FeatureMap, MlpWeights, Plan, PlanBuilder,
    PlanError, Rows, WeightError, WeightSource,
};
use ocelli_weights::{QuantPolicy, quantized};

use crate::Error;
use crate::engine::Engine;
use crate::fastvlm::named;
use crate::sampler::argmax;

/// Largest relative error of a network's output: matrices in bf16 give 4e-3, activations in f16 less.
const LIMIT: f64 = 2e-2;

/// Side of the map that the test encodes.
const SIDE: usize = 12;
const HIDDEN: usize = 64;
const SHAPE: Qwen2Shape = Qwen2Shape {
    layers: 1,
    attention: AttentionShape { heads: 4, kv_heads: 2, head_dim: 16 },
    rope_base: 1e4,
    norm_eps: 1e-6,
};

/// Run a small language model and a small tower on the GPU and with the scalar reference. `Some` says what differs.
///
/// # Errors
/// When the device fails.
pub(crate) async fn self_test(device: &GpuDevice, dtype: DType) -> Result<Option<String>, Error> {
    let plain: Arc<dyn WeightSource> = Arc::new(Waves::new());
    let blocks = |format| {
        let policy = QuantPolicy { layers: Some(format), head: Some(format), int8_vision: false };
        quantized(Arc::clone(&plain), policy)
    };
    let language = |source: &dyn WeightSource| qwen2(source, &SHAPE, 8, LogitRows::Last);
    let mut networks: Vec<(&str, Arc<dyn WeightSource>, bool)> = vec![
        ("the vision tower", Arc::clone(&plain), true),
        ("the language model", Arc::clone(&plain), false),
        ("the language model in q8", blocks(BlockFormat::Q8), false),
        ("the language model in q4", blocks(BlockFormat::Q4), false),
    ];
    if device.dot() {
        // Only such a device rounds activations to eight bits, as the reference does.
        let codes = quantized(Arc::clone(&plain), QuantPolicy::VISION);
        networks.push(("the vision tower in 8-bit rows", codes, true));
    }
    for (name, source, vision) in networks {
        let plan = if vision { tower(&*source)? } else { language(&*source)? };
        let reference = Engine::cpu(CpuDevice::new(simplest(), DType::F32, 1), Arc::clone(&source));
        let gpu = Engine::gpu(device.clone(), source, dtype);
        let want = outputs(&reference, plan.clone()).await?;
        let error = relative_error(&outputs(&gpu, plan).await?, &want);
        if error.is_nan() || error > LIMIT {
            return Ok(Some(format!("{name} differs from the reference by {error:.1e}")));
        }
    }
    Ok(None)
}

/// The scalar reference; in a page, which has none, the kernels that are tested against it.
fn simplest() -> Isa {
    Isa::available()[0]
}

/// What a plan makes of a known input; a language model reads six positions, then one.
async fn outputs(engine: &Engine, plan: Plan) -> Result<Vec<f32>, Error> {
    let plan = engine.prepare(plan)?;
    let mut arena = plan.new_arena();
    let Some(embeds) = plan.plan().find("inputs_embeds") else {
        plan.write(&mut arena, named(&plan, "x"), &waves(SIDE * SIDE * 3, 1));
        plan.run(&mut arena, 1, None, &|| false)?;
        return Ok(plan.read(&mut arena, named(&plan, "y"), 1).await?);
    };
    let attention = SHAPE.attention;
    let mut cache = engine.new_cache(SHAPE.layers, attention.kv_heads, attention.head_dim);
    let mut all = Vec::new();
    for rows in [6, 1] {
        plan.write(&mut arena, embeds, &waves(rows * HIDDEN, rows));
        plan.run(&mut arena, rows, Some(&mut cache), &|| false)?;
        let logits = plan.read(&mut arena, named(&plan, "logits"), rows).await?;
        // What the device takes for the likeliest token; an error that no other value hides.
        let right = plan.largest(&mut arena, named(&plan, "logits")).await? == argmax(&logits);
        all.extend(logits);
        all.push(if right { 0.0 } else { f32::NAN });
    }
    Ok(all)
}

/// Every op of a tower once.
fn tower(source: &dyn WeightSource) -> Result<Plan, PlanError> {
    let mut b = PlanBuilder::new("self-test", source, 1);
    let x = b.input("x", Rows::Fixed(SIDE * SIDE), 3, Element::F32);
    let x = FeatureMap { tensor: x, height: SIDE, width: SIDE };
    let x = b.conv(x, "conv", 2, 1, Activation::Gelu)?;
    let mut x = b.depthwise(x, "wide", 1, Activation::None)?;
    x.tensor = b.squeeze_excite(x.tensor, "se", Activation::Gelu)?;
    let normed = b.layer_norm(x.tensor, "norm", 1e-5)?;
    let qkv = b.linear(normed, "vision.attn.qkv", Activation::QuickGelu)?;
    let mixed = b.attention(qkv, 2, false)?;
    x.tensor = b.scaled_linear(mixed, "vision.attn.proj", "scale", x.tensor)?;
    let local = b.depthwise(x, "local", 1, Activation::None)?;
    let (fc1, fc2) = ("vision.ffn.fc1".into(), "vision.ffn.fc2".into());
    let names = MlpWeights { fc1, fc2, scale: Some("scale".into()) };
    let y = b.mlp(local.tensor, &names, Activation::Gelu, Some(x.tensor))?;
    let y = b.add(y, x.tensor)?;
    let y = b.add_positions(y, Some("class"), "positions")?;
    let mean = b.mean_pool(y);
    let y = b.linear(mean, "head", Activation::Silu)?;
    b.output("y", y);
    Ok(b.finish())
}

fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
    (error / want.iter().map(|&w| square(f64::from(w))).sum::<f64>()).sqrt()
}

/// Values between -1 and 1 without a period that a shader's loops could share.
fn waves(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * i % 1013) as f32 * 0.7 + seed as f32).sin()).collect()
}

/// Weights of the two networks, made up.
struct Waves(Vec<(String, Vec<usize>)>);

impl Waves {
    fn new() -> Self {
        // Wide enough for matrices that 8-bit rows are made of.
        let (channels, wide) = (16, 64);
        let kv = SHAPE.attention.kv_heads * SHAPE.attention.head_dim;
        let mut shapes: Vec<(String, Vec<usize>)> = [
            ("conv.weight", vec![channels, 3, 3, 3]),
            ("conv.bias", vec![channels]),
            ("wide.weight", vec![wide, 1, 7, 7]),
            ("se.fc1.weight", vec![6, wide, 1, 1]),
            ("se.fc1.bias", vec![6]),
            ("se.fc2.weight", vec![wide, 6, 1, 1]),
            ("se.fc2.bias", vec![wide]),
            ("norm.weight", vec![wide]),
            ("norm.bias", vec![wide]),
            ("vision.attn.qkv.weight", vec![3 * wide, wide]),
            ("vision.attn.proj.weight", vec![wide, wide]),
            ("scale", vec![wide]),
            ("local.weight", vec![wide, 1, 3, 3]),
            ("local.bias", vec![wide]),
            ("vision.ffn.fc1.weight", vec![70, wide, 1, 1]),
            ("vision.ffn.fc1.bias", vec![70]),
            ("vision.ffn.fc2.weight", vec![wide, 70, 1, 1]),
            ("vision.ffn.fc2.bias", vec![wide]),
            ("class", vec![wide]),
            ("positions", vec![SIDE * SIDE / 4 + 1, wide]),
            ("head.weight", vec![33, wide]),
            ("language.embed_tokens.weight", vec![150, HIDDEN]),
            ("language.norm.weight", vec![HIDDEN]),
        ]
        .map(|(name, shape)| (name.to_owned(), shape))
        .into();
        for (name, shape) in [
            ("input_norm.weight", vec![HIDDEN]),
            ("attn.q_proj.weight", vec![HIDDEN, HIDDEN]),
            ("attn.q_proj.bias", vec![HIDDEN]),
            ("attn.k_proj.weight", vec![kv, HIDDEN]),
            ("attn.k_proj.bias", vec![kv]),
            ("attn.v_proj.weight", vec![kv, HIDDEN]),
            ("attn.v_proj.bias", vec![kv]),
            ("attn.o_proj.weight", vec![HIDDEN, HIDDEN]),
            ("post_attention_norm.weight", vec![HIDDEN]),
            ("mlp.gate_proj.weight", vec![96, HIDDEN]),
            ("mlp.up_proj.weight", vec![96, HIDDEN]),
            ("mlp.down_proj.weight", vec![HIDDEN, 96]),
        ] {
            shapes.push((format!("language.layers.0.{name}"), shape));
        }
        Self(shapes)
    }
}

impl WeightSource for Waves {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, shape)| &shape[..])
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Result<(), WeightError> {
        let at = self.0.iter().position(|(known, _)| known == name);
        let at = at.ok_or_else(|| WeightError::missing(name))?;
        let shape = &self.0[at].1;
        let row: usize = shape[1..].iter().product();
        let values = waves(shape.iter().product(), at);
        let scale = 1.0 / (row as f32).sqrt();
        let from = first_row * row;
        let rows =
            values.get(from..from + out.len()).ok_or_else(|| WeightError::new(name, "no such rows"))?;
        out.iter_mut().zip(rows).for_each(|(to, from)| *to = from * scale);
        Ok(())
    }
}
