//! Files that other programs wrote: tiny models and their answers.

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

/// `tests/fixtures` of this repository, or the folder that `OCELLI_FIXTURES` names: fixtures of another
/// seed, made by `reference/make_fixtures.py`.
pub fn fixtures_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("OCELLI_FIXTURES") {
        return PathBuf::from(dir);
    }
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures"))
}

/// The path of a fixture.
pub fn fixture(name: &str) -> PathBuf {
    fixtures_dir().join(name)
}

/// A safetensors file of expected values.
pub struct Tensors(Vec<u8>);

impl Tensors {
    /// Read a fixture.
    ///
    /// # Panics
    /// When the file is not there.
    pub fn open(name: &str) -> Self {
        Self::read(&fixture(name))
    }

    /// Read any safetensors file.
    ///
    /// # Panics
    /// When the file is not there.
    pub fn read(path: &std::path::Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    /// A tensor's shape and its values as f32.
    ///
    /// # Panics
    /// When there is no such tensor.
    pub fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.0).expect("a fixture is a safetensors file");
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = tensor.data();
        let values = match tensor.dtype() {
            Dtype::F32 => {
                data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::U8 => data.iter().map(|&b| f32::from(b)).collect(),
            other => panic!("{name}: fixtures hold f32 and u8, not {other:?}"),
        };
        (tensor.shape().to_vec(), values)
    }

    /// A tensor's values as f32.
    ///
    /// # Panics
    /// When there is no such tensor.
    pub fn values(&self, name: &str) -> Vec<f32> {
        self.get(name).1
    }

    /// Names of all tensors.
    ///
    /// # Panics
    /// When the file is damaged.
    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.0).expect("a fixture is a safetensors file");
        file.names().into_iter().map(str::to_owned).collect()
    }
}

/// `|got - want| / |want|` in the L2 norm, in f64.
///
/// # Panics
/// When the lengths differ.
pub fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "lengths");
    let square = |x: f64| x * x;
    let difference: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let norm: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    (difference / norm.max(1e-30)).sqrt()
}
