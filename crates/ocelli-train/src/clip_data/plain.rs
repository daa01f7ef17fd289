//! Pictures of a folder with captions in JSON Lines: `{"image": "a/b.jpg", "caption": "A dog."}`, one a line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use ocelli_image::{DecodeOptions, open};
use ocelli_text::ClipTokenizer;
use serde::Deserialize;

use super::pairs::{Pair, Pairs};
use super::{Augmentation, Recipe};
use crate::TrainError;
use crate::random::Random;

/// The most bytes of a line.
const MOST_LINE: u64 = 1 << 20;

/// A picture and its caption.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Captioned {
    /// The file; in a list, its path in the folder of pictures.
    pub image: PathBuf,
    /// What is on it.
    pub caption: String,
}

/// The lines of a file.
#[derive(Debug, Default)]
pub struct CaptionList {
    /// In their order.
    pub samples: Vec<Captioned>,
    /// Lines that are left out, with the reason.
    pub bad: Vec<String>,
}

impl CaptionList {
    /// Read a file. Whether the pictures exist and can be decoded is found when they are needed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path, folder: &Path) -> Result<Self, TrainError> {
        let failed = |e: std::io::Error| TrainError::Read { path: path.to_owned(), reason: e.to_string() };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut list = Self::default();
        for number in 1.. {
            let mut line = Vec::new();
            let read = file.by_ref().take(MOST_LINE).read_until(b'\n', &mut line).map_err(failed)?;
            if read == 0 {
                break;
            }
            let mut bad =
                |reason: String| list.bad.push(format!("{}: line {number}: {reason}", path.display()));
            if read as u64 == MOST_LINE && line.last() != Some(&b'\n') {
                bad(format!("longer than {MOST_LINE} bytes"));
                skip_line(&mut file).map_err(failed)?;
                continue;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice::<Captioned>(&line) {
                Ok(sample) if sample.caption.trim().is_empty() => bad("an empty caption".into()),
                Ok(sample) => {
                    list.samples
                        .push(Captioned { image: folder.join(sample.image), caption: sample.caption });
                }
                Err(error) => bad(error.to_string()),
            }
        }
        Ok(list)
    }
}

fn skip_line(file: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = file.fill_buf()?;
        let (length, end) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        file.consume(length);
        if end {
            return Ok(());
        }
    }
}

/// Pictures and captions for a network.
pub struct Plain {
    samples: Vec<Captioned>,
    augmentation: Augmentation,
    recipe: Recipe,
    tokenizer: ClipTokenizer,
}

impl Plain {
    /// Pictures are changed by `augmentation` as chance has it.
    pub fn new(
        samples: Vec<Captioned>,
        augmentation: Augmentation,
        recipe: Recipe,
        tokenizer: ClipTokenizer,
    ) -> Self {
        let augmentation = augmentation.for_network(recipe.size, recipe.mean, recipe.std);
        Self { samples, augmentation, recipe, tokenizer }
    }
}

impl Pairs for Plain {
    fn count(&self) -> usize {
        self.samples.len()
    }

    fn pair(&self, index: usize, draw: u64) -> Result<Pair, String> {
        let Captioned { image, caption } = &self.samples[index];
        let failed = |reason: String| format!("{}: {reason}", image.display());
        let picture = open(image, &DecodeOptions::default()).map_err(|e| failed(e.to_string()))?;
        let (_, picture) = self.augmentation.draw(&picture, &mut Random::of(&[draw])).map_err(failed)?;
        let pixels = self.recipe.pixels(&self.augmentation, &picture).map_err(failed)?;
        let text = self.recipe.ids(&self.tokenizer, caption);
        Ok(Pair { pixels, text, synthetic: None, teachers: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lines_are_told_and_left_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("captions.jsonl");
        let long = "x".repeat(3 << 20);
        let text = format!(
            "{{\"image\": \"a.png\", \"caption\": \"A dog.\", \"more\": 1}}\n\n{{\"image\": \"b.png\"}}\n{{\"image\": \
             \"{long}\", \"caption\": \"long\"}}\n{{\"image\": \"c.png\", \"caption\": \" \"}}\nrubbish\n{{\"image\": \
             \"d.png\", \"caption\": \"A cat.\"}}"
        );
        std::fs::write(&file, text).expect("written");
        let list = CaptionList::read(&file, Path::new("/pictures")).expect("read");
        let found: Vec<_> = list.samples.iter().map(|s| s.image.to_str().expect("a path")).collect();
        assert_eq!(found, ["/pictures/a.png", "/pictures/d.png"]);
        let expected = ["line 3: missing field", "line 4: longer", "line 5: an empty", "line 6: expected"];
        assert_eq!(list.bad.len(), expected.len(), "{:?}", list.bad);
        for (found, expected) in list.bad.iter().zip(expected) {
            assert!(found.contains(expected), "{found}");
        }
    }
}
