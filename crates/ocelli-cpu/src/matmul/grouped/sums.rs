//! Sums over groups of products of codes, a few rows by two panels, on whatever the CPU has for them.
//!
//! All give the same bits: see [`super`]. Activations are signed, codes of weights unsigned, but on Arm.

use super::super::blocks::GROUP;
use super::super::int8_sums::Unit;
use super::panels::PANEL_GROUP;
use super::rows::ROW_GROUP;
use super::{BLOCK, ROWS};
use crate::simd::LANES;

/// Four `k` of a group at a time.
#[cfg(target_arch = "x86_64")]
const QUADS: usize = GROUP / 4;

/// `to[rows][32] = a b`, rows of `to` a block apart, with `b` in two panels.
///
/// # Safety
/// At most [`ROWS`] rows of groups at `a`, panels of as many, room for the rows at `to`; the CPU has what `unit` says,
/// which is one that [`super::Staging`] chooses.
#[inline(always)]
pub(super) unsafe fn sums(
    unit: Unit,
    a: *const u8,
    stride: usize,
    rows: usize,
    b: [*const u8; 2],
    groups: usize,
    to: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if rows == ROWS {
            return rows_of::<ROWS>(unit, a, stride, b, groups, to);
        }
        for row in 0..rows {
            rows_of::<1>(unit, a.add(row * stride), stride, b, groups, to.add(row * BLOCK));
        }
    }
}

/// The same for `MR` rows. Registers of AVX-512 take both panels at once, shorter ones a panel after the other.
///
/// # Safety
/// As for [`sums`].
#[inline(always)]
unsafe fn rows_of<const MR: usize>(
    unit: Unit,
    a: *const u8,
    stride: usize,
    b: [*const u8; 2],
    groups: usize,
    to: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if unit == Unit::Vnni {
            return vnni::<MR>(a, stride, b, groups, to);
        }
        for (p, panel) in b.into_iter().enumerate() {
            let to = to.add(p * LANES);
            match unit {
                #[cfg(target_arch = "x86_64")]
                Unit::AvxVnni => avx_vnni::<MR>(a, stride, panel, groups, to),
                #[cfg(target_arch = "x86_64")]
                Unit::Avx2 => avx2::<MR>(a, stride, panel, groups, to),
                #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
                Unit::Dot => dot::<MR>(a, stride, panel, groups, to),
                _ => plain::<MR>(a, stride, panel, groups, to),
            }
        }
    }
}

/// What the sums of a group of a row begin with.
///
/// # Safety
/// A group is at `a`.
#[inline(always)]
unsafe fn start(a: *const u8) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { a.add(GROUP + 4).cast::<i32>().read() }
}

/// The scale of a group of a row.
///
/// # Safety
/// As for [`start`].
#[inline(always)]
unsafe fn scale(a: *const u8) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { a.add(GROUP).cast::<f32>().read() }
}

/// The specification of the others.
unsafe fn plain<const MR: usize>(a: *const u8, stride: usize, panel: *const u8, groups: usize, to: *mut f32) {
    for (row, lane) in (0..MR).flat_map(|row| (0..LANES).map(move |lane| (row, lane))) {
        let mut total = 0.0f32;
        for group in 0..groups {
            // SAFETY: the caller's promise.
            unsafe {
                let a = a.add(row * stride + group * ROW_GROUP);
                let b = panel.add(group * PANEL_GROUP);
                let mut sum = start(a);
                for k in 0..GROUP {
                    let code = *b.add((k / 4 * LANES + lane) * 4 + k % 4);
                    sum += i32::from(*a.add(k).cast::<i8>()) * weight(code);
                }
                let scale = scale(a) * b.add(GROUP * LANES).cast::<f32>().add(lane).read();
                total = (sum as f32).mul_add(scale, total);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { *to.add(row * BLOCK + lane) = total };
    }
}

/// The value of a code of a weight.
fn weight(code: u8) -> i32 {
    if cfg!(target_arch = "aarch64") { i32::from(code as i8) } else { i32::from(code) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn vnni<const MR: usize>(a: *const u8, stride: usize, b: [*const u8; 2], groups: usize, to: *mut f32) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise: `MR` rows, two panels.
    unsafe {
        let mut totals = [[_mm512_setzero_ps(); 2]; MR];
        for group in 0..groups {
            let a = a.add(group * ROW_GROUP);
            let b = b.map(|panel| panel.add(group * PANEL_GROUP));
            let mut sums = [[_mm512_setzero_si512(); 2]; MR];
            for i in 0..MR {
                let start = _mm512_set1_epi32(start(a.add(i * stride)));
                sums[i] = [start; 2];
            }
            for quad in 0..QUADS {
                let at = quad * 4 * LANES;
                let (c0, c1) =
                    (_mm512_loadu_si512(b[0].add(at).cast()), _mm512_loadu_si512(b[1].add(at).cast()));
                for i in 0..MR {
                    let x = _mm512_set1_epi32(a.add(i * stride + 4 * quad).cast::<i32>().read());
                    sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], c0, x);
                    sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], c1, x);
                }
            }
            for i in 0..MR {
                let row_scale = _mm512_set1_ps(scale(a.add(i * stride)));
                for p in 0..2 {
                    let scales = _mm512_mul_ps(row_scale, _mm512_loadu_ps(b[p].add(GROUP * LANES).cast()));
                    totals[i][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][p]), scales, totals[i][p]);
                }
            }
        }
        for i in 0..MR {
            for p in 0..2 {
                _mm512_storeu_ps(to.add(i * BLOCK + p * LANES), totals[i][p]);
            }
        }
    }
}

/// A register has eight columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn avx_vnni<const MR: usize>(
    a: *const u8,
    stride: usize,
    panel: *const u8,
    groups: usize,
    to: *mut f32,
) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise: `MR` rows, one panel.
    unsafe {
        let mut totals = [[_mm256_setzero_ps(); 2]; MR];
        for group in 0..groups {
            let a = a.add(group * ROW_GROUP);
            let panel = panel.add(group * PANEL_GROUP);
            let mut sums = [[_mm256_setzero_si256(); 2]; MR];
            for i in 0..MR {
                sums[i] = [_mm256_set1_epi32(start(a.add(i * stride))); 2];
            }
            for quad in 0..QUADS {
                let columns = eights(panel.add(quad * 4 * LANES));
                for i in 0..MR {
                    let x = _mm256_set1_epi32(a.add(i * stride + 4 * quad).cast::<i32>().read());
                    for c in 0..2 {
                        sums[i][c] = _mm256_dpbusd_avx_epi32(sums[i][c], columns[c], x);
                    }
                }
            }
            add_scaled::<MR>(&mut totals, &sums, a, stride, panel);
        }
        store_eights::<MR>(&totals, to);
    }
}

/// Codes of four bits only: sixteen products of at most 15 by 127 fit 16 bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const MR: usize>(a: *const u8, stride: usize, panel: *const u8, groups: usize, to: *mut f32) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise: `MR` rows, one panel.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut totals = [[_mm256_setzero_ps(); 2]; MR];
        for group in 0..groups {
            let a = a.add(group * ROW_GROUP);
            let panel = panel.add(group * PANEL_GROUP);
            let mut sums = [[_mm256_setzero_si256(); 2]; MR];
            for quad in 0..QUADS {
                let columns = eights(panel.add(quad * 4 * LANES));
                for i in 0..MR {
                    let x = _mm256_set1_epi32(a.add(i * stride + 4 * quad).cast::<i32>().read());
                    for c in 0..2 {
                        sums[i][c] = _mm256_add_epi16(sums[i][c], _mm256_maddubs_epi16(columns[c], x));
                    }
                }
            }
            for i in 0..MR {
                let start = _mm256_set1_epi32(start(a.add(i * stride)));
                for c in 0..2 {
                    sums[i][c] = _mm256_add_epi32(start, _mm256_madd_epi16(sums[i][c], ones));
                }
            }
            add_scaled::<MR>(&mut totals, &sums, a, stride, panel);
        }
        store_eights::<MR>(&totals, to);
    }
}

/// Twice eight columns of a line.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn eights(line: *const u8) -> [std::arch::x86_64::__m256i; 2] {
    use std::arch::x86_64::_mm256_loadu_si256;
    // SAFETY: the caller's promise: 64 bytes.
    unsafe { [_mm256_loadu_si256(line.cast()), _mm256_loadu_si256(line.add(32).cast())] }
}

/// Add the sums of a group, times the scales of its rows at `a` and of its columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn add_scaled<const MR: usize>(
    totals: &mut [[std::arch::x86_64::__m256; 2]; MR],
    sums: &[[std::arch::x86_64::__m256i; 2]; MR],
    a: *const u8,
    stride: usize,
    panel: *const u8,
) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise: a group of `MR` rows and one of a panel.
    unsafe {
        for i in 0..MR {
            let row_scale = _mm256_set1_ps(scale(a.add(i * stride)));
            for c in 0..2 {
                let scales = _mm256_loadu_ps(panel.add(GROUP * LANES).cast::<f32>().add(8 * c));
                let scales = _mm256_mul_ps(row_scale, scales);
                totals[i][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[i][c]), scales, totals[i][c]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store_eights<const MR: usize>(totals: &[[std::arch::x86_64::__m256; 2]; MR], to: *mut f32) {
    for i in 0..MR {
        for c in 0..2 {
            // SAFETY: the caller's promise: `MR` rows of a block.
            unsafe { std::arch::x86_64::_mm256_storeu_ps(to.add(i * BLOCK + 8 * c), totals[i][c]) };
        }
    }
}

/// A register has four columns.
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot<const MR: usize>(a: *const u8, stride: usize, panel: *const u8, groups: usize, to: *mut f32) {
    use super::super::int8_neon::add_four;
    use std::arch::aarch64::*;
    // SAFETY: the caller's promise: `MR` rows, one panel.
    unsafe {
        let mut totals = [[vdupq_n_f32(0.0); 4]; MR];
        for group in 0..groups {
            let a = a.add(group * ROW_GROUP);
            let panel = panel.add(group * PANEL_GROUP);
            let mut sums = [[vdupq_n_s32(0); 4]; MR];
            for i in 0..MR {
                sums[i] = [vdupq_n_s32(start(a.add(i * stride))); 4];
            }
            for half in 0..2 {
                let mut x = [vdupq_n_s8(0); MR];
                for i in 0..MR {
                    x[i] = vld1q_s8(a.add(i * stride + 16 * half).cast());
                }
                let at = panel.add(half * 16 * LANES).cast::<i8>();
                add_four::<0, MR>(&x, at, &mut sums);
                add_four::<1, MR>(&x, at.add(4 * LANES), &mut sums);
                add_four::<2, MR>(&x, at.add(8 * LANES), &mut sums);
                add_four::<3, MR>(&x, at.add(12 * LANES), &mut sums);
            }
            for i in 0..MR {
                for c in 0..4 {
                    let scales = vld1q_f32(panel.add(GROUP * LANES).cast::<f32>().add(4 * c));
                    let scales = vmulq_n_f32(scales, scale(a.add(i * stride)));
                    totals[i][c] = vfmaq_f32(totals[i][c], vcvtq_f32_s32(sums[i][c]), scales);
                }
            }
        }
        for i in 0..MR {
            for c in 0..4 {
                vst1q_f32(to.add(i * BLOCK + 4 * c), totals[i][c]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ocelli_testing::Rng;

    use super::*;

    fn scale_of(bits: u64) -> [u8; 4] {
        (bits as u32 as f32 * 1e-12).to_le_bytes()
    }

    /// Groups of a row: any codes, and anything that sums may begin with.
    fn row(groups: usize, rng: &mut Rng) -> Vec<u8> {
        let group = |rng: &mut Rng| {
            let mut bytes: Vec<u8> = (0..GROUP).map(|_| rng.next_u64() as u8).collect();
            bytes.extend(scale_of(rng.next_u64()));
            bytes.extend(((rng.next_u64() >> 40) as i32 - (1 << 23)).to_le_bytes());
            bytes
        };
        (0..groups).flat_map(|_| group(rng)).collect()
    }

    fn panel(groups: usize, most: u64, rng: &mut Rng) -> Vec<u8> {
        let group = |rng: &mut Rng| {
            let mut bytes: Vec<u8> =
                (0..GROUP * LANES).map(|_| (rng.next_u64() % (most + 1)) as u8).collect();
            bytes.extend((0..LANES).flat_map(|_| scale_of(rng.next_u64())));
            bytes
        };
        (0..groups).flat_map(|_| group(rng)).collect()
    }

    fn check(unit: Unit, most: u64) {
        let mut rng = Rng::new(3);
        for groups in [1, 2, 3, 28] {
            let a: Vec<u8> = (0..ROWS).flat_map(|_| row(groups, &mut rng)).collect();
            let panels = [panel(groups, most, &mut rng), panel(groups, most, &mut rng)];
            let b = [panels[0].as_ptr(), panels[1].as_ptr()];
            for rows in 1..=ROWS {
                let run = |unit| {
                    let mut to = [0.0f32; ROWS * BLOCK];
                    // SAFETY: whole groups; the caller has looked for the unit.
                    unsafe { sums(unit, a.as_ptr(), groups * ROW_GROUP, rows, b, groups, to.as_mut_ptr()) };
                    to.map(f32::to_bits)
                };
                let want = run(Unit::Plain);
                assert_eq!(run(unit), want, "{unit:?} {rows} rows, {groups} groups");
                assert!(want[..rows * BLOCK].iter().all(|&bits| bits != 0));
            }
        }
    }

    #[test]
    fn every_unit_has_the_same_bits() {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512vnni") {
                check(Unit::Vnni, 255);
            }
            if is_x86_feature_detected!("avxvnni") && is_x86_feature_detected!("fma") {
                check(Unit::AvxVnni, 255);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                check(Unit::Avx2, 15);
            }
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            check(Unit::Dot, 255);
        }
    }
}
