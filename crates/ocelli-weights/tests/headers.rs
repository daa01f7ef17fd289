//! Files that are no safetensors files, or not whole, or lie about themselves.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use ocelli_weights::{Checkpoint, HeaderError, LoadError, parse_header};
use safetensors::SafeTensors;
use support::{Raw, Tensors, fixture, read_dir, write_file};
use tempfile::TempDir;

/// A file with this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

fn error(header: &str, data: usize) -> HeaderError {
    parse_header(&file(header, data)).expect_err("a bad header")
}

/// `error(…)` is of this kind.
macro_rules! assert_error {
    ($error:expr, $pattern:pat) => {
        let error = $error;
        assert!(matches!(error, $pattern), "{error:?}");
    };
}

#[test]
fn good_headers() {
    let header = parse_header(&file("{}", 0)).expect("no tensors");
    assert!(header.tensors.is_empty());
    let text = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"F32","shape":[2,3],"data_offsets":[2,26]},
        "a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},
        "none":{"dtype":"F16","shape":[0,7],"data_offsets":[2,2]}}   "#;
    let header = parse_header(&file(text, 26)).expect("three tensors");
    let start = 8 + text.len();
    assert_eq!(header.tensors["b"].bytes, start + 2..start + 26);
    assert_eq!(header.tensors["b"].shape, [2, 3]);
    assert_eq!(header.tensors["a"].bytes, start..start + 2);
    assert!(header.tensors["none"].bytes.is_empty());
    assert_eq!(header.metadata["format"], "pt");
}

#[test]
fn lengths() {
    for len in 0..8 {
        assert_error!(parse_header(&vec![0; len]).expect_err("short"), HeaderError::TooShort { .. });
    }
    let with_length = |n: u64| {
        let mut bytes = file("{}", 0);
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        parse_header(&bytes).expect_err("a lie")
    };
    assert_error!(with_length(3), HeaderError::HeaderBeyondFile { header: 3, file: 10 });
    assert_error!(with_length(100_000_000), HeaderError::HeaderBeyondFile { .. });
    assert_error!(with_length(100_000_001), HeaderError::HeaderTooLong { .. });
    assert_error!(with_length(u64::MAX), HeaderError::HeaderTooLong { .. });
    assert_error!(with_length(0), HeaderError::NotJson { .. });
    assert_error!(with_length(1), HeaderError::NotJson { .. });
}

#[test]
fn not_json() {
    let mut bytes = file(r#"{"a":1}"#, 0);
    bytes[10] = 0xff;
    assert_error!(parse_header(&bytes).expect_err("bad"), HeaderError::NotUtf8);
    for text in [
        "",
        "[]",
        "null",
        "3",
        "\"\"",
        "{",
        "{}{}",
        r#"{"a"}"#,
        r#"{"a":{}}"#,
        r#"{"a":[]}"#,
        r#"{"a":null}"#,
        r#"{"a":{"dtype":"F32","shape":[1]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999999999999]}}"#,
        r#"{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"__metadata__":{},"__metadata__":{}}"#,
        &format!("{}1{}", "[".repeat(5000), "]".repeat(5000)),
        &format!(r#"{{"a":{}"#, r#"{"a":"#.repeat(5000)),
    ] {
        assert_error!(error(text, 4), HeaderError::NotJson { .. });
    }
}

#[test]
fn lies_about_tensors() {
    let entry = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |dtype: &str, shape: &str, offsets: &str| {
        error(&format!("{{{}}}", entry("a", dtype, shape, offsets)), 8)
    };
    let two = |a: &str, b: &str, data: usize| {
        let (a, b) = (entry("a", "U8", "[4]", a), entry("b", "U8", "[4]", b));
        error(&format!("{{{a},{b}}}"), data)
    };
    assert_error!(one("F31", "[2]", "[0,8]"), HeaderError::UnknownDtype { .. });
    assert_error!(one("f32", "[2]", "[0,8]"), HeaderError::UnknownDtype { .. });
    assert_error!(one("F32", "[1]", "[0,8]"), HeaderError::Size { expected: 4, found: 8, .. });
    assert_error!(one("F32", "[3]", "[0,8]"), HeaderError::Size { expected: 12, found: 8, .. });
    assert_error!(one("F32", "[2]", "[8,0]"), HeaderError::Reversed { .. });
    assert_error!(one("F32", "[4294967296,4294967296]", "[0,8]"), HeaderError::Overflow { .. });
    assert_error!(one("F64", "[2305843009213693952]", "[0,8]"), HeaderError::Overflow { .. });
    assert_error!(one("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), HeaderError::Rank { rank: 9, .. });
    assert_error!(one("F32", "[3]", "[0,12]"), HeaderError::Truncated { .. });
    assert_error!(one("F32", "[1]", "[0,4]"), HeaderError::TrailingBytes { .. });
    assert_error!(one("F32", "[1]", "[4,8]"), HeaderError::Hole { bytes: 4, .. });
    assert_error!(one("U8", "[8]", "[18446744073709551607,18446744073709551615]"), HeaderError::Hole { .. });
    assert_error!(two("[0,4]", "[2,6]", 6), HeaderError::Overlap { .. });
    assert_error!(two("[0,4]", "[0,4]", 4), HeaderError::Overlap { .. });
    assert_error!(two("[0,4]", "[6,10]", 10), HeaderError::Hole { bytes: 2, .. });
    assert_error!(two("[4,8]", "[8,12]", 12), HeaderError::Hole { .. });
    let twice = format!("{{{},{}}}", entry("a", "U8", "[4]", "[0,4]"), entry("a", "U8", "[4]", "[4,8]"));
    assert_error!(error(&twice, 8), HeaderError::Duplicate { .. });
    // Empty tensors may lie anywhere between two others, but not inside of one.
    let empty = format!("{{{},{}}}", entry("a", "U8", "[4]", "[0,4]"), entry("b", "U8", "[0]", "[2,2]"));
    assert_error!(error(&empty, 4), HeaderError::Overlap { .. });
}

/// Every shorter copy of a file is an error, and one that is cut in its data says both lengths.
#[test]
fn truncated_files() {
    let bytes =
        std::fs::read(fixture("fastvlm-apple").join("model-00002-of-00002.safetensors")).expect("a file");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize + 8;
    for len in (0..bytes.len()).step_by(97).chain([header - 1, header, header + 1, bytes.len() - 1]) {
        let error = parse_header(&bytes[..len]).expect_err("truncated");
        if len >= header {
            assert_error!(&error, HeaderError::Truncated { .. });
            let text = error.to_string();
            assert!(text.contains(&len.to_string()) && text.contains(&bytes.len().to_string()), "{text}");
        }
    }
}

/// A few thousand damaged files: no panic, and what is accepted is what the reference implementation reads.
#[test]
fn mutations() {
    let mut seeds = vec![
        file("{}", 0),
        file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8),
        file(
            r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[1,3],"data_offsets":[0,6]},"b":{"dtype":"U32","shape":[1,1,1],"data_offsets":[6,10]},"c":{"dtype":"I64","shape":[],"data_offsets":[10,18]}}"#,
            18,
        ),
    ];
    let small: Tensors =
        read_dir(&fixture("fastvlm-mlx-4bit")).into_iter().filter(|(_, raw)| raw.bytes.len() < 300).collect();
    let dir = tempfile::tempdir().expect("a directory");
    write_file(&dir.path().join("small"), &small);
    seeds.push(std::fs::read(dir.path().join("small")).expect("a file"));

    let mut state = 0x1234_5678_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below.max(1)
    };
    let (mut accepted, mut kinds) = (0, BTreeSet::new());
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=random(3) {
            mutate(&mut bytes, &mut random);
        }
        match parse_header(&bytes) {
            Ok(header) => {
                accepted += 1;
                for info in header.tensors.values() {
                    assert!(info.bytes.end <= bytes.len());
                    let size = info.shape.iter().product::<usize>() * info.dtype.size();
                    assert_eq!(size, info.bytes.len());
                }
                let reference = SafeTensors::deserialize(&bytes).expect("the reference accepts it too");
                assert!(reference.names().into_iter().all(|name| header.tensors.contains_key(name)));
            }
            Err(error) => {
                assert!(error.to_string().len() < 2000);
                let text = format!("{error:?}");
                kinds.insert(text.split([' ', '{']).next().unwrap_or_default().to_owned());
            }
        }
    }
    assert!(accepted > 100, "{accepted}");
    assert!(kinds.len() >= 8, "{kinds:?}");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut impl FnMut(usize) -> usize) {
    let len = bytes.len();
    let at = random(len);
    match random(7) {
        0 if len > 0 => bytes[at] ^= 1 << random(8),
        1 if len > 0 => bytes[at] = random(256) as u8,
        2 => bytes.truncate(at),
        3 => bytes.insert(at, b"0123456789[]{}\",: "[random(18)]),
        4 if len > 0 => drop(bytes.remove(at)),
        5 if len > 8 => {
            // A digit of the header for another one.
            let digits: Vec<usize> = (8..len).filter(|&i| bytes[i].is_ascii_digit()).collect();
            if let Some(&i) = digits.get(random(digits.len())) {
                bytes[i] = b'0' + random(10) as u8;
            }
        }
        _ => {
            let piece = bytes[at..len.min(at + random(40))].to_vec();
            let to = random(len);
            bytes.splice(to..to, piece);
        }
    }
}

/// The fixture in files of its own, with an index made by `index`.
fn shards(files: &[(&str, &Tensors)], index: &serde_json::Value) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::copy(fixture("fastvlm-apple").join("config.json"), dir.path().join("config.json"))
        .expect("copied");
    for (name, tensors) in files {
        write_file(&dir.path().join(name), tensors);
    }
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).expect("written");
    dir
}

fn halves() -> (Tensors, Tensors, serde_json::Map<String, serde_json::Value>) {
    let mut a = read_dir(&fixture("fastvlm-apple"));
    let middle = a.keys().nth(a.len() / 2).expect("tensors").clone();
    let b = a.split_off(&middle);
    let names = a.keys().map(|name| (name.clone(), "a.safetensors".into()));
    let map = names.chain(b.keys().map(|name| (name.clone(), "b.safetensors".into()))).collect();
    (a, b, map)
}

fn open(dir: &Path) -> Result<Checkpoint, LoadError> {
    Checkpoint::open(dir, None)
}

#[test]
fn sharded_files() {
    let (a, b, map) = halves();
    let index = serde_json::json!({ "weight_map": map });
    let dir = shards(&[("a.safetensors", &a), ("b.safetensors", &b)], &index);
    let checkpoint = open(dir.path()).expect("a checkpoint");
    assert_eq!(checkpoint.report.files, ["a.safetensors", "b.safetensors"]);

    let dir = shards(&[("a.safetensors", &a)], &index);
    let error = open(dir.path()).expect_err("a shard is missing");
    assert!(matches!(&error, LoadError::MissingShard { shard, .. } if shard == "b.safetensors"), "{error}");

    let mut less = b.clone();
    less.remove("model.vision_tower.vision_tower.model.patch_embed.2.reparam_conv.bias");
    let dir = shards(&[("a.safetensors", &a), ("b.safetensors", &less)], &index);
    let error = open(dir.path()).expect_err("a tensor is missing");
    assert!(
        matches!(&error, LoadError::NotInShard { tensor, .. } if tensor.ends_with("2.reparam_conv.bias"))
    );

    let mut more = b.clone();
    let (name, raw) = a.first_key_value().expect("a tensor");
    more.insert(name.clone(), raw.clone());
    let dir = shards(&[("a.safetensors", &a), ("b.safetensors", &more)], &index);
    let error = open(dir.path()).expect_err("a tensor twice");
    assert!(matches!(&error, LoadError::DuplicateTensor { tensor, .. } if tensor == name), "{error}");

    let mut swapped = map.clone();
    swapped.insert(name.clone(), "b.safetensors".into());
    let dir = shards(
        &[("a.safetensors", &a), ("b.safetensors", &b)],
        &serde_json::json!({ "weight_map": swapped }),
    );
    assert!(matches!(open(dir.path()), Err(LoadError::NotInShard { .. })));
}

#[test]
fn an_index_cannot_leave_the_directory() {
    let (a, b, mut map) = halves();
    let outside = tempfile::tempdir().expect("a directory");
    write_file(&outside.path().join("b.safetensors"), &b);
    let absolute = outside.path().join("b.safetensors").to_string_lossy().into_owned();
    for shard in [
        "../b.safetensors",
        "sub/../../b.safetensors",
        "sub/b.safetensors",
        "..",
        ".",
        "",
        "..\\b",
        &absolute,
    ] {
        for name in b.keys() {
            map.insert(name.clone(), shard.into());
        }
        let dir = shards(&[("a.safetensors", &a)], &serde_json::json!({ "weight_map": map }));
        let error = open(dir.path()).expect_err("outside");
        assert!(matches!(error, LoadError::ShardName { .. }), "{shard}: {error}");
    }
}

#[test]
fn broken_indices() {
    let (a, ..) = halves();
    for index in [
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!({ "weight_map": [] }),
        serde_json::json!({ "weight_map": { "a": 1 } }),
    ] {
        let dir = shards(&[("a.safetensors", &a)], &index);
        assert!(matches!(open(dir.path()), Err(LoadError::Json { .. })), "{index}");
    }
}

#[test]
fn other_file_names() {
    let tensors = read_dir(&fixture("fastvlm-apple"));
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::copy(fixture("fastvlm-apple").join("config.json"), dir.path().join("config.json"))
        .expect("copied");
    assert!(matches!(open(dir.path()), Err(LoadError::NoWeights { .. })));
    write_file(&dir.path().join("weights.safetensors"), &tensors);
    assert!(open(dir.path()).is_ok());
    write_file(
        &dir.path().join("more.safetensors"),
        &Tensors::from([("a".to_owned(), Raw::f32(&[1], &[0.0]))]),
    );
    let error = open(dir.path()).expect_err("which one?").to_string();
    assert!(error.contains("2 .safetensors files"), "{error}");
    assert!(matches!(open(&dir.path().join("nowhere")), Err(LoadError::Io { .. })));
}

#[test]
fn broken_files_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::copy(fixture("fastvlm-apple").join("config.json"), dir.path().join("config.json"))
        .expect("copied");
    for bytes in
        [&b""[..], b"1234567", b"<html>404 not found</html>", b"version https://git-lfs.github.com/spec/v1"]
    {
        std::fs::write(dir.path().join("model.safetensors"), bytes).expect("written");
        let error = open(dir.path()).expect_err("no safetensors file");
        assert!(matches!(error, LoadError::Header { .. }), "{error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
}
