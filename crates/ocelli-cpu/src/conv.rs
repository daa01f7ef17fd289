//! Dense strided convolution: patches are gathered into rows, then multiplied.

use std::ops::Range;

use half::bf16;
use ocelli_plan::Activation;

use crate::Isa;
use crate::matmul::{Columns, Finish, Left, Outputs, Product, Staging, multiply_dense};
use crate::pack::{Matrix, Stored};
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::{Kind, View};

/// Output pixels whose patches are multiplied together.
const ROW_BLOCK: usize = 64;
/// Output pixels of a task: as many as a line of a large map has, so that its input is read in order.
const TASK_ROWS: usize = 512;
/// The largest matrix that is worth a copy in f32, in values: it stays in the first-level cache.
const MOST_EXPANDED: usize = 4096;

/// One dense convolution. `x` is `[height * width, channels]`.
pub(crate) struct DenseConv<'a> {
    pub(crate) x: View,
    pub(crate) weight: &'a Matrix,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Activation,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) out: View,
}

impl DenseConv<'_> {
    fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }
}

pub(crate) fn conv(isa: Isa, pool: &Pool, conv: &DenseConv<'_>) {
    // Pixels are f32 and stay so: few of their eight bits would be left in bf16.
    let pixels = conv.x.kind == Kind::F32;
    let staging = if pixels { Staging::F32 } else { Staging::of(isa, conv.x, conv.weight) };
    let vectors = conv.weight.panels * conv.weight.k;
    let small = pixels && conv.weight.stored() == Stored::Bf16 && vectors * LANES <= MOST_EXPANDED;
    let mut memory = Scratch::take(if small { vectors * LANES } else { 0 });
    let expanded = small.then(|| View::scratch(memory.as_mut_ptr(), vectors, LANES, LANES));
    if let Some(to) = expanded {
        isa.dispatch(Expand { weight: conv.weight, to });
    }
    let rows = TASK_ROWS.min(conv.out.rows.div_ceil(pool.threads()).next_multiple_of(ROW_BLOCK));
    pool.run(conv.out.rows.div_ceil(rows), &|task| {
        let first = task * rows;
        isa.dispatch(ConvTask { staging, conv, expanded, rows: first..conv.out.rows.min(first + rows) });
    });
}

/// Copies the panels of a matrix of bf16 to f32 memory, a row each `k`.
struct Expand<'a> {
    weight: &'a Matrix,
    to: View,
}

impl Kernel for Expand<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (k, from) = (self.weight.k, self.weight.columns::<bf16>());
        for panel in 0..self.weight.panels {
            for step in (0..k).step_by(2) {
                // SAFETY: an odd end of a panel is padded; there is room for all panels.
                unsafe {
                    let (a, b) = S::load_bf16_pairs(from.at.add(panel * from.panel_stride + step * LANES));
                    S::store(self.to.row(panel * k + step), a);
                    if step + 1 < k {
                        S::store(self.to.row(panel * k + step + 1), b);
                    }
                }
            }
        }
    }
}

struct ConvTask<'a, 'b> {
    staging: Staging,
    conv: &'a DenseConv<'b>,
    /// The matrix in f32, if it was expanded.
    expanded: Option<View>,
    rows: Range<usize>,
}

impl Kernel for ConvTask<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { staging, conv, expanded, rows } = self;
        let k = conv.kernel * conv.kernel * conv.x.cols;
        let epilogue = Finish {
            bias: conv.bias,
            activation: conv.activation,
            scale: None,
            residual: None,
            out: conv.out,
        };
        let mut memory = Scratch::take(staging.len(ROW_BLOCK, k));
        let scratch = memory.as_mut_ptr();
        for first in rows.clone().step_by(ROW_BLOCK) {
            let rows = ROW_BLOCK.min(rows.end - first);
            let patches = staging.view(scratch, rows, k);
            // SAFETY: the scratch holds the patches; tasks write disjoint output rows.
            unsafe {
                let (mut oy, mut ox) = (first / conv.out_width(), first % conv.out_width());
                for r in 0..rows {
                    gather_patch::<S>(conv, [oy, ox], patches, r);
                    ox += 1;
                    if ox == conv.out_width() {
                        (oy, ox) = (oy + 1, 0);
                    }
                }
                let patches = staging.written(scratch, rows, k);
                let outputs = Outputs::new(0..conv.weight.panels, &epilogue, first);
                match (expanded, patches) {
                    (Some(weight), Left::F32(a)) => {
                        let at = weight.row::<f32>(0).cast_const();
                        let b = Columns { at, panel_stride: k * LANES, k_stride: LANES, first: 0 };
                        S::call(Product { a, b, outputs });
                    }
                    _ => multiply_dense::<S, _>(patches, conv.weight, outputs),
                }
            }
        }
    }
}

/// The input pixels under one output pixel, `[kernel, kernel, channels]`, zeros outside of the map.
#[inline(always)]
unsafe fn gather_patch<S: Simd>(conv: &DenseConv<'_>, [oy, ox]: [usize; 2], patches: View, row: usize) {
    let channels = conv.x.cols;
    // Taps of each line that are inside of the map: they lie side by side in memory.
    let left = conv.padding.saturating_sub(ox * conv.stride).min(conv.kernel);
    let right = (conv.width + conv.padding).saturating_sub(ox * conv.stride).clamp(left, conv.kernel);
    for ky in 0..conv.kernel {
        let y = (oy * conv.stride + ky).checked_sub(conv.padding).filter(|&y| y < conv.height);
        let (left, right) = if y.is_some() { (left, right) } else { (0, 0) };
        let first = ky * conv.kernel * channels;
        let source = y.unwrap_or(0) * conv.width + (ox * conv.stride + left).saturating_sub(conv.padding);
        // SAFETY: the taps' places are in the patch; the pixels are in the map, which has no gaps.
        unsafe {
            fill_zero::<S>(patches, row, first, left * channels);
            copy::<S>(conv.x, source, patches, row, first + left * channels, (right - left) * channels);
            fill_zero::<S>(patches, row, first + right * channels, (conv.kernel - right) * channels);
        }
    }
}

/// Copy `n` values from where a row of `from` begins, beyond its end, to a row of patches.
///
/// # Safety
/// They are in `from`, which has no gaps, and have their place in the patches; the CPU has `S`.
#[inline(always)]
unsafe fn copy<S: Simd>(from: View, source: usize, patches: View, row: usize, col: usize, n: usize) {
    // Whole vectors are quicker than parts of them, and what is written too much is written again, or padding.
    let whole = n.next_multiple_of(LANES);
    let fits = col + whole <= patches.stride && source * from.cols + whole <= from.rows * from.cols;
    // SAFETY: the caller's promise; whole vectors are in the map and in the row.
    unsafe {
        if fits && (from.kind, patches.kind) == (Kind::F32, Kind::F32) {
            let (from, to) = (from.row::<f32>(source), patches.row::<f32>(row).add(col));
            for c in (0..n).step_by(LANES) {
                S::store(to.add(c), S::load(from.add(c)));
            }
            return;
        }
        for c in (0..n).step_by(LANES) {
            let n = LANES.min(n - c);
            patches.store::<S>(row, col + c, n, from.load::<S>(source, c, n));
        }
    }
}

#[inline(always)]
unsafe fn fill_zero<S: Simd>(view: View, row: usize, col: usize, n: usize) {
    for c in (0..n).step_by(LANES) {
        // SAFETY: the caller promises these columns.
        unsafe { view.store::<S>(row, col + c, LANES.min(n - c), S::zero()) };
    }
}
