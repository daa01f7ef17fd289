//! `y = x W^T + b`, and so every 1x1 convolution, by the matrix products of the `gemm` crate.

use gemm::Parallelism;

use super::rows::{for_pieces, rounded, sum_pieces};
use super::simd::{self, Kernel};
use super::{Array, CpuOp};
use crate::precision::Precision;

/// A matrix in row-major order, or its transpose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    /// Values from one row to the next, and from one column to the next.
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// `[rows, columns]`, its rows `stride` values apart.
    pub(crate) fn strided(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(rows == 0 || (rows - 1) * stride + columns <= values.len(), "the matrix ends in its values");
        Self { values, rows, columns, strides: [stride, 1] }
    }

    /// `[rows, columns]` without gaps.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        let [row, column] = self.strides;
        Self { rows: self.columns, columns: self.rows, strides: [column, row], ..self }
    }
}

/// `out = scale * a b`, or with `add` `out += scale * a b`; the rows of `out` are `out_stride` values apart.
#[expect(unsafe_code, reason = "matrices are passed to `gemm` as pointers")]
pub(crate) fn product(
    out: &mut [f32],
    out_stride: usize,
    add: bool,
    a: Matrix,
    b: Matrix,
    scale: f32,
    threads: Parallelism,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner sizes of a product");
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len() && n <= out_stride, "the product fits its place");
    // SAFETY: all three matrices are within their slices: asserted above for `out`, in `Matrix::strided` for `a` and
    // `b`, which `t` does not change; `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            add,
            a.values.as_ptr(),
            a.strides[1] as isize,
            a.strides[0] as isize,
            b.values.as_ptr(),
            b.strides[1] as isize,
            b.strides[0] as isize,
            1.0,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}

/// All threads of the pool.
pub(crate) const ALL_THREADS: Parallelism = Parallelism::Rayon(0);

/// The operation with the precision of its operands; inputs are `x` `[.., in]` and the weight `[out, in]`, with `1` more
/// the bias `[out]`.
#[derive(Debug, Clone)]
pub(crate) struct Linear(pub(crate) Precision);

fn forward(precision: Precision, x: &Array, weight: &Array, bias: Option<&Array>) -> (Vec<f32>, Vec<usize>) {
    let (inputs, outputs) = (weight.columns(), weight.shape()[0]);
    let rows = x.values().len() / inputs.max(1);
    let mut out = vec![0.0; rows * outputs];
    if let Some(bias) = bias {
        let bias = bias.values();
        for_pieces(&mut out, outputs, |_, piece| {
            piece.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias));
        });
    }
    let [a, b] = [x, weight].map(|operand| precision.operand(operand.values()));
    let (a, b) = (Matrix::new(&a, rows, inputs), Matrix::new(&b, outputs, inputs));
    product(&mut out, outputs, bias.is_some(), a, b.t(), 1.0, ALL_THREADS);
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("at least one dimension") = outputs;
    (out, shape)
}

/// Gradients of `x` and the weight.
fn backward(
    precision: Precision,
    x: &Array,
    weight: &Array,
    grad: &[f32],
    wanted: [bool; 2],
) -> [Option<Vec<f32>>; 2] {
    let (inputs, outputs) = (weight.columns(), weight.shape()[0]);
    let rows = x.values().len() / inputs.max(1);
    let grad = precision.operand(grad);
    let g = Matrix::new(&grad, rows, outputs);
    let matrix = |out: usize, columns: usize, a: Matrix, b: Matrix| {
        let mut values = vec![0.0; out * columns];
        product(&mut values, columns, false, a, b, 1.0, ALL_THREADS);
        values
    };
    let dx = || matrix(rows, inputs, g, Matrix::new(&precision.operand(weight.values()), outputs, inputs));
    let dw = || matrix(outputs, inputs, g.t(), Matrix::new(&precision.operand(x.values()), rows, inputs));
    [wanted[0].then(dx), wanted[1].then(dw)]
}

/// Sums over rows: the gradient of a bias.
pub(crate) fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    rounded(&sum_pieces(rows, columns, columns, |first, rows, sums| {
        simd::run(ColumnSums { values: &values[first * columns..][..rows * columns], sums });
    }))
}

struct ColumnSums<'a> {
    values: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        for row in self.values.chunks_exact(self.sums.len()) {
            self.sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
    }
}

impl CpuOp<2> for Linear {
    type Saved = ();

    fn forward(&self, [x, weight]: &[Array; 2]) -> (Vec<f32>, Vec<usize>, ()) {
        let (values, shape) = forward(self.0, x, weight, None);
        (values, shape, ())
    }

    fn backward(
        &self,
        [x, weight]: &[Array; 2],
        (): &(),
        grad: &[f32],
        wanted: [bool; 2],
    ) -> [Option<Vec<f32>>; 2] {
        backward(self.0, x, weight, grad, wanted)
    }
}

impl CpuOp<3> for Linear {
    type Saved = ();

    fn forward(&self, [x, weight, bias]: &[Array; 3]) -> (Vec<f32>, Vec<usize>, ()) {
        let (values, shape) = forward(self.0, x, weight, Some(bias));
        (values, shape, ())
    }

    fn backward(
        &self,
        [x, weight, _]: &[Array; 3],
        (): &(),
        grad: &[f32],
        wanted: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let [dx, dw] = backward(self.0, x, weight, grad, [wanted[0], wanted[1]]);
        [dx, dw, wanted[2].then(|| column_sums(grad, weight.shape()[0]))]
    }
}
