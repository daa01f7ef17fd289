//! Panels of quantized columns as bytes that are multiplied four `k` at a time.

use super::super::blocks::{Blocks, Codes, GROUP, Q4, Q8};
use crate::simd::{LANES, Simd};

/// Bytes of a group of sixteen columns: `[8][16][4]` codes, then the scales of the columns in f32.
pub(super) const PANEL_GROUP: usize = GROUP * LANES + LANES * size_of::<f32>();

/// Codes that can be written as bytes.
pub(in super::super) trait Unpack: Codes {
    /// What the bytes are above the values of their codes, for instructions that take them unsigned.
    const OFFSET: i32;

    /// Write one group of a panel, the four `k` of a column side by side.
    ///
    /// # Safety
    /// A group at `at`, room for eight lines at `to`; the CPU has `S`.
    unsafe fn unpack<S: Simd>(at: *const u8, to: *mut [u32; LANES]);
}

impl Unpack for Q8 {
    const OFFSET: i32 = if cfg!(target_arch = "x86_64") { 128 } else { 0 };

    #[inline(always)]
    unsafe fn unpack<S: Simd>(at: *const u8, to: *mut [u32; LANES]) {
        let flip = 0x0101_0101 * Self::OFFSET as u32;
        for quad in 0..GROUP / 4 {
            // SAFETY: the caller's promise.
            unsafe { S::interleave_bytes(at.add(quad * 4 * LANES), flip, to.add(quad)) };
        }
    }
}

impl Unpack for Q4 {
    const OFFSET: i32 = 8;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(at: *const u8, to: *mut [u32; LANES]) {
        for word in 0..GROUP / 8 {
            // SAFETY: the caller's promise.
            unsafe {
                let codes = at.cast::<[u32; LANES]>().add(word).read_unaligned();
                let (mut low, mut high) = ([0; LANES], [0; LANES]);
                for lane in 0..LANES {
                    let shifted = codes[lane] ^ 0x8888_8888;
                    low[lane] = spread(shifted & 0xffff);
                    high[lane] = spread(shifted >> 16);
                }
                to.add(2 * word).write(low);
                to.add(2 * word + 1).write(high);
            }
        }
    }
}

/// Four halves of a byte to the bytes of a word.
#[inline(always)]
fn spread(four: u32) -> u32 {
    let pairs = (four | four << 8) & 0x00ff_00ff;
    (pairs | pairs << 4) & 0x0f0f_0f0f
}

/// Write a panel as [`PANEL_GROUP`] says.
///
/// # Safety
/// The panel exists; there is room for it; the CPU has `S`.
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd, C: Unpack>(b: Blocks<C>, panel: usize, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let (codes, scales) = b.panel(panel);
        for group in 0..b.groups {
            let to = to.add(group * PANEL_GROUP);
            C::unpack::<S>(codes.add(group * C::BYTES), to.cast());
            S::store(to.add(GROUP * LANES).cast(), S::load_f16(scales.add(group * LANES)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use half::f16;

    use super::super::super::blocks::plain_code;
    use super::*;
    use crate::Isa;
    use crate::simd::Kernel;

    const GROUPS: usize = 3;

    struct Unpacked<'a, C>(&'a [u8], PhantomData<C>);

    impl<C: Unpack> Kernel for Unpacked<'_, C> {
        type Output = Vec<u8>;

        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> Vec<u8> {
            let panel_stride = GROUPS * (C::BYTES + LANES * size_of::<f16>());
            let blocks =
                Blocks::<C> { at: self.0.as_ptr(), panel_stride, groups: GROUPS, codes: PhantomData };
            let mut to = vec![0u32; 2 * GROUPS * PANEL_GROUP / 4];
            let mut bytes = Vec::new();
            for panel in 0..2 {
                // SAFETY: two panels, and room for one.
                unsafe { unpack::<S, C>(blocks, panel, to.as_mut_ptr().cast()) };
                bytes.extend(to[..GROUPS * PANEL_GROUP / 4].iter().flat_map(|word| word.to_le_bytes()));
            }
            bytes
        }
    }

    /// `code` is that of `k` and of a column in the codes of a group.
    fn check<C: Unpack>(code: impl Fn(&[u8], usize, usize) -> i32) {
        let scales = |group: usize| (0..LANES).map(move |i| f16::from_f32((group * LANES + i) as f32));
        let panel = |number: usize| {
            let codes = (0..GROUPS * C::BYTES).map(move |i| (i * 37 + number * 11 + i / 7) as u8);
            codes.chain((0..GROUPS).flat_map(scales).flat_map(|scale| scale.to_le_bytes()))
        };
        let packed: Vec<u8> = (0..2).flat_map(panel).collect();
        for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
            let bytes = isa.dispatch(Unpacked::<C>(&packed, PhantomData));
            for (i, group) in bytes.chunks_exact(PANEL_GROUP).enumerate() {
                let at = i / GROUPS * (packed.len() / 2) + i % GROUPS * C::BYTES;
                for (k, col) in (0..GROUP).flat_map(|k| (0..LANES).map(move |col| (k, col))) {
                    let byte = group[(k / 4 * LANES + col) * 4 + k % 4];
                    let want = code(&packed[at..], k, col) + C::OFFSET;
                    assert_eq!(byte, want as u8, "{isa} group {i}, k {k}, column {col}");
                }
                for (got, want) in group[GROUP * LANES..].chunks_exact(4).zip(scales(i % GROUPS)) {
                    assert_eq!(got, want.to_f32().to_le_bytes(), "{isa} group {i}");
                }
            }
        }
    }

    #[test]
    fn bytes_are_the_codes() {
        check::<Q8>(plain_code::q8);
        check::<Q4>(plain_code::q4);
    }
}
