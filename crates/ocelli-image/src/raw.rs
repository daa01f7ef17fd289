//! The JPEG preview inside a camera's raw file.
//!
//! CR2, NEF, ARW, PEF, SRW and DNG are TIFF files (TIFF 6.0, Adobe 1992; DNG 1.7, Adobe 2023) whose
//! directories also point at finished JPEG pictures. Developing the sensor's data is left to others.

use crate::jpeg;

/// A JPEG picture inside a raw file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPreview<'a> {
    /// A whole JPEG file.
    pub jpeg: &'a [u8],
    /// Columns, before turning.
    pub width: u32,
    /// Rows, before turning.
    pub height: u32,
    /// EXIF orientation, 1 to 8, that the raw file's first directory gives; 1 where it gives none.
    pub orientation: u8,
}

/// Returns the largest JPEG preview in `bytes`, a raw file; `None` if it is none of the raw formats known
/// here, an ordinary TIFF, or has no preview.
///
/// Offsets and sizes are checked against the file, so any bytes are safe.
pub fn raw_preview(bytes: &[u8]) -> Option<RawPreview<'_>> {
    let tiff = Tiff::new(bytes)?;
    let directories = tiff.directories();
    if !tiff.is_canon() && !directories.iter().any(|directory| tiff.is_sensor_data(*directory)) {
        return None;
    }
    let orientation = directories.first().and_then(|first| tiff.number(*first, ORIENTATION));
    let orientation = orientation.and_then(|value| u8::try_from(value).ok()).filter(|v| (1..=8).contains(v));
    let previews = directories.iter().flat_map(|directory| tiff.jpegs(*directory));
    let previews = previews.filter_map(|jpeg| {
        let (width, height) = jpeg::baseline_size(jpeg)?;
        Some(RawPreview { jpeg, width, height, orientation: orientation.unwrap_or(1) })
    });
    previews.max_by_key(|preview| u64::from(preview.width) * u64::from(preview.height))
}

// Tags of a directory.
const COMPRESSION: u16 = 0x103;
const PHOTOMETRIC: u16 = 0x106;
const STRIP_OFFSETS: u16 = 0x111;
const ORIENTATION: u16 = 0x112;
const STRIP_BYTES: u16 = 0x117;
const SUB_DIRECTORIES: u16 = 0x14a;
const JPEG_OFFSET: u16 = 0x201;
const JPEG_BYTES: u16 = 0x202;
const EXIF_DIRECTORY: u16 = 0x8769;
const DNG_VERSION: u16 = 0xc612;

/// More directories than any camera writes.
const MAX_DIRECTORIES: usize = 64;
/// More values than any list of sub-directories has.
const MAX_VALUES: usize = 64;

struct Tiff<'a> {
    bytes: &'a [u8],
    little_endian: bool,
}

/// One entry of a directory.
#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    /// Bytes per value: 2 or 4.
    width: usize,
    count: usize,
    /// Where the values are.
    at: usize,
}

impl<'a> Tiff<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let little_endian = match bytes {
            [b'I', b'I', 42, 0, ..] => true,
            [b'M', b'M', 0, 42, ..] => false,
            _ => return None,
        };
        Some(Self { bytes, little_endian })
    }

    /// Whether Canon's mark stands behind the header.
    fn is_canon(&self) -> bool {
        self.bytes.get(8..10) == Some(b"CR")
    }

    /// Where all directories are: the chain, and those that they point at.
    fn directories(&self) -> Vec<usize> {
        let mut found = Vec::new();
        let mut open = Vec::from_iter(self.int(4, 4));
        while let Some(at) = open.pop() {
            if at == 0 || found.contains(&at) || found.len() == MAX_DIRECTORIES {
                continue;
            }
            let Some(count) = self.int(at, 2) else { continue };
            found.push(at);
            open.extend(self.numbers(at, SUB_DIRECTORIES));
            open.extend(self.number(at, EXIF_DIRECTORY));
            open.extend(self.int(at + 2 + count * 12, 4));
        }
        found
    }

    /// Whether `directory` describes what a sensor saw, which an ordinary TIFF never does.
    fn is_sensor_data(&self, directory: usize) -> bool {
        // Colour filter array and linear raw; the makers' own compressions.
        matches!(self.number(directory, PHOTOMETRIC), Some(32_803 | 34_892))
            || matches!(self.number(directory, COMPRESSION), Some(32_767 | 32_770 | 34_713 | 65_535))
            || self.entry(directory, DNG_VERSION).is_some()
    }

    /// What `directory` points at that could be JPEG.
    fn jpegs(&self, directory: usize) -> Vec<&'a [u8]> {
        let whole = self.slice(directory, JPEG_OFFSET, JPEG_BYTES);
        let in_strip = matches!(self.number(directory, COMPRESSION), Some(6 | 7));
        let strip = in_strip.then(|| self.slice(directory, STRIP_OFFSETS, STRIP_BYTES)).flatten();
        whole.into_iter().chain(strip).collect()
    }

    fn slice(&self, directory: usize, offset: u16, length: u16) -> Option<&'a [u8]> {
        let (at, length) = (self.numbers(directory, offset), self.numbers(directory, length));
        // A picture in several strips is not one JPEG file.
        let (&[at], &[length]) = (&at[..], &length[..]) else { return None };
        self.bytes.get(at..at.checked_add(length)?)
    }

    fn number(&self, directory: usize, tag: u16) -> Option<usize> {
        self.numbers(directory, tag).first().copied()
    }

    fn numbers(&self, directory: usize, tag: u16) -> Vec<usize> {
        let Some(entry) = self.entry(directory, tag) else { return Vec::new() };
        let value = |i| self.int(entry.at.checked_add(i * entry.width)?, entry.width);
        (0..entry.count.min(MAX_VALUES)).map_while(value).collect()
    }

    fn entry(&self, directory: usize, tag: u16) -> Option<Entry> {
        let count = self.int(directory, 2)?;
        (0..count).map_while(|i| self.read_entry(directory + 2 + i * 12)).find(|entry| entry.tag == tag)
    }

    fn read_entry(&self, at: usize) -> Option<Entry> {
        let tag = u16::try_from(self.int(at, 2)?).ok()?;
        let kind = self.int(at + 2, 2)?;
        let count = self.int(at + 4, 4)?;
        // Only integers matter here; of DNGVersion, four bytes, only that it is there.
        let width = if kind == 3 { 2 } else { 4 };
        let inside = count.checked_mul(width)? <= 4;
        Some(Entry { tag, width, count, at: if inside { at + 8 } else { self.int(at + 8, 4)? } })
    }

    fn int(&self, at: usize, width: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(width)?)?;
        let join = |value: usize, byte: &u8| value << 8 | usize::from(*byte);
        Some(if self.little_endian { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) })
    }
}
