//! What is in a scene and where, drawn from a seed. No pixel is touched here: twenty thousand scenes a second can be
//! looked through for what they contain.

use crate::background::{Background, distance};
use crate::glyphs;
use crate::icons::{ICONS, Icon};
use crate::nuisance::Nuisances;
use crate::outline::Point;
use crate::rng::Rng;
use crate::vocabulary::{Color, Relation, Rgb, Shape, pairs};
use crate::words::WORDS;

/// Kinds of scenes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// One object: a coloured shape.
    One,
    /// Two objects, one left of, right of, above or below the other.
    Two,
    /// Three objects of three colours and three shapes.
    Three,
    /// One to six equal objects, sometimes with up to three others.
    Count,
    /// A printed word, number, or letters without meaning.
    Text,
    /// Two to six bars of different colours and heights.
    Chart,
    /// A glyph of an icon font.
    Icon,
}

impl Kind {
    /// All seven.
    pub const ALL: [Self; 7] =
        [Self::One, Self::Two, Self::Three, Self::Count, Self::Text, Self::Chart, Self::Icon];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Two => "two",
            Self::Three => "three",
            Self::Count => "count",
            Self::Text => "text",
            Self::Chart => "chart",
            Self::Icon => "icon",
        }
    }
}

/// What a scene is for. The same seed draws different scenes in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// To learn from; held-out pairs of colour and shape are never drawn nor named.
    Train,
    /// To be measured on, by seeds that training cannot reach.
    Eval,
}

impl Split {
    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }
}

/// A coloured shape. Lengths are parts of the picture's side, y points down.
#[derive(Clone, Debug)]
pub struct Object {
    /// The name of its colour.
    pub color: Color,
    /// Its shape.
    pub shape: Shape,
    /// The colour it is painted in.
    pub rgb: [u8; 3],
    /// Its middle.
    pub center: [f32; 2],
    /// The radius of a circle around it.
    pub radius: f32,
    /// Tangent of half the angle by which it is turned.
    pub(crate) turn: f32,
    pub(crate) finish: Finish,
}

impl Object {
    /// Colour and shape, as in "red circle".
    pub fn name(&self) -> String {
        format!("{} {}", self.color.name(), self.shape.name())
    }
}

/// How a shape is painted, which no question asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Finish {
    /// A thin edge of this colour.
    pub(crate) edge: Option<Rgb>,
    pub(crate) shadow: bool,
    /// As in `canvas::Paint`.
    pub(crate) shade: i32,
}

/// Printed characters.
#[derive(Clone, Debug)]
pub(crate) struct Print {
    pub(crate) text: String,
    pub(crate) font: usize,
    /// Size of the em.
    pub(crate) em: f32,
    pub(crate) center: Point,
    pub(crate) turn: f32,
    pub(crate) color: Color,
    pub(crate) rgb: Rgb,
    /// The sign it stands on, if any.
    pub(crate) plate: Option<Rgb>,
}

impl Print {
    /// Half of its width and height, and those of its plate.
    pub(crate) fn half(&self) -> Point {
        let (_, half) = glyphs::line(self.font, &self.text);
        let border = if self.plate.is_some() { 0.28 * self.em } else { 0.0 };
        [half[0] * self.em + border, half[1] * self.em + border]
    }
}

/// One bar of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) color: Color,
    pub(crate) rgb: Rgb,
    /// From 2 to 10; no two bars of a chart have the same.
    pub(crate) height: usize,
}

/// A bar chart.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) bars: Vec<Bar>,
    /// Where the first bar begins, the line that all stand on, the width of a bar and that of a gap, and the
    /// height of one step.
    pub(crate) left: f32,
    pub(crate) foot: f32,
    pub(crate) width: f32,
    pub(crate) gap: f32,
    pub(crate) step: f32,
    pub(crate) axes: bool,
    pub(crate) lines: bool,
}

/// An icon.
#[derive(Clone, Debug)]
pub(crate) struct Sign {
    pub(crate) icon: &'static Icon,
    pub(crate) color: Color,
    pub(crate) rgb: Rgb,
    pub(crate) center: Point,
    /// Half of its longer side.
    pub(crate) radius: f32,
    pub(crate) turn: f32,
    pub(crate) solid: bool,
}

/// What a scene shows.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// One, two or three objects from left to right; of two that are above each other, the upper first. The
    /// relation is that of the first to the second.
    Objects(Vec<Object>, Option<Relation>),
    /// So many equal objects, and then the others, equal among themselves.
    Groups(Vec<Object>, usize),
    Print(Print),
    Chart(Chart),
    Sign(Sign),
}

/// A short straight stroke that means nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stroke {
    pub(crate) from: Point,
    pub(crate) to: Point,
    pub(crate) width: f32,
    pub(crate) rgb: Rgb,
}

/// A scene: what is in it, but not yet its pixels.
///
/// ```
/// use ocelli_drawn::{Kind, Scene, Split};
///
/// let scene = Scene::new(Kind::Two, Split::Train, 1);
/// let picture = scene.draw(256);
/// assert_eq!(picture.rgb.len(), 256 * 256 * 3);
/// println!("{}", scene.caption());
/// for question in scene.questions() {
///     println!("{}: {} {}", question.kind.name(), question.text, question.answer.text());
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Scene {
    kind: Kind,
    split: Split,
    seed: u64,
    held_out: bool,
    pub(crate) content: Content,
    pub(crate) background: Background,
    pub(crate) clutter: Vec<Stroke>,
    pub(crate) nuisances: Nuisances,
}

/// How often each of [`Kind::ALL`] is drawn, in twentieths; words take longest to learn.
const WEIGHTS: [usize; Kind::ALL.len()] = [3, 4, 2, 3, 4, 2, 2];

/// The kind at which the weights add up to more than this.
fn weighted(weights: &[usize; Kind::ALL.len()], mut left: usize) -> Kind {
    let found = Kind::ALL.into_iter().zip(weights).find(|(_, weight)| {
        let here = left < **weight;
        left = left.wrapping_sub(**weight);
        here
    });
    found.map_or(Kind::One, |f| f.0)
}

impl Scene {
    /// The scene of this kind and seed. It holds no held-out pair.
    pub fn new(kind: Kind, split: Split, seed: u64) -> Self {
        Self::drawn(kind, split, seed, false, None)
    }

    /// An evaluation scene with one or two objects, at least one of which has a colour and a shape that never meet
    /// in training.
    pub fn held_out(seed: u64) -> Self {
        let kind = if Rng::new(seed, 90).chance(0.5) { Kind::One } else { Kind::Two };
        Self::drawn(kind, Split::Eval, seed, true, None)
    }

    /// A scene of any kind, as often as it is worth learning. A tenth of the evaluation scenes are
    /// [`Scene::held_out`] ones.
    pub fn any(split: Split, seed: u64) -> Self {
        let mut rng = Rng::new(seed, 80 + split as u64);
        if split == Split::Eval && rng.chance(0.1) {
            return Self::held_out(seed);
        }
        Self::new(weighted(&WEIGHTS, rng.below(20)), split, seed)
    }

    /// A scene of some kind, each of [`Kind::ALL`] as often as its weight says, without held-out pairs.
    pub fn of_kinds(weights: &[usize; Kind::ALL.len()], split: Split, seed: u64) -> Self {
        let mut rng = Rng::new(seed, 80 + split as u64);
        Self::new(weighted(weights, rng.below(weights.iter().sum())), split, seed)
    }

    /// A scene that shows exactly this.
    pub(crate) fn showing(what: Subject, seed: u64) -> Self {
        let kind = if matches!(what, Subject::Object(..)) { Kind::One } else { Kind::Icon };
        Self::drawn(kind, Split::Eval, seed, false, Some(what))
    }

    fn drawn(kind: Kind, split: Split, seed: u64, held_out: bool, what: Option<Subject>) -> Self {
        let stream = 1 + kind as u64 + 10 * split as u64 + 20 * u64::from(held_out);
        let rng = &mut Rng::new(seed, stream);
        let nuisances = Nuisances::random(rng);
        let content = match (kind, what) {
            (Kind::One, Some(Subject::Object(color, shape))) => one(rng, (color, shape)),
            (Kind::Icon, Some(Subject::Icon(icon))) => sign(rng, icon),
            (Kind::One, _) => {
                let pair = *rng.pick(&pairs(held_out));
                one(rng, pair)
            }
            (Kind::Two, _) => two(rng, held_out),
            (Kind::Three, _) => three(rng),
            (Kind::Count, _) => groups(rng),
            (Kind::Text, _) => print(rng),
            (Kind::Chart, _) => chart(rng),
            (Kind::Icon, _) => {
                let icon = rng.pick(&ICONS);
                sign(rng, icon)
            }
        };
        let mut scene = Self {
            kind,
            split,
            seed,
            held_out,
            background: Background::random(rng, &content.colors(), content.contrast()),
            content,
            clutter: Vec::new(),
            nuisances,
        };
        scene.finish(rng);
        if rng.chance(0.35) && kind != Kind::Chart {
            scene.clutter = clutter(rng, &scene);
        }
        scene
    }

    /// Edges, shadows and shades that fit the background.
    fn finish(&mut self, rng: &mut Rng) {
        let dark = self.background.is_dark();
        let (Content::Objects(objects, _) | Content::Groups(objects, _)) = &mut self.content else { return };
        let finish = Finish {
            edge: rng.chance(0.25).then_some(if dark { [235; 3] } else { [40; 3] }),
            shadow: !dark && rng.chance(0.15),
            shade: if rng.chance(0.25) { 18 + rng.below(20) as i32 } else { 0 },
        };
        for object in objects {
            object.finish = finish;
            // Gray and black are told by their brightness: an edge or a shade like them would blur it.
            if matches!(object.color, Color::Black | Color::Gray) {
                object.finish.edge = None;
                object.finish.shade = 0;
            }
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it is for.
    pub fn split(&self) -> Split {
        self.split
    }

    /// What it was drawn from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether it has a pair of colour and shape that never meet in training.
    pub fn is_held_out(&self) -> bool {
        self.held_out
    }

    /// Its coloured shapes; none in pictures of text, charts and icons.
    pub fn objects(&self) -> &[Object] {
        match &self.content {
            Content::Objects(objects, _) | Content::Groups(objects, _) => objects,
            _ => &[],
        }
    }

    /// The same scene without clutter, slant, light, blur, noise and JPEG.
    pub fn without_nuisances(mut self) -> Self {
        self.clutter.clear();
        self.nuisances = Nuisances::default();
        self
    }
}

/// What a scene is asked to show.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    Object(Color, Shape),
    Icon(&'static Icon),
}

impl Content {
    /// Everything that must be seen on the background.
    fn colors(&self) -> Vec<Rgb> {
        match self {
            Self::Objects(objects, _) | Self::Groups(objects, _) => objects.iter().map(|o| o.rgb).collect(),
            Self::Print(print) if print.plate.is_some() => Vec::new(),
            Self::Print(print) => vec![print.rgb],
            Self::Chart(chart) => chart.bars.iter().map(|bar| bar.rgb).collect(),
            Self::Sign(sign) => vec![sign.rgb],
        }
    }

    /// Thin lines need more.
    fn contrast(&self) -> f32 {
        match self {
            Self::Print(_) | Self::Sign(_) => 120.0,
            _ => 95.0,
        }
    }
}

/// Free space at the picture's edges.
const MARGIN: f32 = 0.035;

fn object(rng: &mut Rng, (color, shape): (Color, Shape), center: Point, radius: f32) -> Object {
    // Up to 14 degrees: more would make a diamond of a square. A hexagon is one however it stands, and a crescent
    // is one up to a quarter turn.
    let most = match shape {
        Shape::Hexagon => 0.27,
        Shape::Crescent if rng.chance(0.4) => 0.9,
        _ => 0.12,
    };
    let turn = if rng.chance(0.5) { rng.between(-most, most) } else { 0.0 };
    Object { color, shape, rgb: color.look(rng), center, radius, turn, finish: Finish::default() }
}

/// A place for something of this half width and height.
fn place(rng: &mut Rng, half: Point) -> Point {
    let mut along = |half: f32| {
        let free = (0.5 - MARGIN - half).max(0.0);
        0.5 + rng.between(-free, free)
    };
    [along(half[0]), along(half[1])]
}

fn one(rng: &mut Rng, pair: (Color, Shape)) -> Content {
    let radius = rng.between(0.12, 0.38);
    let center = place(rng, [radius, radius]);
    Content::Objects(vec![object(rng, pair, center, radius)], None)
}

/// Two different pairs that share a colour or a shape now and then; the first is held out if asked for.
fn two_pairs(rng: &mut Rng, held_out: bool) -> [(Color, Shape); 2] {
    let allowed = pairs(false);
    let first = *rng.pick(&pairs(held_out));
    let share = rng.below(8);
    let second = loop {
        let second = *rng.pick(&allowed);
        let same = (first.0 == second.0, first.1 == second.1);
        let wanted = match share {
            0 => (true, false),
            1 => (false, true),
            _ => (false, false),
        };
        if same == wanted {
            break second;
        }
    };
    if held_out && rng.chance(0.5) { [second, first] } else { [first, second] }
}

fn two(rng: &mut Rng, held_out: bool) -> Content {
    let [first, second] = two_pairs(rng, held_out);
    let vertical = rng.chance(0.5);
    let radii = [rng.between(0.09, 0.17), rng.between(0.09, 0.17)];
    let apart = radii[0] + radii[1] + rng.between(0.04, 0.2);
    // So little aside that the other axis is no answer.
    let aside = rng.between(-0.28, 0.28) * apart;
    let low = (-radii[0]).min(aside - radii[1]);
    let high = radii[0].max(aside + radii[1]);
    let main = rng.between(MARGIN + radii[0], 1.0 - MARGIN - radii[1] - apart);
    let cross = rng.between(MARGIN - low, 1.0 - MARGIN - high);
    let (mut a, mut b) = ([main, cross], [main + apart, cross + aside]);
    if vertical {
        a.reverse();
        b.reverse();
    }
    let objects = vec![object(rng, first, a, radii[0]), object(rng, second, b, radii[1])];
    Content::Objects(objects, Some(if vertical { Relation::Above } else { Relation::Left }))
}

fn three(rng: &mut Rng) -> Content {
    let allowed = pairs(false);
    let mut chosen: Vec<(Color, Shape)> = Vec::new();
    while chosen.len() < 3 {
        let next = *rng.pick(&allowed);
        if chosen.iter().all(|c| c.0 != next.0 && c.1 != next.1) {
            chosen.push(next);
        }
    }
    let in_row = rng.chance(0.5);
    let row = rng.between(0.2, 0.8);
    let mut objects = Vec::new();
    for (column, pair) in chosen.into_iter().enumerate() {
        let radius = rng.between(0.08, 0.125);
        let x = 0.18 + 0.32 * column as f32 + rng.between(-0.02, 0.02);
        let anywhere = rng.between(MARGIN + radius, 1.0 - MARGIN - radius);
        let y = if in_row { row + rng.between(-0.05, 0.05) } else { anywhere };
        objects.push(object(rng, pair, [x, y], radius));
    }
    Content::Objects(objects, None)
}

fn groups(rng: &mut Rng) -> Content {
    let count = 1 + rng.below(6);
    let others = loop {
        // Half of the scenes have no others.
        let others = if rng.chance(0.5) { 0 } else { 1 + rng.below(3) };
        if others != count {
            break others;
        }
    };
    let [first, second] = loop {
        let pairs = two_pairs(rng, false);
        // Equal shapes would make "how many circles" a question about both.
        if pairs[0].1 != pairs[1].1 {
            break pairs;
        }
    };
    let places = scatter(rng, count + others);
    let pair = |at: usize| if at < count { first } else { second };
    let look = [first.0.look(rng), second.0.look(rng)];
    let mut objects = Vec::new();
    for (at, &(center, radius)) in places.iter().enumerate() {
        let object = object(rng, pair(at), center, radius);
        objects.push(Object { rgb: look[usize::from(at >= count)], ..object });
    }
    Content::Groups(objects, count)
}

/// Places for up to nine circles that do not touch: strewn, or in the fields of a grid.
fn scatter(rng: &mut Rng, count: usize) -> Vec<(Point, f32)> {
    if rng.chance(0.35) {
        let mut fields: Vec<usize> = (0..9).collect();
        rng.shuffle(&mut fields);
        let radius = rng.between(0.07, 0.125);
        let free = 0.15 - radius - 0.01;
        let mut field = |at: usize| {
            let middle = |at: usize| 0.5 + 0.31 * (at as f32 - 1.0);
            let aside = [rng.between(-free, free), rng.between(-free, free)];
            ([middle(at % 3) + aside[0], middle(at / 3) + aside[1]], radius)
        };
        return fields[..count].iter().map(|&at| field(at)).collect();
    }
    let mut largest = [0.2, 0.2, 0.17, 0.15, 0.14, 0.125, 0.115, 0.105, 0.1][count - 1];
    loop {
        let mut places: Vec<(Point, f32)> = Vec::new();
        for _ in 0..40 * count {
            let radius = rng.between(0.75, 1.0) * largest;
            let center = place(rng, [radius, radius]);
            let free = |&(other, r): &(Point, f32)| {
                let [dx, dy] = [center[0] - other[0], center[1] - other[1]];
                (dx * dx + dy * dy).sqrt() > radius + r + 0.02
            };
            if places.iter().all(free) {
                places.push((center, radius));
            }
            if places.len() == count {
                return places;
            }
        }
        largest *= 0.93;
    }
}

fn print(rng: &mut Rng) -> Content {
    let length = 2 + rng.below(6);
    let text = match rng.below(10) {
        0..6 => (*rng.pick(WORDS[length - 2])).to_owned(),
        6..8 => (0..length.min(6)).map(|_| *rng.pick(LETTERS) as char).collect(),
        _ => {
            let first = 1 + rng.below(9);
            let rest = (1..length.min(5)).map(|_| rng.below(10));
            std::iter::once(first).chain(rest).map(|digit| digit.to_string()).collect()
        }
    };
    let text = match rng.below(5) {
        0 | 1 => text.to_uppercase(),
        2 => crate::vocabulary::capitalized(&text),
        _ => text,
    };
    let font = rng.below(glyphs::TEXT_FONT_COUNT);
    let color = if rng.chance(0.35) { Color::Black } else { Color::random(rng) };
    let rgb = color.look(rng);
    let turn = if rng.chance(0.4) { rng.between(-0.06, 0.06) } else { 0.0 };
    let plate = rng.chance(0.25).then(|| plate(rgb));
    let mut print = Print { text, font, em: 1.0, center: [0.5, 0.5], turn, color, rgb, plate };
    // As wide as the picture lets it be, or down to a half of that, but not tiny.
    let half = print.half();
    let widest = (0.46 - MARGIN) / (half[0] + 0.15 * half[1]);
    let widest = widest.min(0.3 / half[1]).min(0.55);
    print.em = (widest * rng.between(0.55, 1.0)).max(widest.min(0.17));
    let half = print.half();
    let lean = 0.13;
    print.center = place(rng, [half[0] + lean * half[1], half[1] + lean * half[0]]);
    Content::Print(print)
}

/// Letters of strings without meaning. I, l and O are left out: without a word around them they are 1 and 0.
pub(crate) const LETTERS: &[u8; 23] = b"abcdefghjkmnpqrstuvwxyz";

/// White or black, whichever is further from this colour.
fn plate(rgb: Rgb) -> Rgb {
    let (white, black) = ([250, 250, 250], [20, 20, 20]);
    if distance(white, rgb) >= distance(black, rgb) { white } else { black }
}

fn chart(rng: &mut Rng) -> Content {
    let count = 2 + rng.below(5);
    let mut colors = Color::ALL;
    rng.shuffle(&mut colors);
    let mut heights: Vec<usize> = (2..=10).collect();
    rng.shuffle(&mut heights);
    let bars = colors[..count].iter().zip(heights);
    let bars = bars.map(|(&color, height)| Bar { color, rgb: color.look(rng), height }).collect();
    let room = rng.between(0.55, 0.86);
    let gap = room / count as f32 * rng.between(0.15, 0.5);
    let width = (room / count as f32 - gap).min(0.22);
    let used = count as f32 * (width + gap) - gap;
    let left = rng.between(0.09, 0.955 - used);
    let foot = rng.between(0.8, 0.93);
    let step = (foot - 0.06) / 10.0 * rng.between(0.75, 1.0);
    let (axes, lines) = (rng.chance(0.7), rng.chance(0.3));
    Content::Chart(Chart { bars, left, foot, width, gap, step, axes, lines })
}

fn sign(rng: &mut Rng, icon: &'static Icon) -> Content {
    let radius = rng.between(0.2, 0.42);
    let center = place(rng, [radius, radius]);
    let color = if rng.chance(0.3) { Color::Black } else { Color::random(rng) };
    let turn = if rng.chance(0.3) { rng.between(-0.06, 0.06) } else { 0.0 };
    let rgb = color.look(rng);
    Content::Sign(Sign { icon, color, rgb, center, radius, turn, solid: rng.chance(0.5) })
}

/// Strokes beside everything that is asked about.
fn clutter(rng: &mut Rng, scene: &Scene) -> Vec<Stroke> {
    let taken = scene.taken();
    let mut strokes = Vec::new();
    for _ in 0..2 + rng.below(10) {
        let from = [rng.unit(), rng.unit()];
        let to = [from[0] + rng.between(-0.12, 0.12), from[1] + rng.between(-0.12, 0.12)];
        let width = rng.between(0.004, 0.009);
        let rgb = scene.background.muted(rng);
        let beside = |&[left, top, right, bottom]: &[f32; 4]| {
            from[0].max(to[0]) < left
                || from[0].min(to[0]) > right
                || from[1].max(to[1]) < top
                || from[1].min(to[1]) > bottom
        };
        if taken.iter().all(beside) {
            strokes.push(Stroke { from, to, width, rgb });
        }
    }
    strokes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The relation of two objects is the one along which they are further apart, by far.
    #[test]
    fn relations_are_clear() {
        for seed in 0..2000 {
            let scene = Scene::new(Kind::Two, Split::Train, seed);
            let Content::Objects(objects, Some(relation)) = &scene.content else { panic!("two objects") };
            let [dx, dy] = [0, 1].map(|i| objects[1].center[i] - objects[0].center[i]);
            let (main, aside) = if *relation == Relation::Left { (dx, dy) } else { (dy, dx) };
            assert!(main > 3.0 * aside.abs(), "{seed}: {dx} {dy}");
        }
    }

    #[test]
    fn objects_keep_apart_and_stay_inside() {
        for kind in [Kind::One, Kind::Two, Kind::Three, Kind::Count] {
            for seed in 0..2000 {
                let scene = Scene::new(kind, Split::Eval, seed);
                let objects = scene.objects();
                for (i, a) in objects.iter().enumerate() {
                    for at in a.center {
                        assert!(at - a.radius > 0.02 && at + a.radius < 0.98, "{kind:?} {seed}");
                    }
                    for b in &objects[..i] {
                        let [dx, dy] = [0, 1].map(|c| a.center[c] - b.center[c]);
                        assert!((dx * dx + dy * dy).sqrt() > a.radius + b.radius, "{kind:?} {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn all_kinds_are_drawn() {
        let mut seen = std::collections::BTreeMap::new();
        for seed in 0..4000 {
            let scene = Scene::any(Split::Eval, seed);
            *seen.entry((scene.kind(), scene.is_held_out())).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), Kind::ALL.len() + 2, "{seen:?}");
        assert!(seen.values().all(|&n| n > 120), "{seen:?}");
    }
}
