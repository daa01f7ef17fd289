//! What an index holds, in numbers.

use std::path::Path;

use crate::Result;
use crate::store::Index;

/// A value and how many pictures have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The value.
    pub name: String,
    /// Pictures that have it.
    pub pictures: u64,
}

/// What an index holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Different pictures.
    pub pictures: u64,
    /// Files that hold them.
    pub files: u64,
    /// Bytes of these files.
    pub file_bytes: u64,
    /// Files that could not be indexed.
    pub failures: u64,
    /// Pictures with a time.
    pub dated: u64,
    /// Pictures with a place.
    pub placed: u64,
    /// Earliest and latest time, in seconds since 1970 on the cameras' clocks.
    pub span: Option<(i64, i64)>,
    /// Years, in order.
    pub years: Vec<Count>,
    /// Cameras, the most frequent first.
    pub cameras: Vec<Count>,
    /// Bytes of the database, its log, and the files beside it.
    pub index_bytes: u64,
}

impl Index {
    /// Count what there is.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        let number =
            |sql: &str| -> Result<u64> { Ok(self.db.query_row(sql, [], |row| row.get::<_, i64>(0))? as u64) };
        let clock = "(captured_at + 60 * ifnull(offset_minutes, 0))";
        let span =
            self.db.query_row(&format!("SELECT min({clock}), max({clock}) FROM pictures"), [], |row| {
                Ok(row.get::<_, Option<i64>>(0)?.zip(row.get(1)?))
            })?;
        // Many models begin with their maker's name.
        let camera = "CASE WHEN substr(camera_model, 1, length(camera_make)) = camera_make THEN camera_model \
                      ELSE trim(ifnull(camera_make, '') || ' ' || ifnull(camera_model, '')) END";
        Ok(Stats {
            pictures: number("SELECT count(*) FROM pictures")?,
            files: number("SELECT count(*) FROM files WHERE picture IS NOT NULL")?,
            file_bytes: number("SELECT ifnull(sum(size), 0) FROM files WHERE picture IS NOT NULL")?,
            failures: number("SELECT count(*) FROM files WHERE picture IS NULL")?,
            dated: number("SELECT count(captured_at) FROM pictures")?,
            placed: number("SELECT count(latitude) FROM pictures")?,
            span,
            years: self.counts(&format!("strftime('%Y', {clock}, 'unixepoch')"), "name")?,
            cameras: self.counts(&format!("nullif({camera}, '')"), "pictures DESC, name")?,
            index_bytes: ["", "-wal", ".vectors", ".graph"].iter().map(|end| bytes(self.path(), end)).sum(),
        })
    }

    fn counts(&self, value: &str, order: &str) -> Result<Vec<Count>> {
        let sql = format!(
            "SELECT {value} AS name, count(*) AS pictures FROM pictures WHERE name IS NOT NULL GROUP BY name ORDER BY {order}"
        );
        let mut query = self.db.prepare(&sql)?;
        let rows = query
            .query_map([], |row| Ok(Count { name: row.get(0)?, pictures: row.get::<_, i64>(1)? as u64 }))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

fn bytes(path: &Path, ending: &str) -> u64 {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    std::fs::metadata(name).map_or(0, |file| file.len())
}
