//! What a generation gives back.

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token or a stop text.
    Stop,
    /// The token limit or the end of the context.
    Length,
    /// The caller asked for it.
    Cancelled,
}

impl FinishReason {
    /// The word of the JSON output.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Length of the spliced sequence.
    pub prompt_tokens: usize,
    /// Visual tokens among them.
    pub image_tokens: usize,
    /// Generated tokens, the end token not counted.
    pub completion_tokens: usize,
    /// Prompt tokens whose keys and values were still in memory.
    pub cached_tokens: usize,
}

/// Wall-clock times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Reading and resizing the pictures.
    pub preprocess_ms: f64,
    /// Vision tower and projector; 0 when the embeddings were cached.
    pub encode_ms: f64,
    /// Prompt through the language model.
    pub prefill_ms: f64,
    /// From the beginning of `generate` (plus preprocessing) to the first token id.
    pub ttft_ms: f64,
    /// Mean over the tokens after the first.
    pub decode_ms_per_token: f64,
    /// Generated tokens per second after the first.
    pub tokens_per_s: f64,
    /// Whole call plus preprocessing.
    pub total_ms: f64,
}

/// A finished answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The text, special tokens left out.
    pub text: String,
    /// Ids of the text; the end token is not among them.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Token counts.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
    /// When each id of `token_ids` was known, in ms from the same moment as [`Timings::ttft_ms`].
    pub token_ms: Vec<f64>,
}
