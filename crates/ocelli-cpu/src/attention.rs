//! Attention: over one block of rows (vision and text towers) and against a cache (Qwen2).
//!
//! Keys are kept as panels of sixteen positions, values as rows, so that scores and the weighted sum
//! of values are ordinary products with the register tile.

use ocelli_plan::Activation;

use crate::Isa;
use crate::kv_cache::{KvCache, KvHead};
use crate::math::exp;
use crate::matmul::{Finish, Rows, product};
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
            let block = if self.causal { 1 } else { QUERY_BLOCK };
            let mut memory = Scratch::take(block * dim);
            let queries = memory.as_mut_ptr();
            for first in (0..rows).step_by(block) {
                let count = block.min(rows - first);
                for r in 0..count {
                    self.qkv.widen::<S>(first + r, column(0), dim, queries.add(r * dim));
                }
                let visible = if self.causal { first + 1 } else { rows };
                let q = Rows { at: queries, stride: dim, rows: count, k: dim };
                attend::<S>(q, &kv, visible, |r| (first + r, column(0)), self.out);
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
        let (group, first_col) = (self.group, self.index * self.group * dim);
        let mut memory = Scratch::take(group * dim);
        let queries = memory.as_mut_ptr();
        for row in self.first..self.first + self.count {
            // SAFETY: columns are in the tensors; each task writes its own heads and rows.
            unsafe {
                self.qkv.widen::<S>(row, first_col, group * dim, queries);
                let q = Rows { at: queries, stride: dim, rows: group, k: dim };
                let place = |g: usize| (row, first_col + g * dim);
                attend::<S>(q, self.head, self.past + row + 1, place, self.out);
            }
        }
    }
}

/// `softmax(q K^T / sqrt(dim)) V` over the first `visible` positions; row `r` goes to `place(r)`.
#[inline(always)]
unsafe fn attend<S: Simd>(
    q: Rows,
    kv: &KvHead,
    visible: usize,
    place: impl Fn(usize) -> (usize, usize),
    out: View,
) {
    let dim = kv.dim();
    let panels = visible.div_ceil(LANES);
    // The last panel may hold positions that are not visible: scores need room for them.
    let stride = panels * LANES + LANES;
    let scale = 1.0 / (dim as f32).sqrt();
    let mut memory = Scratch::take(q.rows * (stride + dim));
    let scratch = memory.as_mut_ptr();
    // SAFETY: the scratch holds the scores and, behind them, the sums.
    unsafe {
        let scores = View::scratch(scratch, q.rows, panels * LANES, stride);
        product::<S, f32, _>(q, kv.keys(), 0..panels, &plain(scores), 0);
        for r in 0..q.rows {
            softmax::<S>(scratch.add(r * stride), visible, scale);
        }
        let weights = Rows { at: scratch, stride, rows: q.rows, k: visible };
        let sums = View::scratch(scratch.add(q.rows * stride), q.rows, dim, dim);
        product::<S, f32, _>(weights, kv.values(), 0..dim.div_ceil(LANES), &plain(sums), 0);
        for r in 0..q.rows {
            let (row, col) = place(r);
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
        let mut max = S::splat(f32::NEG_INFINITY);
        for c in (0..whole).step_by(LANES) {
            max = S::max(max, S::load(x.add(c)));
        }
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
