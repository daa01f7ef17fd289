//! Writing a random checkpoint piece by piece: no more than [`PIECE`] bytes of it are ever in memory.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::arch::{MARKER, SynthArch};
use super::random::Stream;
use super::tensor::SynthTensor;
use crate::disk::{DiskFull, check_space};
use crate::safetensors_file::header_json;

/// Bytes generated and written at once.
const PIECE: usize = 1 << 20;
/// Largest file, as transformers cuts them.
const SHARD_BYTES: u64 = 5_000_000_000;
/// What else the directory needs room for: headers, configs.
const SPARE_BYTES: u64 = 1 << 20;
/// Files of which one holds the mark.
const MARKED: [&str; 2] = ["config.json", "open_clip_config.json"];
/// What else an earlier checkpoint may have left that another model must not find.
const LEFT_OVER: [&str; 7] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
];
/// Ending of files that are not complete.
const PARTIAL: &str = ".partial";

/// Why a random checkpoint was not written.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// There is something else in the directory.
    #[error("{} is not empty and holds no random checkpoint; choose another directory", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// There is an earlier random checkpoint.
    #[error("{} already holds a random checkpoint; use --force to overwrite it", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// The disk is too small.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// The system refused.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Write a random checkpoint in the layout of the released one: a FastVLM as Apple's in bf16, without tokenizer; a
/// MobileCLIP as open_clip's in f32, and the first MobileCLIP-S0, which open_clip cannot open, with Apple's
/// names; both in training form. Each file appears under its name only when it is complete. `progress` is told the bytes of
/// weights done and those of all.
///
/// An earlier random checkpoint is overwritten if `force` is set; anything else never is.
///
/// # Errors
/// When the directory holds something else, the disk is too small, or writing fails.
pub fn synth(
    arch: SynthArch,
    dir: &Path,
    seed: u64,
    force: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), SynthError> {
    std::fs::create_dir_all(dir).map_err(|e| io_error(dir, e))?;
    make_room(dir, force)?;
    let tensors = arch.tensors();
    let total = tensors.iter().map(SynthTensor::bytes).sum();
    check_space(dir, total + SPARE_BYTES)?;

    // The config goes first: its mark tells that what an interrupted run leaves may be overwritten.
    for (name, config) in arch.configs(seed) {
        write_json(&dir.join(name), &config)?;
    }
    let shards = cut(&tensors);
    let stem = arch.weight_file();
    let names: Vec<String> = (1..=shards.len()).map(|i| shard_name(stem, i, shards.len())).collect();
    let mut done = 0;
    for (shard, name) in shards.iter().zip(&names) {
        write_shard(&dir.join(name), shard, seed, &mut |bytes| {
            done += bytes;
            progress(done, total);
        })?;
    }
    if shards.len() > 1 {
        let files = shards.iter().zip(&names);
        let map = files.flat_map(|(shard, name)| shard.iter().map(move |t| (t.name.clone(), json!(name))));
        let map: serde_json::Map<String, Value> = map.collect();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        write_json(&dir.join(format!("{stem}.safetensors.index.json")), &index)?;
    }
    Ok(())
}

/// Remove the files of an earlier run, if that is what is there and it is allowed.
fn make_room(dir: &Path, force: bool) -> Result<(), SynthError> {
    let entries = std::fs::read_dir(dir).map_err(|e| io_error(dir, e))?;
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    if paths.is_empty() {
        return Ok(());
    }
    let marked: Vec<PathBuf> = MARKED.iter().map(|name| dir.join(name)).filter(|p| is_marked(p)).collect();
    if marked.is_empty() {
        return Err(SynthError::NotEmpty { dir: dir.to_owned() });
    }
    if !force {
        return Err(SynthError::Exists { dir: dir.to_owned() });
    }
    let left_over = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let weights = ["model", "open_clip_model"].iter().any(|stem| name.starts_with(stem));
        (weights && name.contains(".safetensors"))
            || name.ends_with(PARTIAL)
            || LEFT_OVER.iter().any(|left| name == *left)
    };
    // The mark goes last: an interrupted run can be made good by another one.
    for path in paths.iter().filter(|path| left_over(path)).chain(&marked) {
        std::fs::remove_file(path).map_err(|e| io_error(path, e))?;
    }
    Ok(())
}

/// Whether a file is the configuration of a random checkpoint.
fn is_marked(path: &Path) -> bool {
    let config = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice::<Value>(&config).is_ok_and(|config| config.get(MARKER).is_some())
}

/// Consecutive tensors that fit into one file.
fn cut(tensors: &[SynthTensor]) -> Vec<&[SynthTensor]> {
    let mut shards = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (i, tensor) in tensors.iter().enumerate() {
        if bytes + tensor.bytes() > SHARD_BYTES && i > begin {
            shards.push(&tensors[begin..i]);
            (begin, bytes) = (i, 0);
        }
        bytes += tensor.bytes();
    }
    shards.push(&tensors[begin..]);
    shards
}

fn shard_name(stem: &str, number: usize, of: usize) -> String {
    if of == 1 { format!("{stem}.safetensors") } else { format!("{stem}-{number:05}-of-{of:05}.safetensors") }
}

fn write_json(path: &Path, value: &Value) -> Result<(), SynthError> {
    write_whole(path, &mut |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        file.write_all(b"\n")
    })
}

fn write_shard(
    path: &Path,
    tensors: &[SynthTensor],
    seed: u64,
    wrote: &mut dyn FnMut(u64),
) -> Result<(), SynthError> {
    write_whole(path, &mut |file| {
        let header =
            header_json(tensors.iter().map(|t| (&t.name[..], t.dtype.name(), &t.shape[..], t.bytes())));
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut piece = vec![0; PIECE];
        for tensor in tensors {
            write_tensor(file, tensor, seed, &mut piece, wrote)?;
        }
        Ok(())
    })
}

fn write_tensor(
    file: &mut File,
    tensor: &SynthTensor,
    seed: u64,
    piece: &mut [u8],
    wrote: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let mut stream = Stream::new(seed, &tensor.name);
    let (mut done, total) = (0, tensor.bytes());
    while done < total {
        let len = (total - done).min(piece.len() as u64) as usize;
        let piece = &mut piece[..len];
        let first = done / tensor.dtype.size();
        stream.fill(tensor.fill, &tensor.shape, first, tensor.dtype, piece);
        file.write_all(piece)?;
        done += len as u64;
        wrote(len as u64);
    }
    Ok(())
}

/// Write under another name, then rename; remove what is there if it fails.
fn write_whole(path: &Path, write: &mut dyn FnMut(&mut File) -> io::Result<()>) -> Result<(), SynthError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    let result = File::create(&partial).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    let result = result.and_then(|()| std::fs::rename(&partial, path));
    result.map_err(|error| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&partial);
        io_error(path, error)
    })
}

fn io_error(path: &Path, source: io::Error) -> SynthError {
    SynthError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_largest_is_cut() {
        for arch in SynthArch::ALL {
            let tensors = arch.tensors();
            let shards = cut(&tensors);
            assert_eq!(shards.concat(), tensors);
            assert_eq!(shards.len() > 1, arch == SynthArch::FastVlm7B);
            for shard in shards {
                assert!(shard.iter().map(SynthTensor::bytes).sum::<u64>() <= SHARD_BYTES);
            }
        }
    }
}
