//! All tensors of a model directory, over one file or several.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::LoadError;
use crate::fnv::Fnv;
use crate::safetensors_file::{MappedFile, TensorInfo};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Mapped files and their tensors by the names the files use.
#[derive(Debug, Clone, Default)]
pub(crate) struct TensorFiles {
    pub(crate) files: Vec<Arc<MappedFile>>,
    /// Tensor name to the position of its file in `files`.
    owner: BTreeMap<String, usize>,
}

impl TensorFiles {
    /// Open `model.safetensors.index.json` and its shards, else `model.safetensors`, else the only
    /// `*.safetensors` of the directory.
    pub(crate) fn open(dir: &Path) -> Result<Self, LoadError> {
        let index = dir.join(INDEX);
        if index.is_file() {
            return Self::open_shards(dir, &index);
        }
        let single = dir.join(SINGLE);
        let path = if single.is_file() { single } else { only_safetensors_file(dir)? };
        let mut files = Self::default();
        files.add(MappedFile::open(&path)?)?;
        Ok(files)
    }

    /// One file.
    pub(crate) fn open_file(path: &Path) -> Result<Self, LoadError> {
        let mut files = Self::default();
        files.add(MappedFile::open(path)?)?;
        Ok(files)
    }

    pub(crate) fn get(&self, name: &str) -> Option<(&Arc<MappedFile>, &TensorInfo)> {
        let file = self.files.get(*self.owner.get(name)?)?;
        Some((file, file.header.tensors.get(name)?))
    }

    /// The bytes of a tensor; none if there is no such tensor.
    pub(crate) fn bytes(&self, name: &str) -> &[u8] {
        let found = self.get(name).and_then(|(file, info)| file.bytes().get(info.bytes.clone()));
        found.unwrap_or_default()
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
                hash.add(&file.bytes()[info.bytes.start..info.bytes.end.min(info.bytes.start + FIRST_BYTES)]);
            }
        }
        hash.value()
    }

    /// A number that changes with every write to a file, also one that [`Self::fingerprint`] does not see: of lengths
    /// and times.
    pub(crate) fn state(&self) -> u64 {
        let mut hash = Fnv::default();
        for file in &self.files {
            let Ok(metadata) = std::fs::metadata(&file.path) else { continue };
            let modified =
                metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            hash.add(&metadata.len().to_le_bytes());
            hash.add(&modified.map_or(0, |t| t.as_nanos()).to_le_bytes());
        }
        hash.value()
    }

    /// Whether any name begins with `prefix`.
    pub(crate) fn any_under(&self, prefix: &str) -> bool {
        self.names_under(prefix).next().is_some()
    }

    fn open_shards(dir: &Path, index_path: &Path) -> Result<Self, LoadError> {
        let text = std::fs::read(index_path)
            .map_err(|source| LoadError::Io { path: index_path.to_owned(), source })?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|source| LoadError::Json { path: index_path.to_owned(), source })?;
        let mut shards: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();

        let mut files = Self::default();
        for shard in shards {
            if !is_plain_file_name(shard) {
                let index = index_path.to_owned();
                return Err(LoadError::ShardName { index, shard: shard.to_owned() });
            }
            let path = dir.join(shard);
            if !path.is_file() {
                return Err(LoadError::MissingShard { dir: dir.to_owned(), shard: shard.to_owned() });
            }
            files.add(MappedFile::open(&path)?)?;
        }
        files.check_index(&index)?;
        Ok(files)
    }

    fn add(&mut self, file: MappedFile) -> Result<(), LoadError> {
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

fn only_safetensors_file(dir: &Path) -> Result<std::path::PathBuf, LoadError> {
    let entries = std::fs::read_dir(dir).map_err(|source| LoadError::Io { path: dir.to_owned(), source })?;
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors") && path.is_file())
        .collect();
    found.sort();
    match (found.pop(), found.len()) {
        (Some(path), 0) => Ok(path),
        (None, _) => Err(LoadError::NoWeights {
            dir: dir.to_owned(),
            reason: "nor any other .safetensors file; is this the model's directory?".to_owned(),
        }),
        (Some(_), more) => Err(LoadError::NoWeights {
            dir: dir.to_owned(),
            reason: format!("there are {} .safetensors files and no {INDEX}", more + 1),
        }),
    }
}
