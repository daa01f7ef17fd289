//! The binary with its own home, and a small hub of our own.
#![allow(dead_code)] // Each test file uses a part.

pub mod hub;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use ocelli_testing::fixture;
use serde_json::Value;

/// The `ocelli` binary with this home and nothing of the caller's settings.
pub fn ocelli(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocelli"));
    for name in
        ["HF_TOKEN", "HF_ENDPOINT", "OCELLI_ISA", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
    {
        command.env_remove(name);
    }
    command.env("OCELLI_HOME", home).stdin(Stdio::null());
    command
}

/// Run it with these arguments.
pub fn run(home: &Path, args: &[&str]) -> Output {
    ocelli(home).args(args).output().expect("ocelli runs")
}

/// A path of a fixture as an argument.
pub fn path(name: &str) -> String {
    fixture(name).to_str().expect("utf-8").to_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is utf-8")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The exit status, with what was said when it is another.
pub fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(output), stderr(output));
}

/// One JSON value a line.
pub fn json_lines(output: &Output) -> Vec<Value> {
    let text = stdout(output);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Names of a JSON object's fields, in order.
pub fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().expect("object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}
