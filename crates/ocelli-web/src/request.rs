//! What the page asks, as JSON.

use ocelli::{CancelToken, Fit, Image, ImageOptions, Request, Role, Sampling, Turn};
use serde::Deserialize;

/// Tokens of an answer where the page says nothing.
const MAX_NEW_TOKENS: usize = 256;

/// How a model is loaded.
#[derive(Debug, Deserialize)]
pub(crate) struct Load {
    /// `wasm` or `webgpu`.
    pub(crate) device: Option<String>,
    /// `f32`, `bf16` or `auto`.
    pub(crate) dtype: Option<String>,
}

/// One question, or a conversation.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Generate {
    prompt: Option<String>,
    messages: Vec<Message>,
    system: Option<String>,
    max_new_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<u64>,
    stop: Vec<String>,
    ignore_eos: bool,
    resolution: Option<usize>,
    fit: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    content: String,
}

impl Generate {
    /// How its pictures become squares.
    ///
    /// # Errors
    /// When `fit` is no word that is known.
    pub(crate) fn image_options(&self) -> Result<ImageOptions, String> {
        let fit = match self.fit.as_deref() {
            None | Some("pad") => Fit::Pad,
            Some("crop") => Fit::Crop,
            Some(other) => return Err(format!("fit is \"{other}\"; it can be \"pad\" or \"crop\"")),
        };
        Ok(ImageOptions { fit, resolution: self.resolution, ..ImageOptions::default() })
    }

    /// The request; all pictures belong to the first thing that the user says.
    ///
    /// # Errors
    /// When there is neither prompt nor messages, or a role is unknown.
    pub(crate) fn request(self, images: Vec<Image>, cancel: CancelToken) -> Result<Request, String> {
        let mut turns = Vec::new();
        for Message { role, content } in self.messages {
            let role = match &role[..] {
                "user" => Role::User,
                "assistant" => Role::Assistant,
                _ => {
                    return Err(format!(
                        "a message has role \"{role}\"; it can be \"user\" or \"assistant\""
                    ));
                }
            };
            turns.push(Turn { role, text: content, images: 0 });
        }
        if let Some(text) = self.prompt {
            turns.push(Turn { role: Role::User, text, images: 0 });
        }
        match turns.iter_mut().find(|turn| turn.role == Role::User) {
            Some(turn) => turn.images = images.len(),
            None => return Err("there is no question: give a prompt, or messages of the user".to_owned()),
        }
        let sampling = Sampling::default();
        Ok(Request {
            turns,
            system: self.system,
            images,
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(sampling.temperature),
                top_p: self.top_p.unwrap_or(sampling.top_p),
                top_k: self.top_k.unwrap_or(sampling.top_k),
                min_p: self.min_p.unwrap_or(sampling.min_p),
                repetition_penalty: self.repetition_penalty.unwrap_or(sampling.repetition_penalty),
                seed: self.seed.unwrap_or(sampling.seed),
            },
            max_tokens: self.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
            stop: self.stop,
            ignore_eos: self.ignore_eos,
            cancel,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> Result<Request, String> {
        let asked: Generate = serde_json::from_str(json).expect("JSON");
        asked.request(vec![], CancelToken::default())
    }

    #[test]
    fn a_prompt_follows_the_messages() {
        let json = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                       "prompt": "c", "max_new_tokens": 3, "stop": ["x"], "temperature": 0.5, "seed": 7}"#;
        let request = request(json).expect("request");
        let said: Vec<_> = request.turns.iter().map(|turn| (turn.role, &turn.text[..])).collect();
        assert_eq!(said, [(Role::User, "a"), (Role::Assistant, "b"), (Role::User, "c")]);
        assert_eq!((request.max_tokens, request.sampling.seed, request.sampling.temperature), (3, 7, 0.5));
        assert_eq!(request.stop, ["x"]);
    }

    #[test]
    fn wrong_requests_say_what_is_wrong() {
        assert!(request("{}").unwrap_err().contains("no question"));
        let foreign = r#"{"messages": [{"role": "tool", "content": "a"}]}"#;
        assert!(request(foreign).unwrap_err().contains("\"tool\""));
        let asked: Generate = serde_json::from_str(r#"{"prompt": "a", "fit": "squash"}"#).expect("JSON");
        assert!(asked.image_options().unwrap_err().contains("squash"));
    }
}
