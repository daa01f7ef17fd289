//! Text to token ids. For the Qwen2 family: the tokenizer of a checkpoint directory and back, the
//! prompts FastVLM was trained on, text that arrives token by token, and stop strings. For CLIP models:
//! their tokenizer with its vocabulary built in, and prompt templates for labels.
//!
//! This crate never knows tensors, images or HTTP: an image in a prompt is only a place,
//! [`PromptToken::Image`], that the caller fills.
//!
//! ```no_run
//! use ocelli_text::{Qwen2Tokenizer, Role, Template, Turn, build_prompt};
//!
//! let tokenizer = Qwen2Tokenizer::from_dir("FastVLM-0.5B".as_ref())?;
//! let question = Turn { role: Role::User, text: "Describe the image.".into(), images: 1 };
//! let prompt = build_prompt(&tokenizer, Template::Apple, &[question], None)?;
//! # Ok::<(), ocelli_text::TextError>(())
//! ```

#![forbid(unsafe_code)]

mod added;
mod bpe;
mod byte_level;
mod clip;
mod error;
mod files;
mod learned;
mod prompt;
mod stop;
mod stop_ids;
mod stream;
mod synth;
pub mod templates;
mod tokenizer;
mod unicode;
mod words;

#[cfg(feature = "clip-vocabulary")]
pub use clip::CLIP_MERGES;
pub use clip::{
    CLIP_CONTEXT_LENGTH, CLIP_MERGES_FILE, ClipTokenizer, ClipTokens, write_learned_clip_tokenizer,
};
pub use error::TextError;
pub use files::ModelFiles;
pub use prompt::{
    DEFAULT_SYSTEM, PromptToken, Role, SaidToken, Template, Turn, build_conversation, build_prompt, render,
};
pub use stop::{StopMatcher, StopStep};
pub use stop_ids::{stop_ids, stop_ids_of};
pub use stream::TokenStream;
pub use synth::{write_learned_qwen2_tokenizer, write_synthetic_qwen2_tokenizer};
pub use tokenizer::{END_OF_TEXT, IM_END, IM_START, IMAGE, Qwen2Tokenizer};
