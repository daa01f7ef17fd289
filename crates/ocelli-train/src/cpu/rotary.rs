//! Rotary position embedding (Su et al., arXiv 2104.09864), the pairs being the two halves of a head as in Qwen2.

use std::sync::Arc;

use super::rows::for_pieces;
use super::{Array, CpuOp};

/// The operation; its input is `[batch, positions, heads * head_dim]`.
#[derive(Debug, Clone)]
pub(crate) struct Rotary(pub(crate) RotaryTable);

/// The angles of positions, for every layer of a network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    /// Cosines, then sines, `[positions, head_dim / 2]` each, or `[batch * positions, head_dim / 2]`.
    pub(crate) values: Arc<[Vec<f32>; 2]>,
    /// Values of a head.
    pub(crate) head_dim: usize,
}

impl RotaryTable {
    /// Angles of positions counted from 0.
    pub fn new(positions: usize, head_dim: usize, base: f32) -> Self {
        Self::at(&(0..positions as u32).collect::<Vec<_>>(), head_dim, base)
    }

    /// Angles `position / base^(2i / head_dim)` of these positions: those of a sequence, or of all sequences of a batch
    /// one after another.
    pub fn at(positions: &[u32], head_dim: usize, base: f32) -> Self {
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for &position in positions {
            for i in 0..head_dim / 2 {
                // As torch has them: the frequency is rounded to f32 before it is multiplied.
                let frequency = 1.0 / base.powf(2.0 * i as f32 / head_dim as f32);
                let angle = position as f32 * frequency;
                cosines.push(angle.cos());
                sines.push(angle.sin());
            }
        }
        Self { values: Arc::new([cosines, sines]), head_dim }
    }
}

impl Rotary {
    /// Turn every pair by its angle, or with `-1` for `direction` back.
    fn turn(&self, x: &[f32], columns: usize, direction: f32) -> Vec<f32> {
        let (head_dim, half) = (self.0.head_dim, self.0.head_dim / 2);
        let [cosines, sines] = &*self.0.values;
        let positions = cosines.len() / half;
        let mut out = vec![0.0; x.len()];
        for_pieces(&mut out, columns, |first, piece| {
            for (i, out) in piece.chunks_exact_mut(columns).enumerate() {
                let row = first + i;
                let at = row % positions * half;
                let (cosines, sines) = (&cosines[at..at + half], &sines[at..at + half]);
                let heads = out.chunks_exact_mut(head_dim);
                for (out, x) in heads.zip(x[row * columns..].chunks_exact(head_dim)) {
                    let ((out_a, out_b), (a, b)) = (out.split_at_mut(half), x.split_at(half));
                    for j in 0..half {
                        let sin = direction * sines[j];
                        out_a[j] = a[j] * cosines[j] - b[j] * sin;
                        out_b[j] = b[j] * cosines[j] + a[j] * sin;
                    }
                }
            }
        });
        out
    }
}

impl CpuOp<1> for Rotary {
    type Saved = ();

    fn forward(&self, [x]: &[Array; 1]) -> (Vec<f32>, Vec<usize>, ()) {
        let out = self.turn(x.values(), x.columns(), 1.0);
        (out, x.shape().to_vec(), ())
    }

    fn backward(&self, [x]: &[Array; 1], (): &(), grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        [Some(self.turn(grad, x.columns(), -1.0))]
    }
}
