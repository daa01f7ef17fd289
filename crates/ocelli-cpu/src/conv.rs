//! Dense strided convolution: patches are gathered into rows, then multiplied.

use std::ops::Range;

use half::bf16;
use ocelli_plan::Activation;

use crate::Isa;
use crate::matmul::{Columns, Finish, Outputs, Product, Rows, Staging, multiply_dense};
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
                let outputs = Outputs::new(0..conv.weight.panels, &epilogue, first);
                if let Some(weight) = expanded {
                    let a = Rows { at: scratch, stride: patches.stride, rows, k };
                    let at = weight.row::<f32>(0).cast_const();
                    let b = Columns { at, panel_stride: k * LANES, k_stride: LANES, first: 0 };
                    S::call(Product { a, b, outputs });
                } else {
                    multiply_dense::<S, _>(staging.written(scratch, rows, k), conv.weight, outputs);
                }
            }
        }
    }
}

/// The input pixels under one output pixel, `[kernel, kernel, channels]`, zeros outside of the map.
#[inline(always)]
unsafe fn gather_patch<S: Simd>(conv: &DenseConv<'_>, [oy, ox]: [usize; 2], patches: View, row: usize) {
    let (kernel, channels) = (conv.kernel, conv.x.cols);
    // Beyond the map's end where it is before its beginning.
    let (y, x) =
        ((oy * conv.stride).wrapping_sub(conv.padding), (ox * conv.stride).wrapping_sub(conv.padding));
    // Taps of a line lie side by side in memory.
    let taps = kernel * channels;
    let whole = taps.next_multiple_of(LANES);
    let inside = y.saturating_add(kernel) <= conv.height && x.saturating_add(kernel) <= conv.width;
    // SAFETY: each tap's place is in the patch, and its pixel in the map, which has no gaps.
    unsafe {
        let pixels = (conv.x.kind, patches.kind) == (Kind::F32, Kind::F32);
        let first = y.wrapping_mul(conv.width).wrapping_add(x);
        let line = conv.width * channels;
        if pixels && inside && first * channels + (kernel - 1) * line + whole <= conv.height * line {
            // Whole vectors are quicker than parts of them: what is written too much is written again, or padding.
            let (mut from, mut to) = (conv.x.row::<f32>(first).cast_const(), patches.row::<f32>(row));
            for _ in 0..kernel {
                for c in (0..taps).step_by(LANES) {
                    S::store(to.add(c), S::load(from.add(c)));
                }
                (from, to) = (from.wrapping_add(line), to.add(taps));
            }
            return;
        }
        for tap in 0..kernel * kernel {
            let (y, x) = (y.wrapping_add(tap / kernel), x.wrapping_add(tap % kernel));
            let inside = y < conv.height && x < conv.width;
            for c in (0..channels).step_by(LANES) {
                let n = LANES.min(channels - c);
                let v = if inside { conv.x.load::<S>(y * conv.width + x, c, n) } else { S::zero() };
                patches.store::<S>(row, tap * channels + c, n, v);
            }
        }
    }
}
