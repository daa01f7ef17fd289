//! Small JPEG copies, for contact sheets and web pages.

use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};

use crate::resample::{Axis, resample};
use crate::{Filter, Rgb8};

/// Looks clean at the size of a thumbnail, at about 10 kB for 256 pixels.
const QUALITY: u8 = 82;
/// The longest side that a JPEG can have.
const MAX_SIDE: usize = 65_500;

/// Returns `image` as a JPEG file whose longer side has at most `max_side` pixels; a picture that is
/// smaller keeps its size. The result holds no metadata.
///
/// # Panics
///
/// If `image` has no pixels or `pixels` is not `height * width * 3` bytes long, or `max_side` is 0.
pub fn thumbnail(image: &Rgb8, max_side: usize) -> Vec<u8> {
    let (height, width) = (image.height, image.width);
    assert!(
        height > 0 && width > 0 && max_side > 0,
        "no {max_side} pixel copy of a {width}x{height} picture"
    );
    assert_eq!(image.pixels.len(), height * width * 3, "pixels are not [height, width, 3]");
    let small = shrink(image, max_side.min(MAX_SIDE));
    let encoder = Encoder::new(&small.pixels, small.width, small.height, PixelFormat::Rgb);
    let encoder = encoder.quality(QUALITY).subsampling(Subsampling::S420).optimize_huffman(true);
    encoder.encode().expect("RGB pixels of a checked size are a JPEG")
}

fn shrink(image: &Rgb8, max_side: usize) -> Rgb8 {
    let longest = image.height.max(image.width);
    let side = |length: usize| {
        let rounded = (length as f64 * max_side as f64 / longest as f64).round() as usize;
        if longest <= max_side { length } else { rounded.max(1) }
    };
    let axis =
        |length| Axis { from: length, offset: 0, length, to: side(length), first: 0, count: side(length) };
    let (vertical, horizontal) = (axis(image.height), axis(image.width));
    let pixels = resample(&image.pixels, vertical, horizontal, Filter::Bicubic);
    Rgb8 { height: vertical.to, width: horizontal.to, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DecodeOptions, decode};

    fn gradient(height: usize, width: usize) -> Rgb8 {
        let pixel = |y: usize, x: usize| [(x * 255 / width) as u8, (y * 255 / height) as u8, 128];
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(y, x))).collect();
        Rgb8 { height, width, pixels }
    }

    #[test]
    fn is_a_jpeg_of_the_same_scene_and_no_larger_than_asked() {
        for (height, width, expected) in [
            (300, 400, (48, 64)),
            (400, 100, (64, 16)),
            (20, 30, (20, 30)),
            (1, 1000, (1, 64)),
            (1, 1, (1, 1)),
        ] {
            let picture = gradient(height, width);
            let copy = decode(&thumbnail(&picture, 64), &DecodeOptions::default()).unwrap();
            assert_eq!((copy.height, copy.width), expected);
            let at = |picture: &Rgb8, y: usize, x: usize| {
                let (y, x) = (y * picture.height / 4, x * picture.width / 4);
                let at = (y * picture.width + x) * 3;
                [picture.pixels[at], picture.pixels[at + 1], picture.pixels[at + 2]]
            };
            if height > 4 && width > 4 {
                for (y, x) in (0..4).flat_map(|y| (0..4).map(move |x| (y, x))) {
                    let pairs = at(&picture, y, x).into_iter().zip(at(&copy, y, x));
                    assert!(
                        pairs.into_iter().all(|(a, b)| a.abs_diff(b) < 16),
                        "{height}x{width} at {y}, {x}"
                    );
                }
            }
        }
    }
}
