//! From what a scene contains to its pixels.

use crate::canvas::{Canvas, Paint};
use crate::glyphs;
use crate::outline::{self, Outline, Point, turn};
use crate::rng::Rng;
use crate::scene::{Chart, Content, Object, Print, Scene, Sign};
use crate::vocabulary::Rgb;

/// A square picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels a side.
    pub size: usize,
    /// `[size, size, 3]` sRGB, rows from the top.
    pub rgb: Vec<u8>,
}

/// Largest picture that is drawn, pixels a side.
pub const MAX_SIZE: usize = 4096;

/// A curve of the picture in parts of its side, with its paint.
struct Item {
    outline: Outline,
    paint: Paint,
}

impl Scene {
    /// Draw it with `size` pixels a side; less than 16 is taken as 16, more than [`MAX_SIZE`] as that.
    ///
    /// The same scene and size give the same bytes on every machine.
    pub fn draw(&self, size: usize) -> Picture {
        let size = size.clamp(16, MAX_SIZE);
        let mut canvas = Canvas::new(size);
        self.background.draw(&mut canvas, size);
        let camera = self.nuisances.camera;
        let pixels = |p: Point| camera.see(p).map(|at| at * size as f32);
        for stroke in &self.clutter {
            let outline = Outline::stroke(stroke.from, stroke.to, stroke.width);
            canvas.fill(&outline, pixels, Paint::solid(stroke.rgb));
        }
        for item in self.items() {
            canvas.fill(&item.outline, pixels, item.paint);
        }
        let mut rgb = canvas.rgb;
        self.nuisances.apply(&mut rgb, size, &mut Rng::new(self.seed(), 70 + self.kind() as u64));
        Picture { size, rgb }
    }

    /// Left, top, right and bottom, in parts of the picture's side, of each object, of the printed text, of each
    /// bar or of the icon, where the picture shows them.
    pub fn boxes(&self) -> Vec<[f32; 4]> {
        let camera = self.nuisances.camera;
        let seen = |outline: &Outline| outline.map(|p| camera.see(p)).bounds();
        match &self.content {
            Content::Objects(objects, _) | Content::Groups(objects, _) => {
                objects.iter().map(|object| seen(&shape(object))).collect()
            }
            Content::Print(print) => vec![seen(&letters(print))],
            Content::Chart(chart) => (0..chart.bars.len()).map(|at| seen(&bar(chart, at))).collect(),
            Content::Sign(sign) => vec![seen(&icon(sign))],
        }
    }

    /// Where clutter must not be: as [`Scene::boxes`], but before the camera and with some room.
    pub(crate) fn taken(&self) -> Vec<[f32; 4]> {
        let around = |[x, y]: Point, [w, h]: Point| [x - w, y - h, x + w, y + h];
        match &self.content {
            Content::Objects(objects, _) | Content::Groups(objects, _) => {
                objects.iter().map(|o| around(o.center, [o.radius + 0.03; 2])).collect()
            }
            Content::Print(print) => {
                let [w, h] = print.half();
                vec![around(print.center, [w + 0.04 + 0.13 * h, h + 0.04 + 0.13 * w])]
            }
            Content::Sign(sign) => vec![around(sign.center, [sign.radius + 0.03; 2])],
            Content::Chart(_) => vec![[0.0, 0.0, 1.0, 1.0]],
        }
    }

    /// What is drawn, from the back to the front.
    fn items(&self) -> Vec<Item> {
        match &self.content {
            Content::Objects(objects, _) | Content::Groups(objects, _) => {
                objects.iter().flat_map(object_items).collect()
            }
            Content::Print(print) => print_items(print),
            Content::Chart(chart) => chart_items(chart, self.background.is_dark()),
            Content::Sign(sign) => vec![Item { outline: icon(sign), paint: Paint::solid(sign.rgb) }],
        }
    }
}

/// Width of an object's edge, of its radius.
const EDGE: f32 = 0.06;

/// The object's outline in the picture.
fn shape(object: &Object) -> Outline {
    scaled(object, object.radius)
}

fn scaled(object: &Object, radius: f32) -> Outline {
    let [x, y] = object.center;
    outline::shape(object.shape).map(|p| {
        let [dx, dy] = turn(p, object.turn);
        [x + radius * dx, y + radius * dy]
    })
}

fn object_items(object: &Object) -> Vec<Item> {
    let mut items = Vec::new();
    let finish = object.finish;
    let outline = shape(object);
    if finish.shadow {
        let by = 0.07 * object.radius;
        let paint = Paint { rgb: [60; 3], alpha: 70, shade: 0 };
        items.push(Item { outline: outline.map(|[x, y]| [x + by, y + by]), paint });
    }
    let paint = Paint { rgb: object.rgb, alpha: 255, shade: finish.shade };
    match finish.edge {
        // The edge is what a smaller shape leaves free; holes and hollows would lose theirs.
        Some(edge) if !matches!(object.shape, crate::Shape::Ring | crate::Shape::Crescent) => {
            items.push(Item { outline, paint: Paint::solid(edge) });
            items.push(Item { outline: scaled(object, object.radius * (1.0 - EDGE)), paint });
        }
        _ => items.push(Item { outline, paint }),
    }
    items
}

fn letters(print: &Print) -> Outline {
    let [x, y] = print.center;
    let (line, _) = glyphs::line(print.font, &print.text);
    line.map(|p| {
        let [dx, dy] = turn(p, print.turn);
        [x + print.em * dx, y + print.em * dy]
    })
}

fn print_items(print: &Print) -> Vec<Item> {
    let mut items = Vec::new();
    if let Some(plate) = print.plate {
        let ([x, y], [w, h]) = (print.center, print.half());
        let outline = Outline::rectangle(-w, -h, w, h).map(|p| {
            let [dx, dy] = turn(p, print.turn);
            [x + dx, y + dy]
        });
        items.push(Item { outline, paint: Paint::solid(plate) });
    }
    items.push(Item { outline: letters(print), paint: Paint::solid(print.rgb) });
    items
}

fn bar(chart: &Chart, at: usize) -> Outline {
    let left = chart.left + at as f32 * (chart.width + chart.gap);
    let top = chart.foot - chart.bars[at].height as f32 * chart.step;
    Outline::rectangle(left, top, left + chart.width, chart.foot)
}

fn chart_items(chart: &Chart, dark: bool) -> Vec<Item> {
    const THIN: f32 = 0.006;
    let ink = |light: u8| Paint::solid(if dark { [light; 3] } else { [255 - light; 3] });
    let bars = chart.bars.len() as f32;
    let (left, right) = (chart.left - 0.03, chart.left + bars * (chart.width + chart.gap) - chart.gap + 0.02);
    let mut items = Vec::new();
    if chart.lines {
        for step in [2, 4, 6, 8, 10] {
            let y = chart.foot - step as f32 * chart.step;
            items.push(Item { outline: Outline::rectangle(left, y, right, y + THIN), paint: ink(75) });
        }
    }
    for (at, bar_of_chart) in chart.bars.iter().enumerate() {
        items.push(Item { outline: bar(chart, at), paint: Paint::solid(bar_of_chart.rgb) });
    }
    if chart.axes {
        let top = chart.foot - 10.3 * chart.step;
        let (foot, down) = (chart.foot, chart.foot + THIN);
        items.push(Item { outline: Outline::rectangle(left, foot, right, down), paint: ink(200) });
        items.push(Item { outline: Outline::rectangle(left, top, left + THIN, down), paint: ink(200) });
    }
    items
}

fn icon(sign: &Sign) -> Outline {
    let [x, y] = sign.center;
    let (outline, _) = glyphs::icon(sign.icon.character, sign.solid);
    outline.map(|p| {
        let [dx, dy] = turn(p, sign.turn);
        [x + 0.96 * sign.radius * dx, y + 0.96 * sign.radius * dy]
    })
}

/// A PNG file of 8-bit RGB.
pub(crate) fn png(size: usize, rgb: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size as u32, size as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(bytes)
}

impl Picture {
    /// The red, green and blue of a pixel.
    pub fn pixel(&self, x: usize, y: usize) -> Rgb {
        let at = (y * self.size + x) * 3;
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::scene::{Kind, Split};
    use crate::vocabulary::Color;

    const SIZE: usize = 192;

    /// Which pixels the content changes.
    fn changed(scene: &Scene, picture: &Picture) -> Vec<bool> {
        let mut empty = scene.clone();
        empty.content = Content::Objects(Vec::new(), None);
        let empty = empty.draw(SIZE).rgb;
        picture.rgb.chunks_exact(3).zip(empty.chunks_exact(3)).map(|(a, b)| a != b).collect()
    }

    /// The colour most of these pixels are nearest to.
    fn majority(pixels: impl Iterator<Item = Rgb>) -> Option<Color> {
        let mut counts: HashMap<Color, usize> = HashMap::new();
        for pixel in pixels {
            let distance =
                |look: &Rgb| (0..3).map(|c| i32::from(look[c]).abs_diff(pixel[c].into()).pow(2)).sum::<u32>();
            let nearest = |c: &Color| c.anchors().iter().map(distance).min();
            *counts.entry(Color::ALL.into_iter().min_by_key(nearest).expect("ten")).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, n)| *n).map(|(color, _)| color)
    }

    #[test]
    fn objects_have_the_colour_that_is_told() {
        for kind in [Kind::One, Kind::Two, Kind::Three] {
            for seed in 0..150 {
                let scene = Scene::new(kind, Split::Eval, seed).without_nuisances();
                let picture = scene.draw(SIZE);
                let changed = changed(&scene, &picture);
                for (object, bounds) in scene.objects().iter().zip(scene.boxes()) {
                    let [left, top, right, bottom] = bounds.map(|b| (b * SIZE as f32) as usize);
                    let inside = (top..bottom).flat_map(|y| (left..right).map(move |x| (x, y)));
                    let painted = inside.filter(|&(x, y)| changed[y * SIZE + x]);
                    let color = majority(painted.map(|(x, y)| picture.pixel(x, y)));
                    assert_eq!(color, Some(object.color), "{kind:?} {seed} {}", scene.caption());
                }
            }
        }
    }

    /// How many separate patches there are; a few pixels at a thin tip are none.
    fn patches(changed: &[bool]) -> usize {
        let mut left = changed.to_vec();
        let mut count = 0;
        for start in 0..left.len() {
            let mut open = vec![start];
            let mut pixels = 0;
            while let Some(at) = open.pop() {
                if !std::mem::take(&mut left[at]) {
                    continue;
                }
                pixels += 1;
                // No patch reaches the picture's edge.
                open.extend([at + 1, at - 1, at + SIZE, at - SIZE]);
            }
            count += usize::from(pixels > 8);
        }
        count
    }

    #[test]
    fn there_are_as_many_patches_as_objects() {
        for seed in 0..300 {
            let scene = Scene::new(Kind::Count, Split::Train, seed).without_nuisances();
            let picture = scene.draw(SIZE);
            let patches = patches(&changed(&scene, &picture));
            assert_eq!(patches, scene.objects().len(), "{seed} {}", scene.caption());
        }
    }

    /// What is drawn with and without nuisances differs, and a scene may be drawn at any size.
    #[test]
    fn any_size_is_drawn() {
        let scene = Scene::new(Kind::Text, Split::Train, 4);
        for (asked, size) in [(0, 16), (17, 17), (336, 336)] {
            let picture = scene.draw(asked);
            assert_eq!((picture.size, picture.rgb.len()), (size, size * size * 3));
        }
    }

    #[test]
    fn every_icon_and_every_shape_leaves_ink() {
        for icon in &crate::icons::ICONS {
            for solid in [false, true] {
                let (outline, half) = glyphs::icon(icon.character, solid);
                let mut canvas = Canvas::new(64);
                let paint = Paint::solid([255; 3]);
                canvas.fill(&outline, |[x, y]| [32.0 + 30.0 * x, 32.0 + 30.0 * y], paint);
                let ink = canvas.rgb.iter().filter(|&&c| c > 128).count() as f32 / (64.0 * 64.0 * 3.0);
                assert!((0.03..0.8).contains(&ink) && half[0].max(half[1]) > 0.99, "{} {ink}", icon.name);
            }
        }
    }
}
