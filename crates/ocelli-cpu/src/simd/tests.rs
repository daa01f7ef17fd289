//! Every operation of every instruction set against plain Rust: all lengths, addresses of no alignment,
//! values at the edges.

use half::{bf16, f16};

use super::{Kernel, LANES, Simd};
use crate::Isa;

type Vector = [f32; LANES];

/// A kernel made of one vector function that the instruction set does not know of.
trait Check {
    /// # Safety
    /// The CPU has `S`.
    unsafe fn check<S: Simd>(&self, name: &str);
}

struct Run<'a, C>(&'a C, &'a str);

impl<C: Check> Kernel for Run<'_, C> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.check::<S>(self.1) }
    }
}

fn on_every_set(check: &impl Check) {
    for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
        isa.dispatch(Run(check, isa.name()));
    }
}

fn ramp(from: f32) -> Vector {
    std::array::from_fn(|lane| from + lane as f32)
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// Normal numbers of every sign, of magnitudes from 2^-30 to 2^30.
fn numbers(state: &mut u64) -> Vector {
    std::array::from_fn(|_| {
        let bits = random(state);
        let exponent = 127 - 30 + (bits >> 40) % 61;
        f32::from_bits((bits as u32 & 0x807f_ffff) | (exponent as u32) << 23)
    })
}

fn same(got: &[f32], want: &[f32], what: &str) {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(got), bits(want), "{what}: {got:?} instead of {want:?}");
}

struct Memory;

impl Check for Memory {
    #[inline(always)]
    unsafe fn check<S: Simd>(&self, name: &str) {
        let values: [f32; 3 * LANES] = std::array::from_fn(|i| i as f32 - 20.0);
        // SAFETY: `first + 16` values are in the arrays.
        unsafe {
            for first in 0..=LANES {
                let v = S::load(values.as_ptr().add(first));
                let mut out = [99.0; 3 * LANES];
                S::store(out.as_mut_ptr().add(first), v);
                same(&out[first..][..LANES], &values[first..][..LANES], name);
                assert!(out[..first].iter().chain(&out[first + LANES..]).all(|&v| v == 99.0), "{name}");
                for n in 0..=LANES {
                    let v = S::load_partial(values.as_ptr().add(first), n);
                    let mut out = [99.0; LANES];
                    S::store(out.as_mut_ptr(), v);
                    same(&out[..n], &values[first..][..n], name);
                    same(&out[n..], &[0.0; LANES][n..], name);
                    let mut out = [99.0; 3 * LANES];
                    S::store_partial(out.as_mut_ptr().add(first), n, v);
                    same(&out[first..][..n], &values[first..][..n], name);
                    assert!(out[..first].iter().chain(&out[first + n..]).all(|&v| v == 99.0), "{name}");
                }
            }
        }
    }
}

#[test]
fn loads_and_stores_touch_their_values_only() {
    on_every_set(&Memory);
}

struct MemoryBf16;

impl Check for MemoryBf16 {
    #[inline(always)]
    unsafe fn check<S: Simd>(&self, name: &str) {
        const OTHER: bf16 = bf16::from_f32_const(99.0);
        let values: [bf16; 3 * LANES] = std::array::from_fn(|i| bf16::from_f32(i as f32 - 20.0));
        let wide = values.map(bf16::to_f32);
        // SAFETY: `first + 16` values are in the arrays.
        unsafe {
            for first in 0..=LANES {
                let mut out = [99.0; LANES];
                S::store(out.as_mut_ptr(), S::load_bf16(values.as_ptr().add(first)));
                same(&out, &wide[first..][..LANES], name);
                for n in 0..=LANES {
                    let v = S::load_bf16_partial(values.as_ptr().add(first), n);
                    S::store(out.as_mut_ptr(), v);
                    same(&out[..n], &wide[first..][..n], name);
                    same(&out[n..], &[0.0; LANES][n..], name);
                    let mut narrow = [OTHER; 3 * LANES];
                    S::store_bf16_partial(narrow.as_mut_ptr().add(first), n, v);
                    assert_eq!(narrow[first..][..n], values[first..][..n], "{name}");
                    assert!(
                        narrow[..first].iter().chain(&narrow[first + n..]).all(|&v| v == OTHER),
                        "{name}"
                    );
                }
            }
            for first in 0..LANES {
                let twice: Vector = std::array::from_fn(|lane| wide[first + lane / 2]);
                let mut out = [99.0; LANES];
                S::store(out.as_mut_ptr(), S::load_bf16_twice(values.as_ptr().add(first)));
                same(&out, &twice, name);
                S::store(out.as_mut_ptr(), S::load_twice(wide.as_ptr().add(first)));
                same(&out, &twice, name);
            }
            for first in 0..LANES {
                let (a, b) = S::load_bf16_pairs(values.as_ptr().add(first));
                let (mut even, mut odd) = ([0.0; LANES], [0.0; LANES]);
                S::store(even.as_mut_ptr(), a);
                S::store(odd.as_mut_ptr(), b);
                for lane in 0..LANES {
                    same(&[even[lane], odd[lane]], &wide[first + 2 * lane..][..2], name);
                }
                let mut narrow = [OTHER; 3 * LANES];
                S::store_bf16_pairs(narrow.as_mut_ptr().add(first), a, b);
                assert_eq!(narrow[first..][..2 * LANES], values[first..][..2 * LANES], "{name}");
                let around = narrow[..first].iter().chain(&narrow[first + 2 * LANES..]);
                assert!(around.into_iter().all(|&v| v == OTHER), "{name}");
            }
        }
    }
}

#[test]
fn loads_and_stores_of_bf16_touch_their_values_only() {
    on_every_set(&MemoryBf16);
}

struct Rounding;

impl Check for Rounding {
    #[inline(always)]
    unsafe fn check<S: Simd>(&self, name: &str) {
        let mut state = 1;
        let mut all: Vec<Vector> = (0..200).map(|_| numbers(&mut state)).collect();
        // Ties to either side, the largest numbers, and what is no number.
        let edges =
            [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff, 0x7f7f_ffff, 0xff7f_8000, 0, 1 << 31];
        let special = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, 65504.0, 1.0, -1.0, 0.5];
        let both = edges.into_iter().map(f32::from_bits).chain(special);
        all.push(both.collect::<Vec<_>>().try_into().expect("sixteen"));
        for v in all {
            let want = v.map(bf16::from_f32);
            let is_right =
                |got: bf16, want: bf16| got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            let mut got = [bf16::ZERO; 2 * LANES];
            // SAFETY: whole vectors.
            unsafe {
                S::store_bf16(got.as_mut_ptr(), S::load(v.as_ptr()));
                assert!((0..LANES).all(|i| is_right(got[i], want[i])), "{name}: {v:?} became {got:?}");
                let other = S::load(ramp(3.0).as_ptr());
                S::store_bf16_line(got.as_mut_ptr(), other, S::load(v.as_ptr()));
                assert!(
                    (0..LANES).all(|i| is_right(got[LANES + i], want[i])),
                    "{name}: {v:?} became {got:?}"
                );
                assert_eq!(got[..LANES], ramp(3.0).map(bf16::from_f32), "{name}");
                S::store_bf16_pairs(got.as_mut_ptr(), S::load(v.as_ptr()), other);
                assert!((0..LANES).all(|i| is_right(got[2 * i], want[i])), "{name}: {v:?} became {got:?}");
                S::store_bf16_pairs(got.as_mut_ptr(), other, S::load(v.as_ptr()));
                assert!(
                    (0..LANES).all(|i| is_right(got[2 * i + 1], want[i])),
                    "{name}: {v:?} became {got:?}"
                );
            }
        }
    }
}

#[test]
fn bf16_is_rounded_to_nearest_even() {
    on_every_set(&Rounding);
}

struct Codes;

impl Check for Codes {
    #[inline(always)]
    unsafe fn check<S: Simd>(&self, name: &str) {
        let mut out = [0.0; LANES];
        // SAFETY: whole vectors; one lies at an odd address.
        unsafe {
            for first in (0..=u16::MAX).step_by(LANES) {
                let values: [f16; LANES] = std::array::from_fn(|i| f16::from_bits(first + i as u16));
                S::store(out.as_mut_ptr(), S::load_f16(values.as_ptr()));
                for (got, want) in out.iter().zip(values.map(f16::to_f32)) {
                    assert!(
                        got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                        "{name}: {want}"
                    );
                }
            }
            let bytes: [i8; 256 + LANES] = std::array::from_fn(|i| i as u8 as i8);
            for first in 0..256 {
                S::store(out.as_mut_ptr(), S::load_i8(bytes.as_ptr().add(first)));
                for lane in 0..LANES {
                    assert_eq!(out[lane], f32::from(bytes[first + lane]), "{name}");
                }
            }
            for v in [ramp(-8.0).map(|v| v * 20.0 + 0.5), ramp(-8.0).map(|v| v + 0.5)] {
                let mut codes = [77i8; LANES + 2];
                S::store_i8(codes.as_mut_ptr().add(1), S::load(v.as_ptr()));
                for lane in 0..LANES {
                    let code = v[lane].round_ties_even().clamp(-128.0, 127.0);
                    assert_eq!(f32::from(codes[lane + 1]), code, "{name}: {}", v[lane]);
                }
                assert_eq!((codes[0], codes[LANES + 1]), (77, 77), "{name}");
            }
            let sums: [i32; LANES] = std::array::from_fn(|i| (i as i32 - 7) * 16_777_217);
            S::store(out.as_mut_ptr(), S::load_i32(sums.as_ptr()));
            same(&out, &sums.map(|sum| sum as f32), name);
            #[cfg(not(target_arch = "wasm32"))]
            for first in 0..LANES {
                let mut words = [0; LANES];
                S::interleave_bytes(bytes.as_ptr().add(first).cast(), 0x8080_0102, &raw mut words);
                for lane in 0..LANES {
                    let four = std::array::from_fn(|row| bytes[first + row * LANES + lane] as u8);
                    assert_eq!(words[lane], u32::from_le_bytes(four) ^ 0x8080_0102, "{name}");
                }
            }
            let mut state = 3;
            for first in 0..LANES {
                let words: [u32; 2 * LANES] = std::array::from_fn(|_| random(&mut state) as u32);
                nibbles::<S, 0>(&words[first..], name);
                nibbles::<S, 4>(&words[first..], name);
                nibbles::<S, 8>(&words[first..], name);
                nibbles::<S, 12>(&words[first..], name);
                nibbles::<S, 16>(&words[first..], name);
                nibbles::<S, 20>(&words[first..], name);
                nibbles::<S, 24>(&words[first..], name);
                nibbles::<S, 28>(&words[first..], name);
            }
        }
    }
}

/// # Safety
/// Sixteen words; the CPU has `S`.
#[inline(always)]
unsafe fn nibbles<S: Simd, const SHIFT: u32>(words: &[u32], name: &str) {
    let mut out = [0.0; LANES];
    // SAFETY: the caller's promise.
    unsafe { S::store(out.as_mut_ptr(), S::load_nibbles::<SHIFT>(words.as_ptr())) };
    for lane in 0..LANES {
        let code = (words[lane] >> SHIFT & 15) as i32;
        assert_eq!(out[lane], (if code < 8 { code } else { code - 16 }) as f32, "{name}, bit {SHIFT}");
    }
}

#[test]
fn codes_are_widened_exactly() {
    on_every_set(&Codes);
}

struct Arithmetic;

/// The multiply-add among its results.
const FMA: usize = 5;

impl Arithmetic {
    /// Results of the operations on `a`, `b` and `c`, with their names.
    ///
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    unsafe fn all<S: Simd>(a: &Vector, b: &Vector, c: &Vector) -> [Vector; 8] {
        let mut out = [[0.0; LANES]; 8];
        // SAFETY: whole vectors.
        unsafe {
            let (a, b, c) = (S::load(a.as_ptr()), S::load(b.as_ptr()), S::load(c.as_ptr()));
            S::store(out[0].as_mut_ptr(), S::add(a, b));
            S::store(out[1].as_mut_ptr(), S::sub(a, b));
            S::store(out[2].as_mut_ptr(), S::mul(a, b));
            S::store(out[3].as_mut_ptr(), S::min(a, b));
            S::store(out[4].as_mut_ptr(), S::max(a, b));
            S::store(out[FMA].as_mut_ptr(), S::fma(a, b, c));
            S::store(out[6].as_mut_ptr(), S::round(a));
            let most = S::max(b, S::sub(S::zero(), b));
            S::store(out[7].as_mut_ptr(), S::magnitude_up_to(a, most));
        }
        out
    }

    fn plain(a: &Vector, b: &Vector, c: &Vector, fused: bool) -> [Vector; 8] {
        let of = |f: &dyn Fn(f32, f32) -> f32| std::array::from_fn(|i| f(a[i], b[i]));
        let fma = std::array::from_fn(|i| if fused { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] });
        [
            of(&|a, b| a + b),
            of(&|a, b| a - b),
            of(&|a, b| a * b),
            of(&f32::min),
            of(&f32::max),
            fma,
            a.map(f32::round_ties_even),
            of(&|a, b| a.abs().min(b.abs())),
        ]
    }
}

impl Check for Arithmetic {
    #[inline(always)]
    unsafe fn check<S: Simd>(&self, name: &str) {
        let mut state = 2;
        let mut all: Vec<[Vector; 3]> =
            (0..200).map(|_| std::array::from_fn(|_| numbers(&mut state))).collect();
        // Halves between integers, and numbers that have no fraction.
        all.push([ramp(-8.0).map(|v| v + 0.5), ramp(1e7), ramp(-3.5)]);
        for [a, b, c] in all {
            // SAFETY: the caller's promise.
            let got = unsafe { Self::all::<S>(&a, &b, &c) };
            let mut want = Self::plain(&a, &b, &c, name != "wasm");
            if cfg!(target_feature = "relaxed-simd") {
                // The engine may fuse or not, but nothing else.
                let fused = Self::plain(&a, &b, &c, true)[FMA];
                let pairs = want[FMA].iter_mut().zip(fused).zip(got[FMA]);
                pairs
                    .filter(|((_, fused), got)| fused.to_bits() == got.to_bits())
                    .for_each(|((w, f), _)| *w = f);
            }
            for (op, (got, want)) in got.iter().zip(&want).enumerate() {
                same(got, want, &format!("{name}, operation {op}"));
            }
        }
    }
}

#[test]
fn arithmetic_rounds_as_it_should() {
    on_every_set(&Arithmetic);
}

struct Functions;

impl Check for Functions {
    #[inline(always)]
    unsafe fn check<S: Simd>(&self, name: &str) {
        let mut state = 4;
        let mut out = [0.0f32; LANES];
        for _ in 0..200 {
            let a = numbers(&mut state);
            // SAFETY: whole vectors.
            unsafe { S::store(out.as_mut_ptr(), S::reciprocal(S::load(a.as_ptr()))) };
            for (&a, got) in a.iter().zip(out) {
                let ulps = i64::from(got.to_bits()) - i64::from((1.0 / a).to_bits());
                assert!(ulps.abs() <= 2, "{name}: 1/{a} is off by {ulps}");
            }
            // SAFETY: whole vectors.
            unsafe { S::store(out.as_mut_ptr(), S::reciprocal_bf16(S::load(a.as_ptr()))) };
            for (&a, got) in a.iter().zip(out) {
                let error = f64::from(got) * f64::from(a) - 1.0;
                assert!(error.abs() <= 2.0_f64.powi(-14), "{name}: 1/{a} is off by {error}");
            }
        }
        for first in (-126..=112).step_by(14) {
            let n = ramp(first as f32);
            // SAFETY: whole vectors.
            unsafe {
                S::store(out.as_mut_ptr(), S::scale_by_power_of_two(S::splat(-1.5), S::load(n.as_ptr())))
            };
            same(&out, &n.map(|n| -1.5 * n.exp2()), name);
        }
        for place in 0..LANES {
            let mut a = ramp(-40.0);
            a[place] = 7.0;
            // SAFETY: whole vectors.
            let (sum, max) = unsafe {
                let a = S::load(a.as_ptr());
                (S::reduce_add(a), S::reduce_max(a))
            };
            assert_eq!((sum, max), (a.iter().sum(), 7.0), "{name}");
            a[place] = f32::NEG_INFINITY;
            // SAFETY: as above.
            let max = unsafe { S::reduce_max(S::load(a.as_ptr())) };
            assert_eq!(max, if place == LANES - 1 { -26.0 } else { -25.0 }, "{name}");
        }
        // SAFETY: the caller's promise.
        let zero = unsafe { S::reduce_add(S::zero()) };
        assert_eq!(zero, 0.0);
    }
}

#[test]
fn reciprocals_powers_and_reductions() {
    on_every_set(&Functions);
}

struct LookUps;

impl Check for LookUps {
    #[inline(always)]
    unsafe fn check<S: Simd>(&self, name: &str) {
        let tables: [[f32; 32]; 3] =
            std::array::from_fn(|table| std::array::from_fn(|piece| (100 * table + piece) as f32));
        let mut state = 6;
        let mut all: Vec<Vector> = (0..200).map(|_| numbers(&mut state)).collect();
        // Every border of a piece and its neighbours, and beyond.
        for border in -18..=18 {
            let at = border as f32 / 4.0;
            all.push(std::array::from_fn(|lane| [at.next_down(), at, at.next_up(), at + 0.1][lane % 4]));
        }
        all.push(std::array::from_fn(|lane| [f32::MAX, f32::MIN, -0.0, 0.0][lane % 4]));
        for x in all {
            let mut got = [[0.0; LANES]; 3];
            // SAFETY: whole vectors.
            unsafe {
                let found = S::look_up_quarters(S::load(x.as_ptr()), &tables);
                for (got, found) in got.iter_mut().zip(found) {
                    S::store(got.as_mut_ptr(), found);
                }
            }
            for (table, got) in tables.iter().zip(&got) {
                let want = x.map(|x| {
                    let piece = (f64::from(x) * 4.0).floor().clamp(-16.0, 15.0) as i32;
                    table[piece.rem_euclid(32) as usize]
                });
                same(got, &want, &format!("{name}, {x:?}"));
            }
        }
    }
}

#[test]
fn look_ups_find_the_piece_that_a_value_is_in() {
    on_every_set(&LookUps);
}
