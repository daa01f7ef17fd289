//! Sixteen lanes in two AVX2 registers. Needs avx2, fma and f16c.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, LANES, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct Pair(__m256, __m256);

// SAFETY of every function: the trait's contract (the CPU has AVX2 and FMA, pointers are valid).
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe impl Simd for Avx2 {
    type F = Pair;
    // 10 accumulators, 2 columns and broadcasts out of 16 registers. With 12 one sum may end up in memory, and all wait
    // for it.
    const TILE_ROWS: usize = 5;
    const TILE_PANELS: usize = 1;
    const CONV_PIXELS: usize = 4;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        unsafe { kernel.on_avx2() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Pair {
        unsafe {
            let v = _mm256_set1_ps(x);
            Pair(v, v)
        }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Pair {
        unsafe { Pair(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Pair) {
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Pair {
        let mut full = [0.0f32; LANES];
        unsafe {
            std::ptr::copy_nonoverlapping(p, full.as_mut_ptr(), n);
            Self::load(full.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, n: usize, v: Pair) {
        let mut full = [0.0f32; LANES];
        unsafe {
            Self::store(full.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(full.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Pair {
        unsafe { Pair(widen_bf16(p), widen_bf16(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: Pair) {
        unsafe {
            let (low, high) = (round_to_bf16(v.0), round_to_bf16(v.1));
            // Packing works within 128-bit halves: put the quarters back in order.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            _mm256_storeu_si256(p.cast(), packed);
        }
    }
    #[inline(always)]
    unsafe fn load_twice(p: *const f32) -> Pair {
        unsafe {
            let eight = _mm256_loadu_ps(p);
            let low = _mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
            let high = _mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
            Pair(low, high)
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_twice(p: *const bf16) -> Pair {
        unsafe {
            // With a zero behind it, a bf16 is the f32 of the same value.
            let eight = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let mut wide = [0.0f32; LANES / 2];
            _mm256_storeu_si256(wide.as_mut_ptr().cast(), _mm256_slli_epi32::<16>(eight));
            Self::load_twice(wide.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const bf16) -> (Pair, Pair) {
        unsafe {
            let low = _mm256_loadu_si256(p.cast());
            let high = _mm256_loadu_si256(p.add(LANES).cast());
            let keep = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let first = Pair(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            );
            let second = Pair(
                _mm256_castsi256_ps(_mm256_and_si256(low, keep)),
                _mm256_castsi256_ps(_mm256_and_si256(high, keep)),
            );
            (first, second)
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_near(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Pair {
        unsafe {
            let half = |p: *const f16| _mm_loadu_si128(p.cast());
            Pair(_mm256_cvtph_ps(half(p)), _mm256_cvtph_ps(half(p.add(8))))
        }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Pair) {
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.0), _mm256_cvtps_epi32(v.1));
            // Packing takes turns between the halves of its operands.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> Pair {
        unsafe {
            let half = |p: *const i32| _mm256_cvtepi32_ps(_mm256_loadu_si256(p.cast()));
            Pair(half(p), half(p.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Pair {
        unsafe {
            let all = _mm_loadu_si128(p.cast());
            let high = _mm_unpackhi_epi64(all, all);
            Pair(
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_nibbles<const SHIFT: u32>(p: *const u32) -> Pair {
        unsafe {
            let to_top = _mm256_set1_epi32(28 - SHIFT as i32);
            let low = _mm256_sllv_epi32(_mm256_loadu_si256(p.cast()), to_top);
            let high = _mm256_sllv_epi32(_mm256_loadu_si256(p.add(8).cast()), to_top);
            Pair(
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<28>(low)),
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<28>(high)),
            )
        }
    }
    #[inline(always)]
    unsafe fn add(a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn sub(a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn mul(a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn reciprocal(a: Pair) -> Pair {
        unsafe { Pair(reciprocal(a.0), reciprocal(a.1)) }
    }
    #[inline(always)]
    unsafe fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { Pair(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    unsafe fn min(a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn max(a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn round(a: Pair) -> Pair {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { Pair(_mm256_round_ps::<NEAREST>(a.0), _mm256_round_ps::<NEAREST>(a.1)) }
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: Pair, n: Pair) -> Pair {
        unsafe { Self::mul(a, Pair(power_of_two(n.0), power_of_two(n.1))) }
    }
    #[inline(always)]
    unsafe fn reduce_add(a: Pair) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(a.0, a.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn reduce_max(a: Pair) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(a.0, a.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

/// Eight bf16 values as f32.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)] // Called from the trait's functions only.
unsafe fn widen_bf16(p: *const bf16) -> __m256 {
    unsafe {
        let half = _mm_loadu_si128(p.cast());
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
    }
}

/// `2^n` built from its exponent bits.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)] // Called from the trait's functions only.
unsafe fn power_of_two(n: __m256) -> __m256 {
    unsafe {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

/// Eight bf16 values in the low halves of 32-bit lanes; see the AVX-512 twin.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)] // Called from the trait's functions only.
unsafe fn round_to_bf16(v: __m256) -> __m256i {
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan))
    }
}

#[inline(always)]
unsafe fn reciprocal(a: __m256) -> __m256 {
    // SAFETY: called with AVX2 only.
    unsafe {
        // Two steps of Newton's method from the 12 bits of the estimate.
        let mut x = _mm256_rcp_ps(a);
        for _ in 0..2 {
            let error = _mm256_fnmadd_ps(a, x, _mm256_set1_ps(1.0));
            x = _mm256_fmadd_ps(x, error, x);
        }
        x
    }
}
