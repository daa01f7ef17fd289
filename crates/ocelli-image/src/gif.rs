//! The first frame of a GIF, as Pillow composes it (`PIL/GifImagePlugin.py`).
//!
//! The `gif` crate is used directly because composition works on colour indices: what a frame leaves
//! uncovered has the transparent index, else index 0.

use std::io::Cursor;
use std::num::NonZeroU64;

use gif::{DecodeOptions as GifOptions, Decoder, DecodingError, MemoryLimit};

use crate::{DecodeOptions, Format, ImageError, Rgb8};

/// Returns the first frame of the GIF file `bytes`, on a canvas grown to hold it.
pub(crate) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb8, ImageError> {
    let mut decoder = reader(bytes, options)?;
    let (screen_width, screen_height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(from_gif)?.ok_or(NO_FRAME).map_err(damaged)?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    let background = frame.transparent.unwrap_or(0);

    let width = screen_width.max(left + frame_width);
    let height = screen_height.max(top + frame_height);
    options.check_size(Format::Gif, width as u64, height as u64)?;
    let mut indices = vec![0; frame_width * frame_height];
    decoder.read_into_buffer(&mut indices).map_err(from_gif)?;

    let colours = colour_table(decoder.palette().ok());
    let mut pixels = colours[usize::from(background)].repeat(width * height);
    for (y, row) in indices.chunks_exact(frame_width.max(1)).enumerate() {
        for (x, index) in row.iter().enumerate() {
            let at = ((top + y) * width + left + x) * 3;
            pixels[at..at + 3].copy_from_slice(&colours[usize::from(*index)]);
        }
    }
    Ok(Rgb8 { height, width, pixels })
}

/// Returns width and height of the canvas.
pub(crate) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let decoder = reader(bytes, &DecodeOptions::default()).ok()?;
    Some((decoder.width().into(), decoder.height().into()))
}

const NO_FRAME: &str = "it holds no picture";

fn reader<'a>(bytes: &'a [u8], options: &DecodeOptions) -> Result<Decoder<Cursor<&'a [u8]>>, ImageError> {
    let mut gif = GifOptions::new();
    let bytes_allowed = NonZeroU64::new(options.max_pixels).unwrap_or(NonZeroU64::MIN);
    gif.set_memory_limit(MemoryLimit::Bytes(bytes_allowed));
    gif.read_info(Cursor::new(bytes)).map_err(from_gif)
}

/// Fills a palette up to 256 colours with black; without any palette, indices are greys.
fn colour_table(palette: Option<&[u8]>) -> [[u8; 3]; 256] {
    let Some(palette) = palette else {
        return std::array::from_fn(|index| [index as u8; 3]);
    };
    let mut colours = [[0; 3]; 256];
    for (colour, bytes) in colours.iter_mut().zip(palette.chunks_exact(3)) {
        colour.copy_from_slice(bytes);
    }
    colours
}

fn damaged(detail: &str) -> ImageError {
    ImageError::Damaged { format: Format::Gif, detail: detail.into() }
}

fn from_gif(error: DecodingError) -> ImageError {
    match error {
        DecodingError::UnexpectedEof => {
            let detail = "the data end before the first frame does".into();
            ImageError::Truncated { format: Format::Gif, detail }
        }
        other => damaged(&other.to_string()),
    }
}
