//! The CLIP tokenizer against open_clip's, on stored texts and on every character of Unicode 14.

mod common;

use common::{copy_of, fixture, ids, json};
use ocelli_text::{CLIP_CONTEXT_LENGTH, ClipTokenizer, TextError};
use serde_json::Value;

const DIR: &str = "clip-tokenizer";

fn check(tokenizer: &ClipTokenizer, probes: &Value, key: &str) {
    for probe in probes.as_array().unwrap() {
        let text = probe["text"].as_str().unwrap();
        let tokens = tokenizer.encode(text, CLIP_CONTEXT_LENGTH);
        assert_eq!(tokens.ids, ids(&probe[key]), "{key} of {text:?}");
        assert_eq!(tokens.ids[tokens.end], tokenizer.end_id());
    }
}

#[test]
fn probes_with_the_built_in_vocabulary() {
    let tokenizer = ClipTokenizer::new();
    assert_eq!((tokenizer.vocab_size(), tokenizer.start_id(), tokenizer.end_id()), (49408, 49406, 49407));
    check(&tokenizer, &json("clip_tokenizer_probes.json"), "ids_openai_vocab");
}

#[test]
fn probes_with_a_checkpoints_vocabulary_in_both_layouts() {
    let probes = json("clip_tokenizer_probes.json");
    for files in [&["tokenizer.json"][..], &["vocab.json", "merges.txt"]] {
        let copy = copy_of(DIR, files);
        let tokenizer = ClipTokenizer::from_dir(copy.path()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 714);
        check(&tokenizer, &probes, "ids_tiny");
    }
}

/// The ids between start and end.
fn inner(tokenizer: &ClipTokenizer, text: &str) -> Vec<u32> {
    let row = tokenizer.encode(text, CLIP_CONTEXT_LENGTH).ids;
    let end = row.iter().rposition(|id| *id == tokenizer.end_id()).unwrap();
    row[1..end].to_vec()
}

#[test]
fn generated_texts() {
    let tokenizer = ClipTokenizer::new();
    let stored = json("clip_tokenizer_more.json");
    let probes = stored["probes"].as_array().unwrap();
    assert!(probes.len() >= 1000);
    let wrong = probes.iter().filter(|probe| {
        let text = probe["text"].as_str().unwrap();
        let same = inner(&tokenizer, text) == ids(&probe["ids"]);
        if !same {
            eprintln!("{text:?}");
        }
        !same
    });
    assert_eq!(wrong.count(), 0);
}

#[test]
fn every_character() {
    let tokenizer = ClipTokenizer::new();
    let stored = json("clip_tokenizer_more.json");
    let mut wrong = Vec::new();
    for block in stored["characters"].as_array().unwrap() {
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        let runs = block["characters"].as_array().unwrap().iter().map(ids);
        let characters: Vec<char> =
            runs.flat_map(|run| run[0]..=run[1]).map(|code| char::from_u32(code).unwrap()).collect();
        for c in &characters {
            let upper = c.to_uppercase();
            for text in [format!("x{c}y"), format!("'{c} {upper}1{c}"), format!("é{c}\u{301}Ã{c}")] {
                for id in inner(&tokenizer, &text).into_iter().chain([tokenizer.end_id()]) {
                    for byte in id.to_le_bytes() {
                        digest = (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
                    }
                }
            }
        }
        if block["digest"] != format!("{digest:016x}") {
            wrong.push(format!("U+{:04X}", u32::from(characters[0])));
        }
    }
    assert!(wrong.is_empty(), "blocks at {wrong:?}");
}

#[test]
fn a_text_that_is_too_long_ends_with_the_end_token() {
    let tokenizer = ClipTokenizer::new();
    for length in 1..8 {
        let tokens = tokenizer.encode("a photo of a dog", length);
        let end = tokens.end;
        assert_eq!(tokens.ids.len(), length);
        assert_eq!((end, tokens.ids[end]), ((length - 1).min(6), 49407));
    }
    // A word of 200 bytes that no merge joins ends in the middle.
    let tokens = tokenizer.encode(&"\u{e000}".repeat(100), 20);
    assert_eq!((tokens.ids.len(), tokens.end), (20, 19));
}

#[test]
fn control_tokens_are_those_of_open_clip() {
    let tokenizer = ClipTokenizer::new();
    let tokens = tokenizer.encode("a <end_of_text> b", CLIP_CONTEXT_LENGTH);
    assert_eq!((tokens.ids[2], tokens.end), (49407, 2));
    assert!(inner(&tokenizer, "<|endoftext|>").len() > 1);
}

#[test]
fn errors_name_the_file_and_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(ClipTokenizer::from_dir(dir.path()), Err(TextError::NoTokenizer { .. })));

    let error = ClipTokenizer::from_dir(&fixture("fastvlm-native")).err().unwrap();
    assert!(matches!(&error, TextError::NotClip { .. }), "{error}");

    let good = std::fs::read_to_string(fixture(DIR).join("tokenizer.json")).unwrap();
    let path = dir.path().join("tokenizer.json");
    for (from, to, expected) in [
        ("\"BPE\"", "\"Unigram\"", "its model is Unigram"),
        ("<|endoftext|>", "<|x|>", "it has no token <|endoftext|>"),
        ("\"id\": 713", "\"id\": 71300000", "has id 71300000"),
        ("\"be\",", "\"b b\",", "its vocabulary has no token"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        std::fs::write(&path, bad).unwrap();
        let error = ClipTokenizer::from_dir(dir.path()).err().unwrap().to_string();
        assert!(error.contains(expected) && error.contains("tokenizer.json"), "{error}");
    }
}

#[test]
fn the_vocabulary_may_lie_in_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(ocelli_text::CLIP_MERGES_FILE);
    std::fs::write(&path, ocelli_text::CLIP_MERGES).unwrap();
    let (given, built_in) = (ClipTokenizer::from_dir(dir.path()).unwrap(), ClipTokenizer::new());
    for text in ["a photo of two zebras", "Ein Café &amp; 12 Hunde", ""] {
        assert_eq!(given.encode(text, 77), built_in.encode(text, 77), "{text:?}");
    }
    assert_eq!(given.vocab_size(), built_in.vocab_size());
    // Half a pair, a token that is not made yet, more than there are ids for.
    for wrong in [vec![1, 0], vec![0, 0, 0, 2], vec![0; 4 * 70_000]] {
        std::fs::write(&path, wrong).unwrap();
        let error = ClipTokenizer::from_dir(dir.path()).err().unwrap().to_string();
        assert!(error.contains("clip_merges.bin is malformed"), "{error}");
    }
}
