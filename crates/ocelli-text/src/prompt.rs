//! Chat prompts, as text and as tokens.
//!
//! [`Template::Apple`] follows conversation `qwen_2` of Apple's code (apple/ml-fastvlm,
//! `llava/conversation.py`, tokenized by `tokenizer_image_token` in `llava/mm_utils.py`);
//! [`Template::Native`] follows the chat template of the transformers-native checkpoints.
//!
//! Both references tokenize one finished string. Here control tokens are placed by the template and
//! everything between two of them is tokenized as one plain piece. Ordinary text gives the same
//! ids, because control tokens already cut the string before words are found; but text that spells
//! a control token stays text.

use crate::tokenizer::{IM_END, IM_START, IMAGE};
use crate::{Qwen2Tokenizer, TextError};

/// The system message of both templates when the caller gives none.
pub const DEFAULT_SYSTEM: &str = "You are a helpful assistant.";

/// Who speaks in a [`Turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The role's name in a prompt.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said: ordinary text, whatever it spells.
    pub text: String,
    /// How many images come before the text.
    pub images: usize,
}

/// The prompt layout a checkpoint was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// Apple's original checkpoints: each image is `<image>` and a newline.
    Apple,
    /// transformers-native checkpoints: the images side by side, then a newline before any text,
    /// so that a message without images begins with an extra newline.
    Native,
}

/// One element of a tokenized prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptToken {
    /// A token of the tokenizer.
    Id(u32),
    /// The place of one image, which the model fills with all of that image's rows.
    Image,
}

/// The prompt as readable text, with `<image>` for each image, ready for the model's answer.
///
/// For display: text from a user that spells `<image>` looks the same here, and differs only in
/// [`build_prompt`]. See there for `system`.
///
/// ```
/// use ocelli_text::{Role, Template, Turn, render};
///
/// let turn = Turn { role: Role::User, text: "What is this?".into(), images: 1 };
/// let prompt = render(Template::Apple, &[turn], Some("Be brief."));
/// assert_eq!(prompt, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\n\
///     What is this?<|im_end|>\n<|im_start|>assistant\n");
/// ```
pub fn render(template: Template, turns: &[Turn], system: Option<&str>) -> String {
    let mut prompt = String::new();
    for part in lay_out(template, turns, system) {
        match part {
            Part::Control(token) => prompt.push_str(token),
            Part::Image => prompt.push_str(IMAGE),
            Part::Text(text) => prompt.push_str(&text),
        }
    }
    prompt
}

/// The prompt as tokens, ready for the model's answer.
///
/// `system` is the system message. Without one, a conversation that does not begin with a
/// [`Role::System`] turn gets [`DEFAULT_SYSTEM`].
///
/// # Errors
/// When the tokenizer lacks `<|im_start|>` or `<|im_end|>`, or refuses a text.
pub fn build_prompt(
    tokenizer: &Qwen2Tokenizer,
    template: Template,
    turns: &[Turn],
    system: Option<&str>,
) -> Result<Vec<PromptToken>, TextError> {
    tokenize(tokenizer, lay_out(template, turns, system))
}

fn tokenize(tokenizer: &Qwen2Tokenizer, parts: Vec<Part>) -> Result<Vec<PromptToken>, TextError> {
    let mut prompt = Vec::new();
    for part in parts {
        match part {
            Part::Control(token) => prompt.push(control(tokenizer, token)?),
            Part::Image => prompt.push(PromptToken::Image),
            Part::Text(text) => {
                prompt.extend(tokenizer.encode_plain(&text)?.into_iter().map(PromptToken::Id))
            }
        }
    }
    Ok(prompt)
}

fn control(tokenizer: &Qwen2Tokenizer, token: &'static str) -> Result<PromptToken, TextError> {
    tokenizer.added_id(token).map(PromptToken::Id).ok_or(TextError::NoControlToken { token })
}

/// A token of a conversation to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaidToken {
    /// The token.
    pub token: PromptToken,
    /// Whether the model says it: it belongs to a message of the assistant, or ends one. All others are only read.
    pub said: bool,
}

/// A whole conversation as tokens, the assistant's messages included, for training.
///
/// A message of the assistant begins a piece of its own, as it does when the model writes it. See [`build_prompt`] for
/// `system`.
///
/// # Errors
/// As [`build_prompt`].
pub fn build_conversation(
    tokenizer: &Qwen2Tokenizer,
    template: Template,
    turns: &[Turn],
    system: Option<&str>,
) -> Result<Vec<SaidToken>, TextError> {
    let mut tokens = Vec::new();
    // Each message of the assistant closes what came before it, so that the layout up to it is a prompt.
    let mut begin = 0;
    for (at, turn) in turns.iter().enumerate().filter(|(_, turn)| turn.role == Role::Assistant) {
        let prompt = match begin {
            0 => build_prompt(tokenizer, template, &turns[..at], system)?,
            _ => tokenize(tokenizer, more(template, &turns[begin..at]))?,
        };
        tokens.extend(prompt.into_iter().map(|token| SaidToken { token, said: false }));
        let said = tokenizer.encode_plain(&turn.text)?.into_iter().map(PromptToken::Id);
        let end = control(tokenizer, IM_END)?;
        tokens.extend(said.chain([end]).map(|token| SaidToken { token, said: true }));
        begin = at + 1;
    }
    Ok(tokens)
}

/// What a prompt is made of. No two texts are neighbours: BPE must see them as one.
enum Part {
    Control(&'static str),
    Image,
    Text(String),
}

fn lay_out(template: Template, turns: &[Turn], system: Option<&str>) -> Vec<Part> {
    let mut layout = Layout(Vec::new());
    let begins_with_system = turns.first().is_some_and(|turn| turn.role == Role::System);
    if let Some(text) = system {
        layout.turn(template, Role::System, text, 0);
    } else if !begins_with_system {
        // Both templates write the default message the same way: the native one without the extra
        // newline it puts before any text of the caller's.
        layout.turn(Template::Apple, Role::System, DEFAULT_SYSTEM, 0);
    }
    layout.until_answer(template, turns)
}

/// What stands between the end token of a message of the assistant and the next one.
fn more(template: Template, turns: &[Turn]) -> Vec<Part> {
    Layout(vec![Part::Text("\n".into())]).until_answer(template, turns)
}

struct Layout(Vec<Part>);

impl Layout {
    /// What is laid out, these turns, and the opening of the assistant's.
    fn until_answer(mut self, template: Template, turns: &[Turn]) -> Vec<Part> {
        for turn in turns {
            self.turn(template, turn.role, &turn.text, turn.images);
        }
        self.open(Role::Assistant);
        self.0
    }

    fn turn(&mut self, template: Template, role: Role, text: &str, images: usize) {
        self.open(role);
        for _ in 0..images {
            self.0.push(Part::Image);
            if template == Template::Apple {
                self.text("\n");
            }
        }
        if template == Template::Native && !text.is_empty() {
            self.text("\n");
        }
        self.text(text);
        self.0.push(Part::Control(IM_END));
        self.text("\n");
    }

    fn open(&mut self, role: Role) {
        self.0.push(Part::Control(IM_START));
        self.text(role.name());
        self.text("\n");
    }

    fn text(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(Part::Text(before)) => before.push_str(text),
            _ => self.0.push(Part::Text(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(role: Role, text: &str, images: usize) -> Turn {
        Turn { role, text: text.to_owned(), images }
    }

    #[test]
    fn a_system_turn_replaces_the_default() {
        let turns = [turn(Role::System, "Be brief.", 0), turn(Role::User, "Hi", 0)];
        let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
                        <|im_start|>assistant\n";
        assert_eq!(render(Template::Apple, &turns, None), expected);
        assert_eq!(render(Template::Apple, &turns[1..], Some("Be brief.")), expected);
    }

    #[test]
    fn native_puts_a_newline_before_the_callers_system_text_only() {
        let user = [turn(Role::User, "Hi", 0)];
        let with = render(Template::Native, &user, Some("Be brief."));
        assert!(with.starts_with("<|im_start|>system\n\nBe brief.<|im_end|>\n<|im_start|>user\n\nHi<"));
        let without = render(Template::Native, &user, None);
        assert!(without.starts_with("<|im_start|>system\nYou are"));
    }

    #[test]
    fn images_without_text() {
        let user = [turn(Role::User, "", 2)];
        assert!(render(Template::Apple, &user, None).contains("user\n<image>\n<image>\n<|im_end|>"));
        assert!(render(Template::Native, &user, None).contains("user\n<image><image><|im_end|>"));
    }

    #[test]
    fn an_empty_conversation_is_the_system_message_and_the_answer() {
        let expected = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(render(Template::Apple, &[], None), expected);
        assert_eq!(render(Template::Native, &[], None), expected);
    }
}
