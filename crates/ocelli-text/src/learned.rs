//! Learns the merges of a small Qwen2 tokenizer from texts: byte pair encoding (Sennrich et al.,
//! arXiv 1508.07909) on the bytes of words.

use std::collections::BTreeMap;

use crate::byte_level::spell;
use crate::words::qwen2_words;

/// Tokens of single bytes.
const BYTES: usize = 256;

/// A word as its tokens, and how often it occurs.
struct Word {
    tokens: Vec<usize>,
    count: u64,
}

/// At most `count` merges, the most frequent pair first, of two equally frequent ones the pair of lower tokens. Fewer
/// when every word of `texts` is one token by then. The same texts in any order give the same merges.
pub(crate) fn merges<'a>(texts: impl IntoIterator<Item = &'a str>, count: usize) -> Vec<(String, String)> {
    let mut spelled: Vec<String> = (0..=255).map(|byte| spell(byte).to_string()).collect();
    let mut words = words(texts);
    let mut merges = Vec::new();
    while merges.len() < count {
        let Some(pair) = most_frequent(&words) else { break };
        let merged = spelled.len();
        merges.push((spelled[pair[0]].clone(), spelled[pair[1]].clone()));
        spelled.push(format!("{}{}", spelled[pair[0]], spelled[pair[1]]));
        words.iter_mut().for_each(|word| merge(&mut word.tokens, pair, merged));
    }
    debug_assert_eq!(spelled.len(), BYTES + merges.len());
    merges
}

/// The words of all texts, as the tokenizer cuts them.
fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Word> {
    let mut counts = BTreeMap::new();
    for text in texts {
        for word in qwen2_words(text) {
            *counts.entry(word.as_bytes().to_vec()).or_insert(0u64) += 1;
        }
    }
    let word =
        |(bytes, count): (Vec<u8>, u64)| Word { tokens: bytes.into_iter().map(usize::from).collect(), count };
    counts.into_iter().map(word).collect()
}

fn most_frequent(words: &[Word]) -> Option<[usize; 2]> {
    let mut counts = BTreeMap::new();
    for word in words {
        for pair in word.tokens.windows(2) {
            *counts.entry([pair[0], pair[1]]).or_insert(0u64) += word.count;
        }
    }
    counts.into_iter().max_by_key(|&(pair, count)| (count, std::cmp::Reverse(pair))).map(|(pair, _)| pair)
}

fn merge(tokens: &mut Vec<usize>, pair: [usize; 2], merged: usize) {
    let mut at = 0;
    while at + 1 < tokens.len() {
        if tokens[at..at + 2] == pair {
            tokens.splice(at..at + 2, [merged]);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(texts: &[&str], count: usize) -> Vec<String> {
        merges(texts.iter().copied(), count).into_iter().map(|(a, b)| a + &b).collect()
    }

    #[test]
    fn frequent_pairs_come_first() {
        let found = learned(&["low low low lower lower", "newest newest"], 4);
        // "l o" and "o w" occur five times; 'l' comes before 'o'. A space is spelled Ġ.
        assert_eq!(found[..2], ["lo", "low"]);
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn words_are_not_joined_and_merges_end() {
        let found = learned(&["ab ab", "ab 12"], 1000);
        assert!(found.contains(&"ab".to_owned()) && found.contains(&"Ġab".to_owned()), "{found:?}");
        // Digits are words of their own, and so is the space before one.
        assert!(found.iter().all(|token| !token.contains('1')), "{found:?}");
        assert_eq!(learned(&["ab 12", "ab ab"], 1000), found);
    }

    #[test]
    fn repeated_letters() {
        let mut tokens = vec![1, 1, 1, 1, 1];
        merge(&mut tokens, [1, 1], 9);
        assert_eq!(tokens, [9, 9, 1]);
    }
}
