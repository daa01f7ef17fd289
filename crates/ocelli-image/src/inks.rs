//! Four-component JPEG: from planes of inks to RGB, bit for bit as libjpeg and Pillow.
//!
//! The decoder's own path for four components assumes a full-resolution fourth one, which the usual
//! 4:2:0 CMYK file lacks. Follows libjpeg-turbo 3: `src/jdsample.c` (upsampling), `src/jdcolor.c`
//! (YCCK to CMYK); and Pillow's `src/libImaging/Convert.c` (CMYK to RGB).

use libjpeg_turbo_rs::RawImage;

/// One component at its own resolution.
struct Plane<'a> {
    samples: &'a [u8],
    stride: usize,
    /// Rows and columns that belong to the picture; the rest of the last block does not.
    height: usize,
    width: usize,
    /// How many picture rows and columns one sample stands for.
    down: usize,
    across: usize,
}

/// Returns `[height, width, 3]` RGB of four planes, whose `(horizontal, vertical)` sampling factors
/// are `sampling`; `None` where a factor is no whole part of the largest.
///
/// All such files are taken to hold inverted inks, Adobe's habit: 255 is no ink. With `ycck` the first
/// three planes are YCbCr of the colour those inks give.
pub(crate) fn to_rgb(raw: &RawImage, sampling: &[(usize, usize)], ycck: bool) -> Option<Vec<u8>> {
    let most_across = sampling.iter().map(|factors| factors.0).max()?;
    let most_down = sampling.iter().map(|factors| factors.1).max()?;
    let mut planes = Vec::new();
    for (component, (across, down)) in sampling.iter().enumerate() {
        if *across == 0 || *down == 0 || most_across % across != 0 || most_down % down != 0 {
            return None;
        }
        planes.push(Plane {
            samples: raw.planes.get(component)?,
            stride: *raw.plane_widths.get(component)?,
            height: (raw.height * down).div_ceil(most_down),
            width: (raw.width * across).div_ceil(most_across),
            down: most_down / down,
            across: most_across / across,
        });
    }
    let [first, second, third, black] = planes.as_slice() else { return None };
    let mut pixels = Vec::with_capacity(raw.height * raw.width * 3);
    for y in 0..raw.height {
        for x in 0..raw.width {
            let mut inks = [first.at(y, x), second.at(y, x), third.at(y, x)];
            if ycck {
                inks = ycc_to_rgb(inks).map(|value| 255 - value);
            }
            let k = black.at(y, x);
            pixels.extend(inks.map(|ink| darken(ink, k)));
        }
    }
    Some(pixels)
}

impl Plane<'_> {
    /// The sample at a place of the picture: libjpeg's triangle filter for factors of two, with the
    /// edges repeated, else the nearest. Its roundings alternate between up and down.
    fn at(&self, y: usize, x: usize) -> u8 {
        let (row, column) = (y / self.down, x / self.across);
        // libjpeg does not interpolate across planes of one or two columns.
        let smooth = self.width > 2;
        let sum = match (self.across, self.down) {
            (2, 1) if smooth => {
                let near = self.beside(column, x, self.width);
                (3 * self.get(row, column) + self.get(row, near) + 1 + x as u32 % 2) >> 2
            }
            (1, 2) => {
                let near = self.beside(row, y, self.height);
                (3 * self.get(row, column) + self.get(near, column) + 1 + y as u32 % 2) >> 2
            }
            (2, 2) if smooth => {
                let near_row = self.beside(row, y, self.height);
                let near_column = self.beside(column, x, self.width);
                let vertical = |column| 3 * self.get(row, column) + self.get(near_row, column);
                (3 * vertical(column) + vertical(near_column) + 8 - x as u32 % 2) >> 4
            }
            _ => self.get(row, column),
        };
        sum as u8
    }

    /// The sample next to `at` on the side where picture position `full` lies.
    fn beside(&self, at: usize, full: usize, count: usize) -> usize {
        if full.is_multiple_of(2) { at.saturating_sub(1) } else { (at + 1).min(count - 1) }
    }

    fn get(&self, row: usize, column: usize) -> u32 {
        u32::from(self.samples[row * self.stride + column])
    }
}

/// ITU-R BT.601 full range, in 16 fractional bits, each term rounded as `build_ycc_rgb_table` does.
fn ycc_to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    const fn fix(value: f64) -> i32 {
        (value * 65536.0 + 0.5) as i32
    }
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((fix(1.40200) * cr + HALF) >> 16);
    let green = y + ((-fix(0.34414) * cb + HALF - fix(0.71414) * cr) >> 16);
    let blue = y + ((fix(1.77200) * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// `round(ink * black / 255)` of inverted inks, which is Pillow's `round((255 - c) (255 - k) / 255)`.
fn darken(ink: u8, black: u8) -> u8 {
    ((u32::from(ink) * u32::from(black) * 2 + 255) / 510) as u8
}
