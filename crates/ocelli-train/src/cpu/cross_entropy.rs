//! Cross entropy of rows of logits: the mean over the rows that have a label.

use std::sync::Arc;

use rayon::prelude::*;

use super::rows::{for_pieces, piece_rows};
use super::simd::{self, Kernel, exp};
use super::{Array, CpuOp};

/// The operation; its input is `[rows, classes]`, its output `[1]`.
#[derive(Debug, Clone)]
pub(crate) struct CrossEntropy {
    /// One a row; a negative one says that the row does not count.
    pub(crate) labels: Arc<Vec<i32>>,
}

impl CrossEntropy {
    fn count(&self) -> usize {
        self.labels.iter().filter(|&&label| label >= 0).count()
    }
}

/// Greatest value and logarithm of the sum of exponentials above it.
fn log_sum(row: &[f32]) -> (f32, f32) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (max, simd::run(ExpSum { row, max }).ln() as f32)
}

struct ExpSum<'a> {
    row: &'a [f32],
    max: f32,
}

impl Kernel for ExpSum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) -> f64 {
        let mut total = 0.0;
        for piece in self.row.chunks(256 * LANES) {
            let mut sums = [0.0f32; LANES];
            let mut vectors = piece.chunks_exact(LANES);
            for vector in &mut vectors {
                for lane in 0..LANES {
                    sums[lane] += exp::<FMA>(vector[lane] - self.max);
                }
            }
            let rest: f32 = vectors.remainder().iter().map(|&x| exp::<FMA>(x - self.max)).sum();
            total += f64::from(sums.iter().sum::<f32>() + rest);
        }
        total
    }
}

/// `(softmax - one at the label) * scale`.
struct Slope<'a> {
    row: &'a [f32],
    shift: f32,
    scale: f32,
    out: &'a mut [f32],
}

impl Kernel for Slope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const LANES: usize, const FMA: bool>(self) {
        for (out, &x) in self.out.iter_mut().zip(self.row) {
            *out = exp::<FMA>(x - self.shift) * self.scale;
        }
    }
}

impl CpuOp<1> for CrossEntropy {
    type Saved = ();

    fn forward(&self, [logits]: &[Array; 1]) -> (Vec<f32>, Vec<usize>, ()) {
        let (classes, step) = (logits.columns(), piece_rows(self.labels.len(), logits.columns()));
        let parts: Vec<f64> = logits
            .values()
            .par_chunks(step * classes)
            .zip(self.labels.par_chunks(step))
            .map(|(rows, labels)| {
                let counted = rows.chunks_exact(classes).zip(labels).filter(|(_, label)| **label >= 0);
                counted
                    .map(|(row, &label)| {
                        let (max, log) = log_sum(row);
                        f64::from(log) + f64::from(max) - f64::from(row[label as usize])
                    })
                    .sum()
            })
            .collect();
        let mean = parts.iter().sum::<f64>() / self.count().max(1) as f64;
        (vec![mean as f32], vec![1], ())
    }

    fn backward(&self, [logits]: &[Array; 1], (): &(), grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let classes = logits.columns();
        let scale = grad[0] / self.count().max(1) as f32;
        let mut out = vec![0.0; logits.values().len()];
        for_pieces(&mut out, classes, |first, piece| {
            for (i, out) in piece.chunks_exact_mut(classes).enumerate() {
                let label = self.labels[first + i];
                if label < 0 {
                    continue;
                }
                let row = &logits.values()[(first + i) * classes..][..classes];
                let (max, log) = log_sum(row);
                simd::run(Slope { row, shift: max + log, scale, out });
                out[label as usize] -= scale;
            }
        });
        [Some(out)]
    }
}
