//! AVX2 with F16C, and AVX-512: `vcvtph2ps` and FMA.
//!
//! The loops are written once over [`Lanes`]; functions with `target_feature` make them for each set.

use std::arch::x86_64::*;

use half::f16;

/// A register of f32 numbers. Every function needs the CPU to have the set, and valid pointers.
trait Lanes {
    type V: Copy;
    const WIDTH: usize;
    unsafe fn zero() -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn load_f16(p: *const f16) -> Self::V;
    /// The first `n < WIDTH` numbers, then zeros.
    unsafe fn load_some(p: *const f32, n: usize) -> Self::V;
    unsafe fn load_some_f16(p: *const f16, n: usize) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn sum(v: Self::V) -> f32;
}

struct Avx2;

// SAFETY of every block: the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx2 {
    type V = __m256;
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_some(p: *const f32, n: usize) -> __m256 {
        let mut padded = [0.0_f32; 8];
        unsafe {
            std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), n);
            Self::load(padded.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn load_some_f16(p: *const f16, n: usize) -> __m256 {
        let mut padded = [f16::ZERO; 8];
        unsafe {
            std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), n);
            Self::load_f16(padded.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

struct Avx512;

// SAFETY of every block: the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx512 {
    type V = __m512;
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_some(p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps((1_u16 << n) - 1, p) }
    }
    #[inline(always)]
    unsafe fn load_some_f16(p: *const f16, n: usize) -> __m512 {
        unsafe {
            let bits = _mm512_maskz_loadu_epi16((1_u32 << n) - 1, p.cast());
            _mm512_cvtph_ps(_mm512_castsi512_si256(bits))
        }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }
}

/// `Q` queries with `R` rows, one accumulator each. `out` is `[Q, ..]` with `stride` numbers a query.
///
/// # Safety
/// `queries` holds `Q * dim` numbers, `rows` `R * dim`, `out` `(Q - 1) * stride + R`; the CPU has `L`.
#[inline(always)]
unsafe fn tile<L: Lanes, const Q: usize, const R: usize>(
    dim: usize,
    queries: *const f32,
    rows: *const f16,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: every offset is below the lengths that the caller guarantees.
    unsafe {
        let mut sums = [[L::zero(); R]; Q];
        let whole = dim - dim % L::WIDTH;
        let mut at = 0;
        while at < whole {
            let row: [L::V; R] = std::array::from_fn(|r| L::load_f16(rows.add(r * dim + at)));
            for q in 0..Q {
                let query = L::load(queries.add(q * dim + at));
                for r in 0..R {
                    sums[q][r] = L::fma(row[r], query, sums[q][r]);
                }
            }
            at += L::WIDTH;
        }
        if at < dim {
            for q in 0..Q {
                let query = L::load_some(queries.add(q * dim + at), dim - at);
                for r in 0..R {
                    let row = L::load_some_f16(rows.add(r * dim + at), dim - at);
                    sums[q][r] = L::fma(row, query, sums[q][r]);
                }
            }
        }
        for q in 0..Q {
            for r in 0..R {
                *out.add(q * stride + r) = L::sum(sums[q][r]);
            }
        }
    }
}

/// Eight rows at a time: enough sums in flight to hide the latency of FMA, and eight streams of memory.
///
/// # Safety
/// `rows` is `[out.len(), query.len()]`; the CPU has `L`.
#[inline(always)]
unsafe fn dots<L: Lanes>(query: &[f32], rows: &[f16], out: &mut [f32]) {
    let (dim, count) = (query.len(), out.len());
    // SAFETY: row `r` is below `count`, so its numbers are inside of `rows`.
    unsafe {
        let mut r = 0;
        while r + 8 <= count {
            tile::<L, 1, 8>(dim, query.as_ptr(), rows.as_ptr().add(r * dim), out.as_mut_ptr().add(r), 0);
            r += 8;
        }
        while r < count {
            tile::<L, 1, 1>(dim, query.as_ptr(), rows.as_ptr().add(r * dim), out.as_mut_ptr().add(r), 0);
            r += 1;
        }
    }
}

/// Tiles of `Q` queries and 2 rows; what is left over goes one by one.
///
/// # Safety
/// `out` is `[queries, rows]`; the CPU has `L`.
#[inline(always)]
unsafe fn products<L: Lanes, const Q: usize>(dim: usize, queries: &[f32], rows: &[f16], out: &mut [f32]) {
    let (query_count, row_count) = (queries.len() / dim, rows.len() / dim);
    let at = |q: usize, r: usize| (q * dim, r * dim, q * row_count + r);
    // SAFETY: `q` and `r` stay below the counts, so all offsets are inside of the slices.
    unsafe {
        let mut r = 0;
        while r < row_count {
            let pair = r + 2 <= row_count;
            let mut q = 0;
            while q < query_count {
                let (query, row, to) = at(q, r);
                let (query, row) = (queries.as_ptr().add(query), rows.as_ptr().add(row));
                let to = out.as_mut_ptr().add(to);
                let many = q + Q <= query_count;
                match (many, pair) {
                    (true, true) => tile::<L, Q, 2>(dim, query, row, to, row_count),
                    (true, false) => tile::<L, Q, 1>(dim, query, row, to, row_count),
                    (false, true) => tile::<L, 1, 2>(dim, query, row, to, row_count),
                    (false, false) => tile::<L, 1, 1>(dim, query, row, to, row_count),
                }
                q += if many { Q } else { 1 };
            }
            r += if pair { 2 } else { 1 };
        }
    }
}

/// # Safety
/// As long as each other; the CPU has `L`.
#[inline(always)]
unsafe fn pair<L: Lanes>(a: &[f16], b: &[f16]) -> f32 {
    let (dim, a, b) = (a.len(), a.as_ptr(), b.as_ptr());
    // SAFETY: all offsets are below `dim`.
    unsafe {
        let mut sums = [L::zero(); 4];
        let mut at = 0;
        while at + 4 * L::WIDTH <= dim {
            for i in 0..4 {
                let at = at + i * L::WIDTH;
                sums[i] = L::fma(L::load_f16(a.add(at)), L::load_f16(b.add(at)), sums[i]);
            }
            at += 4 * L::WIDTH;
        }
        while at + L::WIDTH <= dim {
            sums[0] = L::fma(L::load_f16(a.add(at)), L::load_f16(b.add(at)), sums[0]);
            at += L::WIDTH;
        }
        if at < dim {
            let (a, b) = (L::load_some_f16(a.add(at), dim - at), L::load_some_f16(b.add(at), dim - at));
            sums[1] = L::fma(a, b, sums[1]);
        }
        (L::sum(sums[0]) + L::sum(sums[1])) + (L::sum(sums[2]) + L::sum(sums[3]))
    }
}

/// # Safety
/// `rows` is `[out.len(), query.len()]`; the CPU has AVX2, F16C and FMA.
#[target_feature(enable = "avx2,f16c,fma")]
pub(super) unsafe fn dots_avx2(query: &[f32], rows: &[f16], out: &mut [f32]) {
    // SAFETY: as this function's.
    unsafe { dots::<Avx2>(query, rows, out) }
}

/// # Safety
/// `rows` is `[out.len(), query.len()]`; the CPU has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn dots_avx512(query: &[f32], rows: &[f16], out: &mut [f32]) {
    // SAFETY: as this function's.
    unsafe { dots::<Avx512>(query, rows, out) }
}

/// # Safety
/// `out` is `[queries, rows]`; the CPU has AVX2, F16C and FMA.
#[target_feature(enable = "avx2,f16c,fma")]
pub(super) unsafe fn products_avx2(dim: usize, queries: &[f32], rows: &[f16], out: &mut [f32]) {
    // 8 sums, 2 rows and a query out of 16 registers.
    // SAFETY: as this function's.
    unsafe { products::<Avx2, 4>(dim, queries, rows, out) }
}

/// # Safety
/// `out` is `[queries, rows]`; the CPU has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn products_avx512(dim: usize, queries: &[f32], rows: &[f16], out: &mut [f32]) {
    // 16 sums, 2 rows and a query out of 32 registers.
    // SAFETY: as this function's.
    unsafe { products::<Avx512, 8>(dim, queries, rows, out) }
}

/// # Safety
/// As long as each other; the CPU has AVX2, F16C and FMA.
#[target_feature(enable = "avx2,f16c,fma")]
pub(super) unsafe fn pair_avx2(a: &[f16], b: &[f16]) -> f32 {
    // SAFETY: as this function's.
    unsafe { pair::<Avx2>(a, b) }
}

/// # Safety
/// As long as each other; the CPU has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pair_avx512(a: &[f16], b: &[f16]) -> f32 {
    // SAFETY: as this function's.
    unsafe { pair::<Avx512>(a, b) }
}

/// # Safety
/// `rows` is `[out.len(), query.len()]`; the CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn dots_i8_avx2(query: &[i16], rows: &[i8], out: &mut [i32]) {
    let dim = query.len();
    let whole = dim - dim % 16;
    for (row, out) in rows.chunks_exact(dim.max(1)).zip(out) {
        let mut sum = _mm256_setzero_si256();
        for at in (0..whole).step_by(16) {
            // SAFETY: `at + 16 <= dim`, the length of both.
            let (r, q) = unsafe {
                (
                    _mm_loadu_si128(row.as_ptr().add(at).cast()),
                    _mm256_loadu_si256(query.as_ptr().add(at).cast()),
                )
            };
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepi8_epi16(r), q));
        }
        let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
        *out = _mm_cvtsi128_si32(one) + rest_i8(&query[whole..], &row[whole..]);
    }
}

/// # Safety
/// `rows` is `[out.len(), query.len()]`; the CPU has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn dots_i8_avx512(query: &[i16], rows: &[i8], out: &mut [i32]) {
    let dim = query.len();
    let whole = dim - dim % 32;
    for (row, out) in rows.chunks_exact(dim.max(1)).zip(out) {
        let mut sum = _mm512_setzero_si512();
        for at in (0..whole).step_by(32) {
            // SAFETY: `at + 32 <= dim`, the length of both.
            let (r, q) = unsafe {
                (
                    _mm256_loadu_si256(row.as_ptr().add(at).cast()),
                    _mm512_loadu_si512(query.as_ptr().add(at).cast()),
                )
            };
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_cvtepi8_epi16(r), q));
        }
        *out = _mm512_reduce_add_epi32(sum) + rest_i8(&query[whole..], &row[whole..]);
    }
}

/// # Safety
/// As long as each other; the CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn pair_i8_avx2(a: &[i8], b: &[i8]) -> i32 {
    let whole = a.len() - a.len() % 16;
    let mut sum = _mm256_setzero_si256();
    for at in (0..whole).step_by(16) {
        // SAFETY: `at + 16` is at most the length of both.
        let (a, b) = unsafe {
            (_mm_loadu_si128(a.as_ptr().add(at).cast()), _mm_loadu_si128(b.as_ptr().add(at).cast()))
        };
        let products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(a), _mm256_cvtepi8_epi16(b));
        sum = _mm256_add_epi32(sum, products);
    }
    let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    _mm_cvtsi128_si32(one) + rest_pair_i8(&a[whole..], &b[whole..])
}

/// # Safety
/// As long as each other; the CPU has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pair_i8_avx512(a: &[i8], b: &[i8]) -> i32 {
    let whole = a.len() - a.len() % 32;
    let mut sum = _mm512_setzero_si512();
    for at in (0..whole).step_by(32) {
        // SAFETY: `at + 32` is at most the length of both.
        let (a, b) = unsafe {
            (_mm256_loadu_si256(a.as_ptr().add(at).cast()), _mm256_loadu_si256(b.as_ptr().add(at).cast()))
        };
        let products = _mm512_madd_epi16(_mm512_cvtepi8_epi16(a), _mm512_cvtepi8_epi16(b));
        sum = _mm512_add_epi32(sum, products);
    }
    _mm512_reduce_add_epi32(sum) + rest_pair_i8(&a[whole..], &b[whole..])
}

fn rest_pair_i8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

fn rest_i8(query: &[i16], row: &[i8]) -> i32 {
    row.iter().zip(query).map(|(&r, &q)| i32::from(r) * i32::from(q)).sum()
}
