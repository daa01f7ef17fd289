//! Attention by products in bf16, of AMX tiles or AVX-512 pairs. Queries, keys and values are bf16 as they come, scores
//! f32, the weights of a softmax bf16 before they are divided by their sum.

use half::bf16;

use crate::Isa;
use crate::kv_cache::KvHead;
use crate::kv_tiles::KvTiles;
use crate::math::{exp2_bf16, largest_lanes};
use crate::matmul::bf16_rows::{BfRows, BfUnit, product};
use crate::matmul::{Epilogue, Outputs};
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::{Kind, View};

/// Query rows whose scores are in memory at one time: two tiles of them.
const QUERY_BLOCK: usize = 32;
/// Query rows of a task when attending against a cache.
const CACHED_ROWS: usize = 64;

/// What multiplies, if this is the way to go.
pub(super) fn unit(isa: Isa, qkv: View, dim: usize) -> Option<BfUnit> {
    BfUnit::of(isa).filter(|_| qkv.kind == Kind::Bf16 && dim.is_multiple_of(LANES))
}

/// One head of attention over one block.
pub(super) struct HeadTask {
    pub(super) unit: BfUnit,
    pub(super) qkv: View,
    pub(super) heads: usize,
    pub(super) head: usize,
    pub(super) causal: bool,
    pub(super) out: View,
}

impl Kernel for HeadTask {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let dim = self.out.cols / self.heads;
        let rows = self.qkv.rows;
        let column = |part: usize| (part * self.heads + self.head) * dim;
        let mut kv = KvTiles::new(dim);
        let mut memory = Scratch::take(BfRows::len(QUERY_BLOCK, dim).div_ceil(2));
        // SAFETY: columns are in the tensor; each task writes its own head's columns.
        unsafe {
            kv.append(0, self.qkv, column(1), column(2));
            let queries = columns(self.qkv, column(0), dim);
            for first in (0..rows).step_by(QUERY_BLOCK) {
                let count = QUERY_BLOCK.min(rows - first);
                let queries =
                    BfRows::stage::<S>(queries, first, count, memory.as_mut_ptr().cast(), self.unit);
                let seen = if self.causal { first + 1 } else { rows };
                let block = Block { group: 1, count, seen, step: usize::from(self.causal) };
                attend::<S>(queries, block, &kv, columns(self.out, column(0), dim), first);
            }
        }
    }
}

/// Attention against one layer of the cache, whose last `qkv.rows` positions are these rows'.
pub(super) fn cached(
    isa: Isa,
    unit: BfUnit,
    pool: &Pool,
    qkv: View,
    heads: usize,
    layer: &mut [KvHead],
    past: usize,
    out: View,
) {
    let (kv_heads, dim) = (layer.len(), out.cols / heads);
    for (i, head) in layer.iter_mut().enumerate() {
        // SAFETY: the columns are in the tensor.
        unsafe { head.append_tiles(past, qkv, (heads + i) * dim, (heads + kv_heads + i) * dim) };
    }
    let layer = &*layer;
    let group = heads / kv_heads;
    let positions = (CACHED_ROWS / group).max(1);
    let blocks = qkv.rows.div_ceil(positions);
    pool.run(kv_heads * blocks, &|task| {
        let (head, first) = (task / blocks, task % blocks * positions);
        let count = positions.min(qkv.rows - first);
        let block = Block { group, count, seen: past + first + 1, step: 1 };
        let col = head * group * dim;
        isa.dispatch(GroupTask { unit, qkv, kv: layer[head].tiles(), block, first, col, out });
    });
}

/// Some positions of the query heads that share one key head: those are the rows of a product.
struct GroupTask<'a> {
    unit: BfUnit,
    qkv: View,
    kv: &'a KvTiles,
    block: Block,
    first: usize,
    col: usize,
    out: View,
}

impl Kernel for GroupTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { unit, qkv, kv, block, first, col, out } = self;
        let (dim, rows) = (kv.dim(), block.count * block.group);
        let mut memory = Scratch::take(BfRows::len(rows, dim).div_ceil(2));
        let at = memory.as_mut_ptr().cast();
        let staged = BfRows::view(at, rows, dim);
        // SAFETY: columns are in the tensors; each task writes its own heads and rows.
        unsafe {
            for r in 0..rows {
                let (row, head) = (first + r / block.group, col + r % block.group * dim);
                let from = qkv.row::<bf16>(row).add(head).cast_const();
                std::ptr::copy_nonoverlapping(from, staged.row::<bf16>(r), dim);
            }
            let queries = BfRows::written(at, rows, dim, unit);
            attend::<S>(queries, block, kv, columns(out, col, block.group * dim), first);
        }
    }
}

/// Some columns of a tensor.
///
/// # Safety
/// They are in the tensor, which is of bf16.
unsafe fn columns(view: View, first: usize, count: usize) -> View {
    // SAFETY: the caller's promise.
    View { at: unsafe { view.at.cast::<bf16>().add(first).cast() }, cols: count, ..view }
}

/// The rows of a block of queries: `group` heads of each of `count` positions, of which the first sees `seen`
/// positions and each further one `step` more.
#[derive(Clone, Copy)]
struct Block {
    group: usize,
    count: usize,
    seen: usize,
    step: usize,
}

/// `softmax(q K^T / sqrt(dim)) V`; head `g` of position `p` to row `first + p` from column `g * dim` on.
///
/// What a position does not see gets the weight zero, which adds nothing to its sums: results do not
/// depend on which positions come in one block.
#[inline(always)]
unsafe fn attend<S: Simd>(queries: BfRows, block: Block, kv: &KvTiles, out: View, first: usize) {
    let Block { group, count, seen, step } = block;
    let rows = count * group;
    let all = seen + step * (count - 1);
    let panels = all.div_ceil(LANES);
    let stride = panels * LANES + LANES;
    // Powers of two in place of e.
    let scale = std::f32::consts::LOG2_E / (kv.dim() as f32).sqrt();
    let mut memory = Scratch::take(rows * stride + rows.next_multiple_of(LANES));
    let mut weight_memory = Scratch::take(BfRows::len(rows, all).div_ceil(2));
    let scores = memory.as_mut_ptr();
    // SAFETY: the scratch holds the scores and, behind them, a number a row; the other one the weights.
    unsafe {
        let inverse = scores.add(rows * stride);
        let epilogue = Scores { at: scores, stride };
        product::<S, _>(queries, kv.keys(), Outputs::new(0..panels, &epilogue, 0));
        let weights = BfRows::view(weight_memory.as_mut_ptr().cast(), rows, all);
        for r in 0..rows {
            let seen = seen + step * (r / group);
            let to = weights.row::<bf16>(r);
            *inverse.add(r) = 1.0 / exponentials::<S>(scores.add(r * stride), seen, scale, to);
            std::ptr::write_bytes(to.add(seen), 0, all - seen);
        }
        let weights = BfRows::written(weight_memory.as_mut_ptr().cast(), rows, all, queries.unit());
        let epilogue = Weighted { inverse, first, dim: kv.dim(), group, out };
        product::<S, _>(weights, kv.values(), Outputs::new(0..kv.dim() / LANES, &epilogue, 0));
    }
}

/// `to = 2^(scale (x - max))` over `n` values, rounded; the sum before rounding.
#[inline(always)]
unsafe fn exponentials<S: Simd>(x: *const f32, n: usize, scale: f32, to: *mut bf16) -> f32 {
    // SAFETY: reads and writes `n` values.
    unsafe {
        let whole = n - n % LANES;
        let mut most = S::reduce_max(largest_lanes::<S>(x, whole));
        for c in whole..n {
            most = most.max(*x.add(c));
        }
        let (scale, shift) = (S::splat(scale), S::splat(-most * scale));
        let mut total = S::zero();
        for c in (0..whole).step_by(LANES) {
            let e = exp2_bf16::<S>(S::fma(S::load(x.add(c)), scale, shift));
            total = S::add(total, e);
            S::store_bf16(to.add(c), e);
        }
        let mut sum = S::reduce_add(total);
        if whole < n {
            let e = exp2_bf16::<S>(S::fma(S::load_partial(x.add(whole), n - whole), scale, shift));
            S::store_bf16_partial(to.add(whole), n - whole, e);
            let mut tail = [0.0; LANES];
            S::store(tail.as_mut_ptr(), e);
            for e in &tail[..n - whole] {
                sum += e;
            }
        }
        sum
    }
}

/// Stores the sums as they are: where each takes a step or two of the product, there is time for nothing else.
struct Scores {
    at: *mut f32,
    stride: usize,
}

// SAFETY: who calls `finish` answers for the outputs.
unsafe impl Sync for Scores {}

impl Epilogue for Scores {
    const GROUP: usize = 1;

    #[inline(always)]
    fn plain(&self, row: usize, col: usize) -> Option<(*mut f32, usize)> {
        Some((self.at.wrapping_add(row * self.stride + col), self.stride))
    }

    #[inline(always)]
    unsafe fn finish<S: Simd, const MR: usize, const NP: usize>(
        &self,
        row: usize,
        col: usize,
        sums: [[S::F; NP]; MR],
    ) {
        for i in 0..MR {
            for p in 0..NP {
                // SAFETY: rows have room for whole panels.
                unsafe { S::store(self.at.add((row + i) * self.stride + col + p * LANES), sums[i][p]) };
            }
        }
    }
}

/// Divides by the sum of the weights and stores each head where it belongs.
struct Weighted {
    inverse: *const f32,
    /// The row of the first position.
    first: usize,
    dim: usize,
    group: usize,
    out: View,
}

// SAFETY: the numbers are only read; who calls `finish` answers for the outputs.
unsafe impl Sync for Weighted {}

impl Epilogue for Weighted {
    const GROUP: usize = 1;

    #[inline(always)]
    unsafe fn finish<S: Simd, const MR: usize, const NP: usize>(
        &self,
        row: usize,
        col: usize,
        sums: [[S::F; NP]; MR],
    ) {
        for (i, sums) in sums.iter().enumerate() {
            let (position, head) = (self.first + (row + i) / self.group, (row + i) % self.group);
            // SAFETY: rows and columns are in the output; there is a number for each row.
            unsafe {
                let inverse = S::splat(*self.inverse.add(row + i));
                for (p, &sum) in sums.iter().enumerate() {
                    let col = head * self.dim + col + p * LANES;
                    self.out.store::<S>(position, col, LANES, S::mul(sum, inverse));
                }
            }
        }
    }
}
