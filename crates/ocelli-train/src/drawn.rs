//! The drawn world as something to learn from: scenes by their seeds, drawn when they are needed.
//!
//! All questions about a scene are branches behind one picture, blind to each other, so that the picture is encoded
//! once and no answer is read off another one.

use std::collections::BTreeMap;

use ocelli_drawn::{Kind, QuestionKind, Scene, Split, scene_seed};
use ocelli_image::to_pixel_values;
use ocelli_text::{
    ClipTokenizer, PromptToken, Qwen2Tokenizer, Role, SaidToken, Template, TextError, Turn,
    build_conversation,
};
use serde::{Deserialize, Serialize};

use crate::clip_data::{Pair, Pairs, Recipe};
use crate::fit::vlm::{Example, Examples};
use crate::random::Random;
use crate::vlm_data::batches::Length;

/// Which scenes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrawnConfig {
    /// How many; they come again after that.
    pub scenes: usize,
    /// Of all of them.
    pub seed: u64,
    /// Questions about each, chosen at random; 0 takes all.
    #[serde(default)]
    pub questions: usize,
    /// Further questions about each whose answers are short (no captions), asked again in other words; where something
    /// is printed, first of all one about each letter.
    #[serde(default)]
    pub short: usize,
    /// How often each kind of scene is drawn; all kinds as often as they are worth learning if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<KindWeights>,
    /// The longest text that is printed, in letters; as the scenes have it if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letters: Option<usize>,
    /// Scenes that training never draws, to measure on.
    #[serde(default)]
    pub held_back: bool,
}

/// How often each of [`Kind::ALL`] is drawn, beside the others: `{ one = 1, two = 3 }` in a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, usize>", into = "BTreeMap<String, usize>")]
pub struct KindWeights([usize; Kind::ALL.len()]);

impl TryFrom<BTreeMap<String, usize>> for KindWeights {
    type Error = String;

    fn try_from(named: BTreeMap<String, usize>) -> Result<Self, String> {
        let names = Kind::ALL.map(Kind::name);
        if let Some(unknown) = named.keys().find(|name| !names.contains(&name.as_str())) {
            return Err(format!("no kind of scene is called {unknown}; there are {}", names.join(", ")));
        }
        let weights = names.map(|name| named.get(name).copied().unwrap_or(0));
        match weights.iter().try_fold(0, |sum: usize, &weight| sum.checked_add(weight)) {
            None | Some(0) => {
                Err("the weights of the kinds of scenes must add up to a number above 0".into())
            }
            Some(_) => Ok(Self(weights)),
        }
    }
}

impl From<KindWeights> for BTreeMap<String, usize> {
    fn from(KindWeights(weights): KindWeights) -> Self {
        let named = Kind::ALL.into_iter().zip(weights).filter(|(_, weight)| *weight > 0);
        named.map(|(kind, weight)| (kind.name().to_owned(), weight)).collect()
    }
}

impl DrawnConfig {
    fn split(&self) -> Split {
        if self.held_back { Split::Eval } else { Split::Train }
    }
}

/// Scenes with their questions.
pub struct DrawnScenes<'a> {
    config: DrawnConfig,
    tokenizer: &'a Qwen2Tokenizer,
    template: Template,
    captions_only: bool,
}

impl<'a> DrawnScenes<'a> {
    /// With captions alone, as stage 1 has them, or with all questions.
    pub fn new(
        config: DrawnConfig,
        tokenizer: &'a Qwen2Tokenizer,
        template: Template,
        captions_only: bool,
    ) -> Self {
        Self { config, tokenizer, template, captions_only }
    }

    fn scene(&self, index: usize) -> Scene {
        let drawn = |time: usize| {
            let index = index.wrapping_add(time.wrapping_mul(self.config.scenes));
            let (split, seed) = (self.config.split(), scene_seed(self.config.seed, index));
            match self.config.kinds {
                Some(KindWeights(weights)) => Scene::of_kinds(&weights, split, seed),
                None => Scene::any(split, seed),
            }
        };
        let longest = self.config.letters.unwrap_or(usize::MAX).max(SHORTEST_TEXT);
        let fits = |scene: &Scene| scene.printed().is_none_or(|text| text.len() <= longest);
        (0..MOST_DRAWINGS).map(drawn).find(fits).unwrap_or_else(|| drawn(0))
    }

    /// The questions about a scene and their answers, as they are learned.
    pub fn questions(&self, index: usize) -> Vec<[String; 2]> {
        self.asked(&self.scene(index))
    }

    fn asked(&self, scene: &Scene) -> Vec<[String; 2]> {
        let mut questions = scene.questions();
        questions.retain(|q| !self.captions_only || is_caption(q.kind));
        if self.config.questions > 0 {
            // A stream apart from those of the scene.
            Random::new(scene.seed() ^ 0x5eed_0a5c_ed00_0000).shuffle(&mut questions);
            questions.truncate(self.config.questions);
        }
        let all = questions.len() + self.config.short;
        questions.extend(scene.letter_questions().into_iter().take(self.config.short));
        for time in 1..=MOST_ASKINGS {
            let left = all - questions.len();
            if left == 0 {
                break;
            }
            let mut again = scene.questions_again(time);
            again.retain(|q| !is_caption(q.kind) && !questions.iter().any(|asked| asked.text == q.text));
            questions.extend(again.into_iter().take(left));
        }
        questions.into_iter().map(|q| [q.text, q.answer.text().to_owned()]).collect()
    }

    fn tokens(&self, asked: Vec<[String; 2]>) -> Result<(Vec<SaidToken>, Vec<usize>), TextError> {
        let (mut tokens, mut branches) = (Vec::new(), Vec::new());
        for [question, answer] in asked {
            let turn = |role, text, images| Turn { role, text, images };
            let turns = [turn(Role::User, question, 1), turn(Role::Assistant, answer, 0)];
            let conversation = build_conversation(self.tokenizer, self.template, &turns, None)?;
            let picture = conversation.iter().position(|said| said.token == PromptToken::Image);
            let shared = picture.map_or(0, |at| at + 1);
            if tokens.is_empty() {
                tokens.extend_from_slice(&conversation[..shared]);
            }
            branches.push(tokens.len());
            tokens.extend_from_slice(&conversation[shared..]);
        }
        Ok((tokens, branches))
    }
}

/// Letters of the shortest text that is ever printed.
const SHORTEST_TEXT: usize = 2;
/// How often another scene is drawn at most, to come by one with a short text.
const MOST_DRAWINGS: usize = 200;
/// How often a scene is asked about again at most, to come by its short answers.
const MOST_ASKINGS: u64 = 12;

fn is_caption(kind: QuestionKind) -> bool {
    use QuestionKind::{CaptionMore, CaptionOne, CaptionTwo, CaptionVaried};
    [CaptionOne, CaptionTwo, CaptionMore, CaptionVaried].contains(&kind)
}

impl Examples for DrawnScenes<'_> {
    /// All alike: scenes differ little, and finding out would mean to ask about all of them.
    fn lengths(&self) -> Vec<Length> {
        vec![Length { tokens: 1, pictured: true }; self.config.scenes]
    }

    fn example(&self, index: usize, resolution: usize) -> Result<Example, String> {
        let scene = self.scene(index);
        let (tokens, branches) =
            self.tokens(self.asked(&scene)).map_err(|e| format!("scene {index}: {e}"))?;
        // FastVLM's pixels are 0 to 1.
        let pixels = scene.draw(resolution).rgb.iter().map(|&value| f32::from(value) / 255.0).collect();
        Ok(Example { pictures: vec![pixels], tokens, branches })
    }
}

/// Scenes with their captions, for a MobileCLIP.
pub struct DrawnPairs {
    config: DrawnConfig,
    recipe: Recipe,
    tokenizer: ClipTokenizer,
}

impl DrawnPairs {
    /// As a network takes them.
    pub fn new(config: DrawnConfig, recipe: Recipe, tokenizer: ClipTokenizer) -> Self {
        Self { config, recipe, tokenizer }
    }
}

impl Pairs for DrawnPairs {
    fn count(&self) -> usize {
        self.config.scenes
    }

    /// The exact caption or, as often, one in other words.
    fn pair(&self, index: usize, draw: u64) -> Result<Pair, String> {
        let scene = Scene::any(self.config.split(), scene_seed(self.config.seed, index));
        let exact = Random::of(&[draw]).below(2) == 0;
        let caption = if exact { scene.caption() } else { scene.varied_caption() };
        let Recipe { size, mean, std, context_length } = self.recipe;
        Ok(Pair {
            pixels: to_pixel_values(&scene.draw(size).rgb, mean, std),
            text: self.tokenizer.encode(&caption, context_length).ids,
            synthetic: None,
            teachers: None,
        })
    }
}

/// What is asked and said about so many training scenes, for learning a vocabulary. What is printed in pictures is left
/// out, so that words are spelled by their letters.
pub fn texts(seed: u64, scenes: usize) -> Vec<String> {
    let texts = (0..scenes).flat_map(|index| {
        let scene = Scene::any(Split::Train, scene_seed(seed, index));
        let printed = scene.kind() == Kind::Text;
        let questions = if printed { Vec::new() } else { scene.questions() };
        questions.into_iter().flat_map(|q| [format!("\n{}", q.text), q.answer.text().to_owned()])
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_is_a_branch_behind_the_picture() {
        let dir = tempfile::tempdir().expect("a folder");
        let texts = texts(1, 50);
        let texts = texts.iter().map(String::as_str);
        ocelli_text::write_learned_qwen2_tokenizer(dir.path(), texts, 400, false).expect("a tokenizer");
        let tokenizer = Qwen2Tokenizer::from_dir(dir.path()).expect("a tokenizer");
        let config = DrawnConfig {
            scenes: 10,
            seed: 7,
            questions: 0,
            short: 0,
            kinds: None,
            letters: None,
            held_back: false,
        };
        let drawn = DrawnScenes::new(config, &tokenizer, Template::Apple, false);
        let example = drawn.example(3, 32).expect("a scene");
        let questions = drawn.scene(3).questions();
        assert_eq!(example.branches.len(), questions.len());
        assert_eq!(example.pictures[0].len(), 32 * 32 * 3);
        let ends = example.branches.iter().skip(1).copied().chain([example.tokens.len()]);
        for ((begin, end), question) in example.branches.iter().zip(ends).zip(&questions) {
            let branch = &example.tokens[*begin..end];
            let said: Vec<u32> = branch
                .iter()
                .filter(|said| said.said)
                .map(|said| if let PromptToken::Id(id) = said.token { id } else { 0 })
                .collect();
            assert_eq!(tokenizer.decode(&said, true), question.answer.text());
        }
        assert!(example.tokens[..example.branches[0]].iter().all(|said| !said.said));
        let two =
            DrawnScenes::new(DrawnConfig { questions: 2, ..config }, &tokenizer, Template::Apple, false);
        assert_eq!(two.example(3, 32).expect("a scene").branches.len(), 2);
        let kinds = Some(KindWeights::try_from(BTreeMap::from([("two".to_owned(), 1)])).expect("weights"));
        let short = DrawnConfig { questions: 1, short: 5, kinds, ..config };
        let short = DrawnScenes::new(short, &tokenizer, Template::Apple, false);
        let asked = short.questions(3);
        assert_eq!(asked.len(), 6, "{asked:?}");
        assert!(asked[1..].iter().all(|[_, answer]| answer.split(' ').count() < 4), "{asked:?}");
        assert!((0..5).all(|index| short.scene(index).kind() == Kind::Two));
        let captions =
            DrawnScenes::new(config, &tokenizer, Template::Apple, true).example(3, 32).expect("a scene");
        assert_eq!(captions.branches.len(), 2);
    }

    #[test]
    fn short_texts_are_asked_letter_by_letter() {
        let dir = tempfile::tempdir().expect("a folder");
        ocelli_text::write_learned_qwen2_tokenizer(dir.path(), ["a text"], 300, false).expect("a tokenizer");
        let tokenizer = Qwen2Tokenizer::from_dir(dir.path()).expect("a tokenizer");
        let config: DrawnConfig = toml::from_str(
            "scenes = 50\nseed = 3\nquestions = 1\nshort = 6\nkinds = { text = 1 }\nletters = 3",
        )
        .expect("a config");
        let drawn = DrawnScenes::new(config, &tokenizer, Template::Apple, false);
        for index in 0..50 {
            let printed = drawn.scene(index).printed().expect("a text");
            assert!((2..=3).contains(&printed.len()), "{printed}");
            let asked = drawn.questions(index);
            for (at, letter) in printed.chars().enumerate() {
                let wanted = [format!("What is letter {}?", at + 1), letter.to_string()];
                assert!(asked.contains(&wanted), "{printed}: {asked:?}");
            }
        }
        let whole = DrawnConfig { letters: None, ..config };
        let whole = DrawnScenes::new(whole, &tokenizer, Template::Apple, false);
        let longest = (0..50).filter_map(|index| whole.scene(index).printed()).map(|text| text.len()).max();
        assert_eq!(longest, Some(7));
    }

    #[test]
    fn kinds_are_named_and_some_are_drawn() {
        let read =
            |text: &str| toml::from_str::<DrawnConfig>(&format!("scenes = 1\nseed = 1\nkinds = {text}"));
        let config = read("{ one = 1, three = 2 }").expect("weights");
        assert_eq!(config.kinds, Some(KindWeights([1, 0, 2, 0, 0, 0, 0])));
        let written = toml::to_string(&config).expect("a recipe");
        assert_eq!(toml::from_str::<DrawnConfig>(&written).expect("a recipe"), config);
        let error = read("{ four = 1 }").expect_err("no such kind").to_string();
        assert!(error.contains("no kind of scene is called four; there are one, two"), "{error}");
        assert!(read("{ one = 0 }").is_err() && read("{}").is_err());
    }
}
