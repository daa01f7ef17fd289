//! Plain loops compiled for several instruction sets; the best one that the CPU has is taken when they run.
//!
//! A kernel is a struct of its arguments. Its loops run over arrays of `LANES` values, which the compiler turns into
//! one register of the instruction set in question.

/// Loops to compile for each instruction set.
pub(crate) trait Kernel {
    /// What they compute.
    type Output;

    /// `LANES` values fit a vector register; `FMA` says that multiply-add is one instruction. Must be
    /// `#[inline(always)]`, and so must everything that it calls in a loop.
    fn run<const LANES: usize, const FMA: bool>(self) -> Self::Output;
}

/// Run a kernel in its fastest form.
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls functions compiled for what the CPU has")
)]
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("fma")
        {
            // SAFETY: the CPU has all features of the function, just checked (AVX2 comes with AVX-512).
            return unsafe { run_avx512(kernel) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has both features, just checked.
            return unsafe { run_avx2(kernel) };
        }
    }
    if cfg!(target_arch = "aarch64") { kernel.run::<8, true>() } else { kernel.run::<8, false>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<16, true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<8, true>()
}

/// `a * b + c`, in one instruction where there is one.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `exp(x)` for `x` of -87 to 87, outside of it that of the nearer end; relative error below 3e-7.
///
/// `2^n` by the exponent's bits times a polynomial in `x - n ln 2` (Taylor to the sixth power).
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// Adding it leaves the nearest whole number in the low bits: 1.5 * 2^23.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 87.0);
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN_2_LOW, mul_add::<FMA>(n, -LN_2_HIGH, x));
    let mut p = 1.0 / 720.0;
    for factor in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = mul_add::<FMA>(p, r, factor);
    }
    // 127 is the exponent's offset; the shift drops all of `ROUND` but the number's low bits.
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_error() {
        for i in -8700..=8700 {
            let x = i as f32 / 100.0;
            for (got, fma) in [(exp::<true>(x), true), (exp::<false>(x), false)] {
                let want = f64::from(x).exp();
                let error = (f64::from(got) - want).abs() / want;
                assert!(error < 3e-7, "exp({x}) = {got}, fma {fma}, relative error {error}");
            }
        }
    }
}
