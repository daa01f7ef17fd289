//! The header of a safetensors file.
//!
//! The format (`huggingface/safetensors`, README "Format"): 8 bytes little-endian header length `n`, `n` bytes
//! of JSON `{"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {…}}`, then the data,
//! which the tensors must cover without holes.
//! Sizes and offsets are hostile until [`parse_header`] has checked them all.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::report::clip;

/// Longest header accepted, in bytes: the limit of the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// More dimensions than any tensor of ours has; keeps hostile shapes short in messages.
const MAX_RANK: usize = 8;

/// The header of a file with these tensors (name, type, shape, bytes) in this order, padded with spaces
/// so that the data is aligned.
pub fn header_json<'a>(tensors: impl Iterator<Item = (&'a str, &'a str, &'a [usize], u64)>) -> String {
    let mut map = serde_json::Map::new();
    map.insert("__metadata__".to_owned(), serde_json::json!({ "format": "pt" }));
    let mut begin = 0;
    for (name, dtype, shape, bytes) in tensors {
        let end = begin + bytes;
        let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
        map.insert(name.to_owned(), entry);
        begin = end;
    }
    let mut header = serde_json::Value::Object(map).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    header
}

/// Element types of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(non_camel_case_types, missing_docs)]
pub enum Dtype {
    BOOL,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::BOOL | Self::U8 | Self::I8 | Self::F8_E5M2 | Self::F8_E4M3 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let all = [
            (Self::BOOL, "BOOL"),
            (Self::U8, "U8"),
            (Self::I8, "I8"),
            (Self::F8_E5M2, "F8_E5M2"),
            (Self::F8_E4M3, "F8_E4M3"),
            (Self::I16, "I16"),
            (Self::U16, "U16"),
            (Self::F16, "F16"),
            (Self::BF16, "BF16"),
            (Self::I32, "I32"),
            (Self::U32, "U32"),
            (Self::F32, "F32"),
            (Self::I64, "I64"),
            (Self::U64, "U64"),
            (Self::F64, "F64"),
        ];
        all.iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Type, shape and place of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Bytes of the file that hold it.
    pub bytes: Range<usize>,
}

/// A checked header: every range lies in the file and agrees with dtype and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Free text of the writer.
    pub metadata: BTreeMap<String, String>,
}

/// What is wrong with a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum HeaderError {
    #[error("the file has {bytes} bytes, too few for a safetensors header (8)")]
    TooShort { bytes: usize },
    #[error(
        "the header is {header} bytes long, over the limit of {MAX_HEADER_BYTES}; this is no safetensors file"
    )]
    HeaderTooLong { header: u64 },
    #[error(
        "the header is {header} bytes long but the file has only {file} bytes; it is truncated or no safetensors file"
    )]
    HeaderBeyondFile { header: u64, file: u64 },
    #[error("the header is not UTF-8")]
    NotUtf8,
    #[error("the header is not a safetensors header: {reason}")]
    NotJson { reason: String },
    #[error("tensor `{tensor}` occurs twice")]
    Duplicate { tensor: String },
    #[error("tensor `{tensor}` has unknown dtype `{dtype}`")]
    UnknownDtype { tensor: String, dtype: String },
    #[error("tensor `{tensor}` has {rank} dimensions, more than {MAX_RANK}")]
    Rank { tensor: String, rank: usize },
    #[error("tensor `{tensor}`: the size of its shape overflows")]
    Overflow { tensor: String },
    #[error("tensor `{tensor}`: its data ends ({end}) before it begins ({begin})")]
    Reversed { tensor: String, begin: u64, end: u64 },
    #[error("tensor `{tensor}`: {dtype} {shape:?} needs {expected} bytes but has {found}")]
    Size { tensor: String, dtype: Dtype, shape: Vec<usize>, expected: u64, found: u64 },
    #[error("the data of `{first}` and `{second}` overlap")]
    Overlap { first: String, second: String },
    #[error("there is a hole in the data before `{tensor}`: {bytes} bytes belong to no tensor")]
    Hole { tensor: String, bytes: u64 },
    #[error("the file has {found} bytes but its header describes {expected}; it is truncated, get it again")]
    Truncated { found: u64, expected: u64 },
    #[error("the file has {found} bytes but its header describes only {expected}")]
    TrailingBytes { found: u64, expected: u64 },
    #[error("the file has {bytes} bytes, more than a 32-bit program can address; split it into shards")]
    TooLarge { bytes: u64 },
}

/// Read and check the header of a whole safetensors file.
///
/// # Errors
/// On anything that is not exactly a safetensors file; see [`HeaderError`]. Never panics, and allocates no
/// more than a small multiple of the header's length.
pub fn parse_header(file: &[u8]) -> Result<Header, HeaderError> {
    let size = file.len() as u64;
    let length = header_bytes(file, size)?;
    parse_header_json(file.get(8..8 + length).unwrap_or_default(), size)
}

/// Length of the JSON that follows the first eight bytes of a file of `size` bytes; `first` is how it begins.
pub(crate) fn header_bytes(first: &[u8], size: u64) -> Result<usize, HeaderError> {
    let Some(length) = first.first_chunk::<8>() else {
        return Err(HeaderError::TooShort { bytes: first.len() });
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(HeaderError::HeaderTooLong { header: length });
    }
    match usize::try_from(length) {
        Ok(bytes) if length <= size - 8 => Ok(bytes),
        _ => Err(HeaderError::HeaderBeyondFile { header: length, file: size }),
    }
}

/// Read and check the JSON of a header; the file has `size` bytes.
pub(crate) fn parse_header_json(json: &[u8], size: u64) -> Result<Header, HeaderError> {
    let length = json.len() as u64;
    let json = std::str::from_utf8(json).map_err(|_| HeaderError::NotUtf8)?;
    let raw: RawHeader = serde_json::from_slice(json.as_bytes())
        .map_err(|e| HeaderError::NotJson { reason: e.to_string() })?;
    if let Some(tensor) = raw.duplicate {
        return Err(HeaderError::Duplicate { tensor: clip(&tensor) });
    }
    check(raw, 8 + length, size)
}

/// Check every entry, then that together they cover the data exactly once.
fn check(raw: RawHeader, data_start: u64, file_bytes: u64) -> Result<Header, HeaderError> {
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, entry) in raw.tensors {
        let (dtype, shape) = check_entry(&name, &entry)?;
        tensors.push((entry.data_offsets, name, dtype, shape));
    }
    tensors.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));

    let mut covered = 0;
    let mut previous = "";
    for ((begin, end), name, ..) in &tensors {
        if *begin < covered {
            return Err(HeaderError::Overlap { first: clip(previous), second: clip(name) });
        }
        if *begin > covered {
            return Err(HeaderError::Hole { tensor: clip(name), bytes: begin - covered });
        }
        (covered, previous) = (*end, name);
    }
    let expected = data_start.saturating_add(covered);
    if expected > file_bytes {
        return Err(HeaderError::Truncated { found: file_bytes, expected });
    }
    if expected < file_bytes {
        return Err(HeaderError::TrailingBytes { found: file_bytes, expected });
    }
    if usize::try_from(file_bytes).is_err() {
        return Err(HeaderError::TooLarge { bytes: file_bytes });
    }
    // From here on every offset is at most the length of the file, which is a usize.
    let place = |(begin, end): (u64, u64)| (data_start + begin) as usize..(data_start + end) as usize;
    let tensors = tensors
        .into_iter()
        .map(|(offsets, name, dtype, shape)| (name, TensorInfo { dtype, shape, bytes: place(offsets) }))
        .collect();
    Ok(Header { tensors, metadata: raw.metadata })
}

/// Dtype and shape of an entry whose byte range has the right length.
fn check_entry(name: &str, entry: &RawEntry) -> Result<(Dtype, Vec<usize>), HeaderError> {
    let tensor = || clip(name);
    let Some(dtype) = Dtype::from_name(&entry.dtype) else {
        return Err(HeaderError::UnknownDtype { tensor: tensor(), dtype: clip(&entry.dtype) });
    };
    if entry.shape.len() > MAX_RANK {
        return Err(HeaderError::Rank { tensor: tensor(), rank: entry.shape.len() });
    }
    let expected = entry.shape.iter().try_fold(dtype.size() as u64, |bytes, &dim| bytes.checked_mul(dim));
    let shape: Option<Vec<usize>> = entry.shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let (Some(expected), Some(shape)) = (expected, shape) else {
        return Err(HeaderError::Overflow { tensor: tensor() });
    };
    let (begin, end) = entry.data_offsets;
    let Some(found) = end.checked_sub(begin) else {
        return Err(HeaderError::Reversed { tensor: tensor(), begin, end });
    };
    if found != expected {
        return Err(HeaderError::Size { tensor: tensor(), dtype, shape, expected, found });
    }
    Ok((dtype, shape))
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The JSON as it is, with the first name that occurred twice (a map would hide it).
struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
    duplicate: Option<String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut tensors = Vec::new();
                let mut metadata = None;
                let mut seen = HashSet::new();
                let mut duplicate = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if metadata.replace(map.next_value()?).is_some() {
                            return Err(de::Error::custom("`__metadata__` occurs twice"));
                        }
                        continue;
                    }
                    if !seen.insert(name.clone()) && duplicate.is_none() {
                        duplicate = Some(name.clone());
                    }
                    tensors.push((name, map.next_value()?));
                }
                Ok(RawHeader { tensors, metadata: metadata.unwrap_or_default(), duplicate })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
