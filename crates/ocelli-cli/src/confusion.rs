//! A picture of which class is taken for which: rows are the true classes, columns the predicted ones.
//!
//! A cell shows its share of the row's pictures: right answers in blue, wrong ones in orange, white for none,
//! grey for a class without pictures. Shade goes with the square root of the share, so that one mistake in a
//! hundred is still seen. Numbers along the sides are those of the table of `eval`.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, bail};
use image::{ImageFormat, Rgb, RgbImage};

use crate::whole::write_whole;

/// More would make a picture that nobody can open.
const MOST_CLASSES: usize = 4096;
/// Side of all cells together that is aimed for, in pixels.
const BODY_PX: usize = 1200;
/// Least and greatest side of a cell in pixels.
const CELL_PX: (usize, usize) = (2, 96);
/// From this side on there is a line between cells.
const GRID_FROM_PX: usize = 6;
/// From this side on a cell has its share in percent.
const NUMBER_FROM_PX: usize = 36;
/// Pixels a dot of the font takes.
const DOT_PX: usize = 2;
/// Width and height of a letter in dots, and the step to the next one.
const LETTER: (usize, usize, usize) = (3, 5, 4);
const GAP_PX: usize = 8;
/// Width of the two colour bars, in pixels.
const BAR_PX: usize = 16;
const WHITE: Rgb<u8> = Rgb([255, 255, 255]);
const LINE: Rgb<u8> = Rgb([225, 225, 225]);
const NO_PICTURES: Rgb<u8> = Rgb([200, 200, 200]);
const INK: Rgb<u8> = Rgb([30, 30, 30]);
/// Colours of a whole row, two that people who see fewer colours can tell apart.
const RIGHT: Rgb<u8> = Rgb([8, 62, 140]);
const WRONG: Rgb<u8> = Rgb([196, 70, 0]);

/// Refuse early what could not be written in the end.
///
/// # Errors
/// When the name is not a PNG's, its folder is missing, or there are too many classes.
pub fn check(path: &Path, classes: usize) -> anyhow::Result<()> {
    if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        bail!("--confusion {}: the name must end in .png", path.display());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("--confusion {}: there is no folder {}", path.display(), folder.display());
    }
    if classes > MOST_CLASSES {
        bail!("--confusion draws at most {MOST_CLASSES} classes, not {classes}; --json has all counts");
    }
    Ok(())
}

/// Draw and write the picture. `rows[true][predicted]` counts pictures.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, rows: &[BTreeMap<usize, usize>]) -> anyhow::Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    let encoded = draw(rows).write_to(&mut bytes, ImageFormat::Png);
    encoded.with_context(|| format!("encoding {}", path.display()))?;
    write_whole(path, bytes.get_ref())
}

/// Where the cells are, in pixels.
struct Layout {
    classes: usize,
    /// Side of a cell.
    cell: usize,
    left: usize,
    top: usize,
}

impl Layout {
    fn new(classes: usize) -> Self {
        let cell = (BODY_PX / classes.max(1)).clamp(CELL_PX.0, CELL_PX.1);
        let digits = (classes.max(1) - 1).to_string().len();
        // The word TRUE stands beside the numbers, PREDICTED above them.
        let left = GAP_PX + text_width(1) + GAP_PX + text_width(digits) + GAP_PX;
        let top = GAP_PX + text_height() + GAP_PX + text_height() + GAP_PX;
        Self { classes, cell, left, top }
    }

    fn body(&self) -> usize {
        self.cell * self.classes
    }

    /// Every how many classes a number fits: 1, 2, 5, 10, 20, 50, ...
    fn step(&self) -> usize {
        let needed = text_width((self.classes - 1).to_string().len()) + GAP_PX;
        let steps = (0..).flat_map(|power| [1, 2, 5].map(|first| first * 10_usize.pow(power)));
        let mut fitting = steps.skip_while(|step| step * self.cell < needed);
        fitting.next().unwrap_or(1)
    }
}

fn draw(rows: &[BTreeMap<usize, usize>]) -> RgbImage {
    let layout = Layout::new(rows.len());
    let (body, cell) = (layout.body(), layout.cell);
    let words = layout.left + text_width("PREDICTED".len());
    let height = layout.top + body.max((text_height() + GAP_PX) * 5) + GAP_PX;
    let width = (layout.left + body + 2 * GAP_PX + 2 * BAR_PX + GAP_PX + text_width(4)).max(words) + GAP_PX;
    let mut canvas = RgbImage::from_pixel(width as u32, height as u32, WHITE);
    for (row, counts) in rows.iter().enumerate() {
        let total: usize = counts.values().sum();
        let y = layout.top + row * cell;
        if total == 0 {
            fill(&mut canvas, (layout.left, y), (body, cell), NO_PICTURES);
        }
        for (&column, &n) in counts {
            let share = n as f64 / total as f64;
            let at = (layout.left + column * cell, y);
            let full = if row == column { RIGHT } else { WRONG };
            fill(&mut canvas, at, (cell, cell), shade(full, share));
            if cell >= NUMBER_FROM_PX {
                let percent = format!("{:.0}", 100.0 * share);
                let ink = if share > 0.3 { WHITE } else { INK };
                let x = at.0 + (cell - text_width(percent.len())) / 2;
                write_text(&mut canvas, (x, at.1 + (cell - text_height()) / 2), &percent, ink);
            }
        }
    }
    grid(&mut canvas, &layout);
    numbers(&mut canvas, &layout);
    colour_bars(&mut canvas, (layout.left + body + 2 * GAP_PX, layout.top), height - layout.top - GAP_PX);
    canvas
}

/// White for 0, the full colour for 1.
fn shade(full: Rgb<u8>, share: f64) -> Rgb<u8> {
    let amount = share.clamp(0.0, 1.0).sqrt();
    Rgb(full.0.map(|channel| (255.0 - amount * (255.0 - f64::from(channel))).round() as u8))
}

fn grid(canvas: &mut RgbImage, layout: &Layout) {
    let (body, cell) = (layout.body(), layout.cell);
    let step = if cell >= GRID_FROM_PX { 1 } else { layout.classes };
    for line in (0..=layout.classes).step_by(step) {
        fill(canvas, (layout.left + line * cell, layout.top), (1, body + 1), LINE);
        fill(canvas, (layout.left, layout.top + line * cell), (body + 1, 1), LINE);
    }
}

fn numbers(canvas: &mut RgbImage, layout: &Layout) {
    let (cell, step) = (layout.cell, layout.step());
    let above = layout.top - GAP_PX - text_height();
    write_text(canvas, (layout.left, above - GAP_PX - text_height()), "PREDICTED", INK);
    for (i, letter) in ["T", "R", "U", "E"].iter().enumerate() {
        write_text(canvas, (GAP_PX, layout.top + i * (text_height() + DOT_PX)), letter, INK);
    }
    for class in (0..layout.classes).step_by(step) {
        let text = class.to_string();
        let (middle, width) = (class * cell + cell / 2, text_width(text.len()));
        let x = (layout.left + middle).saturating_sub(width / 2);
        write_text(canvas, (x, above), &text, INK);
        let y = (layout.top + middle).saturating_sub(text_height() / 2);
        write_text(canvas, (layout.left - GAP_PX - width, y), &text, INK);
        // Ticks show which row and column a number means where cells are small.
        fill(canvas, (layout.left + middle, layout.top - 4), (1, 3), INK);
        fill(canvas, (layout.left - 5, layout.top + middle), (4, 1), INK);
    }
}

/// What the shades mean, 100 % above.
fn colour_bars(canvas: &mut RgbImage, (left, top): (usize, usize), room: usize) {
    let height = room.min(400);
    for y in 0..height {
        let amount = 1.0 - y as f64 / (height - 1) as f64;
        for (bar, full) in [RIGHT, WRONG].into_iter().enumerate() {
            fill(canvas, (left + bar * BAR_PX, top + y), (BAR_PX, 1), shade(full, amount * amount));
        }
    }
    for (text, percent) in [("100%", 100.0), ("50%", 50.0), ("25%", 25.0), ("5%", 5.0), ("0%", 0.0_f64)] {
        let y = (height - text_height()) as f64 * (1.0 - (percent / 100.0).sqrt());
        write_text(canvas, (left + 2 * BAR_PX + GAP_PX, top + y.round() as usize), text, INK);
    }
}

fn fill(
    canvas: &mut RgbImage,
    (left, top): (usize, usize),
    (width, height): (usize, usize),
    colour: Rgb<u8>,
) {
    let (right, bottom) =
        (canvas.width().min((left + width) as u32), canvas.height().min((top + height) as u32));
    for y in top as u32..bottom {
        for x in left as u32..right {
            canvas.put_pixel(x, y, colour);
        }
    }
}

const fn text_width(letters: usize) -> usize {
    letters * LETTER.2 * DOT_PX
}

const fn text_height() -> usize {
    LETTER.1 * DOT_PX
}

fn write_text(canvas: &mut RgbImage, (left, top): (usize, usize), text: &str, ink: Rgb<u8>) {
    for (i, letter) in text.chars().enumerate() {
        for (row, dots) in glyph(letter).into_iter().enumerate() {
            for column in (0..LETTER.0).filter(|column| dots >> (LETTER.0 - 1 - column) & 1 == 1) {
                let at = (left + text_width(i) + column * DOT_PX, top + row * DOT_PX);
                fill(canvas, at, (DOT_PX, DOT_PX), ink);
            }
        }
    }
}

/// Rows of three dots, from above.
fn glyph(letter: char) -> [u8; 5] {
    match letter {
        '0' => [0b111, 0b101, 0b101, 0b101, 0b111],
        '1' => [0b010, 0b110, 0b010, 0b010, 0b111],
        '2' => [0b111, 0b001, 0b111, 0b100, 0b111],
        '3' => [0b111, 0b001, 0b011, 0b001, 0b111],
        '4' => [0b101, 0b101, 0b111, 0b001, 0b001],
        '5' => [0b111, 0b100, 0b111, 0b001, 0b111],
        '6' => [0b111, 0b100, 0b111, 0b101, 0b111],
        '7' => [0b111, 0b001, 0b010, 0b010, 0b010],
        '8' => [0b111, 0b101, 0b111, 0b101, 0b111],
        '9' => [0b111, 0b101, 0b111, 0b001, 0b111],
        'C' => [0b111, 0b100, 0b100, 0b100, 0b111],
        'D' => [0b110, 0b101, 0b101, 0b101, 0b110],
        'E' => [0b111, 0b100, 0b110, 0b100, 0b111],
        'I' => [0b111, 0b010, 0b010, 0b010, 0b111],
        'P' => [0b111, 0b101, 0b111, 0b100, 0b100],
        'R' => [0b110, 0b101, 0b110, 0b101, 0b101],
        'T' => [0b111, 0b010, 0b010, 0b010, 0b010],
        'U' => [0b101, 0b101, 0b101, 0b101, 0b111],
        '%' => [0b101, 0b001, 0b010, 0b100, 0b101],
        _ => [0; 5],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The colour near a corner of a cell, away from grid and number.
    fn colour(canvas: &RgbImage, classes: usize, row: usize, column: usize) -> Rgb<u8> {
        let layout = Layout::new(classes);
        let inside = layout.cell - 1;
        let (x, y) = (layout.left + column * layout.cell + inside, layout.top + row * layout.cell + inside);
        *canvas.get_pixel(x as u32, y as u32)
    }

    #[test]
    fn cells_have_the_colour_of_their_share_from_2_to_1000_classes() {
        for classes in [2, 3, 10, 37, 100, 397, 1000, MOST_CLASSES] {
            let mut rows: Vec<BTreeMap<usize, usize>> = (0..classes).map(|i| [(i, 4)].into()).collect();
            rows[0] = [(1, 1), (0, 3)].into();
            rows[classes - 1] = [(0, 2)].into();
            let canvas = draw(&rows);
            assert!(canvas.width().max(canvas.height()) <= 8400, "{classes}");
            assert_eq!(colour(&canvas, classes, 0, 0), shade(RIGHT, 0.75), "{classes}");
            assert_eq!(colour(&canvas, classes, 0, 1), shade(WRONG, 0.25), "{classes}");
            assert_eq!(colour(&canvas, classes, classes - 1, 0), WRONG, "{classes}");
            if classes > 2 {
                assert_eq!(colour(&canvas, classes, 1, 1), RIGHT, "{classes}");
                assert_eq!(colour(&canvas, classes, 1, 0), WHITE, "{classes}");
            }
        }
    }

    #[test]
    fn a_class_without_pictures_is_grey() {
        let canvas = draw(&[[(0, 1)].into(), BTreeMap::new()]);
        assert_eq!((colour(&canvas, 2, 1, 0), colour(&canvas, 2, 1, 1)), (NO_PICTURES, NO_PICTURES));
    }

    #[test]
    fn numbers_along_the_sides_never_touch() {
        for classes in 1..=MOST_CLASSES {
            let layout = Layout::new(classes);
            let widest = text_width((classes - 1).to_string().len());
            assert!(layout.step() * layout.cell > widest, "{classes}");
        }
    }
}
