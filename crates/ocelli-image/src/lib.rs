//! Computes, from the bytes of an image file, the `[size, size, 3]` pixel values a vision encoder
//! takes, byte for byte as Pillow 13 with torchvision, open_clip or transformers does.
//!
//! It also reads what a photo's file says about it, and makes thumbnails.
//!
//! This crate must never know what comes after the pixels: no layers, no checkpoints, no model names.
//!
//! The way of a picture, one file each:
//!
//! | step | file | result |
//! |---|---|---|
//! | decode by content | `picture.rs`, `decode.rs` (PNG, WebP, BMP, TIFF), `jpeg.rs` with `inks.rs`, `gif.rs` | [`Rgb8`] |
//! | refuse a file cut short | `complete.rs` | [`ImageError::Truncated`] |
//! | turn upright | `orientation.rs` | [`Rgb8`] |
//! | pad or crop, and resize | `preprocess.rs`, `resample.rs` | `[size, size, 3]` bytes |
//! | scale and normalise | `preprocess.rs` | `[size, size, 3]` `f32` |
//!
//! Without the feature `decoders`, which is on by default, pictures come as pixels: [`Rgb8::from_rgba`].
//!
//! Beside that way: `raw.rs` finds the preview in a camera's raw file, `metadata.rs` reads [`PhotoMetadata`],
//! `thumbnail.rs` makes small JPEG copies.
//!
//! ```
//! use ocelli_image::{DecodeOptions, Filter, Fit, Preprocess, Rgb8};
//!
//! # fn main() -> Result<(), ocelli_image::ImageError> {
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! # let path = dir.path().join("white.bmp");
//! # image::RgbImage::from_pixel(3, 2, image::Rgb([255; 3])).save(&path).expect("written");
//! let picture: Rgb8 = ocelli_image::open(&path, &DecodeOptions::default())?;
//! let recipe = Preprocess { size: 6, fit: Fit::Pad, filter: Filter::Bicubic, mean: [0.0; 3], std: [1.0; 3] };
//! let pixels: Vec<f32> = recipe.run(&picture); // [6, 6, 3]: white above, black below
//! assert_eq!((pixels.len(), pixels[0], pixels[107]), (108, 1.0, 0.0));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

#[cfg(feature = "decoders")]
mod complete;
#[cfg(feature = "decoders")]
mod decode;
mod error;
#[cfg(feature = "decoders")]
mod gif;
#[cfg(feature = "heic")]
mod heic;
#[cfg(feature = "decoders")]
mod inks;
#[cfg(feature = "decoders")]
mod jpeg;
#[cfg(feature = "decoders")]
mod metadata;
mod orientation;
mod picture;
mod preprocess;
#[cfg(feature = "decoders")]
mod raw;
mod resample;
#[cfg(feature = "decoders")]
mod thumbnail;

#[cfg(feature = "decoders")]
pub use decode::{decode, open};
pub use error::ImageError;
#[cfg(feature = "decoders")]
pub use metadata::{CapturedAt, PhotoMetadata};
pub use orientation::Orientation;
pub use picture::{DecodeOptions, Format, Rgb8};
pub use preprocess::{
    CLIP_MEAN, CLIP_STD, ClipPreprocess, Filter, Fit, Preprocess, ResizeMode, resize, resize_to_square,
    to_pixel_values,
};
#[cfg(feature = "decoders")]
pub use raw::{RawPreview, raw_preview};
#[cfg(feature = "decoders")]
pub use thumbnail::thumbnail;
