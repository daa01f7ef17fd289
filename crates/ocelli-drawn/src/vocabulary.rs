//! The words of the drawn world: colours, shapes, relations, and which colour never meets which shape in training.

use crate::rng::Rng;

/// Red, green and blue, 0 to 255.
pub(crate) type Rgb = [u8; 3];

/// A colour with a name. White is left out: on most backgrounds nobody would see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Color {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Brown,
    Gray,
    Black,
}

impl Color {
    /// All ten.
    pub const ALL: [Self; 10] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Blue,
        Self::Purple,
        Self::Pink,
        Self::Brown,
        Self::Gray,
        Self::Black,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Orange => "orange",
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Purple => "purple",
            Self::Pink => "pink",
            Self::Brown => "brown",
            Self::Gray => "gray",
            Self::Black => "black",
        }
    }

    /// What it may look like before light and noise. The first is its plainest form.
    pub(crate) fn anchors(self) -> &'static [Rgb] {
        match self {
            Self::Red => &[[225, 25, 35], [255, 0, 0], [210, 30, 30]],
            Self::Orange => &[[250, 140, 20], [255, 165, 0], [255, 128, 0]],
            Self::Yellow => &[[250, 220, 30], [255, 255, 0], [255, 235, 60]],
            Self::Green => &[[40, 160, 60], [0, 128, 0], [60, 200, 80], [0, 200, 0]],
            Self::Blue => &[[35, 85, 220], [0, 0, 255], [60, 110, 235]],
            Self::Purple => &[[135, 45, 175], [128, 0, 128], [115, 60, 180]],
            Self::Pink => &[[255, 135, 190], [255, 192, 203], [255, 105, 180]],
            Self::Brown => &[[125, 75, 35], [139, 69, 19], [105, 65, 40]],
            Self::Gray => &[[135, 135, 135], [128, 128, 128], [155, 155, 155]],
            Self::Black => &[[15, 15, 15], [0, 0, 0], [28, 28, 30]],
        }
    }

    /// One of its looks, a little changed.
    pub(crate) fn look(self, rng: &mut Rng) -> Rgb {
        let anchor = *rng.pick(self.anchors());
        if matches!(self, Self::Gray | Self::Black) {
            let shift = rng.below(17) as i32 - 8;
            return anchor.map(|c| (i32::from(c) + shift).clamp(0, 255) as u8);
        }
        anchor.map(|c| (i32::from(c) + rng.below(17) as i32 - 8).clamp(0, 255) as u8)
    }

    pub(crate) fn random(rng: &mut Rng) -> Self {
        *rng.pick(&Self::ALL)
    }
}

/// A shape with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Heart,
    Diamond,
    Cross,
    Hexagon,
    Ring,
    Crescent,
}

impl Shape {
    /// All ten.
    pub const ALL: [Self; 10] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Heart,
        Self::Diamond,
        Self::Cross,
        Self::Hexagon,
        Self::Ring,
        Self::Crescent,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Heart => "heart",
            Self::Diamond => "diamond",
            Self::Cross => "cross",
            Self::Hexagon => "hexagon",
            Self::Ring => "ring",
            Self::Crescent => "crescent",
        }
    }

    /// The name of several.
    pub fn plural(self) -> String {
        match self {
            Self::Cross => "crosses".to_owned(),
            other => format!("{}s", other.name()),
        }
    }
}

/// Whether training never draws nor names this colour with this shape: 12 of the 100 pairs, spread so that each
/// colour and each shape is held out once or twice.
pub fn is_held_out(color: Color, shape: Shape) -> bool {
    let (color, shape) = (color as usize, shape as usize);
    shape == (3 * color + 1) % 10 || (color % 5 == 2 && shape == (3 * color + 4) % 10)
}

/// All pairs that training may draw, or all that it may not.
pub fn pairs(held_out: bool) -> Vec<(Color, Shape)> {
    let all = Color::ALL.into_iter().flat_map(|color| Shape::ALL.map(|shape| (color, shape)));
    all.filter(|&(color, shape)| is_held_out(color, shape) == held_out).collect()
}

/// Where one thing is, seen from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Relation {
    Left,
    Right,
    Above,
    Below,
}

impl Relation {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Left, Self::Right, Self::Above, Self::Below];

    /// In a sentence: "A is {phrase} B".
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Left => "to the left of",
            Self::Right => "to the right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }

    /// Seen from the other thing.
    pub fn opposite(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }
}

/// Numbers from 0 to 10 in words.
pub(crate) const NUMBER_WORDS: [&str; 11] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

/// "a" or "an", and the words.
pub(crate) fn with_article(words: &str) -> String {
    let vowel = words.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {words}", if vowel { "an" } else { "a" })
}

/// The same with a capital letter at its begin.
pub(crate) fn capitalized(words: &str) -> String {
    let mut characters = words.chars();
    let first = characters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

/// The same with a capital letter at its begin and a period at its end.
pub(crate) fn sentence(words: &str) -> String {
    capitalized(words) + "."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_and_every_shape_is_held_out_once_or_twice() {
        assert_eq!((pairs(true).len(), pairs(false).len()), (12, 88));
        for color in Color::ALL {
            let count = pairs(true).iter().filter(|p| p.0 == color).count();
            assert!((1..=2).contains(&count), "{color:?} {count}");
        }
        for shape in Shape::ALL {
            let count = pairs(true).iter().filter(|p| p.1 == shape).count();
            assert!((1..=2).contains(&count), "{shape:?} {count}");
        }
    }

    /// The looks of two names differ more than noise and light change them.
    #[test]
    fn colours_look_different() {
        for a in Color::ALL {
            for b in Color::ALL.into_iter().filter(|&b| b > a) {
                for &x in a.anchors() {
                    for &y in b.anchors() {
                        let distance: i32 = (0..3).map(|c| (i32::from(x[c]) - i32::from(y[c])).pow(2)).sum();
                        assert!(distance > 50 * 50, "{a:?} {x:?} and {b:?} {y:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn sentences_are_sentences() {
        assert_eq!(sentence(&with_article("orange star")), "An orange star.");
        assert_eq!(with_article("red ring"), "a red ring");
    }
}
