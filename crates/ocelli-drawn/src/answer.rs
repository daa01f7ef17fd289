//! Right answers, and how an answer of a model is judged.

use crate::vocabulary::NUMBER_WORDS;

/// The right answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    text: String,
    others: Vec<String>,
    first_word: bool,
}

impl Answer {
    /// The one right wording.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), others: Vec::new(), first_word: false }
    }

    /// Other wordings that are right too.
    pub(crate) fn or(mut self, others: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.others.extend(others.into_iter().map(Into::into));
        self
    }

    /// "yes" or "no", judged by the first word: "Yes, there is." is right.
    pub(crate) fn yes_no(yes: bool) -> Self {
        Self { text: if yes { "yes" } else { "no" }.to_owned(), others: Vec::new(), first_word: true }
    }

    /// The wording to learn.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether an answer of a model is right.
    ///
    /// Nothing but the right answer may be said, yet upper and lower case, a period at the end, quotation marks,
    /// commas, articles (a, an, the) and British spelling (colour, grey) make no difference, and number words
    /// equal digits. For yes and no the first word counts.
    ///
    /// ```
    /// let scene = ocelli_drawn::Scene::new(ocelli_drawn::Kind::One, ocelli_drawn::Split::Train, 7);
    /// let right = scene.caption().to_uppercase();
    /// assert!(scene.questions()[0].answer.matches(&right));
    /// assert!(!scene.questions()[0].answer.matches("A photograph."));
    /// ```
    pub fn matches(&self, said: &str) -> bool {
        let mut said = normalized(said);
        if self.first_word {
            said.truncate(1);
        }
        said == normalized(&self.text) || self.others.iter().any(|other| said == normalized(other))
    }
}

/// Words of a text, without what makes no difference.
pub(crate) fn normalized(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '\'');
    let words = words.map(|word| word.trim_matches(['-', '\''])).filter(|word| !word.is_empty());
    words.filter(|word| !["a", "an", "the"].contains(word)).map(plain_word).collect()
}

fn plain_word(word: &str) -> String {
    if let Some(number) = NUMBER_WORDS.iter().position(|&n| n == word) {
        return number.to_string();
    }
    match word {
        "colour" => "color",
        "coloured" => "colored",
        "grey" => "gray",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_difference_makes_none() {
        let answer = Answer::new("A red circle to the left of a gray square.");
        assert!(answer.matches(" a Red circle to left of grey square"));
        assert!(!answer.matches("A red circle to the right of a gray square."));
        assert!(!answer.matches("A red circle to the left of a gray square. And a star."));
        assert!(!answer.matches(""));
        assert!(Answer::new("3").matches("Three."));
        assert!(!Answer::new("3").matches("33"));
        assert!(Answer::new("house").matches("\"HOUSE\""));
        assert!(!Answer::new("house").matches("hou se"));
        assert!(Answer::new("apple").matches("an apple"));
    }

    #[test]
    fn other_names_and_first_words() {
        let answer = Answer::new("gift").or(["present"]);
        assert!(answer.matches("A present.") && answer.matches("gift") && !answer.matches("a box"));
        assert!(Answer::yes_no(true).matches("Yes, there is."));
        assert!(!Answer::yes_no(true).matches("No, there is no yes."));
        assert!(!Answer::yes_no(true).matches("there is, yes"));
    }
}
