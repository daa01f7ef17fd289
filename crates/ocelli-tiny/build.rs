//! Writes the list of the files under `models/`, and a hash of each model's content, as Rust.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const MODELS: [(&str, &str); 2] = [("OCELLI_TINY", "ocelli-tiny"), ("OCELLI_TINY_CLIP", "ocelli-tiny-clip")];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=models");
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("models");
    let mut code = String::new();
    for (constant, name) in MODELS {
        let files = files(&root.join(name))?;
        let hash = hash(&files)?;
        writeln!(code, "/// The files of `{name}`.")?;
        writeln!(code, "pub(crate) const {constant}: Model = Model {{ hash: {hash:#018x}, files: &[")?;
        for (file, path) in &files {
            println!("cargo::rerun-if-changed={}", path.display());
            writeln!(code, "    File {{ name: {file:?}, bytes: include_bytes!({path:?}) }},")?;
        }
        writeln!(code, "] }};")?;
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("models.rs");
    Ok(std::fs::write(out, code)?)
}

/// Names and paths of a folder's files, in order; hidden ones are left out.
fn files(dir: &Path) -> Result<Vec<(String, PathBuf)>, Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| format!("{name:?} is no Unicode"))?;
        if !name.starts_with('.') && entry.file_type()?.is_file() {
            files.push((name, entry.path()));
        }
    }
    files.sort();
    if files.is_empty() { Err(format!("{} holds no files", dir.display()).into()) } else { Ok(files) }
}

/// FNV-1a of names, lengths and bytes (Fowler, Noll and Vo, <http://www.isthe.com/chongo/tech/comp/fnv/>): it names
/// a directory, whose files are compared byte by byte before they are used.
fn hash(files: &[(String, PathBuf)]) -> std::io::Result<u64> {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (name, path) in files {
        let bytes = std::fs::read(path)?;
        add(name.as_bytes());
        add(&[0]);
        add(&(bytes.len() as u64).to_le_bytes());
        add(&bytes);
    }
    Ok(hash)
}
