//! `pull` against a hub of our own: whole, broken off, damaged, refused.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use ocelli_testing::fixture;
use support::hub::{Behaviour, Fault, TestHub, files_of};
use support::{assert_exit, json_lines, ocelli, path, run, stderr, stdout};

const ID: &str = "apple/FastVLM-0.5B";
/// The large file of the fixture, sent from another address.
const SHARD: &str = "model-00001-of-00002.safetensors";

fn hub(behaviour: Behaviour) -> TestHub {
    TestHub::start(ID, files_of(&fixture("fastvlm-apple")), behaviour)
}

fn with_fault(file: &str, fault: Fault) -> Behaviour {
    Behaviour { faults: BTreeMap::from([(file.to_owned(), fault)]), ..Behaviour::default() }
}

fn pull(home: &Path, hub: &TestHub) -> Output {
    run(home, &["pull", ID, "--endpoint", &hub.endpoint])
}

/// Every file of the fixture is there, byte for byte, and nothing partial.
fn assert_complete(home: &Path) {
    let dir = home.join("models").join(ID);
    for (name, bytes) in files_of(&fixture("fastvlm-apple")) {
        if name.ends_with(".py") || name.starts_with('.') {
            assert!(!dir.join(&name).exists(), "{name} is not needed");
        } else {
            assert!(std::fs::read(dir.join(&name)).expect(&name) == bytes, "{name} differs");
        }
    }
    assert_eq!(partials(home), Vec::<String>::new());
}

fn partials(home: &Path) -> Vec<String> {
    let dir = std::fs::read_dir(home.join("models").join(ID)).expect("directory");
    let names = dir.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".partial")).collect()
}

#[test]
fn a_pulled_model_answers_under_both_names_and_a_second_pull_only_checks() {
    let (home, hub) = (tempfile::tempdir().expect("home"), hub(Behaviour::default()));
    let output = ocelli(home.path())
        .args(["pull", "fastvlm-0.5b", "--json"])
        .env("HF_ENDPOINT", &hub.endpoint)
        .output()
        .expect("ocelli runs");
    assert_exit(&output, 0);
    assert_complete(home.path());
    let report = &json_lines(&output)[0];
    assert_eq!(report["id"], ID);
    assert_eq!(report["downloaded"], report["files"]);
    let said = stderr(&output);
    assert!(said.contains("Test licence: for research only.") && said.contains("apple-amlr"), "{said}");
    assert!(!said.contains('\x1b') && !said.contains('\r'), "control characters: {said:?}");
    let licence = report["licence"].as_str().expect("licence");
    assert!(Path::new(licence).ends_with("models/apple/FastVLM-0.5B/LICENSE"));

    for name in ["fastvlm-0.5b", ID] {
        let picture = path("images/rgb_160x120.png");
        let output = run(home.path(), &["caption", &picture, "--model", name, "--json", "--max-tokens", "4"]);
        assert_exit(&output, 0);
        let answer = &json_lines(&output)[0];
        assert_eq!(answer["model"], ID);
        assert_eq!(answer["token_ids"].as_array().expect("ids").len(), 4);
    }

    let before = hub.gets(SHARD).len();
    let again = pull(home.path(), &hub);
    assert_exit(&again, 0);
    assert_eq!(stdout(&again).trim(), home.path().join("models").join(ID).to_str().expect("utf-8"));
    assert!(stderr(&again).contains("0 downloaded, all checked"), "{}", stderr(&again));
    assert_eq!(hub.gets(SHARD).len(), before);
    assert_eq!(hub.gets("config.json").len(), 1);
}

#[test]
fn a_damaged_file_is_found_and_taken_again() {
    let (home, hub) = (tempfile::tempdir().expect("home"), hub(Behaviour::default()));
    assert_exit(&pull(home.path(), &hub), 0);
    let shard = home.path().join("models").join(ID).join(SHARD);
    let mut bytes = std::fs::read(&shard).expect("shard");
    bytes[100_000] ^= 1;
    std::fs::write(&shard, bytes).expect("write");
    let output = pull(home.path(), &hub);
    assert_exit(&output, 0);
    assert!(stderr(&output).contains("1 downloaded"), "{}", stderr(&output));
    assert_complete(home.path());
}

#[test]
fn a_list_without_hashes_is_completed_file_by_file() {
    let behaviour = Behaviour { short_list: true, ..Behaviour::default() };
    let (home, hub) = (tempfile::tempdir().expect("home"), hub(behaviour));
    assert_exit(&pull(home.path(), &hub), 0);
    assert_complete(home.path());
    assert!(hub.seen().iter().any(|s| s.method == "HEAD" && s.path.ends_with(SHARD)));
    // The hashes were learned: a second pull takes nothing.
    assert_exit(&pull(home.path(), &hub), 0);
    assert_eq!(hub.gets("config.json").len(), 1);
}

#[test]
fn a_cut_connection_goes_on_where_it_ended() {
    let cut = with_fault(SHARD, Fault::Cut { after: 200_000, times: 1 });
    let (home, hub) = (tempfile::tempdir().expect("home"), hub(cut));
    assert_exit(&pull(home.path(), &hub), 0);
    let bodies: Vec<_> = hub.gets(SHARD).into_iter().filter(|s| s.path.starts_with("/store/")).collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0].headers.get("range"), None);
    assert_eq!(bodies[1].headers.get("range").map(String::as_str), Some("bytes=200000-"));
    assert_complete(home.path());
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let mut behaviour = with_fault(SHARD, Fault::Cut { after: 200_000, times: 1 });
    behaviour.no_ranges = true;
    let (home, hub) = (tempfile::tempdir().expect("home"), hub(behaviour));
    assert_exit(&pull(home.path(), &hub), 0);
    assert_complete(home.path());
}

#[test]
fn a_killed_pull_goes_on_and_is_no_model_until_then() {
    let stall = with_fault(SHARD, Fault::Stall { after: 300_000 });
    let (home, hub) = (tempfile::tempdir().expect("home"), hub(stall));
    let mut child = ocelli(home.path())
        .args(["pull", ID, "--endpoint", &hub.endpoint])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ocelli runs");
    let partial_bytes = || {
        let dir = home.path().join("models").join(ID);
        let name = partials(home.path()).into_iter().find(|name| name.starts_with(SHARD))?;
        Some(std::fs::metadata(dir.join(name)).ok()?.len())
    };
    let start = Instant::now();
    while !home.path().join("models").join(ID).is_dir() || partial_bytes() != Some(300_000) {
        assert!(start.elapsed() < Duration::from_secs(30), "the partial file does not grow");
        std::thread::sleep(Duration::from_millis(20));
    }
    let busy = pull(home.path(), &hub);
    assert_exit(&busy, 1);
    assert!(stderr(&busy).contains("another `ocelli pull` is at work"), "{}", stderr(&busy));
    child.kill().expect("kill");
    child.wait().expect("wait");

    let picture = path("images/rgb_160x120.png");
    let early = run(home.path(), &["caption", &picture, "--model", "fastvlm-0.5b"]);
    assert_exit(&early, 1);
    assert!(
        stderr(&early).contains("not complete: run `ocelli pull fastvlm-0.5b` again"),
        "{}",
        stderr(&early)
    );
    let list = run(home.path(), &["list", "--json"]);
    assert_eq!(json_lines(&list)[0]["origin"], "incomplete");

    hub.behave(Behaviour::default());
    assert_exit(&pull(home.path(), &hub), 0);
    let last = hub.gets(SHARD).pop().expect("request");
    assert_eq!(last.headers.get("range").map(String::as_str), Some("bytes=300000-"));
    assert_complete(home.path());
}

#[test]
fn a_wrong_hash_is_refused_and_removed() {
    let (home, hub) = (tempfile::tempdir().expect("home"), hub(with_fault(SHARD, Fault::WrongHash)));
    let output = pull(home.path(), &hub);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains(&format!("{SHARD} came with the wrong hash and was removed")));
    assert!(!home.path().join("models").join(ID).join(SHARD).exists());
    assert_eq!(partials(home.path()), Vec::<String>::new());
    let small = tempfile::tempdir().expect("home");
    let hub = self::hub(with_fault("config.json", Fault::WrongHash));
    let output = pull(small.path(), &hub);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("config.json came with the wrong hash"), "{}", stderr(&output));
}

#[test]
fn refusals_say_what_to_do() {
    let (home, hub) = (tempfile::tempdir().expect("home"), hub(Behaviour::default()));
    let output = run(home.path(), &["pull", "apple/NoSuchModel", "--endpoint", &hub.endpoint]);
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("has no model apple/NoSuchModel: check the name"),
        "{}",
        stderr(&output)
    );

    hub.behave(Behaviour { token: Some("s3cret".into()), ..Behaviour::default() });
    let output = pull(home.path(), &hub);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("HTTP 401") && stderr(&output).contains("set HF_TOKEN"));
    assert!(!home.path().join("models").exists(), "a refused pull leaves nothing");

    let output = ocelli(home.path())
        .args(["pull", ID, "--endpoint", &hub.endpoint])
        .env("HF_TOKEN", "s3cret")
        .output()
        .expect("ocelli runs");
    assert_exit(&output, 0);
    assert!(!stderr(&output).contains("s3cret"));
    assert_complete(home.path());

    for name in ["../x/y", "/etc/passwd", "random-tiny", "a/b/c"] {
        let output = run(home.path(), &["pull", name, "--endpoint", &hub.endpoint]);
        assert_exit(&output, 1);
        assert!(stderr(&output).contains("ORG/REPO"), "{}", stderr(&output));
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let home = tempfile::tempdir().expect("home");
    // Nobody listens on a port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port").port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let output = run(home.path(), &["pull", ID, "--endpoint", &endpoint]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains(&format!("cannot reach {endpoint}")), "{}", stderr(&output));
    let output = run(home.path(), &["pull", ID, "--endpoint", "ftp://example"]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("not the address of a server"));
}

#[test]
fn no_token_leaves_for_another_host() {
    // The same machine under another name is another host.
    let store = hub(Behaviour::default());
    let elsewhere = store.endpoint.replace("127.0.0.1", "localhost");
    let hub = TestHub::start_elsewhere(ID, files_of(&fixture("fastvlm-apple")), &elsewhere);
    let home = tempfile::tempdir().expect("home");
    let output = ocelli(home.path())
        .args(["pull", ID, "--endpoint", &hub.endpoint])
        .env("HF_TOKEN", "s3cret")
        .output()
        .expect("ocelli runs");
    assert_exit(&output, 0);
    assert_complete(home.path());
    let sent = store.gets(SHARD);
    assert!(!sent.is_empty() && sent.iter().all(|s| !s.headers.contains_key("authorization")));
    assert!(hub.seen().iter().all(|s| s.headers.get("authorization").is_some_and(|v| v == "Bearer s3cret")));
}

#[test]
fn more_than_the_disk_holds_is_refused_before_anything_is_taken() {
    let behaviour = Behaviour { told_bytes: Some(1 << 60), ..Behaviour::default() };
    let (home, hub) = (tempfile::tempdir().expect("home"), hub(behaviour));
    let output = pull(home.path(), &hub);
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("needs 1152921504.6 GB more") && said.contains("are free there"), "{said}");
    assert!(hub.gets("config.json").is_empty());
}

#[test]
fn a_first_mobileclip_is_one_pt_file_and_classifies() {
    let mut files = files_of(&fixture("mobileclip-s0"));
    files.retain(|name, _| name == "LICENSE" || name.starts_with('.') || name == "mobileclip_s0.pt");
    files.insert("fig_accuracy_latency.png".into(), b"not needed".to_vec());
    files.insert("README.md".into(), b"# MobileCLIP-S0".to_vec());
    let hub = TestHub::start("apple/MobileCLIP-S0", files.clone(), Behaviour::default());
    let home = tempfile::tempdir().expect("home");
    let output = run(home.path(), &["pull", "mobileclip-s0", "--endpoint", &hub.endpoint, "--json"]);
    assert_exit(&output, 0);
    assert_eq!(json_lines(&output)[0]["files"], 3);
    let dir = home.path().join("models/apple/MobileCLIP-S0");
    assert!(std::fs::read(dir.join("mobileclip_s0.pt")).expect("weights") == files["mobileclip_s0.pt"]);
    assert!(!dir.join("fig_accuracy_latency.png").exists());

    let (picture, tokenizer) = (path("images/rgb_160x120.png"), path("clip-tokenizer"));
    let classify = |model: &str| {
        let args =
            ["classify", &picture, "--labels", "dog,cat", "--tokenizer", &tokenizer, "--json", "--model"];
        let output = run(home.path(), &[&args[..], &[model]].concat());
        assert_exit(&output, 0);
        json_lines(&output)
    };
    // The same file alone in another folder; beside the fixture's configuration it would be another model.
    let copy = home.path().join("copy.pt");
    std::fs::copy(fixture("mobileclip-s0/mobileclip_s0.pt"), &copy).expect("copy");
    assert_eq!(classify("mobileclip-s0"), classify(copy.to_str().expect("utf-8")));

    let list = run(home.path(), &["list", "--json"]);
    assert_eq!(json_lines(&list)[0]["family"], "Apple MobileCLIP");
    assert!(stderr(&list).is_empty(), "{}", stderr(&list));
    let inspect = run(home.path(), &["inspect", "mobileclip-s0", "--json"]);
    assert_exit(&inspect, 0);
    let report = &json_lines(&inspect)[0];
    assert_eq!(report["files"], serde_json::json!(["mobileclip_s0.pt"]));
    assert_eq!(
        (report["preprocess"]["size"].as_u64(), report["text"]["causal"].as_bool()),
        (Some(256), Some(false))
    );
    assert!(report["licence"].as_str().is_some_and(|path| path.ends_with("LICENSE")));
}
