//! Files mapped into memory, and their bytes as numbers.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use half::f16;
use memmap2::Mmap;

use crate::{IndexError, Result};

#[cfg(target_endian = "big")]
compile_error!("the files beside an index are little endian");

/// Bytes from a file or from memory, aligned to 64 at least where they begin.
pub(crate) enum Bytes {
    Mapped(Mmap),
    /// Where the directory cannot be written.
    Owned(Vec<Line>, usize),
}

/// A line of the cache, for its alignment.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Line([u8; 64]);

impl Bytes {
    /// Map a file that is only ever replaced, never changed.
    pub(crate) fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(IndexError::io(path))?;
        // SAFETY: these files are written aside and renamed, so a mapped one does not change.
        let map = unsafe { Mmap::map(&file) }.map_err(IndexError::io(path))?;
        Ok(Self::Mapped(map))
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            // SAFETY: lines are plain bytes without padding, and `len` of them were written.
            Self::Owned(lines, len) => unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), *len) },
        }
    }
}

/// Collects bytes for [`Bytes::Owned`].
#[derive(Default)]
pub(crate) struct Collect {
    lines: Vec<Line>,
    len: usize,
}

impl Collect {
    pub(crate) fn finish(self) -> Bytes {
        Bytes::Owned(self.lines, self.len)
    }
}

impl Write for Collect {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = self.len % 64;
            if at == 0 {
                self.lines.push(Line([0; 64]));
            }
            let count = rest.len().min(64 - at);
            if let Some(line) = self.lines.last_mut() {
                line.0[at..at + count].copy_from_slice(&rest[..count]);
            }
            self.len += count;
            rest = &rest[count..];
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A type of which every bit pattern of its size is a value.
///
/// # Safety
/// No padding, no invalid values.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: a number.
unsafe impl Plain for i64 {}
// SAFETY: a number.
unsafe impl Plain for f32 {}
// SAFETY: 16 bits of a number.
unsafe impl Plain for f16 {}
// SAFETY: a number.
unsafe impl Plain for i8 {}

/// `bytes` as numbers, in this machine's order.
///
/// # Panics
/// When they are not aligned or no whole count.
pub(crate) fn numbers<T: Plain>(bytes: &[u8]) -> &[T] {
    // SAFETY: every pattern is a value of `T`.
    let (before, numbers, after) = unsafe { bytes.align_to::<T>() };
    assert!(before.is_empty() && after.is_empty(), "misaligned numbers");
    numbers
}
