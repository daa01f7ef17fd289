//! A picture's file: its content, what it says about itself, and a small copy.

use std::path::Path;

use ocelli_image::{DecodeOptions, ImageError, PhotoMetadata, Rgb8};
use ocelli_index::Details;

/// Endings of the files that are looked into, in lower case; raw files by their embedded preview.
pub const EXTENSIONS: [&str; 20] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "dng", "cr2", "nef", "nrw",
    "arw", "pef", "srw", "heic", "heif", "hif",
];

/// The picture in `bytes` and what the file says about it.
///
/// # Errors
/// When `bytes` are no picture that can be decoded whole.
pub(crate) fn read(bytes: &[u8], options: &DecodeOptions) -> Result<(Rgb8, Details), ImageError> {
    let pixels = ocelli_image::decode(bytes, options)?;
    Ok((pixels, details(&PhotoMetadata::read(bytes))))
}

fn details(metadata: &PhotoMetadata) -> Details {
    Details {
        width: metadata.width,
        height: metadata.height,
        orientation: metadata.orientation,
        captured_at: metadata.captured_at.map(|at| at.unix_seconds),
        offset_minutes: metadata.captured_at.and_then(|at| at.offset_minutes),
        camera_make: metadata.camera_make.clone(),
        camera_model: metadata.camera_model.clone(),
        gps: metadata.gps,
    }
}

/// Whether a part of a query names a file: it begins as a path does, or ends as a picture's name and is there.
pub fn is_picture_path(text: &str) -> bool {
    let begins = ["./", "../", "/", "~/", ".\\", "..\\"].iter().any(|start| text.starts_with(start));
    let path = Path::new(text);
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    begins || ending.is_some_and(|e| EXTENSIONS.contains(&e.as_str())) && path.is_file()
}

/// A JPEG copy of the picture in a file, upright, with at most `max_side` pixels a side.
///
/// # Errors
/// When the file cannot be read or is no picture.
pub fn thumbnail_of(path: &Path, max_side: usize) -> Result<Vec<u8>, ImageError> {
    Ok(ocelli_image::thumbnail(&ocelli_image::open(path, &DecodeOptions::default())?, max_side))
}
