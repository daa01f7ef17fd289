//! A picture in memory, and what the decoders are asked and called.

use std::fmt;

#[cfg(feature = "decoders")]
use crate::ImageError;
use crate::Orientation;

/// A picture in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb8 {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[height, width, 3]`, row-major, red first, one byte each.
    pub pixels: Vec<u8>,
}

impl Rgb8 {
    /// The picture in `[height, width, 4]` bytes, as a browser's canvas has them; none if there are more or fewer
    /// bytes, or no pixel. Alpha is dropped without blending, as it is of files.
    pub fn from_rgba(height: usize, width: usize, rgba: &[u8]) -> Option<Self> {
        let bytes = height.checked_mul(width)?.checked_mul(4)?;
        if bytes == 0 || rgba.len() != bytes {
            return None;
        }
        let pixels = rgba.as_chunks::<4>().0.iter().flat_map(|&[red, green, blue, _]| [red, green, blue]);
        Some(Self { height, width, pixels: pixels.collect() })
    }
}

/// How to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Whether the picture is turned upright.
    pub orientation: Orientation,
    /// The most pixels (width times height) a picture may have; checked before pixels are allocated.
    pub max_pixels: u64,
}

impl Default for DecodeOptions {
    /// Upright, and twice Pillow's `MAX_IMAGE_PIXELS`, the size at which Pillow refuses a picture.
    fn default() -> Self {
        Self { orientation: Orientation::Exif, max_pixels: 178_956_970 }
    }
}

impl DecodeOptions {
    /// Refuses a picture larger than the limit, or without any pixel.
    #[cfg(feature = "decoders")]
    pub(crate) fn check_size(&self, format: Format, width: u64, height: u64) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            let detail = format!("its size is {width}x{height}");
            return Err(ImageError::Damaged { format, detail });
        }
        // Both sides come from at most 32-bit fields, so the product fits.
        if width * height > self.max_pixels {
            return Err(ImageError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        Ok(())
    }
}

/// The image formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Baseline or progressive; grey, YCbCr, RGB, CMYK or YCCK.
    Jpeg,
    /// Every colour type and bit depth; of an animation the default image.
    Png,
    /// The first frame.
    Gif,
    /// Lossy or lossless; of an animation the first frame.
    WebP,
    /// Windows bitmaps.
    Bmp,
    /// The first page; grey, RGB or CMYK with 1 to 16 bits. Also raw files, by their preview.
    Tiff,
    /// The primary picture; only in a build with the feature `heic`.
    Heic,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Heic => "HEIC",
        })
    }
}

impl Format {
    /// Returns the format whose magic bytes `bytes` begins with.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            [b'B', b'M', ..] => Some(Self::Bmp),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Self::Tiff),
            [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] if is_heic(brand) => Some(Self::Heic),
            _ => None,
        }
    }
}

/// Whether a file of boxes begins with one of the brands of HEIC pictures.
fn is_heic(brand: &[u8]) -> bool {
    [b"heic", b"heix", b"heim", b"heis", b"mif1"].iter().any(|known| brand.starts_with(*known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rgba_loses_its_alpha_and_must_be_whole() {
        let rgba = [1, 2, 3, 0, 4, 5, 6, 128];
        let picture = Rgb8::from_rgba(1, 2, &rgba).expect("two pixels");
        assert_eq!((picture.height, picture.width, &picture.pixels[..]), (1, 2, &[1, 2, 3, 4, 5, 6][..]));
        assert_eq!(Rgb8::from_rgba(2, 2, &rgba), None);
        assert_eq!(Rgb8::from_rgba(0, 2, &[]), None);
        assert_eq!(Rgb8::from_rgba(usize::MAX, usize::MAX, &rgba), None);
    }
}
