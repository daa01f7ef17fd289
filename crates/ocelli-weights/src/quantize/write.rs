//! Writing a quantized checkpoint: the same tensor names, the chosen matrices as bytes
//! `[rows, blocks of a row, bytes of a block]`, those of 8-bit rows in their own shape with the four bytes of the
//! scale before a row's codes, everything else byte for byte, and the field
//! `ocelli_quantization` in `config.json`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ocelli_plan::{BlockFormat, WeightError, WeightSource};
use ocelli_quant::encode_row;
use serde_json::{Value, json};

use super::QuantPolicy;
use crate::checkpoint::{Checkpoint, licence_file};
use crate::disk::{DiskFull, check_space};
use crate::error::LoadError;
use crate::folder::Directory;
use crate::quantization::{OUR_FIELD, OUR_VERSION};
use crate::safetensors_file::header_json;
use crate::shards::TensorFiles;

/// What else the directory needs room for: headers, configs, the tokenizer.
const SPARE_BYTES: u64 = 32 << 20;
/// Rows encoded before they are written.
const ROWS: usize = 64;
/// Files beside the weights that belong to a model.
const BESIDE: [&str; 12] = [
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "NOTICE",
];

/// Why a quantized checkpoint was not written.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The original cannot be opened.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A tensor cannot be read.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// Codes of codes would lose twice.
    #[error("`{tensor}` is quantized already ({stored}): begin with the original checkpoint")]
    Already {
        /// Our name of the tensor.
        tensor: String,
        /// How it is stored.
        stored: String,
    },
    /// There is something in the way.
    #[error("{} exists: choose another directory", dir.display())]
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

/// A tensor of the new file.
struct Entry<'a> {
    /// Its name in both files.
    key: &'a str,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
    /// Our name and the blocks, if it is to be quantized.
    blocks: Option<(&'a str, BlockFormat)>,
}

/// Write the checkpoint of `from` to `to` with the matrices that the policy names in blocks. The
/// directory appears under its name only when it is complete. `progress` is told the bytes of weights
/// done and those of all. Returns the bytes of the weights.
///
/// # Errors
/// When `to` exists, the original cannot be read or is quantized, the disk is too small, or writing
/// fails.
pub fn write_quantized(
    from: &Path,
    to: &Path,
    policy: QuantPolicy,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, QuantizeError> {
    if to.exists() {
        return Err(QuantizeError::Exists { dir: to.to_owned() });
    }
    let checkpoint = Checkpoint::open(from, None)?;
    let files = TensorFiles::open(&Directory::new(from))?;
    let entries = entries(&checkpoint, &files, policy)?;
    let total = entries.iter().map(|entry| entry.bytes).sum();
    let partial = partial_name(to);
    if partial.exists() {
        // What an interrupted run has left.
        std::fs::remove_dir_all(&partial).map_err(|e| io_error(&partial, e))?;
    }
    std::fs::create_dir_all(&partial).map_err(|e| io_error(&partial, e))?;
    let written = check_space(&partial, total + SPARE_BYTES)
        .map_err(QuantizeError::from)
        .and_then(|()| copy_beside(from, &partial))
        .and_then(|()| write_config(from, &partial, policy))
        .and_then(|()| write_weights(&checkpoint, (from, &files), &entries, &partial, progress))
        .and_then(|()| std::fs::rename(&partial, to).map_err(|e| io_error(to, e)));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_dir_all(&partial);
    }
    written.map(|()| total)
}

/// A name beside the directory, so that renaming stays in one file system.
fn partial_name(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    to.with_file_name(name)
}

fn entries<'a>(
    checkpoint: &'a Checkpoint,
    files: &'a TensorFiles,
    policy: QuantPolicy,
) -> Result<Vec<Entry<'a>>, QuantizeError> {
    let mut entries = Vec::new();
    for key in files.names().filter(|&key| !checkpoint.report.ignored.iter().any(|i| i == key)) {
        let Some((_, info)) = files.get(key) else { continue };
        let ours = checkpoint.our_name(key);
        let shape = ours.and_then(|ours| checkpoint.weights().shape(ours));
        let format = ours.zip(shape).and_then(|(ours, shape)| Some((ours, policy.format_of(ours, shape)?)));
        if let Some((ours, _)) = format {
            let stored = checkpoint.weights().stored_dtype(ours);
            if let Some(stored) = stored.filter(|stored| stored.is_quantized()) {
                return Err(QuantizeError::Already { tensor: ours.to_owned(), stored: stored.to_string() });
            }
        }
        entries.push(match format.zip(shape) {
            Some(((ours, format), shape)) => {
                let shape = stored_shape(format, shape);
                let bytes = shape.iter().product::<usize>() as u64;
                Entry { key, dtype: "U8".to_owned(), shape, bytes, blocks: Some((ours, format)) }
            }
            None => Entry {
                key,
                dtype: info.dtype.to_string(),
                shape: info.shape.clone(),
                bytes: info.bytes.len() as u64,
                blocks: None,
            },
        });
    }
    Ok(entries)
}

/// The bytes of a matrix of this shape.
fn stored_shape(format: BlockFormat, shape: &[usize]) -> Vec<usize> {
    if format == BlockFormat::Int8 {
        let bytes = format.block_bytes(shape[1]);
        return [&[shape[0], bytes], &shape[2..]].concat();
    }
    vec![shape[0], shape[1] / BlockFormat::GROUP, format.block_bytes(BlockFormat::GROUP)]
}

/// The tokenizer and its like, and the licence.
fn copy_beside(from: &Path, to: &Path) -> Result<(), QuantizeError> {
    let known = BESIDE.iter().map(|name| from.join(name)).filter(|path| path.is_file());
    for path in known.chain(licence_file(from)) {
        let target = to.join(path.file_name().unwrap_or_default());
        std::fs::copy(&path, &target).map_err(|e| io_error(&target, e))?;
    }
    Ok(())
}

fn write_config(from: &Path, to: &Path, policy: QuantPolicy) -> Result<(), QuantizeError> {
    let path = from.join("config.json");
    let text = std::fs::read(&path).map_err(|e| io_error(&path, e))?;
    let mut config: Value =
        serde_json::from_slice(&text).map_err(|source| LoadError::Json { path: path.clone(), source })?;
    config[OUR_FIELD] = json!({
        "version": OUR_VERSION,
        "group_size": BlockFormat::GROUP,
        "layers": policy.layers.map(BlockFormat::name),
        "head": policy.head.map(BlockFormat::name),
        "vision": policy.int8_vision.then_some(BlockFormat::Int8.name()),
    });
    let path = to.join("config.json");
    let text = format!("{config:#}\n");
    std::fs::write(&path, text).map_err(|e| io_error(&path, e))
}

fn write_weights(
    checkpoint: &Checkpoint,
    (from, files): (&Path, &TensorFiles),
    entries: &[Entry],
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), QuantizeError> {
    let path = to.join("model.safetensors");
    let failed = |e| io_error(&path, e);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(failed)?);
    let header = header_json(entries.iter().map(|e| (e.key, &e.dtype[..], &e.shape[..], e.bytes)));
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    file.write_all(header.as_bytes()).map_err(failed)?;
    let (mut done, total) = (0, entries.iter().map(|entry| entry.bytes).sum());
    for entry in entries {
        match entry.blocks {
            Some((ours, format)) => {
                write_blocks(checkpoint.weights(), ours, format, &mut |blocks| {
                    done += blocks.len() as u64;
                    progress(done, total);
                    file.write_all(blocks).map_err(failed)
                })?;
            }
            None => {
                let bytes = files.bytes(entry.key).map_err(|e| io_error(from, e))?;
                file.write_all(&bytes).map_err(failed)?;
                done += entry.bytes;
                progress(done, total);
            }
        }
    }
    let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)
}

fn write_blocks(
    weights: &dyn WeightSource,
    ours: &str,
    format: BlockFormat,
    write: &mut dyn FnMut(&[u8]) -> Result<(), QuantizeError>,
) -> Result<(), QuantizeError> {
    let shape = weights.shape(ours).ok_or_else(|| WeightError::missing(ours))?;
    let (rows, cols) = (shape[0], shape[1..].iter().product::<usize>());
    let (mut values, mut blocks) = (vec![0.0; ROWS * cols], vec![0; ROWS * format.row_bytes(cols)]);
    for first in (0..rows).step_by(ROWS) {
        let count = ROWS.min(rows - first);
        let values = &mut values[..count * cols];
        let blocks = &mut blocks[..count * format.row_bytes(cols)];
        weights.read_rows(ours, first, values)?;
        for (row, blocks) in values.chunks_exact(cols).zip(blocks.chunks_exact_mut(format.row_bytes(cols))) {
            encode_row(format, row, blocks);
        }
        write(blocks)?;
    }
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> QuantizeError {
    QuantizeError::Io { path: path.to_owned(), source }
}
