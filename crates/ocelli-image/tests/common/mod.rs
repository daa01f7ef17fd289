//! What several test files share: where fixtures are, how answers are stored.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use ocelli_image::{DecodeOptions, Orientation, Rgb8};
use sha2::{Digest, Sha256};

pub fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures"))
}

pub fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(name)).unwrap()).unwrap()
}

pub const AS_STORED: DecodeOptions =
    DecodeOptions { orientation: Orientation::Ignore, max_pixels: 178_956_970 };

/// All pictures in the fixture folder `folder`, sorted by name.
pub fn pictures(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures().join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension != "rgb"));
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

pub fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// SHA-256 of `[3, size, size]` bytes, given `[size, size, 3]`.
pub fn chw_sha256(hwc: &[u8]) -> String {
    let mut hash = Sha256::new();
    for channel in 0..3 {
        hash.update(hwc.iter().skip(channel).step_by(3).copied().collect::<Vec<u8>>());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads an answer written by `reference/make_image_cases.py`.
pub fn answer(picture: &Path) -> Rgb8 {
    let bytes = std::fs::read(format!("{}.rgb", picture.display())).unwrap();
    let side = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    Rgb8 { height: side(0), width: side(4), pixels: bytes[8..].to_vec() }
}

/// The largest difference of any two bytes.
pub fn max_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// xorshift64*: enough for choosing bytes to damage.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}
