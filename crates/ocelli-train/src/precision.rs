//! In which numbers matrix products are computed.
//!
//! Mixed precision (arXiv 1710.03740, with bf16 in place of f16, arXiv 1905.12322): the operands of products are rounded,
//! forward and backward; weights, gradients and the state of the optimizer stay f32, so that no update is too small
//! to count. On the processor sums stay f32, too; other devices hand them back in bf16. Linears, dense convolutions and attention are such products; depthwise convolutions, norms, activations,
//! softmaxes and losses are computed in f32.

use std::borrow::Cow;
use std::cell::Cell;

use burn::tensor::{Device, FloatDType};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::cpu::Array;
use crate::cpu::rows::for_pieces;

/// What the operands of matrix products are rounded to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// They stay as they are.
    #[default]
    F32,
    /// The nearest of bf16, ties to even: 8 bits of mantissa.
    Bf16,
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// Puts back what held before.
struct Before(Precision);

impl Drop for Before {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

impl Precision {
    /// Do something whose products on this thread, and those of their backward passes, are of this precision.
    pub fn compute<T>(self, f: impl FnOnce() -> T) -> T {
        let _before = Before(CURRENT.replace(self));
        f()
    }

    /// Whether a device computes in it.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(self, device: &Device) -> Result<(), TrainError> {
        if self == Self::F32 || device.supports_dtype(FloatDType::BF16) {
            return Ok(());
        }
        let reason =
            "train.dtype is bf16, which this device does not compute in: use another one, or leave it out";
        Err(TrainError::Setting { reason: reason.into() })
    }

    /// Whether it is what recipes have that say nothing.
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// That of the products which are begun now.
    pub(crate) fn current() -> Self {
        CURRENT.get()
    }

    /// Values as operands.
    pub(crate) fn operand(self, values: &[f32]) -> Cow<'_, [f32]> {
        match self {
            Self::F32 => Cow::Borrowed(values),
            Self::Bf16 => {
                let mut rounded = vec![0.0; values.len()];
                for_pieces(&mut rounded, 1, |first, piece| {
                    let values = &values[first..][..piece.len()];
                    piece.iter_mut().zip(values).for_each(|(rounded, &value)| *rounded = to_bf16(value));
                });
                Cow::Owned(rounded)
            }
        }
    }

    /// A tensor as operand.
    pub(crate) fn operand_array(self, array: &Array) -> Array {
        match self {
            Self::F32 => array.clone(),
            Self::Bf16 => Array::of(self.operand(array.values()).into_owned(), array.shape()),
        }
    }

    /// Make operands of values, on this thread.
    pub(crate) fn round(self, values: &mut [f32]) {
        if self == Self::Bf16 {
            values.iter_mut().for_each(|value| *value = to_bf16(*value));
        }
    }
}

/// The nearest of bf16, ties to even.
#[inline(always)]
fn to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if value.is_nan() { value } else { f32::from_bits(rounded) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_as_half_rounds_them() {
        let special = [0.0, -0.0, 1.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY, f32::NEG_INFINITY];
        // Ties, both ways, and their neighbours.
        let ties = [0x3f80_8000, 0x3f81_8000, 0x3f80_7fff, 0x3f80_8001, 0xbf81_8000].map(f32::from_bits);
        let many = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)));
        for value in special.into_iter().chain(ties).chain(many).filter(|value| !value.is_nan()) {
            let expected = half::bf16::from_f32(value).to_f32();
            assert_eq!(to_bf16(value).to_bits(), expected.to_bits(), "{value:e}");
        }
        assert!(to_bf16(f32::NAN).is_nan());
        let values: Vec<f32> = (0..70_000).map(|i| i as f32 * 0.37).collect();
        let mut here = values.clone();
        Precision::Bf16.round(&mut here);
        assert_eq!(*Precision::Bf16.operand(&values), here);
        assert_eq!(*Precision::F32.operand(&values), values);
    }

    #[test]
    fn it_holds_for_its_work_alone() {
        Precision::Bf16.compute(|| {
            assert_eq!(Precision::current(), Precision::Bf16);
            Precision::F32.compute(|| assert_eq!(Precision::current(), Precision::F32));
            assert_eq!(Precision::current(), Precision::Bf16);
            let other = std::thread::spawn(Precision::current).join().expect("a precision");
            assert_eq!(other, Precision::F32);
        });
        assert_eq!(Precision::current(), Precision::F32);
    }
}
