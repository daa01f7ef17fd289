//! Reading and writing networks under the names of a family of checkpoints.
//!
//! Tensors are read from whatever [`RawCheckpoint`] opens, training form or folded, and written as one safetensors file
//! of f32 in training form, which the ordinary loaders of Ocelli, timm and transformers read.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use ocelli_weights::names::{Row, fastvit};
use ocelli_weights::{Naming, RawCheckpoint, header_json};
use safetensors::{Dtype, SafeTensors};

use crate::TrainError;
use crate::tensors::{Exchange, Form, Named, Parameter};

/// Take every tensor of a network from a checkpoint. Returns the names in the checkpoint that no tensor took.
///
/// # Errors
/// When a tensor is missing or misshapen.
pub fn load(network: &mut impl Named, checkpoint: &RawCheckpoint) -> Result<Vec<String>, TrainError> {
    let mut reader = Reader { checkpoint, used: HashSet::new() };
    network.exchange("", &mut reader)?;
    let counter = |name: &str| name.rsplit('.').next() == Some(fastvit::COUNTER);
    let unused = checkpoint.names().filter(|name| !reader.used.contains(*name) && !counter(name));
    Ok(unused.map(str::to_owned).collect())
}

/// Write every tensor of a network to a safetensors file, f32, by a temporary file beside it that is then renamed.
///
/// # Errors
/// When the family has no name for a part of the network, or the file cannot be written.
pub fn save(network: &mut impl Named, naming: &Naming, path: &Path) -> Result<(), TrainError> {
    write_tensors(path, &tensors(network, naming)?)
}

/// All tensors of a network by their names in a checkpoint, as they are stored there.
pub(crate) fn tensors(network: &mut impl Named, naming: &Naming) -> Result<Tensors, TrainError> {
    let mut writer = Writer { naming, tensors: BTreeMap::new() };
    network.exchange("", &mut writer)?;
    Ok(writer.tensors)
}

/// Read a safetensors file of f32.
///
/// # Errors
/// When it cannot be read or holds another type.
pub(crate) fn read_tensors(path: &Path) -> Result<Tensors, TrainError> {
    let read = |reason: String| TrainError::Read { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|e| read(e.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| read(e.to_string()))?;
    let mut tensors = Tensors::new();
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(read(format!("{name} is of {:?}, not of f32", view.dtype())));
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        tensors.insert(name.to_owned(), (view.shape().to_vec(), values));
    }
    Ok(tensors)
}

/// Tensors by their names: shapes and values.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Write a safetensors file by a temporary one beside it.
pub(crate) fn write_tensors(path: &Path, tensors: &Tensors) -> Result<(), TrainError> {
    let partial = path.with_extension("partial");
    let written = write_file(&partial, tensors).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|source| TrainError::Write { path: path.to_owned(), source })
}

pub(crate) fn module(naming: &Naming, ours: &str) -> Result<(String, &'static Row), TrainError> {
    let missing = || TrainError::NoName { family: naming.family.name(), ours: ours.to_owned() };
    naming.module(ours).ok_or_else(missing)
}

struct Reader<'a> {
    checkpoint: &'a RawCheckpoint,
    used: HashSet<String>,
}

impl Exchange for Reader<'_> {
    fn naming(&self) -> &Naming {
        &self.checkpoint.naming
    }

    fn tensor(&mut self, name: &str, form: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        let shape = parameter.sizes();
        let missing = || TrainError::Missing { name: name.to_owned() };
        let found = self.checkpoint.shape(name).ok_or_else(missing)?;
        let expected = form.stored(&shape);
        // Dimensions of length 1 come and go between the families.
        let significant = |shape: &[usize]| shape.iter().copied().filter(|&dim| dim != 1).collect::<Vec<_>>();
        if significant(found) != significant(&expected) {
            return Err(TrainError::Shape { name: name.to_owned(), expected, found: found.to_vec() });
        }
        let values = self.checkpoint.read(name).ok_or_else(missing)?;
        parameter.set(form.restore(&shape, values));
        self.used.insert(name.to_owned());
        Ok(())
    }
}

struct Writer<'a> {
    naming: &'a Naming,
    tensors: Tensors,
}

impl Exchange for Writer<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, name: &str, form: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        let shape = parameter.sizes();
        let values = form.store(&shape, parameter.values());
        self.tensors.insert(name.to_owned(), (form.stored(&shape), values));
        Ok(())
    }
}

/// The format is described at <https://github.com/huggingface/safetensors>.
fn write_file<'a>(path: &Path, tensors: &'a Tensors) -> std::io::Result<()> {
    let entry = |(name, (shape, values)): (&'a String, &'a (Vec<usize>, Vec<f32>))| {
        (&name[..], "F32", &shape[..], 4 * values.len() as u64)
    };
    let header = header_json(tensors.iter().map(entry));
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for (_, values) in tensors.values() {
        for value in values {
            file.write_all(&value.to_le_bytes())?;
        }
    }
    file.into_inner().map_err(|error| error.into_error())?.sync_all()
}
