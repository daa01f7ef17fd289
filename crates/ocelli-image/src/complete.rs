//! Whether a file's outer structure reaches its end.
//!
//! Decoders are forgiving: most paint what is missing grey, or drop metadata that stood in the missing
//! part. Walking the structure first makes a file cut anywhere an error, whatever the decoder does.

use crate::{Format, ImageError};

/// Refuses a JPEG without end marker, a PNG without `IEND`, a WebP shorter than its header says.
///
/// The others need no walk: the GIF, BMP, TIFF and HEIC decoders fail when pixel data run out.
pub(crate) fn check(format: Format, bytes: &[u8]) -> Result<(), ImageError> {
    let (whole, missing) = match format {
        Format::Jpeg => (jpeg_ends(bytes).is_some(), "there is no end-of-image marker"),
        Format::Png => (png_ends(bytes).is_some(), "there is no IEND chunk"),
        Format::WebP => (webp_ends(bytes).is_some(), "it is shorter than its header says"),
        Format::Gif | Format::Bmp | Format::Tiff | Format::Heic => (true, ""),
    };
    if whole { Ok(()) } else { Err(ImageError::Truncated { format, detail: missing.into() }) }
}

/// Finds the end-of-image marker; segments are skipped whole, since EXIF may hold a thumbnail's marker.
fn jpeg_ends(bytes: &[u8]) -> Option<()> {
    let mut at = 2;
    loop {
        // Entropy-coded data, and junk between segments, run to the next 0xff.
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        match *bytes.get(at + 1)? {
            0xff => at += 1,                      // fill byte
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2, // stuffed byte, or a marker that stands alone
            0xd9 => return Some(()),
            _ => at += 2 + be(bytes, at + 2, 2)?,
        }
    }
}

fn png_ends(bytes: &[u8]) -> Option<()> {
    const AROUND: usize = 12; // length, type and checksum, four bytes each
    let mut at = 8usize;
    loop {
        let end = at.checked_add(be(bytes, at, 4)?)?.checked_add(AROUND)?;
        let chunk = bytes.get(at..end)?;
        if &chunk[4..8] == b"IEND" {
            return Some(());
        }
        at = end;
    }
}

fn webp_ends(bytes: &[u8]) -> Option<()> {
    let size = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    bytes.get(8..)?.get(..usize::try_from(size).ok()?).map(|_| ())
}

/// Reads `len` bytes at `at`, most significant first.
fn be(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    Some(bytes.get(at..at + len)?.iter().fold(0, |value, byte| value << 8 | usize::from(*byte)))
}
