//! Pillow's antialiased resize of 8-bit RGB, bit for bit.
//!
//! Follows `src/libImaging/Resample.c` of Pillow 13: weights are computed in double precision and
//! rounded to 22 fractional bits; rows and columns are filtered one after the other, each rounded to
//! bytes. SIMD resizers (Pillow-SIMD, `fast_image_resize`) keep weights in 16 bits and differ by one
//! now and then, which is why this is our own.

use std::ops::Range;

/// The interpolation of Pillow's `Image.resize`; the kernel is stretched when the picture shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// A triangle, one pixel to each side.
    Bilinear,
    /// Keys' cubic convolution with a = -0.5, two pixels to each side.
    Bicubic,
}

impl Filter {
    /// Half the kernel's width, in pixels of the larger picture.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The kernel at distance `x`; `bilinear_filter` and `bicubic_filter`, the same order of operations.
    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// What happens along one side: `length` pixels stand at `offset` among `from`, the others are black;
/// the `from` are resized to `to`, and `count` of these, beginning with `first`, are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub from: usize,
    pub offset: usize,
    pub length: usize,
    pub to: usize,
    pub first: usize,
    pub count: usize,
}

/// Returns `[vertical.count, horizontal.count, 3]` bytes of `pixels`,
/// `[vertical.length, horizontal.length, 3]`.
pub(crate) fn resample(pixels: &[u8], vertical: Axis, horizontal: Axis, filter: Filter) -> Vec<u8> {
    let picture = Picture { pixels, width: horizontal.length };
    let (rows, columns) = (taps(vertical, filter), taps(horizontal, filter));
    if vertical_first(vertical, horizontal) {
        let needed = span(&columns);
        let short = filter_columns(picture, needed.clone(), 0, &rows);
        let short = Picture { pixels: &short, width: needed.len() };
        return filter_rows(short, 0..rows.len(), needed.start, &columns);
    }
    // Outputs that see no pixel of the picture are black: keeping only the others bounds the memory
    // for a tall picture on a black square.
    let lit = lit(&columns);
    let needed = span(&rows);
    let narrow = filter_rows(picture, needed.clone(), 0, &columns[lit.clone()]);
    let narrow = Picture { pixels: &narrow, width: lit.len() };
    let square = filter_columns(narrow, 0..lit.len(), needed.start, &rows);
    widen(square, lit, columns.len())
}

/// Whether Pillow filters columns before rows; to which pixel a rounding falls depends on it.
///
/// Pillow does since version 13 where that is faster (<https://github.com/python-pillow/Pillow/pull/9549>):
/// where the height loses more than twice as many pixels as the width (found by comparing 7000 random
/// sizes with Pillow 13.0.0). Earlier versions never did; their result then differs by a few levels.
fn vertical_first(vertical: Axis, horizontal: Axis) -> bool {
    let lost = |axis: Axis| axis.from as i128 - axis.to as i128;
    lost(vertical) > 0 && lost(vertical) > 2 * lost(horizontal)
}

/// Rows of RGB pixels.
#[derive(Clone, Copy)]
struct Picture<'a> {
    pixels: &'a [u8],
    width: usize,
}

/// Fractional bits of a weight: 32, less 8 for the sample, less 2 for sums below 0 and above 1.
const PRECISION: u32 = 32 - 8 - 2;
const ONE_HALF: i32 = 1 << (PRECISION - 1);

/// The pixels that make one output pixel: the ones from `start`, one weight each.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn end(&self) -> usize {
        self.start + self.weights.len()
    }

    /// Whether the output is a pixel as it is. Nobody asks in a browser, which loads less so.
    fn is_pixel(&self) -> bool {
        !cfg!(target_arch = "wasm32") && self.weights == [1 << PRECISION]
    }

    /// The positions seen, counted from `first`; none for an output that sees only black.
    fn seen_from(&self, first: usize) -> Range<usize> {
        if self.weights.is_empty() { 0..0 } else { self.start - first..self.end() - first }
    }
}

/// Computes the taps of each wanted output pixel (`precompute_coeffs`, `normalize_coeffs_8bpc`).
///
/// Black pixels add nothing to a sum of integers, so their weights count for the normalisation but
/// are left out of the result, whose positions begin at the picture.
fn taps(axis: Axis, filter: Filter) -> Vec<Taps> {
    let scale = axis.from as f64 / axis.to as f64;
    let stretch = scale.max(1.0);
    // A side that keeps its length has zeros for all but a pixel itself.
    let support = if axis.from == axis.to { 0.5 } else { filter.support() * stretch };
    let picture = axis.offset..axis.offset + axis.length;
    let one = |output: usize| {
        let center = (output as f64 + 0.5) * scale;
        // C's cast to int: both cut off the fraction, and below 0 is 0.
        let min = (center - support + 0.5) as usize;
        let max = ((center + support + 0.5) as usize).min(axis.from);
        let inverse = 1.0 / stretch;
        let mut weights: Vec<f64> =
            (0..max - min).map(|i| filter.at(((i + min) as f64 - center + 0.5) * inverse)).collect();
        let sum: f64 = weights.iter().sum();
        if sum != 0.0 {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        let seen = min.clamp(picture.start, picture.end)..max.clamp(picture.start, picture.end);
        let kept = if seen.is_empty() { &[][..] } else { &weights[seen.start - min..seen.end - min] };
        Taps { start: seen.start - picture.start, weights: kept.iter().copied().map(fixed_point).collect() }
    };
    (axis.first..axis.first + axis.count).map(one).collect()
}

/// Rounds half away from zero.
fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    if scaled < 0.0 { (scaled - 0.5) as i32 } else { (scaled + 0.5) as i32 }
}

/// The input positions that any output needs.
fn span(taps: &[Taps]) -> Range<usize> {
    let used = || taps.iter().filter(|tap| !tap.weights.is_empty());
    let start = used().map(|tap| tap.start).min().unwrap_or(0);
    start..used().map(Taps::end).max().unwrap_or(0)
}

/// The outputs that see any pixel of the picture.
fn lit(taps: &[Taps]) -> Range<usize> {
    let start = taps.iter().position(|tap| !tap.weights.is_empty()).unwrap_or(0);
    let end = taps.iter().rposition(|tap| !tap.weights.is_empty()).map_or(0, |last| last + 1);
    start..end
}

/// Whether each output is the next pixel as it is.
fn copies(taps: &[Taps]) -> bool {
    taps.iter().all(Taps::is_pixel) && taps.windows(2).all(|pair| pair[1].start == pair[0].start + 1)
}

/// The horizontal pass: `[rows, columns, 3]` of the given rows, whose first pixel the taps call
/// `first_column`.
fn filter_rows(picture: Picture<'_>, rows: Range<usize>, first_column: usize, columns: &[Taps]) -> Vec<u8> {
    let stride = picture.width * 3;
    let mut result = Vec::with_capacity(rows.len() * columns.len() * 3);
    let copies = copies(columns);
    for y in rows {
        let row = &picture.pixels[y * stride..(y + 1) * stride];
        if let (true, Some(first)) = (copies, columns.first()) {
            let start = (first.start - first_column) * 3;
            result.extend_from_slice(&row[start..start + columns.len() * 3]);
            continue;
        }
        for tap in columns {
            let mut sums = [ONE_HALF; 3];
            let seen = tap.seen_from(first_column);
            for (pixel, weight) in row[seen.start * 3..seen.end * 3].chunks_exact(3).zip(&tap.weights) {
                sums[0] += i32::from(pixel[0]) * weight;
                sums[1] += i32::from(pixel[1]) * weight;
                sums[2] += i32::from(pixel[2]) * weight;
            }
            result.extend(sums.map(to_byte));
        }
    }
    result
}

/// The vertical pass: `[rows, columns, 3]` of the given columns, whose first pixel the taps call
/// `first_row`.
fn filter_columns(picture: Picture<'_>, columns: Range<usize>, first_row: usize, rows: &[Taps]) -> Vec<u8> {
    let stride = picture.width * 3;
    let mut result = Vec::with_capacity(rows.len() * columns.len() * 3);
    let mut sums = vec![ONE_HALF; columns.len() * 3];
    let row = |y: usize| &picture.pixels[y * stride + columns.start * 3..y * stride + columns.end * 3];
    for tap in rows {
        if tap.is_pixel() {
            result.extend_from_slice(row(tap.start - first_row));
            continue;
        }
        sums.fill(ONE_HALF);
        for (y, weight) in tap.seen_from(first_row).zip(&tap.weights) {
            let row = row(y);
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(*sample) * weight;
            }
        }
        result.extend(sums.iter().map(|sum| to_byte(*sum)));
    }
    result
}

/// Puts black columns to both sides of the lit ones, up to `width` of them.
fn widen(pixels: Vec<u8>, lit: Range<usize>, width: usize) -> Vec<u8> {
    if lit.len() == width {
        return pixels;
    }
    let mut result = Vec::with_capacity(pixels.len() / lit.len() * width);
    for row in pixels.chunks_exact(lit.len() * 3) {
        result.resize(result.len() + lit.start * 3, 0);
        result.extend_from_slice(row);
        result.resize(result.len() + (width - lit.end) * 3, 0);
    }
    result
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}
