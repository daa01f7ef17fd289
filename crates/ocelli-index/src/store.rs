//! The database: pictures by content, their vectors, and the files that hold them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use sha2::{Digest, Sha256};

use crate::encoding::Encoding;
use crate::{IndexError, MAX_DIM, Result};

/// "OceI", in SQLite's field for the program that a file belongs to.
pub(crate) const APPLICATION_ID: u32 = 0x4f63_6549;
/// Grows with each change of the tables.
pub(crate) const SCHEMA: u32 = 1;
/// How long a reader or writer waits for another one's transaction.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    width INTEGER, height INTEGER, orientation INTEGER,
    captured_at INTEGER, offset_minutes INTEGER,
    camera_make TEXT, camera_model TEXT,
    latitude REAL, longitude REAL
);
CREATE TABLE vectors (
    picture INTEGER PRIMARY KEY REFERENCES pictures (id) ON DELETE CASCADE,
    vector BLOB NOT NULL
);
CREATE TABLE files (
    path PRIMARY KEY, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    picture INTEGER REFERENCES pictures (id), reason TEXT,
    CHECK ((picture IS NULL) <> (reason IS NULL))
);
CREATE INDEX files_by_picture ON files (picture);
CREATE INDEX pictures_by_time ON pictures (captured_at);
";

/// What the vectors of an index are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Identity of what made them; vectors of two models cannot be compared.
    pub model: String,
    /// Numbers in each, 1 to [`MAX_DIM`].
    pub dim: usize,
    /// How they are stored.
    pub encoding: Encoding,
}

/// What a picture's file says about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Columns as stored.
    pub width: Option<u32>,
    /// Rows as stored.
    pub height: Option<u32>,
    /// EXIF orientation, 1 to 8.
    pub orientation: Option<u8>,
    /// Seconds since 1970-01-01 00:00 UTC.
    pub captured_at: Option<i64>,
    /// What the camera's clock was ahead of UTC, in minutes.
    pub offset_minutes: Option<i32>,
    /// The camera's maker.
    pub camera_make: Option<String>,
    /// The camera's model.
    pub camera_model: Option<String>,
    /// Latitude and longitude in degrees, north and east positive.
    pub gps: Option<(f64, f64)>,
}

/// A picture of the index.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Its id, never given to another picture.
    pub id: i64,
    /// SHA-256 of the file.
    pub hash: [u8; 32],
    /// What the file says about it.
    pub details: Details,
    /// Every file with this content, in the order of the paths.
    pub files: Vec<PathBuf>,
}

/// A file that could not be indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// An index, open for reading; any number of processes may have it open while one writes.
pub struct Index {
    path: PathBuf,
    pub(crate) db: Connection,
    config: Config,
}

/// SHA-256 of a file's bytes, by which the index knows a picture.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

impl Index {
    /// Open an index that exists.
    ///
    /// # Errors
    /// When there is none, or it is another program's database, newer than this program, or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Err(IndexError::Missing { path: path.to_owned() });
        }
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .or_else(|_| connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY))?;
        Self::from_connection(path, db)
    }

    pub(crate) fn from_connection(path: &Path, db: Connection) -> Result<Self> {
        check_owner(path, &db)?;
        let config = read_config(path, &db)?;
        Ok(Self { path: path.to_owned(), db, config })
    }

    /// What its vectors are.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The database's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file beside the database, with one more ending.
    pub(crate) fn beside(&self, ending: &str) -> PathBuf {
        beside(&self.path, ending)
    }

    /// Replace a file beside the database by one that `write` makes under another name; several processes may do so
    /// at once.
    ///
    /// # Errors
    /// What `write` returns, or when its file cannot be renamed; nothing is left of it then.
    pub(crate) fn replace_beside(&self, ending: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (path, aside) =
            (self.beside(ending), self.beside(&format!("{ending}.{}.partial", std::process::id())));
        let written =
            write(&aside).and_then(|()| std::fs::rename(&aside, &path).map_err(IndexError::io(&path)));
        if written.is_err() {
            // Nothing depends on it.
            let _ = std::fs::remove_file(&aside);
        }
        written
    }

    /// Fail unless `config` is what the index was made with.
    ///
    /// # Errors
    /// [`IndexError::OtherModel`] with advice.
    pub fn expect(&self, config: &Config) -> Result<()> {
        if self.config == *config {
            return Ok(());
        }
        let name = |c: &Config| format!("{} ({} x {})", c.model, c.dim, c.encoding.name());
        Err(IndexError::OtherModel {
            path: self.path.clone(),
            stored: name(&self.config),
            asked: name(config),
        })
    }

    /// A random number that no other index has.
    pub(crate) fn identity(&self) -> Result<u64> {
        Ok(self.meta::<i64>("identity")? as u64)
    }

    /// Grows whenever a picture comes or goes.
    pub fn generation(&self) -> Result<u64> {
        Ok(self.meta::<i64>("generation")? as u64)
    }

    fn meta<T: rusqlite::types::FromSql>(&self, key: &str) -> Result<T> {
        meta(&self.db, key)?.ok_or_else(|| damaged(&self.path, format!("it has no `{key}`")))
    }

    /// A note that a program left with [`crate::Writer::set_note`].
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn note(&self, key: &str) -> Result<Option<String>> {
        meta(&self.db, &note_key(key))
    }

    /// How many pictures it has.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn len(&self) -> Result<usize> {
        Ok(self.db.query_row("SELECT count(*) FROM vectors", [], |row| row.get::<_, i64>(0))? as usize)
    }

    /// Whether it has no picture.
    ///
    /// # Errors
    /// As for [`Self::len`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// What is known of a picture.
    ///
    /// # Errors
    /// [`IndexError::NoPicture`] when there is none with this id.
    pub fn picture(&self, id: i64) -> Result<Picture> {
        let sql = "SELECT hash, width, height, orientation, captured_at, offset_minutes, camera_make,
                   camera_model, latitude, longitude FROM pictures WHERE id = ?1";
        let found = self
            .db
            .prepare_cached(sql)?
            .query_row([id], |row| Ok((row.get(0)?, details(row)?)))
            .optional()?;
        let (hash, details) = found.ok_or(IndexError::NoPicture(id))?;
        let mut files = self.db.prepare_cached("SELECT path FROM files WHERE picture = ?1 ORDER BY path")?;
        let files = files.query_map([id], |row| path_in(row, 0))?.collect::<rusqlite::Result<_>>()?;
        Ok(Picture { id, hash, details, files })
    }

    /// The picture in a file, by the path that the index has for it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn picture_of(&self, file: &Path) -> Result<Option<i64>> {
        let sql = "SELECT picture FROM files WHERE path = ?1";
        let found: Option<Option<i64>> =
            self.db.prepare_cached(sql)?.query_row([sql_path(file)?], |row| row.get(0)).optional()?;
        Ok(found.flatten())
    }

    /// The picture with this content.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn picture_with(&self, hash: &[u8; 32]) -> Result<Option<i64>> {
        let mut query = self.db.prepare_cached("SELECT id FROM pictures WHERE hash = ?1")?;
        Ok(query.query_row([hash.as_slice()], |row| row.get(0)).optional()?)
    }

    /// A picture's vector, `dim` numbers of length about 1.
    ///
    /// # Errors
    /// [`IndexError::NoPicture`] when there is none with this id.
    pub fn vector(&self, id: i64) -> Result<Vec<f32>> {
        let mut query = self.db.prepare_cached("SELECT vector FROM vectors WHERE picture = ?1")?;
        let bytes: Option<Vec<u8>> = query.query_row([id], |row| row.get(0)).optional()?;
        let bytes = bytes.ok_or(IndexError::NoPicture(id))?;
        self.check_vector(id, &bytes)?;
        Ok(self.config.encoding.decode(&bytes))
    }

    pub(crate) fn check_vector(&self, id: i64, bytes: &[u8]) -> Result<()> {
        let expected = self.config.encoding.stored_bytes(self.config.dim);
        if bytes.len() == expected {
            return Ok(());
        }
        Err(damaged(
            &self.path,
            format!("the vector of picture {id} has {} bytes, not {expected}", bytes.len()),
        ))
    }

    /// Pictures that more than one file holds, ascending.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn with_copies(&self) -> Result<Vec<i64>> {
        let sql = "SELECT picture FROM files WHERE picture IS NOT NULL GROUP BY picture HAVING count(*) > 1 ORDER BY picture";
        let mut query = self.db.prepare(sql)?;
        Ok(query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
    }

    /// Files that could not be indexed, in the order of the paths.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn failures(&self) -> Result<Vec<Failure>> {
        let mut query =
            self.db.prepare("SELECT path, reason FROM files WHERE reason IS NOT NULL ORDER BY path")?;
        let rows = query.query_map([], |row| Ok(Failure { path: path_in(row, 0)?, reason: row.get(1)? }))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

fn details(row: &Row<'_>) -> rusqlite::Result<Details> {
    let (latitude, longitude): (Option<f64>, Option<f64>) = (row.get(8)?, row.get(9)?);
    Ok(Details {
        width: row.get(1)?,
        height: row.get(2)?,
        orientation: row.get(3)?,
        captured_at: row.get(4)?,
        offset_minutes: row.get(5)?,
        camera_make: row.get(6)?,
        camera_model: row.get(7)?,
        gps: latitude.zip(longitude),
    })
}

pub(crate) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(PATIENCE)?;
    db.pragma_update(None, "foreign_keys", true)?;
    // Asks for a page, so that a file that is no database is found here.
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(db)
}

pub(crate) fn check_owner(path: &Path, db: &Connection) -> Result<()> {
    let number = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, schema) = (number("application_id")? as u32, number("user_version")? as u32);
    if application != APPLICATION_ID {
        return Err(IndexError::Foreign { path: path.to_owned(), found: application });
    }
    if schema > SCHEMA {
        return Err(IndexError::TooNew { path: path.to_owned(), found: schema, known: SCHEMA });
    }
    Ok(())
}

fn read_config(path: &Path, db: &Connection) -> Result<Config> {
    let missing = |key: &str| damaged(path, format!("it has no `{key}`"));
    let dim: i64 = meta(db, "dim")?.ok_or_else(|| missing("dim"))?;
    let dim = usize::try_from(dim).ok().filter(|dim| (1..=MAX_DIM).contains(dim));
    let encoding: String = meta(db, "encoding")?.ok_or_else(|| missing("encoding"))?;
    Ok(Config {
        model: meta(db, "model")?.ok_or_else(|| missing("model"))?,
        dim: dim.ok_or_else(|| damaged(path, "its vectors have no usable length".into()))?,
        encoding: encoding.parse().map_err(|reason| damaged(path, reason))?,
    })
}

fn meta<T: rusqlite::types::FromSql>(db: &Connection, key: &str) -> Result<Option<T>> {
    Ok(db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()?)
}

/// Notes of others beside our own values.
pub(crate) fn note_key(key: &str) -> String {
    format!("note:{key}")
}

pub(crate) fn damaged(path: &Path, reason: String) -> IndexError {
    IndexError::Damaged { path: path.to_owned(), reason }
}

pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// A path as the database holds it: text where it is Unicode, else (on Unix) its bytes.
pub(crate) fn sql_path(path: &Path) -> Result<rusqlite::types::Value> {
    if let Some(text) = path.to_str() {
        return Ok(text.to_owned().into());
    }
    #[cfg(unix)]
    return Ok(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec().into());
    #[cfg(not(unix))]
    Err(IndexError::Path(path.to_owned()))
}

pub(crate) fn path_in(row: &Row<'_>, column: usize) -> rusqlite::Result<PathBuf> {
    Ok(match row.get_ref(column)? {
        #[cfg(unix)]
        ValueRef::Blob(bytes) => {
            <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes).to_owned().into()
        }
        other => PathBuf::from(other.as_str()?),
    })
}
