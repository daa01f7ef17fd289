//! Missing and malformed files: each gives an error that names the file, never a panic.

mod common;

use std::path::Path;

use common::{Random, copy_of, fixture, json, tokenizer};
use ocelli_text::{Qwen2Tokenizer, TextError, stop_ids};
use serde_json::{Value, json};

fn error(dir: &Path) -> TextError {
    Qwen2Tokenizer::from_dir(dir).err().expect("the files are wrong")
}

fn error_with(file: &str, content: impl AsRef<[u8]>) -> TextError {
    let dir = copy_of("fastvlm-apple", &["vocab.json", "merges.txt", "tokenizer_config.json"]);
    std::fs::write(dir.path().join(file), content).unwrap();
    let error = error(dir.path());
    let text = error.to_string();
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    error
}

/// The error of the fixture's `tokenizer.json` after `change`.
fn error_after(change: impl Fn(&mut Value)) -> TextError {
    let mut file = json("fastvlm-apple/tokenizer.json");
    change(&mut file);
    error_with("tokenizer.json", file.to_string())
}

#[test]
fn missing_files() {
    let dir = tempfile::tempdir().unwrap();
    for missing in [dir.path(), &dir.path().join("nowhere")] {
        let error = error(missing);
        assert!(matches!(error, TextError::NoTokenizer { .. }));
        assert!(error.to_string().contains("tokenizer.json") && error.to_string().contains("merges.txt"));
    }
    let half = copy_of("fastvlm-apple", &["vocab.json"]);
    assert!(matches!(error(half.path()), TextError::NoTokenizer { .. }));
    std::fs::create_dir(dir.path().join("tokenizer.json")).unwrap();
    assert!(matches!(error(dir.path()), TextError::Io { .. }));
}

#[test]
fn files_that_are_not_the_expected_json() {
    let whole = std::fs::read(fixture("fastvlm-apple/tokenizer.json")).unwrap();
    let mut wrong: Vec<Vec<u8>> =
        ["", "{", "null", "[]", "{}", "\u{feff}{}", "{\"model\": 3}", "\"\\ud800\""]
            .map(|text| text.into())
            .to_vec();
    wrong.push(vec![0xff, 0xfe]);
    wrong.push(b"[".repeat(100_000));
    wrong.extend((1..20).map(|part| whole[..whole.len() * part / 20].to_vec()));
    for content in wrong {
        for file in ["tokenizer.json", "vocab.json"] {
            let error = error_with(file, &content);
            assert!(matches!(error, TextError::Malformed { .. }), "{file}: {error}");
            assert!(error.to_string().contains(file), "{error}");
        }
    }
}

type Change = fn(&mut Value);

#[test]
fn contradictions_in_tokenizer_json() {
    let changes: [(&str, Change); 11] = [
        ("byte", |f| _ = f["model"]["vocab"].as_object_mut().unwrap().remove("!")),
        ("two tokens have id 0", |f| f["model"]["vocab"]["a"] = json!(0)),
        ("there are 643 tokens", |f| f["model"]["vocab"]["a"] = json!(u32::MAX)),
        ("out-of-vocabulary|vocabulary", |f| f["model"]["merges"] = json!([["q", "nothing"]])),
        ("two tokens and a space", |f| f["model"]["merges"] = json!(["a"])),
        ("two tokens and a space", |f| f["model"]["merges"] = json!(["a b c"])),
        ("a merge is not two tokens", |f| f["model"]["merges"] = json!([["a"]])),
        ("643", |f| f["added_tokens"][2]["id"] = json!(643)),
        ("two tokens have id 5", |f| f["added_tokens"][0]["id"] = json!(5)),
        ("id 640", |f| f["added_tokens"][1]["id"] = json!(640)),
        ("id 640", |f| f["added_tokens"][0]["content"] = json!("")),
    ];
    for (expected, change) in changes {
        let error = error_after(change);
        assert!(matches!(error, TextError::Malformed { .. }), "{error}");
        assert!(expected.split('|').any(|word| error.to_string().contains(word)), "{expected}: {error}");
    }
}

#[test]
fn tokenizers_of_other_kinds() {
    let changes: [(&str, Change); 10] = [
        ("WordPiece", |f| f["model"]["type"] = json!("WordPiece")),
        ("Unigram", |f| f["model"] = json!({"type": "Unigram", "vocab": [["a", 0.5]]})),
        ("suffix", |f| f["model"]["end_of_word_suffix"] = json!("</w>")),
        ("prefix", |f| f["model"]["continuing_subword_prefix"] = json!("##")),
        ("ignores merges", |f| f["model"]["ignore_merges"] = json!(true)),
        ("Lowercase", |f| f["normalizer"]["type"] = json!("Lowercase")),
        ("decoder", |f| f["decoder"] = Value::Null),
        ("pre_tokenizer", |f| f["pre_tokenizer"] = json!({"type": "Whitespace"})),
        ("pre_tokenizer", |f| f["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = json!(true)),
        ("cuts words", |f| f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\S+")),
    ];
    for (expected, change) in changes {
        let error = error_after(change);
        assert!(matches!(error, TextError::NotQwen2 { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn damaged_merges_and_added_tokens() {
    for (file, content) in [
        ("merges.txt", b"#version: 0.2\na\n".as_slice()),
        ("merges.txt", b"a  b\n"),
        ("merges.txt", b"\xff\xfe\n"),
        ("tokenizer_config.json", b"{\"added_tokens_decoder\": {\"x\": 1}}"),
        ("tokenizer_config.json", b"{\"added_tokens_decoder\": 1}"),
    ] {
        let error = error_with(file, content);
        assert!(matches!(error, TextError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(file), "{error}");
    }
}

/// Random damage gives an error or a tokenizer, and never a panic, here or when it is used.
#[test]
fn random_damage() {
    let whole = std::fs::read(fixture("fastvlm-apple/tokenizer.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut loaded = 0;
    for seed in 1..=400 {
        let mut random = Random(seed);
        let mut bytes = whole.clone();
        for _ in 0..=random.below(3) {
            let place = random.below(u32::try_from(bytes.len()).unwrap()) as usize;
            bytes[place] = b"\"{}[],:0 9a\\n\xc3"[random.below(14) as usize];
        }
        std::fs::write(dir.path().join("tokenizer.json"), bytes).unwrap();
        if let Ok(tokenizer) = Qwen2Tokenizer::from_dir(dir.path()) {
            let ids = tokenizer.encode("<|im_start|>user\nWhat's 12 é?<|im_end|>").unwrap();
            tokenizer.decode(&ids, true);
            loaded += 1;
        }
    }
    assert!(loaded > 0 && loaded < 400);
}

#[test]
fn stop_ids_come_from_every_file() {
    let expected = json("fastvlm-expected.json");
    let id = |token: &str| u32::try_from(expected["special_ids"][token].as_u64().unwrap()).unwrap();
    let (end, text_end) = (id("<|im_end|>"), id("<|endoftext|>"));
    let of = |dir: &str| stop_ids(&fixture(dir), &tokenizer(dir)).unwrap();
    assert_eq!(of("fastvlm-apple"), [end, text_end]);
    assert_eq!(of("fastvlm-native"), [end]);

    let tokenizer = tokenizer("fastvlm-apple");
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(stop_ids(dir.path(), &tokenizer).unwrap(), [end]);
    let write = |name: &str, content: &str| std::fs::write(dir.path().join(name), content).unwrap();
    write("config.json", r#"{"eos_token_id": null, "text_config": {"eos_token_id": [7, 8, 7]}}"#);
    assert_eq!(stop_ids(dir.path(), &tokenizer).unwrap(), [7, 8, end]);
    write("generation_config.json", r#"{"eos_token_id": 8}"#);
    assert_eq!(stop_ids(dir.path(), &tokenizer).unwrap(), [8, 7, end]);
    for wrong in [r#"{"eos_token_id": -1}"#, r#"{"eos_token_id": "x"}"#, "["] {
        write("generation_config.json", wrong);
        let error = stop_ids(dir.path(), &tokenizer).unwrap_err();
        assert!(error.to_string().contains("generation_config.json"), "{error}");
    }
}

#[test]
fn without_control_tokens_there_is_no_prompt_and_no_end() {
    let dir = copy_of("fastvlm-apple", &["vocab.json", "merges.txt"]);
    let tokenizer = Qwen2Tokenizer::from_dir(dir.path()).unwrap();
    let prompt = ocelli_text::build_prompt(&tokenizer, ocelli_text::Template::Apple, &[], None);
    assert!(matches!(prompt, Err(TextError::NoControlToken { token: "<|im_start|>" })));
    assert!(matches!(stop_ids(dir.path(), &tokenizer), Err(TextError::NoStopToken { .. })));
}
