//! GELU in its exact form, `x Φ(x)` with the distribution function of the normal distribution.

use super::rows::for_pieces;
use super::simd::{self, Kernel, exp, mul_add};
use super::{Array, CpuOp};

/// The operation; its input is of any shape.
#[derive(Debug, Clone)]
pub(crate) struct Gelu;

/// Values of a row for dividing the work; the operation knows no rows.
const ROW: usize = 1024;

impl CpuOp<1> for Gelu {
    type Saved = ();

    fn forward(&self, [x]: &[Array; 1]) -> (Vec<f32>, Vec<usize>, ()) {
        let values = x.values();
        let mut out = vec![0.0; values.len()];
        for_pieces(&mut out, ROW.min(values.len()), |row, piece| {
            let x = &values[row * ROW.min(values.len())..][..piece.len()];
            simd::run(Forward { x, out: piece });
        });
        (out, x.shape().to_vec(), ())
    }

    fn backward(&self, [x]: &[Array; 1], (): &(), grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let values = x.values();
        let mut out = vec![0.0; values.len()];
        for_pieces(&mut out, ROW.min(values.len()), |row, piece| {
            let at = row * ROW.min(values.len());
            let (x, grad) = (&values[at..][..piece.len()], &grad[at..][..piece.len()]);
            simd::run(Slope { x, grad, out: piece });
        });
        [Some(out)]
    }
}

/// `Φ(x)` and `exp(-x²/2)`; absolute error of the first below 2e-7.
///
/// The error function by formula 7.1.26 of Abramowitz and Stegun, Handbook of Mathematical Functions, whose factor
/// `exp(-z²)` with `z = x/√2` is the second.
#[inline(always)]
fn normal<const FMA: bool>(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let bell = exp::<FMA>(-0.5 * x * x);
    let t = 1.0 / mul_add::<FMA>(0.327_591_1, z, 1.0);
    let mut p = 1.061_405_4;
    for factor in [-1.453_152, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        p = mul_add::<FMA>(p, t, factor);
    }
    let tail = 0.5 * p * t * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

struct Forward<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            *out = x * normal::<FMA>(x).0;
        }
    }
}

struct Slope<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Slope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        /// `1 / √(2π)`.
        const HEIGHT: f32 = 0.398_942_3;
        for ((out, &x), &grad) in self.out.iter_mut().zip(self.x).zip(self.grad) {
            let (area, bell) = normal::<FMA>(x);
            *out = grad * mul_add::<FMA>(x * HEIGHT, bell, area);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // Φ from tables.
        for (x, area) in
            [(0.0, 0.5), (1.0, 0.841_344_8), (-1.0, 0.158_655_25), (2.5, 0.993_790_3), (-9.0, 0.0)]
        {
            let got = normal::<true>(x).0;
            assert!((got - area).abs() < 2e-7, "Φ({x}) = {got}, not {area}");
        }
    }
}
