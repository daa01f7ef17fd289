//! Samples in tar files, as webdataset writes them: members of one name before its first dot make a sample.
//!
//! Format: <https://github.com/webdataset/webdataset>. The files are read once from end to end for where each member lies,
//! so that samples can be taken in any order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::TrainError;

/// Members, and the mark of the end, begin at multiples of this.
const BLOCK: u64 = 512;

/// What a member is, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// `.jpg`, `.jpeg`, `.png` or `.webp`.
    Image,
    /// `.txt`: the caption.
    Caption,
    /// `.paug.json`: stored augmentations.
    Augmentations,
    /// `.syn.json`: synthetic captions.
    Synthetic,
    /// `.npz`: teachers' embeddings.
    Npz,
    /// `.pth.gz`: the same by PyTorch.
    PthGz,
}

impl Member {
    fn of(extension: &str) -> Option<Self> {
        Some(match extension {
            "jpg" | "jpeg" | "png" | "webp" => Self::Image,
            "txt" => Self::Caption,
            "paug.json" => Self::Augmentations,
            "syn.json" => Self::Synthetic,
            "npz" => Self::Npz,
            "pth.gz" => Self::PthGz,
            _ => return None,
        })
    }

    /// The most bytes it may have.
    fn most(self) -> u64 {
        match self {
            Self::Image => 256 << 20,
            Self::Npz | Self::PthGz => 64 << 20,
            Self::Caption | Self::Augmentations | Self::Synthetic => 16 << 20,
        }
    }
}

/// The samples of some tar files.
#[derive(Debug, Default)]
pub struct Shards {
    files: Vec<PathBuf>,
    samples: Vec<Place>,
    /// What cannot be read of the files, with its place.
    pub bad: Vec<String>,
}

/// Where a sample lies.
#[derive(Debug)]
struct Place {
    file: usize,
    key: String,
    /// Offset and size of each member.
    members: BTreeMap<Member, (u64, u64)>,
}

/// The bytes of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// Its file and its key in it.
    pub name: String,
    /// Each member.
    pub bytes: BTreeMap<Member, Vec<u8>>,
}

impl Shards {
    /// The tar files of a folder, in the order of their names.
    ///
    /// # Errors
    /// When the folder cannot be read or has none.
    pub fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
        let failed = |reason: String| TrainError::Read { path: folder.to_owned(), reason };
        let entries = std::fs::read_dir(folder).map_err(|e| failed(e.to_string()))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut tars: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|extension| extension == "tar")).collect();
        tars.sort();
        if tars.is_empty() { Err(failed("it has no .tar file".into())) } else { Ok(tars) }
    }

    /// Find the samples of these files. What is damaged is left out and told in [`Shards::bad`].
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn open(files: &[PathBuf]) -> Result<Self, TrainError> {
        let mut shards = Self { files: files.to_vec(), ..Self::default() };
        for (i, path) in files.iter().enumerate() {
            let failed = |e: std::io::Error| TrainError::Read { path: path.clone(), reason: e.to_string() };
            let file = File::open(path).map_err(failed)?;
            let length = file.metadata().map_err(failed)?.len();
            if let Err(reason) = shards.index(i, file, length) {
                shards.bad.push(format!("{}: {reason}", path.display()));
            }
        }
        Ok(shards)
    }

    /// Samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// A sample's members.
    ///
    /// # Errors
    /// Why it cannot be read, with its name.
    pub fn read(&self, index: usize) -> Result<Members, String> {
        let place = &self.samples[index];
        let path = &self.files[place.file];
        let name = format!("{}: {}", path.display(), place.key);
        let failed = |reason: String| format!("{name}: {reason}");
        let mut file = File::open(path).map_err(|e| failed(e.to_string()))?;
        let mut bytes = BTreeMap::new();
        for (&member, &(offset, size)) in &place.members {
            if size > member.most() {
                let most = member.most() >> 20;
                return Err(failed(format!("{member:?} of {size} bytes; at most {most} MB are read")));
            }
            let mut content = vec![0; size as usize];
            let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut content));
            read.map_err(|e| failed(e.to_string()))?;
            bytes.insert(member, content);
        }
        Ok(Members { name, bytes })
    }

    fn index(&mut self, file: usize, tar: File, length: u64) -> Result<(), String> {
        let mut archive = tar::Archive::new(tar);
        let mut current: Option<Place> = None;
        let entries = archive.entries_with_seek().map_err(|e| e.to_string())?;
        let mut damage = None;
        let mut end = 0;
        for entry in entries {
            // Nothing behind a damaged header can be found.
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    damage = Some(format!("cut off or damaged: {error}"));
                    break;
                }
            };
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = entry.path_bytes();
            let path = String::from_utf8_lossy(&path);
            let (folder, base) = path.rsplit_once('/').map_or(("", &*path), |(folder, base)| (folder, base));
            let Some((stem, extension)) = base.split_once('.') else { continue };
            let key = if folder.is_empty() { stem.to_owned() } else { format!("{folder}/{stem}") };
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.checked_add(size).is_none_or(|end| end > length) {
                damage = Some(format!("cut off in {path}"));
                break;
            }
            end = offset + size;
            if current.as_ref().is_none_or(|place| place.key != key) {
                self.samples.extend(current.take());
                current = Some(Place { file, key, members: BTreeMap::new() });
            }
            let (Some(place), Some(member)) = (&mut current, Member::of(&extension.to_lowercase())) else {
                continue;
            };
            if place.members.insert(member, (offset, size)).is_some() {
                self.bad.push(format!("{}: {path} comes twice", self.files[file].display()));
            }
        }
        if damage.is_none() && end.next_multiple_of(BLOCK) + BLOCK > length {
            damage = Some("cut off: there is no mark of its end".to_owned());
        }
        // The sample in which the file ends is not whole.
        if damage.is_none() {
            self.samples.extend(current);
        }
        damage.map_or(Ok(()), Err)
    }
}
