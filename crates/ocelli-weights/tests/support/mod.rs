//! Fixture checkpoints, whole and rewritten with something changed.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ocelli_weights::{Checkpoint, LoadError};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tempfile::TempDir;

/// A fixture directory.
pub fn fixture(name: &str) -> PathBuf {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name);
    assert!(dir.exists(), "fixture {} is missing", dir.display());
    dir
}

/// One tensor as a file holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Raw {
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// The values of an f32 tensor.
    pub fn values(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        self.bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }
}

/// Tensors by the names of the file.
pub type Tensors = BTreeMap<String, Raw>;

/// All tensors of a directory, read by the reference implementation of the format.
pub fn read_dir(dir: &Path) -> Tensors {
    let mut tensors = Tensors::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            tensors.extend(read_file(&path));
        }
    }
    tensors
}

pub fn read_file(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).expect("a readable file");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let raw = |view: &TensorView| Raw {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.iter().map(|(name, view)| (name.to_owned(), raw(&view))).collect()
}

pub fn write_file(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, raw)| {
        let view = TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes).expect("a tensor of its size");
        (name, view)
    });
    safetensors::serialize_to_file(views, None, path).expect("a written file");
}

/// A directory with these tensors and the configuration files of a fixture.
pub fn write_dir(like: &Path, tensors: &Tensors) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["config.json", "processor_config.json", "preprocessor_config.json"] {
        if like.join(name).exists() {
            std::fs::copy(like.join(name), dir.path().join(name)).expect("a copy");
        }
    }
    write_file(&dir.path().join("model.safetensors"), tensors);
    dir
}

/// Change the config of a directory.
pub fn edit_config(dir: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).expect("a config")).expect("JSON");
    edit(&mut config);
    // The copy of a read-only fixture is read-only too.
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, config.to_string()).expect("written");
}

/// Open a fixture after its tensors were changed.
pub fn open_edited(name: &str, edit: impl FnOnce(&mut Tensors)) -> Result<Checkpoint, LoadError> {
    let like = fixture(name);
    let mut tensors = read_dir(&like);
    edit(&mut tensors);
    let dir = write_dir(&like, &tensors);
    Checkpoint::open(dir.path(), None)
}
