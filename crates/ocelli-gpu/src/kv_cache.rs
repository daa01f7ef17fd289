//! Keys and values of the positions that a language model has seen, on the device.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::GpuDevice;
use crate::pipeline::Scalar;

/// Positions for which there is room at first.
const FIRST_POSITIONS: usize = 512;

/// The next number of a cache's buffers.
static NEXT_BUFFERS: AtomicU64 = AtomicU64::new(0);

/// Keys and values of all layers, each `[positions][keys of all heads, values of all heads]`.
///
/// A position's entries depend on the positions before it only, so a prefix can be kept and what follows it
/// replaced: see [`GpuKvCache::truncate`].
pub struct GpuKvCache {
    device: GpuDevice,
    layers: Vec<wgpu::Buffer>,
    /// Values a position.
    cols: usize,
    scalar: Scalar,
    capacity: usize,
    len: usize,
    /// A number that no other buffers have, of this cache or of another one.
    pub(crate) buffers_id: u64,
}

impl GpuKvCache {
    /// An empty cache.
    pub fn new(device: &GpuDevice, layers: usize, kv_heads: usize, head_dim: usize) -> Self {
        let scalar = if device.f16() { Scalar::F16 } else { Scalar::F32 };
        let cols = 2 * kv_heads * head_dim;
        let mut cache = Self {
            device: device.clone(),
            layers: Vec::new(),
            cols,
            scalar,
            capacity: FIRST_POSITIONS,
            len: 0,
            buffers_id: 0,
        };
        cache.allocate(layers);
        cache
    }

    /// Positions seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position has been seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forget all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.layers.len() * self.layer_bytes()
    }

    /// Make room for `positions` in all, keeping what is there.
    pub fn reserve(&mut self, positions: usize) {
        if positions <= self.capacity {
            return;
        }
        self.capacity = positions.next_power_of_two();
        let old = std::mem::take(&mut self.layers);
        self.allocate(old.len());
        let opened = self.device.opened();
        let mut encoder = opened.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (from, to) in old.iter().zip(&self.layers) {
            encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        }
        opened.queue.submit([encoder.finish()]);
    }

    fn layer_bytes(&self) -> usize {
        self.capacity * self.cols * self.scalar.size()
    }

    fn allocate(&mut self, layers: usize) {
        let bytes = self.layer_bytes() as u64;
        self.layers = (0..layers).map(|_| self.device.storage("keys and values", bytes)).collect();
        self.buffers_id = NEXT_BUFFERS.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn layer(&self, layer: usize) -> &wgpu::Buffer {
        &self.layers[layer]
    }

    /// All layers have appended these rows.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.len += rows;
    }
}
