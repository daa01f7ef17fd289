//! `train`: runs `ocelli-train`, a program of its own, so that whoever only runs models need not build the training
//! library.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

/// `ocelli train`. Does not return where the system can put one program in another's place.
pub fn train(arguments: &[OsString]) -> anyhow::Result<bool> {
    let name = format!("ocelli-train{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(&name)));
    // Beside this program first: that one is of the same version.
    let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(&name));
    let mut command = Command::new(program);
    command.args(arguments);
    let error = match run(&mut command) {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    if error.kind() == std::io::ErrorKind::NotFound {
        bail!(
            "training is a program of its own, and `{name}` is neither beside this one nor on PATH: \
             cargo build --release -p ocelli-train (or cargo install --path crates/ocelli-train)"
        );
    }
    bail!("cannot run {name}: {error}")
}

#[cfg(unix)]
fn run(command: &mut Command) -> std::io::Result<bool> {
    use std::os::unix::process::CommandExt;
    Err(command.exec())
}

#[cfg(not(unix))]
fn run(command: &mut Command) -> std::io::Result<bool> {
    let code = command.status()?.code();
    if code == Some(2) {
        std::process::exit(2);
    }
    Ok(code == Some(0))
}
