//! A tensor in an arena, as kernels see it.

use half::bf16;

use crate::buffer::CACHE_LINE;
use crate::simd::{Elem, LANES, Simd};

/// How the values of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    Bf16,
    U32,
    /// Groups of codes, which are rows of a product only: `stride` counts bytes. See `matmul::grouped`.
    #[cfg(not(target_arch = "wasm32"))]
    Codes,
}

impl Kind {
    /// Bytes of a value.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Bf16 => size_of::<bf16>(),
            Self::F32 | Self::U32 => size_of::<f32>(),
            #[cfg(not(target_arch = "wasm32"))]
            Self::Codes => size_of::<u8>(),
        }
    }
}

/// `[rows, cols]` values in memory that somebody else owns, rows `stride` values apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) at: *mut u8,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
    pub(crate) kind: Kind,
}

// SAFETY: a view is only a description; those who read and write through it answer for it.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// A view of f32 scratch with padded rows.
    pub(crate) fn scratch(at: *mut f32, rows: usize, cols: usize, stride: usize) -> Self {
        Self { at: at.cast(), rows, cols, stride, kind: Kind::F32 }
    }

    /// Where row `row` begins, as values of type `T`.
    ///
    /// # Safety
    /// `row < rows`, and `T` has the size of the view's kind.
    #[inline(always)]
    pub(crate) unsafe fn row<T>(self, row: usize) -> *mut T {
        debug_assert!(row < self.rows);
        // SAFETY: within the tensor by the caller's promise.
        unsafe { self.at.cast::<T>().add(row * self.stride) }
    }

    /// Ask for some columns of a row, wherever they are.
    ///
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    pub(crate) unsafe fn ask<S: Simd>(self, row: usize, cols: std::ops::Range<usize>) {
        if !S::ASKS {
            return;
        }
        let start = self.at.wrapping_add((row * self.stride + cols.start) * self.kind.bytes());
        for line in (0..cols.len() * self.kind.bytes()).step_by(CACHE_LINE) {
            // SAFETY: asking reads nothing.
            unsafe { S::prefetch(start.wrapping_add(line)) };
        }
    }

    /// Ask for the line with column `col` of some rows, wherever they are.
    ///
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    pub(crate) unsafe fn ask_lines<S: Simd>(self, row: usize, rows: usize, col: usize) {
        if !S::ASKS {
            return;
        }
        let step = self.stride * self.kind.bytes();
        let mut at = self.at.wrapping_add(row * step + col * self.kind.bytes());
        for _ in 0..rows {
            // SAFETY: asking reads nothing.
            unsafe { S::prefetch(at) };
            at = at.wrapping_add(step);
        }
    }

    /// `n <= 16` values from column `col` on as f32, the other lanes zero.
    ///
    /// # Safety
    /// The values lie in the tensor; the CPU has `S`; the view is not of ids.
    #[inline(always)]
    pub(crate) unsafe fn load<S: Simd>(self, row: usize, col: usize, n: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe {
            match self.kind {
                Kind::Bf16 => load_n::<S, bf16>(self.row::<bf16>(row).add(col), n),
                _ => load_n::<S, f32>(self.row::<f32>(row).add(col), n),
            }
        }
    }

    /// Store the first `n <= 16` lanes from column `col` on, rounded to the view's kind.
    ///
    /// # Safety
    /// As for [`Self::load`], and nobody else touches these values.
    #[inline(always)]
    pub(crate) unsafe fn store<S: Simd>(self, row: usize, col: usize, n: usize, v: S::F) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.kind {
                Kind::Bf16 => store_n::<S, bf16>(self.row::<bf16>(row).add(col), n, v),
                _ => store_n::<S, f32>(self.row::<f32>(row).add(col), n, v),
            }
        }
    }

    /// As [`Self::load`], of `N` rows.
    ///
    /// # Safety
    /// As for [`Self::load`].
    #[inline(always)]
    pub(crate) unsafe fn load_rows<S: Simd, const N: usize>(
        self,
        row: usize,
        col: usize,
        n: usize,
    ) -> [S::F; N] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut values = [S::zero(); N];
            if (self.kind, n) == (Kind::Bf16, LANES) {
                for (i, v) in values.iter_mut().enumerate() {
                    *v = S::load_bf16(self.row::<bf16>(row + i).add(col));
                }
            } else {
                for (i, v) in values.iter_mut().enumerate() {
                    *v = self.load::<S>(row + i, col, n);
                }
            }
            values
        }
    }

    /// As [`Self::store`], to `N` rows.
    ///
    /// # Safety
    /// As for [`Self::store`].
    #[inline(always)]
    pub(crate) unsafe fn store_rows<S: Simd, const N: usize>(
        self,
        row: usize,
        col: usize,
        n: usize,
        values: [S::F; N],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if (self.kind, n) == (Kind::Bf16, LANES) {
                for (i, &v) in values.iter().enumerate() {
                    S::store_bf16(self.row::<bf16>(row + i).add(col), v);
                }
            } else {
                for (i, &v) in values.iter().enumerate() {
                    self.store::<S>(row + i, col, n, v);
                }
            }
        }
    }

    /// Copy `cols` values of a row from column `col` on to f32 memory.
    ///
    /// # Safety
    /// As for [`Self::load`]; `to` is valid for `cols` values outside of the tensor.
    #[inline(always)]
    pub(crate) unsafe fn widen<S: Simd>(self, row: usize, col: usize, cols: usize, to: *mut f32) {
        let mut c = 0;
        while c < cols {
            let n = LANES.min(cols - c);
            // SAFETY: the caller's promise.
            unsafe { store_n::<S, f32>(to.add(c), n, self.load::<S>(row, col + c, n)) };
            c += n;
        }
    }
}

#[inline(always)]
unsafe fn load_n<S: Simd, E: Elem>(p: *const E, n: usize) -> S::F {
    // SAFETY: `n` values are readable by the caller's promise.
    unsafe { if n == LANES { E::load::<S>(p) } else { E::load_partial::<S>(p, n) } }
}

#[inline(always)]
unsafe fn store_n<S: Simd, E: Elem>(p: *mut E, n: usize, v: S::F) {
    // SAFETY: `n` values are writable by the caller's promise.
    unsafe { if n == LANES { E::store::<S>(p, v) } else { E::store_partial::<S>(p, n, v) } }
}
