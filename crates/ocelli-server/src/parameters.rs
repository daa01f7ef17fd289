//! Parameters of a search, from the address.

use ocelli_index::{Filter, parse_date};
use serde::Deserialize;

use crate::error::Refusal;

const COUNT: usize = 20;
const MOST: usize = 1000;
const MIN_SCORE: f32 = 0.8;

/// As they are written; one that is empty counts as absent, as forms send it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    pub q: String,
    since: String,
    until: String,
    near: String,
    camera: String,
    path: String,
    n: String,
    min_score: String,
}

impl Parameters {
    /// Which pictures count.
    pub fn filter(&self) -> Result<Filter, Refusal> {
        let wrong = |error: ocelli_index::IndexError| Refusal::bad_request(error.to_string());
        let date = |text: &str| given(text).map(parse_date).transpose().map_err(wrong);
        Ok(Filter {
            since: date(&self.since)?.map(|(begin, _)| begin),
            until: date(&self.until)?.map(|(_, end)| end),
            near: given(&self.near).map(str::parse).transpose().map_err(wrong)?,
            camera: given(&self.camera).map(str::to_owned),
            path: given(&self.path).map(str::to_owned),
        })
    }

    /// Most pictures to return.
    pub fn count(&self) -> Result<usize, Refusal> {
        let Some(text) = given(&self.n) else { return Ok(COUNT) };
        let count = text.parse().ok().filter(|count| (1..=MOST).contains(count));
        count.ok_or_else(|| {
            Refusal::bad_request(format!("n is {text}: 1 to {MOST} pictures can be asked for"))
        })
    }

    /// Pictures below this score are left out.
    pub fn min_score(&self) -> Result<f32, Refusal> {
        let Some(text) = given(&self.min_score) else { return Ok(MIN_SCORE) };
        let score = text.parse().ok().filter(|score| (0.0..=1.0).contains(score));
        score.ok_or_else(|| Refusal::bad_request(format!("min_score is {text}: scores are from 0 to 1")))
    }
}

fn given(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}
