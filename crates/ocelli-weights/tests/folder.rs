//! Models whose files are not in a directory: only ranges of bytes can be had.

mod support;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ocelli_plan::WeightSource;
use ocelli_weights::{Checkpoint, ClipCheckpoint, Directory, FileBytes, Folder, LoadError, Weights};
use support::fixture;

/// The files of a directory, in memory, that only give ranges.
#[derive(Clone, Default)]
struct Ranges {
    files: BTreeMap<String, Arc<File>>,
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    reads: AtomicUsize,
    longest: AtomicUsize,
    /// Reads from here on fail.
    broken_from: Mutex<Option<u64>>,
}

struct Handle(Arc<File>);

impl Ranges {
    fn of(dir: &Path) -> Self {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_file() {
                let bytes = std::fs::read(&path).expect("bytes");
                files.insert(name, Arc::new(File { bytes, ..File::default() }));
            }
        }
        Self { files }
    }

    fn replace(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.insert(name.to_owned(), Arc::new(File { bytes, ..File::default() }));
    }
}

impl Folder for Ranges {
    fn path(&self) -> &Path {
        Path::new("downloads/tiny")
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileBytes>> {
        let file = self.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Handle(Arc::clone(file))))
    }
}

impl FileBytes for Handle {
    fn size(&self) -> u64 {
        self.0.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, target: &mut [u8]) -> io::Result<()> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        self.0.longest.fetch_max(target.len(), Ordering::Relaxed);
        if self.0.broken_from.lock().expect("lock").is_some_and(|from| offset + target.len() as u64 > from) {
            return Err(io::Error::other("the handle is closed"));
        }
        let bytes = self.0.bytes.get(offset as usize..).and_then(|rest| rest.get(..target.len()));
        target.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Every tensor of both, at once, row by row, and in blocks where it is stored so.
fn assert_same(ours: &Weights, theirs: &Weights) {
    let names: Vec<_> = theirs.iter().map(|tensor| tensor.name.to_owned()).collect();
    assert_eq!(ours.iter().map(|tensor| tensor.name).collect::<Vec<_>>(), names);
    for name in &names {
        let expected = theirs.read(name).expect("mapped");
        assert_eq!(ours.read(name).expect("ranges"), expected, "{name}");
        let shape = theirs.shape(name).expect("shape");
        let rows = shape.first().copied().unwrap_or(1);
        let row_len = expected.len() / rows;
        let mut row = vec![0.0; row_len];
        for at in (0..rows).rev().take(5) {
            ours.read_rows(name, at, &mut row).expect("row");
            assert_eq!(row, expected[at * row_len..][..row_len], "row {at} of {name}");
        }
        assert!(ours.read_rows(name, rows, &mut row).is_err(), "{name} has no row {rows}");
        if let Some(format) = theirs.block_format(name) {
            let mut blocks = [(); 2].map(|()| vec![0; rows * format.row_bytes(row_len)]);
            ours.read_blocks(name, 0, &mut blocks[0]).expect("blocks");
            theirs.read_blocks(name, 0, &mut blocks[1]).expect("blocks");
            assert_eq!(blocks[0], blocks[1], "{name}");
            assert!(ours.read_blocks(name, 1, &mut blocks[0]).is_err(), "{name}");
        }
    }
}

#[test]
fn every_layout_reads_the_same_as_from_a_directory() {
    for name in ["fastvlm-apple", "fastvlm-native"] {
        let ranges = Ranges::of(&fixture(name));
        let ours = Checkpoint::open_folder(&ranges, None).expect(name);
        let theirs = Checkpoint::open(&fixture(name), None).expect(name);
        assert_eq!((&ours.report, ours.fingerprint()), (&theirs.report, theirs.fingerprint()));
        assert_eq!(ours.config.name, "tiny");
        assert_same(ours.weights(), theirs.weights());
    }
    for name in ["fastvlm-mlx-4bit", "fastvlm-mlx-8bit", "fastvlm-mlx-fp16"] {
        let tower = Ranges::of(&fixture("fastvlm-apple"));
        let ours = Checkpoint::open_folder(&Ranges::of(&fixture(name)), Some(&tower)).expect(name);
        let theirs = Checkpoint::open(&fixture(name), Some(&fixture("fastvlm-apple"))).expect(name);
        assert_same(ours.weights(), theirs.weights());
    }
    for name in ["mobileclip-s0", "mobileclip-s2", "mobileclip-s3", "mobileclip-b", "mobileclip-l14"] {
        let ours = ClipCheckpoint::open_folder(&Ranges::of(&fixture(name))).expect(name);
        let theirs = ClipCheckpoint::open(&fixture(name)).expect(name);
        assert_eq!((&ours.report, ours.fingerprint()), (&theirs.report, theirs.fingerprint()));
        assert_same(ours.weights(), theirs.weights());
    }
}

#[test]
fn our_own_blocks_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let quantized = dir.path().join("q4");
    let policy = ocelli_weights::QuantPolicy::of(ocelli_plan::BlockFormat::Q4);
    ocelli_weights::write_quantized(&fixture("fastvlm-apple"), &quantized, policy, &mut |_, _| ())
        .expect("q4");
    let ours = Checkpoint::open_folder(&Ranges::of(&quantized), None).expect("ranges");
    let theirs = Checkpoint::open(&quantized, None).expect("mapped");
    assert!(theirs.weights().iter().any(|tensor| theirs.weights().block_format(tensor.name).is_some()));
    assert_same(ours.weights(), theirs.weights());
}

#[test]
fn opening_reads_headers_alone_and_rows_are_read_together() {
    let ranges = Ranges::of(&fixture("fastvlm-native"));
    let checkpoint = Checkpoint::open_folder(&ranges, None).expect("model");
    let file = &ranges.files["model.safetensors"];
    let header = u64::from_le_bytes(file.bytes[..8].try_into().expect("eight bytes")) as usize;
    assert_eq!(file.reads.load(Ordering::Relaxed), 2);
    assert_eq!(file.longest.load(Ordering::Relaxed), header);
    // Many short rows, one after another: one call out of the program for many of them.
    let name = "language.embed_tokens.weight";
    let shape = checkpoint.weights().shape(name).expect("shape").to_vec();
    let mut row = vec![0.0; shape[1]];
    for at in 0..shape[0] {
        checkpoint.weights().read_rows(name, at, &mut row).expect("row");
    }
    let reads = file.reads.load(Ordering::Relaxed) - 2;
    assert!(reads * 10 < shape[0], "{reads} reads for {} rows", shape[0]);
}

#[test]
fn failures_name_the_file() {
    let whole = Ranges::of(&fixture("fastvlm-native"));
    let error = |ranges: &Ranges| Checkpoint::open_folder(ranges, None).expect_err("broken").to_string();
    let bytes = &whole.files["model.safetensors"].bytes;

    let mut cut = whole.clone();
    for keep in [0, 7, 8, 100, bytes.len() - 1] {
        cut.replace("model.safetensors", bytes[..keep].to_vec());
        let text = error(&cut);
        assert!(text.starts_with("downloads/tiny/model.safetensors: the "), "{keep}: {text}");
    }
    let mut long = bytes.clone();
    long[..8].copy_from_slice(&(90_000_000u64).to_le_bytes());
    cut.replace("model.safetensors", long);
    assert!(error(&cut).contains("truncated or no safetensors file"));
    cut.replace("model.safetensors", b"PK\x03\x04 and so on".to_vec());
    assert!(error(&cut).contains("store the model as safetensors"));

    let mut none = whole.clone();
    none.files.remove("model.safetensors");
    assert!(error(&none).starts_with("downloads/tiny has no model.safetensors"), "{}", error(&none));
    none.files.remove("config.json");
    assert!(error(&none).starts_with("cannot read downloads/tiny/config.json"), "{}", error(&none));
}

#[test]
fn a_file_that_breaks_later_is_an_error_of_the_tensor() {
    for name in ["fastvlm-native", "fastvlm-apple"] {
        let ranges = Ranges::of(&fixture(name));
        let checkpoint = Checkpoint::open_folder(&ranges, None).expect(name);
        for file in ranges.files.values() {
            *file.broken_from.lock().expect("lock") = Some(0);
        }
        for tensor in checkpoint.weights().iter() {
            // Folded ones too.
            let error = checkpoint.weights().read(tensor.name).expect_err("broken").to_string();
            assert!(error.contains(tensor.name) && error.contains("the handle is closed"), "{error}");
            assert!(error.contains("downloads/tiny/model"), "{error}");
        }
    }
}

#[test]
fn kinds_are_told_apart_and_directories_are_folders() {
    assert!(ClipCheckpoint::is_clip_folder(&Ranges::of(&fixture("mobileclip-s0"))));
    assert!(!ClipCheckpoint::is_clip_folder(&Ranges::of(&fixture("fastvlm-native"))));
    let directory = Directory::new(&fixture("fastvlm-native"));
    assert!(directory.has("config.json") && !directory.has("no.json"));
    assert!(directory.names().expect("names").contains(&"model.safetensors".to_owned()));
    let mapped = directory.open("config.json").expect("file");
    let mut first = [0; 1];
    mapped.read_at(0, &mut first).expect("a byte");
    assert_eq!(&first, b"{");
    assert!(mapped.read_at(mapped.size(), &mut first).is_err());
    assert!(matches!(
        Checkpoint::open_folder(&Directory::new(Path::new("no such")), None),
        Err(LoadError::Io { .. })
    ));
}
