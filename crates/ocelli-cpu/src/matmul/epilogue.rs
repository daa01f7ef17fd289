//! What happens to a tile of sums before it is stored.

use ocelli_plan::Activation;

use crate::math::{activate, sigmoid};
use crate::simd::{LANES, Simd};
use crate::view::View;

/// Takes a finished tile of sums.
pub(crate) trait Epilogue: Sync {
    /// Panels that must come together: 1, or 2 for gate and up.
    const GROUP: usize;

    /// Take the sums of rows from `row` and of columns from `col`.
    ///
    /// # Safety
    /// No other thread takes these rows and columns; the CPU has `S`.
    unsafe fn finish<S: Simd, const MR: usize, const NP: usize>(
        &self,
        row: usize,
        col: usize,
        sums: [[S::F; NP]; MR],
    );
}

/// `out = residual + scale * activation(sum + bias)`.
///
/// The vectors are padded to whole panels.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Activation,
    pub(crate) scale: Option<&'a [f32]>,
    pub(crate) residual: Option<View>,
    pub(crate) out: View,
}

impl Epilogue for Finish<'_> {
    const GROUP: usize = 1;

    #[inline(always)]
    unsafe fn finish<S: Simd, const MR: usize, const NP: usize>(
        &self,
        row: usize,
        col: usize,
        sums: [[S::F; NP]; MR],
    ) {
        for p in 0..NP {
            let c = col + p * LANES;
            let n = LANES.min(self.out.cols - c);
            // SAFETY: columns are inside of the output, vectors are padded to whole panels.
            unsafe {
                let bias = self.bias.map(|b| S::load(b.as_ptr().add(c)));
                let scale = self.scale.map(|s| S::load(s.as_ptr().add(c)));
                for (i, sums) in sums.iter().enumerate() {
                    let mut v = sums[p];
                    if let Some(bias) = bias {
                        v = S::add(v, bias);
                    }
                    v = activate::<S>(self.activation, v);
                    if let Some(scale) = scale {
                        v = S::mul(v, scale);
                    }
                    if let Some(residual) = self.residual {
                        v = S::add(v, residual.load::<S>(row + i, c, n));
                    }
                    self.out.store::<S>(row + i, c, n, v);
                }
            }
        }
    }
}

/// `out = silu(gate) * up`, gate and up panels taking turns.
#[derive(Clone, Copy)]
pub(crate) struct GateUp {
    pub(crate) out: View,
}

impl Epilogue for GateUp {
    const GROUP: usize = 2;

    #[inline(always)]
    unsafe fn finish<S: Simd, const MR: usize, const NP: usize>(
        &self,
        row: usize,
        col: usize,
        sums: [[S::F; NP]; MR],
    ) {
        for p in 0..NP / 2 {
            let c = col / 2 + p * LANES;
            let n = LANES.min(self.out.cols - c);
            for (i, sums) in sums.iter().enumerate() {
                let (gate, up) = (sums[2 * p], sums[2 * p + 1]);
                // SAFETY: columns are inside of the output.
                unsafe {
                    let v = S::mul(S::mul(gate, sigmoid::<S>(gate)), up);
                    self.out.store::<S>(row + i, c, n, v);
                }
            }
        }
    }
}
