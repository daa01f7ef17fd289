//! Everyday things that the icon fonts show, under the plainest name that a person would give them.
//!
//! Two open fonts draw them: an outlined one, which has all, and a solid one, which has most. What looks like one
//! of our shapes (heart, star, moon) or like two names at once (tulip and flower) is left out.

use crate::vocabulary::with_article;

/// What an icon is about. A false yes/no question names another icon of the same sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sort {
    /// Walks, swims or flies.
    Animal,
    /// Grows, or is eaten.
    Food,
    /// One goes somewhere in it.
    Vehicle,
    /// Everything else.
    Thing,
}

/// One icon.
#[derive(Debug)]
pub struct Icon {
    /// Its character in both fonts.
    pub character: char,
    /// Its name, in lower case and without an article.
    pub name: &'static str,
    /// Other names that are right too.
    pub other_names: &'static [&'static str],
    /// What it is about.
    pub sort: Sort,
}

impl Icon {
    /// Its name as it stands in a sentence: "a cat", "scissors".
    pub fn with_article(&self) -> String {
        let bare = self.is_plural() || matches!(self.name, "bread" | "cheese");
        if bare { self.name.to_owned() } else { with_article(self.name) }
    }

    /// Whether its name is a plural.
    pub(crate) fn is_plural(&self) -> bool {
        matches!(self.name, "scissors" | "glasses" | "grapes")
    }
}

const fn icon(code: u32, name: &'static str, other_names: &'static [&'static str], sort: Sort) -> Icon {
    let Some(character) = char::from_u32(code) else { panic!("not a character") };
    Icon { character, name, other_names, sort }
}

use Sort::{Animal, Food, Thing, Vehicle};

/// All of them. New ones go to the end: places in this table are part of what a seed draws.
#[rustfmt::skip]
pub static ICONS: [Icon; 100] = [
    icon(0x1F431, "cat", &["cat face", "kitten"], Animal),
    icon(0x1F436, "dog", &["dog face", "puppy"], Animal),
    icon(0x1F40E, "horse", &[], Animal),
    icon(0x1F404, "cow", &[], Animal),
    icon(0x1F437, "pig", &["pig face"], Animal),
    icon(0x1F407, "rabbit", &["bunny"], Animal),
    icon(0x1F401, "mouse", &["rat"], Animal),
    icon(0x1F418, "elephant", &[], Animal),
    icon(0x1F41F, "fish", &[], Animal),
    icon(0x1F426, "bird", &[], Animal),
    icon(0x1F989, "owl", &[], Animal),
    icon(0x1F427, "penguin", &[], Animal),
    icon(0x1F40C, "snail", &[], Animal),
    icon(0x1F422, "turtle", &["tortoise"], Animal),
    icon(0x1F98B, "butterfly", &[], Animal),
    icon(0x1F41D, "bee", &["honeybee"], Animal),
    icon(0x1F577, "spider", &[], Animal),
    icon(0x1F40D, "snake", &[], Animal),
    icon(0x1F438, "frog", &["frog face"], Animal),
    icon(0x1F981, "lion", &["lion face"], Animal),
    icon(0x1F433, "whale", &[], Animal),
    icon(0x1F419, "octopus", &[], Animal),
    icon(0x1F980, "crab", &[], Animal),
    icon(0x1F42B, "camel", &[], Animal),
    icon(0x1F412, "monkey", &[], Animal),
    icon(0x1F992, "giraffe", &[], Animal),
    icon(0x1F987, "bat", &[], Animal),
    icon(0x1F995, "dinosaur", &[], Animal),
    icon(0x1F333, "tree", &[], Food),
    icon(0x1F334, "palm tree", &["palm"], Food),
    icon(0x1F33B, "flower", &["sunflower"], Food),
    icon(0x1F335, "cactus", &[], Food),
    icon(0x1F344, "mushroom", &[], Food),
    icon(0x1F341, "leaf", &["maple leaf"], Food),
    icon(0x1F34E, "apple", &[], Food),
    icon(0x1F34C, "banana", &["bananas"], Food),
    icon(0x1F352, "cherry", &["cherries"], Food),
    icon(0x1F347, "grapes", &["bunch of grapes"], Food),
    icon(0x1F353, "strawberry", &[], Food),
    icon(0x1F350, "pear", &[], Food),
    icon(0x1F34D, "pineapple", &[], Food),
    icon(0x1F955, "carrot", &[], Food),
    icon(0x1F355, "pizza", &["slice of pizza", "pizza slice"], Food),
    icon(0x1F354, "burger", &["hamburger"], Food),
    icon(0x1F366, "ice cream", &["ice cream cone"], Food),
    icon(0x1F370, "cake", &["piece of cake", "slice of cake"], Food),
    icon(0x1F35E, "bread", &["loaf of bread", "loaf"], Food),
    icon(0x1F9C0, "cheese", &[], Food),
    icon(0x1F697, "car", &[], Vehicle),
    icon(0x1F68C, "bus", &[], Vehicle),
    icon(0x1F69A, "truck", &["lorry"], Vehicle),
    icon(0x1F682, "train", &["locomotive", "steam train"], Vehicle),
    icon(0x1F6B2, "bicycle", &["bike"], Vehicle),
    icon(0x2708, "airplane", &["plane", "aeroplane"], Vehicle),
    icon(0x1F680, "rocket", &[], Vehicle),
    icon(0x26F5, "sailboat", &["boat", "sailing boat"], Vehicle),
    icon(0x1F6A2, "ship", &[], Vehicle),
    icon(0x1F681, "helicopter", &[], Vehicle),
    icon(0x1F69C, "tractor", &[], Vehicle),
    icon(0x1F3E0, "house", &["home"], Thing),
    icon(0x1F3F0, "castle", &[], Thing),
    icon(0x26FA, "tent", &[], Thing),
    icon(0x1F511, "key", &[], Thing),
    icon(0x1F512, "lock", &["padlock"], Thing),
    icon(0x1F514, "bell", &[], Thing),
    icon(0x1F4D6, "book", &["open book"], Thing),
    icon(0x270F, "pencil", &[], Thing),
    icon(0x2702, "scissors", &["pair of scissors"], Thing),
    icon(0x1F528, "hammer", &[], Thing),
    icon(0x2602, "umbrella", &[], Thing),
    icon(0x1F552, "clock", &[], Thing),
    icon(0x231A, "watch", &["wristwatch"], Thing),
    icon(0x260E, "phone", &["telephone"], Thing),
    icon(0x1F4F7, "camera", &[], Thing),
    icon(0x1F4FA, "television", &["tv"], Thing),
    icon(0x1F4BB, "computer", &["laptop"], Thing),
    icon(0x1F4A1, "light bulb", &["lightbulb", "bulb", "lamp"], Thing),
    icon(0x1F3B8, "guitar", &[], Thing),
    icon(0x1F3BA, "trumpet", &[], Thing),
    icon(0x26BD, "soccer ball", &["ball", "football"], Thing),
    icon(0x1F451, "crown", &[], Thing),
    icon(0x1F3A9, "hat", &["top hat"], Thing),
    icon(0x1F45F, "shoe", &["sneaker"], Thing),
    icon(0x1F457, "dress", &[], Thing),
    icon(0x1F455, "shirt", &["tshirt"], Thing),
    icon(0x1F453, "glasses", &["eyeglasses", "pair of glasses"], Thing),
    icon(0x2600, "sun", &[], Thing),
    icon(0x2601, "cloud", &[], Thing),
    icon(0x26C4, "snowman", &[], Thing),
    icon(0x2744, "snowflake", &[], Thing),
    icon(0x2693, "anchor", &[], Thing),
    icon(0x1F381, "gift", &["present"], Thing),
    icon(0x1F388, "balloon", &[], Thing),
    icon(0x2709, "envelope", &["letter"], Thing),
    icon(0x270B, "hand", &[], Thing),
    icon(0x1F480, "skull", &[], Thing),
    icon(0x1F47B, "ghost", &[], Thing),
    icon(0x1F6A9, "flag", &[], Thing),
    icon(0x1F3C6, "trophy", &["cup"], Thing),
    icon(0x2615, "cup", &["coffee", "cup of coffee", "coffee cup"], Thing),
];
