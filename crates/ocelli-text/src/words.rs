//! How Qwen2 cuts text into words before BPE.
//!
//! This is the regular expression of its `tokenizer.json`, [`QWEN2_WORDS`], written out: a regex engine that knows
//! lookahead and Unicode classes is several times the size of all else here, which counts in a browser. The tests
//! compare with one.

use crate::unicode::{is_letter, is_number};

/// `PRETOKENIZE_REGEX` in transformers' `models/qwen2/tokenization_qwen2.py`. `tokenizer.json` carries its own copy.
pub(crate) const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The words of `text` in order; together they are `text`.
pub(crate) fn qwen2_words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (word, after) = rest.split_at(word_len(rest));
        rest = after;
        Some(word)
    })
}

/// Bytes of the word that a text, which is not empty, begins with. The branches are in the expression's order.
fn word_len(text: &str) -> usize {
    if let Some(len) = ending_len(text) {
        return len;
    }
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let after_first = chars.as_str();
    let len = first.len_utf8();
    // [^\r\n\p{L}\p{N}]?\p{L}+
    if is_letter(first) {
        return len + run(after_first, is_letter);
    }
    if is_number(first) {
        return len;
    }
    if !is_newline(first) && after_first.starts_with(is_letter) {
        return len + run(after_first, is_letter);
    }
    //  ?[^\s\p{L}\p{N}]+[\r\n]*
    let signs = run(if first == ' ' { after_first } else { text }, is_sign);
    if signs > 0 {
        let signs = if first == ' ' { len + signs } else { signs };
        return signs + run(&text[signs..], is_newline);
    }
    // \s*[\r\n]+
    let spaces = &text[..run(text, char::is_whitespace)];
    if let Some(last) = spaces.rfind(is_newline) {
        return last + 1;
    }
    // \s+(?!\S): the last space belongs to the word that follows.
    let last = spaces.chars().next_back().map_or(0, char::len_utf8);
    if spaces.len() == text.len() || spaces.len() == last { spaces.len() } else { spaces.len() - last }
}

/// Bytes of an English ending: `(?i:'s|'t|'re|'ve|'m|'ll|'d)`.
fn ending_len(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    let mut chars = rest.chars();
    let first = chars.next()?;
    let second = || chars.clone().next().map(|c| c.to_ascii_lowercase());
    match first.to_ascii_lowercase() {
        // The long s is an s whose case is ignored.
        's' | 't' | 'm' | 'd' | 'ſ' => Some(1 + first.len_utf8()),
        'r' | 'v' if second() == Some('e') => Some(3),
        'l' if second() == Some('l') => Some(3),
        _ => None,
    }
}

/// Bytes of the characters of a class that a text begins with.
fn run(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is(c)).unwrap_or(text.len())
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

fn is_sign(c: char) -> bool {
    !c.is_whitespace() && !is_letter(c) && !is_number(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
    };

    /// Every text of up to five of these, and long ones at random, against the expression itself.
    #[test]
    fn as_the_regular_expression() {
        const SIGNS: [&str; 21] = [
            "a", "Z", "é", "猫", "1", "²", " ", "\u{3000}", "\n", "\r", "\t", "'", "s", "ſ", "r", "e", "l",
            "L", "!", "\u{301}", "🙂",
        ];
        let pattern = SplitPattern::Regex(QWEN2_WORDS.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
        let check = |text: &str| {
            let mut pieces = PreTokenizedString::from(text);
            split.pre_tokenize(&mut pieces).unwrap();
            let theirs = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let theirs: Vec<&str> = theirs.into_iter().map(|(word, ..)| word).collect();
            let ours: Vec<&str> = qwen2_words(text).collect();
            assert_eq!(ours, theirs, "{text:?}");
        };
        for length in 1..=3 {
            for number in 0..SIGNS.len().pow(length) {
                let place = |i: u32| SIGNS[number / SIGNS.len().pow(i) % SIGNS.len()];
                check(&(0..length).map(place).collect::<String>());
            }
        }
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..24 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(SIGNS[(seed >> 33) as usize % SIGNS.len()]);
            }
            check(&text);
        }
    }
}
