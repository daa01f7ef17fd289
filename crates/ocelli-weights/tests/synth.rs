//! Random checkpoints load, are the same each time, and overwrite nothing else.

mod support;

use std::path::Path;

use ocelli_plan::WeightSource;
use ocelli_weights::{Checkpoint, SynthArch, SynthError, synth};
use support::read_file;

fn write(dir: &Path, seed: u64, force: bool) -> Result<(), SynthError> {
    synth(SynthArch::FastVlmTiny, dir, seed, force, &mut |_, _| {})
}

#[test]
fn tiny_loads() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut calls = Vec::new();
    synth(SynthArch::FastVlmTiny, dir.path(), 1, false, &mut |done, total| calls.push((done, total)))
        .expect("written");
    let &(done, total) = calls.last().expect("progress");
    assert_eq!(done, total);
    assert!(calls.is_sorted());

    let checkpoint = Checkpoint::open(dir.path(), None).expect("a checkpoint");
    assert!(checkpoint.report.is_complete() && checkpoint.report.folded);
    let config = &checkpoint.config;
    assert!(config.tie);
    assert_eq!((config.image_size, config.hidden_size, config.vocab_size), (256, 64, 576));
    assert_eq!(config.vision.widths, [8, 16, 32, 64, 128]);
    let weights = checkpoint.weights();
    for tensor in weights.iter() {
        let values = weights.read(tensor.name).expect("a tensor");
        assert!(values.iter().all(|v| v.is_finite()), "{}", tensor.name);
        assert!(values.len() < 8 || values.iter().any(|v| *v != values[0]), "{}", tensor.name);
    }
    let files: Vec<_> = std::fs::read_dir(dir.path()).expect("a directory").collect();
    assert_eq!(files.len(), 3);
}

#[test]
fn seeds_decide() {
    let read = |seed| {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), seed, false).expect("written");
        read_file(&dir.path().join("model.safetensors"))
    };
    let (a, again, b) = (read(7), read(7), read(8));
    assert_eq!(a, again);
    for (name, raw) in &a {
        assert!(raw.shape.is_empty() || raw.bytes != b[name].bytes, "{name} is the same for two seeds");
    }
}

#[test]
fn overwrites_only_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("thesis.txt"), "years of work").expect("written");
    for force in [false, true] {
        let error = write(dir.path(), 1, force).expect_err("not ours");
        assert!(matches!(error, SynthError::NotEmpty { .. }), "{error}");
    }
    std::fs::remove_file(dir.path().join("thesis.txt")).expect("removed");

    write(dir.path(), 1, false).expect("an empty directory");
    let first = read_file(&dir.path().join("model.safetensors"));
    let error = write(dir.path(), 2, false).expect_err("it is there");
    assert!(matches!(error, SynthError::Exists { .. }), "{error}");
    assert!(error.to_string().contains("--force"));
    std::fs::write(dir.path().join("model-00001-of-00004.safetensors.partial"), "cut").expect("written");
    write(dir.path(), 2, true).expect("forced");
    assert_ne!(first, read_file(&dir.path().join("model.safetensors")));
    assert!(!dir.path().join("model-00001-of-00004.safetensors.partial").exists());
}

#[test]
fn a_file_in_the_way_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    std::fs::write(&path, "").expect("written");
    assert!(matches!(write(&path, 1, false), Err(SynthError::Io { .. })));
}
