//! Runs of the program as a whole.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Steps that a run has taken at least when it is killed; its checkpoints must be closer.
const KILLED_AFTER: usize = 8;

/// `ocelli-train KIND --config RECIPE --out OUT`.
pub fn program(kind: &str, recipe: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocelli-train"));
    command.arg(kind).arg("--config").arg(recipe).arg("--out").arg(out).args(["--threads", "2"]);
    command
}

/// The same with more arguments, done; the recipe is this text.
pub fn run(kind: &str, recipe: &str, dir: &Path, arguments: &[&str]) -> Output {
    let file = dir.join("recipe.toml");
    std::fs::write(&file, recipe).expect("written");
    program(kind, &file, &dir.join("out")).args(arguments).output().expect("runs")
}

/// What a program said on its standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The records of a run; none if there is no file yet.
pub fn records(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap_or_default();
    // The last line may be half written.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The weights of its last checkpoint.
pub fn weights(dir: &Path) -> Vec<u8> {
    let last: PathBuf = ocelli_train::fit::Run::last_of(dir).expect("a checkpoint");
    std::fs::read(last.join("model.safetensors")).expect("weights")
}

/// A run that is killed and started again has the losses and the weights of one that was not. Returns the folder of the
/// latter.
pub fn killed_ends_alike(kind: &str, recipe: &str, steps: usize) -> TempDir {
    let [whole, killed] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let file = killed.path().join("recipe.toml");
    std::fs::write(&file, recipe).expect("written");
    let quiet = |out: &Path| {
        let mut command = program(kind, &file, out);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    assert!(quiet(whole.path()).status().expect("runs").success());
    let mut child = quiet(killed.path()).spawn().expect("runs");
    let begin = Instant::now();
    while records(killed.path()).len() < KILLED_AFTER {
        assert!(begin.elapsed() < Duration::from_secs(300), "no {KILLED_AFTER} steps in five minutes");
        assert!(child.try_wait().expect("its state").is_none(), "it ends before it is killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    // On Unix this is SIGKILL.
    child.kill().expect("killed");
    child.wait().expect("its end");
    assert!(quiet(killed.path()).status().expect("runs").success());
    assert!(weights(killed.path()) == weights(whole.path()));
    let figures = |dir: &Path| -> Vec<[Option<f64>; 3]> {
        let figure =
            |record: &Value| ["loss", "held_back_loss", "held_back_recall"].map(|name| record[name].as_f64());
        records(dir).iter().map(figure).collect()
    };
    assert_eq!(figures(killed.path()).len(), steps);
    assert_eq!(figures(killed.path()), figures(whole.path()));
    whole
}
