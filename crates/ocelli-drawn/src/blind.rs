//! What one gets right without looking: the most common training answer of each form of question.

use std::collections::HashMap;

use crate::questions::Question;
use crate::scene::{Scene, Split};

/// Answers by the form of a question alone. A model that is not better than this has seen nothing.
#[derive(Clone, Debug)]
pub struct Blind {
    best: HashMap<&'static str, String>,
}

impl Blind {
    /// Counted over this many training scenes, from `seed` on; 20,000 are plenty.
    pub fn count(scenes: usize, seed: u64) -> Self {
        let mut answers: HashMap<&'static str, HashMap<String, usize>> = HashMap::new();
        for at in 0..scenes as u64 {
            for question in Scene::any(Split::Train, seed.wrapping_add(at)).questions() {
                let text = question.answer.text().to_owned();
                *answers.entry(question.form).or_default().entry(text).or_default() += 1;
            }
        }
        // Of equally common ones the first in the alphabet, so that the result does not depend on a hash.
        let most = |counts: HashMap<String, usize>| {
            let best = counts.into_iter().max_by(|a, b| (a.1, &b.0).cmp(&(b.1, &a.0)));
            best.map(|(text, _)| text).unwrap_or_default()
        };
        Self { best: answers.into_iter().map(|(form, counts)| (form, most(counts))).collect() }
    }

    /// Its answer; empty for a form that it never met.
    pub fn answer(&self, question: &Question) -> &str {
        self.best.get(question.form).map_or("", String::as_str)
    }
}
