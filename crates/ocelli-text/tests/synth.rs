//! Synthetic tokenizers: any text comes back, sizes are as asked, and the library reads the files.

mod common;

use std::time::Instant;

use common::TEXTS;
use ocelli_text::{
    IM_END, IMAGE, Qwen2Tokenizer, TextError, write_learned_qwen2_tokenizer, write_synthetic_qwen2_tokenizer,
};

/// Ordinary tokens of the released Qwen2 tokenizers.
const QWEN2_BASE: usize = 151_643;

fn check(base: usize, image: bool) {
    let dir = tempfile::tempdir().unwrap();
    write_synthetic_qwen2_tokenizer(dir.path(), base, image).unwrap();
    let start = Instant::now();
    let tokenizer = Qwen2Tokenizer::from_dir(dir.path()).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("{base} tokens: loaded in {seconds:.3} s");

    assert_eq!(tokenizer.vocab_size(), base + 3 + usize::from(image));
    assert_eq!(tokenizer.added_id(IM_END).map(|id| id as usize), Some(base + 2));
    assert_eq!(tokenizer.added_id(IMAGE).map(|id| id as usize), image.then_some(base + 3));
    let library = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
    for text in TEXTS {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, library.encode(text, false).unwrap().get_ids(), "{text:?}");
        // NFC is the one thing that changes text: the Kelvin sign becomes a K.
        assert_eq!(tokenizer.decode(&ids, false), text.replace('\u{212a}', "K"), "{text:?}");
    }
    let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len() as usize;
    assert!(size("tokenizer.json") < 5000 + 60 * base, "{}", size("tokenizer.json"));

    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let fallback = Qwen2Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(
        fallback.encode("The answer.<|im_end|>").unwrap(),
        tokenizer.encode("The answer.<|im_end|>").unwrap()
    );
}

#[test]
fn small_vocabularies() {
    for base in [256, 257, 640, 2048, 256 + 65_536, 256 + 65_536 + 1] {
        check(base, base % 2 == 0);
    }
}

#[test]
fn the_released_size() {
    check(QWEN2_BASE, false);
    check(QWEN2_BASE, true);
}

#[test]
fn common_text_is_shortened() {
    let dir = tempfile::tempdir().unwrap();
    write_synthetic_qwen2_tokenizer(dir.path(), QWEN2_BASE, false).unwrap();
    let tokenizer = Qwen2Tokenizer::from_dir(dir.path()).unwrap();
    let text = "Describe the image in detail. What is written on the sign?";
    let ids = tokenizer.encode(text).unwrap();
    assert!(ids.len() * 2 < text.len(), "{} tokens", ids.len());
}

#[test]
fn the_same_arguments_write_the_same_bytes() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for dir in &dirs {
        write_synthetic_qwen2_tokenizer(&dir.path().join("new"), 700, true).unwrap();
    }
    let mut names = 0;
    for entry in std::fs::read_dir(dirs[0].path().join("new")).unwrap() {
        let name = entry.unwrap().file_name();
        let [first, second] =
            dirs.each_ref().map(|dir| std::fs::read(dir.path().join("new").join(&name)).unwrap());
        assert_eq!(first, second, "{name:?}");
        names += 1;
    }
    assert_eq!(names, 6);
}

#[test]
fn impossible_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for base in [0, 255, usize::MAX] {
        let error = write_synthetic_qwen2_tokenizer(dir.path(), base, false);
        assert!(matches!(error, Err(TextError::BaseVocab { .. })));
    }
}

#[test]
fn a_learned_tokenizer_knows_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let texts = ["What color is the circle?", "The circle is red.", "A red circle."];
    let base = write_learned_qwen2_tokenizer(dir.path(), texts, 300, false).unwrap();
    assert!((257..=300).contains(&base), "{base}");
    let tokenizer = Qwen2Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), base + 3);
    for text in TEXTS {
        let ids = tokenizer.encode_plain(text).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text.replace('\u{212a}', "K"), "{text:?}");
    }
    assert_eq!(tokenizer.encode_plain(" circle").unwrap().len(), 1);
    let few = write_learned_qwen2_tokenizer(dir.path(), texts, 255, false);
    assert!(matches!(few, Err(TextError::BaseVocab { .. })));
}
