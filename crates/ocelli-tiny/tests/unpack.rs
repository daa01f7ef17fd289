//! What is unpacked is what is embedded, whatever lay there before.

use std::fs;
use std::path::Path;

use ocelli_tiny::{Embedded, unpack};

/// The most that both models may add to the program.
const MOST_BYTES: usize = 12_000_000;

fn assert_whole(model: Embedded, dir: &Path) {
    let mut found: Vec<String> = fs::read_dir(dir)
        .expect("directory")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("unicode"))
        .collect();
    found.sort();
    let names: Vec<&str> = model.files().iter().map(|file| file.name).collect();
    assert_eq!(found, names, "nothing is missing, nothing is left over");
    for file in model.files() {
        assert!(fs::read(dir.join(file.name)).expect("file") == file.bytes, "{}", file.name);
    }
}

#[test]
fn models_are_small_have_a_licence_and_names() {
    let bytes = |model: Embedded| model.files().iter().map(|file| file.bytes.len()).sum::<usize>();
    assert!(Embedded::ALL.into_iter().map(bytes).sum::<usize>() < MOST_BYTES);
    for model in Embedded::ALL {
        assert_eq!(Embedded::named(model.name()), Some(model));
        let find = |name: &str| model.files().iter().find(|file| file.name == name);
        assert!(find("LICENSE").is_some_and(|file| !file.bytes.is_empty()), "{}", model.name());
        let config = find("config.json").or_else(|| find("open_clip_config.json")).expect("a config");
        serde_json::from_slice::<serde_json::Value>(config.bytes).expect("json");
    }
    assert_eq!(Embedded::named("ocelli"), None);
    assert_ne!(Embedded::FastVlm.content_hash(), Embedded::MobileClip.content_hash());
}

#[test]
fn a_model_is_unpacked_once() {
    let home = tempfile::tempdir().expect("home");
    for model in Embedded::ALL {
        let dir = unpack(model, home.path()).expect("unpacked");
        assert_eq!(dir, home.path().join(model.content_hash()).join(model.name()));
        assert_whole(model, &dir);
        let times = || -> Vec<_> {
            let modified =
                |name: &str| fs::metadata(dir.join(name)).and_then(|found| found.modified()).expect("time");
            model.files().iter().map(|file| modified(file.name)).collect()
        };
        let before = times();
        assert_eq!(unpack(model, home.path()).expect("found"), dir);
        assert_eq!(times(), before, "whole files are left alone");
    }
}

#[test]
fn damaged_files_are_written_anew() {
    let home = tempfile::tempdir().expect("home");
    let model = Embedded::FastVlm;
    let dir = unpack(model, home.path()).expect("unpacked");
    for file in model.files() {
        let path = dir.join(file.name);
        let mut flipped = file.bytes.to_vec();
        flipped[file.bytes.len() / 2] ^= 1;
        let longer = [file.bytes, b"!"].concat();
        for damaged in [&flipped[..], &file.bytes[..file.bytes.len() / 2], &longer, b""] {
            fs::write(&path, damaged).expect("damage");
            unpack(model, home.path()).expect("mended");
            assert_whole(model, &dir);
        }
        fs::remove_file(&path).expect("remove");
        unpack(model, home.path()).expect("mended");
        assert_whole(model, &dir);
    }
}

#[test]
fn several_at_once_are_no_harm() {
    let home = tempfile::tempdir().expect("home");
    std::thread::scope(|scope| {
        for at in 0..8 {
            let home = home.path();
            scope.spawn(move || {
                let model = Embedded::ALL[at % 2];
                assert_whole_files(model, &unpack(model, home).expect("unpacked"));
            });
        }
    });
    for model in Embedded::ALL {
        assert_whole(model, &unpack(model, home.path()).expect("found"));
    }
}

/// As [`assert_whole`], while others may still write aside.
fn assert_whole_files(model: Embedded, dir: &Path) {
    for file in model.files() {
        assert!(fs::read(dir.join(file.name)).expect("file") == file.bytes, "{}", file.name);
    }
}

#[test]
fn what_cannot_be_written_is_told() {
    let home = tempfile::tempdir().expect("home");
    let file = home.path().join("file");
    fs::write(&file, "in the way").expect("write");
    let error = unpack(Embedded::MobileClip, &file).expect_err("no directory");
    assert!(error.to_string().contains("ocelli-tiny-clip cannot be unpacked there"), "{error}");
    assert!(error.path.starts_with(&file));

    // A folder where a file belongs is not ours to remove.
    let dir = unpack(Embedded::FastVlm, home.path()).expect("unpacked");
    fs::remove_file(dir.join("config.json")).expect("remove");
    fs::create_dir_all(dir.join("config.json/kept")).expect("folder");
    let error = unpack(Embedded::FastVlm, home.path()).expect_err("in the way");
    assert_eq!(error.path, dir.join("config.json"));
    assert!(dir.join("config.json/kept").is_dir());
    let left = fs::read_dir(&dir).expect("directory").flatten();
    assert_eq!(left.filter(|entry| entry.path().extension().is_some_and(|e| e == "partial")).count(), 0);
}
