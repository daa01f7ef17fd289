//! Bytes to RGB, as Pillow's `Image.open(...).convert("RGB")` gives it.
//!
//! Three differences on purpose: 16-bit grey keeps its high byte (Pillow clips it to white), pictures
//! are turned upright by default, and a damaged JPEG is an error where Pillow returns what it has.

use std::io::{self, Cursor};
use std::path::Path;

use image::codecs::{bmp::BmpDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder};
use image::{DynamicImage, ImageDecoder, Limits};

use crate::{
    DecodeOptions, Format, ImageError, Orientation, RawPreview, Rgb8, complete, gif, jpeg, orientation,
    raw_preview,
};

/// Returns the picture in the file at `path`; its format is told from its content, not its name.
///
/// # Errors
///
/// As [`decode`], each naming the file, and [`ImageError::Unreadable`].
pub fn open(path: &Path, options: &DecodeOptions) -> Result<Rgb8, ImageError> {
    let bytes =
        std::fs::read(path).map_err(|source| ImageError::Unreadable { path: path.to_owned(), source })?;
    decode(&bytes, options).map_err(|error| {
        let source = Box::new(name_extension(error, path));
        ImageError::InFile { path: path.to_owned(), source }
    })
}

/// Returns the picture in `bytes`, a whole image file.
///
/// Of a camera's raw file (CR2, NEF, ARW, DNG) it is the largest JPEG preview, see [`raw_preview`].
/// Alpha is dropped without blending, 16-bit samples keep their high byte.
///
/// # Errors
///
/// [`ImageError::Empty`], [`ImageError::UnknownFormat`], [`ImageError::Truncated`],
/// [`ImageError::TooManyPixels`], [`ImageError::Unsupported`] or [`ImageError::Damaged`].
/// Any input gives a whole picture or an error, never a part of a picture.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb8, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let format =
        Format::of(bytes).ok_or_else(|| ImageError::UnknownFormat { found: describe(bytes).into() })?;
    complete::check(format, bytes)?;
    if let Some(preview) = raw_preview(bytes) {
        return decode_preview(preview, options);
    }
    let input = Cursor::new(bytes);
    match format {
        Format::Jpeg => jpeg::decode(bytes, options),
        Format::Gif => gif::decode(bytes, options),
        Format::Png => {
            let decoder = PngDecoder::with_limits(input, limits(options));
            decode_with(format, decoder, options)
        }
        Format::WebP => decode_with(format, WebPDecoder::new(input), options),
        Format::Bmp => decode_with(format, BmpDecoder::new(input), options),
        Format::Tiff => decode_with(format, TiffDecoder::new(input), options),
        #[cfg(feature = "heic")]
        Format::Heic => crate::heic::decode(bytes, options),
        #[cfg(not(feature = "heic"))]
        Format::Heic => Err(ImageError::Unsupported {
            format,
            detail: "this program was built without it; install libheif and build with `--features heic`"
                .into(),
        }),
    }
}

/// Decodes the preview of a raw file. Cameras store it as the sensor saw it, and most note only in the
/// raw file's own directory how to turn it.
fn decode_preview(preview: RawPreview<'_>, options: &DecodeOptions) -> Result<Rgb8, ImageError> {
    complete::check(Format::Jpeg, preview.jpeg)?;
    let picture =
        jpeg::decode(preview.jpeg, &DecodeOptions { orientation: Orientation::Ignore, ..*options })?;
    let turn = match options.orientation {
        Orientation::Exif => match jpeg::orientation(preview.jpeg) {
            1 => preview.orientation,
            own => own,
        },
        Orientation::Ignore => 1,
    };
    Ok(orientation::upright(picture, turn))
}

/// Returns width and height as stored, from the header of the image file `bytes`.
pub(crate) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let input = Cursor::new(bytes);
    let limits = limits(&DecodeOptions::default());
    Some(match Format::of(bytes)? {
        Format::Jpeg => jpeg::baseline_size(bytes)?,
        Format::Gif => gif::size(bytes)?,
        Format::Png => PngDecoder::with_limits(input, limits).ok()?.dimensions(),
        Format::WebP => WebPDecoder::new(input).ok()?.dimensions(),
        Format::Bmp => BmpDecoder::new(input).ok()?.dimensions(),
        Format::Tiff => TiffDecoder::new(input).ok()?.dimensions(),
        #[cfg(feature = "heic")]
        Format::Heic => crate::heic::size(bytes)?,
        #[cfg(not(feature = "heic"))]
        Format::Heic => return None,
    })
}

/// Decodes through one of the `image` crate's decoders, which has read the header only.
fn decode_with<D: ImageDecoder>(
    format: Format,
    decoder: image::ImageResult<D>,
    options: &DecodeOptions,
) -> Result<Rgb8, ImageError> {
    let failed = |error| from_image_error(format, error);
    let mut decoder = decoder.map_err(failed)?;
    let (width, height) = decoder.dimensions();
    options.check_size(format, width.into(), height.into())?;
    decoder.set_limits(limits(options)).map_err(failed)?;
    let turn = match options.orientation {
        // Broken metadata is no reason to refuse a good picture.
        Orientation::Exif => decoder.orientation().map_or(1, |orientation| orientation.to_exif()),
        Orientation::Ignore => 1,
    };
    let decoded = DynamicImage::from_decoder(decoder).map_err(failed)?;
    Ok(orientation::upright(to_rgb8(format, decoded)?, turn))
}

/// Room for the largest allowed picture (16-bit RGBA) and the decoder's own tables.
fn limits(options: &DecodeOptions) -> Limits {
    const TABLES: u64 = 64 << 20;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(options.max_pixels.saturating_mul(8).saturating_add(TABLES));
    limits
}

/// Drops alpha and low bytes; `DynamicImage::into_rgb8` would round 16-bit samples.
fn to_rgb8(format: Format, decoded: DynamicImage) -> Result<Rgb8, ImageError> {
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let pixels = match decoded {
        DynamicImage::ImageRgb8(picture) => picture.into_raw(),
        DynamicImage::ImageLuma8(picture) => take_rgb(picture.as_raw(), 1, |v| v),
        DynamicImage::ImageLumaA8(picture) => take_rgb(picture.as_raw(), 2, |v| v),
        DynamicImage::ImageRgba8(picture) => take_rgb(picture.as_raw(), 4, |v| v),
        DynamicImage::ImageLuma16(picture) => take_rgb(picture.as_raw(), 1, high_byte),
        DynamicImage::ImageLumaA16(picture) => take_rgb(picture.as_raw(), 2, high_byte),
        DynamicImage::ImageRgb16(picture) => take_rgb(picture.as_raw(), 3, high_byte),
        DynamicImage::ImageRgba16(picture) => take_rgb(picture.as_raw(), 4, high_byte),
        other => {
            let detail = format!("samples of kind {:?}", other.color());
            return Err(ImageError::Unsupported { format, detail });
        }
    };
    Ok(Rgb8 { height, width, pixels })
}

/// Takes red, green and blue, or grey three times, of pixels with `channels` samples.
fn take_rgb<T: Copy>(samples: &[T], channels: usize, byte: impl Fn(T) -> u8) -> Vec<u8> {
    let [red, green, blue] = if channels < 3 { [0, 0, 0] } else { [0, 1, 2] };
    let mut pixels = Vec::with_capacity(samples.len() / channels * 3);
    for pixel in samples.chunks_exact(channels) {
        pixels.extend([byte(pixel[red]), byte(pixel[green]), byte(pixel[blue])]);
    }
    pixels
}

fn high_byte(sample: u16) -> u8 {
    (sample >> 8) as u8
}

fn from_image_error(format: Format, error: image::ImageError) -> ImageError {
    let detail = error.to_string();
    match error {
        image::ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            ImageError::Truncated { format, detail: "the data ends before the picture does".into() }
        }
        image::ImageError::Unsupported(_) => ImageError::Unsupported { format, detail },
        _ => ImageError::Damaged { format, detail },
    }
}

/// Turns "unknown format" into "mislabelled" where the file's name promises an image.
fn name_extension(error: ImageError, path: &Path) -> ImageError {
    const IMAGES: [&str; 12] =
        ["jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "heic", "heif", "avif", "jxl"];
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match error {
        ImageError::UnknownFormat { found } if IMAGES.contains(&extension.as_str()) => {
            ImageError::Mislabelled { extension, found }
        }
        other => other,
    }
}

/// Says what content that is no known image looks like.
fn describe(bytes: &[u8]) -> &'static str {
    let text = bytes.trim_ascii_start();
    match bytes {
        [0xff, 0xd8] | [0x89, b'P', ..] | [b'G', b'I', b'F', ..] => "the first bytes of an image, damaged",
        [b'R', b'I', b'F', b'F', ..] => "a RIFF file, not WebP",
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => "AVIF",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', ..] => "HEIF or MP4",
        [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', b' ', ..] => "JPEG XL",
        [0, 0, 0, 0x0c, b'j', b'P', ..] => "JPEG 2000",
        [0, 0, 1, 0, ..] => "an icon",
        [b'%', b'P', b'D', b'F', ..] => "a PDF document",
        [b'P', b'K', 3, 4, ..] => "a ZIP archive",
        _ if text.starts_with(b"<svg") => "an SVG drawing",
        _ if text.starts_with(b"<") => "HTML or XML text",
        _ if bytes.iter().all(|byte| *byte == 0) => "nothing but zeros",
        _ if std::str::from_utf8(&bytes[..bytes.len().min(256)]).is_ok() => "text",
        _ => "unknown data",
    }
}
