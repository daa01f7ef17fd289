//! What a similarity means: how many pictures would come as near to this query by accident.
//!
//! The similarities of a query to all pictures of an index are mostly those of pictures that have nothing to
//! do with it. Their middle and width are measured for each query (an empirical null; Efron, "Large-scale
//! simultaneous hypothesis testing", JASA 2004) from the median and the lower half, which pictures that do
//! match hardly touch. With `N` pictures searched, `N * P(background >= s)` of them reach similarity `s` by
//! accident; if `r` of them do reach it, the share of accidents is the quotient (Benjamini and Hochberg, "Controlling
//! the false discovery rate", 1995), and the score is 1 minus that.

/// Pictures that are looked at to know the background.
pub(crate) const SAMPLE: usize = 4096;
/// With few pictures the measured width is doubtful; it is mixed with this one, counted as so many pictures.
const PRIOR_WIDTH: f64 = 0.03;
const PRIOR_COUNT: f64 = 8.0;
/// The share of a normal distribution below its mean minus its standard deviation.
const ONE_BELOW: f64 = 0.158_655_25;

/// The distribution of a query's similarity to pictures that have nothing to do with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Background {
    /// Its middle.
    pub middle: f32,
    /// Its standard deviation.
    pub width: f32,
}

impl Background {
    pub(crate) fn of(mut sample: Vec<f32>) -> Self {
        sample.retain(|x| x.is_finite());
        let count = sample.len() as f64;
        let (middle, low) = (quantile(&mut sample, 0.5), quantile(&mut sample, ONE_BELOW));
        let width = middle - low;
        let width = ((count * width * width + PRIOR_COUNT * PRIOR_WIDTH * PRIOR_WIDTH)
            / (count + PRIOR_COUNT))
            .sqrt();
        Self { middle: middle as f32, width: width as f32 }
    }

    /// How many of `candidates` pictures come this near by accident.
    pub fn accidents(&self, similarity: f32, candidates: usize) -> f64 {
        let z = (f64::from(similarity) - f64::from(self.middle)) / f64::from(self.width);
        candidates as f64 * upper_tail(z)
    }

    /// Scores of the nearest of `candidates` pictures, the nearest first: 0 to 1, never rising.
    pub(crate) fn scores(
        self,
        similarities: impl Iterator<Item = f32>,
        candidates: usize,
    ) -> impl Iterator<Item = f32> {
        let mut last = 1.0_f64;
        similarities.enumerate().map(move |(before, similarity)| {
            let reached = (before + 1) as f64;
            last = last.min(1.0 - (self.accidents(similarity, candidates) / reached).min(1.0));
            last as f32
        })
    }
}

/// Linear between the two nearest; 0 of an empty sample.
fn quantile(sample: &mut [f32], share: f64) -> f64 {
    if sample.is_empty() {
        return 0.0;
    }
    let at = share * (sample.len() - 1) as f64;
    let (_, low, rest) = sample.select_nth_unstable_by(at as usize, f32::total_cmp);
    let low = f64::from(*low);
    let high = rest.iter().copied().min_by(f32::total_cmp).map_or(low, f64::from);
    low + (high - low) * at.fract()
}

/// The share of a standard normal above `z`: Abramowitz and Stegun 7.1.26 scaled by the exact exponential,
/// relative error below 2e-3 up to z = 5 and of the right size beyond.
fn upper_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    // Mills' ratio as a continued fraction for large z, a polynomial below.
    let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    if z > 3.0 {
        let fraction = (1..=24).rev().fold(z, |below, k| z + f64::from(k) / below);
        return density / fraction;
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let terms = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    density * terms.iter().rev().fold(0.0, |sum, term| (sum + term) * t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn the_tail_is_that_of_a_normal_distribution() {
        // scipy.stats.norm.sf
        let known = [(0.0, 0.5), (1.0, 0.158_655_254), (2.0, 0.022_750_132), (3.0, 1.349_898e-3)];
        let far = [(3.5, 2.326_291e-4), (5.0, 2.866_516e-7), (8.0, 6.220_961e-16)];
        for (z, expected) in known.into_iter().chain(far) {
            assert!((upper_tail(z) / expected - 1.0).abs() < 1e-4, "{z}: {}", upper_tail(z));
            assert!((upper_tail(-z) - (1.0 - expected)).abs() < 1e-7);
        }
    }

    fn background(random: &mut Random, count: usize) -> Vec<f32> {
        (0..count).map(|_| 0.12 + 0.03 * random.normal()).collect()
    }

    fn scores_of(mut sample: Vec<f32>) -> Vec<f32> {
        let found = Background::of(sample.clone());
        sample.sort_by(|a, b| b.total_cmp(a));
        let count = sample.len();
        found.scores(sample.into_iter(), count).collect()
    }

    #[test]
    fn nothing_stands_out_of_pure_background() {
        let mut random = Random::new(7);
        let mut shown = 0;
        for count in [20, 300, 5000] {
            for _ in 0..100 {
                let mut sample = background(&mut random, count);
                shown += usize::from(scores_of(std::mem::take(&mut sample))[0] >= 0.9);
            }
        }
        // A tenth of the queries by definition; small samples know their width less well.
        assert!(shown <= 50, "{shown} of 300");
    }

    #[test]
    fn what_matches_stands_out_even_when_it_is_a_third_of_the_pictures() {
        let mut random = Random::new(8);
        for (count, matching) in [(40, 3), (1000, 1), (1000, 10), (5000, 1700)] {
            let mut sample = background(&mut random, count - matching);
            sample.extend((0..matching).map(|_| 0.29 + 0.01 * random.normal()));
            let scores = scores_of(sample);
            assert!(scores[matching - 1] > 0.9, "{matching} of {count}: {}", scores[matching - 1]);
            assert!(scores[(matching * 3 + 20).min(count - 1)] < 0.6, "{matching} of {count}");
            assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]));
        }
    }

    #[test]
    fn an_empty_index_and_equal_pictures_have_a_background() {
        assert!(Background::of(vec![]).width > 0.0);
        let equal = Background::of(vec![0.5; 100]);
        assert!(equal.width > 0.0 && (equal.middle - 0.5).abs() < 1e-6);
    }
}
