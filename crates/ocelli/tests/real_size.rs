//! Plans of the real sizes, without real weights: files that have every shape and hold only zeros.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use ocelli::{Checkpoint, SynthArch, memory_plan};
use ocelli_models::{LogitRows, Qwen2Shape, fastvithd, qwen2};
use ocelli_plan::{AttentionShape, DType, Plan, PlanBuilder};

/// A checkpoint directory whose weight file is a hole: no disk, every shape.
fn hollow(arch: SynthArch, dir: &Path) -> Checkpoint {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for tensor in arch.tensors() {
        let offsets = [end, end + tensor.bytes()];
        end = offsets[1];
        let dtype = tensor.dtype.name();
        let entry = serde_json::json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": offsets });
        header.insert(tensor.name, entry);
    }
    let header = serde_json::to_vec(&header).expect("json");
    let mut file = File::create(dir.join("model.safetensors")).expect("file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("write");
    file.write_all(&header).expect("write");
    file.set_len(8 + header.len() as u64 + end).expect("a hole of the weights' size");
    for (name, config) in arch.configs(1) {
        std::fs::write(dir.join(name), config.to_string()).expect("config");
    }
    Checkpoint::open(dir, None).expect("checkpoint")
}

fn parameters(plan: &Plan) -> f64 {
    let counts = plan.weights.iter().map(|w| w.rows * w.cols.max(1));
    counts.sum::<usize>() as f64 / 1e6
}

fn tower(checkpoint: &Checkpoint, resolution: usize) -> (Plan, usize) {
    let mut b = PlanBuilder::new("vision", checkpoint.weights(), 1);
    let map = fastvithd(&mut b, resolution).expect("plan");
    b.output("features", map.tensor);
    (b.finish(), map.height * map.width)
}

fn language(checkpoint: &Checkpoint) -> Plan {
    let c = &checkpoint.config;
    let attention = AttentionShape { heads: c.num_heads, kv_heads: c.num_kv_heads, head_dim: c.head_dim };
    let (rope_base, norm_eps) = (c.rope_theta, c.rms_norm_eps);
    let shape = Qwen2Shape { layers: c.num_layers, attention, rope_base, norm_eps };
    qwen2(checkpoint.weights(), &shape, 256, LogitRows::Last).expect("plan")
}

#[test]
fn plans_of_all_sizes_have_every_parameter() {
    // Of the language model in millions, beside an input embedding that is not tied to the head.
    for (arch, language_parameters, untied) in [
        (SynthArch::FastVlm05B, 494.03, 0.0),
        (SynthArch::FastVlm15B, 1543.71, 0.0),
        (SynthArch::FastVlm7B, 7615.62, 152_064.0 * 3584.0 / 1e6),
    ] {
        let dir = tempfile::tempdir().expect("directory");
        let checkpoint = hollow(arch, dir.path());
        // 122.71 M with the normalisation behind the depthwise convolutions folded into these.
        assert!((parameters(&tower(&checkpoint, 1024).0) - 122.696).abs() < 0.005, "{}", arch.name());
        let found = parameters(&language(&checkpoint)) + untied;
        assert!((found - language_parameters).abs() < 0.01, "{}: {found} M", arch.name());
        let plan = memory_plan(&checkpoint, DType::Bf16).expect("memory plan");
        let at_least = (language_parameters - untied + 122.0) * 2e6;
        assert!(plan.weights as f64 > at_least, "{}: {} bytes", arch.name(), plan.weights);
    }
}

#[test]
fn resolutions_give_their_visual_tokens() {
    let dir = tempfile::tempdir().expect("directory");
    let checkpoint = hollow(SynthArch::FastVlm05B, dir.path());
    for (resolution, tokens) in [(256, 16), (448, 49), (512, 64), (768, 144), (1024, 256), (1536, 576)] {
        assert_eq!(tower(&checkpoint, resolution).1, tokens, "{resolution} px");
    }
}
