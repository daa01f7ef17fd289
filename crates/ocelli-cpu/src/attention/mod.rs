//! Attention: over one block of rows (vision and text towers) and against a cache (Qwen2).
//!
//! Keys are kept as panels of sixteen positions, values as rows, so that scores and the weighted sum
//! of values are ordinary products with the register tile; in bf16, with AMX or AVX-512's bf16 extension, they are
//! products in bf16: see [`tiles`].

#[cfg(target_arch = "x86_64")]
mod tiles;

use ocelli_plan::Activation;

use crate::Isa;
use crate::kv_cache::{KvCache, KvHead};
use crate::math::{exp, largest_lanes};
use crate::matmul::{Finish, Outputs, Product, Rows};
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::View;

/// Query rows whose scores are in memory at one time.
const QUERY_BLOCK: usize = 32;
/// Positions of a task when attending against a cache.
const POSITIONS: usize = 8;

/// Attention over one block: `qkv` is `[rows, 3 * heads * head_dim]`.
pub(crate) fn attention(isa: Isa, pool: &Pool, qkv: View, heads: usize, causal: bool, out: View) {
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = tiles::unit(isa, qkv, out.cols / heads) {
        return pool
            .run(heads, &|head| isa.dispatch(tiles::HeadTask { unit, qkv, heads, head, causal, out }));
    }
    pool.run(heads, &|head| isa.dispatch(HeadTask { qkv, heads, head, causal, out }));
}

struct HeadTask {
    qkv: View,
    heads: usize,
    head: usize,
    causal: bool,
    out: View,
}

impl Kernel for HeadTask {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let dim = self.out.cols / self.heads;
        let rows = self.qkv.rows;
        let column = |part: usize| (part * self.heads + self.head) * dim;
        let mut kv = KvHead::new(dim);
        kv.reserve(rows);
        // SAFETY: columns are in the tensor; each task writes its own head's columns.
        unsafe {
            kv.append::<S>(self.qkv, rows, column(1), column(2));
            let mut memory = Scratch::take(QUERY_BLOCK * dim);
            let queries = memory.as_mut_ptr();
            for first in (0..rows).step_by(QUERY_BLOCK) {
                let count = QUERY_BLOCK.min(rows - first);
                for r in 0..count {
                    self.qkv.widen::<S>(first + r, column(0), dim, queries.add(r * dim));
                }
                let queries = Queries { at: queries, group: 1, first, count, col: column(0) };
                let seen = if self.causal { first + 1 } else { rows };
                attend::<S>(queries, &kv, seen, usize::from(self.causal), self.out);
            }
        }
    }
}

/// Attention against one layer of the cache, whose last `qkv.rows` positions are these rows'.
pub(crate) fn cached_attention(
    isa: Isa,
    pool: &Pool,
    qkv: View,
    heads: usize,
    cache: &mut KvCache,
    layer: usize,
    out: View,
) {
    let past = cache.len();
    let kv_heads = cache.kv_heads();
    let dim = cache.head_dim();
    let layer = cache.layer_mut(layer);
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = tiles::unit(isa, qkv, dim) {
        return tiles::cached(isa, unit, pool, qkv, heads, layer, past, out);
    }
    for (i, head) in layer.iter_mut().enumerate() {
        let (k, v) = ((heads + i) * dim, (heads + kv_heads + i) * dim);
        isa.dispatch(AppendTask { head, past, qkv, k, v });
    }
    let layer = &*layer;
    let blocks = qkv.rows.div_ceil(POSITIONS);
    pool.run(kv_heads * blocks, &|task| {
        let (head, first) = (task / blocks, task % blocks * POSITIONS);
        let count = POSITIONS.min(qkv.rows - first);
        let group = heads / kv_heads;
        isa.dispatch(GroupTask { qkv, head: &layer[head], index: head, group, past, first, count, out });
    });
}

struct AppendTask<'a> {
    head: &'a mut KvHead,
    past: usize,
    qkv: View,
    k: usize,
    v: usize,
}

impl Kernel for AppendTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        self.head.truncate(self.past);
        // SAFETY: the columns are in the tensor.
        unsafe { self.head.append::<S>(self.qkv, self.qkv.rows, self.k, self.v) };
    }
}

/// Some positions of the query heads that share one key head: those are the rows of a product.
struct GroupTask<'a> {
    qkv: View,
    head: &'a KvHead,
    index: usize,
    group: usize,
    past: usize,
    first: usize,
    count: usize,
    out: View,
}

impl Kernel for GroupTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let dim = self.head.dim();
        let (group, col) = (self.group, self.index * self.group * dim);
        let mut memory = Scratch::take(self.count * group * dim);
        let queries = memory.as_mut_ptr();
        // SAFETY: columns are in the tensors; each task writes its own heads and rows.
        unsafe {
            for r in 0..self.count {
                self.qkv.widen::<S>(self.first + r, col, group * dim, queries.add(r * group * dim));
            }
            let queries = Queries { at: queries, group, first: self.first, count: self.count, col };
            attend::<S>(queries, self.head, self.past + self.first + 1, 1, self.out);
        }
    }
}

/// Queries of some positions in f32, `[count * group, dim]`, and where their results go: head `g` of
/// position `p` to row `first + p` from column `col + g * dim` on.
struct Queries {
    at: *const f32,
    /// Heads that share a key head.
    group: usize,
    first: usize,
    count: usize,
    col: usize,
}

/// `softmax(q K^T / sqrt(dim)) V`, where the first position sees `seen` positions and each further
/// one `step` more.
///
/// What a position does not see gets the weight zero, which adds nothing to its sums: results do not
/// depend on which positions come in one block.
#[inline(always)]
unsafe fn attend<S: Simd>(queries: Queries, kv: &KvHead, seen: usize, step: usize, out: View) {
    let Queries { at, group, first, count, col } = queries;
    let dim = kv.dim();
    let rows = count * group;
    let all = seen + step * (count - 1);
    let panels = all.div_ceil(LANES);
    // The last panel may hold positions that nobody sees: scores need room for them.
    let stride = panels * LANES + LANES;
    let scale = 1.0 / (dim as f32).sqrt();
    let mut memory = Scratch::take(rows * (stride + dim));
    let scratch = memory.as_mut_ptr();
    // SAFETY: the scratch holds the scores and, behind them, the sums.
    unsafe {
        let q = Rows { at, stride: dim, rows, k: dim };
        let scores = View::scratch(scratch, rows, panels * LANES, stride);
        S::call(Product { a: q, b: kv.keys(), outputs: Outputs::new(0..panels, &plain(scores), 0) });
        for r in 0..rows {
            let seen = seen + step * (r / group);
            let scores = scratch.add(r * stride);
            softmax::<S>(scores, seen, scale);
            std::ptr::write_bytes(scores.add(seen), 0, all - seen);
        }
        let weights = Rows { at: scratch, stride, rows, k: all };
        let sums = View::scratch(scratch.add(rows * stride), rows, dim, dim);
        let epilogue = plain(sums);
        let outputs = Outputs::new(0..dim.div_ceil(LANES), &epilogue, 0);
        S::call(Product { a: weights, b: kv.values(), outputs });
        for r in 0..rows {
            let (row, col) = (first + r / group, col + r % group * dim);
            for c in (0..dim).step_by(LANES) {
                let n = LANES.min(dim - c);
                out.store::<S>(row, col + c, n, sums.load::<S>(r, c, n));
            }
        }
    }
}

fn plain(out: View) -> Finish<'static> {
    Finish { bias: None, activation: Activation::None, scale: None, residual: None, out }
}

/// `x = e^(scale x - max) / sum` over `n` values in place.
#[inline(always)]
unsafe fn softmax<S: Simd>(x: *mut f32, n: usize, scale: f32) {
    // SAFETY: reads and writes `n` values.
    unsafe {
        let whole = n - n % LANES;
        let max = largest_lanes::<S>(x, whole);
        let tail = (whole..n).map(|c| *x.add(c)).fold(f32::NEG_INFINITY, f32::max);
        let max = S::splat(S::reduce_max(max).max(tail) * scale);
        let mut total = S::zero();
        for c in (0..whole).step_by(LANES) {
            let e = exp::<S>(S::fma(S::load(x.add(c)), S::splat(scale), S::sub(S::zero(), max)));
            total = S::add(total, e);
            S::store(x.add(c), e);
        }
        let mut sum = S::reduce_add(total);
        if whole < n {
            let v = S::load_partial(x.add(whole), n - whole);
            let e = exp::<S>(S::fma(v, S::splat(scale), S::sub(S::zero(), max)));
            S::store_partial(x.add(whole), n - whole, e);
            sum += (whole..n).map(|c| *x.add(c)).sum::<f32>();
        }
        let inverse = S::splat(1.0 / sum);
        for c in (0..n).step_by(LANES) {
            let m = LANES.min(n - c);
            S::store_partial(x.add(c), m, S::mul(S::load_partial(x.add(c), m), inverse));
        }
    }
}
