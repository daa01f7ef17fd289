//! Copies the shaders without comments and indents: a browser's module carries them. Lines keep their numbers.

use std::path::Path;
use std::{env, fs, io};

const SHADERS: &str = "src/shaders";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={SHADERS}");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    for file in fs::read_dir(SHADERS)? {
        let file = file?;
        let code: String = fs::read_to_string(file.path())?.lines().map(bare).collect();
        fs::write(Path::new(&out).join(file.file_name()), code)?;
    }
    Ok(())
}

/// A line without its comment; WGSL has no texts that could hold one.
fn bare(line: &str) -> String {
    let code = line.split_once("//").map_or(line, |(code, _)| code);
    format!("{}\n", code.trim())
}
