//! Tells the program which commit it was built from, where git knows or `OCELLI_COMMIT` says so.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=OCELLI_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    // Changes with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo:rerun-if-changed={log}");
    }
    let given = std::env::var("OCELLI_COMMIT").ok().filter(|commit| !commit.is_empty());
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]).or(given) {
        println!("cargo:rustc-env=OCELLI_BUILT_FROM={commit}");
    }
}

/// What git says on its first line; nothing where there is no git or no repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}
