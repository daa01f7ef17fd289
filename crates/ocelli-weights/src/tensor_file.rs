//! One file of tensors with its checked header, read range by range.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::LoadError;
use crate::folder::{FileBytes, Folder};
use crate::pt::{PtError, parse_pt};
use crate::safetensors_file::{Header, HeaderError, header_bytes, parse_header, parse_header_json};

/// Bytes read after which memory is given back.
const GIVE_BACK_AFTER: usize = 64 << 20;
/// How a zip archive begins: PyTorch's `.pt` files are such. A safetensors header that long is refused anyway.
const ZIP: &[u8] = b"PK\x03\x04";
/// What is read at once around a short range: rows are asked for one by one, and every read of a file that is not
/// mapped costs a call out of the program.
const WINDOW_BYTES: usize = 256 << 10;
/// Codes, scales and biases of a matrix are read side by side from three places.
const WINDOWS: usize = 4;

/// A file of tensors.
pub(crate) struct TensorFile {
    /// For messages.
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    bytes: Arc<dyn FileBytes>,
    /// Bytes read since memory was last given back.
    read: AtomicUsize,
    /// The last used at the end.
    windows: Mutex<Vec<Window>>,
}

/// A part of a file that is not mapped.
struct Window {
    begin: usize,
    bytes: Vec<u8>,
}

impl TensorFile {
    pub(crate) fn open(folder: &dyn Folder, name: &str) -> Result<Self, LoadError> {
        let path = folder.path().join(name);
        let io = |source| LoadError::Io { path: path.clone(), source };
        let bytes = folder.open(name).map_err(io)?;
        let header = match bytes.mapped() {
            // Nothing is mapped in a page, which then need not load what reads such files.
            Some(map) if map.starts_with(ZIP) && !cfg!(target_family = "wasm") => {
                parse_pt(map).map_err(|source| LoadError::Pt { path: path.clone(), source })?
            }
            Some(map) => {
                parse_header(map).map_err(|source| LoadError::Header { path: path.clone(), source })?
            }
            None => read_header(&*bytes).map_err(|failure| match failure {
                Failure::Io(source) => LoadError::Io { path: path.clone(), source },
                Failure::Header(source) => LoadError::Header { path: path.clone(), source },
                Failure::Zip => LoadError::Pt { path: path.clone(), source: PtError::NotMapped },
            })?,
        };
        Ok(Self { path, header, bytes, read: AtomicUsize::new(0), windows: Mutex::default() })
    }

    /// The last part of the path, for messages.
    pub(crate) fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Length and time of the last change, as they are now.
    pub(crate) fn changed(&self) -> Option<(u64, u128)> {
        self.bytes.changed()
    }

    /// Take note that weights were read. Whoever packs a model reads each page about once, and would
    /// otherwise hold the file in memory beside the packed weights: pages read are given back to the
    /// system from time to time. Those that are wanted again come back from its cache.
    pub(crate) fn count_read(&self, bytes: usize) {
        if self.read.fetch_add(bytes, Ordering::Relaxed) + bytes >= GIVE_BACK_AFTER {
            self.read.store(0, Ordering::Relaxed);
            self.bytes.give_back();
        }
    }

    /// A range of the file. What lies around a short one is kept for the next.
    pub(crate) fn get(&self, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        if self.bytes.mapped().is_some() || range.len() > WINDOW_BYTES / 2 {
            return self.get_alone(range);
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let at = windows.iter().position(|w| w.begin <= range.start && range.end <= w.begin + w.bytes.len());
        let window = match at {
            Some(at) => windows.remove(at),
            None => {
                let mut bytes = if windows.len() < WINDOWS { Vec::new() } else { windows.remove(0).bytes };
                let rest = self.bytes.size().saturating_sub(range.start as u64);
                bytes.resize(usize::try_from(rest).unwrap_or(usize::MAX).min(WINDOW_BYTES), 0);
                self.bytes.read_at(range.start as u64, &mut bytes)?;
                Window { begin: range.start, bytes }
            }
        };
        let begin = range.start - window.begin;
        let wanted = window.bytes.get(begin..begin + range.len()).map(<[u8]>::to_vec);
        windows.push(window);
        Ok(Cow::Owned(wanted.ok_or(io::ErrorKind::UnexpectedEof)?))
    }

    /// A range of the file and nothing around it.
    pub(crate) fn get_alone(&self, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        if let Some(map) = self.bytes.mapped() {
            return Ok(Cow::Borrowed(map.get(range).ok_or(io::ErrorKind::UnexpectedEof)?));
        }
        if range.end as u64 > self.bytes.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; range.len()];
        self.bytes.read_at(range.start as u64, &mut bytes)?;
        Ok(Cow::Owned(bytes))
    }
}

impl fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorFile").field("path", &self.path).field("header", &self.header).finish()
    }
}

enum Failure {
    Io(io::Error),
    Header(HeaderError),
    Zip,
}

/// The header of a safetensors file; the data are not looked at.
fn read_header(file: &dyn FileBytes) -> Result<Header, Failure> {
    let size = file.size();
    let mut first = [0; 8];
    let length = size.min(8) as usize;
    file.read_at(0, &mut first[..length]).map_err(Failure::Io)?;
    if first.starts_with(ZIP) {
        return Err(Failure::Zip);
    }
    let length = header_bytes(&first[..length], size).map_err(Failure::Header)?;
    let mut json = vec![0; length];
    file.read_at(8, &mut json).map_err(Failure::Io)?;
    parse_header_json(&json, size).map_err(Failure::Header)
}
