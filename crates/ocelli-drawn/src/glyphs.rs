//! Outlines of letters and icons, read once from the fonts in `fonts/`.

use std::collections::HashMap;
use std::sync::OnceLock;

use skrifa::instance::{LocationRef, Size};
use skrifa::outline::{DrawSettings, OutlinePen};
use skrifa::{FontRef, MetadataProvider};

use crate::icons::ICONS;
use crate::outline::{Outline, Piece};

/// Fonts of printed words.
const TEXT_FONTS: [&[u8]; 8] = [
    include_bytes!("../fonts/DejaVuSans.ttf"),
    include_bytes!("../fonts/DejaVuSans-Bold.ttf"),
    include_bytes!("../fonts/DejaVuSerif.ttf"),
    include_bytes!("../fonts/DejaVuSansMono-Bold.ttf"),
    include_bytes!("../fonts/NotoSans-Regular.ttf"),
    include_bytes!("../fonts/NotoSerif-Bold.ttf"),
    include_bytes!("../fonts/Roboto-Regular.ttf"),
    include_bytes!("../fonts/Roboto-Bold.ttf"),
];

/// How many of them there are.
pub(crate) const TEXT_FONT_COUNT: usize = TEXT_FONTS.len();

const OUTLINED_ICONS: &[u8] = include_bytes!("../fonts/NotoEmoji-Medium.ttf");
const SOLID_ICONS: &[u8] = include_bytes!("../fonts/NotoEmoji-Solid.ttf");

/// One glyph in units of its font's em, y down, the origin at the left on the line that text stands on.
struct Glyph {
    outline: Outline,
    advance: f32,
}

type Face = HashMap<char, Glyph>;

struct Faces {
    text: Vec<Face>,
    outlined: Face,
    solid: Face,
}

/// A line of text in units of the em, its middle at the origin, and half of its width and height.
pub(crate) fn line(font: usize, text: &str) -> (Outline, [f32; 2]) {
    let face = &faces().text[font];
    let mut pieces = Vec::new();
    let mut at = 0.0;
    for glyph in text.chars().filter_map(|c| face.get(&c)) {
        pieces.extend(glyph.outline.map(|[x, y]| [x + at, y]).pieces);
        at += glyph.advance;
    }
    centered(Outline { pieces, even_odd: false })
}

/// An icon, solid where that is asked for and there is one; its middle at the origin, its longer side of length 2.
pub(crate) fn icon(character: char, solid: bool) -> (Outline, [f32; 2]) {
    let faces = faces();
    let found = faces.solid.get(&character).filter(|_| solid).or_else(|| faces.outlined.get(&character));
    let outline = found.map(|glyph| glyph.outline.clone()).unwrap_or_default();
    let (outline, half) = centered(outline);
    let scale = 1.0 / half[0].max(half[1]).max(1e-6);
    (outline.map(|[x, y]| [x * scale, y * scale]), [half[0] * scale, half[1] * scale])
}

fn centered(outline: Outline) -> (Outline, [f32; 2]) {
    let [left, top, right, bottom] = outline.bounds();
    let (x, y) = ((left + right) / 2.0, (top + bottom) / 2.0);
    (outline.map(|p| [p[0] - x, p[1] - y]), [(right - left) / 2.0, (bottom - top) / 2.0])
}

fn faces() -> &'static Faces {
    static FACES: OnceLock<Faces> = OnceLock::new();
    FACES.get_or_init(|| {
        let letters = ('a'..='z').chain('A'..='Z').chain('0'..='9');
        let icons = ICONS.iter().map(|icon| icon.character);
        Faces {
            text: TEXT_FONTS.iter().map(|bytes| read(bytes, letters.clone())).collect(),
            outlined: read(OUTLINED_ICONS, icons.clone()),
            solid: read(SOLID_ICONS, icons),
        }
    })
}

/// The glyphs of these characters, as far as the font has them.
fn read(bytes: &[u8], characters: impl Iterator<Item = char>) -> Face {
    let font = FontRef::new(bytes).expect("the fonts of this crate are fonts");
    let (map, outlines) = (font.charmap(), font.outline_glyphs());
    let metrics = font.glyph_metrics(Size::unscaled(), LocationRef::default());
    let em = f32::from(font.metrics(Size::unscaled(), LocationRef::default()).units_per_em);
    let glyph = |character| {
        let id = map.map(character)?;
        let mut pen = Pen { pieces: Vec::new(), scale: 1.0 / em };
        let settings = DrawSettings::unhinted(Size::unscaled(), LocationRef::default());
        outlines.get(id)?.draw(settings, &mut pen).ok()?;
        let advance = metrics.advance_width(id)? / em;
        Some((character, Glyph { outline: Outline { pieces: pen.pieces, even_odd: false }, advance }))
    };
    characters.filter_map(glyph).collect()
}

/// Takes an outline down in units of the em, y down.
struct Pen {
    pieces: Vec<Piece>,
    scale: f32,
}

impl Pen {
    fn at(&self, x: f32, y: f32) -> [f32; 2] {
        [x * self.scale, -y * self.scale]
    }
}

impl OutlinePen for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.pieces.push(Piece::Move(self.at(x, y)));
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.pieces.push(Piece::Line(self.at(x, y)));
    }

    fn quad_to(&mut self, cx: f32, cy: f32, x: f32, y: f32) {
        self.pieces.push(Piece::Quad(self.at(cx, cy), self.at(x, y)));
    }

    fn curve_to(&mut self, ax: f32, ay: f32, bx: f32, by: f32, x: f32, y: f32) {
        self.pieces.push(Piece::Cubic(self.at(ax, ay), self.at(bx, by), self.at(x, y)));
    }

    fn close(&mut self) {
        self.pieces.push(Piece::Close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fonts_have_every_character() {
        let faces = faces();
        assert!(faces.text.iter().all(|face| face.len() == 62));
        assert_eq!(faces.outlined.len(), ICONS.len());
        assert!(faces.solid.len() > 80);
        // The bar of an H and the foot of an L are filled: the outlines are there.
        for font in 0..TEXT_FONT_COUNT {
            let (outline, half) = line(font, "HL");
            assert!(outline.pieces.len() > 15 && half[0] > 0.4 && half[1] > 0.3, "{font} {half:?}");
        }
    }
}
