//! JPEG, bit for bit as libjpeg-turbo (and so Pillow) decodes it.
//! Four components are converted in `inks.rs`.

use libjpeg_turbo_rs::{ColorSpace, ComponentInfo, DecodeLimits, Decoder, JpegError, PixelFormat};

use crate::{DecodeOptions, Format, ImageError, Orientation, Rgb8, inks, orientation};

/// Returns the picture in the JPEG file `bytes`.
///
/// Stray bytes between headers are passed over; damage inside the picture is an error, where libjpeg
/// would warn and paint the rest grey.
pub(crate) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb8, ImageError> {
    let mut decoder = Decoder::new_with_limits(bytes, limits(options)).map_err(from_jpeg)?;
    let header = decoder.header();
    let (height, width) = (usize::from(header.height), usize::from(header.width));
    options.check_size(Format::Jpeg, width as u64, height as u64)?;
    if header.precision != 8 {
        return Err(unsupported(format!("{} bits per sample", header.precision)));
    }
    let turn = match options.orientation {
        Orientation::Exif => decoder.exif_data().map_or(1, orientation::from_exif),
        Orientation::Ignore => 1,
    };
    let pixels = match decoder.jpeg_color_space() {
        ColorSpace::Grayscale | ColorSpace::YCbCr | ColorSpace::Rgb => {
            decoder.set_output_format(PixelFormat::Rgb);
            decoder.decode_image().map_err(from_jpeg)?.data
        }
        ColorSpace::Cmyk => decode_inks(decoder, false)?,
        ColorSpace::Ycck => decode_inks(decoder, true)?,
        other => return Err(unsupported(format!("colour space {other:?}"))),
    };
    Ok(orientation::upright(Rgb8 { height, width, pixels }, turn))
}

/// Returns the EXIF orientation, 1 to 8, of the JPEG file `bytes`; 1 where it says nothing.
pub(crate) fn orientation(bytes: &[u8]) -> u8 {
    let decoder = Decoder::new_with_limits(bytes, limits(&DecodeOptions::default()));
    decoder.ok().and_then(|decoder| decoder.exif_data().map(orientation::from_exif)).unwrap_or(1)
}

/// Returns width and height of a JPEG that [`decode`] could read, from its frame header; `None` for
/// anything else, such as the lossless JPEG of raw files.
pub(crate) fn baseline_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let be = |at: usize| Some(u32::from(*bytes.get(at)?) << 8 | u32::from(*bytes.get(at + 1)?));
    if be(0)? != 0xffd8 {
        return None;
    }
    let mut at = 2;
    loop {
        match (*bytes.get(at)?, *bytes.get(at + 1)?) {
            (0xff, 0xff) => at += 1, // fill byte
            // Sequential or progressive: length, bits per sample, height, width, components.
            (0xff, 0xc0..=0xc2) => {
                let (bits, height, width) = (*bytes.get(at + 4)?, be(at + 5)?, be(at + 7)?);
                return (bits == 8 && height > 0 && width > 0).then_some((width, height));
            }
            // Other frames, the scan or the end, without a frame that is read here.
            (0xff, 0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf | 0xd9 | 0xda) => return None,
            (0xff, _) => at += 2 + be(at + 2)? as usize,
            _ => return None,
        }
    }
}

fn decode_inks(decoder: Decoder<'_>, ycck: bool) -> Result<Vec<u8>, ImageError> {
    let factors = |c: &ComponentInfo| (usize::from(c.horizontal_sampling), usize::from(c.vertical_sampling));
    let sampling: Vec<_> = decoder.header().components.iter().map(factors).collect();
    let raw = decoder.decode_raw().map_err(from_jpeg)?;
    inks::to_rgb(&raw, &sampling, ycck).ok_or_else(|| unsupported(format!("sampling factors {sampling:?}")))
}

/// The pixel limit is checked by [`decode`], whose error says more.
fn limits(options: &DecodeOptions) -> DecodeLimits {
    let side = usize::from(u16::MAX);
    DecodeLimits { max_width: side, max_height: side, max_pixels: options.max_pixels, ..Default::default() }
}

fn unsupported(detail: String) -> ImageError {
    ImageError::Unsupported { format: Format::Jpeg, detail }
}

fn from_jpeg(error: JpegError) -> ImageError {
    let (format, detail) = (Format::Jpeg, error.to_string());
    match error {
        JpegError::Unsupported(_) => ImageError::Unsupported { format, detail },
        JpegError::UnexpectedEof => {
            ImageError::Truncated { format, detail: "the data end before the picture does".into() }
        }
        _ => ImageError::Damaged { format, detail },
    }
}
