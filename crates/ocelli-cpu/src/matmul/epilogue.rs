//! What happens to a tile of sums before it is stored.
//!
//! Epilogues are inlined into the products, which are functions of their instruction set. WebAssembly has one set for the
//! whole module, so there they are functions of their own: a page loads less.

#[cfg(target_arch = "x86_64")]
use half::bf16;
use ocelli_plan::Activation;

#[cfg(target_arch = "x86_64")]
use crate::math::gelu_bf16;
#[cfg(not(target_arch = "wasm32"))]
use crate::math::silu_bf16;
use crate::math::{activate_rows, sigmoid};
use crate::simd::{LANES, Simd};
use crate::view::{Kind, View};

/// Takes a finished tile of sums.
pub(crate) trait Epilogue: Sync {
    /// Panels that must come together: 1, or 2 for gate and up.
    const GROUP: usize;

    /// Ask for what [`Self::finish`] will read of these rows and columns: before their sums are computed, so that it is
    /// there when they are.
    ///
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    unsafe fn ask<S: Simd>(&self, _rows: std::ops::Range<usize>, _cols: std::ops::Range<usize>) {}

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

    /// Where sums from this row and column on may be stored as they are, 32 rows of 32, and how far apart the rows are.
    #[cfg(target_arch = "x86_64")] // Only tiles store blocks.
    #[inline(always)]
    fn plain(&self, _row: usize, _col: usize) -> Option<(*mut f32, usize)> {
        None
    }

    /// Whether [`Self::line`] takes the sums of 32 columns from `col` on.
    #[inline(always)]
    fn has_lines(&self, _col: usize) -> bool {
        false
    }

    /// Take the sums of 32 columns of a row with few instructions: they come between those of a product.
    ///
    /// # Safety
    /// As for [`Self::finish`], and where [`Self::has_lines`] says so.
    #[inline(always)]
    unsafe fn line<S: Simd>(&self, _row: usize, _col: usize, _sums: [S::F; 2]) {
        unreachable!("there are no lines");
    }
}

/// The outputs of a product: which columns, and what takes their sums.
pub(crate) struct Outputs<'a, E> {
    /// Panels of the right factor.
    pub(crate) panels: std::ops::Range<usize>,
    pub(crate) epilogue: &'a E,
    /// The epilogue's number of the left factor's first row.
    pub(crate) first_row: usize,
}

impl<'a, E: Epilogue> Outputs<'a, E> {
    pub(crate) fn new(panels: std::ops::Range<usize>, epilogue: &'a E, first_row: usize) -> Self {
        Self { panels, epilogue, first_row }
    }

    /// Ask for what [`Self::take`] will read.
    ///
    /// # Safety
    /// As for [`Epilogue::ask`].
    #[inline(always)]
    pub(super) unsafe fn ask<S: Simd>(&self, row: usize, rows: usize, panel: usize, panels: usize) {
        let first = self.first_row + row;
        // SAFETY: the caller's promise.
        unsafe { self.epilogue.ask::<S>(first..first + rows, panel * LANES..(panel + panels) * LANES) };
    }

    /// Take the sums of rows from `row` of the left factor and of columns from panel `panel`, which a loop kept in
    /// registers.
    ///
    /// One by one, into an array of their own: where an epilogue takes the loop's own array, whose elements it reads in
    /// loops that are not unrolled, that array lies in memory, and every step of the loop stores all sums there.
    ///
    /// # Safety
    /// As for [`Epilogue::finish`].
    #[inline(always)]
    pub(super) unsafe fn take<S: Simd, const MR: usize, const NP: usize>(
        &self,
        row: usize,
        panel: usize,
        sums: &[[S::F; NP]; MR],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut done = [[S::zero(); NP]; MR];
            for i in 0..MR {
                for p in 0..NP {
                    done[i][p] = sums[i][p];
                }
            }
            self.epilogue.finish::<S, MR, NP>(self.first_row + row, panel * LANES, done);
        }
    }

    /// Where a block of sums from this row of the left factor and this panel on may be stored as it is.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn plain(&self, row: usize, panel: usize) -> Option<(*mut f32, usize)> {
        self.epilogue.plain(self.first_row + row, panel * LANES)
    }

    /// Whether [`Self::take_line`] takes sums of two panels from `panel` on.
    #[inline(always)]
    pub(super) fn has_lines(&self, panel: usize) -> bool {
        self.epilogue.has_lines(panel * LANES)
    }

    /// Take the sums of a row and two panels.
    ///
    /// # Safety
    /// As for [`Epilogue::line`].
    #[inline(always)]
    pub(super) unsafe fn take_line<S: Simd>(&self, row: usize, panel: usize, sums: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe { self.epilogue.line::<S>(self.first_row + row, panel * LANES, sums) };
    }
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
    unsafe fn ask<S: Simd>(&self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) {
        if let Some(residual) = self.residual {
            for row in rows {
                // SAFETY: the caller's promise.
                unsafe { residual.ask::<S>(row, cols.clone()) };
            }
        }
    }

    #[cfg_attr(target_arch = "wasm32", inline(never))]
    #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
    unsafe fn finish<S: Simd, const MR: usize, const NP: usize>(
        &self,
        row: usize,
        col: usize,
        sums: [[S::F; NP]; MR],
    ) {
        // SAFETY: the caller's promise, and what is asked of the output.
        unsafe {
            // A copy: this one lies in memory, see `Outputs::take`.
            let mut others = [[S::zero(); NP]; MR];
            for i in 0..MR {
                for p in 0..NP {
                    others[i][p] = sums[i][p];
                }
            }
            self.vectors::<S, MR, NP>(row, col, others);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn has_lines(&self, col: usize) -> bool {
        let simple = matches!(self.activation, Activation::None | Activation::Gelu);
        let bf16 = self.out.kind == Kind::Bf16 && self.residual.is_none_or(|r| r.kind == Kind::Bf16);
        simple && bf16 && col + 2 * LANES <= self.out.cols
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn line<S: Simd>(&self, row: usize, col: usize, mut v: [S::F; 2]) {
        // SAFETY: the columns are in the output and in its residual; vectors are padded to whole panels.
        unsafe {
            if let Some(bias) = self.bias {
                let bias = load_two::<S>(bias, col);
                v = [S::add(v[0], bias[0]), S::add(v[1], bias[1])];
            }
            if self.activation == Activation::Gelu {
                v = [gelu_bf16::<S>(v[0]), gelu_bf16::<S>(v[1])];
            }
            if let Some(scale) = self.scale {
                let scale = load_two::<S>(scale, col);
                v = [S::mul(v[0], scale[0]), S::mul(v[1], scale[1])];
            }
            if let Some(residual) = self.residual {
                let at = residual.row::<bf16>(row).add(col).cast_const();
                v = [S::add(v[0], S::load_bf16(at)), S::add(v[1], S::load_bf16(at.add(LANES)))];
            }
            S::store_bf16_line(self.out.row::<bf16>(row).add(col), v[0], v[1]);
        }
    }
}

impl Finish<'_> {
    /// [`Epilogue::finish`] for whatever there is.
    ///
    /// # Safety
    /// As for [`Epilogue::finish`].
    #[inline(always)]
    unsafe fn vectors<S: Simd, const MR: usize, const NP: usize>(
        &self,
        row: usize,
        col: usize,
        sums: [[S::F; NP]; MR],
    ) {
        // Loops over rows inside of each choice, whose vectors are independent of each other. Not closures: see `Scratch`.
        for p in 0..NP {
            let c = col + p * LANES;
            let n = LANES.min(self.out.cols - c);
            let mut v = [sums[0][p]; MR];
            for (v, sums) in v.iter_mut().zip(&sums) {
                *v = sums[p];
            }
            // SAFETY: columns are inside of the output, vectors are padded to whole panels.
            unsafe {
                if let Some(bias) = self.bias {
                    let bias = S::load(bias.as_ptr().add(c));
                    for v in &mut v {
                        *v = S::add(*v, bias);
                    }
                }
                activate_rows::<S, MR>(self.activation, self.out.kind, &mut v);
                if let Some(scale) = self.scale {
                    let scale = S::load(scale.as_ptr().add(c));
                    for v in &mut v {
                        *v = S::mul(*v, scale);
                    }
                }
                if let Some(residual) = self.residual {
                    let residual = residual.load_rows::<S, MR>(row, c, n);
                    for (v, residual) in v.iter_mut().zip(residual) {
                        *v = S::add(*v, residual);
                    }
                }
                self.out.store_rows::<S, MR>(row, c, n, v);
            }
        }
    }
}

/// Two vectors from column `col` on.
///
/// # Safety
/// They are there; the CPU has `S`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn load_two<S: Simd>(values: &[f32], col: usize) -> [S::F; 2] {
    debug_assert!(col + 2 * LANES <= values.len());
    // SAFETY: the caller's promise.
    unsafe { [S::load(values.as_ptr().add(col)), S::load(values.as_ptr().add(col + LANES))] }
}

/// `out = silu(gate) * up`, gate and up panels taking turns.
#[derive(Clone, Copy)]
pub(crate) struct GateUp {
    pub(crate) out: View,
}

impl Epilogue for GateUp {
    const GROUP: usize = 2;

    #[cfg_attr(target_arch = "wasm32", inline(never))]
    #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
    unsafe fn finish<S: Simd, const MR: usize, const NP: usize>(
        &self,
        row: usize,
        col: usize,
        sums: [[S::F; NP]; MR],
    ) {
        for p in 0..NP / 2 {
            let c = col / 2 + p * LANES;
            let n = LANES.min(self.out.cols - c);
            let mut v = [sums[0][0]; MR];
            // SAFETY: columns are inside of the output.
            unsafe {
                for (v, sums) in v.iter_mut().zip(&sums) {
                    *v = gated::<S>(self.out.kind, sums[2 * p], sums[2 * p + 1]);
                }
                self.out.store_rows::<S, MR>(row, c, n, v);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn has_lines(&self, col: usize) -> bool {
        self.out.kind == Kind::Bf16 && col / 2 + LANES <= self.out.cols
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn line<S: Simd>(&self, row: usize, col: usize, [gate, up]: [S::F; 2]) {
        // SAFETY: the columns are in the output.
        unsafe {
            let v = gated::<S>(Kind::Bf16, gate, up);
            S::store_bf16(self.out.row::<bf16>(row).add(col / 2), v);
        }
    }
}

/// `silu(gate) * up` for results that are stored as `out`.
///
/// # Safety
/// The CPU has `S`.
#[inline(always)]
unsafe fn gated<S: Simd>(out: Kind, gate: S::F, up: S::F) -> S::F {
    // SAFETY: the caller's promise.
    unsafe {
        let silu = match out {
            #[cfg(not(target_arch = "wasm32"))]
            Kind::Bf16 => silu_bf16::<S>(gate),
            _ => S::mul(gate, sigmoid::<S>(gate)),
        };
        S::mul(silu, up)
    }
}
