//! LLaVA's training files: JSON lists of conversations, each about one picture, several or none.
//!
//! One element: `{"id": …, "image": "file.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"},
//! {"from": "gpt", "value": "A dog."}, …]}`. `image` may be a list. Elements that cannot be learned from are left out
//! and told with their reason; none is replaced by another.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use ocelli_text::{IMAGE, Role, Turn};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;

/// A training file and the folder of its pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The JSON list.
    pub file: PathBuf,
    /// What the paths of its pictures are relative to.
    pub images: PathBuf,
}

/// A conversation to learn from. It begins with the user and ends with the assistant, who take turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The pictures, in the order of the conversation's places for them.
    pub images: Vec<PathBuf>,
    /// The messages.
    pub turns: Vec<Turn>,
}

/// An element of a training file that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSample {
    /// The training file.
    pub file: PathBuf,
    /// Its place in the list, from 0.
    pub index: usize,
    /// Its `id`, where it has one.
    pub id: Option<String>,
    /// Why it is left out.
    pub reason: String,
}

impl fmt::Display for BadSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: element {}", self.file.display(), self.index)?;
        if let Some(id) = &self.id {
            write!(f, " ({id})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The samples of all sources.
#[derive(Debug, Default)]
pub struct Corpus {
    /// In the order of the sources and of their lists.
    pub samples: Vec<Sample>,
    /// What is left out.
    pub bad: Vec<BadSample>,
}

/// Why a training file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// It cannot be opened.
    #[error("cannot read {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no JSON list.
    #[error("{} is no JSON list of conversations: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where it fails.
        source: serde_json::Error,
    },
}

impl Corpus {
    /// Read all sources. Whether the pictures exist and can be decoded is found when they are needed.
    ///
    /// # Errors
    /// When a file cannot be opened or is no JSON list.
    pub fn read(sources: &[Source]) -> Result<Self, CorpusError> {
        let mut corpus = Self::default();
        for source in sources {
            let file = &source.file;
            let open = File::open(file).map_err(|e| CorpusError::Io { file: file.clone(), source: e })?;
            let mut json = serde_json::Deserializer::from_reader(BufReader::new(open));
            json.deserialize_seq(Elements { source, corpus: &mut corpus })
                .and_then(|()| json.end())
                .map_err(|e| CorpusError::Json { file: file.clone(), source: e })?;
        }
        Ok(corpus)
    }
}

/// Takes the elements of a list one by one: the files are large.
struct Elements<'a> {
    source: &'a Source,
    corpus: &'a mut Corpus,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(element) = list.next_element::<Value>()? {
            let id = match element.get("id") {
                Some(Value::String(id)) => Some(id.clone()),
                Some(Value::Number(id)) => Some(id.to_string()),
                _ => None,
            };
            match sample(element, &self.source.images) {
                Ok(sample) => self.corpus.samples.push(sample),
                Err(reason) => {
                    self.corpus.bad.push(BadSample { file: self.source.file.clone(), index, id, reason });
                }
            }
            index += 1;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Element {
    #[serde(default)]
    image: Images,
    conversations: Vec<Message>,
    #[serde(flatten)]
    _rest: IgnoredAny,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Images {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Message {
    from: String,
    value: String,
}

fn sample(element: Value, folder: &Path) -> Result<Sample, String> {
    let element: Element = serde_json::from_value(element).map_err(|e| e.to_string())?;
    let names = match element.image {
        Images::None => Vec::new(),
        Images::One(name) => vec![name],
        Images::Several(names) => names,
    };
    let turns = element.conversations.into_iter().map(turn).collect::<Result<Vec<_>, _>>()?;
    takes_turns(&turns)?;
    let places: usize = turns.iter().map(|turn| turn.images).sum();
    if places != names.len() {
        return Err(format!("{} pictures, but {places} times {IMAGE} in the conversation", names.len()));
    }
    Ok(Sample { images: names.into_iter().map(|name| folder.join(name)).collect(), turns })
}

/// A message, its places for pictures moved to its beginning, as LLaVA does.
fn turn(message: Message) -> Result<Turn, String> {
    let role = match message.from.as_str() {
        "human" | "user" => Role::User,
        "gpt" | "assistant" => Role::Assistant,
        "system" => Role::System,
        other => return Err(format!("a message from {other:?}: known are human, gpt and system")),
    };
    let images = message.value.matches(IMAGE).count();
    if images > 0 && role != Role::User {
        return Err(format!("{IMAGE} in a message from {:?}", message.from));
    }
    let text = message.value.replace(IMAGE, "").trim().to_owned();
    if text.is_empty() && role == Role::Assistant {
        return Err("an empty answer".into());
    }
    Ok(Turn { role, text, images })
}

fn takes_turns(turns: &[Turn]) -> Result<(), String> {
    let talk = match turns {
        [first, rest @ ..] if first.role == Role::System => rest,
        all => all,
    };
    if talk.is_empty() {
        return Err("no messages".into());
    }
    for (turn, want) in talk.iter().zip([Role::User, Role::Assistant].into_iter().cycle()) {
        if turn.role != want {
            return Err(format!(
                "a message from the {} where one from the {} belongs",
                turn.role.name(),
                want.name()
            ));
        }
    }
    if talk.len() % 2 == 1 {
        return Err("the last message has no answer".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(json: &str) -> Result<Corpus, CorpusError> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("train.json");
        std::fs::write(&file, json).expect("written");
        Corpus::read(&[Source { file, images: "/pictures".into() }])
    }

    fn reason(element: &str) -> String {
        let corpus = corpus(&format!("[{element}]")).expect("a list");
        assert!(corpus.samples.is_empty());
        corpus.bad[0].reason.clone()
    }

    #[test]
    fn a_conversation_about_a_picture() {
        let json = r#"[{"id": 7, "image": "a/b.jpg", "more": {"x": 1}, "conversations": [
            {"from": "human", "value": "What is this?\n<image>"}, {"from": "gpt", "value": " A dog. "},
            {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]}]"#;
        let corpus = corpus(json).expect("a list");
        assert_eq!(corpus.bad, []);
        let sample = &corpus.samples[0];
        assert_eq!(sample.images, [Path::new("/pictures/a/b.jpg")]);
        let said: Vec<_> = sample.turns.iter().map(|t| (t.role, t.text.as_str(), t.images)).collect();
        assert_eq!(
            said,
            [
                (Role::User, "What is this?", 1),
                (Role::Assistant, "A dog.", 0),
                (Role::User, "Sure?", 0),
                (Role::Assistant, "Yes.", 0)
            ]
        );
    }

    #[test]
    fn no_picture_several_and_a_system_message() {
        let json = r#"[{"conversations": [{"from": "system", "value": "Be brief."},
              {"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello."}]},
            {"image": ["a.png", "b.png"], "conversations": [{"from": "human", "value": "<image><image> Same?"},
              {"from": "gpt", "value": "No."}]}]"#;
        let corpus = corpus(json).expect("a list");
        assert_eq!(corpus.bad, []);
        assert_eq!(corpus.samples[0].turns[0].role, Role::System);
        assert_eq!((corpus.samples[1].images.len(), corpus.samples[1].turns[0].images), (2, 2));
    }

    #[test]
    fn what_is_left_out_is_told() {
        let of = |image: &str, messages: &str| {
            reason(&format!(r#"{{"id": "x", {image} "conversations": [{messages}]}}"#))
        };
        let human = r#"{"from": "human", "value": "<image>\nWhat?"}"#;
        let gpt = r#"{"from": "gpt", "value": "A dog."}"#;
        assert!(of("", "").contains("no messages"));
        assert!(of("", &format!("{human}, {gpt}")).contains("0 pictures, but 1 times <image>"));
        assert!(of(r#""image": ["a", "b"],"#, &format!("{human}, {gpt}")).contains("2 pictures"));
        assert!(of(r#""image": "a","#, human).contains("no answer"));
        assert!(of(r#""image": "a","#, &format!("{gpt}, {human}")).contains("from the assistant where"));
        assert!(of("", r#"{"from": "bot", "value": ""}"#).contains("bot"));
        assert!(
            of("", r#"{"from": "human", "value": "Hi"}, {"from": "gpt", "value": " "}"#)
                .contains("empty answer")
        );
        assert!(
            of("", r#"{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "<image>"}"#)
                .contains("from \"gpt\"")
        );
        assert!(reason(r#"{"image": "a"}"#).contains("conversations"));
        assert!(reason("7").contains("invalid type"));
        let both = corpus(
            r#"[7, {"id": "fine", "conversations": [{"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello."}]}, {"id": "bad"}]"#,
        )
        .expect("a list");
        assert_eq!((both.samples.len(), both.bad.len()), (1, 2));
        assert!(both.bad[1].to_string().contains("element 2 (bad)"), "{}", both.bad[1]);
    }

    #[test]
    fn files_that_are_no_list() {
        for json in ["", "{}", "[", "[{}] trailing", "[{]"] {
            let error = corpus(json).expect_err(json).to_string();
            assert!(error.contains("train.json"), "{error}");
        }
        let missing = Corpus::read(&[Source { file: "/no/such.json".into(), images: "/".into() }]);
        assert!(matches!(missing, Err(CorpusError::Io { .. })));
    }
}
