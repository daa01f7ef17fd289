//! HEIC (ISO 23008-12) through the system's libheif, of a build with the feature `heic`.
//!
//! The picture's own boxes say how it is turned, and libheif applies them; EXIF orientation is only a note there.

use libheif_rs::{ColorSpace, DecodingOptions, HeifContext, LibHeif, RgbChroma};

use crate::{DecodeOptions, Format, ImageError, Orientation, Rgb8};

/// The primary picture.
pub(crate) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb8, ImageError> {
    let damaged = |error: libheif_rs::HeifError| ImageError::Damaged {
        format: Format::Heic,
        detail: error.to_string(),
    };
    let library = LibHeif::new();
    let context = HeifContext::read_from_bytes(bytes).map_err(damaged)?;
    let handle = context.primary_image_handle().map_err(damaged)?;
    options.check_size(Format::Heic, handle.width().into(), handle.height().into())?;
    let decoding = DecodingOptions::new().map(|mut decoding| {
        decoding.set_ignore_transformations(options.orientation == Orientation::Ignore);
        decoding
    });
    let image = library.decode(&handle, ColorSpace::Rgb(RgbChroma::Rgb), decoding).map_err(damaged)?;
    let planes = image.planes();
    let plane = planes.interleaved.ok_or_else(|| ImageError::Damaged {
        format: Format::Heic,
        detail: "the decoder gave no pixels".into(),
    })?;
    let (height, width) = (plane.height as usize, plane.width as usize);
    let rows = plane.data.chunks(plane.stride.max(1)).take(height);
    let pixels: Vec<u8> = rows.flat_map(|row| &row[..(3 * width).min(row.len())]).copied().collect();
    if pixels.len() != height * width * 3 {
        let detail = "the decoder gave too few pixels".into();
        return Err(ImageError::Damaged { format: Format::Heic, detail });
    }
    Ok(Rgb8 { height, width, pixels })
}

/// Width and height as shown.
pub(crate) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let context = HeifContext::read_from_bytes(bytes).ok()?;
    let handle = context.primary_image_handle().ok()?;
    Some((handle.width(), handle.height()))
}
