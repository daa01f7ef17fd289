//! The database: scans, batches, locks and damage.

use std::fs;
use std::path::{Path, PathBuf};

use ocelli_index::{
    Candidate, Config, Content, Details, Encoding, Filter, Found, Index, IndexError, Near, Removed,
    ScanOptions, Writer, hash,
};

const OPTIONS: ScanOptions<'_> = ScanOptions { extensions: &["jpg", "png"], hidden: false, retry: false };

fn config() -> Config {
    Config { model: "a".into(), dim: 3, encoding: Encoding::F16 }
}

/// A vector that depends on the bytes.
fn vector_of(bytes: &[u8]) -> Vec<f32> {
    hash(bytes)[..3].iter().map(|&byte| f32::from(byte) - 127.5).collect()
}

/// What a program does with each candidate; files that begin with `bad` are no pictures.
fn look(writer: &Writer, file: &Candidate) -> Found {
    let bytes = fs::read(&file.path).unwrap();
    let hash = hash(&bytes);
    let content = match writer.picture_with(&hash).unwrap() {
        _ if bytes.starts_with(b"bad") => Content::Unreadable("not a picture".into()),
        Some(id) => Content::Known(id),
        None => Content::New { hash, details: Details::default(), vector: vector_of(&bytes) },
    };
    Found { file: file.clone(), content }
}

/// One run over `root`: files looked into, and what was removed.
fn run(db: &Path, root: &Path) -> (Vec<String>, Removed) {
    let mut writer = Writer::open(db, &config()).unwrap();
    let scan = writer.scan(&[root.to_owned()], &OPTIONS).unwrap();
    let batch: Vec<Found> = scan.candidates.iter().map(|file| look(&writer, file)).collect();
    writer.commit(&batch).unwrap();
    let names =
        scan.candidates.iter().map(|c| c.path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    (names, writer.finish(&scan).unwrap())
}

struct World {
    _dir: tempfile::TempDir,
    root: PathBuf,
    db: PathBuf,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("photos");
    fs::create_dir_all(root.join("trip/.thumbnails")).unwrap();
    for (name, content) in [
        ("a.jpg", "first"),
        ("b.PNG", "second"),
        ("trip/c.jpg", "third"),
        ("trip/copy of a.jpg", "first"),
        ("trip/.thumbnails/t.jpg", "thumbnail"),
        ("broken.jpg", "bad bytes"),
        ("notes.txt", "not looked at"),
    ] {
        fs::write(root.join(name), content).unwrap();
    }
    World { root, db: dir.path().join("index.sqlite"), _dir: dir }
}

#[test]
fn unchanged_files_are_not_looked_into_again() {
    let w = world();
    let (looked, removed) = run(&w.db, &w.root);
    assert_eq!(looked, ["a.jpg", "b.PNG", "broken.jpg", "c.jpg", "copy of a.jpg"]);
    assert_eq!(removed, Removed::default());
    let generation = Index::open(&w.db).unwrap().generation().unwrap();
    assert_eq!(run(&w.db, &w.root).0, Vec::<String>::new());
    let index = Index::open(&w.db).unwrap();
    assert_eq!(index.generation().unwrap(), generation, "a run without change makes nothing stale");
    assert_eq!(index.len().unwrap(), 3, "equal files are one picture");
    let failures = index.failures().unwrap();
    assert_eq!(failures.len(), 1);
    assert!(failures[0].path.ends_with("broken.jpg") && failures[0].reason == "not a picture");
    let stats = index.stats().unwrap();
    assert_eq!((stats.pictures, stats.files, stats.failures), (3, 4, 1));
}

#[test]
fn moved_changed_and_deleted_files() {
    let w = world();
    run(&w.db, &w.root);
    let id = |name: &str| {
        Index::open(&w.db).unwrap().picture_of(&w.root.canonicalize().unwrap().join(name)).unwrap()
    };
    let (second, third) = (id("b.PNG").unwrap(), id("trip/c.jpg").unwrap());
    fs::rename(w.root.join("b.PNG"), w.root.join("trip/moved.png")).unwrap();
    fs::write(w.root.join("trip/c.jpg"), "another third").unwrap();
    fs::remove_file(w.root.join("a.jpg")).unwrap();
    let (looked, removed) = run(&w.db, &w.root);
    assert_eq!(looked, ["c.jpg", "moved.png"]);
    assert_eq!(removed, Removed { files: 2, pictures: 0 }, "b.PNG and a.jpg; both contents are still there");
    assert_eq!(id("trip/moved.png"), Some(second), "a moved file keeps its picture");
    assert_eq!(id("b.PNG"), None);
    assert!(id("trip/c.jpg").unwrap() > third, "ids are not given again");
    let index = Index::open(&w.db).unwrap();
    assert!(matches!(index.picture(third), Err(IndexError::NoPicture(_))));
    fs::remove_file(w.root.join("trip/copy of a.jpg")).unwrap();
    assert_eq!(run(&w.db, &w.root).1, Removed { files: 1, pictures: 1 });
}

#[test]
fn other_roots_and_unreadable_directories_stay() {
    let w = world();
    run(&w.db, &w.root);
    // Only the subdirectory is scanned: files elsewhere are not gone.
    assert_eq!(run(&w.db, &w.root.join("trip")).1, Removed::default());
    assert_eq!(Index::open(&w.db).unwrap().len().unwrap(), 3);
    let missing = w.root.join("not mounted");
    let error = Writer::open(&w.db, &config()).unwrap().scan(&[missing], &OPTIONS).unwrap_err();
    assert!(error.to_string().contains("not mounted"), "{error}");
}

#[test]
fn files_that_failed_are_tried_again_only_when_asked() {
    let w = world();
    run(&w.db, &w.root);
    let writer = Writer::open(&w.db, &config()).unwrap();
    let retry = ScanOptions { retry: true, ..OPTIONS };
    let scan = writer.scan(std::slice::from_ref(&w.root), &retry).unwrap();
    assert_eq!(scan.candidates.len(), 1);
    assert!(scan.candidates[0].path.ends_with("broken.jpg"));
}

#[cfg(unix)]
#[test]
fn names_that_are_no_unicode_and_links() {
    use std::os::unix::ffi::OsStrExt;
    let w = world();
    let odd = w.root.join(std::ffi::OsStr::from_bytes(b"caf\xe9.jpg"));
    fs::write(&odd, "odd").unwrap();
    std::os::unix::fs::symlink(&w.root, w.root.join("trip/circle")).unwrap();
    std::os::unix::fs::symlink("nowhere", w.root.join("dangling.jpg")).unwrap();
    run(&w.db, &w.root);
    let index = Index::open(&w.db).unwrap();
    let odd = odd.canonicalize().unwrap();
    let id = index.picture_of(&odd).unwrap().unwrap();
    assert_eq!(index.picture(id).unwrap().files, [odd]);
    assert_eq!(index.len().unwrap(), 4);
    assert_eq!(run(&w.db, &w.root).0, Vec::<String>::new());
}

#[test]
fn one_writer_at_a_time_and_readers_beside_it() {
    let w = world();
    run(&w.db, &w.root);
    let writer = Writer::open(&w.db, &config()).unwrap();
    let error = Writer::open(&w.db, &config()).err().unwrap();
    assert!(matches!(error, IndexError::Busy { .. }), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert_eq!(Index::open(&w.db).unwrap().vectors().unwrap().len(), 3);
    drop(writer);
    Writer::open(&w.db, &config()).unwrap();
}

#[test]
fn another_model_is_refused_with_advice() {
    let w = world();
    run(&w.db, &w.root);
    for other in [
        Config { model: "b".into(), ..config() },
        Config { dim: 4, ..config() },
        Config { encoding: Encoding::I8, ..config() },
    ] {
        let error = Writer::open(&w.db, &other).err().unwrap().to_string();
        assert!(error.contains("a (3 x f16)") && error.contains("choose another index file"), "{error}");
    }
    let mut writer = Writer::open(&w.db, &config()).unwrap();
    let file = Candidate { path: "/x.jpg".into(), size: 0, modified_ns: 0 };
    let new = |vector| Content::New { hash: [9; 32], details: Details::default(), vector };
    for vector in [vec![1.0; 2], vec![0.0; 3], vec![f32::NAN; 3]] {
        let batch = [
            Found {
                file: Candidate { path: "/good.jpg".into(), ..file.clone() },
                content: Content::Unreadable("x".into()),
            },
            Found { file: file.clone(), content: new(vector) },
        ];
        assert!(writer.commit(&batch).is_err());
    }
    assert_eq!(writer.failures().unwrap().len(), 1, "a batch that fails leaves nothing behind");
}

#[test]
fn files_that_are_no_index_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sqlite");
    assert!(matches!(Index::open(&path), Err(IndexError::Missing { .. })));
    fs::write(&path, "no database at all, but long enough to be looked at").unwrap();
    assert!(Index::open(&path).is_err());
    assert!(Writer::open(&path, &config()).is_err());
    fs::remove_file(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE mail (x); PRAGMA user_version = 7").unwrap();
    assert!(matches!(Index::open(&path), Err(IndexError::Foreign { .. })));
    assert!(matches!(Writer::open(&path, &config()), Err(IndexError::Foreign { .. })));
    other.execute_batch("PRAGMA application_id = 0x4f636549; PRAGMA user_version = 99").unwrap();
    assert!(matches!(Index::open(&path), Err(IndexError::TooNew { found: 99, .. })));
}

#[test]
fn a_damaged_vector_is_named_and_a_damaged_matrix_is_made_anew() {
    let w = world();
    run(&w.db, &w.root);
    let index = Index::open(&w.db).unwrap();
    let matrix = w.db.with_file_name("index.sqlite.vectors");
    let expected: Vec<Vec<f32>> = {
        let vectors = index.vectors().unwrap();
        (0..3).map(|row| vectors.row(row)).collect()
    };
    let whole = fs::read(&matrix).unwrap();
    for damage in [vec![], whole[..10].to_vec(), whole[..whole.len() - 1].to_vec(), vec![0; whole.len()]] {
        // Replaced, as another process would: the old one may still be mapped.
        fs::remove_file(&matrix).unwrap();
        fs::write(&matrix, damage).unwrap();
        let vectors = index.vectors().unwrap();
        assert_eq!((0..3).map(|row| vectors.row(row)).collect::<Vec<_>>(), expected);
        assert_eq!(fs::read(&matrix).unwrap(), whole);
    }
    let db = rusqlite::Connection::open(&w.db).unwrap();
    db.execute_batch("UPDATE vectors SET vector = x'00' WHERE picture = 2; UPDATE meta SET value = 99 WHERE key = 'generation'")
        .unwrap();
    let error = index.vectors().err().unwrap().to_string();
    assert!(error.contains("picture 2") && error.contains("damaged"), "{error}");
}

#[test]
fn filters() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("index.sqlite");
    let mut writer = Writer::open(&db, &config()).unwrap();
    let mut add = |path: &str, details: Details| {
        let file = Candidate { path: path.into(), size: 1, modified_ns: 0 };
        let hash = hash(path.as_bytes());
        writer
            .commit(&[Found { file, content: Content::New { hash, details, vector: vec![1.0, 0.0, 0.0] } }])
            .unwrap();
    };
    // 2024-05-01 00:30 in Munich is 2024-04-30 22:30 in UTC.
    let munich = Details {
        captured_at: Some(1_714_516_200),
        offset_minutes: Some(120),
        gps: Some((48.14, 11.58)),
        camera_make: Some("Canon".into()),
        camera_model: Some("EOS R5".into()),
        ..Details::default()
    };
    add("/photos/Munich/one.jpg", munich);
    let fiji = Details { gps: Some((-17.0, -179.95)), captured_at: Some(0), ..Details::default() };
    add("/photos/fiji/two.jpg", fiji);
    add("/other/three.jpg", Details::default());
    let select = |filter: Filter| Index::open(&db).unwrap().select(&filter).unwrap();
    assert_eq!(select(Filter::default()), [1, 2, 3]);
    let (may, june) = ocelli_index::parse_date("2024-05").unwrap();
    assert_eq!(select(Filter { since: Some(may), until: Some(june), ..Filter::default() }), [1]);
    assert_eq!(select(Filter { until: Some(may), ..Filter::default() }), [2]);
    let near = |text: &str| Some(text.parse::<Near>().unwrap());
    assert_eq!(select(Filter { near: near("48.1,11.6,10"), ..Filter::default() }), [1]);
    assert_eq!(
        select(Filter { near: near("-17,179.95,20"), ..Filter::default() }),
        [2],
        "over the date line"
    );
    for camera in ["canon", "EOS r5", "Canon EOS"] {
        assert_eq!(select(Filter { camera: Some(camera.into()), ..Filter::default() }), [1], "{camera}");
    }
    for (path, expected) in
        [("munich", vec![1]), ("/photos/*", vec![1, 2]), ("*.png", vec![]), ("THREE", vec![3])]
    {
        assert_eq!(select(Filter { path: Some(path.into()), ..Filter::default() }), expected, "{path}");
    }
    let stats = Index::open(&db).unwrap().stats().unwrap();
    assert_eq!((stats.dated, stats.placed), (2, 2));
    assert_eq!(stats.years.iter().map(|y| y.name.as_str()).collect::<Vec<_>>(), ["1970", "2024"]);
    assert_eq!(stats.cameras[0].name, "Canon EOS R5");
}
