//! The tokenizer against answers of the `tokenizers` library (0.23, oniguruma) stored in the
//! fixtures, and against the library itself on the fixtures' `tokenizer.json`.

mod common;

use common::{Random, TEXTS, copy_of, fixture, ids, json, tokenizer};
use ocelli_text::{END_OF_TEXT, IM_END, IM_START, IMAGE, Qwen2Tokenizer};
use serde_json::json;

const DIRS: [(&str, &str); 3] =
    [("fastvlm-apple", "ids_apple"), ("fastvlm-native", "ids_native"), ("fastvlm-mlx-4bit", "ids_native")];

fn check_probes(tokenizer: &Qwen2Tokenizer, key: &str) {
    let probes = json("qwen2_tokenizer_probes.json");
    for probe in probes.as_array().unwrap() {
        let text = probe["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&probe[key]), "{key} of {text:?}");
        let apple = ids(&probe["ids_apple"]);
        assert_eq!(tokenizer.decode(&apple, false), probe["decoded"], "{text:?}");
        assert_eq!(tokenizer.decode(&apple, true), probe["decoded_skip_special"], "{text:?}");
    }
}

#[test]
fn probes() {
    for (dir, key) in DIRS {
        check_probes(&tokenizer(dir), key);
    }
}

#[test]
fn vocab_and_merges_give_the_same_ids() {
    for added in ["tokenizer_config.json", "added_tokens.json"] {
        for (dir, key) in DIRS {
            let copy = copy_of(dir, &["vocab.json", "merges.txt", added]);
            let fallback = Qwen2Tokenizer::from_dir(copy.path()).unwrap();
            check_probes(&fallback, key);
            assert_eq!(fallback.vocab_size(), tokenizer(dir).vocab_size());
        }
    }
}

#[test]
fn agrees_with_the_library_on_text_and_on_any_ids() {
    for (dir, _) in DIRS {
        let ours = tokenizer(dir);
        let library = tokenizers::Tokenizer::from_file(fixture(dir).join("tokenizer.json")).unwrap();
        for text in TEXTS {
            for text in [text.to_owned(), format!("{IM_START}user\n{text}{IM_END}{text}{IMAGE}\u{301}")] {
                let expected = library.encode(text.as_str(), false).unwrap();
                assert_eq!(ours.encode(&text).unwrap(), expected.get_ids(), "{text:?}");
            }
        }
        let mut random = Random(1);
        for _ in 0..2000 {
            let ids: Vec<u32> = (0..random.below(40)).map(|_| random.below(704)).collect();
            for skip in [false, true] {
                assert_eq!(ours.decode(&ids, skip), library.decode(&ids, skip).unwrap(), "{ids:?}");
            }
        }
    }
}

#[test]
fn long_runs_agree_with_the_library_rules() {
    let tokenizer = tokenizer("fastvlm-apple");
    for unit in [" ", "\n", "a", "1", "é", "\u{3000}", " \n", "!"] {
        let text = unit.repeat(50_000) + "x";
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text, "{unit:?}");
    }
}

#[test]
fn knows_its_special_tokens() {
    let apple = tokenizer("fastvlm-apple");
    let special = json("fastvlm-expected.json")["special_ids"].clone();
    for token in [END_OF_TEXT, IM_START, IM_END] {
        let id = apple.added_id(token).unwrap();
        assert_eq!(id, special[token]);
        assert!(apple.is_special(id));
        assert_eq!(apple.token_text(id).as_deref(), Some(token));
    }
    assert_eq!(apple.added_id(IMAGE), None);
    let native = tokenizer("fastvlm-native");
    let image = u32::try_from(native.vocab_size() - 1).unwrap();
    assert_eq!(native.added_id(IMAGE), Some(image));
    assert_eq!(native.token_text(image + 1), None);
    assert!(!native.is_special(image + 1) && !native.is_special(u32::MAX) && !native.is_special(0));
    assert_eq!(native.decode(&[0, image + 1, u32::MAX, 0], false), "!!");
}

#[test]
fn plain_text_never_becomes_a_control_token() {
    for (dir, _) in DIRS {
        let tokenizer = tokenizer(dir);
        for token in [END_OF_TEXT, IM_START, IM_END, IMAGE] {
            for text in [token.to_owned(), format!("a {token}{token}\nsystem"), format!(" {token} ")] {
                let ids = tokenizer.encode_plain(&text).unwrap();
                assert!(!ids.iter().any(|&id| tokenizer.is_special(id)), "{text:?}: {ids:?}");
                assert_eq!(tokenizer.decode(&ids, true), text);
            }
        }
        for text in TEXTS {
            assert_eq!(tokenizer.encode_plain(text).unwrap(), tokenizer.encode(text).unwrap());
        }
    }
}

/// Added tokens need not be special: neither kind may come out of plain text.
#[test]
fn plain_text_never_becomes_an_added_token_that_is_not_special() {
    let mut file = json("fastvlm-apple/tokenizer.json");
    let next = tokenizer("fastvlm-apple").vocab_size();
    let entry = |id: usize, content: &str, normalized: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": true, "rstrip": true,
               "normalized": normalized, "special": false})
    };
    let added = file["added_tokens"].as_array_mut().unwrap();
    added.extend([entry(next, "<tool_call>", true), entry(next + 1, "two words", false)]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();

    let ours = Qwen2Tokenizer::from_dir(dir.path()).unwrap();
    let library = tokenizers::Tokenizer::from_file(path).unwrap();
    let text = "a <tool_call> two words<tool_call>\u{e9}";
    let with_tokens = ours.encode(text).unwrap();
    assert_eq!(with_tokens, library.encode(text, false).unwrap().get_ids());
    let first_added = u32::try_from(next).unwrap();
    assert_eq!(with_tokens.iter().filter(|&&id| id >= first_added).count(), 3);
    let plain = ours.encode_plain(text).unwrap();
    assert!(plain.iter().all(|&id| id < first_added));
    assert_eq!(ours.decode(&plain, true), text);
    assert_eq!(ours.decode(&[first_added], true), "<tool_call>");
}

#[test]
fn one_tokenizer_serves_many_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Qwen2Tokenizer>();
}
