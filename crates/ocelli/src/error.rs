//! What can go wrong between an image file and an answer.

use ocelli_cpu::IsaError;
use ocelli_gpu::GpuError;
use ocelli_image::ImageError;
use ocelli_plan::{PlanError, RunError, WeightError};
use ocelli_text::TextError;
use ocelli_weights::LoadError;

/// Any failure of the library; the message says what to do where that is known.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each variant's message says what it is.
pub enum Error {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Isa(#[from] IsaError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Weight(#[from] WeightError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("resolution {resolution} is not a multiple of {stride} between {stride} and {most}")]
    Resolution { resolution: usize, stride: usize, most: usize },
    #[error(
        "the prompt has {images} image placeholders of {tokens} tokens each, but {given} images were given"
    )]
    ImageCount { images: usize, given: usize, tokens: usize },
    #[error("the prompt is {prompt} tokens long, the model takes {most}: shorten it or lower --resolution")]
    TooLong { prompt: usize, most: usize },
    #[error(
        "the model needs {} MiB and {} MiB are available: close other programs, use --dtype bf16, --quant q4 or a smaller model",
        needed >> 20,
        available >> 20
    )]
    Memory { needed: u64, available: u64 },
    #[error("the checkpoint is quantized already ({stored}): leave out --quant")]
    Quantized { stored: String },
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error("only the CPU tells the time of each op: use --device cpu")]
    CpuOnly,
    #[error("{0}")]
    Sampling(String),
    #[error("this checkpoint has no text tower: texts need a model with both towers")]
    NoTextTower,
    #[error(
        "the vocabulary has {tokenizer} tokens, the model {model}: give the directory of its tokenizer files"
    )]
    Vocabulary { tokenizer: usize, model: usize },
}
