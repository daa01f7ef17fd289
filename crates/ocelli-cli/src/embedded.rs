//! The models that are part of the program: where they are unpacked, and what is said about them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;
use ocelli_tiny::{Embedded, unpack};
use tempfile::TempDir;

use crate::home::models;
use crate::message::message;

/// Folder of [`models`] in which they lie. No model's name begins with a period.
const FOLDER: &str = ".embedded";

/// Where they lie while this process runs, if that cannot be [`FOLDER`].
static TEMPORARY: Mutex<Option<TempDir>> = Mutex::new(None);

/// The directory of an embedded model, in which each file is checked or written once a process.
///
/// # Errors
/// When neither the models folder nor the system's folder for temporary files can be written.
pub fn dir(model: Embedded) -> anyhow::Result<PathBuf> {
    static DIRS: [OnceLock<PathBuf>; 2] = [const { OnceLock::new() }; 2];
    let known = &DIRS[usize::from(model == Embedded::MobileClip)];
    if let Some(dir) = known.get() {
        return Ok(dir.clone());
    }
    let dir = match unpack(model, &models().join(FOLDER)) {
        Ok(dir) => dir,
        Err(error) => temporary(model, &error.into())?,
    };
    Ok(known.get_or_init(|| dir).clone())
}

/// Unpack to a folder that [`clean_up`] removes.
fn temporary(model: Embedded, reason: &anyhow::Error) -> anyhow::Result<PathBuf> {
    let mut kept = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = match &mut *kept {
        Some(folder) => folder,
        none => {
            let folder = tempfile::Builder::new().prefix("ocelli-").tempdir();
            let folder = none.insert(folder.with_context(|| message(reason))?);
            let shown = folder.path().display();
            eprintln!(
                "ocelli: {}; using {shown} this once: set OCELLI_HOME to a folder of yours",
                message(reason)
            );
            folder
        }
    };
    Ok(unpack(model, folder.path())?)
}

/// Remove what lies in the system's folder for temporary files. To be called when nothing runs any more.
pub fn clean_up() {
    // Where a mapped file cannot be removed, it stays until the system clears the folder.
    drop(TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Which embedded model a directory holds, if it is one of those that [`dir`] returns.
pub fn in_dir(dir: &Path) -> Option<Embedded> {
    let model = Embedded::named(dir.file_name()?.to_str()?)?;
    (dir.parent()?.file_name()?.to_str()? == model.content_hash()).then_some(model)
}

/// Say on stderr what the model of this directory is for, if it is an embedded one.
pub fn hint(dir: &Path) {
    let Some(model) = in_dir(dir) else { return };
    let (is_not, better) = match model {
        Embedded::FastVlm => ("no photo captioner", "fastvlm-0.5b"),
        Embedded::MobileClip => ("not for photos", "mobileclip2-s0"),
    };
    eprintln!(
        "ocelli: {} is a demonstration and a test on pictures that Ocelli draws (`ocelli synth-data`), {is_not}; \
         `ocelli pull {better}` gets a model for photos",
        model.name()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_models_are_known_by_name_and_content() {
        for model in Embedded::ALL {
            let hash = model.content_hash();
            assert_eq!(in_dir(&Path::new("a").join(&hash).join(model.name())), Some(model));
            assert_eq!(in_dir(&Path::new("a").join(&hash).join("other")), None);
            assert_eq!(in_dir(&Path::new("a").join("b").join(model.name())), None);
            assert_eq!(in_dir(Path::new(model.name())), None);
        }
        let (one, other) = Embedded::ALL.map(Embedded::content_hash).into();
        assert_eq!(in_dir(&Path::new(&other).join("ocelli-tiny")), None, "{one}");
    }
}
