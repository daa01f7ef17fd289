//! Keys and values of the positions that a language model has seen.

#[cfg(target_arch = "x86_64")]
use crate::kv_tiles::KvTiles;
use crate::matmul::Columns;
use crate::simd::{LANES, Simd};
use crate::view::View;

/// Keys and values of one head: in f32, or as tiles where kernels want them so.
#[derive(Clone)]
pub(crate) struct KvHead {
    dim: usize,
    len: usize,
    /// Panels `[positions / 16][dim][16]`.
    keys: Vec<f32>,
    /// `[positions][dim]`, with room for one more vector.
    values: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    tiles: KvTiles,
}

impl KvHead {
    pub(crate) fn new(dim: usize) -> Self {
        Self {
            dim,
            len: 0,
            keys: Vec::new(),
            values: Vec::new(),
            #[cfg(target_arch = "x86_64")]
            tiles: KvTiles::new(dim),
        }
    }

    /// Put the rows of `qkv` at the positions from `past` on, as tiles.
    ///
    /// # Safety
    /// The columns are in the tensor, which is of bf16.
    #[cfg(target_arch = "x86_64")]
    pub(crate) unsafe fn append_tiles(&mut self, past: usize, qkv: View, k: usize, v: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.tiles.append(past, qkv, k, v) };
        self.len = past + qkv.rows;
    }

    /// What [`Self::append_tiles`] put there.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tiles(&self) -> &KvTiles {
        &self.tiles
    }

    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// Make room for `positions` in all, so that appending does not move what is there.
    pub(crate) fn reserve(&mut self, positions: usize) {
        let (keys, values) = self.sizes(positions);
        self.keys.reserve(keys.saturating_sub(self.keys.len()));
        self.values.reserve(values.saturating_sub(self.values.len()));
    }

    fn sizes(&self, positions: usize) -> (usize, usize) {
        let whole = positions.next_multiple_of(LANES);
        // A vector of the last row may reach beyond it when `dim` is no multiple of sixteen.
        (whole * self.dim, whole * self.dim + LANES)
    }

    /// Forget all positions from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Append `rows` positions whose keys begin at column `k` and values at column `v`.
    ///
    /// # Safety
    /// The rows and columns are in the tensor; the CPU has `S`.
    #[inline(always)]
    pub(crate) unsafe fn append<S: Simd>(&mut self, qkv: View, rows: usize, k: usize, v: usize) {
        let (key_size, value_size) = self.sizes(self.len + rows);
        self.keys.resize(key_size, 0.0);
        self.values.resize(value_size, 0.0);
        for row in 0..rows {
            let position = self.len + row;
            let values = &mut self.values[position * self.dim..][..self.dim];
            let panel = &mut self.keys[position / LANES * LANES * self.dim..][..LANES * self.dim];
            // SAFETY: `values` holds `dim` values; the caller promises the columns.
            unsafe {
                // Stage the keys where the values go, then overwrite them.
                qkv.widen::<S>(row, k, self.dim, values.as_mut_ptr());
                for (d, &key) in values.iter().enumerate() {
                    panel[d * LANES + position % LANES] = key;
                }
                qkv.widen::<S>(row, v, self.dim, values.as_mut_ptr());
            }
        }
        self.len += rows;
    }

    /// Append one position; the scalar twin of [`Self::append`].
    pub(crate) fn push(&mut self, key: &[f32], value: &[f32]) {
        let position = self.len;
        let (key_size, value_size) = self.sizes(position + 1);
        self.keys.resize(key_size, 0.0);
        self.values.resize(value_size, 0.0);
        let panel = &mut self.keys[position / LANES * LANES * self.dim..];
        for (d, &k) in key.iter().enumerate() {
            panel[d * LANES + position % LANES] = k;
        }
        self.values[position * self.dim..][..self.dim].copy_from_slice(value);
        self.len += 1;
    }

    /// The key of a position.
    pub(crate) fn key(&self, position: usize) -> Vec<f32> {
        let panel = &self.keys[position / LANES * LANES * self.dim..];
        (0..self.dim).map(|d| panel[d * LANES + position % LANES]).collect()
    }

    /// The value of a position.
    pub(crate) fn value(&self, position: usize) -> &[f32] {
        &self.values[position * self.dim..][..self.dim]
    }

    /// Keys as columns: one a position, `dim` deep.
    pub(crate) fn keys(&self) -> Columns<f32> {
        Columns { at: self.keys.as_ptr(), panel_stride: self.dim * LANES, k_stride: LANES, first: 0 }
    }

    /// Values as columns: one a dimension, one deep for each position.
    pub(crate) fn values(&self) -> Columns<f32> {
        Columns { at: self.values.as_ptr(), panel_stride: LANES, k_stride: self.dim, first: 0 }
    }
}

/// Keys and values of all layers, in f32 or bf16.
///
/// A position's entries depend on the positions before it only, so a prefix can be kept and what
/// follows it replaced: see [`KvCache::truncate`].
#[derive(Clone)]
pub struct KvCache {
    layers: Vec<Vec<KvHead>>,
    len: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl KvCache {
    /// An empty cache.
    pub fn new(layers: usize, kv_heads: usize, head_dim: usize) -> Self {
        let layers = vec![vec![KvHead::new(head_dim); kv_heads]; layers];
        Self { layers, len: 0, kv_heads, head_dim }
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
        self.layers.iter_mut().flatten().for_each(|head| head.truncate(len));
    }

    /// Make room for `positions` in all, so that generation does not reallocate.
    pub fn reserve(&mut self, positions: usize) {
        self.layers.iter_mut().flatten().for_each(|head| head.reserve(positions));
    }

    /// Bytes that `positions` take.
    pub fn bytes_for(layers: usize, kv_heads: usize, head_dim: usize, positions: usize) -> usize {
        layers * kv_heads * head_dim * positions.next_multiple_of(LANES) * 2 * size_of::<f32>()
    }

    pub(crate) fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut Vec<KvHead> {
        &mut self.layers[layer]
    }

    /// All layers have appended these rows.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.len += rows;
    }
}
