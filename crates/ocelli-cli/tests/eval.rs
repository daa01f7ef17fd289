//! `eval zeroshot` on folders of pictures.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use support::{assert_exit, json_lines, path, run, stderr, stdout};

const FOLDERS: [&str; 7] = ["a_dog", "cat", "red_fox", "snow", "street", "the_moon", "umbrella"];
const PICTURES: [&str; 8] = [
    "rgb_160x120.png",
    "large_640x431.png",
    "wide_300x41.png",
    "tall_75x200.png",
    "square_192.png",
    "gray_33x57.png",
    "six_3x2.png",
    "alpha_64x100.png",
];

fn with_model(args: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("home");
    let (model, tokenizer) = (path("mobileclip-s4"), path("clip-tokenizer"));
    run(home.path(), &[args, &["--model", &model, "--tokenizer", &tokenizer, "--dtype", "f32"]].concat())
}

fn eval(dir: &Path, more: &[&str]) -> Output {
    with_model(&[&["eval", "zeroshot", dir.to_str().expect("utf-8")], more].concat())
}

/// Each folder gets some of the pictures; the order of a folder is that of their new names.
fn tree(dir: &Path) -> Vec<(usize, PathBuf)> {
    let mut placed = Vec::new();
    for (i, folder) in FOLDERS.iter().enumerate() {
        std::fs::create_dir(dir.join(folder)).expect("folder");
        for (j, picture) in PICTURES.iter().enumerate().filter(|(j, _)| (i * j + i + j) % 3 != 1) {
            let to = dir.join(folder).join(format!("{j}.png"));
            std::fs::copy(path(&format!("images/{picture}")), &to).expect("copy");
            placed.push((i, to));
        }
    }
    placed
}

/// Places of the labels in order of probability, by `classify`.
fn ranked(picture: &Path, labels: &[&str], templates: &[&str]) -> Vec<usize> {
    let labels_text = labels.join(",");
    let mut args = vec!["classify", picture.to_str().expect("utf-8"), "--labels", &labels_text, "--json"];
    templates.iter().for_each(|template| args.extend(["--template", template]));
    let output = with_model(&args);
    assert_exit(&output, 0);
    let line = json_lines(&output).remove(0);
    let names =
        line["labels"].as_array().expect("labels").iter().map(|l| l["label"].as_str().expect("label"));
    names.map(|name| labels.iter().position(|label| *label == name).expect("label")).collect()
}

#[test]
fn accuracies_are_those_of_classify() {
    let dir = tempfile::tempdir().expect("dir");
    let placed = tree(dir.path());
    let picture = dir.path().join("confusion.png");
    let output = eval(dir.path(), &["--json", "--confusion", picture.to_str().expect("utf-8")]);
    assert_exit(&output, 0);
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 1);
    let result = &lines[0];

    // The default is the ensemble of seven, and folders are labels with spaces.
    let labels = FOLDERS.map(|folder| folder.replace('_', " "));
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    assert_eq!(result["templates"].as_array().map(Vec::len), Some(7));
    let (mut top1, mut top5) = ([0; 7], [0; 7]);
    let mut predicted = vec![BTreeMap::<usize, usize>::new(); 7];
    for (class, picture) in &placed {
        let ranked = ranked(picture, &labels, &["7"]);
        top1[*class] += usize::from(ranked[0] == *class);
        top5[*class] += usize::from(ranked[..5].contains(class));
        *predicted[*class].entry(ranked[0]).or_default() += 1;
    }
    let (images, hits) = (placed.len(), top1.iter().sum::<usize>());
    assert!(
        hits > 0 && hits < images && top5.iter().sum::<usize>() < images,
        "{top1:?} {top5:?} tell nothing"
    );
    let number = |value: &Value| value.as_f64().expect("number");
    assert_eq!((&result["classes"], &result["images"]), (&json!(7), &json!(images)));
    assert!((number(&result["top1"]) - hits as f64 / images as f64).abs() < 1e-12);
    assert!((number(&result["top5"]) - top5.iter().sum::<usize>() as f64 / images as f64).abs() < 1e-12);
    let per_class = result["per_class"].as_array().expect("classes");
    for (i, class) in per_class.iter().enumerate() {
        let n = placed.iter().filter(|(c, _)| *c == i).count();
        assert_eq!(
            (&class["index"], &class["folder"], &class["label"]),
            (&json!(i), &json!(FOLDERS[i]), &json!(labels[i]))
        );
        assert_eq!(class["n"], json!(n));
        assert!((number(&class["top1"]) - top1[i] as f64 / n as f64).abs() < 1e-12);
        assert!((number(&class["top5"]) - top5[i] as f64 / n as f64).abs() < 1e-12);
        let expected: BTreeMap<&str, usize> = predicted[i].iter().map(|(&p, &n)| (FOLDERS[p], n)).collect();
        assert_eq!(class["predicted"], json!(expected));
        let most = predicted[i].iter().filter(|(p, _)| **p != i).map(|(_, &n)| n).max();
        assert_eq!(class["most_confused_with"]["n"].as_u64(), most.map(|n| n as u64));
    }

    // Blue pixels beside the colour bar are right answers, orange ones wrong answers.
    let canvas = image::open(&picture).expect("PNG").into_rgb8();
    let cells = image::imageops::crop_imm(&canvas, 0, 0, canvas.height(), canvas.height()).to_image();
    let count =
        |test: fn(i32, i32) -> bool| cells.pixels().filter(|p| test(p[0].into(), p[2].into())).count();
    assert!(count(|red, blue| blue > red + 40) > 1000 && count(|red, blue| red > blue + 40) > 1000);
    let said = stderr(&output);
    assert!(said.contains("a second") && said.contains("confusion.png"), "{said}");
}

#[test]
fn unreadable_pictures_are_told_and_left_out() {
    let dir = tempfile::tempdir().expect("dir");
    tree(dir.path());
    let whole = json_lines(&eval(dir.path(), &["--json"])).remove(0);
    std::fs::write(dir.path().join("cat/broken.jpg"), b"\xff\xd8\xff").expect("write");
    std::fs::write(dir.path().join("cat/notes.txt"), b"no picture").expect("write");
    std::fs::create_dir(dir.path().join("nothing")).expect("folder");
    let output = eval(dir.path(), &["--json"]);
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert_eq!(said.matches("broken.jpg").count(), 1, "{said}");
    assert!(said.contains("nothing is left out") && said.contains("1 could not be read"), "{said}");
    let part = json_lines(&output).remove(0);
    assert_eq!(part["unreadable"].as_array().map(Vec::len), Some(1));
    assert_eq!((&part["per_class"], &part["top1"]), (&whole["per_class"], &whole["top1"]));

    let text = eval(dir.path(), &[]);
    assert_exit(&text, 1);
    let lines = stdout(&text);
    assert!(
        lines.contains("top-1") && lines.contains("most confused with") && lines.contains("red fox"),
        "{lines}"
    );
    assert_eq!(lines.lines().count(), 4 + FOLDERS.len(), "{lines}");
}

#[test]
fn limits_templates_and_other_labels() {
    let dir = tempfile::tempdir().expect("dir");
    let placed = tree(dir.path());
    let map = dir.path().join("map.txt");
    std::fs::write(&map, "cat = a tabby\nred_fox=fox\nunknown=thing\n").expect("write");
    let map = map.to_str().expect("utf-8");
    let args = ["--limit", "1", "--labels-file", map, "--template", "my {}!", "--json"];
    let output = eval(dir.path(), &args);
    assert_exit(&output, 0);
    assert!(stderr(&output).contains("5 of 7 folders are not in the list"), "{}", stderr(&output));
    let result = json_lines(&output).remove(0);
    assert_eq!((&result["images"], &result["templates"]), (&json!(7), &json!(["my {}!"])));
    let labels = ["a dog", "a tabby", "fox", "snow", "street", "the moon", "umbrella"];
    for (i, class) in result["per_class"].as_array().expect("classes").iter().enumerate() {
        assert_eq!((&class["label"], &class["n"]), (&json!(labels[i]), &json!(1)));
        let (_, first) = placed.iter().find(|(c, _)| *c == i).expect("picture");
        let expected = FOLDERS[ranked(first, &labels, &["my {}!"])[0]];
        assert_eq!(class["predicted"], json!({expected: 1}));
    }
    let output = eval(dir.path(), &["--template", "80", "--limit", "1", "--json"]);
    assert_eq!(json_lines(&output)[0]["templates"].as_array().map(Vec::len), Some(80));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let refused = |dir: &Path, more: &[&str], reason: &str| {
        let output = eval(dir, more);
        assert_exit(&output, 1);
        assert!(
            stderr(&output).contains(reason) && stdout(&output).is_empty(),
            "{reason}: {}",
            stderr(&output)
        );
    };
    refused(&dir.path().join("no"), &[], "reading");
    refused(dir.path(), &[], "no folders with pictures");
    std::fs::copy(path("images/six_3x2.png"), dir.path().join("loose.png")).expect("copy");
    refused(dir.path(), &[], "no folders with pictures");
    for (folder, reason) in [("one", "one folder only"), ("two", "could be read")] {
        std::fs::create_dir(dir.path().join(folder)).expect("folder");
        std::fs::write(dir.path().join(folder).join("x.png"), b"no picture").expect("write");
        refused(dir.path(), &[], reason);
    }
    std::fs::copy(path("images/six_3x2.png"), dir.path().join("one/x.png")).expect("copy");
    std::fs::copy(path("images/six_3x2.png"), dir.path().join("two/x.png")).expect("copy");
    refused(dir.path(), &["--confusion", "c.jpg"], "must end in .png");
    refused(dir.path(), &["--confusion", "no/such/c.png"], "no folder no/such");
    refused(dir.path(), &["--template", "plain"], "has no {}");
    refused(dir.path(), &["--labels-file", "no.txt"], "no.txt");
    let map = dir.path().join("map.txt");
    std::fs::write(&map, "one=1\ntwo\n").expect("write");
    refused(dir.path(), &["--labels-file", map.to_str().expect("utf-8")], "line 2: `two` is no FOLDER=LABEL");
    std::fs::write(&map, "one=same\ntwo=same\n").expect("write");
    let same = eval(dir.path(), &["--labels-file", map.to_str().expect("utf-8"), "--json"]);
    assert_exit(&same, 0);
    assert!(stderr(&same).contains("one and two have the same label `same`"), "{}", stderr(&same));
    let result = json_lines(&same).remove(0);
    assert_eq!((&result["top1"], &result["top5"]), (&json!(0.5), &json!(1.0)));
    assert_exit(&eval(dir.path(), &["--limit", "0"]), 2);

    let home = tempfile::tempdir().expect("home");
    let image_tower = path("mobileclip-s0/model.safetensors");
    let args = ["eval", "zeroshot", dir.path().to_str().expect("utf-8"), "--model", &image_tower];
    let output = run(home.path(), &args);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("text tower"), "{}", stderr(&output));
}
