//! From a picture of any size to the square of numbers a vision encoder takes.
//!
//! Padding follows LLaVA's `expand2square`; cropping follows transformers' `CLIPImageProcessorPil` or
//! torchvision's `Resize` and `CenterCrop`. All use Pillow's resize, see `resample.rs`.

use crate::Rgb8;
use crate::resample::{Axis, resample};

pub use crate::resample::Filter;

/// How a picture that is not square becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Black borders: centred on a black square, whose corner is at `floor((side - length) / 2)`.
    Pad,
    /// Shortest side to the target, then the middle, at `floor((length - size) / 2)`, as transformers'
    /// CLIP image processor does.
    CropFloor,
    /// Shortest side to the target, then the middle, at `(length - size) / 2` with halves rounded to
    /// even, as torchvision and open_clip do. One pixel off [`Fit::CropFloor`] for some lengths.
    CropRound,
    /// Each side to the target on its own, so that nothing is lost and proportions change.
    Squash,
}

/// A whole recipe from picture to pixel values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preprocess {
    /// Side of the result, in pixels.
    pub size: usize,
    /// How the picture becomes a square.
    pub fit: Fit,
    /// How it is resized.
    pub filter: Filter,
    /// Subtracted from values in 0 to 1; red, green, blue.
    pub mean: [f32; 3],
    /// What the difference is divided by; red, green, blue.
    pub std: [f32; 3],
}

impl Preprocess {
    /// Returns the pixel values of `image`, `[size, size, 3]`, row-major.
    ///
    /// # Panics
    ///
    /// As [`resize_to_square`].
    pub fn run(&self, image: &Rgb8) -> Vec<f32> {
        let square = resize_to_square(image, self.size, self.fit, self.filter);
        to_pixel_values(&square, self.mean, self.std)
    }
}

/// The mean that OpenAI's CLIP was trained with; red, green, blue.
pub const CLIP_MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
/// The standard deviation that OpenAI's CLIP was trained with; red, green, blue.
#[expect(clippy::excessive_precision, reason = "the digits that were published")]
pub const CLIP_STD: [f32; 3] = [0.26862954, 0.26130258, 0.27577711];

/// How a picture that is not square becomes one, in open_clip's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResizeMode {
    /// `shortest`: shortest side to the target, then the middle.
    #[default]
    Shortest,
    /// `squash`: both sides to the target.
    Squash,
}

/// The preprocessing of a CLIP model, as `preprocess_cfg` in open_clip's configuration has it.
///
/// Pictures are made RGB before they are resized, also those with a palette.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipPreprocess {
    /// Side of the result, in pixels.
    pub size: usize,
    /// Subtracted from values in 0 to 1; red, green, blue.
    pub mean: [f32; 3],
    /// What the difference is divided by; red, green, blue.
    pub std: [f32; 3],
    /// How the picture is resized.
    pub interpolation: Filter,
    /// What happens to a picture that is not square.
    pub resize_mode: ResizeMode,
}

impl ClipPreprocess {
    /// Returns the pixel values of `image`, `[size, size, 3]`, row-major, equal to open_clip's.
    ///
    /// # Panics
    ///
    /// As [`resize_to_square`].
    pub fn run(&self, image: &Rgb8) -> Vec<f32> {
        self.recipe().run(image)
    }

    /// The same as a general recipe.
    pub fn recipe(&self) -> Preprocess {
        let fit = match self.resize_mode {
            ResizeMode::Shortest => Fit::CropRound,
            ResizeMode::Squash => Fit::Squash,
        };
        Preprocess { size: self.size, fit, filter: self.interpolation, mean: self.mean, std: self.std }
    }
}

/// Returns `image` as a square, `[size, size, 3]` bytes, equal to what Pillow computes.
///
/// Neither the padded square nor the part of the resized picture that is cropped away is ever built:
/// memory is of the order of the picture and the result, for a picture of 1 x 60000 too.
///
/// # Panics
///
/// If `image` has no pixels or `pixels` is not `height * width * 3` bytes long, or `size` is 0.
pub fn resize_to_square(image: &Rgb8, size: usize, fit: Fit, filter: Filter) -> Vec<u8> {
    let (height, width) = (image.height, image.width);
    assert!(height > 0 && width > 0 && size > 0, "a {width}x{height} picture cannot be resized to {size}");
    assert_eq!(image.pixels.len(), height * width * 3, "pixels are not [height, width, 3]");
    let axis = |length| match fit {
        Fit::Pad => padded(length, height.max(width), size),
        Fit::CropFloor => cropped(length, height.min(width), size, |excess| excess / 2),
        Fit::CropRound => cropped(length, height.min(width), size, half_to_even),
        Fit::Squash => Axis { from: length, offset: 0, length, to: size, first: 0, count: size },
    };
    resample(&image.pixels, axis(height), axis(width), filter)
}

/// Returns `image` with other sides, equal to Pillow's `Image.resize`.
///
/// # Panics
///
/// If `image` has no pixels or `pixels` is not `height * width * 3` bytes long, or a side is 0.
pub fn resize(image: &Rgb8, height: usize, width: usize, filter: Filter) -> Rgb8 {
    assert!(image.height > 0 && image.width > 0 && height > 0 && width > 0, "a side without pixels");
    assert_eq!(image.pixels.len(), image.height * image.width * 3, "pixels are not [height, width, 3]");
    let axis = |length, to| Axis { from: length, offset: 0, length, to, first: 0, count: to };
    let pixels = resample(&image.pixels, axis(image.height, height), axis(image.width, width), filter);
    Rgb8 { height, width, pixels }
}

/// A side of `length` pixels in the middle of a black one of `side`, resized to `size`.
fn padded(length: usize, side: usize, size: usize) -> Axis {
    Axis { from: side, offset: (side - length) / 2, length, to: size, first: 0, count: size }
}

/// A side of `length` pixels scaled as `shortest` to `size`, of which the middle `size` are kept.
fn cropped(length: usize, shortest: usize, size: usize, offset: impl Fn(usize) -> usize) -> Axis {
    // torchvision and transformers: `int(size * long / short)`, a division of doubles.
    let to = ((size * length) as f64 / shortest as f64) as usize;
    Axis { from: length, offset: 0, length, to, first: offset(to - size), count: size }
}

/// Python's `round(excess / 2)`.
fn half_to_even(excess: usize) -> usize {
    let half = excess / 2;
    if excess % 2 == 1 { half + half % 2 } else { half }
}

/// Returns `(v / 255 - mean) / std` for every byte of `[.., 3]`, in `f32` arithmetic as torch does.
///
/// Mean 0 and deviation 1 give exactly `v / 255`.
pub fn to_pixel_values(bytes: &[u8], mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
    // A table: dividing each of millions takes some milliseconds.
    let mut table = [[0.0; 3]; 256];
    for (byte, values) in table.iter_mut().enumerate() {
        for (channel, value) in values.iter_mut().enumerate() {
            *value = (byte as f32 / 255.0 - mean[channel]) / std[channel];
        }
    }
    bytes.iter().enumerate().map(|(i, &byte)| table[usize::from(byte)][i % 3]).collect()
}
