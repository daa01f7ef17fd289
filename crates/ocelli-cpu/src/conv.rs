//! Dense strided convolution: patches are gathered into rows, then multiplied.

use ocelli_plan::Activation;

use crate::Isa;
use crate::matmul::{Finish, ROW_BLOCK, Rows, multiply, padded_stride};
use crate::pack::Matrix;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd};
use crate::view::View;

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
    pool.run(conv.out.rows.div_ceil(ROW_BLOCK), &|task| {
        let first = task * ROW_BLOCK;
        isa.dispatch(ConvTask { conv, first, rows: ROW_BLOCK.min(conv.out.rows - first) });
    });
}

struct ConvTask<'a, 'b> {
    conv: &'a DenseConv<'b>,
    first: usize,
    rows: usize,
}

impl Kernel for ConvTask<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { conv, first, rows } = self;
        let k = conv.kernel * conv.kernel * conv.x.cols;
        let stride = padded_stride(k);
        let epilogue = Finish {
            bias: conv.bias,
            activation: conv.activation,
            scale: None,
            residual: None,
            out: conv.out,
        };
        let mut memory = Scratch::take(rows * stride);
        let patches = memory.as_mut_ptr();
        // SAFETY: the scratch holds the patches; tasks write disjoint output rows.
        unsafe {
            for r in 0..rows {
                gather_patch::<S>(conv, first + r, patches.add(r * stride));
            }
            let a = Rows { at: patches, stride, rows, k };
            multiply::<S, _>(a, conv.weight, 0..conv.weight.panels, &epilogue, first);
        }
    }
}

/// The input pixels under one output pixel, `[kernel, kernel, channels]`, zeros outside of the map.
#[inline(always)]
unsafe fn gather_patch<S: Simd>(conv: &DenseConv<'_>, pixel: usize, to: *mut f32) {
    let channels = conv.x.cols;
    let inside = |at: usize, limit: usize| at.checked_sub(conv.padding).filter(|&at| at < limit);
    let (oy, ox) = (pixel / conv.out_width(), pixel % conv.out_width());
    for ky in 0..conv.kernel {
        for kx in 0..conv.kernel {
            let y = inside(oy * conv.stride + ky, conv.height);
            let x = inside(ox * conv.stride + kx, conv.width);
            // SAFETY: the tap's place is in the patch, the pixel is in the map.
            unsafe {
                let to = to.add((ky * conv.kernel + kx) * channels);
                match (y, x) {
                    (Some(y), Some(x)) => conv.x.widen::<S>(y * conv.width + x, 0, channels, to),
                    _ => std::ptr::write_bytes(to, 0, channels),
                }
            }
        }
    }
}
