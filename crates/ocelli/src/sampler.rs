//! Logits to a token id.

use crate::request::Sampling;

/// What is known of the next token.
pub(crate) enum Next {
    /// Its logits.
    Logits(Vec<f32>),
    /// The likeliest one, where nothing else is wanted: a GPU finds it, and does not send all logits.
    Likeliest(u32),
}

/// Chooses tokens; its random numbers depend on the seed only.
pub(crate) struct Sampler {
    options: Sampling,
    state: u64,
}

impl Sampler {
    pub(crate) fn new(options: &Sampling) -> Self {
        Self { options: options.clone(), state: options.seed }
    }

    /// Whether the likeliest token is the one that is taken, whatever was generated.
    pub(crate) fn takes_the_likeliest(&self) -> bool {
        self.options.temperature == 0.0 && self.options.repetition_penalty == 1.0
    }

    /// The next token after `generated`.
    pub(crate) fn choose(&mut self, next: Next, generated: &[u32]) -> u32 {
        match next {
            Next::Likeliest(id) => id,
            Next::Logits(mut logits) => self.sample(&mut logits, generated),
        }
    }

    fn sample(&mut self, logits: &mut [f32], generated: &[u32]) -> u32 {
        self.penalise(logits, generated);
        if self.options.temperature == 0.0 {
            return argmax(logits);
        }
        let mut candidates = self.candidates(logits);
        let max = candidates.first().map_or(0.0, |c| c.1);
        for c in &mut candidates {
            c.1 = ((c.1 - max) / self.options.temperature).exp();
        }
        candidates.retain(|c| c.1 >= self.options.min_p);
        let total: f32 = candidates.iter().map(|c| c.1).sum();
        let mut kept = 0.0;
        let nucleus = candidates.iter().position(|c| {
            kept += c.1;
            kept >= self.options.top_p * total
        });
        candidates.truncate(nucleus.map_or(candidates.len(), |last| last + 1));
        let total: f32 = candidates.iter().map(|c| c.1).sum();
        let mut target = self.uniform() * total;
        for &(id, weight) in &candidates {
            target -= weight;
            if target < 0.0 {
                return id;
            }
        }
        candidates.last().map_or(0, |c| c.0)
    }

    fn penalise(&self, logits: &mut [f32], generated: &[u32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let mut seen = generated.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }

    /// The `top_k` most likely tokens, the likeliest first; ties in order of id.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, &l)| (i as u32, l)).collect();
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let k = self.options.top_k;
        if k > 0 && k < all.len() {
            all.select_nth_unstable_by(k - 1, order);
            all.truncate(k);
        }
        all.sort_unstable_by(order);
        all
    }

    /// SplitMix64, upper bits, in 0..1.
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// The first of the largest values.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &l) in logits.iter().enumerate() {
        if l > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(options: Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(&options);
        (0..n).map(|_| sampler.sample(&mut logits.to_vec(), &[])).collect()
    }

    #[test]
    fn greedy_takes_the_first_maximum() {
        assert_eq!(draw(Sampling::default(), &[1.0, 3.0, 3.0, 2.0], 1), [1]);
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let options = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        let ids = draw(options, &logits, 8000);
        let share = |id: u32| ids.iter().filter(|&&i| i == id).count() as f32 / 8000.0;
        for (id, want) in [(0, 0.125), (1, 0.25), (2, 0.625)] {
            assert!((share(id) - want).abs() < 0.02, "{id}: {}", share(id));
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        let with = |f: fn(&mut Sampling)| {
            let mut options = Sampling { temperature: 1.0, ..Sampling::default() };
            f(&mut options);
            let mut ids = draw(options, &logits, 500);
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(with(|_| ()), [0, 1, 2]);
        assert_eq!(with(|o| o.top_k = 2), [1, 2]);
        assert_eq!(with(|o| o.top_p = 0.6), [2]);
        assert_eq!(with(|o| o.top_p = 0.8), [1, 2]);
        assert_eq!(with(|o| o.min_p = 0.5), [2]);
    }

    #[test]
    fn the_seed_decides() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
        let options = |seed| Sampling { temperature: 0.8, seed, ..Sampling::default() };
        assert_eq!(draw(options(1), &logits, 40), draw(options(1), &logits, 40));
        assert_ne!(draw(options(1), &logits, 40), draw(options(2), &logits, 40));
    }

    #[test]
    fn a_penalty_moves_away_from_what_was_said() {
        let options = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let mut sampler = Sampler::new(&options);
        assert_eq!(sampler.sample(&mut [3.0, 2.0], &[0, 0]), 1);
    }
}
