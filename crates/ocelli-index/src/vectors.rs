//! All vectors of an index as one matrix, in a file that is made from the database whenever it is stale.
//!
//! The file (little endian): a header of 64 bytes (see [`Header`]), the ids of the pictures as i64, one f32
//! scale a picture where the encoding is i8, and the rows; each part begins at a multiple of 64 bytes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::f16;
use rusqlite::Connection;

use crate::encoding::{Encoding, split_scale};
use crate::kernels::Kernel;
use crate::mapped::{Bytes, Collect, numbers};
use crate::store::Index;
use crate::{IndexError, Result};

const MAGIC: &[u8; 8] = b"OcelVec1";
const PART: usize = 64;
/// Ending of the file beside the database.
const ENDING: &str = "vectors";

/// All vectors of an index, in the order of the ids.
pub struct Vectors {
    bytes: Bytes,
    header: Header,
    parts: Parts,
    pub(crate) kernel: Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// Which index.
    identity: u64,
    /// Of which state.
    generation: u64,
    count: usize,
    dim: usize,
    encoding: Encoding,
}

/// Where the parts of the file begin, and where it ends.
struct Parts {
    scales: usize,
    rows: usize,
    end: usize,
}

impl Header {
    fn to_bytes(self) -> [u8; PART] {
        let mut bytes = [0; PART];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.identity.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..32].copy_from_slice(&(self.count as u64).to_le_bytes());
        bytes[32..36].copy_from_slice(&(self.dim as u32).to_le_bytes());
        bytes[36] = u8::from(self.encoding == Encoding::I8);
        bytes
    }

    /// `None` for an index so large that this machine cannot address it.
    fn parts(self) -> Option<Parts> {
        let part = |bytes: usize| bytes.checked_next_multiple_of(PART);
        let scales = PART.checked_add(part(self.count.checked_mul(8)?)?)?;
        let scale_bytes = if self.encoding == Encoding::I8 { self.count.checked_mul(4)? } else { 0 };
        let rows = scales.checked_add(part(scale_bytes)?)?;
        let end = rows.checked_add(self.count.checked_mul(self.encoding.row_bytes(self.dim))?)?;
        Some(Parts { scales, rows, end })
    }
}

impl Index {
    /// All vectors, from the file beside the database where it is up to date; else they are read from the
    /// database, and the file is written where that is possible.
    ///
    /// # Errors
    /// When the database cannot be read or is damaged.
    pub fn vectors(&self) -> Result<Vectors> {
        // One transaction, so that another process's batch does not come in between.
        let _state = self.db.unchecked_transaction()?;
        let mut header = Header {
            identity: self.identity()?,
            generation: self.generation()?,
            count: 0,
            dim: self.config().dim,
            encoding: self.config().encoding,
        };
        let path = self.beside(ENDING);
        if let Some(vectors) = Vectors::read(&path, header) {
            return Ok(vectors);
        }
        header.count = self.len()?;
        let written = self.replace_beside(ENDING, |aside| {
            let file = File::create(aside).map_err(IndexError::io(aside))?;
            let mut file = BufWriter::with_capacity(1 << 20, file);
            self.copy_vectors(header, &mut file)?;
            file.flush().map_err(IndexError::io(aside))
        });
        if written.is_ok()
            && let Some(vectors) = Vectors::read(&path, header)
        {
            return Ok(vectors);
        }
        let mut memory = Collect::default();
        self.copy_vectors(header, &mut memory)?;
        Vectors::new(memory.finish(), header)
            .ok_or_else(|| crate::store::damaged(self.path(), "a picture has no vector".into()))
    }

    fn copy_vectors(&self, header: Header, to: &mut dyn Write) -> Result<()> {
        let mut to = Padded { to, written: 0, path: self.path() };
        to.write(&header.to_bytes())?;
        let mut ids = self.db.prepare("SELECT picture FROM vectors ORDER BY picture")?;
        let mut ids = ids.query([])?;
        while let Some(row) = ids.next()? {
            to.write(&row.get::<_, i64>(0)?.to_le_bytes())?;
        }
        to.pad()?;
        if header.encoding == Encoding::I8 {
            self.each_vector(|bytes| to.write(&split_scale(bytes).0.to_le_bytes()))?;
            to.pad()?;
        }
        self.each_vector(|bytes| match header.encoding {
            Encoding::F16 => to.write(bytes),
            Encoding::I8 => to.write(split_scale(bytes).1),
        })
    }

    fn each_vector(&self, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut rows = prepare_vectors(&self.db)?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let bytes = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            self.check_vector(row.get(0)?, bytes)?;
            f(bytes)?;
        }
        Ok(())
    }
}

fn prepare_vectors(db: &Connection) -> Result<rusqlite::Statement<'_>> {
    Ok(db.prepare("SELECT picture, vector FROM vectors ORDER BY picture")?)
}

struct Padded<'a> {
    to: &'a mut dyn Write,
    written: usize,
    path: &'a Path,
}

impl Padded<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        self.to.write_all(bytes).map_err(IndexError::io(self.path))
    }

    fn pad(&mut self) -> Result<()> {
        let missing = self.written.next_multiple_of(PART) - self.written;
        self.write(&[0; PART][..missing])
    }
}

impl Vectors {
    /// The file, if it is there, whole, and of this state of this index, however many pictures that has: counting
    /// them would take as long as reading them.
    fn read(path: &Path, state: Header) -> Option<Self> {
        let bytes = Bytes::map(path).ok()?;
        let count = u64::from_le_bytes(bytes.as_slice().get(24..32)?.try_into().ok()?);
        Self::new(bytes, Header { count: usize::try_from(count).ok()?, ..state })
    }

    fn new(bytes: Bytes, header: Header) -> Option<Self> {
        let parts = header.parts()?;
        let found = bytes.as_slice();
        let fits = found.len() == parts.end && found[..PART] == header.to_bytes();
        fits.then(|| Self { bytes, header, parts, kernel: Kernel::detect() })
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.header.count
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers in a vector.
    pub fn dim(&self) -> usize {
        self.header.dim
    }

    /// How they are stored.
    pub fn encoding(&self) -> Encoding {
        self.header.encoding
    }

    /// The state of the index that these are of.
    pub fn generation(&self) -> u64 {
        self.header.generation
    }

    pub(crate) fn identity(&self) -> u64 {
        self.header.identity
    }

    /// Bytes that a scan reads.
    pub fn row_bytes(&self) -> usize {
        self.parts.end - self.parts.rows
    }

    /// Ids of the pictures, ascending.
    pub fn ids(&self) -> &[i64] {
        numbers(&self.bytes.as_slice()[PART..][..8 * self.len()])
    }

    /// `[len, dim]`, of an index of f16 vectors.
    pub(crate) fn rows_f16(&self) -> &[f16] {
        numbers(&self.bytes.as_slice()[self.parts.rows..])
    }

    /// `[len, dim]`, of an index of i8 vectors.
    pub(crate) fn rows_i8(&self) -> &[i8] {
        numbers(&self.bytes.as_slice()[self.parts.rows..])
    }

    /// What an i8 number of each row is worth.
    pub(crate) fn scales(&self) -> &[f32] {
        numbers(&self.bytes.as_slice()[self.parts.scales..][..4 * self.len()])
    }

    /// One vector as f32.
    ///
    /// # Panics
    /// When `row` is not below [`Self::len`].
    pub fn row(&self, row: usize) -> Vec<f32> {
        let dim = self.dim();
        match self.encoding() {
            Encoding::F16 => self.rows_f16()[row * dim..][..dim].iter().map(|x| x.to_f32()).collect(),
            Encoding::I8 => {
                let scale = self.scales()[row];
                self.rows_i8()[row * dim..][..dim].iter().map(|&x| f32::from(x) * scale).collect()
            }
        }
    }

    /// The row of a picture.
    pub fn row_of(&self, id: i64) -> Option<usize> {
        self.ids().binary_search(&id).ok()
    }

    /// Tell the system that rows are read in order, and that large pages pay.
    pub(crate) fn advise(&self) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes {
            // Only a hint.
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
    }
}
