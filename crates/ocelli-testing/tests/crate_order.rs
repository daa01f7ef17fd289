//! A crate may use only those that stand above it in the table of `docs/ARCHITECTURE.md`.

use std::process::Command;

use serde_json::Value;

/// From the ground up; each may use those before it, but for the exceptions below.
const ORDER: [&str; 18] = [
    "ocelli-plan",
    "ocelli-quant",
    "ocelli-cpu",
    "ocelli-gpu",
    "ocelli-weights",
    "ocelli-image",
    "ocelli-text",
    "ocelli-models",
    "ocelli",
    "ocelli-index",
    "ocelli-drawn",
    "ocelli-tiny",
    "ocelli-photos",
    "ocelli-server",
    "ocelli-web",
    "ocelli-train",
    "ocelli-cli",
    "xtask",
];

/// What a crate must not use although it stands above.
const NEVER: [(&str, &str); 16] = [
    ("ocelli-gpu", "ocelli-cpu"),
    ("ocelli-weights", "ocelli-cpu"),
    ("ocelli-weights", "ocelli-gpu"),
    ("ocelli-image", "ocelli-cpu"),
    ("ocelli-text", "ocelli-plan"),
    ("ocelli-models", "ocelli-cpu"),
    ("ocelli-models", "ocelli-gpu"),
    ("ocelli-index", "ocelli"),
    ("ocelli-drawn", "ocelli"),
    ("ocelli-drawn", "ocelli-image"),
    ("ocelli-tiny", "ocelli"),
    ("ocelli-web", "ocelli-cpu"),
    ("ocelli-web", "ocelli-gpu"),
    ("ocelli-cli", "ocelli-cpu"),
    ("ocelli-cli", "ocelli-gpu"),
    ("ocelli-cli", "ocelli-train"),
];

/// Crates of this workspace with the crates of this workspace that they use outside of tests.
fn crates() -> Vec<(String, Vec<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints json");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |v: &Value| v["name"].as_str().expect("name").to_owned();
    let ours = |package: &Value| {
        let all = package["dependencies"].as_array().expect("dependencies").iter();
        all.filter(|d| d["kind"].is_null()).map(name).filter(|n| n.starts_with("ocelli")).collect()
    };
    packages.iter().map(|package| (name(package), ours(package))).collect()
}

fn place(name: &str) -> usize {
    let found = ORDER.iter().position(|&n| n == name);
    found.unwrap_or_else(|| panic!("{name} has no place in docs/ARCHITECTURE.md and in this test"))
}

#[test]
fn crates_use_only_those_above_them() {
    let crates = crates();
    assert!(crates.len() > 8, "found only {crates:?}");
    for (name, uses) in crates.iter().filter(|(name, _)| name != "ocelli-testing") {
        for used in uses {
            assert_ne!(used, "ocelli-testing", "{name} uses the test crate outside of its tests");
            assert!(place(used) < place(name), "{name} uses {used}, which stands below it");
            let forbidden = NEVER.contains(&(name.as_str(), used.as_str()));
            assert!(!forbidden, "{name} must not use {used}");
        }
    }
}
