//! What the tests share: the made-up numbers of `reference/make_train_fixtures.py`, and comparison.

#![allow(dead_code, reason = "each test uses a part")]

pub mod runs;

use burn::tensor::{Device, Tensor, TensorData};
use ocelli_train::burn;

/// The same numbers from -1 to 1 as `made` of the script.
pub fn made(count: usize, salt: usize) -> Vec<f32> {
    let value = |i: usize| (i * 7919 + salt * 104_729 + (i * i) % 8191 * 31) % 2003;
    (0..count).map(|i| (value(i) as f64 / 1001.0 - 1.0) as f32).collect()
}

/// A tensor of them.
pub fn input<const D: usize>(shape: [usize; D], salt: usize, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(made(shape.iter().product(), salt), shape), device)
}

/// The values of a tensor.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().expect("a tensor of f32")
}

/// Every value within `tolerance` times the largest expected one, or 1.
pub fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let size = expected.iter().fold(1.0f32, |size, v| size.max(v.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / size;
        assert!(error <= tolerance, "{name}[{i}]: {found}, PyTorch {expected}, error {error:e}");
    }
}
