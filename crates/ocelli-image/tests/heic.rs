//! HEIC, in a build with the feature.

#![cfg(feature = "heic")]

use std::path::{Path, PathBuf};

use ocelli_image::{DecodeOptions, ImageError, PhotoMetadata, decode, open};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// `heif-enc -q 95` of the PNG beside it.
#[test]
fn a_heic_looks_like_the_picture_that_it_was_made_from() {
    let heic = open(&fixture("heic/rgb_160x120.heic"), &DecodeOptions::default()).unwrap();
    let png = open(&fixture("images/rgb_160x120.png"), &DecodeOptions::default()).unwrap();
    assert_eq!((heic.width, heic.height), (png.width, png.height));
    let difference = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b));
    let mean = heic.pixels.iter().zip(&png.pixels).map(difference).sum::<f64>() / png.pixels.len() as f64;
    assert!(mean < 12.0, "mean difference {mean}");
    let bytes = std::fs::read(fixture("heic/rgb_160x120.heic")).unwrap();
    let metadata = PhotoMetadata::read(&bytes);
    assert_eq!((metadata.width, metadata.height), (Some(160), Some(120)));
}

#[test]
fn damage_is_an_error() {
    let bytes = std::fs::read(fixture("heic/rgb_160x120.heic")).unwrap();
    for length in (12..bytes.len()).step_by(97) {
        let error = decode(&bytes[..length], &DecodeOptions::default()).unwrap_err();
        assert!(error.to_string().contains("HEIC"), "{length}: {error}");
    }
    let small = DecodeOptions { max_pixels: 100, ..DecodeOptions::default() };
    assert!(matches!(decode(&bytes, &small), Err(ImageError::TooManyPixels { .. })));
}
