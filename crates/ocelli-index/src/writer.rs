//! Writing: one process at a time, in batches that are there whole or not at all.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::Deref;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use crate::scan::{Candidate, Scan};
use crate::store::{self, APPLICATION_ID, Config, Details, Index, SCHEMA, TABLES};
use crate::{IndexError, MAX_DIM, Result};

/// An index, open for writing; it holds the lock that keeps other writers out.
pub struct Writer {
    index: Index,
    /// The system frees the lock when the process ends, however it ends.
    _lock: File,
}

/// What was found at a path.
#[derive(Clone, Debug)]
pub struct Found {
    /// The file, as it was when the directory was read.
    pub file: Candidate,
    /// What is in it.
    pub content: Content,
}

/// What is in a file.
#[derive(Clone, Debug)]
pub enum Content {
    /// A picture that the index has already: a copy, or a moved file.
    Known(i64),
    /// A picture.
    New {
        /// SHA-256 of the file, see [`crate::hash`].
        hash: [u8; 32],
        /// What the file says about it.
        details: Details,
        /// `dim` numbers of any length but 0.
        vector: Vec<f32>,
    },
    /// Nothing that can be indexed, and why.
    Unreadable(String),
}

/// What a scan took out of the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files that are no longer there.
    pub files: usize,
    /// Pictures of which no file is left.
    pub pictures: usize,
}

impl Deref for Writer {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.index
    }
}

impl Writer {
    /// Open an index for writing, and make it if it is not there.
    ///
    /// # Errors
    /// When another process writes, when the index was made with another config, or when the file cannot be
    /// made or is no index.
    pub fn open(path: &Path, config: &Config) -> Result<Self> {
        if !(1..=MAX_DIM).contains(&config.dim) {
            return Err(IndexError::UnusableDimension(config.dim));
        }
        let lock = lock(path)?;
        let mut db = store::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        // Readers go on while a batch is written, and a killed writer leaves no half batch.
        db.pragma_update(None, "journal_mode", "wal")?;
        db.pragma_update(None, "synchronous", "normal")?;
        create(path, &mut db, config)?;
        let index = Index::from_connection(path, db)?;
        index.expect(config)?;
        Ok(Self { index, _lock: lock })
    }

    /// Keep a text for the program that uses the index, such as where its model is.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn set_note(&mut self, key: &str, value: &str) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)";
        self.index.db.execute(sql, [store::note_key(key).as_str(), value])?;
        Ok(())
    }

    /// Store a batch: all of it, or nothing.
    ///
    /// # Errors
    /// When a vector does not fit the index, or the database cannot be written.
    pub fn commit(&mut self, batch: &[Found]) -> Result<()> {
        let (dim, encoding) = (self.index.config().dim, self.index.config().encoding);
        let transaction = self.index.db.transaction()?;
        let mut changed = false;
        let mut left = Vec::new();
        for found in batch {
            let (picture, reason) = match &found.content {
                Content::Known(id) => (Some(*id), None),
                Content::Unreadable(reason) => (None, Some(reason)),
                Content::New { hash, details, vector } => {
                    if vector.len() != dim {
                        return Err(IndexError::Dimension { expected: dim, found: vector.len() });
                    }
                    changed = true;
                    (Some(insert_picture(&transaction, hash, details, &encoding.encode(vector)?)?), None)
                }
            };
            let Candidate { path, size, modified_ns } = &found.file;
            left.extend(picture_at(&transaction, path)?.filter(|&old| Some(old) != picture));
            let sql = "INSERT OR REPLACE INTO files (path, size, modified_ns, picture, reason) VALUES (?1, ?2, ?3, ?4, ?5)";
            transaction.prepare_cached(sql)?.execute(params![
                store::sql_path(path)?,
                *size as i64,
                modified_ns,
                picture,
                reason
            ])?;
        }
        // A file whose content changed may have been the last of its old picture.
        let dropped = drop_without_file(&transaction, &left)?;
        if changed || dropped > 0 {
            new_generation(&transaction)?;
        }
        Ok(transaction.commit()?)
    }

    /// Take out what a scan did not see any more, where it could look.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn finish(&mut self, scan: &Scan) -> Result<Removed> {
        let gone = scan.gone();
        let transaction = self.index.db.transaction()?;
        let mut left = Vec::new();
        for path in gone {
            left.extend(picture_at(&transaction, path)?);
            transaction
                .prepare_cached("DELETE FROM files WHERE path = ?1")?
                .execute([store::sql_path(path)?])?;
        }
        let pictures = drop_without_file(&transaction, &left)?;
        if pictures > 0 {
            new_generation(&transaction)?;
        }
        transaction.commit()?;
        Ok(Removed { files: gone.len(), pictures })
    }
}

fn insert_picture(db: &Transaction<'_>, hash: &[u8; 32], d: &Details, vector: &[u8]) -> Result<i64> {
    // Two files of one batch may have the same content.
    let sql =
        "INSERT INTO pictures (hash, width, height, orientation, captured_at, offset_minutes, camera_make,
               camera_model, latitude, longitude) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
               ON CONFLICT (hash) DO UPDATE SET width = excluded.width RETURNING id";
    let (latitude, longitude) = d.gps.unzip();
    let id = db.prepare_cached(sql)?.query_row(
        params![
            hash.as_slice(),
            d.width,
            d.height,
            d.orientation,
            d.captured_at,
            d.offset_minutes,
            d.camera_make,
            d.camera_model,
            latitude,
            longitude
        ],
        |row| row.get(0),
    )?;
    let sql = "INSERT OR IGNORE INTO vectors (picture, vector) VALUES (?1, ?2)";
    db.prepare_cached(sql)?.execute(params![id, vector])?;
    Ok(id)
}

fn picture_at(db: &Transaction<'_>, path: &Path) -> Result<Option<i64>> {
    let mut query = db.prepare_cached("SELECT picture FROM files WHERE path = ?1")?;
    Ok(query.query_row([store::sql_path(path)?], |row| row.get(0)).optional()?.flatten())
}

/// Drop those of `pictures` that no file holds any more.
fn drop_without_file(db: &Transaction<'_>, pictures: &[i64]) -> Result<usize> {
    let sql = "DELETE FROM pictures WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM files WHERE picture = ?1)";
    let mut delete = db.prepare_cached(sql)?;
    let mut dropped = 0;
    for id in pictures {
        dropped += delete.execute([id])?;
    }
    Ok(dropped)
}

fn new_generation(db: &Transaction<'_>) -> Result<()> {
    db.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'", [])?;
    Ok(())
}

/// Make the tables of a new database; two processes may try at once.
fn create(path: &Path, db: &mut Connection, config: &Config) -> Result<()> {
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 {
        return store::check_owner(path, &transaction);
    }
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    let sql = "INSERT INTO meta (key, value) VALUES ('model', ?1), ('dim', ?2), ('encoding', ?3),
               ('generation', 0), ('identity', random())";
    transaction.execute(sql, params![config.model, config.dim as i64, config.encoding.name()])?;
    Ok(transaction.commit()?)
}

fn lock(path: &Path) -> Result<File> {
    let at = store::beside(path, "lock");
    let open = || File::options().create(true).read(true).write(true).truncate(false).open(&at);
    let mut file = open().map_err(IndexError::io(&at))?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        // Who it is is only for the message.
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim();
        let holder = if holder.is_empty() { String::new() } else { format!(" ({holder})") };
        return Err(IndexError::Busy { path: path.to_owned(), holder });
    }
    let note = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(IndexError::io(&at))?;
    Ok(file)
}
