//! What scenes stand before: plain, in two near tones, or with a faint pattern. No background has one of our
//! colours' names for sure, so no question asks for it.

use crate::canvas::Canvas;
use crate::rng::Rng;
use crate::vocabulary::Rgb;

/// Light and dark tones. White comes first and most often: it is what most drawn pictures stand on.
const LIGHT: [Rgb; 8] = [
    [255, 255, 255],
    [245, 245, 245],
    [250, 244, 228],
    [222, 233, 245],
    [224, 241, 226],
    [215, 215, 218],
    [243, 228, 236],
    [232, 226, 210],
];
const DARK: [Rgb; 5] = [[0, 0, 0], [30, 30, 34], [24, 32, 62], [24, 50, 42], [62, 66, 74]];

/// How two tones share the background.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pattern {
    Plain,
    /// From the top to the bottom.
    Fall,
    /// From the left to the right.
    Run,
    /// So many stripes over the picture.
    Stripes(usize),
    /// So many fields over the picture.
    Checks(usize),
}

/// A background.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Background {
    base: Rgb,
    other: Rgb,
    pattern: Pattern,
}

impl Background {
    /// One on which all of these can be seen: their distance in RGB is at least `contrast` wherever that can be had.
    pub(crate) fn random(rng: &mut Rng, on_it: &[Rgb], contrast: f32) -> Self {
        let clearness = |base: Rgb| on_it.iter().map(|&rgb| distance(base, rgb)).fold(f32::MAX, f32::min);
        let mut best = [255; 3];
        for _ in 0..12 {
            let white = rng.chance(0.35);
            let tone = if rng.chance(0.7) { *rng.pick(&LIGHT) } else { *rng.pick(&DARK) };
            let base = if white { LIGHT[0] } else { tone };
            if clearness(base) > clearness(best) || best == [255; 3] {
                best = base;
            }
            if clearness(base) >= contrast {
                best = base;
                break;
            }
        }
        let pattern = match rng.below(10) {
            0 | 1 => Pattern::Fall,
            2 => Pattern::Run,
            3 => Pattern::Stripes(4 + rng.below(20)),
            // Larger fields would be squares.
            4 => Pattern::Checks(9 + rng.below(12)),
            _ => Pattern::Plain,
        };
        // Darker where it is light, and the other way round.
        let light = luminance(best) > 128.0;
        let by = (6 + rng.below(15)) as i32;
        let other = best.map(|c| (i32::from(c) + if light { -by } else { by }).clamp(0, 255) as u8);
        Self { base: best, other, pattern }
    }

    pub(crate) fn is_dark(&self) -> bool {
        luminance(self.base) < 128.0
    }

    /// A tone between the background and gray, for what is only to be in the way.
    pub(crate) fn muted(&self, rng: &mut Rng) -> Rgb {
        let by = if self.is_dark() { 1 } else { -1 } * (35 + rng.below(45) as i32);
        self.base.map(|c| (i32::from(c) + by).clamp(0, 255) as u8)
    }

    pub(crate) fn draw(&self, canvas: &mut Canvas, size: usize) {
        for (y, row) in canvas.rgb.chunks_exact_mut(size * 3).enumerate() {
            match self.pattern {
                Pattern::Plain => fill(row, self.base),
                Pattern::Fall => fill(row, self.between(y, size)),
                Pattern::Run => {
                    row.chunks_exact_mut(3).enumerate().for_each(|(x, p)| fill(p, self.between(x, size)));
                }
                Pattern::Stripes(count) => fill(row, self.field(y * count / size)),
                Pattern::Checks(count) => {
                    let down = y * count / size;
                    let fields = row.chunks_exact_mut(3).enumerate();
                    fields.for_each(|(x, p)| fill(p, self.field(down + x * count / size)));
                }
            }
        }
    }

    fn field(&self, at: usize) -> Rgb {
        if at.is_multiple_of(2) { self.base } else { self.other }
    }

    fn between(&self, at: usize, size: usize) -> Rgb {
        let mix =
            |c: usize| (usize::from(self.base[c]) * (size - at) + usize::from(self.other[c]) * at) / size;
        [mix(0) as u8, mix(1) as u8, mix(2) as u8]
    }
}

fn fill(pixels: &mut [u8], rgb: Rgb) {
    pixels.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&rgb));
}

/// How far apart two colours are, 0 to 441; brightness counts a little more than hue.
pub(crate) fn distance(a: Rgb, b: Rgb) -> f32 {
    let d = |c: usize| (f32::from(a[c]) - f32::from(b[c])).powi(2);
    let light = luminance(a) - luminance(b);
    (0.7 * (d(0) + d(1) + d(2)) + 0.9 * light * light).sqrt()
}

/// Brightness, 0 to 255 (Rec. 601).
pub(crate) fn luminance(rgb: Rgb) -> f32 {
    0.299 * f32::from(rgb[0]) + 0.587 * f32::from(rgb[1]) + 0.114 * f32::from(rgb[2])
}
