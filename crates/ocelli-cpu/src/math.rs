//! Elementary functions on sixteen lanes.
//!
//! Error bounds are stated against f64 and checked by the tests below.

use ocelli_plan::Activation;

use crate::simd::{LANES, Simd};
use crate::view::Kind;

/// `e^x`, at most 2 ULP off for x in -87..=88; below it goes to zero, above it stays at e^88.
///
/// Method: `x = n ln 2 + r` with `|r| <= ln 2 / 2`, a polynomial for `e^r`, then `2^n` by exponent.
/// The polynomial and the split of ln 2 are those of Cephes `expf` (Moshier, netlib.org/cephes).
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        let x = S::min(S::max(x, S::splat(-87.3)), S::splat(88.0));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-LN2_HIGH), x);
        let r = S::fma(n, S::splat(-LN2_LOW), r);
        let mut p = S::splat(COEFFICIENTS[0]);
        for &c in &COEFFICIENTS[1..] {
            p = S::fma(p, r, S::splat(c));
        }
        let e = S::add(S::fma(S::mul(r, r), p, r), S::splat(1.0));
        S::scale_by_power_of_two(e, n)
    }
}

/// `2^x` for results that are rounded to bf16: relative error at most 8e-5 for `x` up to 127; below -126 it stays there.
#[cfg(any(not(target_arch = "wasm32"), test))]
#[inline(always)]
pub(crate) unsafe fn exp2_bf16<S: Simd>(x: S::F) -> S::F {
    // The cubic of the lowest largest relative error on -1/2..=1/2.
    const COEFFICIENTS: [f32; 4] = [5.517_166e-2, 2.426_111_3e-1, 6.932_61e-1, 9.999_28e-1];
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        let x = S::max(x, S::splat(-126.0));
        let n = S::round(x);
        let r = S::sub(x, n);
        let mut p = S::splat(COEFFICIENTS[0]);
        for &c in &COEFFICIENTS[1..] {
            p = S::fma(p, r, S::splat(c));
        }
        S::scale_by_power_of_two(p, n)
    }
}

/// The largest of `n` values in each lane, `n` a multiple of sixteen; minus infinity of none. Four chains, or each vector
/// would wait for the one before.
///
/// # Safety
/// `n` values at `x`; the CPU has `S`.
#[inline(always)]
pub(crate) unsafe fn largest_lanes<S: Simd>(x: *const f32, n: usize) -> S::F {
    // SAFETY: the caller's promise.
    unsafe {
        let mut most = [S::splat(f32::NEG_INFINITY); 4];
        let even = n - n % (4 * LANES);
        for c in (0..even).step_by(4 * LANES) {
            for (i, chain) in most.iter_mut().enumerate() {
                *chain = S::max(*chain, S::load(x.add(c + i * LANES)));
            }
        }
        for c in (even..n).step_by(LANES) {
            most[0] = S::max(most[0], S::load(x.add(c)));
        }
        S::max(S::max(most[0], most[1]), S::max(most[2], most[3]))
    }
}

/// `erf(x)`, absolute error at most 4e-7; 4.5e-7 on WebAssembly, where products are rounded.
///
/// A rational function on -4..=4, where erf has reached +-1 in f32; coefficients are those of
/// Eigen's `generic_fast_erf_float` (eigen.tuxfamily.org, MathFunctionsImpl.h).
#[inline(always)]
pub(crate) unsafe fn erf<S: Simd>(x: S::F) -> S::F {
    const NUMERATOR: [f32; 7] = [
        -2.726_142_4e-10,
        2.770_681_5e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_2e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const DENOMINATOR: [f32; 5] =
        [-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329_3e-3, -1.426_474e-2];
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        let x = S::min(S::max(x, S::splat(-4.0)), S::splat(4.0));
        let x2 = S::mul(x, x);
        let mut p = S::splat(NUMERATOR[0]);
        for &c in &NUMERATOR[1..] {
            p = S::fma(p, x2, S::splat(c));
        }
        let mut q = S::splat(DENOMINATOR[0]);
        for &c in &DENOMINATOR[1..] {
            q = S::fma(q, x2, S::splat(c));
        }
        S::mul(S::mul(x, p), S::reciprocal(q))
    }
}

/// `1 / (1 + e^-x)`, absolute error at most 2e-7.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        let one = S::splat(1.0);
        S::reciprocal(S::add(one, exp::<S>(S::sub(S::zero(), x))))
    }
}

/// GELU of finite values for results that are rounded to bf16: absolute error at most 3.4e-4, and near zero half a unit
/// in bf16's last place of the result. Half the work of the exact one, or less.
#[inline(always)]
pub(crate) unsafe fn gelu_bf16<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller guarantees the instruction set.
    unsafe { if S::LOOKS_UP { gelu_pieces::<S>(x) } else { gelu_tail::<S>(x) } }
}

/// Method: a quadratic of the lowest largest error, at most 7e-5, in each piece of a quarter of -3.75..=3.75, nothing below,
/// `x` above. While there are products in tiles, a core computes half as many multiplications of vectors as else, but as many
/// look-ups: these four and two additions go beside three multiplications; [`gelu_tail`] has nine.
#[inline(always)]
unsafe fn gelu_pieces<S: Simd>(x: S::F) -> S::F {
    /// Coefficients of 1, `x` and `x^2` from 0 on. GELU is `x / 2` and an even function, so those below follow.
    const UPPER: [[f32; 3]; 16] = [
        [0.0, 0.500_199_44, 0.394_814_97],
        [-3.409_905e-3, 0.525_973_14, 0.344_792_78],
        [-0.024_282_12, 0.608_062_45, 0.263_688_47],
        [-0.078_294_43, 0.751_623, 0.168_078_63],
        [-0.167_556_4, 0.930_490_4, 0.078_357_875],
        [-0.274_492_14, 1.102_428_2, 9.189_164e-3],
        [-0.368_978_2, 1.229_378_8, -0.033_475_596],
        [-0.423_238_55, 1.292_205, -0.051_666_63],
        [-0.424_446_08, 1.293_94, -0.052_232_616],
        [-0.378_195_2, 1.253_067_3, -0.043_200_746],
        [-0.302_798, 1.192_781_8, -0.031_147_648],
        [-0.219_620_94, 1.132_212, -0.020_119_043],
        [-0.145_188_06, 1.082_480_5, -0.011_810_969],
        [-0.087_894_62, 1.047_125, -6.355_901_7e-3],
        [-0.048_906_61, 1.024_775_6, -3.152_722_3e-3],
        [0.0, 1.0, 0.0],
    ];
    const PIECES: [[f32; 32]; 3] = {
        let mut pieces = [[0.0; 32]; 3];
        let mut i = 0;
        while i < 16 {
            let [one, x, square] = UPPER[i];
            (pieces[0][i], pieces[1][i], pieces[2][i]) = (one, x, square);
            (pieces[0][31 - i], pieces[1][31 - i], pieces[2][31 - i]) = (one, 1.0 - x, square);
            i += 1;
        }
        pieces
    };
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        let [one, first, square] = S::look_up_quarters(x, &PIECES);
        S::fma(S::fma(square, x, first), x, one)
    }
}

/// Method: `max(x, 0) - u Q(u)` with `u = min(|x|, 4)` and a polynomial of the lowest largest error for the normal
/// distribution's upper tail `Q`, whose value at 0 is kept. Absolute error at most 2.2e-4.
#[inline(always)]
unsafe fn gelu_tail<S: Simd>(x: S::F) -> S::F {
    // Those of -Q.
    const TAIL: [f32; 7] =
        [6.444_006e-4, -9.951_225e-3, 5.778_515_3e-2, -1.407_692e-1, 4.432_38e-2, 3.894_119_3e-1, -0.5];
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        let u = S::magnitude_up_to(x, S::splat(4.0));
        let mut q = S::splat(TAIL[0]);
        for &c in &TAIL[1..] {
            q = S::fma(q, u, S::splat(c));
        }
        S::fma(u, q, S::max(x, S::zero()))
    }
}

/// `x / (1 + e^-x)` for results that are rounded to bf16: relative error at most 2e-4 from -87 on, below it stays there.
#[cfg(any(not(target_arch = "wasm32"), test))]
#[inline(always)]
pub(crate) unsafe fn silu_bf16<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        let x = S::max(x, S::splat(-87.0));
        let e = exp2_bf16::<S>(S::mul(x, S::splat(-std::f32::consts::LOG2_E)));
        S::mul(x, S::reciprocal_bf16(S::add(e, S::splat(1.0))))
    }
}

/// The activation of an epilogue; GELU's absolute error is at most 4e-7 times `max(1, |x|)`.
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(activation: Activation, x: S::F) -> S::F {
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        match activation {
            Activation::None => x,
            Activation::Gelu => {
                let e = erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
                let half = S::mul(x, S::splat(0.5));
                S::fma(half, e, half)
            }
            Activation::Silu => S::mul(x, sigmoid::<S>(x)),
            Activation::QuickGelu => S::mul(x, sigmoid::<S>(S::mul(x, S::splat(1.702)))),
        }
    }
}

/// The activation of some vectors whose results are stored as `out`.
#[cfg_attr(target_arch = "wasm32", inline(never))]
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub(crate) unsafe fn activate_rows<S: Simd, const N: usize>(
    activation: Activation,
    out: Kind,
    v: &mut [S::F; N],
) {
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        match (activation, out) {
            (Activation::None, _) => {}
            (Activation::Gelu, Kind::Bf16) => {
                for v in v {
                    *v = gelu_bf16::<S>(*v);
                }
            }
            // Long enough to be worth a loop: unrolled in every tile of every product, they would be most of the program.
            (other, _) => {
                for v in v.iter_mut().take(std::hint::black_box(N)) {
                    *v = activate::<S>(other, *v);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::Kernel;

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Erf,
        Sigmoid,
        Activate(Activation),
        GeluTail,
        GeluPieces,
        Exp2Bf16,
        SiluBf16,
    }

    struct Apply<'a>(Function, &'a mut [f32]);

    impl Kernel for Apply<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for chunk in self.1.chunks_mut(LANES) {
                // SAFETY: partial access is bounded by the chunk's length.
                unsafe {
                    let x = S::load_partial(chunk.as_ptr(), chunk.len());
                    let y = match self.0 {
                        Function::Exp => exp::<S>(x),
                        Function::Erf => erf::<S>(x),
                        Function::Sigmoid => sigmoid::<S>(x),
                        Function::Activate(a) => activate::<S>(a, x),
                        Function::GeluTail => gelu_tail::<S>(x),
                        Function::GeluPieces => gelu_pieces::<S>(x),
                        Function::Exp2Bf16 => exp2_bf16::<S>(x),
                        Function::SiluBf16 => silu_bf16::<S>(x),
                    };
                    S::store_partial(chunk.as_mut_ptr(), chunk.len(), y);
                }
            }
        }
    }

    /// Largest `|got - want| / max(floor, |want|)` over a sweep of `range` on every instruction set.
    fn worst(function: Function, range: f32, floor: f64, want: impl Fn(f64) -> f64) -> f64 {
        let xs: Vec<f32> = (0..40_001).map(|i| (i as f32 / 20_000.0 - 1.0) * range).collect();
        let mut worst = 0.0f64;
        for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
            let mut ys = xs.clone();
            isa.dispatch(Apply(function, &mut ys));
            for (&x, &y) in xs.iter().zip(&ys) {
                let w = want(f64::from(x));
                worst = worst.max((f64::from(y) - w).abs() / w.abs().max(floor));
            }
        }
        worst
    }

    #[test]
    fn exp_is_within_two_ulp() {
        assert!(worst(Function::Exp, 87.0, 1e-37, f64::exp) < 2.5e-7);
    }

    #[test]
    fn erf_is_within_its_bound() {
        let bound = if cfg!(target_arch = "wasm32") { 4.5e-7 } else { 4e-7 };
        assert!(worst(Function::Erf, 6.0, 1.0, libm::erf) < bound);
    }

    #[test]
    fn sigmoid_is_within_its_bound() {
        assert!(worst(Function::Sigmoid, 90.0, 1.0, |x| 1.0 / (1.0 + (-x).exp())) < 2e-7);
    }

    #[test]
    fn the_power_of_two_of_bf16_is_within_its_bound() {
        assert!(worst(Function::Exp2Bf16, 125.0, 1e-38, f64::exp2) < 8e-5);
    }

    #[test]
    fn the_silu_of_bf16_is_within_its_bound() {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        assert!(worst(Function::SiluBf16, 80.0, 1e-33, silu) < 2e-4);
        assert!(worst(Function::SiluBf16, 1e30, 1.0, silu) < 2e-4);
    }

    fn gelu(x: f64) -> f64 {
        0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))
    }

    #[test]
    fn the_gelus_of_bf16_are_within_their_bounds() {
        for (function, inner, far) in
            [(Function::GeluTail, 2.2e-4, 2.2e-4), (Function::GeluPieces, 7e-5, 3.4e-4)]
        {
            assert!(worst(function, 3.7, 1.0, gelu) < inner);
            assert!(worst(function, 8.0, 1.0, gelu) < far);
            assert!(worst(function, 0.25, 1e-30, gelu) < 2.0_f64.powi(-9));
            // Far out it is the identity or nothing, for any number.
            assert!(worst(function, 1e30, 1.0, gelu) < far);
        }
    }

    #[test]
    fn activations_are_within_their_bounds() {
        assert!(worst(Function::Activate(Activation::Gelu), 8.0, 1.0, gelu) < 1e-6);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        assert!(worst(Function::Activate(Activation::Silu), 30.0, 1.0, silu) < 4e-7);
        let quick = |x: f64| x / (1.0 + (-1.702 * x).exp());
        assert!(worst(Function::Activate(Activation::QuickGelu), 30.0, 1.0, quick) < 4e-7);
    }
}
