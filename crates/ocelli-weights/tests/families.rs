//! Every family of checkpoints loads, and says the same numbers under our names.

mod support;

use std::collections::BTreeMap;

use ocelli_plan::WeightSource;
use ocelli_weights::{Checkpoint, Family, LoadError, StoredDtype, licence_file};
use safetensors::tensor::Dtype;
use support::{Raw, Tensors, edit_config, fixture, read_dir, read_file, write_dir};

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name), None).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn open_mlx(name: &str) -> Checkpoint {
    let vision = fixture("fastvlm-apple");
    Checkpoint::open(&fixture(name), Some(&vision)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Every tensor as bits.
fn all_values(checkpoint: &Checkpoint) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    let weights = checkpoint.weights();
    let values = |name: &str| weights.read(name).expect("a tensor").iter().map(|v| v.to_bits()).collect();
    weights.iter().map(|t| (t.name.to_owned(), (t.shape.to_vec(), values(t.name)))).collect()
}

fn assert_same(a: &Checkpoint, b: &Checkpoint) {
    let (a, b) = (all_values(a), all_values(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, value) in &a {
        assert!(value == &b[name], "{name} differs");
    }
}

#[test]
fn apple() {
    let checkpoint = open("fastvlm-apple");
    let (config, report) = (&checkpoint.config, &checkpoint.report);
    assert_eq!(report.family, Family::AppleLlava);
    assert_eq!(config.family, Family::AppleLlava);
    assert_eq!(report.files.len(), 2);
    assert!(report.is_complete() && report.folded, "{report}");
    assert!(report.ignored.iter().any(|name| name.ends_with("head.proj")), "{report:?}");
    assert!(report.ignored.iter().all(|n| n.ends_with("head.proj") || n.ends_with("num_batches_tracked")));
    let total = read_dir(&fixture("fastvlm-apple")).len();
    assert_eq!(report.applied + report.ignored.len(), total);

    assert_eq!(config.name, "fastvlm-apple");
    assert_eq!((config.hidden_size, config.num_layers, config.intermediate_size), (64, 2, 192));
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (4, 2, 16));
    assert_eq!((config.vocab_size, config.rms_norm_eps, config.rope_theta), (704, 1e-6, 1e6));
    assert_eq!((config.max_positions, config.image_size, config.image_token_index), (8192, 192, None));
    assert!(!config.tie);
    assert_eq!(config.vision.widths, [4, 8, 16, 32, 64]);
    assert_eq!(config.vision.blocks, [1, 2, 2, 1, 1]);
    assert_eq!(config.vision.attention, [false, false, false, true, true]);
    assert_eq!((config.vision.features, config.vision.stride), (128, 64));
}

#[test]
fn our_names_and_shapes() {
    let checkpoint = open("fastvlm-apple");
    let weights = checkpoint.weights();
    for (name, shape) in [
        ("vision.stem.0.weight", &[4, 3, 3, 3][..]),
        ("vision.stem.1.weight", &[4, 1, 3, 3]),
        ("vision.stem.2.weight", &[4, 4, 1, 1]),
        ("vision.stages.1.downsample.dw.weight", &[8, 1, 7, 7]),
        ("vision.stages.1.downsample.pw.weight", &[8, 8, 1, 1]),
        ("vision.stages.3.pos_emb.weight", &[32, 1, 7, 7]),
        ("vision.stages.2.blocks.1.token_mixer.weight", &[16, 1, 3, 3]),
        ("vision.stages.2.blocks.1.layer_scale", &[16]),
        ("vision.stages.4.blocks.0.norm.bias", &[64]),
        ("vision.stages.4.blocks.0.attn.qkv.weight", &[192, 64]),
        ("vision.stages.4.blocks.0.attn.proj.bias", &[64]),
        ("vision.stages.4.blocks.0.layer_scale_2", &[64]),
        ("vision.stages.4.blocks.0.ffn.dw.weight", &[64, 1, 7, 7]),
        ("vision.stages.4.blocks.0.ffn.dw.bias", &[64]),
        ("vision.stages.4.blocks.0.ffn.fc1.weight", &[256, 64, 1, 1]),
        ("vision.stages.4.blocks.0.ffn.fc2.weight", &[64, 256, 1, 1]),
        ("vision.final_conv.weight", &[128, 1, 3, 3]),
        ("vision.final_conv.se.fc1.weight", &[8, 128, 1, 1]),
        ("vision.final_conv.se.fc2.bias", &[128]),
        ("projector.fc1.weight", &[64, 128]),
        ("projector.fc2.bias", &[64]),
        ("language.embed_tokens.weight", &[704, 64]),
        ("language.layers.1.input_norm.weight", &[64]),
        ("language.layers.1.post_attention_norm.weight", &[64]),
        ("language.layers.1.attn.k_proj.weight", &[32, 64]),
        ("language.layers.1.attn.q_proj.bias", &[64]),
        ("language.layers.1.attn.o_proj.weight", &[64, 64]),
        ("language.layers.1.mlp.down_proj.weight", &[64, 192]),
        ("language.norm.weight", &[64]),
        ("language.lm_head.weight", &[704, 64]),
    ] {
        assert_eq!(weights.shape(name), Some(shape), "{name}");
    }
    for absent in
        ["vision.stages.0.pos_emb.weight", "vision.stages.4.blocks.0.attn.qkv.bias", "vision.head.weight"]
    {
        assert!(!weights.contains(absent), "{absent}");
    }
    assert_eq!(weights.stored_dtype("language.norm.weight"), Some(StoredDtype::BF16));
    assert_eq!(weights.stored_dtype("vision.stages.4.blocks.0.ffn.dw.bias"), Some(StoredDtype::BF16));
    assert_eq!(weights.parameter_count("projector."), 64 * 128 + 64 + 64 * 64 + 64);
}

#[test]
fn native_equals_apple() {
    let native = open("fastvlm-native");
    assert_eq!(native.report.family, Family::Native);
    assert_eq!(native.config.image_size, 192);
    assert_eq!(native.config.image_token_index, Some(643));
    assert_same(&native, &open("fastvlm-apple"));
}

#[test]
fn rows_are_slices_of_the_whole() {
    let vision = fixture("fastvlm-apple");
    for name in
        ["fastvlm-apple", "fastvlm-native", "fastvlm-mlx-fp16", "fastvlm-mlx-8bit", "fastvlm-mlx-4bit"]
    {
        let checkpoint = Checkpoint::open(&fixture(name), Some(&vision)).expect("a checkpoint");
        let weights = checkpoint.weights();
        for tensor in weights.iter() {
            let all = weights.read(tensor.name).expect("a tensor");
            let (rows, len) = (tensor.shape[0], all.len() / tensor.shape[0]);
            let (first, count) = (rows / 3, (rows / 2).max(1).min(rows - rows / 3));
            let mut part = vec![f32::NAN; count * len];
            weights.read_rows(tensor.name, first, &mut part).expect("rows");
            assert_eq!(part, all[first * len..][..count * len], "{name} {}", tensor.name);
            assert!(weights.read_rows(tensor.name, rows, &mut part).is_err(), "beyond the end");
            assert!(weights.read_rows(tensor.name, usize::MAX, &mut part).is_err(), "far beyond the end");
            if len > 1 {
                assert!(weights.read_rows(tensor.name, 0, &mut part[1..]).is_err(), "a part of a row");
            }
        }
        assert!(weights.read("language.nothing").is_err());
    }
}

#[test]
fn mlx_app_needs_a_tower() {
    for name in ["fastvlm-mlx-fp16", "fastvlm-mlx-8bit", "fastvlm-mlx-4bit"] {
        let error = Checkpoint::open(&fixture(name), None).expect_err("there is no tower");
        assert!(matches!(error, LoadError::NoVisionTower { .. }));
        let text = error.to_string();
        assert!(text.contains("CoreML") && text.contains("--vision DIR"), "{text}");
    }
}

#[test]
fn mlx_app_fp16() {
    let (mlx, apple) = (open_mlx("fastvlm-mlx-fp16"), open("fastvlm-apple"));
    assert_eq!(mlx.report.family, Family::MlxApp);
    assert_eq!(mlx.report.files.len(), 3);
    let (mlx, apple) = (all_values(&mlx), all_values(&apple));
    assert_eq!(mlx.keys().collect::<Vec<_>>(), apple.keys().collect::<Vec<_>>());
    for (name, (shape, bits)) in &mlx {
        assert_eq!(shape, &apple[name].0, "{name}");
        for (&a, &b) in bits.iter().zip(&apple[name].1) {
            // fp16 has no bf16 number below 2^-24, and rounds those below 2^-17 or so.
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            assert!((a - b).abs() <= 6e-8, "{name}: {a} {b}");
        }
    }
}

#[test]
fn mlx_app_quantized() {
    let expected = read_file(&fixture("fastvlm-expected.safetensors"));
    for bits in [4, 8] {
        let mlx = open_mlx(&format!("fastvlm-mlx-{bits}bit"));
        let weights = mlx.weights();
        let name = "language.layers.0.attn.q_proj.weight";
        assert_eq!(weights.stored_dtype(name), Some(StoredDtype::Affine { bits, group_size: 64 }));
        assert_eq!(weights.stored_dtype("language.norm.weight"), Some(StoredDtype::F16));
        let want = expected[&format!("mlx-{bits}/one_image/dequant_q_proj0")].values();
        assert_eq!(weights.read(name).expect("a tensor"), want);
        assert_eq!(weights.shape("language.embed_tokens.weight"), Some(&[704, 64][..]));
    }
}

/// The tower given wins over the one that is there, and nothing else is taken from there.
#[test]
fn vision_dir_wins() {
    let native = fixture("fastvlm-native");
    let mut other = read_dir(&native);
    for (name, raw) in &mut other {
        if raw.dtype == Dtype::F32 {
            let doubled: Vec<f32> = raw.values().iter().map(|v| v * 2.0).collect();
            *raw = Raw::f32(&raw.shape, &doubled);
        }
        assert!(!name.is_empty());
    }
    let other = write_dir(&native, &other);
    std::fs::remove_file(other.path().join("config.json")).expect("not needed");
    let both = Checkpoint::open(&fixture("fastvlm-apple"), Some(other.path())).expect("a checkpoint");
    let apple = open("fastvlm-apple");
    assert_eq!(both.report.family, Family::AppleLlava);
    for tensor in both.weights().iter() {
        let name = tensor.name;
        let same =
            both.weights().read(name).expect("a tensor") == apple.weights().read(name).expect("a tensor");
        assert_eq!(same, !name.starts_with("vision."), "{name}");
    }
    let no_tower = fixture("fastvlm-mlx-fp16");
    let error = Checkpoint::open(&fixture("fastvlm-apple"), Some(&no_tower)).expect_err("no tower there");
    assert!(matches!(error, LoadError::NoVisionTower { .. }), "{error}");
}

/// The older spelling of transformers, with and without `timm_model.`.
#[test]
fn native_in_older_spelling() {
    let like = fixture("fastvlm-native");
    for tower in ["vision_tower.timm_model.", "vision_tower."] {
        let rename = |name: &str| {
            name.replace("model.vision_tower.timm_model.", tower)
                .replace("model.multi_modal_projector.", "multi_modal_projector.")
                .replace("model.language_model.", "language_model.model.")
                .replace("lm_head.", "language_model.lm_head.")
        };
        let tensors = read_dir(&like).into_iter().map(|(name, raw)| (rename(&name), raw)).collect();
        let dir = write_dir(&like, &tensors);
        let old = Checkpoint::open(dir.path(), None).expect("a checkpoint");
        assert_eq!(old.report.family, Family::Native);
        assert_same(&old, &open("fastvlm-native"));
    }
}

/// mlx-vlm's files, made from Apple's as its `sanitize` does it.
fn mlx_upstream() -> Tensors {
    let mut out = Tensors::new();
    for (name, raw) in read_dir(&fixture("fastvlm-apple")) {
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        let (name, raw) = if let Some(rest) = name.strip_prefix("model.vision_tower.vision_tower.model.") {
            let rest = rest.replace("patch_embed.", "patch_embed.blocks.");
            let raw = if rest.contains("layer_scale") {
                Raw { shape: vec![1, 1, raw.shape[0]], ..raw }
            } else {
                channels_last(raw)
            };
            (format!("vision_tower.vision_model.{rest}"), raw)
        } else if name.contains("mm_projector") {
            (name.replace("model.", ""), raw)
        } else {
            (format!("language_model.{name}"), raw)
        };
        out.insert(name, raw);
    }
    out
}

/// `[o, i, h, w]` to `[o, h, w, i]`, for two bytes a value.
fn channels_last(raw: Raw) -> Raw {
    let &[o, i, h, w] = &raw.shape[..] else { return raw };
    let mut bytes = Vec::with_capacity(raw.bytes.len());
    for (o, y, x, i_at) in (0..o * h * w * i).map(|n| (n / (h * w * i), n / (w * i) % h, n / i % w, n % i)) {
        let at = 2 * (((o * i + i_at) * h + y) * w + x);
        bytes.extend(&raw.bytes[at..at + 2]);
    }
    Raw { shape: vec![o, h, w, i], bytes, ..raw }
}

#[test]
fn mlx_upstream_equals_apple() {
    let tensors = mlx_upstream();
    assert_eq!(
        tensors["vision_tower.vision_model.patch_embed.blocks.0.reparam_conv.weight"].shape,
        [4, 3, 3, 3]
    );
    let dir = write_dir(&fixture("fastvlm-apple"), &tensors);
    edit_config(dir.path(), |config| config["vision_config"] = serde_json::json!({}));
    let mlx = Checkpoint::open(dir.path(), None).expect("a checkpoint");
    assert_eq!(mlx.report.family, Family::MlxUpstream);
    assert_same(&mlx, &open("fastvlm-apple"));
}

/// Quantized language model and projector with mlx-vlm's names.
#[test]
fn mlx_upstream_quantized() {
    let mut tensors: Tensors =
        mlx_upstream().into_iter().filter(|(name, _)| name.starts_with("vision_tower.")).collect();
    let app = fixture("fastvlm-mlx-4bit");
    for (name, raw) in read_dir(&app) {
        tensors.insert(name.replace("multi_modal_projector.linear_", "mm_projector."), raw);
    }
    let dir = write_dir(&app, &tensors);
    let mlx = Checkpoint::open(dir.path(), None).expect("a checkpoint");
    assert_eq!(mlx.report.family, Family::MlxUpstream);
    assert_same(&mlx, &open_mlx("fastvlm-mlx-4bit"));
}

/// Without `lm_head.weight` the embedding is the head, whatever the config says.
#[test]
fn tied_by_absence() {
    for says in [true, false] {
        let like = fixture("fastvlm-apple");
        let mut tensors = read_dir(&like);
        let with = write_dir(&like, &tensors);
        tensors.remove("lm_head.weight");
        let without = write_dir(&like, &tensors);
        for (dir, tie) in [(with, false), (without, true)] {
            edit_config(dir.path(), |config| config["tie_word_embeddings"] = says.into());
            let checkpoint = Checkpoint::open(dir.path(), None).expect("a checkpoint");
            assert_eq!(checkpoint.config.tie, tie);
            assert_eq!(checkpoint.weights().contains("language.lm_head.weight"), !tie);
        }
    }
}

#[test]
fn inspection_counts_all_bytes() {
    let checkpoint = open("fastvlm-apple");
    let used: usize = read_dir(&fixture("fastvlm-apple"))
        .iter()
        .filter(|(name, _)| !checkpoint.report.ignored.contains(name))
        .map(|(_, raw)| raw.bytes.len())
        .sum();
    assert_eq!(checkpoint.weights().iter().map(|t| t.bytes).sum::<usize>(), used);
    let mlx = open_mlx("fastvlm-mlx-8bit");
    let language: usize = read_dir(&fixture("fastvlm-mlx-8bit")).values().map(|raw| raw.bytes.len()).sum();
    let stored = mlx.weights().iter().filter(|t| !t.name.starts_with("vision."));
    assert_eq!(stored.map(|t| t.bytes).sum::<usize>(), language);
}

#[test]
fn licences_are_found() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(licence_file(dir.path()), None);
    assert_eq!(licence_file(&dir.path().join("nowhere")), None);
    std::fs::create_dir(dir.path().join("LICENSES")).expect("made");
    std::fs::write(dir.path().join("README.md"), "").expect("written");
    assert_eq!(licence_file(dir.path()), None);
    for name in ["license_model.txt", "LICENSE"] {
        std::fs::write(dir.path().join(name), "").expect("written");
        assert_eq!(licence_file(dir.path()), Some(dir.path().join(name)));
    }
}

/// One checkpoint serves many threads.
#[test]
fn shared_between_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    let checkpoint = open("fastvlm-apple");
    shared(&checkpoint);
    let source = checkpoint.weight_source();
    shared(&source);
    let name = "vision.stages.0.blocks.0.ffn.dw.weight";
    let reads: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| source.read(name).expect("a tensor"))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(reads.iter().all(|values| *values == reads[0]));
}
