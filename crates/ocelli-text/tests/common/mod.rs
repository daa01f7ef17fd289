//! Where the fixtures are, and a small random generator.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use ocelli_text::Qwen2Tokenizer;
use serde_json::Value;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name)
}

pub fn json(name: &str) -> Value {
    let path = fixture(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

pub fn tokenizer(name: &str) -> Qwen2Tokenizer {
    Qwen2Tokenizer::from_dir(&fixture(name)).unwrap()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap().try_into().unwrap()).collect()
}

/// Copies the named files of a fixture directory, where they exist, into a fresh directory.
pub fn copy_of(name: &str, files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let bytes = std::fs::read(fixture(name).join(file)).unwrap();
        std::fs::write(dir.path().join(file), bytes).unwrap();
    }
    dir
}

/// xorshift64* (Vigna 2016, doi 10.1145/2845077): enough for seeded test data.
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32;
        high % bound
    }
}

/// Texts that try every branch of the word splitter, NFC and the byte alphabet.
pub const TEXTS: [&str; 20] = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces  and   three ",
    "tab\tand\nnewline\r\nand\n\n\nmore \n ",
    "I don't know, it's They'VE we'll I'D 'S",
    "x=1234567890; y=3.14",
    "déjà vu schön größer",
    "这是一只猫。日本語の文",
    "Добрый день مرحبا שלום",
    "🙂☔❤️ 👩‍👩‍👧‍👦 🇫🇷",
    "\u{0}\u{1}\u{7f}\u{85}\u{a0}\u{2003}\u{feff}\u{fffd}",
    "fn main() { println!(\"hi\"); }\n",
    "\u{10ffff}\u{e000}",
    "a_b-c/d\\e <|x|> <b> </s>",
    "ſ 'ſ K",
    "İstanbul ǅ ß",
    "한국어 ไทย हिन्दी",
    "x\u{200d}y\u{200b}z",
    "½ ² Ⅷ ٣",
];
