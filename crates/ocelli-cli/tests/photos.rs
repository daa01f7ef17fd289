//! Photo search, as the owner of some photos uses it.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use ocelli_image::{Rgb8, thumbnail};
use serde_json::Value;
use support::{assert_exit, json_lines, ocelli, path, run, stderr, stdout};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A JPEG of 4 x 3 coloured fields of 16 pixels.
    fn picture(&mut self) -> Vec<u8> {
        let fields: Vec<[u8; 3]> =
            (0..12).map(|_| std::array::from_fn(|_| (self.next() >> 56) as u8)).collect();
        let pixel = |i: usize| fields[i / 64 / 16 * 4 + i % 64 / 16];
        let pixels = (0..48 * 64).flat_map(pixel).collect();
        thumbnail(&Rgb8 { height: 48, width: 64, pixels }, 64)
    }
}

/// What a camera writes: maker, model, time, and a place in Munich.
fn with_exif(jpeg: &[u8]) -> Vec<u8> {
    let mut tiff = b"II\x2a\0\x08\0\0\0".to_vec();
    let entry = |tag: u16, kind: u16, count: u32, value: u32| -> Vec<u8> {
        [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    // Offsets: IFD0 8..62, Exif IFD 62..80, GPS IFD 80..134, then strings and fractions.
    let (make, model, time, latitude, longitude) = (134, 140, 148, 168, 192);
    tiff.extend(4_u16.to_le_bytes());
    tiff.extend(
        [
            entry(0x10f, 2, 6, make),
            entry(0x110, 2, 7, model),
            entry(0x8769, 4, 1, 62),
            entry(0x8825, 4, 1, 80),
        ]
        .concat(),
    );
    tiff.extend([0; 4]);
    tiff.extend(1_u16.to_le_bytes());
    tiff.extend(entry(0x9003, 2, 20, time));
    tiff.extend([0; 4]);
    tiff.extend(4_u16.to_le_bytes());
    let letter = |c: u8| u32::from(c);
    tiff.extend(
        [
            entry(1, 2, 2, letter(b'N')),
            entry(2, 5, 3, latitude),
            entry(3, 2, 2, letter(b'E')),
            entry(4, 5, 3, longitude),
        ]
        .concat(),
    );
    tiff.extend([0; 4]);
    tiff.extend([&b"Canon\0EOS R5\0\0"[..], b"2024:05:17 18:30:00\0"].concat());
    for value in [48_u32, 1, 8, 1, 0, 1, 11, 1, 34, 1, 0, 1] {
        tiff.extend(value.to_le_bytes());
    }
    let mut app1 = vec![0xff, 0xe1];
    app1.extend(((8 + tiff.len()) as u16).to_be_bytes());
    app1.extend(b"Exif\0\0");
    app1.extend(tiff);
    [&jpeg[..2], &app1, &jpeg[2..]].concat()
}

/// Folders of pictures, and a home of their own.
struct Photos {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Photos {
    fn new(count: usize, seed: u64) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let root = dir.path().join("photos");
        let mut random = Random(seed);
        for i in 0..count {
            let folder = root.join(format!("{:02}", i / 1000));
            fs::create_dir_all(&folder).expect("folder");
            fs::write(folder.join(format!("{i:05}.jpg")), random.picture()).expect("picture");
        }
        Self { dir, root }
    }

    fn run(&self, args: &[&str]) -> Output {
        run(self.dir.path(), args)
    }

    fn index(&self, more: &[&str]) -> Output {
        let (root, model, tokenizer) = (self.root(), path("mobileclip-s0"), path("clip-tokenizer"));
        let args = ["index", &root, "--model", &model, "--tokenizer", &tokenizer, "--json"];
        self.run(&[&args[..], more].concat())
    }

    fn root(&self) -> String {
        self.root.to_str().expect("utf-8").to_owned()
    }

    fn file(&self, name: &str) -> String {
        self.root.canonicalize().expect("root").join(name).to_str().expect("utf-8").to_owned()
    }
}

fn one(output: &Output) -> Value {
    json_lines(output).pop().unwrap_or_else(|| panic!("nothing on stdout; stderr: {}", stderr(output)))
}

fn paths(output: &Output) -> Vec<String> {
    json_lines(output).iter().map(|line| line["path"].as_str().expect("path").to_owned()).collect()
}

#[test]
fn a_folder_is_indexed_and_searched_in_every_way() {
    let photos = Photos::new(60, 1);
    fs::write(photos.root.join("broken.jpg"), b"\xff\xd8\xff but no picture").expect("file");
    let original = fs::read(photos.root.join("00/00007.jpg")).expect("picture");
    fs::write(photos.root.join("camera.jpg"), with_exif(&Random(99).picture())).expect("file");
    fs::write(photos.root.join("copy.jpg"), &original).expect("file");

    let output = photos.index(&[]);
    assert_exit(&output, 1);
    let report = one(&output);
    assert_eq!((report["pictures"].as_u64(), report["added"].as_u64()), (Some(61), Some(61)));
    assert!(report["failures"][0]["path"].as_str().expect("path").ends_with("broken.jpg"));
    assert!(stderr(&output).contains("broken.jpg"));

    // A second run does nothing, and needs neither folder nor model to be named again.
    let again = photos.run(&["index", "--json"]);
    assert_exit(&again, 0);
    let report = one(&again);
    assert_eq!((report["added"].as_u64(), report["unchanged"].as_u64()), (Some(0), Some(63)));

    // By a picture: itself first, with all its files.
    let query = photos.file("00/00007.jpg");
    let found = photos.run(&["search", &query, "--json", "-n", "3", "--min-score", "0"]);
    assert_exit(&found, 0);
    let lines = json_lines(&found);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["files"].as_array().map(Vec::len), Some(2));
    assert!(lines[0]["similarity"].as_f64().expect("number") > 0.999);
    assert!(lines.windows(2).all(|pair| pair[0]["score"].as_f64() >= pair[1]["score"].as_f64()));

    // A text and a sum; the fixture's words mean nothing, but they are embedded as `embed` does.
    let words = photos.run(&["search", "a photo of a dog", "--json", "-n", "60", "--min-score", "0"]);
    assert_eq!(paths(&words).len(), 60);
    let sum = photos.run(&[
        "search",
        &format!("3:{query} + dog - 0.1:cat"),
        "--json",
        "-n",
        "1",
        "--min-score",
        "0",
    ]);
    assert!(paths(&sum)[0].ends_with("00/00007.jpg"), "{}", stdout(&sum));

    // What is not there is an answer of its own, with a clean stdout.
    let nothing = photos.run(&["search", "a dog", "--min-score", "1"]);
    assert_exit(&nothing, 0);
    assert!(
        stdout(&nothing).is_empty() && stderr(&nothing).contains("nothing relevant"),
        "{}",
        stderr(&nothing)
    );

    for filter in [
        &["--since", "2024-05-17", "--until", "2024-05"][..],
        &["--camera", "canon eos"],
        &["--near", "48.1,11.6,10"],
        &["--path", "camera"],
    ] {
        let args = [&["search", "dog", "--json", "--min-score", "0"], filter].concat();
        let output = photos.run(&args);
        assert_eq!(paths(&output), [photos.file("camera.jpg")], "{filter:?}: {}", stderr(&output));
        let line = &json_lines(&output)[0];
        assert_eq!(line["captured_at"], "2024-05-17 18:30:00");
        assert_eq!(line["camera"], "Canon EOS R5");
        assert!((line["gps"][0].as_f64().expect("latitude") - 48.1333).abs() < 1e-3);
    }

    let similar = photos.run(&["similar", &query, "--json", "-n", "5", "--min-score", "0"]);
    assert_eq!(paths(&similar).len(), 5);
    assert!(!paths(&similar).contains(&query) && !paths(&similar).contains(&photos.file("copy.jpg")));

    let dupes = photos.run(&["dupes", "--json", "--threshold", "0.9999999"]);
    assert_exit(&dupes, 0);
    let files: BTreeSet<String> = json_lines(&dupes)[0]["pictures"]
        .as_array()
        .expect("pictures")
        .iter()
        .map(|picture| picture["path"].as_str().expect("path").to_owned())
        .collect();
    assert_eq!(files, BTreeSet::from([photos.file("copy.jpg"), query.clone()]));

    let stats = one(&photos.run(&["stats", "--json"]));
    assert_eq!(
        (stats["pictures"].as_u64(), stats["files"].as_u64(), stats["failures"].as_u64()),
        (Some(61), Some(62), Some(1))
    );
    assert_eq!(stats["cameras"]["Canon EOS R5"], 1);
    assert!(stdout(&photos.run(&["stats", "--failures"])).contains("broken.jpg"));
    assert!(stdout(&photos.run(&["stats"])).contains("pictures   61"));

    let sheet = photos.dir.path().join("sheet.html");
    let html = sheet.to_str().expect("utf-8");
    assert_exit(&photos.run(&["search", &query, "--html", html, "--min-score", "0", "-n", "4"]), 0);
    let page = fs::read_to_string(&sheet).expect("page");
    assert_eq!(page.matches("data:image/jpeg;base64,").count(), 4);
    assert!(!page.contains("http"), "the page needs nothing else");
}

#[test]
fn changes_are_followed() {
    let photos = Photos::new(20, 2);
    assert_exit(&photos.index(&[]), 0);
    fs::rename(photos.root.join("00/00003.jpg"), photos.root.join("moved.jpg")).expect("moved");
    fs::remove_file(photos.root.join("00/00004.jpg")).expect("removed");
    fs::write(photos.root.join("00/00005.jpg"), Random(77).picture()).expect("changed");
    let report = one(&photos.index(&[]));
    let number = |field: &str| report[field].as_u64().expect("number");
    assert_eq!((number("pictures"), number("added"), number("known")), (19, 1, 1));
    assert_eq!((number("removed_files"), number("unchanged")), (2, 17));
}

#[test]
fn watching_sees_a_new_picture() {
    let photos = Photos::new(3, 3);
    let (root, model, tokenizer) = (photos.root(), path("mobileclip-s0"), path("clip-tokenizer"));
    let mut child = ocelli(photos.dir.path())
        .args(["index", &root, "--model", &model, "--tokenizer", &tokenizer, "--watch"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ocelli starts");
    let pictures = || {
        let output = photos.run(&["stats", "--json"]);
        if output.status.success() { one(&output)["pictures"].as_u64() } else { None }
    };
    let wait_for = |count: u64| {
        let start = Instant::now();
        while pictures() != Some(count) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "still {:?} pictures, not {count}",
                pictures()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait_for(3);
    // The watch begins after the first pass.
    std::thread::sleep(Duration::from_millis(1500));
    fs::write(photos.root.join("new.jpg"), Random(4).picture()).expect("picture");
    wait_for(4);
    fs::remove_file(photos.root.join("new.jpg")).expect("removed");
    wait_for(3);
    child.kill().expect("killed");
    child.wait().expect("ended");
}

#[test]
fn mistakes_are_explained() {
    let photos = Photos::new(2, 5);
    let explained = |args: &[&str], code: i32, words: &[&str]| {
        let output = photos.run(args);
        assert_exit(&output, code);
        let text = stderr(&output);
        assert!(words.iter().all(|word| text.contains(word)), "{args:?}: {text}");
    };
    explained(&["search", "dog"], 1, &["there is no index", "index a directory first"]);
    explained(&["index"], 1, &["which folder"]);
    explained(&["index", "/no/such/folder", "--model", "x"], 1, &["/no/such/folder"]);
    assert_exit(&photos.index(&[]), 0);
    explained(&["search"], 2, &["QUERY"]);
    explained(&["search", "cat +"], 1, &["missing"]);
    explained(&["search", "./nope.jpg"], 1, &["nope.jpg"]);
    explained(&["search", "x", "--since", "yesterday"], 2, &["2024-05-17"]);
    explained(&["search", "x", "--near", "1,2"], 2, &["LATITUDE"]);
    explained(&["search", "x", "--min-score", "2"], 2, &["between 0 and 1"]);
    // Another model is refused, and nothing is lost.
    let (other, tokenizer) = (path("mobileclip-b"), path("clip-tokenizer"));
    let args = ["--model", &other, "--tokenizer", &tokenizer];
    explained(
        &[&["index", &photos.root()], &args[..]].concat(),
        1,
        &["cannot be compared", "another index file"],
    );
    explained(&[&["search", "dog"], &args[..]].concat(), 1, &["--model"]);
    assert_eq!(one(&photos.run(&["stats", "--json"]))["pictures"], 2);
}

/// Pictures of the test below; its figures for 20,000 are in `bench/results`.
fn kill_test_size() -> usize {
    std::env::var("OCELLI_KILL_TEST_PICTURES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)
}

#[test]
fn a_run_that_is_killed_again_and_again_goes_on() {
    const BROKEN: usize = 25;
    let count = kill_test_size();
    let photos = Photos::new(count, 6);
    for i in 0..BROKEN {
        fs::write(photos.root.join(format!("broken{i:02}.jpg")), format!("no picture {i}")).expect("file");
    }
    let (root, model, tokenizer) = (photos.root(), path("mobileclip-s0"), path("clip-tokenizer"));
    let args = ["index", &root, "--model", &model, "--tokenizer", &tokenizer, "--json"];
    let stored = || {
        let output = photos.run(&["stats", "--json"]);
        if output.status.success() { one(&output)["files"].as_u64().expect("files") } else { 0 }
    };
    let mut random = Random(7);
    let (mut kills, mut before) = (0, 0);
    while kills < 10 {
        let mut child = ocelli(photos.dir.path())
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ocelli starts");
        // Ten of these are less than the whole takes.
        let pause = 20 + random.next() % (count as u64 / 16).max(100);
        std::thread::sleep(Duration::from_millis(pause));
        if child.try_wait().expect("status").is_some() {
            break;
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        kills += 1;
        let now = stored();
        assert!(now >= before, "kill {kills} lost stored pictures: {before}, then {now}");
        eprintln!("kill {kills} after {pause} ms: {now} files stored");
        before = now;
    }
    assert!(kills > 0, "the run was over before the first kill");
    // 1 for the files that are no pictures, 0 where an earlier run had told of them already.
    let last = photos.run(&args);
    assert!(matches!(last.status.code(), Some(0 | 1)), "{}", stderr(&last));
    let stats = one(&photos.run(&["stats", "--json"]));
    let number = |field: &str| stats[field].as_u64().expect("number") as usize;
    assert_eq!((number("pictures"), number("files"), number("failures")), (count, count, BROKEN));
    let failed = photos.run(&["stats", "--failures", "--json"]);
    assert_eq!(json_lines(&failed).len(), BROKEN);
    // The same as an index that was never disturbed.
    let other = photos.dir.path().join("other.sqlite");
    let whole = photos.run(&[&args[..], &["--index", other.to_str().expect("utf-8")]].concat());
    assert_exit(&whole, 1);
    let query = photos.file("00/00011.jpg");
    let found = |more: &[&str]| {
        let output =
            photos.run(&[&["search", &query, "--json", "--min-score", "0", "-n", "50"], more].concat());
        json_lines(&output).iter().map(|l| (l["path"].clone(), l["similarity"].clone())).collect::<Vec<_>>()
    };
    let found_other = found(&["--index", other.to_str().expect("utf-8")]);
    assert_eq!(found(&[]), found_other);
    assert_eq!(found_other.len(), 50);
}

#[test]
fn two_runs_at_once_do_not_harm_the_index() {
    let photos = Photos::new(300, 8);
    let (root, model, tokenizer) = (photos.root(), path("mobileclip-s0"), path("clip-tokenizer"));
    let args = ["index", &root, "--model", &model, "--tokenizer", &tokenizer, "--json"];
    let start = || {
        ocelli(photos.dir.path())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start")
    };
    let outputs = [start(), start()].map(|child| child.wait_with_output().expect("ended"));
    let failed: Vec<&Output> = outputs.iter().filter(|output| !output.status.success()).collect();
    // The later one is told to wait, or came after the first had ended.
    assert!(failed.len() <= 1);
    for output in failed {
        assert!(stderr(output).contains("another process"), "{}", stderr(output));
    }
    assert_eq!(one(&photos.run(&["stats", "--json"]))["pictures"], 300);
    // Readers beside a writer.
    fs::write(photos.root.join("more.jpg"), Random(9).picture()).expect("picture");
    let writer = start();
    let query = photos.file("00/00000.jpg");
    for _ in 0..5 {
        assert_exit(&photos.run(&["search", &query, "--json"]), 0);
    }
    assert_exit(&writer.wait_with_output().expect("ended"), 0);
}
