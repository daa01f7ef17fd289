//! Dense strided convolution: patches are gathered into rows, then multiplied.

use ocelli_plan::Activation;

use crate::Isa;
use crate::matmul::{Finish, Outputs, Staging, multiply_dense};
use crate::pack::Matrix;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::{Kind, View};

/// Output pixels of a task.
const ROW_BLOCK: usize = 64;

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
    pool.run(conv.out.rows.div_ceil(ROW_BLOCK), &|task| {
        let first = task * ROW_BLOCK;
        isa.dispatch(ConvTask { staging, conv, first, rows: ROW_BLOCK.min(conv.out.rows - first) });
    });
}

struct ConvTask<'a, 'b> {
    staging: Staging,
    conv: &'a DenseConv<'b>,
    first: usize,
    rows: usize,
}

impl Kernel for ConvTask<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { staging, conv, first, rows } = self;
        let k = conv.kernel * conv.kernel * conv.x.cols;
        let epilogue = Finish {
            bias: conv.bias,
            activation: conv.activation,
            scale: None,
            residual: None,
            out: conv.out,
        };
        let mut memory = Scratch::take(staging.len(rows, k));
        let scratch = memory.as_mut_ptr();
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
            multiply_dense::<S, _>(patches, conv.weight, outputs);
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
            for c in (0..(right - left) * channels).step_by(LANES) {
                let n = LANES.min((right - left) * channels - c);
                patches.store::<S>(row, first + left * channels + c, n, conv.x.load::<S>(source, c, n));
            }
            fill_zero::<S>(patches, row, first + right * channels, (conv.kernel - right) * channels);
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
