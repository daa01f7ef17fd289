//! The nearest pictures to a vector, exactly: every row is read once.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::background::{Background, SAMPLE};
use crate::encoding::{Encoding, normalised};
use crate::kernels::QueryI16;
use crate::vectors::Vectors;
use crate::{IndexError, Result};

/// Rows that a thread takes at once: 1 MiB of f16 rows of 512.
const BLOCK: usize = 1024;

/// A picture near a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The picture.
    pub id: i64,
    /// Cosine of query and picture, -1 to 1.
    pub similarity: f32,
    /// How sure it is that this is no accident, 0 to 1: see [`Background`].
    pub score: f32,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The nearest first; of equally near ones that with the smaller id.
    pub hits: Vec<Hit>,
    /// What the query's similarity to all pictures looks like.
    pub background: Background,
}

/// Pictures that a search is limited to.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Rows, ascending.
    rows: Vec<usize>,
}

impl Selection {
    /// The rows of `ids` among `vectors`; others are left out.
    pub fn new(vectors: &Vectors, ids: &[i64]) -> Self {
        let mut rows: Vec<usize> = ids.iter().filter_map(|&id| vectors.row_of(id)).collect();
        rows.sort_unstable();
        rows.dedup();
        Self { rows }
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn contains(&self, row: usize) -> bool {
        self.rows.binary_search(&row).is_ok()
    }
}

/// The query in the form that the rows need.
pub(crate) enum Prepared {
    F16(Vec<f32>),
    I8(QueryI16),
}

impl Vectors {
    /// The `count` pictures nearest to `query` (of any length but 0), of all or of a selection, on all cores.
    ///
    /// # Errors
    /// When `query` has not `dim` numbers or no direction.
    pub fn search(&self, query: &[f32], count: usize, among: Option<&Selection>) -> Result<Answer> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        self.search_on(threads, query, count, among)
    }

    /// As [`Self::search`], on so many threads.
    ///
    /// # Errors
    /// As for [`Self::search`].
    pub fn search_on(
        &self,
        threads: usize,
        query: &[f32],
        count: usize,
        among: Option<&Selection>,
    ) -> Result<Answer> {
        let query = self.prepare(query)?;
        let background = self.background(&query);
        let nearest = match among {
            Some(selection) => self.nearest_of(&query, count, &selection.rows),
            None => self.nearest(&query, count, threads),
        };
        let candidates = among.map_or(self.len(), Selection::len);
        Ok(self.answer(nearest, background, candidates))
    }

    pub(crate) fn prepare(&self, query: &[f32]) -> Result<Prepared> {
        if query.len() != self.dim() {
            return Err(IndexError::Dimension { expected: self.dim(), found: query.len() });
        }
        let query = normalised(query)?;
        Ok(match self.encoding() {
            Encoding::F16 => Prepared::F16(query),
            Encoding::I8 => Prepared::I8(QueryI16::new(&query)),
        })
    }

    /// `(row, similarity)` in order become hits.
    pub(crate) fn answer(&self, nearest: Vec<Near>, background: Background, candidates: usize) -> Answer {
        let ids = self.ids();
        let scores = background.scores(nearest.iter().map(|near| near.similarity), candidates);
        let hits = nearest
            .iter()
            .zip(scores)
            .map(|(near, score)| Hit { id: ids[near.row], similarity: near.similarity, score })
            .collect();
        Answer { hits, background }
    }

    /// What the query looks like against pictures spread over the whole index.
    pub(crate) fn background(&self, query: &Prepared) -> Background {
        let step = self.len().div_ceil(SAMPLE).max(1);
        let mut similarity = [0.0];
        let sample = (0..self.len()).step_by(step).map(|row| {
            self.similarities(query, row, &mut similarity);
            similarity[0]
        });
        Background::of(sample.collect())
    }

    /// Cosines of the query with rows `first..first + out.len()`.
    pub(crate) fn similarities(&self, query: &Prepared, first: usize, out: &mut [f32]) {
        let dim = self.dim();
        let at = first * dim..(first + out.len()) * dim;
        match query {
            Prepared::F16(query) => self.kernel.dots_f16(query, &self.rows_f16()[at], out),
            Prepared::I8(query) => {
                let mut sums = [0; BLOCK];
                for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                    let start = first + block * BLOCK;
                    let sums = &mut sums[..out.len()];
                    self.kernel.dots_i8(query, &self.rows_i8()[start * dim..][..sums.len() * dim], sums);
                    let scales = &self.scales()[start..];
                    for ((out, &sum), &scale) in out.iter_mut().zip(&*sums).zip(scales) {
                        *out = sum as f32 * (query.scale * scale);
                    }
                }
            }
        }
    }

    fn nearest(&self, query: &Prepared, count: usize, threads: usize) -> Vec<Near> {
        self.advise();
        let blocks = self.len().div_ceil(BLOCK);
        let next = AtomicUsize::new(0);
        let work = || {
            let mut best = Nearest::new(count);
            let mut similarities = [0.0; BLOCK];
            loop {
                let first = next.fetch_add(1, Relaxed) * BLOCK;
                if first >= self.len() {
                    return best;
                }
                let similarities = &mut similarities[..BLOCK.min(self.len() - first)];
                self.similarities(query, first, similarities);
                for (i, &similarity) in similarities.iter().enumerate() {
                    best.offer(Near { row: first + i, similarity });
                }
            }
        };
        let threads = threads.clamp(1, blocks.max(1));
        let mut best = Nearest::new(count);
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            best.merge(work());
            for other in others {
                // A panic there is a defect here.
                best.merge(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
        });
        best.into_sorted()
    }

    fn nearest_of(&self, query: &Prepared, count: usize, rows: &[usize]) -> Vec<Near> {
        let mut best = Nearest::new(count);
        let mut similarity = [0.0];
        for &row in rows {
            self.similarities(query, row, &mut similarity);
            best.offer(Near { row, similarity: similarity[0] });
        }
        best.into_sorted()
    }
}

/// A row with its similarity; the greater is the nearer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Near {
    pub(crate) row: usize,
    pub(crate) similarity: f32,
}

impl Eq for Near {}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        self.similarity.total_cmp(&other.similarity).then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The nearest so many of those that were offered.
struct Nearest {
    count: usize,
    /// The farthest of them on top.
    heap: BinaryHeap<std::cmp::Reverse<Near>>,
    /// What a similarity must reach to be looked at.
    floor: f32,
}

impl Nearest {
    fn new(count: usize) -> Self {
        Self { count, heap: BinaryHeap::new(), floor: f32::NEG_INFINITY }
    }

    fn offer(&mut self, near: Near) {
        if near.similarity < self.floor || self.count == 0 {
            return;
        }
        self.heap.push(std::cmp::Reverse(near));
        if self.heap.len() > self.count {
            self.heap.pop();
            self.floor = self.heap.peek().map_or(f32::NEG_INFINITY, |farthest| farthest.0.similarity);
        }
    }

    fn merge(&mut self, other: Self) {
        other.heap.into_iter().for_each(|near| self.offer(near.0));
    }

    fn into_sorted(self) -> Vec<Near> {
        let mut nearest: Vec<Near> = self.heap.into_iter().map(|near| near.0).collect();
        nearest.sort_by(|a, b| b.cmp(a));
        nearest
    }
}
