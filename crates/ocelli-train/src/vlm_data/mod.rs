//! What a vision-language model learns from: conversations about pictures.
//!
//! [`llava`] reads the JSON lists that LLaVA's training takes, [`tokens`] makes a conversation's token ids and says
//! which of them are learned, [`batches`] puts samples of similar length together. Nothing here reads a picture.

pub mod batches;
pub mod llava;
pub mod tokens;
