//! Text that arrives token by token.
//!
//! A token is a run of bytes and may end inside a character. The stream works on bytes and holds
//! back at most three of them, so a token costs its own length however long the answer is.

use std::mem;
use std::ops::Deref;

use crate::Qwen2Tokenizer;

/// Turns generated ids into pieces of text that never split a character.
///
/// The pieces, joined with what [`TokenStream::finish`] gives, are exactly
/// [`Qwen2Tokenizer::decode`] of all ids with control tokens skipped.
///
/// `T` is how the stream holds its tokenizer: `&Qwen2Tokenizer`, or `Arc<Qwen2Tokenizer>` for a
/// stream that must own it.
///
/// ```no_run
/// # let tokenizer = ocelli_text::Qwen2Tokenizer::from_dir(".".as_ref())?;
/// # let generated = [1, 2, 3];
/// let mut stream = ocelli_text::TokenStream::new(&tokenizer);
/// for id in generated {
///     if let Some(piece) = stream.push(id) {
///         print!("{piece}");
///     }
/// }
/// print!("{}", stream.finish().unwrap_or_default());
/// # Ok::<(), ocelli_text::TextError>(())
/// ```
pub struct TokenStream<T> {
    tokenizer: T,
    pending: Vec<u8>,
}

impl<T: Deref<Target = Qwen2Tokenizer>> TokenStream<T> {
    /// A stream at the beginning of a text.
    pub fn new(tokenizer: T) -> Self {
        Self { tokenizer, pending: Vec::new() }
    }

    /// The text that `id` completes, if any.
    ///
    /// Control tokens and ids without a token add nothing.
    pub fn push(&mut self, id: u32) -> Option<String> {
        if self.tokenizer.is_special(id) {
            return None;
        }
        let bytes = self.tokenizer.token_bytes(id);
        push_bytes(&mut self.pending, bytes)
    }

    /// What was held back, a U+FFFD when the text ends inside a character; the stream is then at
    /// the beginning of a new text.
    pub fn finish(&mut self) -> Option<String> {
        let rest = mem::take(&mut self.pending);
        if rest.is_empty() { None } else { Some(String::from_utf8_lossy(&rest).into_owned()) }
    }
}

/// Appends `bytes` to `pending` and takes out all text up to an unfinished character.
fn push_bytes(pending: &mut Vec<u8>, bytes: &[u8]) -> Option<String> {
    pending.extend_from_slice(bytes);
    let tail = pending.split_off(pending.len() - unfinished(pending));
    let ready = mem::replace(pending, tail);
    if ready.is_empty() { None } else { Some(String::from_utf8_lossy(&ready).into_owned()) }
}

/// How many bytes at the end begin a character that more bytes could finish: 0 to 3.
fn unfinished(bytes: &[u8]) -> usize {
    let Some(last) = bytes.utf8_chunks().last() else { return 0 };
    // `error_len` is `None` for input that ends too early, and a length for input that is wrong.
    match str::from_utf8(last.invalid()) {
        Err(e) if e.error_len().is_none() => last.invalid().len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `size` and joins what comes out.
    fn join(bytes: &[u8], size: usize) -> String {
        let mut pending = Vec::new();
        let mut text = String::new();
        for piece in bytes.chunks(size) {
            text.extend(push_bytes(&mut pending, piece));
            assert!(pending.len() <= 3);
        }
        text + &String::from_utf8_lossy(&pending)
    }

    #[test]
    fn any_cut_of_any_bytes_gives_the_lossy_text() {
        let mut cases: Vec<Vec<u8>> = ["a猫🙂é", "", "\u{fffd}\u{10ffff}"].map(|s| s.into()).to_vec();
        // Truncated, overlong, surrogate, too large, stray continuation, then valid again.
        let wrong: [&[u8]; 6] =
            [b"\xe7\x8c", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80", b"\x80\xbf", b"\xf0\x9f\x99"];
        for wrong in wrong {
            cases.push([wrong, b"a", wrong, "é".as_bytes(), wrong, wrong].concat());
        }
        for case in cases {
            for size in 1..=case.len().max(1) {
                assert_eq!(join(&case, size), String::from_utf8_lossy(&case), "{case:02x?} by {size}");
            }
        }
    }

    #[test]
    fn a_character_appears_with_its_last_byte_and_an_error_at_once() {
        let mut pending = Vec::new();
        let cat = "猫".as_bytes();
        assert_eq!(push_bytes(&mut pending, &cat[..2]), None);
        assert_eq!(push_bytes(&mut pending, &cat[2..]), Some("猫".to_owned()));
        assert_eq!(push_bytes(&mut pending, &cat[..1]), None);
        assert_eq!(push_bytes(&mut pending, b"x"), Some("\u{fffd}x".to_owned()));
        assert_eq!(push_bytes(&mut pending, &[0xff]), Some("\u{fffd}".to_owned()));
    }
}
