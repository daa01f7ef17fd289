//! A trained checkpoint as it is shipped: every module of branches folded into one convolution, matrices and kernels in
//! bf16. The folding is the loader's own, so that the engine answers as before.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use half::bf16;
use ocelli_plan::WeightSource;
use ocelli_weights::names::Row;
use ocelli_weights::{Checkpoint, ClipCheckpoint, Naming, RawCheckpoint, header_json};
use serde_json::Value;

use crate::checkpoint::{Tensors, module};
use crate::nets::{FastVitConfig, FastVlm, MobileClip, Qwen2Config};
use crate::tensors::{Exchange, Form, Named, Parameter};
use crate::{TrainError, folder};

const MODEL: &str = "model.safetensors";

/// Write the FastVLM of a directory to a new one, folded. Returns the bytes of its weights.
///
/// # Errors
/// When the checkpoint cannot be read, or the directory exists or cannot be written.
pub fn export_vlm(from: &Path, to: &Path) -> Result<u64, TrainError> {
    let raw = RawCheckpoint::open_fastvlm(from)?;
    let folded = Checkpoint::open(from, None)?;
    let mut vision = FastVitConfig::of(&raw)?;
    vision.folded = true;
    let language = Qwen2Config::of(&folded.config, &raw)?;
    let mut network = FastVlm::new(&vision, &language, &Device::flex());
    write(&mut network, &raw, folded.weights(), from, to)
}

/// As [`export_vlm`], of a MobileCLIP.
///
/// # Errors
/// As [`export_vlm`].
pub fn export_clip(from: &Path, to: &Path) -> Result<u64, TrainError> {
    let raw = RawCheckpoint::open_clip(from)?;
    let folded = ClipCheckpoint::open(from)?;
    let mut network = MobileClip::like(&raw, &folded.config, true, &Device::flex())?;
    write(&mut network, &raw, folded.weights(), from, to)
}

fn write(
    network: &mut impl Named,
    raw: &RawCheckpoint,
    folded: &dyn WeightSource,
    from: &Path,
    to: &Path,
) -> Result<u64, TrainError> {
    let mut collect = Collect { raw, folded, ours: RefCell::default(), tensors: Tensors::new() };
    network.exchange("", &mut collect)?;
    let bytes = bytes_of(&collect.tensors);
    folder::write_whole(to, |partial| {
        folder::copy_beside_weights(from, partial)?;
        name_dtype(&partial.join("config.json"))?;
        let path = partial.join(MODEL);
        std::fs::write(&path, &bytes).map_err(|source| TrainError::Write { path, source })
    })?;
    Ok(bytes.len() as u64)
}

/// Says in a FastVLM's configuration what its matrices are stored in; a MobileCLIP's does not.
fn name_dtype(config: &Path) -> Result<(), TrainError> {
    let Ok(text) = std::fs::read(config) else { return Ok(()) };
    let mut value: Value = serde_json::from_slice(&text)
        .map_err(|e| TrainError::Read { path: config.to_owned(), reason: e.to_string() })?;
    let Some(dtype) = value.get_mut("torch_dtype") else { return Ok(()) };
    *dtype = "bfloat16".into();
    std::fs::write(config, format!("{value:#}\n"))
        .map_err(|source| TrainError::Write { path: config.to_owned(), source })
}

/// Takes every tensor of a folded network: from the checkpoint under its name, or where branches were folded from the
/// loader under ours.
struct Collect<'a> {
    raw: &'a RawCheckpoint,
    folded: &'a dyn WeightSource,
    /// Our names of modules by those of the checkpoint.
    ours: RefCell<BTreeMap<String, String>>,
    tensors: Tensors,
}

impl Exchange for Collect<'_> {
    fn naming(&self) -> &Naming {
        &self.raw.naming
    }

    fn module(&self, ours: &str) -> Result<(String, &'static Row), TrainError> {
        let (name, row) = module(&self.raw.naming, ours)?;
        self.ours.borrow_mut().insert(name.clone(), ours.to_owned());
        Ok((name, row))
    }

    fn tensor(&mut self, name: &str, form: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        let missing = || TrainError::Missing { name: name.to_owned() };
        let (shape, values) = match self.raw.shape(name) {
            Some(shape) => (shape.to_vec(), self.raw.read(name).ok_or_else(missing)?),
            None => {
                let ours = self.ours.borrow();
                let module = ours.iter().filter(|(theirs, _)| name.starts_with(&format!("{theirs}.")));
                let (_, module) = module.max_by_key(|(theirs, _)| theirs.len()).ok_or_else(missing)?;
                let last = name.rsplit('.').next().unwrap_or_default();
                let values = self.folded.read(&format!("{module}.{last}")).map_err(|_| missing())?;
                (form.stored(&parameter.sizes()), values)
            }
        };
        self.tensors.insert(name.to_owned(), (shape, values));
        Ok(())
    }
}

/// A safetensors file: tensors of more than one dimension in bf16, vectors (norms, biases, scales, which are small) in
/// f32.
fn bytes_of(tensors: &Tensors) -> Vec<u8> {
    let mut data = Vec::new();
    let mut entries = Vec::new();
    for (name, (shape, values)) in tensors {
        let begin = data.len();
        let narrow = shape.iter().filter(|&&dim| dim > 1).count() > 1;
        match narrow {
            true => values.iter().for_each(|&v| data.extend(bf16::from_f32(v).to_le_bytes())),
            false => values.iter().for_each(|v| data.extend(v.to_le_bytes())),
        }
        let dtype = if narrow { "BF16" } else { "F32" };
        entries.push((&name[..], dtype, &shape[..], (data.len() - begin) as u64));
    }
    let header = header_json(entries.into_iter());
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}
