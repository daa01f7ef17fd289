//! Stop strings in text that arrives in pieces.
//!
//! The outcome does not depend on how the text is cut: it is that of reading one character at a
//! time and stopping as soon as the text ends with a stop string.

use std::mem;

use crate::TextError;

/// Watches streamed text for the first stop string.
///
/// ```
/// use ocelli_text::{StopMatcher, StopStep};
///
/// let mut stop = StopMatcher::new(vec!["\nUser:".into()])?;
/// assert_eq!(stop.push("A cat.\nUs"), StopStep::Text("A cat.".into()));
/// assert_eq!(stop.push("er: and"), StopStep::Stopped(String::new()));
/// # Ok::<(), ocelli_text::TextError>(())
/// ```
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The end of the text so far, while it may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

/// What became of a pushed piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopStep {
    /// No stop string yet: text to emit now, perhaps empty.
    Text(String),
    /// A stop string was found: the last text to emit, without the stop string.
    Stopped(String),
}

impl StopMatcher {
    /// A matcher at the beginning of a text. Without stop strings it passes all text on.
    ///
    /// # Errors
    /// When a stop string is empty.
    pub fn new(stops: Vec<String>) -> Result<Self, TextError> {
        if stops.iter().any(String::is_empty) {
            return Err(TextError::EmptyStopString);
        }
        Ok(Self { stops, held: String::new(), stopped: false })
    }

    /// The text that may be emitted after `piece`. After a stop it is always `Stopped("")`.
    pub fn push(&mut self, piece: &str) -> StopStep {
        if self.stopped {
            return StopStep::Stopped(String::new());
        }
        self.held.push_str(piece);
        if let Some(start) = self.first_stop() {
            self.stopped = true;
            let mut text = mem::take(&mut self.held);
            text.truncate(start);
            return StopStep::Stopped(text);
        }
        let tail = self.held.split_off(self.held.len() - self.partial_stop());
        StopStep::Text(mem::replace(&mut self.held, tail))
    }

    /// What was held back, once no more text comes; empty after a stop.
    pub fn finish(&mut self) -> String {
        mem::take(&mut self.held)
    }

    /// Where the stop string begins that ends first; of two that end together, the longer one.
    fn first_stop(&self) -> Option<usize> {
        let found = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop)?;
            Some((start + stop.len(), start))
        });
        found.min().map(|(_end, start)| start)
    }

    /// The length of the longest end of the text with which a stop string begins.
    fn partial_stop(&self) -> usize {
        let lengths = self.stops.iter().filter_map(|stop| {
            let prefixes = stop.char_indices().map(|(length, _)| &stop[..length]);
            prefixes.rev().find(|prefix| self.held.ends_with(prefix)).map(str::len)
        });
        lengths.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()).collect()).unwrap()
    }

    /// All emitted text and whether a stop string was found.
    fn run<'a>(stops: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (String, bool) {
        let mut matcher = matcher(stops);
        let mut text = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                StopStep::Text(more) => text += &more,
                StopStep::Stopped(more) => {
                    assert_eq!(matcher.push("more"), StopStep::Stopped(String::new()));
                    assert_eq!(matcher.finish(), "");
                    return (text + &more, true);
                }
            }
        }
        (text + &matcher.finish(), false)
    }

    /// The definition: read character by character, stop when the text ends with a stop string.
    fn reference(stops: &[&str], text: &str) -> (String, bool) {
        let mut read = String::new();
        for c in text.chars() {
            read.push(c);
            let longest = stops.iter().filter(|stop| read.ends_with(**stop)).map(|stop| stop.len()).max();
            if let Some(length) = longest {
                read.truncate(read.len() - length);
                return (read, true);
            }
        }
        (read, false)
    }

    #[test]
    fn emits_at_once_what_cannot_begin_a_stop() {
        let mut matcher = matcher(&["END"]);
        assert_eq!(matcher.push("abcE"), StopStep::Text("abc".into()));
        assert_eq!(matcher.push("x"), StopStep::Text("Ex".into()));
        assert_eq!(matcher.push("EN"), StopStep::Text(String::new()));
        assert_eq!(matcher.finish(), "EN");
    }

    #[test]
    fn stops_across_pieces_and_drops_what_follows() {
        assert_eq!(run(&["END"], ["a E", "N", "D b"]), ("a ".into(), true));
        assert_eq!(run(&["\n\n"], ["a\n", "\nb"]), ("a".into(), true));
        assert_eq!(run(&["aab"], ["aa", "ab"]), ("a".into(), true));
        assert_eq!(run(&["🙂猫"], ["x🙂", "猫y"]), ("x".into(), true));
        assert_eq!(run(&[], ["a", "", "b"]), ("ab".into(), false));
    }

    #[test]
    fn the_stop_that_ends_first_wins_and_the_longer_of_two_that_end_together() {
        assert_eq!(run(&["abc", "b"], ["xabc"]), ("xa".into(), true));
        assert_eq!(run(&["abc", "b"], ["xa", "b", "c"]), ("xa".into(), true));
        assert_eq!(run(&["bc", "abc"], ["xabc"]), ("x".into(), true));
    }

    #[test]
    fn an_empty_stop_string_is_rejected() {
        let stops = vec!["a".to_owned(), String::new()];
        assert!(matches!(StopMatcher::new(stops), Err(TextError::EmptyStopString)));
    }

    #[test]
    fn every_cut_of_every_short_text_agrees_with_the_definition() {
        let sets: [&[&str]; 6] =
            [&["aab"], &["ab", "ba"], &["abab", "b猫"], &["猫a", "a"], &["aaa", "aa猫"], &["b", "bb", "ab"]];
        let letters = ["a", "b", "猫"];
        for code in 0..3usize.pow(6) {
            let text: Vec<&str> = (0..6).map(|place| letters[code / 3usize.pow(place) % 3]).collect();
            for stops in sets {
                let expected = reference(stops, &text.concat());
                for cuts in 0..1 << 5 {
                    let pieces = cut(&text, cuts);
                    let got = run(stops, pieces.iter().map(String::as_str));
                    assert_eq!(got, expected, "{stops:?} {pieces:?}");
                }
            }
        }
    }

    /// The letters joined into pieces; bit i of `cuts` ends a piece after letter i.
    fn cut(letters: &[&str], cuts: usize) -> Vec<String> {
        let mut pieces = vec![String::new()];
        for (i, letter) in letters.iter().enumerate() {
            if i > 0 && cuts >> (i - 1) & 1 == 1 {
                pieces.push(String::new());
            }
            if let Some(last) = pieces.last_mut() {
                last.push_str(letter);
            }
        }
        pieces
    }
}
