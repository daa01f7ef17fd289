//! Packed weights that stay on the disk between starts.

use std::path::{Path, PathBuf};

use ocelli_cpu::CpuWeights;
use ocelli_plan::DType;

/// Less is packed sooner than a file is looked for.
const LEAST_BYTES: usize = 1 << 16;
/// Room that is left on the disk.
const SPARE_BYTES: u64 = 1 << 30;

/// Where one model's packed weights are kept.
pub(crate) struct PackedCache {
    path: PathBuf,
    key: u64,
}

impl PackedCache {
    /// A file of `dir` for a checkpoint in a compute type, quantized as the name says. One that was made from an
    /// earlier state of the checkpoint is replaced.
    pub(crate) fn new(
        dir: &Path,
        (fingerprint, state): (u64, u64),
        dtype: DType,
        quant: Option<&str>,
    ) -> Self {
        let dtype = match dtype {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
        };
        let quant = quant.map_or(String::new(), |name| format!("-{name}"));
        Self { path: dir.join(format!("{fingerprint:016x}-{dtype}{quant}.packed")), key: state }
    }

    /// Let `weights` take what the file has.
    pub(crate) fn open(&self, weights: &CpuWeights) {
        weights.use_packed_file(&self.path, self.key);
    }

    /// Keep what was packed afresh. Where that fails, or would fill the disk, the next start packs again.
    pub(crate) fn save(&self, weights: &CpuWeights) {
        let unsaved = weights.unsaved_bytes();
        let Some(dir) = self.path.parent() else { return };
        if unsaved < LEAST_BYTES || std::fs::create_dir_all(dir).is_err() {
            return;
        }
        if room(dir) > weights.bytes() as u64 + SPARE_BYTES {
            // Nothing is lost: see above.
            let _ = weights.save_packed_file(&self.path, self.key);
        }
    }
}

/// Bytes free on the disk of a directory.
#[cfg(not(target_family = "wasm"))]
fn room(dir: &Path) -> u64 {
    fs4::available_space(dir).unwrap_or(0)
}

#[cfg(target_family = "wasm")]
fn room(_dir: &Path) -> u64 {
    0
}
