//! Sixteen lanes in four NEON registers, which every 64-bit Arm CPU has. Little endian.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::{Kernel, LANES, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
#[derive(Clone, Copy)]
pub(crate) struct Quad(float32x4_t, float32x4_t, float32x4_t, float32x4_t);

// NEON belongs to the target itself, so closures are compiled for it as well.
impl Quad {
    /// Four registers, each made from the number of its first lane.
    #[inline(always)]
    fn new(f: impl Fn(usize) -> float32x4_t) -> Self {
        Self(f(0), f(4), f(8), f(12))
    }

    #[inline(always)]
    fn map(self, f: impl Fn(float32x4_t) -> float32x4_t) -> Self {
        Self(f(self.0), f(self.1), f(self.2), f(self.3))
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Self(f(self.0, other.0), f(self.1, other.1), f(self.2, other.2), f(self.3, other.3))
    }

    /// All four registers made one.
    #[inline(always)]
    fn fold(self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> float32x4_t {
        f(f(self.0, self.1), f(self.2, self.3))
    }
}

// SAFETY of every function: the trait's contract (pointers are valid); NEON is always there.
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe impl Simd for Neon {
    type F = Quad;
    // 24 accumulators, a panel of 4 and a broadcast out of 32 registers.
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;
    // 16 accumulators, 4 of weights and 4 of input.
    const CONV_PIXELS: usize = 4;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        unsafe { kernel.on_target::<Self>() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Quad {
        let v = unsafe { vdupq_n_f32(x) };
        Quad(v, v, v, v)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Quad {
        Quad::new(|lane| unsafe { vld1q_f32(p.add(lane)) })
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Quad) {
        unsafe {
            vst1q_f32(p, v.0);
            vst1q_f32(p.add(4), v.1);
            vst1q_f32(p.add(8), v.2);
            vst1q_f32(p.add(12), v.3);
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
        Quad::new(|lane| unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.add(lane).cast()))) })
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: Quad) {
        unsafe {
            let narrow = |low, high| {
                // The upper halves of eight words.
                vuzp2q_u16(vreinterpretq_u16_u32(rounded(low)), vreinterpretq_u16_u32(rounded(high)))
            };
            vst1q_u16(p.cast(), narrow(v.0, v.1));
            vst1q_u16(p.add(8).cast(), narrow(v.2, v.3));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const bf16) -> (Quad, Quad) {
        let words = |lane: usize| unsafe { vld1q_u32(p.add(2 * lane).cast()) };
        let first = |lane| unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(words(lane))) };
        let second =
            |lane| unsafe { vreinterpretq_f32_u32(vandq_u32(words(lane), vdupq_n_u32(0xffff_0000))) };
        (Quad::new(first), Quad::new(second))
    }
    #[inline(always)]
    unsafe fn store_bf16_pairs(p: *mut bf16, a: Quad, b: Quad) {
        unsafe {
            // Shift `a` down and keep the upper half of `b`.
            let pairs = |a, b| vsriq_n_u32::<16>(rounded(b), rounded(a));
            vst1q_u32(p.cast(), pairs(a.0, b.0));
            vst1q_u32(p.add(8).cast(), pairs(a.1, b.1));
            vst1q_u32(p.add(16).cast(), pairs(a.2, b.2));
            vst1q_u32(p.add(24).cast(), pairs(a.3, b.3));
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // The intrinsic is not stable. The instruction never faults and changes nothing that can be seen.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{}]", in(reg) p.addr(), options(nomem, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Quad {
        Quad::new(|lane| unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p.add(lane).cast()))) })
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Quad) {
        unsafe {
            let words =
                |low, high| vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(low)), vqmovn_s32(vcvtnq_s32_f32(high)));
            vst1q_s8(p, vcombine_s8(vqmovn_s16(words(v.0, v.1)), vqmovn_s16(words(v.2, v.3))));
        }
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> Quad {
        Quad::new(|lane| unsafe { vcvtq_f32_s32(vld1q_s32(p.add(lane))) })
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Quad {
        unsafe {
            let bytes = vld1q_s8(p);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            Quad(
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_nibbles<const SHIFT: u32>(p: *const u32) -> Quad {
        Quad::new(|lane| unsafe {
            let word = vld1q_s32(p.add(lane).cast());
            let at_top = vshlq_s32(word, vdupq_n_s32(28 - SHIFT as i32));
            vcvtq_f32_s32(vshrq_n_s32::<28>(at_top))
        })
    }
    #[inline(always)]
    unsafe fn add(a: Quad, b: Quad) -> Quad {
        a.zip(b, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn sub(a: Quad, b: Quad) -> Quad {
        a.zip(b, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn mul(a: Quad, b: Quad) -> Quad {
        a.zip(b, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn reciprocal(a: Quad) -> Quad {
        // The estimate has 8 bits only: three steps of Newton's method take as long as a division.
        a.map(|a| unsafe { vdivq_f32(vdupq_n_f32(1.0), a) })
    }
    #[inline(always)]
    unsafe fn fma(a: Quad, b: Quad, c: Quad) -> Quad {
        let fma = |a, b, c| unsafe { vfmaq_f32(c, a, b) };
        Quad(fma(a.0, b.0, c.0), fma(a.1, b.1, c.1), fma(a.2, b.2, c.2), fma(a.3, b.3, c.3))
    }
    #[inline(always)]
    unsafe fn min(a: Quad, b: Quad) -> Quad {
        a.zip(b, |a, b| unsafe { vminq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn max(a: Quad, b: Quad) -> Quad {
        a.zip(b, |a, b| unsafe { vmaxq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn round(a: Quad) -> Quad {
        a.map(|a| unsafe { vrndnq_f32(a) })
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: Quad, n: Quad) -> Quad {
        a.zip(n, |a, n| unsafe {
            // `2^n` built from its exponent bits.
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased)))
        })
    }
    #[inline(always)]
    unsafe fn reduce_add(a: Quad) -> f32 {
        unsafe { vaddvq_f32(a.fold(|a, b| vaddq_f32(a, b))) }
    }
    #[inline(always)]
    unsafe fn reduce_max(a: Quad) -> f32 {
        unsafe { vmaxvq_f32(a.fold(|a, b| vmaxq_f32(a, b))) }
    }
}

/// Four bf16 values in the upper halves of 32-bit lanes, rounded to nearest, ties to even; the lower halves
/// are arbitrary.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)] // NEON is always there.
fn rounded(v: float32x4_t) -> uint32x4_t {
    unsafe {
        // Add half of the dropped part, and one more if the kept part is odd.
        let bits = vreinterpretq_u32_f32(v);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        // Rounding must not carry a NaN into infinity.
        let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
        vbslq_u32(vceqq_f32(v, v), rounded, quiet)
    }
}
