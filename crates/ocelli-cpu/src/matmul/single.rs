//! Products of a single row with quantized matrices, on activations of 16 bits.
//!
//! Weights that become f32 in registers keep a core about as long as they take to come from memory. Where AVX-512 multiplies
//! bytes four at a time, the row becomes bytes too, two for each value: `value = scale * (255 high + low)`, both from -127
//! to 127, and the scale that of 32 values, their largest magnitude over 32385. So a value is off by at most 1/64770
//! of the largest of its group. An output is a sum over groups, in order, of fused multiply-adds of
//! `255 * (sum of high products) + (sum of low products)`, of which both sums are exact, and `row scale * column scale`.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use half::f16;
use ocelli_plan::BlockFormat;

use super::blocks::{Blocks, GROUP, Q4, Q8};
use super::epilogue::{Epilogue, Outputs};
use super::grouped::{Unpack, load_group};
use super::int8_sums::has_vnni;
use super::tile::RowAhead;
use crate::Isa;
use crate::buffer::CACHE_LINE;
use crate::pack::{Matrix, Stored};
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::{Kind, View};

/// What a unit of the high byte is worth: an odd number, so that no value lies between two.
const HIGH: f32 = 255.0;
/// The largest code.
const MOST: f32 = 127.0 * HIGH;
/// Panels that are read at a time: as many streams from memory.
const PANELS: usize = 4;
/// Bytes that memory is asked for ahead.
const AHEAD: usize = 4096;

/// A group of the row.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
struct RowGroup {
    /// Four codes in a word, in the order of [`RowCodes::order`].
    high: [i32; GROUP / 4],
    low: [i32; GROUP / 4],
    scale: f32,
    /// What the sums of high and of low codes begin with, for weights that are stored above their values.
    starts: [i32; 2],
    _padding: u32,
}

/// How the row is staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Staging {
    format: BlockFormat,
}

/// The staged row.
#[derive(Clone, Copy)]
pub(crate) struct SingleRow {
    at: *const RowGroup,
}

impl Staging {
    /// For the product of `x` with a matrix of this format, where that is quicker than other ways.
    pub(crate) fn of(isa: Isa, x: View, format: BlockFormat) -> Option<Self> {
        let quicker = has_vnni(isa) && format != BlockFormat::Int8;
        (quicker && x.rows == 1 && x.kind == Kind::Bf16).then_some(Self { format })
    }

    /// f32 values of scratch for a row.
    pub(crate) fn len(k: usize) -> usize {
        k.div_ceil(GROUP) * size_of::<RowGroup>() / size_of::<f32>()
    }

    /// Scratch as a row of values, for a product that stages it.
    pub(crate) fn view(at: *mut f32, cols: usize) -> View {
        View { at: at.cast(), rows: 1, cols, stride: cols, kind: Kind::Bf16 }
    }

    /// The row as groups of codes, with the scratch that they are in.
    pub(crate) fn share(self, isa: Isa, x: View) -> (Option<Scratch>, View) {
        let mut memory = Scratch::take(Self::len(x.cols));
        let at = memory.as_mut_ptr();
        match self.format {
            BlockFormat::Q4 => isa.dispatch(Stage::<Q4> { x, to: at.cast(), codes: PhantomData }),
            _ => isa.dispatch(Stage::<Q8> { x, to: at.cast(), codes: PhantomData }),
        }
        (Some(memory), View { at: at.cast(), kind: Kind::Codes, ..x })
    }

    /// The row that [`Self::share`] wrote.
    pub(crate) fn shared(x: View) -> SingleRow {
        debug_assert!(x.kind == Kind::Codes);
        SingleRow { at: x.at.cast() }
    }
}

/// Codes that meet bytes of a row.
trait RowCodes: Unpack {
    /// Eight neighbouring codes of the row, as the weights want them.
    fn order(codes: u64) -> u64;

    /// Add the products of a group of a panel at `at` with the high and the low codes of `row`.
    ///
    /// # Safety
    /// A group is there; the CPU has AVX-512 with BW and VNNI.
    unsafe fn add_products<const NP: usize>(
        row: &RowGroup,
        at: [*const u8; NP],
        high: &mut [__m512i; NP],
        low: &mut [__m512i; NP],
    );
}

impl RowCodes for Q8 {
    fn order(codes: u64) -> u64 {
        codes
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_products<const NP: usize>(
        row: &RowGroup,
        at: [*const u8; NP],
        high: &mut [__m512i; NP],
        low: &mut [__m512i; NP],
    ) {
        // Four bytes of each `k` to each quarter, then their transpose in it.
        let quarters = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let transpose = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let transpose = _mm512_broadcast_i32x4(transpose);
        let flip = _mm512_set1_epi8(-128);
        for quad in 0..GROUP / 4 {
            let x = _mm512_set1_epi32(row.high[quad]);
            let y = _mm512_set1_epi32(row.low[quad]);
            for p in 0..NP {
                // SAFETY: the caller's promise: eight lines.
                let codes = unsafe { _mm512_loadu_si512(at[p].add(quad * CACHE_LINE).cast()) };
                let codes = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(quarters, codes), transpose);
                let codes = _mm512_xor_si512(codes, flip);
                high[p] = _mm512_dpbusd_epi32(high[p], codes, x);
                low[p] = _mm512_dpbusd_epi32(low[p], codes, y);
            }
        }
    }
}

impl RowCodes for Q4 {
    /// Bytes of the weights hold an even `k` in their lower halves, an odd one in the others.
    fn order(codes: u64) -> u64 {
        let every_second = |codes: u64| {
            let codes = codes & 0x00ff_00ff_00ff_00ff;
            let codes = (codes | codes >> 8) & 0x0000_ffff_0000_ffff;
            (codes | codes >> 16) & 0xffff_ffff
        };
        every_second(codes) | every_second(codes >> 8) << 32
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add_products<const NP: usize>(
        row: &RowGroup,
        at: [*const u8; NP],
        high: &mut [__m512i; NP],
        low: &mut [__m512i; NP],
    ) {
        let sign = _mm512_set1_epi8(8);
        let half = _mm512_set1_epi8(15);
        for word in 0..GROUP / 8 {
            let mut x = [_mm512_setzero_si512(); 2];
            let mut y = [_mm512_setzero_si512(); 2];
            for odd in 0..2 {
                let quad = 2 * word + odd;
                x[odd] = _mm512_set1_epi32(row.high[quad]);
                y[odd] = _mm512_set1_epi32(row.low[quad]);
            }
            for p in 0..NP {
                // SAFETY: the caller's promise: four lines.
                let codes = unsafe { _mm512_loadu_si512(at[p].add(word * CACHE_LINE).cast()) };
                // `(codes ^ sign) & half`, the sum of what both differ in and what the half has.
                let even = _mm512_ternarylogic_epi32::<0x28>(codes, sign, half);
                let odd = _mm512_ternarylogic_epi32::<0x28>(_mm512_srli_epi16::<4>(codes), sign, half);
                high[p] = _mm512_dpbusd_epi32(high[p], even, x[0]);
                low[p] = _mm512_dpbusd_epi32(low[p], even, y[0]);
                high[p] = _mm512_dpbusd_epi32(high[p], odd, x[1]);
                low[p] = _mm512_dpbusd_epi32(low[p], odd, y[1]);
            }
        }
    }
}

/// Write a row as groups of codes.
struct Stage<C> {
    x: View,
    to: *mut RowGroup,
    codes: PhantomData<C>,
}

impl<C: RowCodes> Kernel for Stage<C> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for col in (0..self.x.cols).step_by(GROUP) {
            // SAFETY: the caller's promise.
            unsafe { stage_group::<S, C>(self.x, col, self.to.add(col / GROUP)) };
        }
    }
}

/// The values from column `col` on as one group.
///
/// # Safety
/// The column exists; room for a group at `to`; the CPU has `S`.
#[inline(always)]
unsafe fn stage_group<S: Simd, C: RowCodes>(x: View, col: usize, to: *mut RowGroup) {
    // SAFETY: the caller's promise.
    unsafe {
        let (values, most) = load_group::<S>(x, 0, col);
        let (scale, inverse) = group_scale(most);
        let (mut high, mut low) = ([0; GROUP / 8], [0; GROUP / 8]);
        let mut totals = [S::zero(); 2];
        for (half, v) in values.into_iter().enumerate() {
            let code = S::round(S::mul(v, S::splat(inverse)));
            let upper = S::round(S::mul(code, S::splat(1.0 / HIGH)));
            let lower = S::fma(upper, S::splat(-HIGH), code);
            S::store_i8(high.as_mut_ptr().cast::<i8>().add(half * LANES), upper);
            S::store_i8(low.as_mut_ptr().cast::<i8>().add(half * LANES), lower);
            totals = [S::add(totals[0], upper), S::add(totals[1], lower)];
        }
        // Exact: few and small integers.
        let start = |total| -C::OFFSET * S::reduce_add(total) as i32;
        let group = RowGroup {
            high: words(high.map(C::order)),
            low: words(low.map(C::order)),
            scale,
            starts: [start(totals[0]), start(totals[1])],
            _padding: 0,
        };
        to.write(group);
    }
}

/// Halves of eight bytes each, the lower first.
fn words(eights: [u64; GROUP / 8]) -> [i32; GROUP / 4] {
    std::array::from_fn(|i| (eights[i / 2] >> (32 * (i % 2))) as i32)
}

/// Scale of a group with this largest magnitude, and its inverse. Groups below any use are groups of zeros, or the
/// inverse would not be a number.
fn group_scale(most: f32) -> (f32, f32) {
    const LEAST: f32 = 1e-30;
    if most < LEAST { (0.0, 0.0) } else { (most * (1.0 / MOST), MOST / most) }
}

/// The product with some panels of a matrix in blocks.
///
/// # Safety
/// As for [`super::multiply`].
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, E: Epilogue>(row: SingleRow, weight: &Matrix, outputs: Outputs<E>) {
    // SAFETY: the caller's promise.
    unsafe {
        match weight.stored() {
            Stored::Blocks(BlockFormat::Q8) => S::call(Product { row, b: weight.blocks::<Q8>(), outputs }),
            Stored::Blocks(BlockFormat::Q4) => S::call(Product { row, b: weight.blocks::<Q4>(), outputs }),
            _ => unreachable!("rows are staged for their weight"),
        }
    }
}

/// The product with some panels. To run it, row and panels must be readable, the epilogue may write its outputs, and the
/// CPU has what [`Staging::of`] asks for.
struct Product<'a, C, E> {
    row: SingleRow,
    b: Blocks<C>,
    outputs: Outputs<'a, E>,
}

impl<C: RowCodes, E: Epilogue> Kernel for Product<'_, C, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (mut panel, end) = (self.outputs.panels.start, self.outputs.panels.end);
        // SAFETY: the caller's promise, for each part.
        unsafe {
            while panel + PANELS <= end {
                self.panels::<S, PANELS>(panel);
                panel += PANELS;
            }
            while panel + 2 <= end {
                self.panels::<S, 2>(panel);
                panel += 2;
            }
            if E::GROUP == 1 && panel < end {
                self.panels::<S, 1>(panel);
            }
        }
    }
}

impl<C: RowCodes, E: Epilogue> Product<'_, C, E> {
    /// # Safety
    /// `NP` panels exist; otherwise as for the whole.
    #[inline(always)]
    unsafe fn panels<S: Simd, const NP: usize>(&self, panel: usize) {
        let mut sums = [[0.0; LANES]; NP];
        // SAFETY: the caller's promise.
        unsafe {
            add_panels::<C, NP>(self.row, self.b, panel, &mut sums);
            let mut values = [[S::zero(); NP]];
            for p in 0..NP {
                values[0][p] = S::load(sums[p].as_ptr());
            }
            self.outputs.take::<S, 1, NP>(0, panel, &values);
        }
    }
}

/// # Safety
/// `NP` panels exist; the CPU has AVX-512 with BW and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_panels<C: RowCodes, const NP: usize>(
    row: SingleRow,
    b: Blocks<C>,
    panel: usize,
    sums: &mut [[f32; LANES]; NP],
) {
    // SAFETY: the caller's promise, and all groups.
    unsafe {
        let (mut codes, mut scales) = ([b.at; NP], [b.at.cast::<f16>(); NP]);
        for p in 0..NP {
            (codes[p], scales[p]) = b.panel(panel + p);
        }
        let ahead = RowAhead::new(AHEAD, b.groups, C::BYTES, NP, b.panel_stride);
        let mut totals = [_mm512_setzero_ps(); NP];
        for group in 0..b.groups {
            for p in 0..NP {
                let next = codes[p].wrapping_add(ahead.from(group, C::BYTES));
                for line in (0..C::BYTES).step_by(CACHE_LINE) {
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line).cast());
                }
                let next = ahead.from(group, LANES * size_of::<f16>());
                _mm_prefetch::<_MM_HINT_T0>(scales[p].cast::<i8>().wrapping_add(next));
            }
            let row = &*row.at.add(group);
            let mut high = [_mm512_set1_epi32(row.starts[0]); NP];
            let mut low = [_mm512_set1_epi32(row.starts[1]); NP];
            C::add_products::<NP>(row, codes, &mut high, &mut low);
            for p in 0..NP {
                let sum = _mm512_fmadd_ps(
                    _mm512_cvtepi32_ps(high[p]),
                    _mm512_set1_ps(HIGH),
                    _mm512_cvtepi32_ps(low[p]),
                );
                let scale = _mm512_cvtph_ps(_mm256_loadu_si256(scales[p].cast()));
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(row.scale));
                totals[p] = _mm512_fmadd_ps(sum, scale, totals[p]);
                codes[p] = codes[p].add(C::BYTES);
                scales[p] = scales[p].add(LANES);
            }
        }
        for p in 0..NP {
            _mm512_storeu_ps(sums[p].as_mut_ptr(), totals[p]);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use ocelli_testing::Rng;

    use super::super::blocks::plain_code;
    use super::*;

    const PANELS_ASKED: usize = 5;

    fn stage<C: RowCodes>(isa: Isa, values: &mut [bf16]) -> Vec<RowGroup> {
        let (cols, at) = (values.len(), values.as_mut_ptr().cast());
        let x = View { at, rows: 1, cols, stride: cols, kind: Kind::Bf16 };
        let empty = RowGroup { high: [0; 8], low: [0; 8], scale: 0.0, starts: [0; 2], _padding: 0 };
        let mut groups = vec![empty; cols.div_ceil(GROUP)];
        isa.dispatch(Stage::<C> { x, to: groups.as_mut_ptr(), codes: PhantomData });
        groups
    }

    /// Rows of every length around a group and two, with a group of zeros, a tiny one and one with a value far above
    /// the others.
    #[test]
    fn two_codes_are_a_value() {
        for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
            for cols in [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200] {
                let mut values: Vec<bf16> =
                    (0..cols).map(|i| bf16::from_f32((i as f32 * 1.7).sin() * (i % 11) as f32)).collect();
                values[..cols.min(GROUP)].fill(bf16::ZERO);
                if let Some(group) = values.chunks_mut(GROUP).nth(1) {
                    group.fill(bf16::from_f32(1e-35));
                }
                if let Some(value) = values.get_mut(2 * GROUP) {
                    *value = bf16::from_f32(-3e8);
                }
                check_row(
                    &values,
                    &stage::<Q8>(isa, &mut values.clone()),
                    Q8::OFFSET,
                    &format!("{isa} {cols}"),
                );
            }
        }
    }

    fn check_row(values: &[bf16], groups: &[RowGroup], offset: i32, what: &str) {
        for (group, values) in groups.iter().zip(values.chunks(GROUP)) {
            let most = values.iter().fold(0.0f32, |most, v| most.max(v.to_f32().abs()));
            let (high, low) = (bytes(&group.high), bytes(&group.low));
            for (i, v) in values.iter().enumerate() {
                let code = 255 * i32::from(high[i]) + i32::from(low[i]);
                let off = (v.to_f32() - group.scale * code as f32).abs();
                assert!(off <= most / MOST * 0.51 || most < 1e-30, "{what}: {v} is {code}");
            }
            let sum = |codes: &[i8]| codes.iter().map(|&code| i32::from(code)).sum::<i32>();
            assert_eq!(group.starts, [-offset * sum(&high), -offset * sum(&low)], "{what}");
        }
    }

    fn bytes(words: &[i32]) -> Vec<i8> {
        words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| byte as i8).collect()
    }

    /// Q4 has the same codes in another order.
    #[test]
    fn even_codes_come_before_odd_ones() {
        let mut values: Vec<bf16> = (0..GROUP).map(|i| bf16::from_f32(i as f32)).collect();
        let isa = Isa::available().pop().expect("an instruction set");
        let (straight, halved) = (stage::<Q8>(isa, &mut values)[0], stage::<Q4>(isa, &mut values)[0]);
        for (straight, halved) in [(straight.high, halved.high), (straight.low, halved.low)] {
            let (straight, halved) = (bytes(&straight), bytes(&halved));
            let order = [0, 2, 4, 6, 1, 3, 5, 7];
            let want: Vec<i8> = (0..GROUP).map(|i| straight[i / 8 * 8 + order[i % 8]]).collect();
            assert_eq!(halved, want);
        }
    }

    /// The specification: the sum of column `lane` of a panel, of which `code` is that of a `k` among a group's codes.
    fn plain<C: RowCodes>(
        row: &[RowGroup],
        panel: &[u8],
        lane: usize,
        code: fn(&[u8], usize, usize) -> i32,
    ) -> f32 {
        let scales = &panel[row.len() * C::BYTES..];
        let mut total = 0.0f32;
        for (group, row) in row.iter().enumerate() {
            let codes = &panel[group * C::BYTES..][..C::BYTES];
            let sum = |row: &[i32], start: i32| {
                let eights = bytes(row);
                let products = (0..GROUP).map(|k| {
                    let place = (0..8).find(|&place| C::order(1 << (8 * (k % 8))) >> (8 * place) & 1 == 1);
                    let x = i32::from(eights[k / 8 * 8 + place.expect("a place")]);
                    x * (code(codes, k, lane) + C::OFFSET)
                });
                (start + products.sum::<i32>()) as f32
            };
            let scale = f16::from_le_bytes([0, 1].map(|i| scales[(group * LANES + lane) * 2 + i])).to_f32();
            let sum = sum(&row.high, row.starts[0]).mul_add(HIGH, sum(&row.low, row.starts[1]));
            total = sum.mul_add(scale * row.scale, total);
        }
        total
    }

    fn check_products<C: RowCodes>(code: fn(&[u8], usize, usize) -> i32) {
        let mut rng = Rng::new(5);
        for groups in [1, 2, 3, 28, 152] {
            let mut byte = |_| rng.next_u64() as u8;
            let panels: Vec<Vec<u8>> = (0..PANELS_ASKED)
                .map(|_| {
                    let mut panel: Vec<u8> = (0..groups * C::BYTES).map(&mut byte).collect();
                    let scales = (0..groups * LANES).map(|i| f16::from_f32(1e-3 * (i % 97) as f32));
                    panel.extend(scales.flat_map(f16::to_le_bytes));
                    panel
                })
                .collect();
            let packed = panels.concat();
            let mut row: Vec<RowGroup> = (0..groups)
                .map(|_| RowGroup {
                    high: std::array::from_fn(|_| rng.next_u64() as i32),
                    low: std::array::from_fn(|_| rng.next_u64() as i32),
                    scale: rng.next_u64() as u32 as f32 * 1e-12,
                    starts: [0; 2].map(|_: i32| (rng.next_u64() >> 44) as i32 - (1 << 19)),
                    _padding: 0,
                })
                .collect();
            // Codes as far from zero as there are.
            row[0].high = [i32::from_le_bytes([0x81; 4]); GROUP / 4];
            let b = Blocks::<C> {
                at: packed.as_ptr(),
                panel_stride: panels[0].len(),
                groups,
                codes: PhantomData,
            };
            let at = SingleRow { at: row.as_ptr() };
            let (mut four, mut one) = ([[0.0; LANES]; 4], [[0.0; LANES]; 1]);
            // SAFETY: five panels of as many groups as the row has; the caller has looked for the instructions.
            unsafe {
                add_panels::<C, 4>(at, b, 0, &mut four);
                add_panels::<C, 1>(at, b, 4, &mut one);
            }
            for (p, got) in four.iter().chain(&one).enumerate() {
                let want: [f32; LANES] = std::array::from_fn(|lane| plain::<C>(&row, &panels[p], lane, code));
                assert_eq!(got.map(f32::to_bits), want.map(f32::to_bits), "panel {p} of {groups} groups");
            }
        }
    }

    #[test]
    fn kernels_have_the_bits_of_the_specification() {
        if !is_x86_feature_detected!("avx512vnni") {
            return println!("this CPU does not multiply bytes with AVX-512: not tested");
        }
        check_products::<Q8>(plain_code::q8);
        check_products::<Q4>(plain_code::q4);
    }
}
