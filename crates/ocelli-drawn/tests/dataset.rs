//! Data sets as files: the same whatever the threads, whole after a break, and never over something else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use ocelli_drawn::{DatasetOptions, DatasetReport, DrawnError, Scene, Split, scene_seed, write_dataset};

const OPTIONS: DatasetOptions =
    DatasetOptions { scenes: 30, seed: 9, split: Split::Train, size: 48, threads: 2 };

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for folder in [dir.to_owned(), dir.join("images/000")] {
        for entry in std::fs::read_dir(folder).expect("folder").flatten().filter(|e| e.path().is_file()) {
            let path = entry.path();
            let name = path.strip_prefix(dir).expect("below").display().to_string();
            found.insert(name, std::fs::read(&path).expect("file"));
        }
    }
    found
}

#[test]
fn pictures_are_the_scenes_and_questions_are_theirs() {
    let dir = tempfile::tempdir().expect("dir");
    let seen = AtomicUsize::new(0);
    let report = write_dataset(dir.path(), &OPTIONS, &|done| {
        seen.fetch_max(done, Ordering::Relaxed);
    });
    let questions = (0..30).map(|at| Scene::any(Split::Train, scene_seed(9, at)).questions().len()).sum();
    assert_eq!(report.expect("written"), DatasetReport { drawn: 30, kept: 0, questions });
    assert_eq!(seen.into_inner(), 30);
    for at in [0, 7, 29] {
        let file = std::fs::File::open(dir.path().join(format!("images/000/{at:06}.png"))).expect("picture");
        let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().expect("png");
        let mut rgb = vec![0; reader.output_buffer_size().expect("size")];
        reader.next_frame(&mut rgb).expect("pixels");
        assert_eq!(rgb, Scene::any(Split::Train, scene_seed(9, at)).draw(48).rgb);
    }
    let text = std::fs::read_to_string(dir.path().join("drawn.json")).expect("list");
    let list: serde_json::Value = serde_json::from_str(&text).expect("json");
    let first = &list[3]["conversations"];
    let scene = Scene::any(Split::Train, scene_seed(9, 3));
    assert_eq!(first[0]["value"], "<image>\nDescribe the image.");
    assert_eq!(first[1]["value"], scene.caption());
    assert_eq!(first.as_array().map(Vec::len), Some(2 * scene.questions().len()));
    assert!(!first[2]["value"].as_str().expect("text").contains("<image>"));
}

#[test]
fn a_broken_run_is_mended_and_a_longer_one_goes_on() {
    let (broken, whole) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let few = DatasetOptions { scenes: 20, threads: 1, ..OPTIONS };
    write_dataset(broken.path(), &few, &|_| ()).expect("written");
    // As a kill leaves it: pictures missing, one begun, lists of another length or none.
    for at in [3, 19] {
        std::fs::remove_file(broken.path().join(format!("images/000/{at:06}.png"))).expect("there");
    }
    std::fs::write(broken.path().join("images/000/000003.png.partial"), b"half").expect("begun");
    std::fs::remove_file(broken.path().join("captions.jsonl")).expect("there");
    let report = write_dataset(broken.path(), &OPTIONS, &|_| ()).expect("written");
    assert_eq!((report.drawn, report.kept), (12, 18));
    write_dataset(whole.path(), &OPTIONS, &|_| ()).expect("written");
    assert!(files(broken.path()) == files(whole.path()), "the files differ");
}

#[test]
fn nothing_else_is_written_over() {
    let dir = tempfile::tempdir().expect("dir");
    std::fs::write(dir.path().join("letter.txt"), b"Dear").expect("written");
    let refused = write_dataset(dir.path(), &OPTIONS, &|_| ());
    assert!(matches!(refused, Err(DrawnError::NotEmpty { .. })), "{refused:?}");
    let dir = tempfile::tempdir().expect("dir");
    write_dataset(dir.path(), &DatasetOptions { scenes: 2, ..OPTIONS }, &|_| ()).expect("written");
    let eval = DatasetOptions { split: Split::Eval, ..OPTIONS };
    let refused = write_dataset(dir.path(), &eval, &|_| ()).expect_err("another split").to_string();
    assert!(refused.contains("split train") && refused.contains("split eval"), "{refused}");
    for wrong in [DatasetOptions { scenes: 0, ..OPTIONS }, DatasetOptions { size: 5, ..OPTIONS }] {
        let refused = write_dataset(dir.path(), &wrong, &|_| ());
        assert!(matches!(refused, Err(DrawnError::Setting(_))), "{refused:?}");
    }
}

/// A folder that cannot be made is an error with its path, not a panic.
#[test]
fn a_file_in_the_way_is_told() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("file");
    std::fs::write(&path, b"").expect("written");
    let error = write_dataset(&path, &OPTIONS, &|_| ()).expect_err("a file is no directory").to_string();
    assert!(error.contains("file"), "{error}");
}
