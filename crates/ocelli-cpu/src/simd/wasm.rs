//! Sixteen lanes in four registers of WebAssembly's simd128.
//!
//! The instruction set has no fused multiply-add: [`Simd::fma`] rounds twice here, so results differ from
//! those of other instruction sets in the last places. They are the same on every engine.
//!
//! Compiled for relaxed SIMD too, the engine fuses where its processor can, and rounds twice elsewhere. So these results
//! may differ between engines, as those of other instruction sets do. The relaxed product of bytes has no use here: it
//! takes seven bits of one factor, and codes have eight.

use std::arch::wasm32::*;

use half::{bf16, f16};

use super::{Kernel, LANES, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Wasm;

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
#[derive(Clone, Copy)]
pub(crate) struct Quad(v128, v128, v128, v128);

// simd128 is on for the whole module, so closures are compiled for it as well; they stand around the intrinsics
// because functions of a target feature are no `Fn`.
impl Quad {
    /// Four registers, each made from the number of its first lane.
    #[inline(always)]
    fn new(f: impl Fn(usize) -> v128) -> Self {
        Self(f(0), f(4), f(8), f(12))
    }

    #[inline(always)]
    fn map(self, f: impl Fn(v128) -> v128) -> Self {
        Self(f(self.0), f(self.1), f(self.2), f(self.3))
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(v128, v128) -> v128) -> Self {
        Self(f(self.0, other.0), f(self.1, other.1), f(self.2, other.2), f(self.3, other.3))
    }

    /// All four registers made one, then all four lanes.
    #[inline(always)]
    fn fold(self, f: impl Fn(v128, v128) -> v128) -> f32 {
        let four = f(f(self.0, self.1), f(self.2, self.3));
        let two = f(four, i32x4_shuffle::<2, 3, 0, 1>(four, four));
        f32x4_extract_lane::<0>(f(two, i32x4_shuffle::<1, 0, 3, 2>(two, two)))
    }
}

// SAFETY of every function: the trait's contract (pointers are valid); the module is compiled with simd128.
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe impl Simd for Wasm {
    type F = Quad;
    // Engines on x86-64 have 16 registers: 8 accumulators, a panel of 4, a broadcast and a product.
    const TILE_ROWS: usize = 2;
    const TILE_PANELS: usize = 1;
    const CONV_PIXELS: usize = 4;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        unsafe { kernel.on_target::<Self>() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Quad {
        let v = f32x4_splat(x);
        Quad(v, v, v, v)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Quad {
        Quad::new(|lane| unsafe { v128_load(p.add(lane).cast()) })
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Quad) {
        unsafe {
            v128_store(p.cast(), v.0);
            v128_store(p.add(4).cast(), v.1);
            v128_store(p.add(8).cast(), v.2);
            v128_store(p.add(12).cast(), v.3);
        }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Quad {
        let mut full = [0.0f32; LANES];
        unsafe {
            std::ptr::copy_nonoverlapping(p, full.as_mut_ptr(), n);
            Self::load(full.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, n: usize, v: Quad) {
        let mut full = [0.0f32; LANES];
        unsafe {
            Self::store(full.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(full.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Quad {
        Quad::new(|lane| u32x4_shl(unsafe { u32x4_load_extend_u16x4(p.add(lane).cast()) }, 16))
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: Quad) {
        // The upper halves of eight words.
        let narrow = |low, high| i16x8_shuffle::<1, 3, 5, 7, 9, 11, 13, 15>(rounded(low), rounded(high));
        unsafe {
            v128_store(p.cast(), narrow(v.0, v.1));
            v128_store(p.add(8).cast(), narrow(v.2, v.3));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const bf16) -> (Quad, Quad) {
        let words = |lane: usize| unsafe { v128_load(p.add(2 * lane).cast()) };
        let first = |lane| u32x4_shl(words(lane), 16);
        let second = |lane| v128_and(words(lane), u32x4_splat(0xffff_0000));
        (Quad::new(first), Quad::new(second))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Quad {
        Quad::new(|lane| widen_f16(unsafe { u32x4_load_extend_u16x4(p.add(lane).cast()) }))
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Quad) {
        let whole = |v| i32x4_trunc_sat_f32x4(f32x4_nearest(v));
        let words = |low, high| i16x8_narrow_i32x4(whole(low), whole(high));
        unsafe { v128_store(p.cast(), i8x16_narrow_i16x8(words(v.0, v.1), words(v.2, v.3))) }
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> Quad {
        Quad::new(|lane| f32x4_convert_i32x4(unsafe { v128_load(p.add(lane).cast()) }))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Quad {
        let half = |at: usize| unsafe { i16x8_load_extend_i8x8(p.add(at)) };
        let (low, high) = (half(0), half(8));
        Quad(
            f32x4_convert_i32x4(i32x4_extend_low_i16x8(low)),
            f32x4_convert_i32x4(i32x4_extend_high_i16x8(low)),
            f32x4_convert_i32x4(i32x4_extend_low_i16x8(high)),
            f32x4_convert_i32x4(i32x4_extend_high_i16x8(high)),
        )
    }
    #[inline(always)]
    unsafe fn load_nibbles<const SHIFT: u32>(p: *const u32) -> Quad {
        Quad::new(|lane| {
            let word = unsafe { v128_load(p.add(lane).cast()) };
            f32x4_convert_i32x4(i32x4_shr(i32x4_shl(word, 28 - SHIFT), 28))
        })
    }
    #[inline(always)]
    unsafe fn add(a: Quad, b: Quad) -> Quad {
        a.zip(b, |a, b| f32x4_add(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: Quad, b: Quad) -> Quad {
        a.zip(b, |a, b| f32x4_sub(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: Quad, b: Quad) -> Quad {
        a.zip(b, |a, b| f32x4_mul(a, b))
    }
    #[inline(always)]
    unsafe fn reciprocal(a: Quad) -> Quad {
        a.map(|a| f32x4_div(f32x4_splat(1.0), a))
    }
    /// With one rounding or two: see the head of this file.
    #[inline(always)]
    unsafe fn fma(a: Quad, b: Quad, c: Quad) -> Quad {
        Quad(add_mul(a.0, b.0, c.0), add_mul(a.1, b.1, c.1), add_mul(a.2, b.2, c.2), add_mul(a.3, b.3, c.3))
    }
    // The pseudo-minimum is one instruction everywhere; it differs for NaN and for zeros of two signs only.
    #[inline(always)]
    unsafe fn min(a: Quad, b: Quad) -> Quad {
        a.zip(b, |a, b| f32x4_pmin(a, b))
    }
    #[inline(always)]
    unsafe fn max(a: Quad, b: Quad) -> Quad {
        a.zip(b, |a, b| f32x4_pmax(a, b))
    }
    #[inline(always)]
    unsafe fn round(a: Quad) -> Quad {
        a.map(|a| f32x4_nearest(a))
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: Quad, n: Quad) -> Quad {
        // `2^n` built from its exponent bits.
        let power = |n| i32x4_shl(i32x4_add(whole_number(n), i32x4_splat(127)), 23);
        a.zip(n, |a, n| f32x4_mul(a, power(n)))
    }
    #[inline(always)]
    unsafe fn reduce_add(a: Quad) -> f32 {
        a.fold(|a, b| f32x4_add(a, b))
    }
    #[inline(always)]
    unsafe fn reduce_max(a: Quad) -> f32 {
        a.fold(|a, b| f32x4_pmax(a, b))
    }
}

/// `a * b + c`.
#[cfg(not(target_feature = "relaxed-simd"))]
#[inline(always)]
fn add_mul(a: v128, b: v128, c: v128) -> v128 {
    f32x4_add(f32x4_mul(a, b), c)
}

/// `a * b + c`, fused or not, as the engine likes.
#[cfg(target_feature = "relaxed-simd")]
#[inline(always)]
fn add_mul(a: v128, b: v128, c: v128) -> v128 {
    f32x4_relaxed_madd(a, b, c)
}

/// Small whole numbers as integers.
#[cfg(not(target_feature = "relaxed-simd"))]
#[inline(always)]
fn whole_number(n: v128) -> v128 {
    i32x4_trunc_sat_f32x4(n)
}

/// Small whole numbers as integers: within 32 bits the relaxed conversion is the same on every engine.
#[cfg(target_feature = "relaxed-simd")]
#[inline(always)]
fn whole_number(n: v128) -> v128 {
    i32x4_relaxed_trunc_f32x4(n)
}

/// Four f16 values in 32-bit lanes as f32, exactly.
#[inline(always)]
fn widen_f16(half: v128) -> v128 {
    // With the exponent's bits in their place the value is too small by 2^112: multiplying restores it, and makes
    // denormals normal. Infinity and NaN then still need the largest exponent.
    let magnitude = u32x4_shl(v128_and(half, u32x4_splat(0x7fff)), 13);
    let scaled = f32x4_mul(magnitude, u32x4_splat((127 + 112) << 23));
    let special = u32x4_ge(magnitude, u32x4_splat(0x7c00 << 13));
    let exponent = v128_and(special, u32x4_splat(0xff << 23));
    let sign = u32x4_shl(v128_and(half, u32x4_splat(0x8000)), 16);
    v128_or(v128_or(scaled, exponent), sign)
}

/// Four bf16 values in the upper halves of 32-bit lanes; see the NEON twin.
#[inline(always)]
fn rounded(v: v128) -> v128 {
    let odd = v128_and(u32x4_shr(v, 16), u32x4_splat(1));
    let rounded = u32x4_add(v, u32x4_add(odd, u32x4_splat(0x7fff)));
    let quiet = v128_or(v, u32x4_splat(0x0040_0000));
    v128_bitselect(rounded, quiet, f32x4_eq(v, v))
}
