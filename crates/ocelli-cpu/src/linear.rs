//! Linear layers: one product, gate and up together, and the fused feed-forward.

use ocelli_plan::Activation;

use crate::Isa;
use crate::matmul::{Epilogue, Finish, GateUp, Outputs, Staging, multiply, multiply_whole};
use crate::pack::Matrix;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd};
use crate::view::View;

/// `epilogue(x W^T)` over all rows.
pub(crate) fn linear<E: Epilogue>(isa: Isa, pool: &Pool, x: View, weight: &Matrix, epilogue: &E) {
    let staging = Staging::of(isa, x, weight);
    let block = staging.product_block(weight, x.rows, pool.threads());
    let row_blocks = x.rows.div_ceil(block);
    let step = staging.panel_step(weight, x.rows);
    let steps = weight.panels.div_ceil(step);
    let shares = match x.rows {
        1 => Shares::of_one_row(steps, pool.threads()),
        _ => Shares::alike(steps, (staging.tasks_per_thread() * pool.threads()).div_ceil(row_blocks)),
    };
    let panel = |share| weight.panels.min(shares.start(share) * step);
    let (_memory, x) = staging.share(isa, pool, x);
    pool.run(row_blocks * shares.count, &|task| {
        let (first, share) = (task / shares.count * block, task % shares.count);
        isa.dispatch(LinearTask {
            staging,
            x,
            first,
            rows: block.min(x.rows - first),
            weight,
            panels: panel(share)..panel(share + 1),
            epilogue,
        });
    });
}

/// How steps of a few panels are shared by tasks: some take much, then the others the rest.
#[derive(Clone, Copy)]
struct Shares {
    steps: usize,
    /// Tasks.
    count: usize,
    /// Those that take much, and the steps that these take together.
    first: usize,
    most: usize,
}

impl Shares {
    fn alike(steps: usize, count: usize) -> Self {
        let count = count.min(steps);
        Self { steps, count, first: count, most: steps }
    }

    /// A row alone waits for memory, which answers a long stream best: each thread takes most of its share at once, and
    /// as it may be late, the rest in smaller ones.
    fn of_one_row(steps: usize, threads: usize) -> Self {
        Self { steps, count: 3 * threads, first: threads, most: steps * 3 / 4 }
    }

    /// Where a share begins, which is where the one before it ends.
    fn start(self, share: usize) -> usize {
        let Self { steps, count, first, most } = self;
        match share.checked_sub(first) {
            None | Some(0) => most * share / first,
            Some(late) => most + (steps - most) * late / (count - first),
        }
    }
}

/// `silu(gate) * up` over all rows.
pub(crate) fn gated_linear(isa: Isa, pool: &Pool, x: View, weight: &Matrix, out: View) {
    linear(isa, pool, x, weight, &GateUp { out });
}

struct LinearTask<'a, E> {
    staging: Staging,
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
        let mut memory = Scratch::take(self.staging.len_of(self.x, self.rows));
        let scratch = memory.as_mut_ptr();
        // SAFETY: the task's rows are in `x`, the scratch holds them, tasks have disjoint outputs.
        unsafe {
            let rows = self.staging.stage::<S>(self.x, self.first, self.rows, scratch);
            multiply::<S, E>(rows, self.weight, Outputs::new(self.panels, self.epilogue, self.first));
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
/// cache. With few rows the threads share the columns instead, or some would have nothing to do; so they
/// do with matrices in groups, whose codes are expanded once for many rows, and where the two are not stored alike.
pub(crate) fn mlp(isa: Isa, pool: &Pool, parts: &MlpParts<'_>) {
    let rows = parts.x.rows;
    let staging = Staging::of(isa, parts.x, parts.fc2);
    let block = staging.row_block(parts.fc2, rows, pool.threads());
    let encoded = parts.fc1.is_encoded() || parts.fc2.is_encoded();
    let alike = staging == Staging::of(isa, parts.x, parts.fc1);
    if alike && !encoded && rows >= staging.rows_per_thread() * pool.threads() {
        return pool.run(rows.div_ceil(block), &|task| {
            let first = task * block;
            isa.dispatch(MlpTask { staging, parts, first, rows: block.min(rows - first) });
        });
    }
    let mut memory = Scratch::take(staging.len(rows, parts.hidden));
    let hidden = staging.view(memory.as_mut_ptr(), rows, parts.hidden);
    linear(isa, pool, parts.x, parts.fc1, &hidden_rows(parts, hidden));
    linear(isa, pool, hidden, parts.fc2, &parts.finish);
}

fn hidden_rows<'a>(parts: &MlpParts<'a>, out: View) -> Finish<'a> {
    Finish { bias: Some(parts.bias1), activation: parts.activation, scale: None, residual: None, out }
}

struct MlpTask<'a, 'b> {
    staging: Staging,
    parts: &'a MlpParts<'b>,
    first: usize,
    rows: usize,
}

impl Kernel for MlpTask<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { staging, parts, first, rows } = self;
        let input_len = staging.len(rows, parts.x.cols);
        let mut memory = Scratch::take(input_len + staging.len(rows, parts.hidden));
        let scratch = memory.as_mut_ptr();
        // SAFETY: the scratch holds the staged rows and, behind them, the hidden rows; the
        // task's rows are in `x` and in the output, and no other task has them.
        unsafe {
            let x = staging.stage::<S>(parts.x, first, rows, scratch);
            let hidden = scratch.add(input_len);
            let view = staging.view(hidden, rows, parts.hidden);
            let epilogue = hidden_rows(parts, view);
            multiply_whole::<S, _>(x, parts.fc1, Outputs::new(0..parts.fc1.panels, &epilogue, 0));
            let hidden = staging.complete::<S>(hidden, rows, parts.hidden);
            multiply_whole::<S, _>(
                hidden,
                parts.fc2,
                Outputs::new(0..parts.fc2.panels, &parts.finish, first),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Shares;

    #[test]
    fn shares_follow_each_other_to_the_end() {
        for steps in 1..70 {
            for threads in 1..9 {
                for shares in [Shares::alike(steps, 4 * threads), Shares::of_one_row(steps, threads)] {
                    let starts: Vec<usize> = (0..=shares.count).map(|share| shares.start(share)).collect();
                    assert_eq!((starts[0], starts[shares.count]), (0, steps), "{steps} by {threads}");
                    assert!(starts.is_sorted(), "{steps} by {threads}: {starts:?}");
                }
            }
        }
    }
}
