//! Sums of products of 8-bit codes, a block of rows by two panels, on whatever the CPU has for them.
//!
//! All give the same integers. AMX has a file of its own, [`super::amx_tiles`].

use super::block_walk::BLOCK;
use super::int8::TILE_K;
#[cfg(target_arch = "x86_64")]
use super::int8::corrections;
use crate::Isa;
use crate::simd::LANES;

/// What multiplies codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Tiles; Linux only.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 with dot products of unsigned by signed bytes: activations are shifted by 128.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// The same dot products in vectors of AVX2, which newer small CPUs have.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// Bytes widened to 16 bits: products of bytes in pairs would saturate.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON with dot products of signed bytes.
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Dot,
    /// NEON: products in 16 bits, added in pairs.
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon,
    /// WebAssembly: bytes widened to 16 bits.
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Wasm,
    /// Plain loops.
    #[allow(dead_code, reason = "only where there is nothing else")]
    Plain,
}

/// Whether there are dot products of bytes in vectors of AVX-512.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_vnni(isa: Isa) -> bool {
    matches!(isa, Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512) && is_x86_feature_detected!("avx512vnni")
}

impl Unit {
    /// Whether it is AMX.
    pub(super) fn is_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Amx;
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// Whether it takes codes of activations shifted by 128.
    pub(super) fn is_shifted(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Self::Vnni | Self::AvxVnni);
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// The best that the CPU has, among what `isa` allows.
    pub(super) fn of(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if super::amx::has_int8() => Self::Amx,
            #[cfg(target_arch = "x86_64")]
            _ if has_vnni(isa) => Self::Vnni,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 if is_x86_feature_detected!("avxvnni") => {
                Self::AvxVnni
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => Self::Avx2,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon if std::arch::is_aarch64_feature_detected!("dotprod") => Self::Dot,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon => Self::Neon,
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Wasm => Self::Wasm,
            Isa::Scalar => Self::Plain,
        }
    }
}

/// `to[rows][32] = a b` with `b` in two panels of `steps` operand tiles. Rows behind the last may be written too, as
/// far as a block has them.
///
/// # Safety
/// `a` is readable for a whole block of rows and aligned to lines, the panels for their tiles; `to` has room for a
/// block; the CPU has what `unit` says, and it is not AMX.
#[inline(always)]
pub(super) unsafe fn sums(
    unit: Unit,
    a: *const i8,
    stride: usize,
    rows: usize,
    b: [*const i8; 2],
    steps: usize,
    to: *mut i32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match unit {
            #[cfg(target_arch = "x86_64")]
            Unit::Vnni => vnni(a.cast(), stride, rows, b, steps, to),
            #[cfg(target_arch = "x86_64")]
            Unit::AvxVnni => avx_vnni(a.cast(), stride, rows, b, steps, to),
            #[cfg(target_arch = "x86_64")]
            Unit::Avx2 => avx2(a, stride, rows, b, steps, to),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Unit::Dot => super::int8_neon::dot(a, stride, rows, b, steps, to),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Unit::Neon => super::int8_neon::widened(a, stride, rows, b, steps, to),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Unit::Wasm => super::int8_wasm::sums(a, stride, rows, b, steps, to),
            _ => plain(a, stride, rows, b, steps, to),
        }
    }
}

/// The specification of the others.
unsafe fn plain(a: *const i8, stride: usize, rows: usize, b: [*const i8; 2], steps: usize, to: *mut i32) {
    for row in 0..rows {
        for col in 0..2 * LANES {
            let mut sum = 0;
            for k in 0..steps * TILE_K {
                // SAFETY: the caller's promise.
                unsafe {
                    let (panel, lane) = (b[col / LANES], col % LANES);
                    let weight = *panel.add((k / 4 * LANES + lane) * 4 + k % 4);
                    sum += i32::from(*a.add(row * stride + k)) * i32::from(weight);
                }
            }
            // SAFETY: the caller's promise.
            unsafe { *to.add(row * BLOCK + col) = sum };
        }
    }
}

/// Eight rows at a time: sixteen chains hide the latency of the dot products.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn vnni(a: *const u8, stride: usize, rows: usize, b: [*const i8; 2], steps: usize, to: *mut i32) {
    let mut row = 0;
    while row < rows {
        // SAFETY: a block has a multiple of eight rows.
        row += unsafe {
            let (a, to) = (a.add(row * stride), to.add(row * BLOCK));
            match rows - row {
                1 => vnni_rows::<1>(a, stride, b, steps, to),
                2..=4 => vnni_rows::<4>(a, stride, b, steps, to),
                _ => vnni_rows::<8>(a, stride, b, steps, to),
            }
        };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn vnni_rows<const MR: usize>(
    a: *const u8,
    stride: usize,
    b: [*const i8; 2],
    steps: usize,
    to: *mut i32,
) -> usize {
    use std::arch::x86_64::{
        _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_storeu_si512,
    };
    // SAFETY: the caller's promise: `MR` rows, two panels.
    unsafe {
        let start = |panel| _mm512_loadu_si512(corrections(panel, steps).cast());
        let first = [start(b[0]), start(b[1])];
        let mut sums = [first; MR];
        for quad in 0..steps * TILE_K / 4 {
            let at = quad * 4 * LANES;
            let (c0, c1) = (_mm512_loadu_si512(b[0].add(at).cast()), _mm512_loadu_si512(b[1].add(at).cast()));
            for i in 0..MR {
                let x = _mm512_set1_epi32(*a.add(i * stride + 4 * quad).cast::<i32>());
                sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], x, c0);
                sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], x, c1);
            }
        }
        for i in 0..MR {
            _mm512_storeu_si512(to.add(i * BLOCK).cast(), sums[i][0]);
            _mm512_storeu_si512(to.add(i * BLOCK + LANES).cast(), sums[i][1]);
        }
    }
    MR
}

/// A panel after the other, six rows at a time: twelve chains and the panel's two columns of eight in sixteen registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn avx_vnni(a: *const u8, stride: usize, rows: usize, b: [*const i8; 2], steps: usize, to: *mut i32) {
    for (p, panel) in b.into_iter().enumerate() {
        let mut row = 0;
        while row < rows {
            // SAFETY: behind the fifth six a block has two rows.
            row += unsafe {
                let (a, to) = (a.add(row * stride), to.add(row * BLOCK + p * LANES));
                match rows - row {
                    1 => avx_vnni_rows::<1>(a, stride, panel, steps, to),
                    2 => avx_vnni_rows::<2>(a, stride, panel, steps, to),
                    _ => avx_vnni_rows::<6>(a, stride, panel, steps, to),
                }
            };
        }
    }
}

/// A register has eight columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn avx_vnni_rows<const MR: usize>(
    a: *const u8,
    stride: usize,
    panel: *const i8,
    steps: usize,
    to: *mut i32,
) -> usize {
    use std::arch::x86_64::{
        _mm256_dpbusd_avx_epi32, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_storeu_si256,
    };
    const EIGHT: usize = LANES / 2;
    // SAFETY: the caller's promise: `MR` rows, one panel.
    unsafe {
        let start = corrections(panel, steps);
        let first = [_mm256_loadu_si256(start.cast()), _mm256_loadu_si256(start.add(EIGHT).cast())];
        let mut sums = [first; MR];
        for quad in 0..steps * TILE_K / 4 {
            let at = panel.add(quad * LANES * 4);
            let columns = [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(EIGHT * 4).cast())];
            for i in 0..MR {
                let x = _mm256_set1_epi32(*a.add(i * stride + 4 * quad).cast::<i32>());
                for c in 0..2 {
                    sums[i][c] = _mm256_dpbusd_avx_epi32(sums[i][c], x, columns[c]);
                }
            }
        }
        for i in 0..MR {
            for c in 0..2 {
                _mm256_storeu_si256(to.add(i * BLOCK + c * EIGHT).cast(), sums[i][c]);
            }
        }
    }
    MR
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(a: *const i8, stride: usize, rows: usize, b: [*const i8; 2], steps: usize, to: *mut i32) {
    for (p, panel) in b.into_iter().enumerate() {
        let mut row = 0;
        while row < rows {
            // SAFETY: a block has an even number of rows.
            row += unsafe {
                let (a, to) = (a.add(row * stride), to.add(row * BLOCK + p * LANES));
                if row + 1 == rows {
                    avx2_rows::<1>(a, stride, panel, steps, to)
                } else {
                    avx2_rows::<2>(a, stride, panel, steps, to)
                }
            };
        }
    }
}

/// A register has four columns, two sums of pairs of `k` each.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2_rows<const MR: usize>(
    a: *const i8,
    stride: usize,
    panel: *const i8,
    steps: usize,
    to: *mut i32,
) -> usize {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise: `MR` rows, one panel.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 4]; MR];
        for quad in 0..steps * TILE_K / 4 {
            let mut x = [_mm256_setzero_si256(); MR];
            for i in 0..MR {
                let four = *a.add(i * stride + 4 * quad).cast::<i32>();
                x[i] = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
            }
            for c in 0..4 {
                let columns = _mm_loadu_si128(panel.add((quad * LANES + 4 * c) * 4).cast());
                let columns = _mm256_cvtepi8_epi16(columns);
                for i in 0..MR {
                    sums[i][c] = _mm256_add_epi32(sums[i][c], _mm256_madd_epi16(x[i], columns));
                }
            }
        }
        for i in 0..MR {
            for pair in 0..2 {
                // Columns 0 1 4 5 of eight, then 2 3 6 7.
                let eight = _mm256_hadd_epi32(sums[i][2 * pair], sums[i][2 * pair + 1]);
                let eight = _mm256_permute4x64_epi64::<0b11_01_10_00>(eight);
                _mm256_storeu_si256(to.add(i * BLOCK + 8 * pair).cast(), eight);
            }
        }
    }
    MR
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::int8::{pack_panel, panel_bytes};

    /// SplitMix64's upper byte.
    fn random(state: &mut u64) -> i8 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 56) as i8
    }

    /// Codes over the whole range of a byte, even those that no encoder of ours writes.
    #[test]
    fn every_unit_has_the_same_integers() {
        let mut state = 1;
        for k in [1, 3, 4, 63, 64, 65, 127, 200, 1000] {
            let row_bytes = 4 + k;
            let panels: Vec<Vec<u8>> = (0..2)
                .map(|_| {
                    let rows: Vec<u8> = (0..LANES * row_bytes).map(|_| random(&mut state) as u8).collect();
                    let mut panel = vec![0; panel_bytes(k)];
                    pack_panel(&rows, k, &mut panel);
                    panel
                })
                .collect();
            let b = [panels[0].as_ptr().cast(), panels[1].as_ptr().cast()];
            let steps = k.div_ceil(TILE_K);
            let mut a = vec![0i8; BLOCK * steps * TILE_K];
            for row in a.chunks_exact_mut(steps * TILE_K) {
                row[..k].fill_with(|| random(&mut state));
            }
            #[cfg(target_arch = "x86_64")]
            let shifted: Vec<i8> = a.iter().map(|&v| v ^ i8::MIN).collect();
            for rows in [1, 2, 3, 4, 5, 7, 8, 9, 31, 32] {
                let run = |unit, a: &[i8]| {
                    let mut to = vec![0i32; BLOCK * BLOCK];
                    // SAFETY: whole blocks; the caller has looked for the unit.
                    unsafe { sums(unit, a.as_ptr(), steps * TILE_K, rows, b, steps, to.as_mut_ptr()) };
                    to.truncate(rows * BLOCK);
                    to
                };
                let want = run(Unit::Plain, &a);
                #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
                assert_eq!(run(Unit::Wasm, &a), want, "wasm {rows}x{k}");
                #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
                {
                    assert_eq!(run(Unit::Neon, &a), want, "neon {rows}x{k}");
                    if std::arch::is_aarch64_feature_detected!("dotprod") {
                        assert_eq!(run(Unit::Dot, &a), want, "dot {rows}x{k}");
                    }
                }
                #[cfg(target_arch = "x86_64")]
                {
                    if is_x86_feature_detected!("avx2") {
                        assert_eq!(run(Unit::Avx2, &a), want, "avx2 {rows}x{k}");
                    }
                    if is_x86_feature_detected!("avxvnni") {
                        assert_eq!(run(Unit::AvxVnni, &shifted), want, "avx vnni {rows}x{k}");
                    }
                    if is_x86_feature_detected!("avx512vnni") {
                        assert_eq!(run(Unit::Vnni, &shifted), want, "vnni {rows}x{k}");
                    }
                }
                assert!(rows * k < 10 || want.iter().any(|&v| v != 0));
            }
        }
    }
}
