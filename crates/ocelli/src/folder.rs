//! The small files of a model's folder, as the tokenizers want them.

use std::io;

use ocelli_weights::Folder;

/// Reads a file whole, by name; gives none if there is no such file.
pub(crate) fn small_files(folder: &dyn Folder) -> impl Fn(&str) -> io::Result<Option<Vec<u8>>> {
    move |name| if folder.has(name) { folder.read(name).map(Some) } else { Ok(None) }
}
