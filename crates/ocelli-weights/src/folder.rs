//! Where the files of a model are: in a directory, or wherever a caller has them.
//!
//! A [`Directory`] maps its files, so that weights are read without a copy. Others, such as a browser's private file
//! system, give ranges of bytes: headers and rows of tensors are read one by one, and no file is ever held whole.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

/// The files of one model.
pub trait Folder: Send + Sync {
    /// What messages call it; its last part is the model's name.
    fn path(&self) -> &Path;

    /// Names of the files, in any order.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Open a file for reading.
    ///
    /// # Errors
    /// When there is no such file or it cannot be opened.
    fn open(&self, name: &str) -> io::Result<Arc<dyn FileBytes>>;

    /// Whether there is a file of this name.
    fn has(&self, name: &str) -> bool {
        self.names().is_ok_and(|names| names.iter().any(|found| found == name))
    }

    /// All bytes of a small file.
    ///
    /// # Errors
    /// When there is no such file or it cannot be read.
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.open(name)?;
        let size = usize::try_from(file.size()).ok().filter(|&size| size <= MOST_BYTES_AT_ONCE);
        let size = size.ok_or_else(|| io::Error::other("it is too large to be read at once"))?;
        let mut bytes = vec![0; size];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// More than any file has that is read at once: tokenizers take some ten megabytes.
const MOST_BYTES_AT_ONCE: usize = 1 << 30;

/// The bytes of an open file.
pub trait FileBytes: Send + Sync {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fill `target` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When they cannot be read or the file ends before.
    fn read_at(&self, offset: u64, target: &mut [u8]) -> io::Result<()>;

    /// All bytes, where the file is mapped.
    fn mapped(&self) -> Option<&[u8]> {
        None
    }

    /// What was read is not needed soon: memory that holds it may be given back.
    fn give_back(&self) {}

    /// Length and time of the last change in ns, as they are now; none where nobody knows.
    fn changed(&self) -> Option<(u64, u128)> {
        None
    }
}

/// A directory of the file system; files are mapped.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory at `path`, which is looked at when a file is asked for.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

impl Folder for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path)?;
        let files = entries.filter_map(Result::ok).filter(|entry| entry.path().is_file());
        Ok(files.filter_map(|file| file.file_name().into_string().ok()).collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileBytes>> {
        Ok(Arc::new(MappedFile::open(self.path.join(name))?))
    }

    fn has(&self, name: &str) -> bool {
        self.path.join(name).is_file()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.path.join(name))
    }
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let map = map(&File::open(&path)?)?;
        Ok(Self { path, map })
    }
}

impl FileBytes for MappedFile {
    fn size(&self) -> u64 {
        self.map.len() as u64
    }

    fn read_at(&self, offset: u64, target: &mut [u8]) -> io::Result<()> {
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.map.get(begin..).and_then(|rest| rest.get(..target.len()));
        target.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn mapped(&self) -> Option<&[u8]> {
        Some(&self.map)
    }

    fn give_back(&self) {
        give_back(&self.map);
    }

    fn changed(&self) -> Option<(u64, u128)> {
        let metadata = std::fs::metadata(&self.path).ok()?;
        let modified = metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        Some((metadata.len(), modified.map_or(0, |t| t.as_nanos())))
    }
}

#[cfg(unix)]
#[allow(unsafe_code)]
fn give_back(map: &Mmap) {
    // SAFETY: the mapping is shared and read only, so pages that are dropped come back from the file with
    // the same bytes, even under the eyes of somebody who is reading them.
    let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
}

#[cfg(not(unix))]
fn give_back(_map: &Mmap) {}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is read only. Another process that shortens or
    // rewrites the file while it is mapped breaks this; as every program that maps weights, we rely on
    // model files being replaced (written under another name and renamed), not changed in place.
    unsafe { Mmap::map(file) }
}
