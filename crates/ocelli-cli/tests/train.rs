//! `ocelli train` runs the program beside it, and says what to do where there is none.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A copy of the program in a folder of its own.
fn alone(dir: &Path) -> PathBuf {
    let program = dir.join("ocelli");
    std::fs::copy(env!("CARGO_BIN_EXE_ocelli"), &program).expect("copied");
    program
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).env("PATH", "").output().expect("runs")
}

/// One test: a program that is being written cannot be run while another thread starts one.
#[test]
fn it_runs_the_program_beside_it_or_says_how_to_get_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let (program, train) = (alone(dir.path()), dir.path().join("ocelli-train"));
    let output = run(&program, &["train", "vlm"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cargo build --release -p ocelli-train"), "{said}");

    std::fs::write(&train, "#!/bin/sh\necho \"got: $*\"\nexit 2\n").expect("written");
    std::fs::set_permissions(&train, std::fs::Permissions::from_mode(0o755)).expect("made executable");
    let output = run(&program, &["train", "vlm", "--config", "a b.toml", "--help"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "got: vlm --config a b.toml --help\n");
    assert_eq!(output.status.code(), Some(2));
}
