//! The resize on its own: what must hold for any picture, and sizes no square could be built for.

mod common;

use common::Random;
use ocelli_image::{Filter, Fit, Preprocess, Rgb8, resize_to_square, to_pixel_values};

const FILTERS: [Filter; 2] = [Filter::Bilinear, Filter::Bicubic];
const FITS: [Fit; 3] = [Fit::Pad, Fit::CropFloor, Fit::CropRound];

fn noise(height: usize, width: usize, seed: u64) -> Rgb8 {
    let mut random = Random(seed);
    Rgb8 { height, width, pixels: (0..height * width * 3).map(|_| random.below(256) as u8).collect() }
}

/// Builds the padded square, as the reference does and we do not.
fn on_black_square(picture: &Rgb8) -> Rgb8 {
    let side = picture.height.max(picture.width);
    let (top, left) = ((side - picture.height) / 2, (side - picture.width) / 2);
    let mut pixels = vec![0; side * side * 3];
    for (y, row) in picture.pixels.chunks_exact(picture.width * 3).enumerate() {
        let at = ((top + y) * side + left) * 3;
        pixels[at..at + row.len()].copy_from_slice(row);
    }
    Rgb8 { height: side, width: side, pixels }
}

#[test]
fn padding_equals_resizing_the_padded_square() {
    let mut random = Random(9);
    for round in 0..200 {
        let picture = noise(1 + random.below(60), 1 + random.below(60), round + 1);
        let square = on_black_square(&picture);
        let size = 1 + random.below(70);
        for filter in FILTERS {
            let ours = resize_to_square(&picture, size, Fit::Pad, filter);
            assert_eq!(ours, resize_to_square(&square, size, Fit::CropFloor, filter), "{filter:?} {size}");
        }
    }
}

#[test]
fn a_square_of_the_wanted_size_is_unchanged() {
    let picture = noise(37, 37, 5);
    for filter in FILTERS {
        for fit in FITS {
            assert_eq!(resize_to_square(&picture, 37, fit, filter), picture.pixels);
        }
    }
}

#[test]
fn one_colour_stays_that_colour() {
    for (height, width, size) in [(5, 9, 32), (90, 31, 7), (1, 1, 64), (64, 3, 64)] {
        let picture = Rgb8 { height, width, pixels: [200, 30, 90].repeat(height * width) };
        for filter in FILTERS {
            let cropped = resize_to_square(&picture, size, Fit::CropRound, filter);
            assert_eq!(cropped, [200, 30, 90].repeat(size * size), "{height}x{width} to {size}");
        }
    }
}

/// Lengths after the resize: 64 and `64 * width / 64`, so the excess is `width - 64`.
#[test]
fn the_two_crops_differ_where_half_the_excess_is_odd_and_a_half() {
    let columns = |width: usize, fit| {
        let ramp: Vec<u8> = (0..width).flat_map(|x| [x as u8; 3]).collect();
        let picture = Rgb8 { height: 64, width, pixels: ramp.repeat(64) };
        resize_to_square(&picture, 64, fit, Filter::Bilinear)[0]
    };
    for (width, floor, round) in
        [(64, 0, 0), (65, 0, 0), (66, 1, 1), (67, 1, 2), (68, 2, 2), (69, 2, 2), (71, 3, 4)]
    {
        assert_eq!(
            (columns(width, Fit::CropFloor), columns(width, Fit::CropRound)),
            (floor, round),
            "{width}"
        );
    }
}

/// The square would be 10 GB, the resized picture before its crop 180 GB.
#[test]
fn long_thin_pictures_need_little_memory() {
    for (height, width) in [(60_000, 1), (1, 60_000)] {
        let picture = noise(height, width, 3);
        for fit in FITS {
            for filter in FILTERS {
                assert_eq!(resize_to_square(&picture, 1024, fit, filter).len(), 1024 * 1024 * 3);
            }
        }
    }
}

#[test]
fn values_are_scaled_then_normalised() {
    let bytes: Vec<u8> = (0..=255).flat_map(|v| [v; 3]).collect();
    for (i, value) in to_pixel_values(&bytes, [0.0; 3], [1.0; 3]).iter().enumerate() {
        assert_eq!(*value, bytes[i] as f32 / 255.0);
    }
    let recipe = Preprocess {
        size: 1,
        fit: Fit::Pad,
        filter: Filter::Bicubic,
        mean: [0.5, 0.25, 0.0],
        std: [0.5, 0.25, 2.0],
    };
    let white = Rgb8 { height: 1, width: 1, pixels: vec![255; 3] };
    assert_eq!(recipe.run(&white), [1.0, 3.0, 0.5]);
}
