//! Means over a map: squeeze-and-excite and mean pooling.

use ocelli_plan::Activation;

use crate::Isa;
use crate::linear::linear;
use crate::math::{activate, sigmoid};
use crate::matmul::Finish;
use crate::pack::Matrix;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::View;

/// Channels of a task.
const CHANNELS: usize = 8 * LANES;

/// `out[0] = mean of the rows of x`.
pub(crate) fn mean_pool(isa: Isa, pool: &Pool, x: View, out: View) {
    pool.run(x.cols.div_ceil(CHANNELS), &|task| {
        let first = task * CHANNELS;
        isa.dispatch(MeanTask { x, first, channels: CHANNELS.min(x.cols - first), out });
    });
}

struct MeanTask {
    x: View,
    first: usize,
    channels: usize,
    out: View,
}

impl Kernel for MeanTask {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let inverse = 1.0 / self.x.rows as f32;
        for c in (self.first..self.first + self.channels).step_by(LANES) {
            let n = LANES.min(self.x.cols - c);
            // SAFETY: columns are in the tensors; each task has its own.
            unsafe {
                let mut total = S::zero();
                for row in 0..self.x.rows {
                    total = S::add(total, self.x.load::<S>(row, c, n));
                }
                self.out.store::<S>(0, c, n, S::mul(total, S::splat(inverse)));
            }
        }
    }
}

/// The weights of a squeeze-and-excite.
pub(crate) struct SqueezeWeights<'a> {
    pub(crate) fc1: &'a Matrix,
    pub(crate) bias1: &'a [f32],
    pub(crate) hidden: usize,
    pub(crate) fc2: &'a Matrix,
    pub(crate) bias2: &'a [f32],
}

/// `out = activation(x * sigmoid(relu(mean(x) A^T + a) B^T + b))`.
pub(crate) fn squeeze_excite(
    isa: Isa,
    pool: &Pool,
    x: View,
    weights: &SqueezeWeights<'_>,
    activation: Activation,
    out: View,
) {
    let (cols, hidden) = (x.cols, weights.hidden);
    let pad = |n: usize| n.next_multiple_of(LANES);
    let mut memory = Scratch::take(2 * pad(cols) + pad(hidden));
    let scratch = memory.as_mut_ptr();
    // SAFETY: the scratch holds the three rows one behind the other.
    let (mean, squeezed, gate) = unsafe {
        let hidden_row = scratch.add(pad(cols));
        let gate_row = hidden_row.add(pad(hidden));
        (
            View::scratch(scratch, 1, cols, pad(cols)),
            View::scratch(hidden_row, 1, hidden, pad(hidden)),
            View::scratch(gate_row, 1, cols, pad(cols)),
        )
    };
    mean_pool(isa, pool, x, mean);
    linear(isa, pool, mean, weights.fc1, &biased(weights.bias1, squeezed));
    isa.dispatch(InPlace { row: squeezed, function: Function::Relu });
    linear(isa, pool, squeezed, weights.fc2, &biased(weights.bias2, gate));
    isa.dispatch(InPlace { row: gate, function: Function::Sigmoid });
    multiply_rows(isa, pool, x, gate, activation, out);
}

fn biased(bias: &[f32], out: View) -> Finish<'_> {
    Finish { bias: Some(bias), activation: Activation::None, scale: None, residual: None, out }
}

#[derive(Clone, Copy)]
enum Function {
    Relu,
    Sigmoid,
}

/// Apply a function to the only row of a view.
struct InPlace {
    row: View,
    function: Function,
}

impl Kernel for InPlace {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for c in (0..self.row.cols).step_by(LANES) {
            let n = LANES.min(self.row.cols - c);
            // SAFETY: columns are in the row.
            unsafe {
                let v = self.row.load::<S>(0, c, n);
                let v = match self.function {
                    Function::Relu => S::max(v, S::zero()),
                    Function::Sigmoid => sigmoid::<S>(v),
                };
                self.row.store::<S>(0, c, n, v);
            }
        }
    }
}

/// `out = activation(x * gate)`, the same gate for every row.
fn multiply_rows(isa: Isa, pool: &Pool, x: View, gate: View, activation: Activation, out: View) {
    const ROWS: usize = 32;
    pool.run(x.rows.div_ceil(ROWS), &|task| {
        let first = task * ROWS;
        isa.dispatch(GateTask { x, gate, activation, first, rows: ROWS.min(x.rows - first), out });
    });
}

struct GateTask {
    x: View,
    gate: View,
    activation: Activation,
    first: usize,
    rows: usize,
    out: View,
}

impl Kernel for GateTask {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.first..self.first + self.rows {
            for c in (0..self.x.cols).step_by(LANES) {
                let n = LANES.min(self.x.cols - c);
                // SAFETY: the row is in both tensors and belongs to this task.
                unsafe {
                    let v = S::mul(self.x.load::<S>(row, c, n), self.gate.load::<S>(0, c, n));
                    self.out.store::<S>(row, c, n, activate::<S>(self.activation, v));
                }
            }
        }
    }
}

/// `out = a + b`.
pub(crate) fn add(isa: Isa, pool: &Pool, a: View, b: View, out: View) {
    const ROWS: usize = 32;
    pool.run(a.rows.div_ceil(ROWS), &|task| {
        let first = task * ROWS;
        isa.dispatch(AddTask { a, b, first, rows: ROWS.min(a.rows - first), out });
    });
}

struct AddTask {
    a: View,
    b: View,
    first: usize,
    rows: usize,
    out: View,
}

impl Kernel for AddTask {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.first..self.first + self.rows {
            for c in (0..self.a.cols).step_by(LANES) {
                let n = LANES.min(self.a.cols - c);
                // SAFETY: the row is in all tensors and belongs to this task.
                unsafe {
                    let v = S::add(self.a.load::<S>(row, c, n), self.b.load::<S>(row, c, n));
                    self.out.store::<S>(row, c, n, v);
                }
            }
        }
    }
}
