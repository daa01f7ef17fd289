//! `labels save`, `list` and `rm`, and `classify --labels-set`.

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use support::{assert_exit, fields, json_lines, path, run, stderr, stdout};

const LABELS: &str = "a dog,a cat,snow & mountains";

/// The arguments, then a fixture as the model, in f32.
fn with_model(home: &Path, args: &[&str], model: &str) -> Output {
    let (model, tokenizer) = (path(model), path("clip-tokenizer"));
    let model = ["--model", &model, "--tokenizer", &tokenizer, "--dtype", "f32"];
    run(home, &[args, &model].concat())
}

fn save(home: &Path, model: &str) {
    let args = ["labels", "save", "mine", "--labels", LABELS, "--template", "7"];
    assert_exit(&with_model(home, &args, model), 0);
}

fn file(home: &Path) -> PathBuf {
    home.join("labels/mine.json")
}

fn stored(home: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file(home)).expect("file")).expect("JSON")
}

fn write(home: &Path, set: &Value) {
    std::fs::write(file(home), set.to_string()).expect("write");
}

/// `classify` with the kept set.
fn classify(home: &Path, model: &str) -> Output {
    let picture = path("images/rgb_160x120.png");
    with_model(home, &["classify", &picture, "--labels-set", "mine", "--json"], model)
}

/// The same with labels and templates on the command line.
fn classify_directly(home: &Path, model: &str) -> Value {
    let picture = path("images/rgb_160x120.png");
    let args = ["classify", &picture, "--labels", LABELS, "--template", "7", "--json"];
    let output = with_model(home, &args, model);
    assert_exit(&output, 0);
    json_lines(&output).remove(0)
}

#[test]
fn a_kept_set_classifies_as_its_labels_do_and_without_the_text_tower() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    save(home, "mobileclip-s0");
    let output = classify(home, "mobileclip-s0");
    assert_exit(&output, 0);
    assert_eq!(json_lines(&output)[0], classify_directly(home, "mobileclip-s0"));
    assert!(!stderr(&output).contains("again"), "{}", stderr(&output));

    // What is stored is what is used: exchanged embeddings exchange the labels.
    let mut set = stored(home);
    let embeddings = set["embedded"]["embeddings"].as_array_mut().expect("embeddings");
    embeddings.reverse();
    write(home, &set);
    let swapped = json_lines(&classify(home, "mobileclip-s0")).remove(0);
    let probability = |result: &Value, label: &str| {
        let labels = result["labels"].as_array().expect("labels");
        labels.iter().find(|l| l["label"] == label).expect("label")["probability"].clone()
    };
    let direct = classify_directly(home, "mobileclip-s0");
    assert_ne!(probability(&direct, "a dog"), probability(&direct, "snow & mountains"));
    assert_eq!(probability(&swapped, "a dog"), probability(&direct, "snow & mountains"));
    assert_eq!(probability(&swapped, "a cat"), probability(&direct, "a cat"));
}

#[test]
fn another_model_or_type_makes_its_own_embeddings_and_says_so() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    save(home, "mobileclip-s0");
    let before = std::fs::read(file(home)).expect("file");
    // Embeddings of the same length; the same folder, but the text tower of the first MobileCLIP-S0.
    for model in ["mobileclip-b", "mobileclip-s0/mobileclip_s0.pt"] {
        let output = classify(home, model);
        assert_exit(&output, 0);
        assert!(stderr(&output).contains("embedded by another model"), "{}", stderr(&output));
        assert_eq!(json_lines(&output)[0], classify_directly(home, model));
    }
    let (picture, model, tokenizer) =
        (path("images/rgb_160x120.png"), path("mobileclip-s0"), path("clip-tokenizer"));
    let args = ["classify", &picture, "--labels-set", "mine", "--model", &model, "--tokenizer", &tokenizer];
    let output = run(home, &[&args[..], &["--dtype", "bf16"]].concat());
    assert_exit(&output, 0);
    assert!(
        stderr(&output).contains("mobileclip-s0 in f32, this is mobileclip-s0 in bf16"),
        "{}",
        stderr(&output)
    );
    // The same weights in a copy elsewhere are the same model.
    let copy = home.join("copy.safetensors");
    std::fs::copy(path("mobileclip-l14/open_clip_model.safetensors"), &copy).expect("copy");
    std::fs::copy(path("mobileclip-l14/open_clip_config.json"), home.join("open_clip_config.json"))
        .expect("copy");
    save(home, "mobileclip-l14");
    let output = classify(home, copy.to_str().expect("utf-8"));
    assert_exit(&output, 0);
    assert!(!stderr(&output).contains("another model"), "{}", stderr(&output));
    save(home, "mobileclip-s0");
    assert_eq!(
        std::fs::read(file(home)).expect("file"),
        before,
        "saving is repeatable, classifying writes nothing"
    );
}

#[test]
fn sets_are_listed_and_removed() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    let empty = run(home, &["labels", "list"]);
    assert_exit(&empty, 0);
    assert!(stdout(&empty).is_empty() && stderr(&empty).contains("no label sets"), "{}", stderr(&empty));
    save(home, "mobileclip-s0");
    let names = home.join("names.txt");
    std::fs::write(&names, "one\n\n  two  \n").expect("write");
    let names = names.to_str().expect("utf-8");
    let output = run(home, &["labels", "save", "bare", "--labels-file", names, "--json"]);
    assert_exit(&output, 0);
    assert_eq!(json_lines(&output)[0]["labels"], json!(["one", "two"]));
    assert!(stderr(&output).contains("without embeddings"), "{}", stderr(&output));

    let listed = json_lines(&run(home, &["labels", "list", "--json"]));
    assert_eq!(listed.len(), 2);
    let expected = ["bytes", "dim", "dtype", "file", "fingerprint", "labels", "model", "name", "templates"];
    assert_eq!(fields(&listed[1]), expected);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["model"], &listed[0]["dim"]),
        (&json!("bare"), &Value::Null, &Value::Null)
    );
    assert_eq!((&listed[1]["name"], &listed[1]["model"]), (&json!("mine"), &json!("mobileclip-s0")));
    assert_eq!((&listed[1]["dim"], &listed[1]["dtype"]), (&json!(24), &json!("f32")));
    assert_eq!(listed[1]["templates"].as_array().map(Vec::len), Some(7));
    let text = stdout(&run(home, &["labels", "list"]));
    assert_eq!(text.lines().count(), 3, "{text}");

    let args = ["labels", "save", "mine", "--labels", "x"];
    let output = run(home, &args);
    assert!(stderr(&output).contains("replaced label set mine: 1 labels"), "{}", stderr(&output));
    assert_exit(&classify(home, "mobileclip-s0"), 0);
    assert_exit(&run(home, &["labels", "rm", "mine"]), 0);
    assert!(!file(home).exists());
    let gone = run(home, &["labels", "rm", "mine"]);
    assert_exit(&gone, 1);
    assert!(stderr(&gone).contains("no label set `mine`"), "{}", stderr(&gone));
    let rest: Vec<_> = std::fs::read_dir(home.join("labels")).expect("folder").flatten().collect();
    assert_eq!(rest.len(), 1, "nothing partial is left");
}

#[test]
fn names_that_are_no_names_are_refused() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    std::fs::write(home.join("victim.json"), "{}").expect("write");
    let long = "x".repeat(101);
    for name in ["../victim", "a/b", "..", ".hidden", "", "a b", "a\\b", "ä", &long] {
        for args in [&["labels", "save", name, "--labels", "a"][..], &["labels", "rm", name][..]] {
            let output = run(home, args);
            assert_exit(&output, 1);
            assert!(stderr(&output).contains("no name for a label set"), "{name}: {}", stderr(&output));
        }
        let picture = path("images/rgb_160x120.png");
        assert_exit(&with_model(home, &["classify", &picture, "--labels-set", name], "mobileclip-s0"), 1);
    }
    assert!(home.join("victim.json").is_file() && !home.join("labels").exists());
}

#[test]
fn damaged_sets_are_named_and_can_be_made_anew() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    let missing = classify(home, "mobileclip-s0");
    assert_exit(&missing, 1);
    assert!(stderr(&missing).contains("no label set `mine`"), "{}", stderr(&missing));

    save(home, "mobileclip-s0");
    let whole = stored(home);
    let mut damaged = vec![(json!("x"), "struct"), (json!({"format": 1}), "missing field")];
    for (field, value, reason) in [
        ("/format", json!(2), "format 2"),
        ("/labels", json!([]), "no labels"),
        ("/labels", json!(["a", "b"]), "do not fit its 2 labels"),
        ("/templates", json!(["no place"]), "has no {}"),
        ("/embedded/embeddings/1", json!([1.0]), "do not fit"),
        ("/embedded/embeddings/1/0", json!(1e39), "do not fit"),
        ("/embedded/embeddings/1/0", json!("1"), "invalid type"),
    ] {
        let mut set = whole.clone();
        *set.pointer_mut(field).expect("field") = value;
        damaged.push((set, reason));
    }
    let texts = damaged.into_iter().map(|(set, reason)| (set.to_string(), reason));
    for (text, reason) in
        texts.chain([("{\"format\": 1, \"labels".to_owned(), "EOF"), (String::new(), "EOF")])
    {
        std::fs::write(file(home), &text).expect("write");
        let output = classify(home, "mobileclip-s0");
        assert_exit(&output, 1);
        let said = stderr(&output);
        assert!(
            said.contains("mine.json is damaged: `ocelli labels save mine`") && said.contains(reason),
            "{said}"
        );
        let list = run(home, &["labels", "list", "--json"]);
        assert_exit(&list, 0);
        assert!(json_lines(&list)[0]["error"].as_str().is_some_and(|error| error.contains(reason)));
    }
    save(home, "mobileclip-s0");
    assert_exit(&classify(home, "mobileclip-s0"), 0);
}

#[test]
fn wrong_arguments() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    let picture = path("images/rgb_160x120.png");
    for more in [["--labels", "a"], ["--labels-file", "f"], ["--template", "7"]] {
        let args = [&["classify", &picture, "--labels-set", "mine", "--model", "x"][..], &more[..]].concat();
        assert_exit(&run(home, &args), 2);
    }
    assert_exit(&run(home, &["labels", "save", "mine"]), 2);
    let empty = run(home, &["labels", "save", "mine", "--labels", " , "]);
    assert_exit(&empty, 1);
    assert!(stderr(&empty).contains("empty"), "{}", stderr(&empty));
    let image_tower = path("mobileclip-s0/model.safetensors");
    let output = run(home, &["labels", "save", "mine", "--labels", "a", "--model", &image_tower]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("text tower") && !file(home).exists(), "{}", stderr(&output));
}
