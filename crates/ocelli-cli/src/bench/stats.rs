//! What is told about a series of times.

use serde_json::{Map, json};

/// A series in a few figures, in the unit of its values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many values there are.
    pub n: usize,
    /// The smallest.
    pub min: f64,
    /// Half are at most this; the same as [`Summary::p50`].
    pub median: f64,
    /// Percentile 50.
    pub p50: f64,
    /// Percentile 90.
    pub p90: f64,
    /// Percentile 99.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Nothing for no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let [p50, p90, p99] = [50.0, 90.0, 99.0].map(|p| percentile(&sorted, p));
        Some(Self { n: sorted.len(), min, median: p50, p50, p90, p99, max })
    }

    /// The fields of a record.
    pub fn fields(&self) -> Map<String, serde_json::Value> {
        [
            ("n", json!(self.n)),
            ("median_ms", json!(self.median)),
            ("min_ms", json!(self.min)),
            ("p50_ms", json!(self.p50)),
            ("p90_ms", json!(self.p90)),
            ("p99_ms", json!(self.p99)),
            ("max_ms", json!(self.max)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
    }
}

/// The `p`-th percentile of sorted values, at least one: the value at place `p / 100 * (n - 1)`, counted from 0,
/// and between two places the straight line from one to the other (type 7 of Hyndman and Fan, The American
/// Statistician 50(4), 1996; NumPy's default).
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let place = p / 100.0 * (sorted.len() - 1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sequences() {
        // 1 to 101 backwards: percentile p is p + 1.
        let values: Vec<f64> = (1..=101).rev().map(f64::from).collect();
        let s = Summary::of(&values).expect("values");
        assert_eq!((s.n, s.min, s.median, s.max), (101, 1.0, 51.0, 101.0));
        assert_eq!((s.p50, s.p90, s.p99), (51.0, 91.0, 100.0));

        // numpy.percentile([4, 1, 3, 2], [50, 90, 99]) = 2.5, 3.7, 3.97.
        let s = Summary::of(&[4.0, 1.0, 3.0, 2.0]).expect("values");
        assert_eq!((s.median, s.p50), (2.5, 2.5));
        assert!((s.p90 - 3.7).abs() < 1e-12 && (s.p99 - 3.97).abs() < 1e-12, "{s:?}");

        let s = Summary::of(&[7.0]).expect("value");
        assert_eq!((s.n, s.min, s.p50, s.p90, s.p99, s.max), (1, 7.0, 7.0, 7.0, 7.0, 7.0));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn one_slow_run_moves_p99_and_not_the_median() {
        let mut values = vec![10.0; 99];
        values.push(1000.0);
        let s = Summary::of(&values).expect("values");
        assert_eq!((s.median, s.p90, s.max), (10.0, 10.0, 1000.0));
        // Place 98.01: a hundredth of the way from 10 to 1000.
        assert!((s.p99 - 19.9).abs() < 1e-9, "{s:?}");
    }
}
