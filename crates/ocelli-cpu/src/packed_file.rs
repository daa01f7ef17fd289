//! Packed matrices in a file that is mapped on the next start, so that nothing is packed twice.
//!
//! The file (little endian): a header of one page, the matrices, each at a multiple of a page, large ones of a huge page
//! (what lies between is a hole), and a table of them.
//!
//! | header bytes | what |
//! |---|---|
//! | 0..8 | `OcelPak3`; the last digit grows when any layout changes |
//! | 8..16 | key: what was packed, for the caller to choose |
//! | 16..24, 24..32 | where the table begins, and its bytes |
//! | 32..40 | checksum of the table |
//!
//! A table entry: bytes of its name (u32), the name, then as u64 where the matrix begins, its bytes, and a checksum of
//! its first and last page. A file of another key or version, cut short or damaged there is not used. It is
//! written aside and renamed, so that no part of one is ever seen.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::Mmap;

use crate::buffer::{Buffer, HUGE_PAGE, advise_huge_pages};

const MAGIC: &[u8; 8] = b"OcelPak3";
const PAGE: usize = 4096;

/// A mapped file of packed matrices.
pub(crate) struct PackedFile {
    map: Arc<Mmap>,
    /// Place and checksum of each matrix.
    places: HashMap<String, (Range<usize>, u64)>,
}

impl PackedFile {
    /// The file, if it is there, whole, and of this key.
    pub(crate) fn open(path: &Path, key: u64) -> Option<Self> {
        let file = File::open(path).ok()?;
        // SAFETY: these files are written aside and renamed, so a mapped one does not change.
        let map = Arc::new(unsafe { Mmap::map(&file) }.ok()?);
        let number = |at: usize| Some(u64::from_le_bytes(map.get(at..at + 8)?.try_into().ok()?));
        if map.get(..8)? != MAGIC || number(8)? != key {
            return None;
        }
        advise_huge_pages(NonNull::from(&map[..]).cast(), map.len());
        let (at, len) = (usize::try_from(number(16)?).ok()?, usize::try_from(number(24)?).ok()?);
        let table = map.get(at..at.checked_add(len)?)?;
        if checksum(table) != number(32)? {
            return None;
        }
        Some(Self { places: places(table)?, map })
    }

    /// All matrices that are undamaged.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (String, &[u8])> {
        self.places.iter().filter_map(|(name, (range, sum))| {
            let bytes = self.map.get(range.clone())?;
            (ends_checksum(bytes) == *sum).then(|| (name.clone(), bytes))
        })
    }

    /// A matrix of so many bytes, if the file has it undamaged.
    pub(crate) fn get(&self, name: &str, bytes: usize) -> Option<Buffer> {
        let (range, sum) = self.places.get(name)?;
        let matches = range.len() == bytes && ends_checksum(self.map.get(range.clone())?) == *sum;
        if matches { Buffer::mapped(&self.map, range.clone()) } else { None }
    }
}

fn places(mut table: &[u8]) -> Option<HashMap<String, (Range<usize>, u64)>> {
    let mut places = HashMap::new();
    while !table.is_empty() {
        let (len, rest) = table.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let (numbers, rest) = rest.split_first_chunk::<24>()?;
        let number = |i: usize| numbers[8 * i..8 * i + 8].try_into().map(u64::from_le_bytes).ok();
        let begin = usize::try_from(number(0)?).ok()?;
        let end = begin.checked_add(usize::try_from(number(1)?).ok()?)?;
        places.insert(String::from_utf8(name.to_vec()).ok()?, (begin..end, number(2)?));
        table = rest;
    }
    Some(places)
}

/// Write matrices by name.
///
/// # Errors
/// When the file cannot be written; nothing is left of it then.
pub(crate) fn write<'a>(
    path: &Path,
    key: u64,
    matrices: impl Iterator<Item = (String, &'a [u8])>,
) -> std::io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    // WebAssembly has no process ids, and asking for one panics there.
    let process = if cfg!(target_family = "wasm") { 0 } else { std::process::id() };
    aside.push(format!(".{process}.partial"));
    let aside = PathBuf::from(aside);
    let written = write_to(&aside, key, matrices).and_then(|()| std::fs::rename(&aside, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

fn write_to<'a>(
    path: &Path,
    key: u64,
    matrices: impl Iterator<Item = (String, &'a [u8])>,
) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut at = PAGE;
    let mut table = Vec::new();
    for (name, bytes) in matrices {
        let page = if bytes.len() < HUGE_PAGE { PAGE } else { HUGE_PAGE };
        at = at.next_multiple_of(page);
        file.seek(SeekFrom::Start(at as u64))?;
        table.extend((name.len() as u32).to_le_bytes());
        table.extend(name.as_bytes());
        for number in [at as u64, bytes.len() as u64, ends_checksum(bytes)] {
            table.extend(number.to_le_bytes());
        }
        file.write_all(bytes)?;
        at += bytes.len();
    }
    file.seek(SeekFrom::Start(at as u64))?;
    file.write_all(&table)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(MAGIC)?;
    for number in [key, at as u64, table.len() as u64, checksum(&table)] {
        file.write_all(&number.to_le_bytes())?;
    }
    file.flush()?;
    file.get_ref().sync_all()
}

/// Of the first and the last page: damage in between would be a fault of the disk, and reading everything would
/// cost what the file is there to save.
fn ends_checksum(bytes: &[u8]) -> u64 {
    let last = bytes.len().saturating_sub(PAGE);
    checksum(&bytes[..bytes.len().min(PAGE)]) ^ checksum(&bytes[last..]).rotate_left(1)
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(all(test, not(target_family = "wasm")))] // Files are not mapped there.
mod tests {
    use super::*;

    fn sample() -> Vec<(String, Vec<u8>)> {
        let bytes = |n: usize, seed: usize| (0..n).map(|i| (i * 7 + seed) as u8).collect();
        vec![
            ("a".into(), bytes(64, 1)),
            ("b, long".into(), bytes(3 * PAGE + 64, 2)),
            ("c".into(), bytes(PAGE, 3)),
        ]
    }

    fn written(path: &Path, key: u64) -> Vec<(String, Vec<u8>)> {
        let all = sample();
        write(path, key, all.iter().map(|(name, bytes)| (name.clone(), &bytes[..]))).unwrap();
        all
    }

    #[test]
    fn matrices_come_back_aligned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.packed");
        let all = written(&path, 5);
        let file = PackedFile::open(&path, 5).unwrap();
        for (name, bytes) in &all {
            let buffer = file.get(name, bytes.len()).unwrap();
            assert_eq!(buffer.as_slice(), &bytes[..]);
            assert!((buffer.as_ptr() as usize).is_multiple_of(64));
            assert!(file.get(name, bytes.len() + 1).is_none());
        }
        assert!(file.get("d", 64).is_none());
        assert!(PackedFile::open(&path, 6).is_none(), "another key");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn large_matrices_begin_at_huge_pages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.packed");
        let bytes: Vec<u8> = (0..HUGE_PAGE + 64).map(|i| (i * 7) as u8).collect();
        let names = ["a", "b"].map(String::from);
        write(&path, 5, names.iter().map(|name| (name.clone(), &bytes[..]))).unwrap();
        let file = PackedFile::open(&path, 5).unwrap();
        for name in &names {
            assert!(file.places[name].0.start.is_multiple_of(HUGE_PAGE));
            assert_eq!(file.get(name, bytes.len()).unwrap().as_slice(), &bytes[..]);
        }
    }

    #[test]
    fn damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.packed");
        let all = written(&path, 5);
        let whole = std::fs::read(&path).unwrap();
        for len in [0, 7, 39, PAGE, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(PackedFile::open(&path, 5).is_none(), "{len} bytes");
        }
        // Any byte of header or table that counts, and both ends of a matrix.
        for at in [0, 9, 17, 25, 33, whole.len() - 1, whole.len() - 30] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            std::fs::write(&path, bytes).unwrap();
            assert!(PackedFile::open(&path, 5).is_none(), "byte {at}");
        }
        let (name, b) = &all[1];
        for at in [2 * PAGE, 2 * PAGE + b.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let file = PackedFile::open(&path, 5).unwrap();
            assert!(file.get(name, b.len()).is_none() && file.get("a", 64).is_some());
        }
    }
}
