//! Linear layers: one product, gate and up together, and the fused feed-forward.

use ocelli_plan::Activation;

use crate::Isa;
use crate::matmul::{Epilogue, Finish, GateUp, ROW_BLOCK, Rows, multiply, padded_stride, stage_rows};
use crate::pack::Matrix;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd};
use crate::view::View;

/// Tasks for each thread: enough that one slow task does not leave the others waiting.
const TASKS_PER_THREAD: usize = 4;

/// `epilogue(x W^T)` over all rows.
pub(crate) fn linear<E: Epilogue>(isa: Isa, pool: &Pool, x: View, weight: &Matrix, epilogue: &E) {
    let row_blocks = x.rows.div_ceil(ROW_BLOCK);
    let groups = weight.panels / E::GROUP;
    let splits = (TASKS_PER_THREAD * pool.threads()).div_ceil(row_blocks).min(groups);
    // Whole tiles of panels a task, or the last columns of each would run on narrow tiles.
    let per_split = groups.div_ceil(splits).next_multiple_of(if x.rows == 1 { 8 } else { 6 }) * E::GROUP;
    let splits = weight.panels.div_ceil(per_split);
    pool.run(row_blocks * splits, &|task| {
        let first = task / splits * ROW_BLOCK;
        let panels = task % splits * per_split;
        isa.dispatch(LinearTask {
            x,
            first,
            rows: ROW_BLOCK.min(x.rows - first),
            weight,
            panels: panels..weight.panels.min(panels + per_split),
            epilogue,
        });
    });
}

/// `silu(gate) * up` over all rows.
pub(crate) fn gated_linear(isa: Isa, pool: &Pool, x: View, weight: &Matrix, out: View) {
    linear(isa, pool, x, weight, &GateUp { out });
}

struct LinearTask<'a, E> {
    x: View,
    first: usize,
    rows: usize,
    weight: &'a Matrix,
    panels: std::ops::Range<usize>,
    epilogue: &'a E,
}

impl<E: Epilogue> Kernel for LinearTask<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut memory = Scratch::take(self.rows * padded_stride(self.x.cols));
        let staged = memory.as_mut_ptr();
        // SAFETY: the task's rows are in `x`, the scratch holds them, tasks have disjoint outputs.
        unsafe {
            let rows = stage_rows::<S>(self.x, self.first, self.rows, staged);
            multiply::<S, E>(rows, self.weight, self.panels, self.epilogue, self.first);
        }
    }
}

/// The parts of a fused feed-forward.
pub(crate) struct MlpParts<'a> {
    pub(crate) x: View,
    pub(crate) fc1: &'a Matrix,
    pub(crate) bias1: &'a [f32],
    pub(crate) activation: Activation,
    /// Values of a hidden row.
    pub(crate) hidden: usize,
    pub(crate) fc2: &'a Matrix,
    pub(crate) finish: Finish<'a>,
}

/// `finish(activation(x A^T + a) B^T)`.
///
/// With many rows each task takes a block through both products, so the hidden rows never leave its
/// cache. With few rows the threads share the columns instead, or some would have nothing to do.
pub(crate) fn mlp(isa: Isa, pool: &Pool, parts: &MlpParts<'_>) {
    let rows = parts.x.rows;
    if rows >= ROW_BLOCK * pool.threads() {
        return pool.run(rows.div_ceil(ROW_BLOCK), &|task| {
            let first = task * ROW_BLOCK;
            isa.dispatch(MlpTask { parts, first, rows: ROW_BLOCK.min(rows - first) });
        });
    }
    let stride = padded_stride(parts.hidden);
    let mut memory = Scratch::take(rows * stride);
    let hidden = memory.as_mut_ptr();
    let hidden = View::scratch(hidden, rows, parts.hidden, stride);
    linear(isa, pool, parts.x, parts.fc1, &hidden_rows(parts, hidden));
    linear(isa, pool, hidden, parts.fc2, &parts.finish);
}

fn hidden_rows<'a>(parts: &MlpParts<'a>, out: View) -> Finish<'a> {
    Finish { bias: Some(parts.bias1), activation: parts.activation, scale: None, residual: None, out }
}

struct MlpTask<'a, 'b> {
    parts: &'a MlpParts<'b>,
    first: usize,
    rows: usize,
}

impl Kernel for MlpTask<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { parts, first, rows } = self;
        let (in_stride, hidden_stride) = (padded_stride(parts.x.cols), padded_stride(parts.hidden));
        let mut memory = Scratch::take(rows * (in_stride + hidden_stride));
        let scratch = memory.as_mut_ptr();
        // SAFETY: the scratch holds the staged rows and, behind them, the hidden rows; the
        // task's rows are in `x` and in the output, and no other task has them.
        unsafe {
            let staged = stage_rows::<S>(parts.x, first, rows, scratch);
            let hidden = scratch.add(rows * in_stride);
            let view = View::scratch(hidden, rows, parts.hidden, hidden_stride);
            multiply::<S, _>(staged, parts.fc1, 0..parts.fc1.panels, &hidden_rows(parts, view), 0);
            let hidden = Rows { at: hidden, stride: hidden_stride, rows, k: parts.hidden };
            multiply::<S, _>(hidden, parts.fc2, 0..parts.fc2.panels, &parts.finish, first);
        }
    }
}
