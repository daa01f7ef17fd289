//! What can be asked about a scene, and what is right.
//!
//! Every yes/no question is decided by a coin before its words are chosen, and a false one differs from the truth in
//! one attribute that is as likely to be drawn as the true one. So neither the form of a question nor its words tell
//! the answer, and training never names a held-out pair.

use crate::answer::Answer;
use crate::icons::ICONS;
use crate::rng::Rng;
use crate::scene::{Chart, Content, Kind, Object, Print, Scene, Sign, Split};
use crate::vocabulary::{Color, NUMBER_WORDS, Relation, Shape, is_held_out, sentence, with_article};
use crate::words::WORDS;

/// The question whose one right answer is [`Scene::caption`].
pub const CAPTION_QUESTION: &str = "Describe the image.";

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum QuestionKind {
    Color,
    Shape,
    Count,
    Relation,
    YesNo,
    Text,
    Chart,
    Icon,
    /// The exact caption of a scene with one object.
    CaptionOne,
    /// The exact caption of a scene with two objects.
    CaptionTwo,
    /// Anything but yes/no about scenes with a pair of colour and shape that training never sees.
    HeldOut,
    /// The exact caption of any other scene.
    CaptionMore,
    /// A caption in one of many wordings: for training alone, since it has no one right answer.
    CaptionVaried,
}

impl QuestionKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Color,
        Self::Shape,
        Self::Count,
        Self::Relation,
        Self::YesNo,
        Self::Text,
        Self::Chart,
        Self::Icon,
        Self::CaptionOne,
        Self::CaptionTwo,
        Self::HeldOut,
        Self::CaptionMore,
        Self::CaptionVaried,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Color => "color",
            Self::Shape => "shape",
            Self::Count => "count",
            Self::Relation => "relation",
            Self::YesNo => "yes_no",
            Self::Text => "text",
            Self::Chart => "chart",
            Self::Icon => "icon",
            Self::CaptionOne => "caption_one",
            Self::CaptionTwo => "caption_two",
            Self::HeldOut => "held_out",
            Self::CaptionMore => "caption_more",
            Self::CaptionVaried => "caption_varied",
        }
    }
}

/// A question about a scene.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What it is about.
    pub kind: QuestionKind,
    /// Questions of one form differ in names alone, as "What color is the circle?" and "… the star?".
    pub form: &'static str,
    /// As it is put to the model.
    pub text: String,
    /// What is right.
    pub answer: Answer,
}

/// Questions of one scene while they are made.
struct Asker<'a> {
    rng: &'a mut Rng,
    questions: Vec<Question>,
}

impl Asker<'_> {
    /// Ask in one of these wordings.
    fn ask(&mut self, kind: QuestionKind, form: &'static str, wordings: &[String], answer: Answer) {
        let text = self.rng.pick(wordings).clone();
        self.questions.push(Question { kind, form, text, answer });
    }

    /// Ask what is true if a coin says so, else what is false.
    fn yes_no(&mut self, form: &'static str, make: impl FnOnce(&mut Rng, bool) -> Option<String>) {
        let yes = self.rng.chance(0.5);
        if let Some(text) = make(self.rng, yes) {
            let answer = Answer::yes_no(yes);
            self.questions.push(Question { kind: QuestionKind::YesNo, form, text, answer });
        }
    }
}

impl Scene {
    /// What it shows, in the one wording that is exact: the answer to [`CAPTION_QUESTION`].
    pub fn caption(&self) -> String {
        sentence(&match &self.content {
            Content::Objects(objects, relation) => objects_caption(objects, *relation),
            Content::Groups(objects, count) => groups_caption(objects, *count),
            Content::Print(print) => format!("the text reads {}", print.text.to_lowercase()),
            Content::Chart(chart) => {
                let count = NUMBER_WORDS[chart.bars.len()];
                format!("a bar chart with {count} bars, the tallest is {}", tallest(chart).name())
            }
            Content::Sign(sign) => format!("an icon of {}", sign.icon.with_article()),
        })
    }

    /// What it shows, in other words: one of several wordings, by the scene's seed.
    pub fn varied_caption(&self) -> String {
        self.in_other_words(&mut self.asking(0))
    }

    /// What is printed in it, in small letters; nothing in other scenes.
    pub fn printed(&self) -> Option<String> {
        match &self.content {
            Content::Print(print) => Some(print.text.to_lowercase()),
            _ => None,
        }
    }

    /// A question about each letter or digit that is printed, for learning to read; none in other scenes.
    pub fn letter_questions(&self) -> Vec<Question> {
        let printed = self.printed().unwrap_or_default();
        let ask = |(at, letter): (usize, char)| Question {
            kind: QuestionKind::Text,
            form: "letter",
            text: format!("What is letter {}?", at + 1),
            answer: Answer::new(letter),
        };
        printed.chars().enumerate().map(ask).collect()
    }

    /// The exact caption first, then a few questions, among them at least one that is answered by yes or no (none
    /// about held-out scenes). Training scenes end with a caption in other words.
    pub fn questions(&self) -> Vec<Question> {
        self.questions_again(0)
    }

    /// [`Self::questions`], and for other numbers than 0 the same forms asked again: about other objects, in other words,
    /// with other coins. Some come out alike.
    pub fn questions_again(&self, time: u64) -> Vec<Question> {
        let rng = &mut self.asking(time);
        let varied = self.in_other_words(rng);
        let caption = match (self.kind(), self.is_held_out()) {
            (_, true) => QuestionKind::HeldOut,
            (Kind::One, _) => QuestionKind::CaptionOne,
            (Kind::Two, _) => QuestionKind::CaptionTwo,
            _ => QuestionKind::CaptionMore,
        };
        let mut asker = Asker { rng, questions: Vec::new() };
        asker.ask(caption, "caption", &[CAPTION_QUESTION.to_owned()], Answer::new(self.caption()));
        match &self.content {
            Content::Objects(objects, relation) => about_objects(&mut asker, objects, *relation),
            Content::Groups(objects, count) => about_groups(&mut asker, objects, *count),
            Content::Print(print) => about_print(&mut asker, print),
            Content::Chart(chart) => about_chart(&mut asker, chart),
            Content::Sign(sign) => about_sign(&mut asker, sign),
        }
        if self.is_held_out() {
            use QuestionKind::{Color, HeldOut, Shape};
            asker.questions.retain(|q| matches!(q.kind, Color | Shape | HeldOut));
            asker.questions.iter_mut().for_each(|q| q.kind = HeldOut);
        }
        if self.split() == Split::Train {
            const ASK: [&str; 4] = [
                "What is in the image? Answer in a sentence.",
                "What do you see?",
                "Tell me about the image.",
                "What does the image show?",
            ];
            let ask = ASK.map(str::to_owned);
            asker.ask(QuestionKind::CaptionVaried, "caption_varied", &ask, Answer::new(varied));
        }
        asker.questions
    }

    /// The stream of its questions, apart from that of its looks.
    fn asking(&self, time: u64) -> Rng {
        Rng::new(self.seed(), 200 + self.kind() as u64 + 10 * self.split() as u64 + 1000 * time)
    }

    fn in_other_words(&self, rng: &mut Rng) -> String {
        let exact = self.caption();
        let exact = exact[..1].to_lowercase() + exact[1..].trim_end_matches('.');
        let forms = match &self.content {
            Content::Objects(objects, Some(relation)) => {
                let [a, b] = [0, 1].map(|i| objects[i].name());
                let (there, back) = (relation.phrase(), relation.opposite().phrase());
                vec![
                    format!("{} {back} {}", with_article(&b), with_article(&a)),
                    format!("there are two shapes: {} and {}", with_article(&a), with_article(&b)),
                    format!("the {a} is {there} the {b}"),
                    format!("the {b} is {back} the {a}"),
                ]
            }
            Content::Objects(..) | Content::Groups(..) => vec![
                format!("a picture of {exact}"),
                format!("the image shows {exact}"),
                format!("I see {exact}"),
            ],
            Content::Print(print) => {
                let (text, color) = (print.text.to_lowercase(), print.color.name());
                vec![
                    format!("the image says {text}"),
                    format!("it reads {text}, in {color} letters"),
                    format!("{text} is written here"),
                ]
            }
            Content::Chart(chart) => {
                let names: Vec<&str> = chart.bars.iter().map(|bar| bar.color.name()).collect();
                let (last, first) = names.split_last().unwrap_or((&"", &[]));
                vec![
                    format!("a chart whose bars are {} and {last}", first.join(", ")),
                    format!("a bar chart, the shortest bar is {}", shortest(chart).name()),
                ]
            }
            Content::Sign(sign) => {
                let (color, name) = (sign.color.name(), sign.icon.with_article());
                vec![
                    format!("a drawing of {name}"),
                    format!("a symbol of {name} in {color}"),
                    format!("the image shows {name}"),
                    format!("{} icon of {name}", with_article(color)),
                ]
            }
        };
        sentence(rng.pick::<String>(&forms))
    }
}

fn objects_caption(objects: &[Object], relation: Option<Relation>) -> String {
    let names: Vec<String> = objects.iter().map(|o| with_article(&o.name())).collect();
    match (&names[..], relation) {
        ([first, second], Some(relation)) => format!("{first} {} {second}", relation.phrase()),
        ([first, second, third], _) => format!("{first}, {second} and {third}"),
        _ => names.join(" and "),
    }
}

/// "three red circles and a blue star": the larger group first.
fn groups_caption(objects: &[Object], count: usize) -> String {
    let (first, second) = objects.split_at(count);
    let mut groups = [first, second];
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let names: Vec<String> = groups.iter().filter(|g| !g.is_empty()).map(|g| some(g)).collect();
    names.join(" and ")
}

fn some(group: &[Object]) -> String {
    let object = &group[0];
    match group.len() {
        1 => with_article(&object.name()),
        count => format!("{} {} {}", NUMBER_WORDS[count], object.color.name(), object.shape.plural()),
    }
}

/// Another colour or another shape: what a false question says of this object. Half of the time it is taken from
/// another object of the scene where there is one, so that it is not enough to see that there is red somewhere.
fn another(rng: &mut Rng, objects: &[Object], of: &Object, change_color: bool) -> Option<(Color, Shape)> {
    let seen = |(color, shape)| objects.iter().any(|o| o.color == color && o.shape == shape);
    let fits = |pair: &(Color, Shape)| !is_held_out(pair.0, pair.1) && !seen(*pair);
    let change = |color, shape| if change_color { (color, of.shape) } else { (of.color, shape) };
    let near: Vec<_> = objects.iter().map(|o| change(o.color, o.shape)).filter(fits).collect();
    if !near.is_empty() && rng.chance(0.5) {
        return Some(*rng.pick(&near));
    }
    let all: Vec<_> = Color::ALL
        .into_iter()
        .zip(Shape::ALL)
        .map(|(color, shape)| change(color, shape))
        .filter(fits)
        .collect();
    (!all.is_empty()).then(|| *rng.pick(&all))
}

fn is_there(asker: &mut Asker, objects: &[Object]) {
    asker.yes_no("is_there", |rng, yes| {
        let object = rng.pick(objects);
        let change_color = rng.chance(0.5);
        let (color, shape) =
            if yes { (object.color, object.shape) } else { another(rng, objects, object, change_color)? };
        let name = with_article(&format!("{} {}", color.name(), shape.name()));
        let wordings = [
            format!("Is there {name}?"),
            format!("Is there {name} in the image?"),
            format!("Do you see {name}?"),
        ];
        Some(rng.pick(&wordings).clone())
    });
}

fn is_color(asker: &mut Asker, objects: &[Object], object: &Object, several: bool) {
    asker.yes_no(if several { "are_color" } else { "is_color" }, |rng, yes| {
        let color = if yes { object.color } else { another(rng, objects, object, true)?.0 };
        let color = color.name();
        Some(match several {
            true => format!("Are the {} {color}?", object.shape.plural()),
            false => format!("Is the {} {color}?", object.shape.name()),
        })
    });
}

/// The relation of the first to the second, if one is clear.
fn clear_relation(a: &Object, b: &Object) -> Option<Relation> {
    let [dx, dy] = [0, 1].map(|i| a.center[i] - b.center[i]);
    if dx.abs() > 2.5 * dy.abs() {
        Some(if dx < 0.0 { Relation::Left } else { Relation::Right })
    } else if dy.abs() > 2.5 * dx.abs() {
        Some(if dy < 0.0 { Relation::Above } else { Relation::Below })
    } else {
        None
    }
}

fn about_objects(asker: &mut Asker, objects: &[Object], relation: Option<Relation>) {
    let only_color = |o: &&Object| objects.iter().filter(|p| p.color == o.color).count() == 1;
    let only_shape = |o: &&Object| objects.iter().filter(|p| p.shape == o.shape).count() == 1;
    let colored: Vec<&Object> = objects.iter().filter(only_color).collect();
    let shaped: Vec<&Object> = objects.iter().filter(only_shape).collect();
    let alone = objects.len() == 1;
    if !shaped.is_empty() {
        let object = *asker.rng.pick(&shaped);
        let name = object.shape.name();
        let answer = Answer::new(object.color.name());
        if alone && asker.rng.chance(0.4) {
            let ask = ["What color is the object?".to_owned(), "What color is it?".to_owned()];
            asker.ask(QuestionKind::Color, "color_of_object", &ask, answer);
        } else {
            let ask = [format!("What color is the {name}?"), format!("What is the color of the {name}?")];
            asker.ask(QuestionKind::Color, "color_of_shape", &ask, answer);
        }
        let object = *asker.rng.pick(&shaped);
        is_color(asker, objects, object, false);
    }
    if !colored.is_empty() {
        let object = *asker.rng.pick(&colored);
        let name = object.color.name();
        let answer = Answer::new(object.shape.name());
        if alone && asker.rng.chance(0.4) {
            let ask = ["What shape is the object?".to_owned(), "What shape is it?".to_owned()];
            asker.ask(QuestionKind::Shape, "shape_of_object", &ask, answer);
        } else {
            let ask = [format!("What shape is the {name} object?"), format!("Which shape is {name}?")];
            asker.ask(QuestionKind::Shape, "shape_of_color", &ask, answer);
        }
    }
    is_there(asker, objects);
    if asker.rng.chance(0.4) {
        count_all(asker, objects.len());
    }
    if alone {
        return;
    }
    let mut two: Vec<&Object> = objects.iter().collect();
    asker.rng.shuffle(&mut two);
    let found = match relation {
        Some(_) => Some(main_relation(two[0], two[1])),
        None => clear_relation(two[0], two[1]),
    };
    if let Some(found) = found {
        about_relation(asker, two[0], two[1], found, objects.len() == 2);
    }
}

/// The relation of the first to the second, of two objects that were placed by one.
fn main_relation(a: &Object, b: &Object) -> Relation {
    let [dx, dy] = [0, 1].map(|i| a.center[i] - b.center[i]);
    match (dx.abs() > dy.abs(), dx < 0.0, dy < 0.0) {
        (true, true, _) => Relation::Left,
        (true, false, _) => Relation::Right,
        (false, _, true) => Relation::Above,
        (false, _, false) => Relation::Below,
    }
}

fn about_relation(asker: &mut Asker, a: &Object, b: &Object, relation: Relation, only_two: bool) {
    let (first, second) = (a.name(), b.name());
    let (word, others): (&str, &[&str]) = match relation {
        Relation::Left => (
            "left",
            &["to the left", "on the left", "left of", "to the left of", "left of it", "to the left of it"],
        ),
        Relation::Right => (
            "right",
            &[
                "to the right",
                "on the right",
                "right of",
                "to the right of",
                "right of it",
                "to the right of it",
            ],
        ),
        Relation::Above => ("above", &["above it", "over", "on top"]),
        Relation::Below => ("below", &["below it", "under", "underneath", "beneath"]),
    };
    let ask = [
        format!("Where is the {first} relative to the {second}?"),
        format!("Is the {first} left, right, above or below the {second}?"),
    ];
    let full = format!("{} the {second}", relation.phrase());
    let answer = Answer::new(word).or(others.iter().copied()).or([full]);
    asker.ask(QuestionKind::Relation, "relation_of", &ask, answer);
    if only_two && asker.rng.chance(0.5) {
        let ask = [format!("What is {} the {second}?", relation.phrase())];
        asker.ask(QuestionKind::Relation, "relation_what", &ask, Answer::new(with_article(&first)));
    }
    asker.yes_no("is_relation", |_, yes| {
        let relation = if yes { relation } else { relation.opposite() };
        Some(format!("Is the {first} {} the {second}?", relation.phrase()))
    });
}

fn count_all(asker: &mut Asker, count: usize) {
    let ask = ["How many shapes are there?".to_owned(), "How many objects are in the image?".to_owned()];
    asker.ask(QuestionKind::Count, "count_all", &ask, Answer::new(count.to_string()));
}

fn about_groups(asker: &mut Asker, objects: &[Object], count: usize) {
    let (first, second) = objects.split_at(count);
    let group = if !second.is_empty() && asker.rng.chance(0.35) { second } else { first };
    let plural = group[0].shape.plural();
    let ask = [format!("How many {plural} are there?"), format!("How many {plural} are in the image?")];
    asker.ask(QuestionKind::Count, "count_of", &ask, Answer::new(group.len().to_string()));
    if asker.rng.chance(0.5) {
        count_all(asker, objects.len());
    }
    let plural = first[0].shape.plural();
    asker.yes_no("is_count", |rng, yes| {
        let said = if yes { count } else { near_count(rng, count) };
        Some(match said {
            1 => format!("Is there exactly one {}?", first[0].shape.name()),
            said => format!("Are there exactly {} {plural}?", NUMBER_WORDS[said]),
        })
    });
    let some = asker.rng.pick(objects).clone();
    let color = Answer::new(some.color.name());
    let several = objects.iter().filter(|o| o.shape == some.shape).count() > 1;
    let (form, ask) = match several {
        true => ("color_of_shapes", format!("What color are the {}?", some.shape.plural())),
        false => ("color_of_shape", format!("What color is the {}?", some.shape.name())),
    };
    asker.ask(QuestionKind::Color, form, &[ask], color);
    if asker.rng.chance(0.5) {
        is_there(asker, objects);
    } else {
        is_color(asker, objects, &some, several);
    }
}

/// A number from 1 to 6 that is another, and at most 2 away. Each is named as often as it is there: the steps run
/// along the ring 1 2 4 6 5 3, one way or the other.
fn near_count(rng: &mut Rng, count: usize) -> usize {
    const RING: [usize; 6] = [1, 2, 4, 6, 5, 3];
    let at = RING.iter().position(|&n| n == count).unwrap_or(0);
    RING[(at + if rng.chance(0.5) { 1 } else { 5 }) % 6]
}

fn about_print(asker: &mut Asker, print: &Print) {
    let text = print.text.to_lowercase();
    let ask =
        ["What does it say?", "What is written in the image?", "What does the text say?", "Read the text."];
    asker.ask(QuestionKind::Text, "text", &ask.map(str::to_owned), Answer::new(&text));
    if asker.rng.chance(0.5) {
        let ask = ["What color is the text?".to_owned(), "What color are the letters?".to_owned()];
        asker.ask(QuestionKind::Color, "color_of_text", &ask, Answer::new(print.color.name()));
    }
    asker.yes_no("says", |rng, yes| {
        let said = if yes { text.clone() } else { other_text(rng, &text) };
        Some(format!("Does it say {said}?"))
    });
}

/// Another word of the same length, or the same characters but one: as likely to be printed as the true one.
fn other_text(rng: &mut Rng, text: &str) -> String {
    let words = WORDS.get(text.len() - 2).copied().unwrap_or_default();
    if words.contains(&text) {
        loop {
            let other = *rng.pick(words);
            if other != text {
                return other.to_owned();
            }
        }
    }
    let mut bytes = text.as_bytes().to_vec();
    let at = rng.below(bytes.len());
    let original = bytes[at];
    while bytes[at] == original {
        bytes[at] = match original {
            b'0'..=b'9' if at == 0 => b'1' + rng.below(9) as u8,
            b'0'..=b'9' => b'0' + rng.below(10) as u8,
            _ => *rng.pick(crate::scene::LETTERS),
        };
    }
    bytes.iter().map(|&b| b as char).collect()
}

fn tallest(chart: &Chart) -> Color {
    chart.bars.iter().max_by_key(|bar| bar.height).map_or(Color::Black, |bar| bar.color)
}

fn shortest(chart: &Chart) -> Color {
    chart.bars.iter().min_by_key(|bar| bar.height).map_or(Color::Black, |bar| bar.color)
}

fn about_chart(asker: &mut Asker, chart: &Chart) {
    let named = |color: Color| {
        Answer::new(color.name()).or([format!("{} bar", color.name()), format!("the {} one", color.name())])
    };
    let ask = ["Which bar is the tallest?", "What color is the tallest bar?"].map(str::to_owned);
    asker.ask(QuestionKind::Chart, "chart_tallest", &ask, named(tallest(chart)));
    let ask = ["Which bar is the shortest?", "What color is the shortest bar?"].map(str::to_owned);
    asker.ask(QuestionKind::Chart, "chart_shortest", &ask, named(shortest(chart)));
    if asker.rng.chance(0.6) {
        let ask = ["How many bars are there?", "How many bars does the chart have?"].map(str::to_owned);
        asker.ask(QuestionKind::Chart, "chart_count", &ask, Answer::new(chart.bars.len().to_string()));
    }
    asker.yes_no("bar_taller", |rng, yes| {
        let mut order: Vec<usize> = (0..chart.bars.len()).collect();
        rng.shuffle(&mut order);
        let [a, b] = [0, 1].map(|i| &chart.bars[order[i]]);
        let (tall, low) = if a.height > b.height { (a, b) } else { (b, a) };
        let (first, second) = if yes { (tall, low) } else { (low, tall) };
        Some(format!("Is the {} bar taller than the {} bar?", first.color.name(), second.color.name()))
    });
}

fn about_sign(asker: &mut Asker, sign: &Sign) {
    let ask = ["What does the icon show?", "What is this?", "What is it an icon of?"].map(str::to_owned);
    let names = sign.icon.other_names.iter().copied();
    asker.ask(QuestionKind::Icon, "icon", &ask, Answer::new(sign.icon.name).or(names));
    if asker.rng.chance(0.5) {
        let ask = [
            "What color is the icon?".to_owned(),
            format!(
                "What color {} the {}?",
                if sign.icon.is_plural() { "are" } else { "is" },
                sign.icon.name
            ),
        ];
        asker.ask(QuestionKind::Color, "color_of_icon", &ask, Answer::new(sign.color.name()));
    }
    asker.yes_no("shows", |rng, yes| {
        let icon = match yes {
            true => sign.icon,
            false => {
                let same = ICONS.iter().filter(|i| i.sort == sign.icon.sort && i.name != sign.icon.name);
                let same: Vec<_> = same.collect();
                *rng.pick(&same)
            }
        };
        let name = icon.with_article();
        let wordings = [format!("Does the icon show {name}?"), format!("Is this an icon of {name}?")];
        Some(rng.pick(&wordings).clone())
    });
}
