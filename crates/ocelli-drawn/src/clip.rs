//! What a model with one space for pictures and texts is measured on: 40 classes, and 200 scenes with their captions.

use std::collections::HashSet;

use crate::answer::normalized;
use crate::icons::ICONS;
use crate::scene::{Scene, Split, Subject};
use crate::vocabulary::{Color, Shape, sentence, with_article};

/// How many classes there are.
pub const CLASS_COUNT: usize = 40;

/// How many scenes [`retrieval_scenes`] has.
pub const RETRIEVAL_COUNT: usize = 200;

/// A class of pictures: one coloured shape, or one icon in any colour.
#[derive(Clone, Debug)]
pub struct DrawnClass {
    text: String,
    subject: Subject,
}

impl DrawnClass {
    /// What a text tower is given: "A red circle." or "An icon of a cat.", as captions say it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// An evaluation scene of this class.
    pub fn scene(&self, seed: u64) -> Scene {
        Scene::showing(self.subject, seed)
    }
}

/// The classes: 24 pairs of colour and shape that are not held out, and 16 icons. Every colour and every shape is
/// in two classes or more, so neither alone is enough.
pub fn classes() -> Vec<DrawnClass> {
    // Steps from a colour to its shape that meet no held-out pair.
    let steps = (0..10).map(|color| (color, 0)).chain((0..10).map(|color| (color, 4)));
    let steps = steps.chain([0, 3, 6, 9].map(|color| (color, 6)));
    let shapes = steps.map(|(color, step)| {
        let (color, shape) = (Color::ALL[color], Shape::ALL[(color + step) % 10]);
        let text = sentence(&with_article(&format!("{} {}", color.name(), shape.name())));
        DrawnClass { text, subject: Subject::Object(color, shape) }
    });
    let icons = (0..16).map(|at| {
        let icon = &ICONS[at * 6];
        let text = sentence(&format!("an icon of {}", icon.with_article()));
        DrawnClass { text, subject: Subject::Icon(icon) }
    });
    shapes.chain(icons).collect()
}

/// 200 evaluation scenes of all kinds, none held out, no two with the same caption.
pub fn retrieval_scenes(seed: u64) -> Vec<Scene> {
    let mut captions = HashSet::new();
    let scenes = (0..).map(|at| Scene::any(Split::Eval, seed.wrapping_add(at)));
    let fresh = scenes.filter(|scene| !scene.is_held_out() && captions.insert(normalized(&scene.caption())));
    fresh.take(RETRIEVAL_COUNT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::is_held_out;

    #[test]
    fn classes_are_distinct_and_need_colour_and_shape() {
        let classes = classes();
        let texts: HashSet<&str> = classes.iter().map(DrawnClass::text).collect();
        assert_eq!(texts.len(), CLASS_COUNT);
        let having = |word: &str| texts.iter().filter(|text| text.contains(word)).count();
        assert!(Color::ALL.iter().all(|c| having(c.name()) >= 2), "{texts:?}");
        assert!(Shape::ALL.iter().all(|s| having(s.name()) >= 2), "{texts:?}");
        for (at, class) in classes.iter().enumerate() {
            assert!(!matches!(class.subject, Subject::Object(color, shape) if is_held_out(color, shape)));
            assert_eq!(class.scene(at as u64).caption(), class.text());
        }
    }

    #[test]
    fn retrieval_has_200_captions() {
        let captions: HashSet<String> = retrieval_scenes(5).iter().map(Scene::caption).collect();
        assert_eq!(captions.len(), RETRIEVAL_COUNT);
    }
}
