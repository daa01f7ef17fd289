//! `eval drawn` on random models: its figures are those that the drawn world, `ask` and `classify` give.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use ocelli_drawn::{Blind, DrawnClass, Scene, Split, classes, retrieval_scenes, scene_seed};
use serde_json::{Value, json};
use support::{assert_exit, fields, json_lines, path, run, stderr, stdout};

/// A random FastVLM for 192 pixels, whose words depend on the picture.
const MODEL: &str = "fastvlm-apple";

const KINDS: [&str; 12] = [
    "color",
    "shape",
    "count",
    "relation",
    "yes_no",
    "text",
    "chart",
    "icon",
    "caption_one",
    "caption_two",
    "held_out",
    "caption_more",
];

fn lines_of(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("file");
    text.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
}

/// How many misses there are of each kind.
fn counted(misses: &[Value]) -> BTreeMap<&str, u64> {
    let mut counted = BTreeMap::new();
    for miss in misses {
        *counted.entry(miss["kind"].as_str().expect("kind")).or_default() += 1;
    }
    counted
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("number")
}

/// All that is printed as JSON is counted, and what is wrong is told.
fn assert_adds_up(output: &Output, misses: &[Value]) {
    assert_exit(output, 0);
    let counted = counted(misses);
    for record in json_lines(output) {
        assert_eq!(fields(&record), ["asked", "blind_right", "kind", "right"]);
        let [asked, right, blind] = ["asked", "right", "blind_right"].map(|field| number(&record[field]));
        assert!(right <= asked && blind <= asked, "{record}");
        let kind = record["kind"].as_str().expect("kind");
        assert_eq!(asked - right, counted.get(kind).copied().unwrap_or(0), "{record}");
    }
    for miss in misses {
        assert_eq!(fields(miss), ["kind", "question", "right", "said", "seed"]);
        assert_ne!(miss["right"], miss["said"]);
    }
}

#[test]
fn figures_are_those_of_the_questions_and_answers_those_of_ask() {
    let home = tempfile::tempdir().expect("home");
    let model = path(MODEL);
    let file = home.path().join("misses.jsonl");
    let file_name = file.to_str().expect("utf-8");
    let args = [
        "eval", "drawn", "--model", &model, "--seed", "3", "--scenes", "30", "--json", "--misses", file_name,
    ];
    let output = run(home.path(), &args);
    let misses = lines_of(&file);
    assert_adds_up(&output, &misses);
    assert!(
        stderr(&output).contains("30 scenes, ") && stderr(&output).contains("misses.jsonl"),
        "{}",
        stderr(&output)
    );

    let records = json_lines(&output);
    assert_eq!(records.iter().map(|r| r["kind"].as_str().expect("kind")).collect::<Vec<_>>(), KINDS);
    let blind = Blind::count(20_000, 0);
    let scenes: Vec<Scene> = (0..30).map(|at| Scene::any(Split::Eval, scene_seed(3, at))).collect();
    let questions: Vec<_> = scenes.iter().flat_map(Scene::questions).collect();
    for record in &records {
        let of_kind = questions.iter().filter(|q| q.kind.name() == record["kind"]);
        let guessed = of_kind.clone().filter(|q| q.answer.matches(blind.answer(q))).count();
        assert_eq!((&record["asked"], &record["blind_right"]), (&json!(of_kind.count()), &json!(guessed)));
    }
    assert_eq!(records.iter().map(|r| number(&r["asked"])).sum::<u64>(), questions.len() as u64);

    // The same pictures as files.
    let data = home.path().join("data");
    let data_name = data.to_str().expect("utf-8");
    let drawn = ["synth-data", data_name, "--split", "eval", "--seed", "3", "--scenes", "2", "--size", "192"];
    assert_exit(&run(home.path(), &drawn), 0);
    for at in 0..2 {
        let picture = data.join(format!("images/000/{at:06}.png"));
        let missed = misses.iter().filter(|miss| miss["seed"] == json!(scene_seed(3, at)));
        let missed: Vec<&Value> = missed.collect();
        assert!(missed.len() > 2, "a random model is wrong");
        for miss in missed {
            let question = miss["question"].as_str().expect("question");
            let mut ask = vec!["ask", picture.to_str().expect("utf-8"), question, "--max-tokens", "40"];
            ask.extend(["--json", "--model", &model]);
            let answer = run(home.path(), &ask);
            assert_exit(&answer, 0);
            assert_eq!(json_lines(&answer)[0]["text"], miss["said"]);
        }
    }
    let captions = misses.iter().filter(|miss| miss["question"] == "Describe the image.");
    let captions: std::collections::HashSet<&str> =
        captions.map(|miss| miss["said"].as_str().expect("said")).collect();
    assert!(captions.len() > 20, "the pictures make a difference");
}

#[test]
fn the_same_seed_gives_the_same_whatever_the_threads() {
    let home = tempfile::tempdir().expect("home");
    let model = path(MODEL);
    let eval = |name: &str, more: &[&str]| {
        let file = home.path().join(name);
        let args =
            ["eval", "drawn", "--model", &model, "--scenes", "12", "--misses", file.to_str().expect("utf-8")];
        let output = run(home.path(), &[&args, more].concat());
        assert_exit(&output, 0);
        (stdout(&output), std::fs::read_to_string(file).expect("misses"))
    };
    let one = eval("one", &["--seed", "5", "--threads", "1", "--json"]);
    assert_eq!(eval("three", &["--seed", "5", "--threads", "3", "--json"]), one);
    assert_ne!(eval("other", &["--seed", "6", "--json"]).1, one.1);

    // Without --json a table, with --html a page.
    let page = home.path().join("page.html");
    let (text, misses) = eval("table", &["--seed", "5", "--html", page.to_str().expect("utf-8")]);
    assert_eq!(misses, one.1);
    let first: Vec<&str> = text.lines().map(|line| line.split(' ').next().expect("word")).collect();
    assert_eq!(first[0], "kind");
    assert_eq!(first[1..], KINDS);
    assert!(text.contains(" %"), "{text}");
    let page = std::fs::read_to_string(page).expect("page");
    let scenes =
        lines_of(&home.path().join("table")).iter().map(|miss| number(&miss["seed"])).collect::<Vec<_>>();
    let shown = scenes.chunk_by(|a, b| a == b).count();
    assert_eq!(page.matches("data:image/png;base64,").count(), shown);
    assert_eq!(page.matches("<small>not ").count(), misses.lines().count());
}

#[test]
fn a_mobileclip_gets_classes_and_captions() {
    let home = tempfile::tempdir().expect("home");
    let (model, tokenizer) = (path("mobileclip-s2"), path("clip-tokenizer"));
    let with_model = ["--model", &model, "--tokenizer", &tokenizer, "--dtype", "f32"];
    let file = home.path().join("misses.jsonl");
    let args = [
        "eval",
        "drawn",
        "--seed",
        "9",
        "--scenes",
        "45",
        "--json",
        "--misses",
        file.to_str().expect("utf-8"),
    ];
    let output = run(home.path(), &[&args[..], &with_model].concat());
    let misses = lines_of(&file);
    assert_adds_up(&output, &misses);
    let records = json_lines(&output);
    let told = |at: usize| {
        (records[at]["kind"].as_str(), number(&records[at]["asked"]), number(&records[at]["blind_right"]))
    };
    // Of 45 pictures of 40 classes two are of the first one.
    assert_eq!(told(0), (Some("zeroshot"), 45, 2));
    assert_eq!(told(1), (Some("retrieval"), 200, 1));
    assert_eq!(told(2), (Some("retrieval_by_caption"), 200, 1));
    assert_eq!(records.len(), 3);

    // Three of the pictures as files, ranked by `classify`.
    let classes = classes();
    let labels = home.path().join("labels.txt");
    let texts: Vec<&str> = classes.iter().map(DrawnClass::text).collect();
    std::fs::write(&labels, texts.join("\n")).expect("labels");
    for at in [0, 17, 44] {
        let picture = classes[at % 40].scene(scene_seed(9, at)).draw(128);
        let name = home.path().join("picture.png");
        image::save_buffer(&name, &picture.rgb, 128, 128, image::ColorType::Rgb8).expect("picture");
        let args =
            ["classify", name.to_str().expect("utf-8"), "--labels-file", labels.to_str().expect("utf-8")];
        let output = run(home.path(), &[&args[..], &["--json", "--top", "1"], &with_model].concat());
        assert_exit(&output, 0);
        let first = &json_lines(&output)[0]["labels"][0]["label"];
        let missed = misses.iter().find(|m| m["kind"] == "zeroshot" && m["seed"] == json!(scene_seed(9, at)));
        let said = missed.map_or(json!(texts[at % 40]), |miss| miss["said"].clone());
        assert_eq!(*first, said, "picture {at}");
    }
    let captions: Vec<String> = retrieval_scenes(scene_seed(9, 0)).iter().map(Scene::caption).collect();
    for miss in misses.iter().filter(|miss| miss["kind"] != "zeroshot") {
        assert!(captions.iter().any(|caption| miss["said"] == **caption), "{miss}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let home = tempfile::tempdir().expect("home");
    for wrong in [
        &["--scenes", "0"][..],
        &["--scenes", "many"],
        &["--seed", "-1"],
        &["--seed", "4294967296"],
        &["--no-such-flag"],
        &["a-folder"],
    ] {
        let output = run(home.path(), &[&["eval", "drawn"], wrong].concat());
        assert_exit(&output, 2);
        assert_eq!(stdout(&output), "", "{wrong:?}");
    }
    let image_tower = path("mobileclip-s0/model.safetensors");
    for (args, reason) in [
        (&["--model", "no/such"][..], "no model `no/such`"),
        (&["--model", &image_tower], "text tower"),
        (&["--misses", "no/such/file"], "no folder no/such"),
        (&["--html", "no/such/file"], "no folder no/such"),
    ] {
        let output = run(home.path(), &[&["eval", "drawn", "--scenes", "1"], args].concat());
        assert_exit(&output, 1);
        assert!(
            stderr(&output).contains(reason) && stdout(&output).is_empty(),
            "{reason}: {}",
            stderr(&output)
        );
    }
}
