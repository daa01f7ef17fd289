//! Everything that can be wrong with a checkpoint.

use std::path::PathBuf;

use crate::pt::PtError;
use crate::report::LoadReport;
use crate::safetensors_file::HeaderError;

/// Why a checkpoint could not be opened. Each message names the file or tensor and, where it is known,
/// what to do next.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory has no safetensors files.
    #[error("{} has no model.safetensors: {reason}", dir.display())]
    NoWeights {
        /// The directory.
        dir: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// A JSON file is not as it should be.
    #[error("{} is not valid JSON of the expected form: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The place and the reason.
        source: serde_json::Error,
    },
    /// A safetensors header is broken.
    #[error("{}: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// A `.pt` file cannot be read.
    #[error("{}: {source}", path.display())]
    Pt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PtError,
    },
    /// `model.safetensors.index.json` names something that is no plain file name.
    #[error("{}: `{shard}` is not the name of a file in the same directory", index.display())]
    ShardName {
        /// The index.
        index: PathBuf,
        /// The name in it.
        shard: String,
    },
    /// A shard named by the index is not there.
    #[error("{}: shard `{shard}` is missing; the download may be incomplete", dir.display())]
    MissingShard {
        /// The directory.
        dir: PathBuf,
        /// The file name.
        shard: String,
    },
    /// The index says that a tensor is in a shard, but it is not.
    #[error("tensor `{tensor}` is listed in the index for `{shard}` but is not in that file")]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The file name.
        shard: String,
    },
    /// Two shards hold the same tensor.
    #[error("tensor `{tensor}` is both in `{first}` and in `{second}`")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A field of a configuration file is missing or has a value that cannot be.
    #[error("{}: `{field}` {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field, with dots for nesting.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint asks for something that is not implemented.
    #[error("{field} = {found} is not supported; supported: {supported}")]
    Unsupported {
        /// The field that asks for it.
        field: String,
        /// Its value.
        found: String,
        /// The values that work.
        supported: String,
    },
    /// The configuration and the tensors disagree.
    #[error("config.json says {field} = {config}, but the tensors say {tensors}")]
    ConfigMismatch {
        /// The field.
        field: &'static str,
        /// Its value.
        config: usize,
        /// The number found in the shapes or names of the tensors.
        tensors: usize,
    },
    /// The keys follow none of the known spellings.
    #[error("cannot recognise the checkpoint from its {count} keys (for example {examples}); known: {known}")]
    UnknownFamily {
        /// How many keys there are.
        count: usize,
        /// A few of them.
        examples: String,
        /// The families known.
        known: String,
    },
    /// There are no vision tower tensors.
    #[error("{} ({family}) {reason}", dir.display())]
    NoVisionTower {
        /// The directory.
        dir: PathBuf,
        /// The family of the checkpoint.
        family: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// Quantized tensors that cannot be decoded.
    #[error("unknown quantization of `{tensor}`: {reason}")]
    Quantization {
        /// The tensor, or the field of the configuration.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that is needed has a type that cannot be converted.
    #[error("tensor `{tensor}` has dtype {dtype}; supported: F32, F16, BF16 and MLX codes in U32")]
    Dtype {
        /// The tensor, as the file names it.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// The modules that the keys describe make no network.
    #[error("the tensors make no FastViT: {reason}")]
    Structure {
        /// What does not fit.
        reason: String,
    },
    /// Tensors are missing, unused or of another shape.
    #[error("{0}")]
    Tensors(Box<LoadReport>),
}
