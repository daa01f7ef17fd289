//! Sixteen lanes in one AVX-512 register. Needs avx512f, bw, vl and dq; the bf16 extension is optional.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Simd};

/// `BF16`: with the instruction of avx512_bf16 that rounds.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>;

// SAFETY of every function: the trait's contract (the CPU has AVX-512, pointers are valid).
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;
    // 24 accumulators, 4 panels and a broadcast out of 32 registers. With 12 rows by 2 panels the compiler loads the
    // broadcasts of two `k` at once, and has no registers for them: half as quick.
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 4;
    const CONV_PIXELS: usize = 16;
    const BF16_PRODUCTS: bool = BF16;
    const LOOKS_UP: bool = true;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        unsafe { if BF16 { kernel.on_avx512_bf16() } else { kernel.on_avx512() } }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(mask(n), p) }
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, n: usize, v: __m512) {
        unsafe { _mm512_mask_storeu_ps(p, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> __m512 {
        unsafe {
            let half = _mm256_loadu_si256(p.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: __m512) {
        unsafe { _mm256_storeu_si256(p.cast(), to_bf16::<BF16>(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16_partial(p: *const bf16, n: usize) -> __m512 {
        unsafe {
            let half = _mm256_maskz_loadu_epi16(mask(n), p.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_partial(p: *mut bf16, n: usize, v: __m512) {
        unsafe { _mm256_mask_storeu_epi16(p.cast(), mask(n), to_bf16::<BF16>(v)) }
    }
    #[inline(always)]
    unsafe fn load_twice(p: *const f32) -> __m512 {
        unsafe {
            let lanes = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            _mm512_permutexvar_ps(lanes, _mm512_castps256_ps512(_mm256_loadu_ps(p)))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_twice(p: *const bf16) -> __m512 {
        unsafe {
            let words = _mm512_cvtepu16_epi32(twice(p));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const bf16) -> (__m512, __m512) {
        unsafe {
            let both = _mm512_loadu_si512(p.cast());
            let first = _mm512_slli_epi32::<16>(both);
            let second = _mm512_and_si512(both, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (_mm512_castsi512_ps(first), _mm512_castsi512_ps(second))
        }
    }
    #[inline(always)]
    unsafe fn load_twelve_bits(p: *const u8, table: __m512) -> [__m512; 4] {
        unsafe {
            let a = _mm512_loadu_si512(p.cast());
            let b = _mm512_loadu_si512(p.add(64).cast());
            let c = _mm512_loadu_si512(p.add(128).cast());
            let low = _mm512_srli_epi16::<12>(a);
            let middle = and_or(_mm512_srli_epi16::<8>(b), 0xf0, low);
            let fourth = and_or(_mm512_srli_epi16::<4>(c), 0xf00, middle);
            [
                expand_twelve_bits(a, table),
                expand_twelve_bits(b, table),
                expand_twelve_bits(c, table),
                expand_twelve_bits(fourth, table),
            ]
        }
    }
    #[inline(always)]
    unsafe fn add_bf16_pairs(sum: __m512, a: __m512, b: __m512) -> __m512 {
        if !BF16 {
            unreachable!("rows are staged in bf16 for CPUs that multiply it");
        }
        unsafe {
            let [a, b] = [a, b].map(|v| std::mem::transmute::<__m512, __m512bh>(v));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_pairs(p: *mut bf16, a: __m512, b: __m512) {
        unsafe {
            if BF16 {
                // Word `16 h + i` of the rounded ones goes to word `2 i + h`.
                let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
                let low = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let words = _mm512_or_si512(
                    low,
                    _mm512_slli_epi32::<16>(_mm512_add_epi32(low, _mm512_set1_epi32(16))),
                );
                return _mm512_storeu_si512(p.cast(), _mm512_permutexvar_epi16(words, both));
            }
            let (low, high) = (to_bf16::<BF16>(a), to_bf16::<BF16>(b));
            let low = _mm512_cvtepu16_epi32(low);
            let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
            _mm512_storeu_si512(p.cast(), _mm512_or_si512(low, high));
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_line(p: *mut bf16, a: __m512, b: __m512) {
        unsafe {
            if BF16 {
                let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
                return _mm512_storeu_si512(p.cast(), both);
            }
            Self::store_bf16(p, a);
            Self::store_bf16(p.add(16), b);
        }
    }
    #[inline(always)]
    unsafe fn bf16_pairs(a: __m512, b: __m512) -> __m512 {
        unsafe {
            let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(a));
            _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_castps_si512(b)))
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
    unsafe fn load_f16(p: *const f16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: __m512) {
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v))) }
    }
    #[inline(always)]
    unsafe fn interleave_bytes(p: *const u8, flip: u32, to: *mut [u32; 16]) {
        unsafe {
            // Four bytes of each row to each quarter, then their transpose in it.
            let quarters = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let transpose = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let v = _mm512_permutexvar_epi32(quarters, _mm512_loadu_si512(p.cast()));
            let v = _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(transpose));
            _mm512_storeu_si512(to.cast(), _mm512_xor_si512(v, _mm512_set1_epi32(flip as i32)));
        }
    }
    #[inline(always)]
    unsafe fn largest_bf16(p: *const bf16, n: usize) -> f32 {
        // Magnitudes are ordered like the integers of their bits.
        unsafe {
            let magnitude = _mm512_set1_epi16(0x7fff);
            let mut most = [_mm512_setzero_si512(); 2];
            let mut c = 0;
            while c + 64 <= n {
                let (a, b) = (_mm512_loadu_si512(p.add(c).cast()), _mm512_loadu_si512(p.add(c + 32).cast()));
                most[0] = _mm512_max_epu16(most[0], _mm512_and_si512(a, magnitude));
                most[1] = _mm512_max_epu16(most[1], _mm512_and_si512(b, magnitude));
                c += 64;
            }
            while c < n {
                let some = ((1u64 << 32.min(n - c)) - 1) as __mmask32;
                let a = _mm512_maskz_loadu_epi16(some, p.add(c).cast());
                most[0] = _mm512_max_epu16(most[0], _mm512_and_si512(a, magnitude));
                c += 32;
            }
            let most = _mm512_max_epu16(most[0], most[1]);
            let half = _mm256_max_epu16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64::<1>(most));
            let half = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
            // The largest is the complement of the smallest complement.
            let least = _mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi16(-1)));
            f32::from_bits(u32::from(!(_mm_cvtsi128_si32(least) as u16)) << 16)
        }
    }
    #[inline(always)]
    unsafe fn store_codes_bf16(p: *const bf16, factor: __m512, to: *mut i8) {
        unsafe {
            let both = _mm512_loadu_si512(p.cast());
            let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(both));
            let odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
            let even = _mm512_cvtps_epi32(_mm512_mul_ps(even, factor));
            let odd = _mm512_cvtps_epi32(_mm512_mul_ps(odd, factor));
            // Even ones in the lower halves, odd ones in the upper.
            let words = _mm512_mask_blend_epi16(0xaaaa_aaaa, even, _mm512_slli_epi32::<16>(odd));
            _mm256_storeu_si256(to.cast(), _mm512_cvtsepi16_epi8(words));
        }
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_nibbles<const SHIFT: u32>(p: *const u32) -> __m512 {
        unsafe {
            // The lookup reads only the lowest four bits of each lane.
            let values = _mm512_setr_ps(
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0,
            );
            let words = _mm512_loadu_si512(p.cast());
            _mm512_permutexvar_ps(_mm512_srli_epi32::<SHIFT>(words), values)
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn reciprocal(a: __m512) -> __m512 {
        unsafe {
            // One step of Newton's method doubles the 14 bits of the estimate.
            let x = _mm512_rcp14_ps(a);
            let error = _mm512_fnmadd_ps(a, x, _mm512_set1_ps(1.0));
            _mm512_fmadd_ps(x, error, x)
        }
    }
    #[inline(always)]
    unsafe fn reciprocal_bf16(a: __m512) -> __m512 {
        unsafe { _mm512_rcp14_ps(a) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn magnitude_up_to(a: __m512, most: __m512) -> __m512 {
        // The smaller of the magnitudes, without a sign.
        unsafe { _mm512_range_ps::<0b1010>(a, most) }
    }
    #[inline(always)]
    unsafe fn look_up_quarters(x: __m512, tables: &[[f32; 32]; 3]) -> [__m512; 3] {
        // So large a number ends with a quarter, and has zero in the five bits that look-ups take.
        const QUARTERS: f32 = 3.0 * (1 << 20) as f32;
        const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
        unsafe {
            // The smaller of the magnitudes, with the sign of `x`: below 4.
            let x = _mm512_range_ps::<0b0010>(x, _mm512_set1_ps(4.0_f32.next_down()));
            let piece = _mm512_castps_si512(_mm512_add_round_ps::<DOWN>(x, _mm512_set1_ps(QUARTERS)));
            [look_up(&tables[0], piece), look_up(&tables[1], piece), look_up(&tables[2], piece)]
        }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    unsafe fn reduce_add(a: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    unsafe fn reduce_max(a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
}

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// What a table has at the places that the lowest five bits of each lane say.
#[inline(always)]
unsafe fn look_up(table: &[f32; 32], places: __m512i) -> __m512 {
    // SAFETY: called with AVX-512 only; a table has two vectors.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(table.as_ptr()), _mm512_loadu_ps(table.as_ptr().add(16)));
        _mm512_permutex2var_ps(low, places, high)
    }
}

/// Round to the nearest bf16, ties to even: the same bits as the instruction of avx512_bf16, but for
/// denormals, which that one flushes.
#[inline(always)]
unsafe fn to_bf16<const BF16: bool>(v: __m512) -> __m256i {
    // SAFETY: called with AVX-512 only, and with its bf16 extension if `BF16`.
    unsafe {
        if BF16 {
            return std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
        }
        // Add half of the dropped part, and one more if the kept part is odd.
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        // Rounding must not carry a NaN into infinity.
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
        let kept = _mm512_mask_blend_epi32(is_nan, rounded, quiet);
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(kept))
    }
}

/// Eight values, each twice.
#[inline(always)]
unsafe fn twice(p: *const bf16) -> __m256i {
    // SAFETY: the caller promises eight readable values and the instruction set.
    unsafe {
        let eight = _mm_loadu_si128(p.cast());
        _mm256_set_m128i(_mm_unpackhi_epi16(eight, eight), _mm_unpacklo_epi16(eight, eight))
    }
}

/// `a & mask | b` in 32 words.
#[inline(always)]
unsafe fn and_or(a: __m512i, mask: i16, b: __m512i) -> __m512i {
    // SAFETY: called with AVX-512 only.
    unsafe { _mm512_ternarylogic_epi32::<0xea>(a, _mm512_set1_epi16(mask), b) }
}

/// 32 bf16 from the lower twelve bits of words: the mantissa above the place in a table of signs and exponents.
#[inline(always)]
unsafe fn expand_twelve_bits(words: __m512i, table: __m512) -> __m512 {
    // SAFETY: called with AVX-512 only.
    unsafe {
        // Of an index the instruction takes five bits, and leaves the others out.
        let exponents = _mm512_permutexvar_epi16(words, _mm512_castps_si512(table));
        _mm512_castsi512_ps(and_or(_mm512_srli_epi16::<5>(words), 0x7f, exponents))
    }
}
