//! Matrix products `x W^T` with packed weights and fused epilogues.
//!
//! The SIMD kernels compute every output value as one chain of fused multiply-adds over `k` in order,
//! those that multiply bf16 by bf16 as one chain over pairs of `k`, whatever the tile, the number of rows or of threads.
//! So a row's result does not depend on the rows beside it: prefill equals decode, a batch equals its
//! single items, one thread equals two, bit for bit. Quantized matrices keep this too, but for single
//! rows where others are multiplied as bytes or in bf16: see [`blocks`]; and so do compact ones, but for single rows
//! where others are multiplied by AMX, see [`compact`].

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(all(feature = "emulate-amx", target_arch = "x86_64", target_os = "linux"))]
mod amx_emulated;
#[cfg(target_arch = "x86_64")]
mod amx_tiles;
#[cfg(target_arch = "x86_64")]
mod bf16_pairs;
#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16_rows;
#[cfg(target_arch = "x86_64")]
mod bf16_tiles;
mod block_walk;
mod blocks;
#[cfg(target_arch = "x86_64")]
pub(crate) mod compact;
mod epilogue;
#[cfg(target_arch = "x86_64")]
mod expanded;
#[cfg(not(target_arch = "wasm32"))]
mod grouped;
pub(crate) mod int8;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod int8_neon;
mod int8_sums;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod int8_wasm;
#[cfg(target_arch = "x86_64")]
mod single;
mod tile;

use half::bf16;
use ocelli_plan::BlockFormat;

#[cfg(target_arch = "x86_64")]
use bf16_rows::{BfRows, BfUnit};
pub(crate) use blocks::Blocks;
pub(crate) use epilogue::{Epilogue, Finish, GateUp, Outputs};
pub(crate) use tile::{Columns, Product, Rows};

use crate::Isa;
use crate::pack::{Matrix, Stored};
use crate::pool::{CHUNKS_PER_THREAD, Pool};
use crate::scratch::Scratch;
use crate::simd::{LANES, Simd};
#[cfg(not(target_arch = "wasm32"))]
use crate::view::Kind;
use crate::view::View;

/// Rows that [`Staging::product_block`] keeps together at most.
const MOST_TOGETHER: usize = 512;
/// What they may take: about half of a second-level cache.
const CACHED_BYTES: usize = 1 << 20;

/// Rows of the left factor as the kernel for a weight wants them.
#[derive(Clone, Copy)]
pub(crate) enum Left {
    F32(Rows),
    #[cfg(target_arch = "x86_64")]
    Bf16(BfRows),
    Int8(int8::Rows8),
    #[cfg(not(target_arch = "wasm32"))]
    Grouped(grouped::GroupedRows),
    #[cfg(target_arch = "x86_64")]
    Single(single::SingleRow),
}

/// How rows are staged for a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Staging {
    F32,
    #[cfg(target_arch = "x86_64")]
    Bf16(BfUnit),
    Int8(int8::Staging8),
    #[cfg(not(target_arch = "wasm32"))]
    Grouped(grouped::Staging),
    #[cfg(target_arch = "x86_64")]
    Single(single::Staging),
}

impl Staging {
    /// What the kernels of `isa` want for the product of `x` with this weight.
    pub(crate) fn of(isa: Isa, x: View, weight: &Matrix) -> Self {
        let stored = weight.stored();
        if stored == Stored::Int8 {
            return Self::Int8(int8::Staging8::new(int8_sums::Unit::of(isa), x));
        }
        #[cfg(not(target_arch = "wasm32"))]
        if let Stored::Blocks(format) = stored
            && let Some(staging) = grouped::Staging::of(isa, x, format)
        {
            return Self::Grouped(staging);
        }
        #[cfg(target_arch = "x86_64")]
        if let Stored::Blocks(format) = stored
            && let Some(staging) = single::Staging::of(isa, x, format)
        {
            return Self::Single(staging);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(unit) = BfUnit::of(isa) {
            let expanded = matches!(stored, Stored::Blocks(_)) && x.kind == Kind::Bf16 && x.rows > 1;
            if expanded || matches!(stored, Stored::Bf16 | Stored::Compact) {
                return Self::Bf16(unit);
            }
        }
        Self::F32
    }

    /// With fewer rows for each thread, threads share the columns of a feed-forward: tiles and pairs of bf16 are so quick
    /// that reading whole matrices for fewer takes longer.
    pub(crate) fn rows_per_thread(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(_) => 128,
            _ => 64,
        }
    }

    /// Rows that one task takes when `rows` are shared by `threads`: its input and hidden rows stay in
    /// the second-level cache, and all threads have the same work.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(unused_variables, reason = "only bf16 products ask for the weight")
    )]
    pub(crate) fn row_block(self, weight: &Matrix, rows: usize, threads: usize) -> usize {
        let about = match self {
            Self::F32 => 64,
            Self::Int8(staging) => staging.row_block(rows, threads),
            // Codes are expanded once for all rows of a block: the threads share the columns instead.
            #[cfg(not(target_arch = "wasm32"))]
            Self::Grouped(_) => return rows.clamp(64, 512),
            #[cfg(target_arch = "x86_64")]
            Self::Single(_) => return 1,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(_) if weight.is_encoded() => return rows.clamp(64, 512),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(_) => rows_together(rows / threads),
        };
        let tasks = (rows / about).max(1).next_multiple_of(threads);
        rows.div_ceil(tasks).next_multiple_of(self.row_step())
    }

    /// What the rows of a task should be a multiple of.
    fn row_step(self) -> usize {
        match self {
            Self::Int8(staging) => staging.row_step(),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(unit) => unit.row_step(),
            _ => 2,
        }
    }

    /// As [`Self::row_block`], for a product alone. Up to a few hundred rows stay together as far as the second-level cache
    /// has room for them, or the matrix would come from memory more than once; threads share its columns. Tiles take some
    /// `k` of many columns at a time, for which there is always room.
    pub(crate) fn product_block(self, weight: &Matrix, rows: usize, threads: usize) -> usize {
        let room = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(BfUnit::Tiles) => MOST_TOGETHER,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(BfUnit::Pairs) => CACHED_BYTES / (size_of::<bf16>() * weight.k),
            Self::F32 => CACHED_BYTES / (size_of::<f32>() * weight.k),
            _ => CACHED_BYTES / weight.k,
        };
        if rows > MOST_TOGETHER || weight.is_encoded() {
            return self.row_block(weight, rows, threads);
        }
        let most = room.clamp(64, MOST_TOGETHER);
        rows.div_ceil(rows.div_ceil(most)).next_multiple_of(self.row_step())
    }

    /// About how many tasks of a product of several rows a thread has. More of them make up for a thread that is late, or on
    /// a slower core; but each reads its rows again, and tiles are so quick that this takes longer. CPUs with tiles have cores
    /// of one kind.
    pub(crate) fn tasks_per_thread(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(BfUnit::Tiles) => 1,
            _ => CHUNKS_PER_THREAD,
        }
    }

    /// Panels that a task should have a multiple of, or its last columns run on narrow tiles.
    pub(crate) fn panel_step(self, weight: &Matrix, rows: usize) -> usize {
        #[cfg(not(target_arch = "wasm32"))]
        if matches!(self, Self::Grouped(_)) {
            return 2;
        }
        if self == Self::F32 && rows == 1 && !weight.is_encoded() { 8 } else { 4 }
    }

    /// f32 values of scratch that `rows` staged rows of `k` values take.
    pub(crate) fn len(self, rows: usize, k: usize) -> usize {
        match self {
            Self::F32 => rows * padded_stride(k),
            Self::Int8(staging) => staging.len(rows, k),
            #[cfg(not(target_arch = "wasm32"))]
            Self::Grouped(_) => grouped::Staging::len(rows, k),
            #[cfg(target_arch = "x86_64")]
            Self::Single(_) => single::Staging::len(k),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(_) => BfRows::len(rows, k).div_ceil(2),
        }
    }

    /// f32 values of scratch that [`Self::stage`] takes for `rows` rows of `x`: none where they are shared.
    pub(crate) fn len_of(self, x: View, rows: usize) -> usize {
        match x.kind {
            #[cfg(not(target_arch = "wasm32"))]
            Kind::Codes => 0,
            _ => self.len(rows, x.cols),
        }
    }

    /// Scratch as rows of `cols` values that an epilogue may write and [`Self::written`] reads.
    pub(crate) fn view(self, at: *mut f32, rows: usize, cols: usize) -> View {
        match self {
            Self::F32 => View::scratch(at, rows, cols, padded_stride(cols)),
            Self::Int8(staging) => staging.view(at, rows, cols),
            #[cfg(not(target_arch = "wasm32"))]
            Self::Grouped(_) => grouped::Staging::view(at, rows, cols),
            #[cfg(target_arch = "x86_64")]
            Self::Single(_) => single::Staging::view(at, cols),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(_) => BfRows::view(at.cast(), rows, cols),
        }
    }

    /// Rows that were written through [`Self::view`], whatever they are staged as.
    ///
    /// # Safety
    /// `at` is valid for `self.len(rows, k)` values; the CPU has `S`.
    #[inline(always)]
    pub(crate) unsafe fn complete<S: Simd>(self, at: *mut f32, rows: usize, k: usize) -> Left {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Int8(staging) => Left::Int8(staging.written::<S>(at, rows, k)),
                _ => self.written(at, rows, k),
            }
        }
    }

    /// Rows that were written through [`Self::view`], for a weight in floating point.
    ///
    /// # Safety
    /// `at` is valid for `self.len(rows, k)` values.
    #[inline(always)]
    pub(crate) unsafe fn written(self, at: *mut f32, rows: usize, k: usize) -> Left {
        match self {
            Self::F32 => {
                // SAFETY: the caller's promise; the padding is within the stride.
                unsafe { zero_padding(at, rows, k) };
                Left::F32(Rows { at, stride: padded_stride(k), rows, k })
            }
            // SAFETY: the caller's promise.
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(unit) => Left::Bf16(unsafe { BfRows::written(at.cast(), rows, k, unit) }),
            _ => unreachable!("convolutions have no codes for weights"),
        }
    }

    /// `x` as the tasks of one product share it: staged for all of them where each would have the same work, in scratch
    /// that must live as long.
    #[cfg_attr(target_arch = "wasm32", allow(unused_variables, reason = "nothing is shared there"))]
    pub(crate) fn share(self, isa: Isa, pool: &Pool, x: View) -> (Option<Scratch>, View) {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Grouped(staging) => staging.share(isa, pool, x),
            #[cfg(target_arch = "x86_64")]
            Self::Single(staging) => staging.share(isa, x),
            _ => (None, x),
        }
    }

    /// Rows of a tensor, copied to scratch where the kernel cannot read them in place.
    ///
    /// # Safety
    /// The rows are in the view; `to` is valid for `self.len(rows, x.cols)` values; the CPU has `S`.
    #[inline(always)]
    pub(crate) unsafe fn stage<S: Simd>(self, x: View, first: usize, rows: usize, to: *mut f32) -> Left {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::F32 => {
                    let stride = padded_stride(x.cols);
                    for r in 0..rows {
                        x.widen::<S>(first + r, 0, x.cols, to.add(r * stride));
                    }
                    zero_padding(to, rows, x.cols);
                    Left::F32(Rows { at: to, stride, rows, k: x.cols })
                }
                Self::Int8(staging) => Left::Int8(staging.stage::<S>(x, first, rows, to)),
                #[cfg(not(target_arch = "wasm32"))]
                Self::Grouped(staging) => Left::Grouped(staging.shared(x, first, rows)),
                #[cfg(target_arch = "x86_64")]
                Self::Single(_) => Left::Single(single::Staging::shared(x)),
                #[cfg(target_arch = "x86_64")]
                Self::Bf16(unit) => Left::Bf16(BfRows::stage::<S>(x, first, rows, to.cast(), unit)),
            }
        }
    }
}

/// About as many rows as one task takes of a thread's `rows`, where bf16 or tiles are multiplied: the more at once, the
/// less often a matrix is read.
fn rows_together(rows: usize) -> usize {
    match rows {
        0..128 => 64,
        128..512 => 128,
        _ => 256,
    }
}

/// Distance between staged rows of `k` values: never a multiple of a page, or all rows of a tile
/// would compete for the same few cache sets.
fn padded_stride(k: usize) -> usize {
    k.next_multiple_of(LANES) + LANES
}

/// Fill staged rows with zeros up to a whole group of a quantized matrix.
///
/// # Safety
/// `at` is valid for `rows` rows of [`padded_stride`].
#[inline(always)]
unsafe fn zero_padding(at: *mut f32, rows: usize, k: usize) {
    let padding = k.next_multiple_of(BlockFormat::GROUP) - k;
    debug_assert!(k + padding <= padded_stride(k));
    for r in 0..rows {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(at.add(r * padded_stride(k) + k), 0, padding) };
    }
}

/// The product with some panels of a packed matrix, in the type that it is stored in.
///
/// # Safety
/// Rows and panels are readable, the epilogue may write its outputs, the CPU has `S`, and the rows were staged for this
/// weight.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd, E: Epilogue>(left: Left, weight: &Matrix, outputs: Outputs<E>) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(not(target_arch = "wasm32"))]
        if let Left::Grouped(rows) = left {
            return grouped::multiply::<S, E>(rows, weight, outputs);
        }
        #[cfg(target_arch = "x86_64")]
        if let Left::Single(row) = left {
            return single::multiply::<S, E>(row, weight, outputs);
        }
        match weight.stored() {
            Stored::Blocks(BlockFormat::Q8) => {
                blocks::multiply::<S, blocks::Q8, E>(left, weight.blocks(), outputs);
            }
            Stored::Blocks(BlockFormat::Q4) => {
                blocks::multiply::<S, blocks::Q4, E>(left, weight.blocks(), outputs);
            }
            #[cfg(target_arch = "x86_64")]
            Stored::Compact => {
                let Left::Bf16(rows) = left else { unreachable!("rows are staged for their weight") };
                compact::multiply::<S, E>(rows, weight.compact(), outputs);
            }
            _ => multiply_whole::<S, E>(left, weight, outputs),
        }
    }
}

/// The same for a matrix that is not kept as codes.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_whole<S: Simd, E: Epilogue>(left: Left, weight: &Matrix, outputs: Outputs<E>) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Left::Int8(rows) = left {
            return S::call(int8::Product { a: rows, b: weight.columns8(), outputs });
        }
        multiply_dense::<S, E>(left, weight, outputs);
    }
}

/// The same for a matrix in floating point.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_dense<S: Simd, E: Epilogue>(left: Left, weight: &Matrix, outputs: Outputs<E>) {
    // SAFETY: the caller's promise.
    unsafe {
        match (left, weight.stored()) {
            (Left::F32(rows), Stored::F32) => {
                S::call(Product { a: rows, b: weight.columns::<f32>(), outputs });
            }
            (Left::F32(rows), _) => {
                S::call(Product { a: rows, b: weight.columns::<bf16>(), outputs });
            }
            #[cfg(target_arch = "x86_64")]
            (Left::Bf16(rows), _) => {
                bf16_rows::product::<S, E>(rows, weight.columns(), outputs);
            }
            _ => unreachable!("convolutions have no codes for weights"),
        }
    }
}
