//! All tensors of a model's folder, over one file or several.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::LoadError;
use crate::fnv::Fnv;
use crate::folder::Folder;
use crate::safetensors_file::TensorInfo;
use crate::tensor_file::TensorFile;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Files and their tensors by the names the files use.
#[derive(Debug, Clone, Default)]
pub(crate) struct TensorFiles {
    pub(crate) files: Vec<Arc<TensorFile>>,
    /// Tensor name to the position of its file in `files`.
    owner: BTreeMap<String, usize>,
}

impl TensorFiles {
    /// Open `model.safetensors.index.json` and its shards, else `model.safetensors`, else the only
    /// `*.safetensors` of the folder.
    pub(crate) fn open(folder: &dyn Folder) -> Result<Self, LoadError> {
        if folder.has(INDEX) {
            return Self::open_shards(folder);
        }
        let name = if folder.has(SINGLE) { SINGLE.to_owned() } else { only_safetensors_file(folder)? };
        Self::open_file(folder, &name)
    }

    /// One file.
    pub(crate) fn open_file(folder: &dyn Folder, name: &str) -> Result<Self, LoadError> {
        let mut files = Self::default();
        files.add(TensorFile::open(folder, name)?)?;
        Ok(files)
    }

    pub(crate) fn get(&self, name: &str) -> Option<(&Arc<TensorFile>, &TensorInfo)> {
        let file = self.files.get(*self.owner.get(name)?)?;
        Some((file, file.header.tensors.get(name)?))
    }

    /// The bytes of a tensor; none if there is no such tensor.
    pub(crate) fn bytes(&self, name: &str) -> io::Result<Cow<'_, [u8]>> {
        match self.get(name) {
            Some((file, info)) => file.get(info.bytes.clone()),
            None => Ok(Cow::default()),
        }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.owner.contains_key(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.owner.len()
    }

    /// Names in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.owner.keys().map(String::as_str)
    }

    /// Names that begin with `prefix`, in order.
    pub(crate) fn names_under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.owner
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .map(|(name, _)| name.as_str())
            .take_while(move |name| name.starts_with(prefix))
    }

    /// A number that tells checkpoints apart (FNV-1a): names, shapes and the first bytes of every tensor. It reads
    /// little, and changes when a model is trained further or stored in another type.
    pub(crate) fn fingerprint(&self) -> u64 {
        const FIRST_BYTES: usize = 256;
        let mut hash = Fnv::default();
        for (name, &file) in &self.owner {
            let file = &self.files[file];
            hash.add(name.as_bytes());
            if let Some(info) = file.header.tensors.get(name) {
                info.shape.iter().for_each(|&dim| hash.add(&(dim as u64).to_le_bytes()));
                let first = info.bytes.start..info.bytes.end.min(info.bytes.start + FIRST_BYTES);
                // What cannot be read makes no difference here, and is an error when the weights are read.
                hash.add(&file.get_alone(first).unwrap_or_default());
            }
        }
        hash.value()
    }

    /// A number that changes with every write to a file, also one that [`Self::fingerprint`] does not see: of lengths
    /// and times.
    pub(crate) fn state(&self) -> u64 {
        let mut hash = Fnv::default();
        for file in &self.files {
            let Some((len, modified_ns)) = file.changed() else { continue };
            hash.add(&len.to_le_bytes());
            hash.add(&modified_ns.to_le_bytes());
        }
        hash.value()
    }

    /// Whether any name begins with `prefix`.
    pub(crate) fn any_under(&self, prefix: &str) -> bool {
        self.names_under(prefix).next().is_some()
    }

    fn open_shards(folder: &dyn Folder) -> Result<Self, LoadError> {
        let index_path = folder.path().join(INDEX);
        let text = folder.read(INDEX).map_err(|source| LoadError::Io { path: index_path.clone(), source })?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|source| LoadError::Json { path: index_path.clone(), source })?;
        let mut shards: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();

        let mut files = Self::default();
        for shard in shards {
            if !is_plain_file_name(shard) {
                return Err(LoadError::ShardName { index: index_path, shard: shard.to_owned() });
            }
            if !folder.has(shard) {
                let dir = folder.path().to_owned();
                return Err(LoadError::MissingShard { dir, shard: shard.to_owned() });
            }
            files.add(TensorFile::open(folder, shard)?)?;
        }
        files.check_index(&index)?;
        Ok(files)
    }

    fn add(&mut self, file: TensorFile) -> Result<(), LoadError> {
        let position = self.files.len();
        for name in file.header.tensors.keys() {
            if let Some(first) = self.owner.insert(name.clone(), position) {
                return Err(LoadError::DuplicateTensor {
                    tensor: name.clone(),
                    first: self.files[first].file_name(),
                    second: file.file_name(),
                });
            }
        }
        self.files.push(Arc::new(file));
        Ok(())
    }

    fn check_index(&self, index: &Index) -> Result<(), LoadError> {
        for (tensor, shard) in &index.weight_map {
            let found = self.owner.get(tensor).map(|&position| self.files[position].file_name());
            if found.as_ref() != Some(shard) {
                return Err(LoadError::NotInShard { tensor: tensor.clone(), shard: shard.clone() });
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Whether joining the name to a directory stays in that directory.
fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let single = matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None));
    single && !name.contains(['/', '\\', '\0'])
}

fn only_safetensors_file(folder: &dyn Folder) -> Result<String, LoadError> {
    let dir = folder.path().to_owned();
    let mut found = folder.names().map_err(|source| LoadError::Io { path: dir.clone(), source })?;
    found.retain(|name| Path::new(name).extension().is_some_and(|e| e == "safetensors"));
    match (found.pop(), found.len()) {
        (Some(name), 0) => Ok(name),
        (None, _) => Err(LoadError::NoWeights {
            dir,
            reason: "nor any other .safetensors file; is this the model's directory?".to_owned(),
        }),
        (Some(_), more) => Err(LoadError::NoWeights {
            dir,
            reason: format!("there are {} .safetensors files and no {INDEX}", more + 1),
        }),
    }
}
