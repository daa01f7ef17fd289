//! Quantized checkpoints: what is written is what quantizing while reading gives, and hostile ones are
//! refused with a message that names what is wrong.

mod support;

use std::path::Path;

use ocelli_plan::{BlockFormat, WeightSource};
use ocelli_weights::{Checkpoint, QuantPolicy, QuantizeError, StoredDtype, quantized, write_quantized};
use safetensors::tensor::Dtype;
use serde_json::json;
use support::{Raw, Tensors, edit_config, fixture, read_dir, write_file};
use tempfile::TempDir;

const DOWN: &str = "model.layers.1.mlp.down_proj.weight";

fn policy(layers: BlockFormat) -> QuantPolicy {
    QuantPolicy::of(layers).with_vision(layers == BlockFormat::Q8)
}

/// The quantized fixture under a temporary directory.
fn written(name: &str, layers: BlockFormat) -> (TempDir, std::path::PathBuf) {
    let home = tempfile::tempdir().expect("a directory");
    let out = home.path().join("out");
    let (mut last, mut total) = (0, 0);
    let bytes = write_quantized(&fixture(name), &out, policy(layers), &mut |done, all| {
        assert!(done > last && done <= all);
        (last, total) = (done, all);
    });
    let bytes = bytes.expect("written");
    assert_eq!((bytes, bytes), (last, total));
    (home, out)
}

#[test]
fn every_tensor_of_a_written_checkpoint_equals_quantizing_while_reading() {
    for name in ["fastvlm-apple", "fastvlm-native"] {
        let original = Checkpoint::open(&fixture(name), None).expect("the original");
        for layers in [BlockFormat::Q8, BlockFormat::Q4] {
            let (_home, out) = written(name, layers);
            let stored = Checkpoint::open(&out, None).expect("what was written");
            assert_eq!(stored.config.family, original.config.family);
            let live = quantized(original.weight_source(), policy(layers));
            let mut formats = [0; 3];
            for tensor in original.weights().iter() {
                let name = tensor.name;
                assert_eq!(stored.weights().shape(name), Some(tensor.shape), "{name}");
                assert_eq!(stored.weights().block_format(name), live.block_format(name), "{name}");
                assert_eq!(stored.weights().read(name), live.read(name), "{name}");
                if let Some(format) = live.block_format(name) {
                    formats[format as usize] += 1;
                    let mut blocks = [vec![1; tensor.shape[0] * format.row_bytes(tensor.shape[1..].iter().product())], vec![]];
                    blocks[1] = vec![2; blocks[0].len()];
                    live.read_blocks(name, 0, &mut blocks[0]).expect("blocks");
                    stored.weights().read_blocks(name, 0, &mut blocks[1]).expect("blocks");
                    assert!(blocks[0] == blocks[1], "{name}");
                    assert_eq!(stored.weights().stored_dtype(name), Some(StoredDtype::Blocks(format)));
                }
            }
            let heads = if original.config.tie { 1 } else { 2 };
            let expected = if layers == BlockFormat::Q8 { [14 + heads, 0] } else { [heads, 14] };
            assert_eq!(formats[..2], expected, "{name}: seven matrices a layer, embedding and head");
            assert_eq!(formats[2] > 0, layers == BlockFormat::Q8, "{name}: {} of the tower", formats[2]);
            for file in ["tokenizer.json", "tokenizer_config.json"] {
                assert_eq!(out.join(file).exists(), fixture(name).join(file).exists(), "{file}");
            }
        }
    }
}

#[test]
fn nothing_is_written_over_or_left_behind() {
    let home = tempfile::tempdir().expect("a directory");
    let error =
        write_quantized(&fixture("fastvlm-apple"), home.path(), policy(BlockFormat::Q4), &mut |_, _| ());
    assert!(matches!(error, Err(QuantizeError::Exists { .. })), "{error:?}");
    // What an interrupted run left does not disturb; what it lacks is not mixed with it.
    let out = home.path().join("out");
    let partial = home.path().join("out.partial");
    std::fs::create_dir(&partial).expect("created");
    std::fs::write(partial.join("vocab.json"), "half").expect("written");
    write_quantized(&fixture("fastvlm-apple"), &out, policy(BlockFormat::Q4), &mut |_, _| ())
        .expect("written");
    assert!(!partial.exists());
    let copied = std::fs::read(out.join("vocab.json")).expect("copied");
    assert_eq!(copied, std::fs::read(fixture("fastvlm-apple").join("vocab.json")).expect("the original"));
    let again = write_quantized(&out, &home.path().join("twice"), policy(BlockFormat::Q4), &mut |_, _| ());
    assert!(matches!(again, Err(QuantizeError::Already { .. })), "{again:?}");
    let mlx = fixture("fastvlm-mlx-4bit");
    let codes = write_quantized(&mlx, &home.path().join("mlx"), policy(BlockFormat::Q4), &mut |_, _| ());
    assert!(codes.is_err());
    let left: Vec<_> = std::fs::read_dir(home.path()).expect("a directory").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// The error of opening a quantized checkpoint after something was changed.
fn error(edit: impl FnOnce(&Path, &mut Tensors)) -> String {
    let (_home, out) = written("fastvlm-apple", BlockFormat::Q4);
    let mut tensors = read_dir(&out);
    edit(&out, &mut tensors);
    write_file(&out.join("model.safetensors"), &tensors);
    Checkpoint::open(&out, None).expect_err("a damaged checkpoint").to_string()
}

fn reshape(tensors: &mut Tensors, shape: &[usize]) {
    let raw = Raw { dtype: Dtype::U8, shape: shape.to_vec(), bytes: vec![0; shape.iter().product()] };
    tensors.insert(DOWN.to_owned(), raw);
}

#[test]
fn wrong_blocks_are_named() {
    for shape in [&[64, 6, 17][..], &[64, 4], &[64, 6, 18, 1], &[64, 6, 0], &[64 * 6 * 18]] {
        let text = error(|_, tensors| reshape(tensors, shape));
        assert!(text.contains(DOWN) && text.contains("expected [rows, blocks"), "{shape:?}: {text}");
    }
    // The right blocks, but too many or too few of them.
    for shape in [[64, 5, 18], [64, 7, 18], [63, 6, 18], [64, 3, 34]] {
        let text = error(|_, tensors| reshape(tensors, &shape));
        assert!(text.contains(DOWN), "{shape:?}: {text}");
    }
    let text = error(|_, tensors| reshape(tensors, &[64, 6 * 18]));
    assert!(text.contains(DOWN) && text.contains("104"), "8-bit rows that are too short: {text}");
    let text = error(|dir, _| edit_config(dir, |c| c["ocelli_quantization"]["group_size"] = json!(64)));
    assert!(text.contains("ocelli_quantization.group_size = 64") && text.contains("32"), "{text}");
    let text = error(|dir, _| edit_config(dir, |c| c["ocelli_quantization"]["version"] = json!(2)));
    assert!(text.contains("ocelli_quantization.version = 2"), "{text}");
    let remove = |c: &mut serde_json::Value| c.as_object_mut().expect("config").remove("ocelli_quantization");
    let text = error(|dir, _| edit_config(dir, |c| drop(remove(c))));
    assert!(text.contains("U8"), "{text}");
    // Bytes where a norm should be.
    let norm = "model.layers.0.input_layernorm.weight";
    let text = error(|_, tensors| {
        let raw = Raw { dtype: Dtype::U8, shape: vec![1, 2, 34], bytes: vec![0; 68] };
        tensors.insert(norm.to_owned(), raw);
    });
    assert!(text.contains(norm), "{text}");
}

#[test]
fn a_file_cut_short_is_refused() {
    let (_home, out) = written("fastvlm-apple", BlockFormat::Q8);
    let path = out.join("model.safetensors");
    let whole = std::fs::read(&path).expect("the file");
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).expect("written");
        let error = Checkpoint::open(&out, None).expect_err("a file cut short").to_string();
        assert!(error.contains("model.safetensors"), "{length}: {error}");
    }
}
