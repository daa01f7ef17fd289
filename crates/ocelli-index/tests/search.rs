//! Search, graph and duplicates against the plainest code that could do the same.

use std::path::Path;
use std::sync::Arc;

use ocelli_index::{
    Candidate, Config, Content, Details, Encoding, Found, Index, Selection, Vectors, Writer, near_duplicates,
};

/// SplitMix64, as directions around `clusters` centres: pictures are no uniform noise.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u64 << 24) as f32
    }

    fn vector(&mut self, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| self.uniform() + self.uniform() + self.uniform() - 1.5).collect()
    }
}

fn add(db: &Path, config: &Config, first: usize, vectors: &[Vec<f32>]) {
    let mut writer = Writer::open(db, config).unwrap();
    let found = |(i, vector): (usize, &Vec<f32>)| {
        let name = format!("/{}.jpg", first + i);
        let hash = ocelli_index::hash(name.as_bytes());
        let content = Content::New { hash, details: Details::default(), vector: vector.clone() };
        Found { file: Candidate { path: name.into(), size: 1, modified_ns: 0 }, content }
    };
    let batch: Vec<Found> = vectors.iter().enumerate().map(found).collect();
    writer.commit(&batch).unwrap();
}

/// Ids of the nearest, by sorting everything.
fn by_sorting(vectors: &Vectors, query: &[f32], count: usize, among: &dyn Fn(i64) -> bool) -> Vec<i64> {
    sorted(vectors, query, count, among).into_iter().map(|(_, id)| id).collect()
}

/// The nearest with their cosines, by sorting everything.
fn sorted(vectors: &Vectors, query: &[f32], count: usize, among: &dyn Fn(i64) -> bool) -> Vec<(f64, i64)> {
    let length = query.iter().map(|x| x * x).sum::<f32>().sqrt();
    let mut all: Vec<(f64, i64)> = (0..vectors.len())
        .map(|row| {
            let sum: f64 =
                vectors.row(row).iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b / length)).sum();
            (sum, vectors.ids()[row])
        })
        .filter(|(_, id)| among(*id))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    all.truncate(count);
    all
}

fn config(dim: usize, encoding: Encoding) -> Config {
    Config { model: "random".into(), dim, encoding }
}

#[test]
fn the_nearest_are_those_that_sorting_finds() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(1);
    for (case, (dim, count, encoding)) in [
        (33, 1, Encoding::F16),
        (33, 5000, Encoding::F16),
        (512, 2100, Encoding::F16),
        (65, 3000, Encoding::I8),
    ]
    .into_iter()
    .enumerate()
    {
        let db = dir.path().join(format!("{case}.sqlite"));
        let all: Vec<Vec<f32>> = (0..count).map(|_| random.vector(dim)).collect();
        add(&db, &config(dim, encoding), 0, &all);
        let vectors = Index::open(&db).unwrap().vectors().unwrap();
        // The query of i8 rows is rounded to 13 bits.
        let limit = if encoding == Encoding::I8 { 5e-4 } else { 1e-5 };
        for _ in 0..10 {
            let query = random.vector(dim);
            let among = Selection::new(&vectors, &(1..=count as i64).step_by(3).collect::<Vec<_>>());
            for threads in [1, 2, 5] {
                let check = |selection: Option<&Selection>, counts: &dyn Fn(i64) -> bool| {
                    let hits = vectors.search_on(threads, &query, 20, selection).unwrap().hits;
                    let expected = sorted(&vectors, &query, 20, counts);
                    assert_eq!(hits.len(), expected.len());
                    for (hit, (similarity, id)) in hits.iter().zip(expected) {
                        // Of two that are equally near, rounding may prefer either.
                        assert!(
                            (f64::from(hit.similarity) - similarity).abs() < limit,
                            "{hit:?} {similarity} {id}"
                        );
                        assert!(counts(hit.id) && (limit > 1e-5 || hit.id == id));
                    }
                };
                check(None, &|_| true);
                check(Some(&among), &|id| id % 3 == 1);
            }
        }
        assert!(vectors.search(&vec![1.0; dim + 1], 1, None).is_err());
        assert!(vectors.search(&vec![0.0; dim], 1, None).is_err());
        assert!(vectors.search(&vec![1.0; dim], 0, None).unwrap().hits.is_empty());
    }
}

#[test]
fn what_was_put_in_is_found_again_and_noise_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("index.sqlite");
    let mut random = Random(2);
    let all: Vec<Vec<f32>> = (0..3000).map(|_| random.vector(512)).collect();
    add(&db, &config(512, Encoding::F16), 0, &all);
    let vectors = Index::open(&db).unwrap().vectors().unwrap();
    let near: Vec<f32> = all[1234].iter().zip(random.vector(512)).map(|(a, b)| a + b).collect();
    let answer = vectors.search(&near, 3, None).unwrap();
    assert_eq!(answer.hits[0].id, 1235);
    assert!(answer.hits[0].score > 0.99 && answer.hits[1].score < 0.9, "{:?}", answer.hits);
}

fn recall(found: &[i64], expected: &[i64]) -> usize {
    found.iter().filter(|id| expected.contains(id)).count()
}

#[test]
fn the_graph_finds_nearly_all_and_follows_the_index() {
    for encoding in [Encoding::F16, Encoding::I8] {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("index.sqlite");
        let mut random = Random(3);
        let config = config(64, encoding);
        let all: Vec<Vec<f32>> = (0..4000).map(|_| random.vector(64)).collect();
        add(&db, &config, 0, &all);
        let index = Index::open(&db).unwrap();
        assert!(index.graph(&Arc::new(index.vectors().unwrap())).unwrap().is_none());
        index.build_graph(&Arc::new(index.vectors().unwrap()), &mut |_| true).unwrap();
        let check = |expected_nodes: usize| {
            let vectors = Arc::new(index.vectors().unwrap());
            let graph = index.graph(&vectors).unwrap().expect("the graph is fresh enough");
            assert_eq!(graph.len(), expected_nodes);
            let mut random = Random(4);
            let half = Selection::new(&vectors, &(1..=5000).step_by(2).collect::<Vec<_>>());
            let (mut hits, mut selected) = (0, 0);
            for _ in 0..50 {
                let query = random.vector(64);
                let ids = |among| {
                    graph.search(&query, 10, among).unwrap().hits.iter().map(|h| h.id).collect::<Vec<_>>()
                };
                hits += recall(&ids(None), &by_sorting(&vectors, &query, 10, &|_| true));
                let odd = ids(Some(&half));
                assert!(odd.iter().all(|id| id % 2 == 1));
                selected += recall(&odd, &by_sorting(&vectors, &query, 10, &|id| id % 2 == 1));
            }
            assert!(hits >= 475 && selected >= 450, "{encoding:?}: {hits} and {selected} of 500");
        };
        check(4000);
        // New pictures stand behind the graph and are found; removed ones are passed over.
        add(&db, &config, 4000, &(0..100).map(|_| random.vector(64)).collect::<Vec<_>>());
        let gone = rusqlite::Connection::open(&db).unwrap();
        gone.execute_batch(
            "DELETE FROM files WHERE picture % 50 = 7; DELETE FROM vectors WHERE picture % 50 = 7;
             DELETE FROM pictures WHERE id % 50 = 7; UPDATE meta SET value = value + 1 WHERE key = 'generation'",
        )
        .unwrap();
        check(4000);
        // Too much has changed for the graph.
        add(&db, &config, 4100, &(0..600).map(|_| random.vector(64)).collect::<Vec<_>>());
        assert!(index.graph(&Arc::new(index.vectors().unwrap())).unwrap().is_none());
    }
}

#[test]
fn a_damaged_or_foreign_graph_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(5);
    let config = config(16, Encoding::F16);
    let all: Vec<Vec<f32>> = (0..100).map(|_| random.vector(16)).collect();
    let dbs: Vec<_> = ["a", "b"].iter().map(|name| dir.path().join(name)).collect();
    dbs.iter().for_each(|db| add(db, &config, 0, &all));
    let index = Index::open(&dbs[0]).unwrap();
    let vectors = Arc::new(index.vectors().unwrap());
    index.build_graph(&vectors, &mut |_| true).unwrap();
    let (file, whole) = (dir.path().join("a.graph"), std::fs::read(dir.path().join("a.graph")).unwrap());
    for damage in [&[][..], &whole[..40], &whole[..whole.len() - 1], &vec![0; whole.len()]] {
        std::fs::write(&file, damage).unwrap();
        assert!(index.graph(&vectors).unwrap().is_none());
    }
    std::fs::write(dir.path().join("b.graph"), &whole).unwrap();
    let other = Index::open(&dbs[1]).unwrap();
    assert!(other.graph(&Arc::new(other.vectors().unwrap())).unwrap().is_none(), "it is of another index");
}

#[test]
fn building_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("index.sqlite");
    let mut random = Random(6);
    let all: Vec<Vec<f32>> = (0..20_000).map(|_| random.vector(16)).collect();
    add(&db, &config(16, Encoding::F16), 0, &all);
    let index = Index::open(&db).unwrap();
    let stopped = index.build_graph(&Arc::new(index.vectors().unwrap()), &mut |_| false);
    assert!(stopped.is_err_and(|error| error.to_string().contains("stopped")));
    assert_eq!(
        std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| { e.as_ref().unwrap().file_name().to_string_lossy().contains("graph") })
            .count(),
        0
    );
}

#[test]
fn near_duplicates_are_grouped() {
    for encoding in [Encoding::F16, Encoding::I8] {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("index.sqlite");
        let mut random = Random(7);
        let mut all: Vec<Vec<f32>> = (0..700).map(|_| random.vector(64)).collect();
        // 10 and 650 look like 3, 699 like 500.
        for (copy, of) in [(10, 3), (650, 3), (699, 500)] {
            all[copy] = all[of].iter().zip(random.vector(64)).map(|(a, b)| a + 0.05 * b).collect();
        }
        add(&db, &config(64, encoding), 0, &all);
        let index = Index::open(&db).unwrap();
        let vectors = Arc::new(index.vectors().unwrap());
        let expected = vec![vec![4, 11, 651], vec![501, 700]];
        assert_eq!(near_duplicates(&vectors, None, 0.95, &mut |_| true).unwrap(), expected);
        let graph = index.build_graph(&vectors, &mut |_| true).unwrap();
        assert_eq!(near_duplicates(&vectors, Some(&graph), 0.95, &mut |_| true).unwrap(), expected);
        let whole = near_duplicates(&vectors, None, -1.0, &mut |_| true).unwrap();
        assert_eq!((whole.len(), whole[0].len()), (1, 700));
    }
}
