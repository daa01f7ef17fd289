//! PyTorch's `.pt` files: a zip archive of a pickle and of one file a storage, all stored as they are.
//!
//! The pickle is read by a machine that knows how to build tensors and nothing else: no class is looked up, no
//! code runs. Tensors are found where they lie in the file, so that it can be mapped as safetensors are.
//! Format: `torch/csrc/jit/serialization` and `torch/_utils.py` (`_rebuild_tensor_v2`) of `pytorch/pytorch`.

mod archive;
mod pickle;

use std::collections::BTreeMap;

use crate::report::clip;
use crate::safetensors_file::{Dtype, Header, TensorInfo};
use archive::Archive;
use pickle::{Machine, Tensor, Value};

/// What a training run may have put around the names.
const WRAPPERS: [&str; 2] = ["state_dict", "model"];
const MODULE: &str = "module.";

/// Why a `.pt` file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PtError {
    #[error("this is no zip archive, as .pt files of PyTorch 1.6 and later are: {0}")]
    Archive(&'static str),
    #[error("`{entry}` in the archive is compressed; PyTorch stores its files as they are")]
    Compressed { entry: String },
    #[error("the archive has no `{entry}`")]
    Missing { entry: String },
    #[error("the file was written on a big-endian machine, which is not supported")]
    BigEndian,
    #[error("the pickle is damaged: {0}")]
    Pickle(&'static str),
    #[error("the pickle asks for `{0}`; only tensors and plain values are read")]
    Forbidden(String),
    #[error("the file holds no table of named tensors")]
    NoTensors,
    #[error("tensor `{tensor}`: {reason}")]
    Tensor { tensor: String, reason: String },
    #[error("a .pt file can be read from a directory only; store the model as safetensors")]
    NotMapped,
}

/// Where each tensor of a `.pt` file lies. Wrappers around the names (`state_dict`, `module.`) are taken off.
///
/// # Errors
/// When the archive or the pickle is damaged, asks for anything but tensors and plain values, or a tensor is not
/// in row-major order inside of its storage.
pub fn parse_pt(file: &[u8]) -> Result<Header, PtError> {
    let archive = Archive::parse(file)?;
    let root = archive.root()?;
    if archive.bytes(file, &format!("{root}/byteorder")).is_ok_and(|order| order != b"little") {
        return Err(PtError::BigEndian);
    }
    let mut machine = Machine::default();
    let top = machine.run(archive.bytes(file, &format!("{root}/data.pkl"))?)?;
    let named = named_tensors(&machine, top).ok_or(PtError::NoTensors)?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in named {
        let storage = archive.range(file, &format!("{root}/data/{}", tensor.storage.key))?;
        let info =
            place(&tensor, storage).map_err(|reason| PtError::Tensor { tensor: clip(&name), reason })?;
        tensors.insert(name, info);
    }
    Ok(Header { tensors, metadata: BTreeMap::new() })
}

/// The table of tensors: the value itself, or under the name of a wrapper.
fn named_tensors(machine: &Machine, top: Value) -> Option<Vec<(String, Tensor)>> {
    let table = |value: Value| {
        let entries = machine.dict(value)?;
        let named = entries.iter().filter_map(|&(key, value)| {
            Some((machine.text(key)?.to_owned(), machine.tensor(value)?.clone()))
        });
        let named: Vec<(String, Tensor)> = named.collect();
        (!named.is_empty()).then_some(named)
    };
    let entries = machine.dict(top)?;
    let inner = WRAPPERS.iter().find_map(|wrapper| {
        let (_, value) = entries.iter().find(|&&(key, _)| machine.text(key) == Some(wrapper))?;
        table(*value)
    });
    let mut named = inner.or_else(|| table(top))?;
    if named.iter().all(|(name, _)| name.starts_with(MODULE)) {
        named.iter_mut().for_each(|(name, _)| *name = name.split_off(MODULE.len()));
    }
    Some(named)
}

/// The bytes of a tensor inside of its storage.
fn place(tensor: &Tensor, storage: std::ops::Range<usize>) -> Result<TensorInfo, String> {
    let dtype: Dtype = tensor.storage.dtype;
    let mut stride = 1usize;
    for (&dim, &found) in tensor.shape.iter().zip(&tensor.strides).rev() {
        if dim > 1 && found != stride {
            return Err(format!("strides {:?} are not row-major for {:?}", tensor.strides, tensor.shape));
        }
        stride = stride.checked_mul(dim).ok_or("the size of its shape overflows")?;
    }
    let bytes = |values: usize| values.checked_mul(dtype.size());
    let range = bytes(tensor.offset).zip(bytes(stride)).and_then(|(offset, len)| {
        let begin = storage.start.checked_add(offset)?;
        Some(begin..begin.checked_add(len)?)
    });
    match range {
        Some(range) if range.end <= storage.end => {
            Ok(TensorInfo { dtype, shape: tensor.shape.clone(), bytes: range })
        }
        _ => Err(format!("it ends beyond its storage of {} bytes", storage.len())),
    }
}
