//! The directory of a zip archive whose entries are stored uncompressed (APPNOTE.TXT 6.3.10, PKWARE).

use std::collections::HashMap;
use std::ops::Range;

use super::PtError;
use crate::report::clip;

const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// Length of the end record without its comment.
const END_LEN: usize = 22;
const LOCATOR_LEN: usize = 20;
const ENTRY_LEN: usize = 46;
const LOCAL_LEN: usize = 30;
/// The extra field with sizes beyond 32 bits.
const ZIP64: u16 = 1;
/// More tensors than any model has.
const MAX_ENTRIES: u64 = 1_000_000;

/// Entries by name.
pub(super) struct Archive {
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    stored: bool,
    len: u64,
    local: u64,
}

impl Archive {
    pub(super) fn parse(file: &[u8]) -> Result<Self, PtError> {
        let (count, mut at) = directory(file)?;
        let mut entries = HashMap::new();
        for _ in 0..count {
            let head = slice(file, at, ENTRY_LEN as u64).filter(|head| head.starts_with(&ENTRY));
            let head = head.ok_or(PtError::Archive("its directory is damaged"))?;
            let (name_len, extra_len) = (u64::from(u16_at(head, 28)), u64::from(u16_at(head, 30)));
            let tail = name_len + extra_len + u64::from(u16_at(head, 32));
            let rest = slice(file, at + ENTRY_LEN as u64, tail);
            let rest = rest.ok_or(PtError::Archive("its directory is cut off"))?;
            let (name, extra) = rest[..(name_len + extra_len) as usize].split_at(name_len as usize);
            let name = String::from_utf8_lossy(name).into_owned();
            entries.insert(name, entry(head, extra));
            at += ENTRY_LEN as u64 + tail;
        }
        Ok(Self { entries })
    }

    /// The folder that everything lies in: that of `data.pkl`.
    pub(super) fn root(&self) -> Result<String, PtError> {
        let mut roots = self.entries.keys().filter_map(|name| name.strip_suffix("/data.pkl"));
        let root = roots.find(|root| !root.contains('/'));
        root.map(str::to_owned).ok_or_else(|| PtError::Missing { entry: "data.pkl".into() })
    }

    /// Where the bytes of an entry lie.
    pub(super) fn range(&self, file: &[u8], name: &str) -> Result<Range<usize>, PtError> {
        let missing = || PtError::Missing { entry: clip(name) };
        let entry = self.entries.get(name).ok_or_else(missing)?;
        if !entry.stored {
            return Err(PtError::Compressed { entry: clip(name) });
        }
        let local = slice(file, entry.local, LOCAL_LEN as u64).filter(|local| local.starts_with(&LOCAL));
        let local = local.ok_or(PtError::Archive("an entry is not where its directory says"))?;
        let skip = LOCAL_LEN as u64 + u64::from(u16_at(local, 26)) + u64::from(u16_at(local, 28));
        let begin = entry.local.saturating_add(skip);
        slice(file, begin, entry.len)
            .ok_or(PtError::Archive("an entry reaches beyond the end; get it again"))?;
        Ok(begin as usize..(begin + entry.len) as usize)
    }

    /// The bytes of an entry.
    pub(super) fn bytes<'a>(&self, file: &'a [u8], name: &str) -> Result<&'a [u8], PtError> {
        Ok(&file[self.range(file, name)?])
    }
}

/// Number of entries and where the first one is described.
fn directory(file: &[u8]) -> Result<(u64, u64), PtError> {
    // A comment of up to 65535 bytes may follow the end record.
    let first = file.len().saturating_sub(END_LEN + usize::from(u16::MAX));
    let starts = (first..=file.len().saturating_sub(END_LEN)).rev();
    let mut found = starts.filter(|&at| file[at..].starts_with(&END) && file.len() - at >= END_LEN);
    let at = found.next().ok_or(PtError::Archive("it has no end record; it may be cut off"))?;
    let end = &file[at..];
    let (mut count, mut offset) = (u64::from(u16_at(end, 10)), u64::from(u32_at(end, 16)));
    if count == u64::from(u16::MAX) || offset == u64::from(u32::MAX) {
        let locator = at.checked_sub(LOCATOR_LEN).map(|at| &file[at..]);
        let locator = locator.filter(|locator| locator.starts_with(&LOCATOR_64));
        let locator = locator.ok_or(PtError::Archive("its zip64 locator is missing"))?;
        let end = slice(file, u64_at(locator, 8), 56).filter(|end| end.starts_with(&END_64));
        let end = end.ok_or(PtError::Archive("its zip64 end record is missing"))?;
        (count, offset) = (u64_at(end, 32), u64_at(end, 48));
    }
    if count > MAX_ENTRIES {
        return Err(PtError::Archive("it has more than a million entries"));
    }
    Ok((count, offset))
}

fn entry(head: &[u8], extra: &[u8]) -> Entry {
    let (packed, len, local) = (u32_at(head, 20), u32_at(head, 24), u32_at(head, 42));
    let mut wide = zip64(extra).into_iter();
    // The extra field has only those that did not fit, in this order.
    let mut value = |narrow: u32| match narrow {
        u32::MAX => wide.next().unwrap_or(u64::from(narrow)),
        _ => u64::from(narrow),
    };
    let len = value(len);
    let packed = value(packed);
    Entry { stored: u16_at(head, 10) == 0 && packed == len, len, local: value(local) }
}

/// The 64-bit numbers of the zip64 extra field.
fn zip64(mut extra: &[u8]) -> Vec<u64> {
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let Some(data) = extra.get(4..4 + len) else { break };
        if id == ZIP64 {
            return data.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        }
        extra = &extra[4 + len..];
    }
    Vec::new()
}

fn slice(file: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let begin = usize::try_from(at).ok()?;
    file.get(begin..begin.checked_add(usize::try_from(len).ok()?)?)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
