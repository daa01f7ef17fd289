//! Queries with arithmetic: `./cat.jpg + snow - 2:people`.

use crate::{IndexError, Result};

/// One part of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// Above 0 for what should be there, below 0 for what should not.
    pub weight: f32,
    /// A text, or the path of a picture.
    pub text: String,
}

/// What to look for: terms that are added up.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// At least one.
    pub terms: Vec<Term>,
}

impl Query {
    /// Read `text`. Plus and minus count with a space on both sides, or a minus at the beginning with one after
    /// it, so that `t-shirt` and `black+white` are words. A term may begin with its weight and a colon, as in
    /// `2:snow` or `0.5:./cat.jpg`.
    ///
    /// # Errors
    /// When there is no term, or a term or its weight is empty, zero or not finite.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |reason: &str| IndexError::Query { query: text.to_owned(), reason: reason.to_owned() };
        let mut terms = Vec::new();
        let mut words: Vec<&str> = Vec::new();
        let mut sign = 1.0;
        let mut finish = |words: &mut Vec<&str>, sign: f32| {
            let (weight, term) =
                weighted(&words.join(" ")).ok_or_else(|| wrong("a weight must be a number above 0"))?;
            if term.is_empty() {
                return Err(wrong("a word is missing beside a plus or minus"));
            }
            words.clear();
            terms.push(Term { weight: sign * weight, text: term });
            Ok(())
        };
        for (at, word) in text.split_whitespace().enumerate() {
            match word {
                "+" | "-" if at == 0 => sign = if word == "-" { -1.0 } else { 1.0 },
                "+" | "-" => {
                    finish(&mut words, sign)?;
                    sign = if word == "-" { -1.0 } else { 1.0 };
                }
                word => words.push(word),
            }
        }
        if words.is_empty() && text.split_whitespace().next().is_none() {
            return Err(wrong("it is empty"));
        }
        finish(&mut words, sign)?;
        Ok(Self { terms })
    }

    /// The terms' vectors, each at length 1, times their weights, added up.
    ///
    /// # Errors
    /// When a vector has no direction, or the sum has none.
    pub fn combine(&self, vectors: &[Vec<f32>]) -> Result<Vec<f32>> {
        let dim = vectors.first().map_or(0, Vec::len);
        let mut sum = vec![0.0; dim];
        for (term, vector) in self.terms.iter().zip(vectors) {
            let unit = crate::encoding::normalised(vector)?;
            sum.iter_mut().zip(unit).for_each(|(sum, x)| *sum += term.weight * x);
        }
        crate::encoding::normalised(&sum)
    }
}

/// The weight in front of a term, 1 where there is none; `None` for a number that is no weight.
fn weighted(term: &str) -> Option<(f32, String)> {
    let plain = || Some((1.0, term.to_owned()));
    let Some((weight, rest)) = term.split_once(':') else { return plain() };
    // `C:\cat.jpg` and `title: a cat` have no number in front.
    let Ok(weight) = weight.parse::<f32>() else { return plain() };
    (weight.is_finite() && weight > 0.0).then(|| (weight, rest.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Vec<(f32, String)> {
        Query::parse(text).unwrap().terms.into_iter().map(|t| (t.weight, t.text)).collect()
    }

    #[test]
    fn terms_signs_and_weights() {
        let t = |weight: f32, text: &str| (weight, text.to_owned());
        assert_eq!(terms("dog on a beach"), [t(1.0, "dog on a beach")]);
        assert_eq!(
            terms("./cat.jpg + snow - people"),
            [t(1.0, "./cat.jpg"), t(1.0, "snow"), t(-1.0, "people")]
        );
        assert_eq!(terms("2:snow - 0.5:red t-shirt"), [t(2.0, "snow"), t(-0.5, "red t-shirt")]);
        assert_eq!(terms("- people + beach"), [t(-1.0, "people"), t(1.0, "beach")]);
        assert_eq!(terms("C:\\a.jpg + title: x"), [t(1.0, "C:\\a.jpg"), t(1.0, "title: x")]);
    }

    #[test]
    fn broken_queries_are_explained() {
        for (text, reason) in [
            ("", "empty"),
            ("  ", "empty"),
            ("cat +", "missing"),
            ("cat + - dog", "missing"),
            ("-", "missing"),
            ("0:cat", "weight"),
            ("inf:cat", "weight"),
            ("2:", "missing"),
        ] {
            let error = Query::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn terms_count_by_weight_whatever_their_length() {
        let query = Query::parse("a + 3:b").unwrap();
        let sum = query.combine(&[vec![10.0, 0.0], vec![0.0, 0.1]]).unwrap();
        assert!((sum[1] / sum[0] - 3.0).abs() < 1e-5);
        let nothing = Query::parse("a - b").unwrap();
        assert!(nothing.combine(&[vec![1.0, 0.0], vec![1.0, 0.0]]).is_err());
    }
}
