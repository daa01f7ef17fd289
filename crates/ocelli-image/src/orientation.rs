//! Turning pictures upright by their EXIF orientation.

#[cfg(feature = "decoders")]
use image::metadata::Orientation as ExifOrientation;

#[cfg(feature = "decoders")]
use crate::Rgb8;

/// Whether a picture is turned the way its EXIF metadata says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orientation {
    /// Upright, as people see it.
    #[default]
    Exif,
    /// As stored in the file.
    Ignore,
}

/// Returns the orientation, 1 to 8, in an EXIF block (TIFF header first); 1 where it says nothing.
#[cfg(feature = "decoders")]
pub(crate) fn from_exif(exif: &[u8]) -> u8 {
    ExifOrientation::from_exif_chunk(exif).map_or(1, |orientation| orientation.to_exif())
}

/// Undoes EXIF orientation `exif`; any value but 2 to 8 means upright already.
#[cfg(feature = "decoders")]
pub(crate) fn upright(picture: Rgb8, exif: u8) -> Rgb8 {
    if !(2..=8).contains(&exif) {
        return picture;
    }
    let (h, w) = (picture.height, picture.width);
    let (height, width) = if exif >= 5 { (w, h) } else { (h, w) };
    let mut pixels = Vec::with_capacity(picture.pixels.len());
    for y in 0..height {
        for x in 0..width {
            let (row, column) = match exif {
                2 => (y, w - 1 - x),         // mirrored
                3 => (h - 1 - y, w - 1 - x), // turned by 180 degrees
                4 => (h - 1 - y, x),         // upside down and mirrored
                5 => (x, y),                 // transposed
                6 => (h - 1 - x, y),         // to be turned 90 degrees clockwise
                7 => (h - 1 - x, w - 1 - y), // transposed along the other diagonal
                _ => (x, w - 1 - y),         // 8: to be turned 90 degrees counter-clockwise
            };
            let at = (row * w + column) * 3;
            pixels.extend_from_slice(&picture.pixels[at..at + 3]);
        }
    }
    Rgb8 { height, width, pixels }
}
