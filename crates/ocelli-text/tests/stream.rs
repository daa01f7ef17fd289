//! Streamed text equals text decoded at once, for any ids.

mod common;

use std::sync::Arc;

use common::{Random, ids, json, tokenizer};
use ocelli_text::{Qwen2Tokenizer, TokenStream};

fn stream(tokenizer: &Qwen2Tokenizer, ids: &[u32]) -> String {
    let mut stream = TokenStream::new(tokenizer);
    let mut text = String::new();
    for &id in ids {
        if let Some(piece) = stream.push(id) {
            assert!(!piece.is_empty());
            text += &piece;
        }
    }
    text + &stream.finish().unwrap_or_default()
}

#[test]
fn greedy_answers() {
    let tokenizer = tokenizer("fastvlm-native");
    for case in json("fastvlm-expected.json")["cases"].as_array().unwrap() {
        let ids = ids(&case["greedy_ids"]);
        let text = stream(&tokenizer, &ids);
        assert_eq!(text, tokenizer.decode(&ids, true), "{}", case["key"]);
        if let Some(expected) = case["greedy_text"].as_str() {
            assert_eq!(text, expected, "{}", case["key"]);
        }
    }
}

#[test]
fn random_ids() {
    // The embedding has 704 rows: the last ids have no token.
    let tokenizer = tokenizer("fastvlm-native");
    for seed in 1..=5000 {
        let mut random = Random(seed);
        let ids: Vec<u32> = (0..random.below(60)).map(|_| random.below(704)).collect();
        assert_eq!(stream(&tokenizer, &ids), tokenizer.decode(&ids, true), "{ids:?}");
    }
}

/// Only tokens with bytes above 127, where random ids make and break characters often.
#[test]
fn random_ids_inside_characters() {
    let tokenizer = tokenizer("fastvlm-native");
    let size = u32::try_from(tokenizer.vocab_size()).unwrap();
    let high: Vec<u32> =
        (0..size).filter(|&id| !tokenizer.token_text(id).is_some_and(|t| t.is_ascii())).collect();
    for seed in 1..=5000 {
        let mut random = Random(seed);
        let count = u32::try_from(high.len()).unwrap();
        let ids: Vec<u32> = (0..random.below(60)).map(|_| high[random.below(count) as usize]).collect();
        assert_eq!(stream(&tokenizer, &ids), tokenizer.decode(&ids, true), "{ids:?}");
    }
}

#[test]
fn control_tokens_inside_a_character_do_not_break_it() {
    let tokenizer = tokenizer("fastvlm-apple");
    let bytes: Vec<u32> = tokenizer.encode_plain("\u{1f9ff}").unwrap();
    assert!(bytes.len() > 1);
    let control = tokenizer.added_id("<|im_start|>").unwrap();
    let ids: Vec<u32> = bytes.iter().flat_map(|&id| [id, control]).collect();
    assert_eq!(stream(&tokenizer, &ids), "\u{1f9ff}");
}

#[test]
fn a_stream_can_own_its_tokenizer_and_starts_anew_after_finish() {
    let tokenizer = Arc::new(tokenizer("fastvlm-apple"));
    let part = tokenizer.encode_plain("\u{1f9ff}").unwrap()[0];
    let mut stream = TokenStream::new(Arc::clone(&tokenizer));
    assert_eq!(stream.push(part), None);
    assert_eq!(stream.finish().as_deref(), Some("\u{fffd}"));
    assert_eq!(stream.finish(), None);
    assert_eq!(stream.push(0).as_deref(), Some("!"));
}
