//! A conversation's token ids, and which of them are learned.
//!
//! The rules are those of LLaVA's training: with a chat template the assistant's messages and their end tokens count
//! and all else is only read; for captions, the first stage, the prompt is the picture alone, and the caption and the
//! newline behind it count.

use ocelli_text::{PromptToken, Qwen2Tokenizer, Role, SaidToken, Template, TextError, build_conversation};

use super::llava::Sample;

/// How a sample becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The picture, its caption and a newline: stage 1.
    Caption,
    /// The whole conversation in the model's chat template: stages 1.5 and 2.
    Chat(Template),
}

/// Why a sample gives no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// Stage 1 takes one picture, one request and its caption.
    #[error("a caption is one picture and one answer; this has {images} pictures and {turns} messages")]
    NoCaption {
        /// Pictures of the sample.
        images: usize,
        /// Its messages.
        turns: usize,
    },
    /// Nothing is learned from what is left.
    #[error("nothing of the answers lies within the first {most} positions; raise the longest length")]
    TooLong {
        /// Positions that a sample may have.
        most: usize,
    },
    /// The tokenizer refused.
    #[error(transparent)]
    Text(#[from] TextError),
}

/// The tokens of a sample, cut to `most` positions, where a picture takes `image_tokens`.
///
/// # Errors
/// When the sample does not suit the style, nothing to learn is left, or the tokenizer refuses.
pub fn tokens(
    tokenizer: &Qwen2Tokenizer,
    style: Style,
    sample: &Sample,
    image_tokens: usize,
    most: usize,
) -> Result<Vec<SaidToken>, TokensError> {
    let mut tokens = match style {
        Style::Caption => caption(tokenizer, sample)?,
        Style::Chat(template) => build_conversation(tokenizer, template, &sample.turns, None)?,
    };
    let mut positions = 0;
    let fits = tokens.iter().take_while(|said| {
        positions += if said.token == PromptToken::Image { image_tokens } else { 1 };
        positions <= most
    });
    let fits = fits.count();
    tokens.truncate(fits);
    if !tokens.iter().any(|token| token.said) {
        return Err(TokensError::TooLong { most });
    }
    Ok(tokens)
}

fn caption(tokenizer: &Qwen2Tokenizer, sample: &Sample) -> Result<Vec<SaidToken>, TokensError> {
    let talk: Vec<_> = sample.turns.iter().filter(|turn| turn.role != Role::System).collect();
    let ([_, caption], [_]) = (talk.as_slice(), sample.images.as_slice()) else {
        return Err(TokensError::NoCaption { images: sample.images.len(), turns: talk.len() });
    };
    let mut tokens = vec![SaidToken { token: PromptToken::Image, said: false }];
    let ids = tokenizer.encode_plain(&format!("{}\n", caption.text))?;
    tokens.extend(ids.into_iter().map(|id| SaidToken { token: PromptToken::Id(id), said: true }));
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use ocelli_text::{DEFAULT_SYSTEM, Turn, write_learned_qwen2_tokenizer};

    use super::*;

    fn tokenizer() -> Qwen2Tokenizer {
        let dir = tempfile::tempdir().expect("a folder");
        let texts = ["What is this?", "A red circle."];
        write_learned_qwen2_tokenizer(dir.path(), texts, 280, false).expect("a tokenizer");
        Qwen2Tokenizer::from_dir(dir.path()).expect("a tokenizer")
    }

    fn turn(role: Role, text: &str, images: usize) -> Turn {
        Turn { role, text: text.to_owned(), images }
    }

    fn sample(turns: Vec<Turn>) -> Sample {
        let images = turns.iter().map(|turn| turn.images).sum();
        Sample { images: vec!["a.png".into(); images], turns }
    }

    /// Text of what is only read (`false`) and of what is learned, in pieces; a picture is `<image>`.
    fn pieces(tokenizer: &Qwen2Tokenizer, tokens: &[SaidToken]) -> Vec<(bool, String)> {
        let mut pieces: Vec<(bool, String)> = Vec::new();
        for said in tokens {
            let text = match said.token {
                PromptToken::Image => "<image>".to_owned(),
                PromptToken::Id(id) => tokenizer.token_text(id).expect("a token"),
            };
            match pieces.last_mut() {
                Some((learned, piece)) if *learned == said.said => piece.push_str(&text),
                _ => pieces.push((said.said, text)),
            }
        }
        pieces
    }

    /// LLaVA's `preprocess_qwen_2`: everything is masked but the assistant's messages with their end tokens; the
    /// newline behind an end token belongs to what follows.
    #[test]
    fn of_a_conversation_the_answers_and_their_ends_are_learned() {
        let tokenizer = tokenizer();
        let sample = sample(vec![
            turn(Role::User, "What is this?", 1),
            turn(Role::Assistant, "A red circle.", 0),
            turn(Role::User, "Sure?", 0),
            turn(Role::Assistant, "Yes.", 0),
        ]);
        let tokens = tokens(&tokenizer, Style::Chat(Template::Apple), &sample, 4, 1000).expect("tokens");
        let begin = format!(
            "<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\n<image>\nWhat is this?"
        );
        let expected = [
            (false, format!("{begin}<|im_end|>\n<|im_start|>assistant\n")),
            (true, "A red circle.<|im_end|>".to_owned()),
            (false, "\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n".to_owned()),
            (true, "Yes.<|im_end|>".to_owned()),
        ];
        assert_eq!(pieces(&tokenizer, &tokens), expected);
    }

    /// LLaVA's `preprocess_plain`: the picture and its caption, the request is dropped, the picture alone is masked.
    #[test]
    fn of_a_caption_all_is_learned() {
        let tokenizer = tokenizer();
        let sample =
            sample(vec![turn(Role::User, "Describe it.", 1), turn(Role::Assistant, "A red circle.", 0)]);
        let tokens = tokens(&tokenizer, Style::Caption, &sample, 4, 1000).expect("tokens");
        let expected = [(false, "<image>".to_owned()), (true, "A red circle.\n".to_owned())];
        assert_eq!(pieces(&tokenizer, &tokens), expected);
    }

    #[test]
    fn what_does_not_suit_is_refused() {
        let tokenizer = tokenizer();
        let talk = vec![turn(Role::User, "What?", 0), turn(Role::Assistant, "A red circle.", 0)];
        let error =
            tokens(&tokenizer, Style::Caption, &sample(talk.clone()), 4, 1000).expect_err("no picture");
        assert!(matches!(error, TokensError::NoCaption { images: 0, turns: 2 }), "{error}");
        let whole =
            tokens(&tokenizer, Style::Chat(Template::Apple), &sample(talk.clone()), 4, 1000).expect("tokens");
        let cut = tokens(&tokenizer, Style::Chat(Template::Apple), &sample(talk.clone()), 4, whole.len() - 1);
        assert_eq!(cut.expect("tokens"), whole[..whole.len() - 1]);
        let error =
            tokens(&tokenizer, Style::Chat(Template::Apple), &sample(talk), 4, 10).expect_err("too long");
        assert!(matches!(error, TokensError::TooLong { most: 10 }), "{error}");
    }
}
