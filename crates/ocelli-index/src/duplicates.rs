//! Groups of pictures that look almost the same.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::encoding::Encoding;
use crate::graph::Graph;
use crate::vectors::Vectors;
use crate::{IndexError, Result};

/// Pictures that are compared with all others at once.
const QUERIES: usize = 64;
/// Rows that they are compared with at once.
const ROWS: usize = 512;
/// Neighbours of a picture that are looked at in a graph.
const NEIGHBOURS: usize = 16;

/// Groups of ids, each of two or more, joined by pairs of at least this cosine. Two pictures of a group may be
/// farther apart when others stand between them. With a graph only a picture's nearest 16 are looked at: the
/// time grows with the number of pictures, not with its square.
///
/// `progress` is called with the share that is done, 0 to 1, and stops the work by returning false.
///
/// # Errors
/// [`IndexError::Stopped`], or when usearch fails.
pub fn near_duplicates(
    vectors: &Vectors,
    graph: Option<&Graph>,
    threshold: f32,
    progress: &mut dyn FnMut(f64) -> bool,
) -> Result<Vec<Vec<i64>>> {
    let joined = Mutex::new(Groups::new(vectors.len()));
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let tasks = vectors.len().div_ceil(QUERIES);
    let work = || -> Result<()> {
        while !stop.load(Relaxed) {
            let task = next.fetch_add(1, Relaxed);
            if task >= tasks {
                break;
            }
            let queries = task * QUERIES..((task + 1) * QUERIES).min(vectors.len());
            let pairs = match graph {
                Some(graph) => near_in_graph(graph, queries, threshold)?,
                None => near_pairs(vectors, queries, threshold),
            };
            if !pairs.is_empty() {
                let mut joined = joined.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                pairs.into_iter().for_each(|(a, b)| joined.join(a, b));
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(tasks.max(1));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(std::time::Duration::from_millis(5));
            // Early tasks compare with more rows than late ones.
            let left = 1.0 - (next.load(Relaxed).min(tasks) as f64 / tasks.max(1) as f64);
            let done = if graph.is_some() { 1.0 - left } else { 1.0 - left * left };
            if !progress(done) {
                stop.store(true, Relaxed);
            }
        }
        let results =
            workers.into_iter().map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        results.collect::<Result<Vec<()>>>()
    })?;
    if stop.load(Relaxed) {
        return Err(IndexError::Stopped);
    }
    let groups = joined.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(groups.into_ids(vectors.ids()))
}

/// Pairs of one of `queries` and a later row.
fn near_pairs(vectors: &Vectors, queries: std::ops::Range<usize>, threshold: f32) -> Vec<(usize, usize)> {
    let dim = vectors.dim();
    let mut pairs = Vec::new();
    let mut keep = |a: usize, b: usize, similarity: f32| {
        if a < b && similarity >= threshold {
            pairs.push((a, b));
        }
    };
    let as_f32: Vec<f32> = match vectors.encoding() {
        Encoding::F16 => queries.clone().flat_map(|row| vectors.row(row)).collect(),
        Encoding::I8 => Vec::new(),
    };
    let mut products = vec![0.0; QUERIES * ROWS];
    for first in (queries.start..vectors.len()).step_by(ROWS) {
        let rows = ROWS.min(vectors.len() - first);
        if vectors.encoding() == Encoding::I8 {
            for a in queries.clone() {
                (first..first + rows).for_each(|b| keep(a, b, vectors.similarity(a, b)));
            }
            continue;
        }
        let products = &mut products[..queries.len() * rows];
        vectors.kernel.products_f16(dim, &as_f32, &vectors.rows_f16()[first * dim..][..rows * dim], products);
        for (a, products) in queries.clone().zip(products.chunks_exact(rows)) {
            products.iter().enumerate().for_each(|(b, &similarity)| keep(a, first + b, similarity));
        }
    }
    pairs
}

fn near_in_graph(
    graph: &Graph,
    queries: std::ops::Range<usize>,
    threshold: f32,
) -> Result<Vec<(usize, usize)>> {
    let mut pairs = Vec::new();
    for row in queries {
        let near = graph.neighbours(row, NEIGHBOURS)?;
        pairs.extend(near.iter().filter(|near| near.similarity >= threshold).map(|near| (row, near.row)));
    }
    Ok(pairs)
}

/// Rows that were joined, as trees (union-find).
struct Groups {
    parent: Vec<usize>,
}

impl Groups {
    fn new(count: usize) -> Self {
        Self { parent: (0..count).collect() }
    }

    fn root(&mut self, mut row: usize) -> usize {
        while self.parent[row] != row {
            self.parent[row] = self.parent[self.parent[row]];
            row = self.parent[row];
        }
        row
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        // The smaller is the root, so that groups come in the order of their first picture.
        self.parent[a.max(b)] = a.min(b);
    }

    fn into_ids(mut self, ids: &[i64]) -> Vec<Vec<i64>> {
        let mut groups: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        for row in 0..ids.len() {
            groups.entry(self.root(row)).or_default().push(ids[row]);
        }
        groups.into_values().filter(|group| group.len() > 1).collect()
    }
}
