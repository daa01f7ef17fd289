//! Which positions of a sequence see which, and where they stand.

use std::sync::Arc;

/// The sequences of a batch: which positions see which, and where each stands.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Which positions see which.
    pub mask: AttentionMask,
    /// Where each position stands for the rotary embedding, `[batch * positions]`; counted from 0 in every sequence if
    /// none.
    pub places: Option<Arc<Vec<u32>>>,
}

impl Sight {
    /// Ordinary text: every position sees those before it.
    pub fn causal() -> Self {
        Self { mask: AttentionMask::Causal, places: None }
    }

    /// Sequences that begin alike and then branch: a position sees those before it in its own branch and in the common
    /// beginning, and stands where it would without the other branches. Each sequence is told by its length and the
    /// positions at which branches begin; all are padded to `positions`.
    pub fn branching(sequences: &[(usize, Vec<usize>)], positions: usize) -> Self {
        if sequences.iter().all(|(_, branches)| branches.is_empty()) {
            return Self::causal();
        }
        let mut visible = vec![false; sequences.len() * positions * positions];
        let mut places = Vec::with_capacity(sequences.len() * positions);
        let rows = visible.chunks_exact_mut(positions * positions);
        for ((length, branches), visible) in sequences.iter().zip(rows) {
            let common = branches.first().copied().unwrap_or(*length);
            for i in 0..positions {
                let begin = branches.iter().copied().filter(|&begin| begin <= i).max().unwrap_or(0);
                let row = &mut visible[i * positions..][..positions];
                row[begin..=i].fill(true);
                row[..common.min(i + 1)].fill(true);
                let before = if begin > 0 { common } else { 0 };
                places.push((before + i - begin) as u32);
            }
        }
        Self { mask: AttentionMask::Visible(Arc::new(visible)), places: Some(Arc::new(places)) }
    }
}

/// A mask of attention.
#[derive(Debug, Clone)]
pub enum AttentionMask {
    /// Every position sees all.
    Full,
    /// Every position sees itself and those before it.
    Causal,
    /// Whatever is true: `[elements, positions, positions]`, one element for each of the batch or one for all. Each
    /// position must see at least one.
    Visible(Arc<Vec<bool>>),
}

impl AttentionMask {
    /// Put the lowest number in place of the scores `[positions, positions]` of what is hidden in an element.
    pub(crate) fn apply(&self, element: usize, positions: usize, scores: &mut [f32]) {
        match self {
            Self::Full => {}
            Self::Causal => {
                for (i, row) in scores.chunks_exact_mut(positions).enumerate() {
                    row[i + 1..].fill(f32::MIN);
                }
            }
            Self::Visible(visible) => {
                let size = positions * positions;
                let element = if visible.len() == size { 0 } else { element };
                let visible = &visible[element * size..][..size];
                for (score, visible) in scores.iter_mut().zip(visible) {
                    if !visible {
                        *score = f32::MIN;
                    }
                }
            }
        }
    }

    /// What is hidden, `[elements, positions, positions]`, and the number of elements; none if nothing is.
    pub(crate) fn hidden(&self, positions: usize) -> Option<(Vec<bool>, usize)> {
        let size = positions * positions;
        match self {
            Self::Full => None,
            Self::Causal => Some(((0..size).map(|i| i % positions > i / positions).collect(), 1)),
            Self::Visible(visible) => Some((visible.iter().map(|v| !v).collect(), visible.len() / size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_do_not_see_each_other() {
        // Two common positions, two branches of two and one; a sequence without branches, padded by one.
        let sight = Sight::branching(&[(5, vec![2, 4]), (4, vec![])], 5);
        let AttentionMask::Visible(visible) = &sight.mask else { panic!("some is hidden") };
        let seen: Vec<String> = visible
            .chunks_exact(5)
            .map(|row| row.iter().map(|&v| if v { 'x' } else { '.' }).collect())
            .collect();
        assert_eq!(
            seen,
            ["x....", "xx...", "xxx..", "xxxx.", "xx..x", "x....", "xx...", "xxx..", "xxxx.", "xxxxx"]
        );
        assert_eq!(**sight.places.as_ref().expect("places"), [0, 1, 2, 3, 2, 0, 1, 2, 3, 4]);
        assert!(matches!(Sight::branching(&[(3, vec![])], 3).mask, AttentionMask::Causal));
    }
}
