//! Products with quantized matrices on activations as they are.
//!
//! Codes become f32 in registers and are multiplied with f32 activations. An output is a sum over groups of 32 `k`, in
//! order, of `scale * (chain of fused multiply-adds over the codes of the group)`. That order does not depend on the tile,
//! so in f32 a row has the same bits alone and beside others, and as the rounding of each step is fixed, on AVX2, AVX-512
//! and NEON alike. WebAssembly rounds products too: there a row has the same bits alone and beside others, but not these.
//!
//! In bf16 this is the way of single rows where there is no quicker one (`single.rs`). Several take one that is quicker, where there is
//! one: their activations get codes of 8 bits ([`super::grouped`]), or, with AMX, some panels are expanded to bf16 once
//! for all rows ([`super::expanded`]). So a row of a prefill has the same bits whatever the chunk, as long as it has at
//! least two rows, and differs from the same row alone by the rounding of its activations, or of its weights.

use std::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
use std::ops::Range;

use half::f16;
use ocelli_plan::BlockFormat;

use super::Left;
use super::epilogue::{Epilogue, Outputs};
#[cfg(target_arch = "x86_64")]
use super::expanded::{self, Encoded};
#[cfg(not(target_arch = "wasm32"))]
use super::tile::Source;
use super::tile::{RowAhead, Rows, rank_one};
use crate::buffer::CACHE_LINE;
use crate::simd::{Kernel, LANES, Simd};

/// `k` of one group.
pub(super) const GROUP: usize = BlockFormat::GROUP;

/// Panels of sixteen quantized columns: the codes of all groups, laid out as `C`, then their f16 scales `[groups][16]`.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<C> {
    pub(crate) at: *const u8,
    /// Bytes from one panel to the next.
    pub(crate) panel_stride: usize,
    /// Groups of a column.
    pub(crate) groups: usize,
    pub(crate) codes: PhantomData<C>,
}

impl<C: Codes> Blocks<C> {
    /// Codes and scales of a panel.
    ///
    /// # Safety
    /// The panel exists.
    #[inline(always)]
    pub(super) unsafe fn panel(self, panel: usize) -> (*const u8, *const f16) {
        // SAFETY: the caller's promise; the scales lie behind the codes.
        unsafe {
            let codes = self.at.add(panel * self.panel_stride);
            (codes, codes.add(self.groups * C::BYTES).cast())
        }
    }

    /// Where the codes are.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn source(self) -> Source {
        Source { at: self.at, panel_bytes: self.panel_stride, first: 0 }
    }
}

#[cfg(target_arch = "x86_64")]
impl<C: Codes> Encoded for Blocks<C> {
    fn panel_len(self) -> usize {
        self.groups * GROUP * LANES
    }

    fn source(self) -> Source {
        Blocks::source(self)
    }

    fn group(self, panel: usize, group: usize) -> (*const u8, usize) {
        (self.at.wrapping_add(panel * self.panel_stride + group * C::BYTES), C::BYTES)
    }

    #[inline(always)]
    unsafe fn expand<S: Simd>(self, panel: usize, groups: Range<usize>, to: *mut half::bf16) {
        // SAFETY: the caller's promise.
        unsafe {
            let (codes, scales) = self.panel(panel);
            for (i, group) in groups.enumerate() {
                let scales = S::load_f16(scales.add(group * LANES));
                C::expand::<S>(codes.add(group * C::BYTES), scales, to.add(i * GROUP * LANES));
            }
        }
    }
}

/// How the codes of a group are laid out.
pub(crate) trait Codes: Copy + 'static {
    /// Bytes of one group of sixteen columns.
    const BYTES: usize;
    /// Panels of a tile of one row: 2, or 4. Each is a stream from memory, of which two bring more than four; but the
    /// fewer bytes a value, the more values must be under way.
    const ROW_PANELS: usize;

    /// Add `MR` rows times one group of `NP` panels, without its scales.
    ///
    /// # Safety
    /// `MR` rows of 32 values at `x`, a group at each of `at`; the CPU has `S`.
    unsafe fn add_group<S: Simd, const MR: usize, const NP: usize>(
        x: *const f32,
        stride: usize,
        at: [*const u8; NP],
        sums: &mut [[S::F; NP]; MR],
    );

    /// Write one group of a panel times its scales in bf16, pairs of `k` interleaved.
    ///
    /// # Safety
    /// A group at `at`, room for 32 by 16 values at `to`; the CPU has `S`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 multiplies in bf16"))]
    unsafe fn expand<S: Simd>(at: *const u8, scales: S::F, to: *mut half::bf16);
}

/// 8 bits: `[32][16]` bytes.
#[derive(Clone, Copy)]
pub(crate) struct Q8;

/// 4 bits: `[4][16]` words of eight `k` each.
#[derive(Clone, Copy)]
pub(crate) struct Q4;

impl Codes for Q8 {
    const BYTES: usize = GROUP * LANES;
    const ROW_PANELS: usize = 2;

    #[inline(always)]
    unsafe fn add_group<S: Simd, const MR: usize, const NP: usize>(
        x: *const f32,
        stride: usize,
        at: [*const u8; NP],
        sums: &mut [[S::F; NP]; MR],
    ) {
        for k in 0..GROUP {
            // SAFETY: the caller's promise.
            unsafe {
                let mut panels = [S::zero(); NP];
                for p in 0..NP {
                    panels[p] = S::load_i8(at[p].add(k * LANES).cast());
                }
                rank_one::<S, MR, NP>(x.add(k), stride, panels, sums);
            }
        }
    }

    #[inline(always)]
    unsafe fn expand<S: Simd>(at: *const u8, scales: S::F, to: *mut half::bf16) {
        for k in (0..GROUP).step_by(2) {
            // SAFETY: the caller's promise.
            unsafe {
                let even = S::mul(S::load_i8(at.add(k * LANES).cast()), scales);
                let odd = S::mul(S::load_i8(at.add((k + 1) * LANES).cast()), scales);
                S::store_bf16_pairs(to.add(k * LANES), even, odd);
            }
        }
    }
}

impl Codes for Q4 {
    const BYTES: usize = GROUP / 2 * LANES;
    const ROW_PANELS: usize = 4;

    #[inline(always)]
    unsafe fn add_group<S: Simd, const MR: usize, const NP: usize>(
        x: *const f32,
        stride: usize,
        at: [*const u8; NP],
        sums: &mut [[S::F; NP]; MR],
    ) {
        for word in 0..GROUP / 8 {
            // SAFETY: the caller's promise.
            unsafe {
                let x = x.add(8 * word);
                let at = at.map(|at| at.add(word * 4 * LANES).cast());
                add_nibbles::<S, 0, MR, NP>(x, stride, at, sums);
                add_nibbles::<S, 4, MR, NP>(x.add(1), stride, at, sums);
                add_nibbles::<S, 8, MR, NP>(x.add(2), stride, at, sums);
                add_nibbles::<S, 12, MR, NP>(x.add(3), stride, at, sums);
                add_nibbles::<S, 16, MR, NP>(x.add(4), stride, at, sums);
                add_nibbles::<S, 20, MR, NP>(x.add(5), stride, at, sums);
                add_nibbles::<S, 24, MR, NP>(x.add(6), stride, at, sums);
                add_nibbles::<S, 28, MR, NP>(x.add(7), stride, at, sums);
            }
        }
    }

    #[inline(always)]
    unsafe fn expand<S: Simd>(at: *const u8, scales: S::F, to: *mut half::bf16) {
        for word in 0..GROUP / 8 {
            // SAFETY: the caller's promise.
            unsafe {
                let at = at.add(word * 4 * LANES).cast();
                let to = to.add(word * 8 * LANES);
                expand_nibbles::<S, 0, 4>(at, scales, to);
                expand_nibbles::<S, 8, 12>(at, scales, to.add(2 * LANES));
                expand_nibbles::<S, 16, 20>(at, scales, to.add(4 * LANES));
                expand_nibbles::<S, 24, 28>(at, scales, to.add(6 * LANES));
            }
        }
    }
}

#[inline(always)]
unsafe fn add_nibbles<S: Simd, const SHIFT: u32, const MR: usize, const NP: usize>(
    x: *const f32,
    stride: usize,
    at: [*const u32; NP],
    sums: &mut [[S::F; NP]; MR],
) {
    // SAFETY: the caller's promise: sixteen words at each of `at`, `MR` rows at `x`.
    unsafe {
        let mut panels = [S::zero(); NP];
        for p in 0..NP {
            panels[p] = S::load_nibbles::<SHIFT>(at[p]);
        }
        rank_one::<S, MR, NP>(x, stride, panels, sums);
    }
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 multiplies in bf16"))]
#[inline(always)]
unsafe fn expand_nibbles<S: Simd, const EVEN: u32, const ODD: u32>(
    at: *const u32,
    scales: S::F,
    to: *mut half::bf16,
) {
    // SAFETY: the caller's promise: sixteen words at `at`, room for 32 values.
    unsafe {
        let even = S::mul(S::load_nibbles::<EVEN>(at), scales);
        let odd = S::mul(S::load_nibbles::<ODD>(at), scales);
        S::store_bf16_pairs(to, even, odd);
    }
}

/// The product with some panels, on whatever the rows were staged for.
///
/// # Safety
/// As for [`super::multiply`].
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, C: Codes, E: Epilogue>(left: Left, b: Blocks<C>, outputs: Outputs<E>) {
    // SAFETY: the caller's promise.
    unsafe {
        match left {
            Left::F32(a) => S::call(Product { a, b, outputs }),
            #[cfg(target_arch = "x86_64")]
            Left::Bf16(a) => S::call(expanded::Product { a, b, outputs }),
            _ => unreachable!("rows are staged for their weight"),
        }
    }
}

/// The product of all rows, padded with zeros to whole groups, with some panels.
///
/// To run it, rows and panels must be readable, and the epilogue may write its outputs.
struct Product<'a, C, E> {
    a: Rows,
    b: Blocks<C>,
    outputs: Outputs<'a, E>,
}

impl<C: Codes, E: Epilogue> Kernel for Product<'_, C, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { a, b, outputs } = self;
        let (mut panel, end) = (outputs.panels.start, outputs.panels.end);
        // SAFETY: the caller's promise, for each part.
        unsafe {
            // One row is bound by memory: several panels at once hide the latency of the chain.
            while C::ROW_PANELS == 4 && a.rows == 1 && panel + 4 <= end {
                tile::<S, C, E, 1, 4>(a, b, 0, panel, &outputs);
                panel += 4;
            }
            while panel + 2 <= end {
                two_panels::<S, C, E>(a, b, panel, &outputs);
                panel += 2;
            }
            if E::GROUP == 1 && panel < end {
                for r in 0..a.rows {
                    tile::<S, C, E, 1, 1>(a, b, r, panel, &outputs);
                }
            }
        }
    }
}

/// All rows against two panels: a few rows at a time share the work of unpacking.
#[inline(always)]
unsafe fn two_panels<S: Simd, C: Codes, E: Epilogue>(
    a: Rows,
    b: Blocks<C>,
    panel: usize,
    outputs: &Outputs<E>,
) {
    let mut r = 0;
    while r < a.rows {
        // SAFETY: the tile's rows are among `a.rows`.
        r += unsafe {
            if S::TILE_PANELS >= 2 && r + 6 <= a.rows {
                tile::<S, C, E, 6, 2>(a, b, r, panel, outputs)
            } else if S::TILE_PANELS < 2 && r + 2 <= a.rows {
                tile::<S, C, E, 2, 2>(a, b, r, panel, outputs)
            } else {
                tile::<S, C, E, 1, 2>(a, b, r, panel, outputs)
            }
        };
    }
}

/// `MR` rows from row `r` times `NP` panels from `panel`; returns `MR`.
#[inline(always)]
unsafe fn tile<S: Simd, C: Codes, E: Epilogue, const MR: usize, const NP: usize>(
    a: Rows,
    b: Blocks<C>,
    r: usize,
    panel: usize,
    outputs: &Outputs<E>,
) -> usize {
    // SAFETY: the caller's promise: rows `r..r + MR`, panels `panel..panel + NP`, all groups.
    unsafe {
        let mut sums = [[S::zero(); NP]; MR];
        let rows = a.at.add(r * a.stride);
        let mut codes = [b.at; NP];
        let mut scales = [b.at.cast::<f16>(); NP];
        for p in 0..NP {
            (codes[p], scales[p]) = b.panel(panel + p);
        }
        let ahead = RowAhead::new(RowAhead::BYTES, b.groups, C::BYTES, NP, b.panel_stride);
        for group in 0..b.groups {
            if MR == 1 {
                // Panels are short: hardware has hardly found their streams when they end.
                for p in 0..NP {
                    let next = codes[p].wrapping_add(ahead.from(group, C::BYTES));
                    for line in (0..C::BYTES).step_by(CACHE_LINE) {
                        S::prefetch_near(next.wrapping_add(line));
                    }
                    let next = ahead.from(group, LANES * size_of::<f16>());
                    S::prefetch_near(scales[p].cast::<u8>().wrapping_add(next));
                }
            }
            let mut part = [[S::zero(); NP]; MR];
            C::add_group::<S, MR, NP>(rows.add(group * GROUP), a.stride, codes, &mut part);
            for p in 0..NP {
                let scale = S::load_f16(scales[p]);
                for i in 0..MR {
                    sums[i][p] = S::fma(scale, part[i][p], sums[i][p]);
                }
                codes[p] = codes[p].add(C::BYTES);
                scales[p] = scales[p].add(LANES);
            }
        }
        outputs.take::<S, MR, NP>(r, panel, &sums);
    }
    MR
}

/// The specification of layouts: the code of a `k` and of a column among those of a group.
#[cfg(test)]
pub(super) mod plain_code {
    use super::LANES;

    pub(in super::super) fn q8(codes: &[u8], k: usize, col: usize) -> i32 {
        i32::from(codes[k * LANES + col] as i8)
    }

    pub(in super::super) fn q4(codes: &[u8], k: usize, col: usize) -> i32 {
        let byte = codes[(k / 8 * LANES + col) * 4 + k % 8 / 2];
        let code = i32::from(if k.is_multiple_of(2) { byte & 15 } else { byte >> 4 });
        if code < 8 { code } else { code - 16 }
    }
}
