//! Sixteen f32 lanes on every instruction set.
//!
//! Kernels are written once, generic over [`Simd`], and stamped out by [`Isa::dispatch`] for each
//! instruction set that the CPU may have. A vector is always sixteen lanes (one AVX-512 register,
//! two of AVX2, four of NEON or WebAssembly), so packed weights have one layout everywhere.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub(crate) use neon::Neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(crate) use wasm::Wasm;

use half::{bf16, f16};

use crate::Isa;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Operations on sixteen f32 lanes.
///
/// # Safety
/// Every function requires that the CPU has the instruction set, which [`Isa::dispatch`] has
/// checked, and that it is inlined into a function compiled for it. Pointers must be valid for
/// as many elements as the function says; they need no alignment.
pub(crate) unsafe trait Simd: Copy + 'static {
    /// Sixteen f32 values.
    type F: Copy;
    /// Rows of the matrix product's tile: accumulators must fit the registers.
    const TILE_ROWS: usize;
    /// Panels (sixteen columns each) of the matrix product's tile.
    const TILE_PANELS: usize;
    /// Output pixels that a depthwise convolution keeps in registers.
    const CONV_PIXELS: usize;
    /// Whether it multiplies bf16 by bf16.
    #[cfg(target_arch = "x86_64")]
    const BF16_PRODUCTS: bool = false;
    /// Whether [`Self::look_up_quarters`] is quick.
    const LOOKS_UP: bool = false;

    /// Run a kernel as a function of its own: what several kernels need is compiled once, and none of them becomes so
    /// long that the compiler takes minutes.
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Load `n <= 16` values; the other lanes are zero and are not read.
    unsafe fn load_partial(p: *const f32, n: usize) -> Self::F;
    /// Store the first `n <= 16` lanes.
    unsafe fn store_partial(p: *mut f32, n: usize, v: Self::F);
    unsafe fn load_bf16(p: *const bf16) -> Self::F;
    /// Round to the nearest bf16, ties to even.
    unsafe fn store_bf16(p: *mut bf16, v: Self::F);
    /// Load `n <= 16` values; the other lanes are zero and are not read.
    #[inline(always)]
    unsafe fn load_bf16_partial(p: *const bf16, n: usize) -> Self::F {
        let mut full = [bf16::ZERO; LANES];
        // SAFETY: the caller promises `n <= 16` readable values.
        unsafe {
            std::ptr::copy_nonoverlapping(p, full.as_mut_ptr(), n);
            Self::load_bf16(full.as_ptr())
        }
    }
    /// Store the first `n <= 16` lanes, rounded as by `store_bf16`.
    #[inline(always)]
    unsafe fn store_bf16_partial(p: *mut bf16, n: usize, v: Self::F) {
        let mut full = [bf16::ZERO; LANES];
        // SAFETY: the caller promises `n <= 16` writable values.
        unsafe {
            Self::store_bf16(full.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(full.as_ptr(), p, n);
        }
    }
    /// Eight values, each in two lanes that are neighbours.
    #[inline(always)]
    unsafe fn load_twice(p: *const f32) -> Self::F {
        let mut full = [0.0; LANES];
        // SAFETY: the caller promises eight readable values.
        unsafe {
            for lane in 0..LANES {
                full[lane] = *p.add(lane / 2);
            }
            Self::load(full.as_ptr())
        }
    }
    /// As `load_twice`.
    #[inline(always)]
    unsafe fn load_bf16_twice(p: *const bf16) -> Self::F {
        let mut full = [bf16::ZERO; LANES];
        // SAFETY: the caller promises eight readable values.
        unsafe {
            for lane in 0..LANES {
                full[lane] = *p.add(lane / 2);
            }
            Self::load_bf16(full.as_ptr())
        }
    }
    /// Store 32 values: `a`, then `b`, rounded as by `store_bf16`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 multiplies in bf16"))]
    #[inline(always)]
    unsafe fn store_bf16_line(p: *mut bf16, a: Self::F, b: Self::F) {
        // SAFETY: the caller promises 32 writable values.
        unsafe {
            Self::store_bf16(p, a);
            Self::store_bf16(p.add(LANES), b);
        }
    }
    /// Load 32 values `a0 b0 a1 b1 …` as `(a, b)`.
    unsafe fn load_bf16_pairs(p: *const bf16) -> (Self::F, Self::F);

    /// Store 32 values `a0 b0 a1 b1 …`, rounded as by `store_bf16`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 multiplies in bf16"))]
    #[inline(always)]
    unsafe fn store_bf16_pairs(p: *mut bf16, a: Self::F, b: Self::F) {
        let (mut first, mut second) = ([bf16::ZERO; LANES], [bf16::ZERO; LANES]);
        // SAFETY: the caller promises 32 writable values.
        unsafe {
            Self::store_bf16(first.as_mut_ptr(), a);
            Self::store_bf16(second.as_mut_ptr(), b);
            for lane in 0..LANES {
                *p.add(2 * lane) = first[lane];
                *p.add(2 * lane + 1) = second[lane];
            }
        }
    }
    /// `sum + a0 b0 + a1 b1` in each lane, where `a` and `b` hold two bf16 a lane: with [`Self::BF16_PRODUCTS`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn add_bf16_pairs(_sum: Self::F, _a: Self::F, _b: Self::F) -> Self::F {
        unreachable!("rows are staged in bf16 for CPUs that multiply it")
    }
    /// `a` and `b`, whose values are bf16, as pairs for [`Self::add_bf16_pairs`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn bf16_pairs(_a: Self::F, _b: Self::F) -> Self::F {
        unreachable!("pairs are for CPUs that multiply them")
    }
    /// Four lines of 32 bf16 from three of twelve bits a value, see [`crate::matmul::compact`]: with
    /// [`Self::BF16_PRODUCTS`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_twelve_bits(_p: *const u8, _table: Self::F) -> [Self::F; 4] {
        unreachable!("matrices are compact for CPUs that multiply bf16")
    }
    /// Whether [`Self::prefetch`] does anything; what works out where to ask is left out otherwise.
    const ASKS: bool = cfg!(not(target_arch = "wasm32"));
    /// Ask for a cache line that will be read soon, wherever the pointer points.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
    /// The same into the first-level cache: for what is read once, and soon enough.
    #[inline(always)]
    unsafe fn prefetch_near(p: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { Self::prefetch(p) }
    }
    /// Sixteen f16 values, exactly.
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self::F {
        let mut full = [0.0; LANES];
        // SAFETY: the caller promises sixteen readable values.
        unsafe {
            full.iter_mut().enumerate().for_each(|(lane, v)| *v = p.add(lane).read_unaligned().to_f32());
            Self::load(full.as_ptr())
        }
    }
    /// Sixteen signed bytes as f32.
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::F {
        let mut full = [0.0; LANES];
        // SAFETY: the caller promises sixteen readable values.
        unsafe {
            full.iter_mut().enumerate().for_each(|(lane, v)| *v = f32::from(*p.add(lane)));
            Self::load(full.as_ptr())
        }
    }
    /// Store the nearest integers, ties to even, beyond the range of a byte its ends.
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::F) {
        let mut full = [0.0; LANES];
        // SAFETY: the caller promises sixteen writable values.
        unsafe {
            Self::store(full.as_mut_ptr(), v);
            full.iter().enumerate().for_each(|(lane, v)| *p.add(lane) = v.round_ties_even() as i8);
        }
    }
    /// Four rows of sixteen bytes as sixteen groups of four, all bits of `flip` turned in each.
    #[cfg(not(target_arch = "wasm32"))]
    #[inline(always)]
    unsafe fn interleave_bytes(p: *const u8, flip: u32, to: *mut [u32; LANES]) {
        // SAFETY: the caller promises 64 readable bytes and sixteen writable words.
        unsafe {
            let rows = p.cast::<[[u8; LANES]; 4]>().read();
            let mut words = [0; LANES];
            for lane in 0..LANES {
                let four = [rows[0][lane], rows[1][lane], rows[2][lane], rows[3][lane]];
                words[lane] = u32::from_le_bytes(four) ^ flip;
            }
            to.write(words);
        }
    }
    /// The largest magnitude of `n` values, which is a number of the same kind.
    #[inline(always)]
    unsafe fn largest_bf16(p: *const bf16, n: usize) -> f32 {
        // SAFETY: the caller promises `n` readable values.
        unsafe {
            let mut most = Self::zero();
            for c in (0..n).step_by(LANES) {
                let v = if n - c < LANES {
                    Self::load_bf16_partial(p.add(c), n - c)
                } else {
                    Self::load_bf16(p.add(c))
                };
                most = Self::max(most, Self::max(v, Self::sub(Self::zero(), v)));
            }
            Self::reduce_max(most)
        }
    }
    /// 32 values times a factor, as by `store_i8`; `to` may be where they are.
    #[inline(always)]
    unsafe fn store_codes_bf16(p: *const bf16, factor: Self::F, to: *mut i8) {
        // SAFETY: the caller promises 32 readable values, 32 writable ones, and `factor` in each lane.
        unsafe {
            let (low, high) = (Self::load_bf16(p), Self::load_bf16(p.add(LANES)));
            Self::store_i8(to, Self::mul(low, factor));
            Self::store_i8(to.add(LANES), Self::mul(high, factor));
        }
    }
    /// Sixteen integers, rounded to f32.
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> Self::F {
        let mut full = [0.0; LANES];
        // SAFETY: the caller promises sixteen readable values.
        unsafe {
            full.iter_mut().enumerate().for_each(|(lane, v)| *v = *p.add(lane) as f32);
            Self::load(full.as_ptr())
        }
    }
    /// Four signed bits of each of sixteen words, those from bit `SHIFT` on, as f32.
    #[inline(always)]
    unsafe fn load_nibbles<const SHIFT: u32>(p: *const u32) -> Self::F {
        let mut full = [0.0; LANES];
        // SAFETY: the caller promises sixteen readable words.
        unsafe {
            for (lane, v) in full.iter_mut().enumerate() {
                let word = p.add(lane).read_unaligned();
                *v = ((word << (28 - SHIFT)) as i32 >> 28) as f32;
            }
            Self::load(full.as_ptr())
        }
    }

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `1 / a`, at most 2 ULP off, for normal `a`.
    unsafe fn reciprocal(a: Self::F) -> Self::F;
    /// `1 / a` with a relative error of at most 2^-14.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "nothing is stored in bf16 there"))]
    #[inline(always)]
    unsafe fn reciprocal_bf16(a: Self::F) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { Self::reciprocal(a) }
    }
    /// `a * b + c` with one rounding; on WebAssembly with two, or as its engine likes: see there.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of the magnitude of `a` and a positive `most`.
    #[inline(always)]
    unsafe fn magnitude_up_to(a: Self::F, most: Self::F) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { Self::min(Self::max(a, Self::sub(Self::zero(), a)), most) }
    }
    /// Of the piece that each lane is in, what three tables have. A piece is a quarter of -4..4; what is beyond is in the first
    /// or the last. The upper half of the pieces comes first in a table.
    #[inline(always)]
    unsafe fn look_up_quarters(x: Self::F, tables: &[[f32; 32]; 3]) -> [Self::F; 3] {
        let mut lanes = [0.0; LANES];
        let mut found = [[0.0; LANES]; 3];
        // SAFETY: the caller's promise.
        unsafe {
            Self::store(lanes.as_mut_ptr(), x);
            for (lane, x) in lanes.into_iter().enumerate() {
                let piece = (4.0 * x).floor().clamp(-16.0, 15.0) as i32;
                for (found, table) in found.iter_mut().zip(tables) {
                    found[lane] = table[(piece & 31) as usize];
                }
            }
            [Self::load(found[0].as_ptr()), Self::load(found[1].as_ptr()), Self::load(found[2].as_ptr())]
        }
    }
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `a * 2^n` for integral `n` in -126..=127.
    unsafe fn scale_by_power_of_two(a: Self::F, n: Self::F) -> Self::F;
    unsafe fn reduce_add(a: Self::F) -> f32;
    unsafe fn reduce_max(a: Self::F) -> f32;

    #[inline(always)]
    unsafe fn zero() -> Self::F {
        // SAFETY: the caller's promise is the callee's.
        unsafe { Self::splat(0.0) }
    }
}

/// A stored element: f32 or bf16. Vectors in registers are always f32.
pub(crate) trait Elem: Copy + Send + Sync + 'static {
    /// Sixteen values from memory.
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
    /// Sixteen values to memory.
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F);
    /// `n <= 16` values from memory, the other lanes zero.
    unsafe fn load_partial<S: Simd>(p: *const Self, n: usize) -> S::F;
    /// The first `n <= 16` lanes to memory.
    unsafe fn store_partial<S: Simd>(p: *mut Self, n: usize, v: S::F);
    fn from_f32(x: f32) -> Self;
}

impl Elem for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's promise is the callee's.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F) {
        // SAFETY: as above.
        unsafe { S::store(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(p: *const Self, n: usize) -> S::F {
        // SAFETY: as above.
        unsafe { S::load_partial(p, n) }
    }
    #[inline(always)]
    unsafe fn store_partial<S: Simd>(p: *mut Self, n: usize, v: S::F) {
        // SAFETY: as above.
        unsafe { S::store_partial(p, n, v) }
    }
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Elem for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's promise is the callee's.
        unsafe { S::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F) {
        // SAFETY: as above.
        unsafe { S::store_bf16(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(p: *const Self, n: usize) -> S::F {
        // SAFETY: the caller's promise is the callee's.
        unsafe { S::load_bf16_partial(p, n) }
    }
    #[inline(always)]
    unsafe fn store_partial<S: Simd>(p: *mut Self, n: usize, v: S::F) {
        // SAFETY: the caller's promise is the callee's.
        unsafe { S::store_bf16_partial(p, n, v) }
    }
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

/// A computation written once for all instruction sets. `run` must be `#[inline(always)]`.
///
/// The other methods compile it for one of them. They are methods, not functions beside [`Isa::dispatch`], because the
/// compiler puts a method beside its type: kernels of different files are then compiled at the same time.
pub(crate) trait Kernel: Sized {
    type Output;
    /// # Safety
    /// The CPU must have the instruction set `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;

    /// # Safety
    /// The CPU must have these features.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    unsafe fn on_avx512(self) -> Self::Output {
        // SAFETY: the caller has checked these features.
        unsafe { self.run::<Avx512<false>>() }
    }

    /// # Safety
    /// The CPU must have these features.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn on_avx512_bf16(self) -> Self::Output {
        // SAFETY: the caller has checked these features.
        unsafe { self.run::<Avx512<true>>() }
    }

    /// # Safety
    /// The CPU must have these features.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn on_avx2(self) -> Self::Output {
        // SAFETY: the caller has checked these features.
        unsafe { self.run::<Avx2>() }
    }

    /// # Safety
    /// `S` belongs to the target.
    #[cfg(not(target_arch = "x86_64"))]
    #[allow(dead_code, reason = "some targets have nothing but the reference")]
    #[inline(never)]
    unsafe fn on_target<S: Simd>(self) -> Self::Output {
        // SAFETY: the caller's promise.
        unsafe { self.run::<S>() }
    }
}

impl Isa {
    /// Run a kernel compiled for this instruction set.
    ///
    /// # Panics
    /// For [`Isa::Scalar`], which has the reference implementations instead of kernels.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: an `Isa` other than scalar is only made after detecting its features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { kernel.on_avx512() },
            // SAFETY: as above; with AMX the bf16 extension is checked as well.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => unsafe { kernel.on_avx512_bf16() },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { kernel.on_avx2() },
            // SAFETY: NEON belongs to the target.
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon => unsafe { kernel.on_target::<Neon>() },
            // SAFETY: simd128 is on for the whole module.
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Wasm => unsafe { kernel.on_target::<Wasm>() },
            Isa::Scalar => unreachable!("the scalar device runs reference implementations"),
        }
    }
}
