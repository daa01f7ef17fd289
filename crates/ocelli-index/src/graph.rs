//! The nearest pictures to a vector, nearly always, in a thousandth of the time: a graph (HNSW, Malkov and Yashunin,
//! arXiv 1603.09320) by usearch over the vectors of the index.
//!
//! Nodes hold no vectors, only their number; distances are measured on the rows of [`Vectors`], so a graph takes a
//! few hundred bytes a picture whatever the vectors' length. A node stands for the picture that had this place
//! when the graph was built. Later pictures have greater ids: they stand behind all others and are searched
//! exactly. Pictures that are gone are passed over.
//!
//! The file (little endian): a header of 64 bytes, the ids of the nodes, and usearch's own format; each part begins
//! at a multiple of 64 bytes.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use usearch::{IndexOptions, MetricKind, ScalarKind, b1x8};

use crate::encoding::Encoding;
use crate::mapped::{Bytes, numbers};
use crate::search::{Answer, Near, Prepared, Selection};
use crate::store::Index;
use crate::vectors::Vectors;
use crate::{IndexError, Result};

const MAGIC: &[u8; 8] = b"OcelGrf1";
const PART: usize = 64;
const ENDING: &str = "graph";
/// Neighbours of a node; usearch's default.
const CONNECTIVITY: usize = 16;
/// Nodes looked at when one is added to a graph of this many. Each waits for memory in a large one: half of them are
/// enough there, and building takes half the time.
const fn expansion_add(count: usize) -> usize {
    if count > 2_000_000 { 64 } else { 128 }
}
/// Nodes looked at for a search, at least.
const EXPANSION_SEARCH: usize = 2048;
/// A graph is used while at most this share of the pictures came or went after it was built.
const STALE: f64 = 0.1;
/// Below this share of the pictures a selection is searched exactly.
const SELECTIVE: f64 = 0.05;
/// Farther than any two vectors.
const GONE: f32 = 8.0;
/// In the number of a node: it is the address of a query.
const QUERY: u64 = 1 << 63;

/// A graph over the pictures of an index.
pub struct Graph {
    /// Before `_file`, which it may read until it is dropped.
    graph: usearch::Index,
    vectors: Arc<Vectors>,
    rows: Arc<Vec<u32>>,
    /// Rows that came after the graph.
    tail: std::ops::Range<usize>,
    _file: Option<Bytes>,
}

/// The row of each node today; [`u32::MAX`] for a picture that is gone.
const NO_ROW: u32 = u32::MAX;

impl Index {
    /// The graph beside the database, if there is one that is not stale.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn graph(&self, vectors: &Arc<Vectors>) -> Result<Option<Graph>> {
        let path = self.beside(ENDING);
        if !path.is_file() {
            return Ok(None);
        }
        Ok(Graph::open(&path, vectors))
    }

    /// Build the graph on all cores, and keep it beside the database. `progress` is called with the number of pictures
    /// that are in, and stops the work by returning false.
    ///
    /// # Errors
    /// [`IndexError::Stopped`]; when there are over 4 billion pictures, memory is short or the file cannot be
    /// written.
    pub fn build_graph(
        &self,
        vectors: &Arc<Vectors>,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Graph> {
        let graph = Graph::build(vectors, progress)?;
        self.replace_beside(ENDING, |aside| graph.write(aside))?;
        Ok(graph)
    }
}

impl Graph {
    fn build(vectors: &Arc<Vectors>, progress: &mut dyn FnMut(usize) -> bool) -> Result<Self> {
        let count = vectors.len();
        let rows =
            (0..count).map(|row| u32::try_from(row).ok().filter(|&row| row != NO_ROW)).collect::<Option<_>>();
        let rows: Arc<Vec<u32>> =
            Arc::new(rows.ok_or_else(|| IndexError::Graph("there are over 4 billion pictures".into()))?);
        let graph = empty(vectors, &rows)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        graph.reserve_capacity_and_threads(count.max(1), threads).map_err(wrong)?;
        let (next, done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while !stop.load(Relaxed) {
                let node = next.fetch_add(1, Relaxed);
                if node >= count {
                    break;
                }
                graph.add(node as u64, b1x8::from_u8s(&(node as u64).to_le_bytes())).map_err(wrong)?;
                done.fetch_add(1, Relaxed);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            while workers.iter().any(|worker| !worker.is_finished()) {
                std::thread::sleep(std::time::Duration::from_millis(20));
                if !progress(done.load(Relaxed)) {
                    stop.store(true, Relaxed);
                }
            }
            let results = workers
                .into_iter()
                .map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            results.collect::<Result<Vec<()>>>()
        })?;
        if stop.load(Relaxed) {
            return Err(IndexError::Stopped);
        }
        Ok(Self { graph, vectors: Arc::clone(vectors), rows, tail: count..count, _file: None })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let mut bytes = vec![0; self.graph.serialized_length()];
        self.graph.save_to_buffer(&mut bytes).map_err(wrong)?;
        let ids = self.vectors.ids();
        let mut header = [0; PART];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&self.vectors.identity().to_le_bytes());
        header[16..24].copy_from_slice(&(ids.len() as u64).to_le_bytes());
        header[24..32].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        let pad = (8 * ids.len()).next_multiple_of(PART) - 8 * ids.len();
        let write = || {
            let mut file = std::io::BufWriter::new(File::create(path)?);
            file.write_all(&header)?;
            for id in ids {
                file.write_all(&id.to_le_bytes())?;
            }
            file.write_all(&[0; PART][..pad])?;
            file.write_all(&bytes)?;
            file.flush()
        };
        write().map_err(IndexError::io(path))
    }

    /// `None` for a file that is of another index, damaged or stale.
    fn open(path: &Path, vectors: &Arc<Vectors>) -> Option<Self> {
        let file = Bytes::map(path).ok()?;
        let bytes = file.as_slice();
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if bytes.get(..8)? != MAGIC || number(8)? != vectors.identity() {
            return None;
        }
        let (count, graph_bytes) = (usize::try_from(number(16)?).ok()?, usize::try_from(number(24)?).ok()?);
        let ids = numbers::<i64>(bytes.get(PART..PART.checked_add(count.checked_mul(8)?)?)?);
        let at = PART + (8 * count).next_multiple_of(PART);
        if bytes.len() != at.checked_add(graph_bytes)? {
            return None;
        }
        let (rows, tail) = todays_rows(ids, vectors)?;
        let graph = empty(vectors, &rows).ok()?;
        // SAFETY: the bytes live in `file`, which is kept beside the graph and dropped after it.
        #[allow(unsafe_code)]
        unsafe { graph.view_from_buffer(&bytes[at..]) }.ok()?;
        if graph.size() != count {
            return None;
        }
        let graph = measured(graph, vectors, &rows);
        Some(Self { graph, vectors: Arc::clone(vectors), rows, tail, _file: Some(file) })
    }

    /// How many nodes it has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has no node.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of its file.
    pub fn bytes(&self) -> usize {
        self.graph.serialized_length() + 8 * self.len()
    }

    /// The `count` pictures nearest to `query`, or nearly; exactly for a small selection.
    ///
    /// # Errors
    /// When `query` has not `dim` numbers or no direction, or usearch fails.
    pub fn search(&self, query: &[f32], count: usize, among: Option<&Selection>) -> Result<Answer> {
        let vectors = &self.vectors;
        let small = |s: &Selection| (s.len() as f64) < SELECTIVE * vectors.len() as f64;
        if vectors.is_empty() || count == 0 || among.is_some_and(small) {
            return vectors.search(query, count, among);
        }
        let query = vectors.prepare(query)?;
        let background = vectors.background(&query);
        let mut nearest = self.nearest(&query, count, among)?;
        nearest.truncate(count);
        Ok(vectors.answer(nearest, background, among.map_or(vectors.len(), Selection::len)))
    }

    /// Rows near a query, the nearest first; `count` of the graph and all that came after it.
    fn nearest(&self, query: &Prepared, count: usize, among: Option<&Selection>) -> Result<Vec<Near>> {
        let row_of = |node: u64| self.rows[node as usize];
        let counts = |row: usize| among.is_none_or(|selection| selection.contains(row));
        let wanted = |node: u64| row_of(node) != NO_ROW && counts(row_of(node) as usize);
        let address = QUERY | std::ptr::from_ref(query) as u64;
        let address = address.to_le_bytes();
        let found = self.graph.filtered_search(b1x8::from_u8s(&address), count, wanted).map_err(wrong)?;
        let near = |(&node, &distance): (&u64, &f32)| Near {
            row: row_of(node) as usize,
            similarity: 1.0 - distance,
        };
        let mut nearest: Vec<Near> = found.keys.iter().zip(&found.distances).map(near).collect();
        let mut similarity = [0.0];
        for row in self.tail.clone().filter(|&row| counts(row)) {
            self.vectors.similarities(query, row, &mut similarity);
            nearest.push(Near { row, similarity: similarity[0] });
        }
        nearest.sort_by(|a, b| b.cmp(a));
        Ok(nearest)
    }

    /// The rows near a row, itself left out.
    pub(crate) fn neighbours(&self, row: usize, count: usize) -> Result<Vec<Near>> {
        let query = self.vectors.prepare(&self.vectors.row(row))?;
        let mut nearest = self.nearest(&query, count + 1, None)?;
        nearest.retain(|near| near.row != row);
        Ok(nearest)
    }
}

/// The rows of the nodes among today's pictures, and the rows that came later. `None` when too many came or went.
fn todays_rows(ids: &[i64], vectors: &Vectors) -> Option<(Arc<Vec<u32>>, std::ops::Range<usize>)> {
    let today = vectors.ids();
    let mut rows = Vec::with_capacity(ids.len());
    let mut row = 0;
    for &id in ids {
        if today.get(row).is_some_and(|&next| next < id) {
            // Ids only rise, so a picture in the middle that the graph lacks is of another index.
            return None;
        }
        let here = today.get(row) == Some(&id);
        rows.push(if here { u32::try_from(row).ok()? } else { NO_ROW });
        row += usize::from(here);
    }
    let changed = rows.iter().filter(|&&row| row == NO_ROW).count() + today.len() - row;
    let fresh = changed as f64 <= STALE * today.len().max(1) as f64;
    fresh.then(|| (Arc::new(rows), row..today.len()))
}

fn empty(vectors: &Arc<Vectors>, rows: &Arc<Vec<u32>>) -> Result<usearch::Index> {
    let options = IndexOptions {
        // The number of a node: 8 bytes.
        dimensions: 64,
        metric: MetricKind::Hamming,
        quantization: ScalarKind::B1,
        connectivity: CONNECTIVITY,
        expansion_add: expansion_add(rows.len()),
        expansion_search: EXPANSION_SEARCH,
        multi: false,
    };
    let graph = usearch::Index::new(&options).map_err(wrong)?;
    Ok(measured(graph, vectors, rows))
}

/// `graph` with distances between rows of `vectors`.
fn measured(mut graph: usearch::Index, vectors: &Arc<Vectors>, rows: &Arc<Vec<u32>>) -> usearch::Index {
    let (vectors, rows) = (Arc::clone(vectors), Arc::clone(rows));
    #[allow(unsafe_code)]
    graph.change_metric::<b1x8>(Box::new(move |a: *const b1x8, b: *const b1x8| {
        // SAFETY: usearch hands over nodes of 8 bytes, its own or that of `Graph::nearest`.
        let (a, b) = unsafe { (a.cast::<u64>().read_unaligned(), b.cast::<u64>().read_unaligned()) };
        let row =
            |node: u64| rows.get(node as usize).copied().filter(|&row| row != NO_ROW).map(|row| row as usize);
        let similarity = match (a & QUERY != 0, b & QUERY != 0) {
            (false, false) => row(a).zip(row(b)).map(|(a, b)| vectors.similarity(a, b)),
            (true, _) => row(b).map(|b| to_query(&vectors, a, b)),
            (false, true) => row(a).map(|a| to_query(&vectors, b, a)),
        };
        similarity.map_or(GONE, |similarity| 1.0 - similarity)
    }));
    graph
}

#[allow(unsafe_code)]
fn to_query(vectors: &Vectors, node: u64, row: usize) -> f32 {
    let address = (node & !QUERY) as usize as *const Prepared;
    // SAFETY: `Graph::nearest` made it from a reference that lives until its search returns.
    let query = unsafe { &*address };
    let mut similarity = [0.0];
    vectors.similarities(query, row, &mut similarity);
    similarity[0]
}

impl Vectors {
    /// Cosine of two rows.
    pub(crate) fn similarity(&self, a: usize, b: usize) -> f32 {
        let dim = self.dim();
        match self.encoding() {
            Encoding::F16 => {
                let rows = self.rows_f16();
                self.kernel.dot_f16_f16(&rows[a * dim..][..dim], &rows[b * dim..][..dim])
            }
            Encoding::I8 => {
                let (rows, scales) = (self.rows_i8(), self.scales());
                let sum = self.kernel.dot_i8_i8(&rows[a * dim..][..dim], &rows[b * dim..][..dim]);
                sum as f32 * (scales[a] * scales[b])
            }
        }
    }
}

fn wrong(error: impl std::fmt::Display) -> IndexError {
    IndexError::Graph(error.to_string())
}
