//! LLaVA's conversations as something to learn from: pictures are decoded and resized when they are needed, as the
//! engine does it.

use std::path::Path;

use ocelli_image::{DecodeOptions, Filter, Fit, Preprocess};
use ocelli_text::Qwen2Tokenizer;

use crate::fit::vlm::{Example, Examples};
use crate::vlm_data::batches::Length;
use crate::vlm_data::llava::Corpus;
use crate::vlm_data::tokens::{Style, tokens};

/// Samples of a corpus.
pub struct Conversations<'a> {
    corpus: Corpus,
    tokenizer: &'a Qwen2Tokenizer,
    style: Style,
    /// Pixels to a feature, along a side.
    stride: usize,
    /// Positions of the longest sample.
    longest: usize,
}

impl<'a> Conversations<'a> {
    /// `stride` is that of the tower, pixels to a visual token along a side; samples are cut to `longest` positions.
    pub fn new(
        corpus: Corpus,
        tokenizer: &'a Qwen2Tokenizer,
        style: Style,
        stride: usize,
        longest: usize,
    ) -> Self {
        Self { corpus, tokenizer, style, stride, longest }
    }
}

impl Examples for Conversations<'_> {
    /// In words, which is near enough to sort by and costs nothing.
    fn lengths(&self) -> Vec<Length> {
        let words = |text: &str| text.split_whitespace().count();
        let length = |sample: &crate::vlm_data::llava::Sample| Length {
            tokens: sample.turns.iter().map(|turn| words(&turn.text)).sum(),
            pictured: !sample.images.is_empty(),
        };
        self.corpus.samples.iter().map(length).collect()
    }

    fn example(&self, index: usize, resolution: usize) -> Result<Example, String> {
        let sample = &self.corpus.samples[index];
        let image_tokens = (resolution / self.stride).pow(2);
        let name = || match sample.images.first() {
            Some(image) => image.display().to_string(),
            None => format!("sample {index}"),
        };
        let tokens = tokens(self.tokenizer, self.style, sample, image_tokens, self.longest);
        let tokens = tokens.map_err(|e| format!("{}: {e}", name()))?;
        let pictures = sample.images.iter().map(|path| pixels(path, resolution)).collect::<Result<_, _>>()?;
        Ok(Example { pictures, tokens, branches: Vec::new() })
    }
}

fn pixels(path: &Path, resolution: usize) -> Result<Vec<f32>, String> {
    // An error of a file names it.
    let image = ocelli_image::open(path, &DecodeOptions::default()).map_err(|e| e.to_string())?;
    let (mean, std) = ([0.0; 3], [1.0; 3]);
    Ok(Preprocess { size: resolution, fit: Fit::Pad, filter: Filter::Bicubic, mean, std }.run(&image))
}
