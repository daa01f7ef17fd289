//! How long a search takes, beside the time that this machine needs just to read the same bytes.
//!
//! ```text
//! cargo run --release -p ocelli-index --example search_latency -- DIR COUNT f16|i8 [--graph] [--dim N]
//! ```
//!
//! Makes an index of `COUNT` random vectors in `DIR` (kept there, so that a second run only measures) and writes
//! one JSON object a measurement to stdout. The vectors lie around a plane of 64 dimensions, as embeddings of
//! photos lie near a few directions: vectors without any structure are no case that a graph is made for.
//! Exact search and plain reading take turns, so that a busy machine slows both.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ocelli_index::{
    Candidate, Config, Content, Details, Encoding, Found, Index, Kernel, Vectors, Writer, hash,
};
use serde_json::{Value, json};

/// Directions that vectors mostly lie in.
const PLANE: usize = 64;
/// Length of what does not lie in the plane, beside 1 for what does.
const NOISE: f32 = 0.4;
const QUERIES: usize = 50;
const HITS: usize = 10;

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Mean 0, variance 1, nearly normal: a sum of uniform numbers.
    fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let part = |shift: u32| ((bits >> shift) & 0xffff) as f32 / 65_536.0;
        ((part(0) + part(16) + part(32) + part(48)) - 2.0) * 3.0_f32.sqrt()
    }
}

struct World {
    dim: usize,
    plane: Vec<Vec<f32>>,
    random: Random,
}

impl World {
    fn new(dim: usize, seed: u64) -> Self {
        let mut random = Random(17);
        let plane = (0..PLANE).map(|_| (0..dim).map(|_| random.normal()).collect()).collect();
        Self { dim, plane, random: Random(seed) }
    }

    fn vector(&mut self) -> Vec<f32> {
        let mut vector = vec![0.0; self.dim];
        for direction in &self.plane {
            let weight = self.random.normal() / (PLANE as f32).sqrt();
            vector.iter_mut().zip(direction).for_each(|(v, d)| *v += weight * d);
        }
        vector.iter_mut().for_each(|v| *v += NOISE * self.random.normal());
        vector
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, count, encoding, more @ ..] = args.as_slice() else {
        return Err("usage: search_latency DIR COUNT f16|i8 [--graph] [--dim N]".into());
    };
    let (count, encoding): (usize, Encoding) = (count.parse()?, encoding.parse()?);
    let dim = match more.iter().position(|arg| arg == "--dim") {
        Some(at) => more.get(at + 1).ok_or("--dim needs a number")?.parse()?,
        None => 512,
    };
    let path = PathBuf::from(dir).join(format!("{count}-{}-{dim}.sqlite", encoding.name()));
    let base =
        json!({"vectors": count, "dim": dim, "encoding": encoding.name(), "kernel": Kernel::detect().name()});
    let config = Config { model: "random".into(), dim, encoding };
    if !path.is_file() {
        fill(&path, &config, count, &base)?;
    }
    let index = Index::open(&path)?;
    let start = Instant::now();
    let vectors = Arc::new(index.vectors()?);
    let first_ms = ms(start);
    let start = Instant::now();
    drop(index.vectors()?);
    report(
        &base,
        json!({
            "bench": "open", "matrix_made_ms": first_ms, "open_ms": ms(start),
            "database_bytes": size(&path, ""), "matrix_bytes": size(&path, ".vectors"),
        }),
    );
    let mut world = World::new(dim, 99);
    let queries: Vec<Vec<f32>> = (0..QUERIES).map(|_| world.vector()).collect();
    let matrix = std::fs::File::open(with_ending(&path, ".vectors"))?;
    let bytes = Plain::map(&matrix)?;
    for threads in [1, 2] {
        exact(&base, &vectors, &queries, threads, &bytes)?;
    }
    if more.iter().any(|arg| arg == "--graph") {
        graph(&base, &index, &vectors, &queries, &path)?;
    }
    report(&base, json!({"bench": "memory", "peak_rss_bytes": peak_rss()}));
    Ok(())
}

/// The matrix file, mapped by this program itself.
struct Plain(memmap2::Mmap);

impl Plain {
    fn map(file: &std::fs::File) -> std::io::Result<Self> {
        // SAFETY: nobody changes the file of this benchmark while it runs.
        Ok(Self(unsafe { memmap2::Mmap::map(file)? }))
    }

    /// Add up all words, on so many threads: what reading alone costs.
    fn read(&self, threads: usize) -> u64 {
        let words = self.0.len() / 8 / threads * 8;
        std::thread::scope(|scope| {
            let parts: Vec<_> = (0..threads)
                .map(|t| {
                    let part = &self.0[t * words..(t + 1) * words];
                    scope.spawn(move || {
                        let mut sums = [0_u64; 16];
                        for line in part.chunks_exact(128) {
                            for (sum, word) in sums.iter_mut().zip(line.chunks_exact(8)) {
                                let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
                                *sum = sum.wrapping_add(word);
                            }
                        }
                        sums.iter().fold(0_u64, |a, b| a.wrapping_add(*b))
                    })
                })
                .collect();
            parts.into_iter().map(|part| part.join().unwrap_or(0)).fold(0, u64::wrapping_add)
        })
    }
}

fn fill(path: &Path, config: &Config, count: usize, base: &Value) -> Result<(), Box<dyn std::error::Error>> {
    const BATCH: usize = 10_000;
    let start = Instant::now();
    let mut world = World::new(config.dim, 1);
    let mut writer = Writer::open(path, config)?;
    for first in (0..count).step_by(BATCH) {
        let found = |i: usize, vector| {
            let name = format!("/photos/{i:08}.jpg");
            let hash = hash(name.as_bytes());
            let content = Content::New { hash, details: Details::default(), vector };
            Found { file: Candidate { path: name.into(), size: 1, modified_ns: 0 }, content }
        };
        let batch: Vec<Found> = (first..count.min(first + BATCH)).map(|i| found(i, world.vector())).collect();
        writer.commit(&batch)?;
        if first % 100_000 == 0 {
            eprintln!("{first} of {count}");
        }
    }
    report(base, json!({"bench": "fill", "seconds": start.elapsed().as_secs_f64()}));
    Ok(())
}

fn exact(
    base: &Value,
    vectors: &Vectors,
    queries: &[Vec<f32>],
    threads: usize,
    bytes: &Plain,
) -> Result<(), Box<dyn std::error::Error>> {
    let runs = if vectors.len() > 5_000_000 { 9 } else { queries.len() };
    let (mut search, mut read) = (Vec::new(), Vec::new());
    let mut sum = 0_u64;
    for query in &queries[..runs] {
        let start = Instant::now();
        vectors.search_on(threads, query, HITS, None)?;
        search.push(ms(start));
        let start = Instant::now();
        sum = sum.wrapping_add(bytes.read(threads));
        read.push(ms(start));
    }
    let (search, read) = (quantiles(search), quantiles(read));
    let gigabytes = vectors.row_bytes() as f64 / 1e9;
    report(
        base,
        json!({
            "bench": "exact", "threads": threads, "n": runs, "median_ms": search.0, "p90_ms": search.1,
            "read_median_ms": read.0, "read_p90_ms": read.1, "ratio_to_reading": search.0 / read.0,
            "gb_per_s": gigabytes / search.0 * 1e3, "read_gb_per_s": gigabytes / read.0 * 1e3, "checksum": sum % 1000,
        }),
    );
    Ok(())
}

fn graph(
    base: &Value,
    index: &Index,
    vectors: &Arc<Vectors>,
    queries: &[Vec<f32>],
    path: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let (graph, seconds) = match index.graph(vectors)? {
        Some(graph) => (graph, None),
        None => {
            let mut next = 0;
            let built = index.build_graph(vectors, &mut |done| {
                if done >= next {
                    eprintln!("{done} nodes after {:.0} s", start.elapsed().as_secs_f64());
                    next = done + vectors.len() / 10;
                }
                true
            })?;
            (built, Some(start.elapsed().as_secs_f64()))
        }
    };
    let (mut times, mut hits) = (Vec::new(), 0);
    for query in queries {
        let expected: Vec<i64> = vectors.search(query, HITS, None)?.hits.iter().map(|hit| hit.id).collect();
        graph.search(query, HITS, None)?;
        let start = Instant::now();
        let found = graph.search(query, HITS, None)?;
        times.push(ms(start));
        hits += found.hits.iter().filter(|hit| expected.contains(&hit.id)).count();
    }
    let times = quantiles(times);
    report(
        base,
        json!({
            "bench": "graph", "n": queries.len(), "median_ms": times.0, "p90_ms": times.1,
            "recall_at_10": hits as f64 / (queries.len() * HITS) as f64, "build_seconds": seconds,
            "graph_bytes": size(path, ".graph"),
        }),
    );
    Ok(())
}

fn report(base: &Value, mut line: Value) {
    if let (Some(line), Some(base)) = (line.as_object_mut(), base.as_object()) {
        line.extend(base.clone());
        line.retain(|_, value| !value.is_null());
    }
    println!("{line}");
}

/// Median and P90 (nearest rank).
fn quantiles(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((share * times.len() as f64).ceil() as usize).clamp(1, times.len()) - 1];
    (at(0.5), at(0.9))
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn size(path: &Path, ending: &str) -> u64 {
    std::fs::metadata(with_ending(path, ending)).map_or(0, |file| file.len())
}

/// Linux only; 0 elsewhere.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    let kilobytes = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
