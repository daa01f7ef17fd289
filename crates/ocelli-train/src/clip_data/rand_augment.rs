//! RandAugment (arXiv 1909.13719) as torchvision applies it to Pillow's pictures, byte for byte, with the nearest pixel
//! where a picture is turned or sheared and black beside it.
//!
//! Reference: torchvision 0.29 `transforms/autoaugment.py` (`_apply_op`, `_augmentation_space`) and
//! `transforms/functional.py` (`_get_inverse_affine_matrix`); Pillow 13 `ImageEnhance.py`, `ImageOps.py`, `Image.py`
//! (`rotate`), `libImaging/Geometry.c`, `Blend.c`, `Filter.c`, `Convert.c`.

use ocelli_image::Rgb8;

use crate::random::Random;

/// An operation, in the order of their numbers in stored parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

impl Op {
    /// All of them, each at its number.
    pub const ALL: [Self; 14] = [
        Self::Identity,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
        Self::Brightness,
        Self::Color,
        Self::Contrast,
        Self::Sharpness,
        Self::Posterize,
        Self::Solarize,
        Self::AutoContrast,
        Self::Equalize,
    ];

    /// Apply it.
    ///
    /// # Errors
    /// When no picture comes of such a magnitude.
    pub fn apply(self, image: &Rgb8, magnitude: f64) -> Result<Rgb8, String> {
        if !magnitude.is_finite() {
            return Err(format!("{self:?} by {magnitude}"));
        }
        let size = [image.width as f64, image.height as f64];
        let middle = size.map(|side| side * 0.5);
        let degrees = || magnitude.atan().to_degrees();
        Ok(match self {
            Self::Identity => image.clone(),
            Self::ShearX => affine(image, inverse([0.0; 2], 0.0, [0.0; 2], [degrees(), 0.0]))?,
            Self::ShearY => affine(image, inverse([0.0; 2], 0.0, [0.0; 2], [0.0, degrees()]))?,
            Self::TranslateX => affine(image, inverse(middle, 0.0, [magnitude.trunc(), 0.0], [0.0; 2]))?,
            Self::TranslateY => affine(image, inverse(middle, 0.0, [0.0, magnitude.trunc()], [0.0; 2]))?,
            Self::Rotate => rotate(image, magnitude)?,
            Self::Brightness => blend(&vec![0; image.pixels.len()], image, magnitude),
            Self::Color => {
                let greys = greys(image);
                blend(&greys.iter().flat_map(|&grey| [grey; 3]).collect::<Vec<_>>(), image, magnitude)
            }
            Self::Contrast => {
                let greys = greys(image);
                let sum: u64 = greys.iter().map(|&grey| u64::from(grey)).sum();
                let mean = (sum as f64 / greys.len() as f64 + 0.5) as u8;
                blend(&vec![mean; image.pixels.len()], image, magnitude)
            }
            Self::Sharpness => blend(&smooth(image), image, magnitude),
            Self::Posterize => {
                let bits = magnitude as i64;
                if !(1..=8).contains(&bits) {
                    return Err(format!("Posterize to {bits} bits"));
                }
                let mask = !((1u16 << (8 - bits)) - 1) as u8;
                looked_up(image, |_, value| value & mask)
            }
            Self::Solarize => {
                looked_up(image, |_, value| if f64::from(value) < magnitude { value } else { 255 - value })
            }
            Self::AutoContrast => {
                let tables = histograms(image).map(|counts| stretched(&counts));
                looked_up(image, |channel, value| tables[channel][usize::from(value)])
            }
            Self::Equalize => {
                let tables = histograms(image).map(|counts| equalized(&counts));
                looked_up(image, |channel, value| tables[channel][usize::from(value)])
            }
        })
    }

    /// A magnitude of `bin` among `bins` for a picture of these sides, and whether it may be negative.
    fn magnitude(self, bin: usize, bins: usize, [width, height]: [usize; 2]) -> (f32, bool) {
        let share = bin as f32 / (bins.max(2) - 1) as f32;
        match self {
            Self::Identity | Self::AutoContrast | Self::Equalize => (0.0, false),
            Self::ShearX | Self::ShearY => (0.3 * share, true),
            Self::TranslateX => (150.0 / 331.0 * width as f32 * share, true),
            Self::TranslateY => (150.0 / 331.0 * height as f32 * share, true),
            Self::Rotate => (30.0 * share, true),
            Self::Brightness | Self::Color | Self::Contrast | Self::Sharpness => (0.9 * share, true),
            Self::Posterize => (8.0 - (4.0 * share).round_ties_even(), false),
            Self::Solarize => (255.0 * (1.0 - share), false),
        }
    }

    /// A random operation with its magnitude.
    pub(crate) fn random(random: &mut Random, bin: usize, bins: usize, sides: [usize; 2]) -> (usize, f64) {
        let index = random.below(Self::ALL.len());
        let (magnitude, signed) = Self::ALL[index].magnitude(bin, bins, sides);
        let negative = signed && random.below(2) == 1;
        (index, f64::from(if negative { -magnitude } else { magnitude }))
    }
}

/// From a pixel of the result to one of the picture: `x = a X + b Y + c`, `y = d X + e Y + f`.
type Affine = [f64; 6];

/// The inverse of a turn about a centre with a shift and shears, in degrees.
fn inverse([cx, cy]: [f64; 2], angle: f64, [tx, ty]: [f64; 2], shear: [f64; 2]) -> Affine {
    let turn = angle.to_radians();
    let [sx, sy] = shear.map(f64::to_radians);
    let a = (turn - sy).cos() / sy.cos();
    let b = -(turn - sy).cos() * sx.tan() / sy.cos() - turn.sin();
    let c = (turn - sy).sin() / sy.cos();
    let d = -(turn - sy).sin() * sx.tan() / sy.cos() + turn.cos();
    let mut matrix = [d, -b, 0.0, -c, a, 0.0];
    matrix[2] += matrix[0] * (-cx - tx) + matrix[1] * (-cy - ty);
    matrix[5] += matrix[3] * (-cx - tx) + matrix[4] * (-cy - ty);
    matrix[2] += cx;
    matrix[5] += cy;
    matrix
}

/// Pillow's rotate, counter-clockwise in degrees.
fn rotate(image: &Rgb8, degrees: f64) -> Result<Rgb8, String> {
    let degrees = degrees.rem_euclid(360.0);
    let (width, height) = (image.width, image.height);
    // Quarters of a turn are exact, where the sides allow it.
    let turned = |from: &dyn Fn(usize, usize) -> [usize; 2]| {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| [x, y]));
        let pixels = pixels.flat_map(|[x, y]| {
            let [x, y] = from(x, y);
            let at = 3 * (y * width + x);
            [image.pixels[at], image.pixels[at + 1], image.pixels[at + 2]]
        });
        Rgb8 { width, height, pixels: pixels.collect() }
    };
    if degrees == 0.0 {
        return Ok(image.clone());
    } else if degrees == 180.0 {
        return Ok(turned(&|x, y| [width - 1 - x, height - 1 - y]));
    } else if degrees == 90.0 && width == height {
        return Ok(turned(&|x, y| [width - 1 - y, x]));
    } else if degrees == 270.0 && width == height {
        return Ok(turned(&|x, y| [y, height - 1 - x]));
    }
    let angle = -degrees.to_radians();
    let (cos, sin) = (to_15_digits(angle.cos()), to_15_digits(angle.sin()));
    let minus_sin = to_15_digits(-angle.sin());
    let (cx, cy) = (width as f64 / 2.0, height as f64 / 2.0);
    let mut matrix = [cos, sin, 0.0, minus_sin, cos, 0.0];
    matrix[2] = cos * -cx + sin * -cy + 0.0 + cx;
    matrix[5] = minus_sin * -cx + cos * -cy + 0.0 + cy;
    affine(image, matrix)
}

/// Python's `round(x, 15)`.
fn to_15_digits(x: f64) -> f64 {
    format!("{x:.15}").parse().unwrap_or(x)
}

/// The nearest pixel of the picture for every pixel of the result; black beside it.
fn affine(image: &Rgb8, m: Affine) -> Result<Rgb8, String> {
    let (width, height) = (image.width as i64, image.height as i64);
    let mut pixels = vec![0; image.pixels.len()];
    let mut set = |at: usize, x: i64, y: i64| {
        if (0..width).contains(&x) && (0..height).contains(&y) {
            let from = 3 * (y * width + x) as usize;
            pixels[3 * at..3 * at + 3].copy_from_slice(&image.pixels[from..from + 3]);
        }
    };
    if m[1] == 0.0 && m[3] == 0.0 {
        // Shifts: positions are added up in f64.
        let place = |v: f64| if v < 0.0 { -1 } else { v as i64 };
        let mut yo = m[5] + m[4] * 0.5;
        for y in 0..image.height {
            let mut xo = m[2] + m[0] * 0.5;
            for x in 0..image.width {
                set(y * image.width + x, place(xo), place(yo));
                xo += m[0];
            }
            yo += m[4];
        }
        return Ok(Rgb8 { width: image.width, height: image.height, pixels });
    }
    // Everything else in fixed point with 16 bits of fraction, as far as its numbers go.
    let corners = [[0.0, 0.0], [width as f64, height as f64], [0.0, height as f64], [width as f64, 0.0]];
    let fits = |[x, y]: [f64; 2]| {
        (x * m[0] + y * m[1] + m[2]).abs() < 32768.0 && (x * m[3] + y * m[4] + m[5]).abs() < 32768.0
    };
    if !corners.into_iter().all(fits) {
        return Err(format!("a picture of {width}x{height} moved by {m:?}: too far"));
    }
    let fixed = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
    let [a0, a1, a3, a4] = [m[0], m[1], m[3], m[4]].map(fixed);
    let mut row = [fixed(m[2] + m[0] * 0.5 + m[1] * 0.5), fixed(m[5] + m[3] * 0.5 + m[4] * 0.5)];
    for y in 0..image.height {
        let [mut xx, mut yy] = row;
        for x in 0..image.width {
            set(y * image.width + x, xx >> 16, yy >> 16);
            xx += a0;
            yy += a3;
        }
        row = [row[0] + a1, row[1] + a4];
    }
    Ok(Rgb8 { width: image.width, height: image.height, pixels })
}

/// From `plain` at a magnitude of -1 over the picture at 0 to beyond it.
fn blend(plain: &[u8], image: &Rgb8, magnitude: f64) -> Rgb8 {
    let alpha = (1.0 + magnitude) as f32;
    let blended = |(&plain, &value): (&u8, &u8)| {
        let (plain, value) = (i32::from(plain), i32::from(value));
        // A cast to u8 cuts off and stays within 0 to 255.
        (plain as f32 + alpha * (value - plain) as f32) as u8
    };
    let pixels = match alpha {
        0.0 => plain.to_vec(),
        1.0 => image.pixels.clone(),
        _ => plain.iter().zip(&image.pixels).map(blended).collect(),
    };
    Rgb8 { width: image.width, height: image.height, pixels }
}

/// Luminance by ITU-R 601-2.
fn greys(image: &Rgb8) -> Vec<u8> {
    let grey = |p: &[u8; 3]| {
        let [r, g, b] = p.map(u32::from);
        ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
    };
    image.pixels.as_chunks::<3>().0.iter().map(grey).collect()
}

/// `ImageFilter.SMOOTH`: a 3x3 kernel of ones with 5 in the middle; the border stays.
fn smooth(image: &Rgb8) -> Vec<u8> {
    const SIDE: f32 = 1.0 / 13.0;
    const MIDDLE: f32 = 5.0 / 13.0;
    let (width, height) = (image.width, image.height);
    let stride = 3 * width;
    let mut out = image.pixels.clone();
    for y in 1..height.saturating_sub(1) {
        for at in y * stride + 3..(y + 1) * stride - 3 {
            let three = |at: usize, middle: f32| {
                let value = |at: usize| f32::from(image.pixels[at]);
                value(at - 3) * SIDE + value(at) * middle + value(at + 3) * SIDE
            };
            // The order of the sum is Pillow's: from below to above.
            let sum = 0.5 + three(at + stride, SIDE) + three(at, MIDDLE) + three(at - stride, SIDE);
            out[at] = sum as u8;
        }
    }
    out
}

fn looked_up(image: &Rgb8, value: impl Fn(usize, u8) -> u8) -> Rgb8 {
    let pixels = image.pixels.iter().enumerate().map(|(i, &old)| value(i % 3, old)).collect();
    Rgb8 { width: image.width, height: image.height, pixels }
}

fn histograms(image: &Rgb8) -> [[u64; 256]; 3] {
    let mut counts = [[0; 256]; 3];
    for pixel in image.pixels.as_chunks::<3>().0 {
        for (counts, &value) in counts.iter_mut().zip(pixel) {
            counts[usize::from(value)] += 1;
        }
    }
    counts
}

/// From the darkest value at 0 to the lightest at 255.
fn stretched(counts: &[u64; 256]) -> [u8; 256] {
    let low = counts.iter().position(|&count| count > 0).unwrap_or(0);
    let high = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
    if high <= low {
        return std::array::from_fn(|value| value as u8);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    std::array::from_fn(|value| (value as f64 * scale + offset) as u8)
}

/// As many pixels at each value.
fn equalized(counts: &[u64; 256]) -> [u8; 256] {
    let last = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
    let step = (counts.iter().sum::<u64>() - counts[last]) / 255;
    if step == 0 {
        return std::array::from_fn(|value| value as u8);
    }
    let mut n = step / 2;
    std::array::from_fn(|value| {
        let new = (n / step).min(255) as u8;
        n += counts[value];
        new
    })
}
