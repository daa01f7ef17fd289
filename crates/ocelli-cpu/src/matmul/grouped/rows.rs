//! Rows of activations as groups of codes.

use half::bf16;
use ocelli_plan::BlockFormat;

use super::super::blocks::{GROUP, Q4, Q8};
use super::super::int8_sums::Unit;
use super::panels::Unpack;
use crate::Isa;
use crate::buffer::CACHE_LINE;
use crate::pool::{CHUNKS_PER_THREAD, Pool};
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::{Kind, View};

/// Bytes of a group of a row: its codes, its scale in f32, and in 32 bits what its sums begin with.
pub(super) const ROW_GROUP: usize = GROUP + 8;

/// How rows are staged: on what they will be multiplied, and with what codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Staging {
    unit: Unit,
    /// What unpacked codes of the weights are above their values.
    offset: i32,
}

/// Rows of the left factor as groups of codes.
#[derive(Clone, Copy)]
pub(crate) struct GroupedRows {
    pub(super) at: *const u8,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) groups: usize,
    pub(super) unit: Unit,
}

impl Staging {
    /// For the product of `x` with a matrix of this format, where that is quicker than other ways.
    pub(crate) fn of(isa: Isa, x: View, format: BlockFormat) -> Option<Self> {
        let offset = match format {
            BlockFormat::Q8 => Q8::OFFSET,
            BlockFormat::Q4 => Q4::OFFSET,
            BlockFormat::Int8 => return None,
        };
        let unit = Unit::of(isa);
        let quicker = match unit {
            // Sums of pairs of products stay in 16 bits for codes of 4 bits only, in vectors that are no longer.
            #[cfg(target_arch = "x86_64")]
            Unit::Avx2 => isa == Isa::Avx2 && format == BlockFormat::Q4,
            // AMX multiplies bf16 as quickly; codes there would wait for their scales.
            #[cfg(target_arch = "x86_64")]
            Unit::Vnni | Unit::AvxVnni => isa != Isa::Amx,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Unit::Dot => true,
            _ => false,
        };
        (quicker && x.rows > 1 && x.kind == Kind::Bf16).then_some(Self { unit, offset })
    }

    /// Bytes from one row to the next: an odd number of lines, so that rows fall into different cache sets.
    fn stride(k: usize) -> usize {
        ((k.div_ceil(GROUP) * ROW_GROUP).div_ceil(CACHE_LINE) | 1) * CACHE_LINE
    }

    /// f32 values of scratch for `rows` rows, as [`Self::share`] or [`Self::view`] has them.
    pub(crate) fn len(rows: usize, k: usize) -> usize {
        rows * Self::stride(k).max(Self::view_stride(k) * size_of::<bf16>()) / size_of::<f32>()
    }

    fn view_stride(k: usize) -> usize {
        k.next_multiple_of(LANES) + LANES
    }

    /// Scratch as rows of values, for a product that stages them.
    pub(crate) fn view(at: *mut f32, rows: usize, cols: usize) -> View {
        View { at: at.cast(), rows, cols, stride: Self::view_stride(cols), kind: Kind::Bf16 }
    }

    /// All rows of a tensor as groups of codes, with the scratch that they are in.
    pub(crate) fn share(self, isa: Isa, pool: &Pool, x: View) -> (Option<Scratch>, View) {
        let mut memory = Scratch::take(Self::len(x.rows, x.cols));
        let at = memory.as_mut_ptr().cast();
        let codes = View { at, stride: Self::stride(x.cols), kind: Kind::Codes, ..x };
        let rows = x.rows.div_ceil(CHUNKS_PER_THREAD * pool.threads());
        pool.run(x.rows.div_ceil(rows), &|task| {
            let first = task * rows;
            isa.dispatch(StageTask { staging: self, x, rows: first..x.rows.min(first + rows), codes });
        });
        (Some(memory), codes)
    }

    /// Rows that [`Self::share`] wrote.
    ///
    /// # Safety
    /// They are in the view.
    #[inline(always)]
    pub(crate) unsafe fn shared(self, x: View, first: usize, rows: usize) -> GroupedRows {
        debug_assert!(x.kind == Kind::Codes);
        // SAFETY: the caller's promise.
        let at = unsafe { x.row::<u8>(first) };
        GroupedRows { at, stride: x.stride, rows, groups: x.cols.div_ceil(GROUP), unit: self.unit }
    }

    /// The values of a row from column `col` on as one group.
    ///
    /// # Safety
    /// The column exists; room for a group at `to`; the CPU has `S`.
    #[inline(always)]
    unsafe fn stage_group<S: Simd>(self, x: View, row: usize, col: usize, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let ([low, high], most) = load_group::<S>(x, row, col);
            let (scale, inverse) = group_scale(most);
            let low = S::mul(low, S::splat(inverse));
            let high = S::mul(high, S::splat(inverse));
            let codes: *mut i8 = to.cast();
            S::store_i8(codes, low);
            S::store_i8(codes.add(LANES), high);
            // Exact: few and small integers.
            let sum = S::reduce_add(S::add(S::round(low), S::round(high))) as i32;
            to.add(GROUP).cast::<f32>().write(scale);
            to.add(GROUP + 4).cast::<i32>().write(-self.offset * sum);
        }
    }
}

/// The values of a row from column `col` on that are a group, with zeros behind the last, and their largest magnitude.
///
/// # Safety
/// The column exists; the CPU has `S`.
#[inline(always)]
pub(in super::super) unsafe fn load_group<S: Simd>(x: View, row: usize, col: usize) -> ([S::F; 2], f32) {
    let n = GROUP.min(x.cols - col);
    // SAFETY: the caller's promise.
    unsafe {
        let low = x.load::<S>(row, col, n.min(LANES));
        let high = if n > LANES { x.load::<S>(row, col + LANES, n - LANES) } else { S::zero() };
        let low_size = S::max(low, S::sub(S::zero(), low));
        let high_size = S::max(high, S::sub(S::zero(), high));
        ([low, high], S::reduce_max(S::max(low_size, high_size)))
    }
}

/// Scale of a group with this largest magnitude, and its inverse. Groups below any use are groups of zeros, or the
/// inverse would not be a number.
fn group_scale(most: f32) -> (f32, f32) {
    const LEAST: f32 = 1e-30;
    let scale = most * (1.0 / 127.0);
    if most < LEAST { (0.0, 0.0) } else { (scale, 1.0 / scale) }
}

struct StageTask {
    staging: Staging,
    x: View,
    rows: std::ops::Range<usize>,
    codes: View,
}

impl Kernel for StageTask {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.rows {
            for col in (0..self.x.cols).step_by(GROUP) {
                // SAFETY: the rows are in both views, of which no other task writes these.
                unsafe {
                    let to = self.codes.row::<u8>(row).add(col / GROUP * ROW_GROUP);
                    self.staging.stage_group::<S>(self.x, row, col, to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of every length around a group and two, padded beside each, with a group of zeros and a tiny one.
    #[test]
    fn codes_are_the_nearest_of_their_group() {
        let pool = Pool::new(2);
        for cols in [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200] {
            const ROWS: usize = 7;
            let stride = cols + 3;
            let mut values: Vec<bf16> = (0..ROWS * stride)
                .map(|i| bf16::from_f32((i as f32 * 1.7).sin() * (i % 11) as f32))
                .collect();
            values[stride..][..cols].fill(bf16::ZERO);
            values[2 * stride..][..cols].fill(bf16::from_f32(1e-35));
            let at = values.as_mut_ptr().cast();
            let x = View { at, rows: ROWS, cols, stride, kind: Kind::Bf16 };
            for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
                let staging = Staging { unit: Unit::Plain, offset: 8 };
                let (_memory, codes) = staging.share(isa, &pool, x);
                for row in 0..ROWS {
                    for (group, values) in values[row * stride..][..cols].chunks(GROUP).enumerate() {
                        // SAFETY: the row has so many groups.
                        let got = unsafe {
                            codes.row::<u8>(row).add(group * ROW_GROUP).cast::<[u8; ROW_GROUP]>().read()
                        };
                        assert_eq!(got, group_of(values), "{isa} {cols} columns, row {row}, group {group}");
                    }
                }
            }
        }
    }

    fn group_of(values: &[bf16]) -> [u8; ROW_GROUP] {
        let mut want = [0; ROW_GROUP];
        let most = values.iter().fold(0.0f32, |most, v| most.max(v.to_f32().abs()));
        let (scale, inverse) = if most < 1e-30 { (0.0, 0.0) } else { group_scale(most) };
        let mut sum = 0;
        for (to, v) in want.iter_mut().zip(values) {
            let code = (v.to_f32() * inverse).round_ties_even() as i8;
            let off = (v.to_f32() - scale * f32::from(code)).abs();
            assert!(off <= 0.5001 * scale || most < 1e-30);
            *to = code as u8;
            sum += i32::from(code);
        }
        want[GROUP..GROUP + 4].copy_from_slice(&scale.to_le_bytes());
        want[GROUP + 4..].copy_from_slice(&(-8 * sum).to_le_bytes());
        want
    }
}
