//! The order of an epoch: samples of similar length in one batch, so that little of it is padding.
//!
//! The method is that of LLaVA's training: a random order is cut into groups of some batches, each sorted by length;
//! samples with and without a picture never share a group but in the last one; the groups come in random order. It
//! depends on the seed and the epoch alone, so a run that goes on after an interruption has the same batches.

use crate::random::Random;

/// What the order needs to know of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// Positions, or anything that grows with them.
    pub tokens: usize,
    /// Whether it has a picture.
    pub pictured: bool,
}

/// The batches of one epoch, indices into `lengths`. `per_step` batches make one step of the optimizer and come one
/// after another from one group. Every sample comes once; only the last batch may be smaller.
///
/// # Panics
/// When `batch` or `per_step` is 0.
pub fn epoch(lengths: &[Length], batch: usize, per_step: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    assert!(batch > 0 && per_step > 0, "a batch has at least one sample");
    let mut random = Random::new(seed ^ epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let group = batch * per_step;
    let (mut groups, mut left) = (Vec::new(), Vec::new());
    for pictured in [true, false] {
        let mut of_kind: Vec<usize> =
            (0..lengths.len()).filter(|&i| lengths[i].pictured == pictured).collect();
        random.shuffle(&mut of_kind);
        let whole = of_kind.len() / group * group;
        left.extend(of_kind.split_off(whole));
        groups.extend(of_kind.chunks(group).map(<[usize]>::to_vec));
    }
    random.shuffle(&mut groups);
    groups.extend((!left.is_empty()).then_some(left));
    for group in &mut groups {
        group.sort_by_key(|&i| (std::cmp::Reverse(lengths[i].tokens), i));
    }
    groups.iter().flat_map(|group| group.chunks(batch)).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths() -> Vec<Length> {
        let mut random = Random::new(5);
        (0..1003)
            .map(|_| Length {
                tokens: (random.next() % 300) as usize,
                pictured: !random.next().is_multiple_of(3),
            })
            .collect()
    }

    #[test]
    fn every_sample_comes_once() {
        let lengths = lengths();
        for (batch, per_step) in [(1, 1), (8, 1), (8, 4), (2000, 1)] {
            let batches = epoch(&lengths, batch, per_step, 1, 0);
            let mut all: Vec<usize> = batches.concat();
            all.sort_unstable();
            assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            let (last, others) = batches.split_last().expect("batches");
            assert!(others.iter().all(|b| b.len() == batch) && last.len() <= batch);
        }
        assert_eq!(epoch(&[], 4, 2, 1, 0), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn kinds_do_not_mix_and_lengths_are_alike() {
        let lengths = lengths();
        let batches = epoch(&lengths, 8, 4, 1, 0);
        let mixed = |b: &Vec<usize>| b.iter().any(|&i| lengths[i].pictured != lengths[b[0]].pictured);
        // What is left of both kinds fills at most two groups of four batches.
        assert!(batches[..batches.len() - 8].iter().all(|b| !mixed(b)));
        let padding = |batches: &[Vec<usize>]| -> usize {
            let of = |b: &Vec<usize>| {
                let most = b.iter().map(|&i| lengths[i].tokens).max().unwrap_or(0);
                b.iter().map(|&i| most - lengths[i].tokens).sum::<usize>()
            };
            batches.iter().map(of).sum()
        };
        let as_they_come: Vec<Vec<usize>> =
            (0..lengths.len()).collect::<Vec<_>>().chunks(8).map(<[usize]>::to_vec).collect();
        assert!(2 * padding(&batches) < padding(&as_they_come));
    }

    #[test]
    fn the_order_is_that_of_its_seed_and_epoch() {
        let lengths = lengths();
        let first = epoch(&lengths, 8, 4, 1, 0);
        assert_eq!(first, epoch(&lengths, 8, 4, 1, 0));
        assert_ne!(first, epoch(&lengths, 8, 4, 1, 1));
        assert_ne!(first, epoch(&lengths, 8, 4, 2, 0));
    }
}
