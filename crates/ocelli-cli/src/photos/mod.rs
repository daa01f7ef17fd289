//! Photo search: `index`, `search`, `similar`, `dupes` and `stats`.

pub mod args;
mod found;
mod index;
mod report;
mod search;
mod sheet;
mod web;

use std::path::{Path, PathBuf};

use ocelli::MobileClip;
use ocelli_index::Index;
use ocelli_photos::{LoadModel, PhotoError, PhotoSearch};
use ocelli_tiny::Embedded;
use serde_json::{Value, json};

use crate::clip;
use crate::home::home;
use args::{IndexFileArgs, PhotoModelArgs};

pub use index::index;
pub use report::{dupes, stats};
pub use search::{search, similar};

/// Where the index remembers its model, and the folders it was made from.
const MODEL_NOTE: &str = "model";
const ROOTS_NOTE: &str = "roots";

impl IndexFileArgs {
    /// The index's file.
    fn path(&self) -> PathBuf {
        self.index_file.clone().unwrap_or_else(|| home().join("indexes").join("photos.sqlite"))
    }
}

/// The model of the arguments, or the one that the index remembers, or the embedded one.
fn load_model(args: &PhotoModelArgs, index: Option<&Path>, threads: usize) -> anyhow::Result<MobileClip> {
    let note = index.and_then(|path| Index::open(path).ok()?.note(MODEL_NOTE).ok()?);
    let note: Value = note.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let noted = |field: &str| note[field].as_str().map(str::to_owned);
    let given = args.model.clone();
    let tokenizer = match (&given, &args.tokenizer) {
        (None, None) => noted("tokenizer").map(PathBuf::from),
        (_, tokenizer) => tokenizer.clone(),
    };
    let model = given.or_else(|| noted("model"));
    let model = model.unwrap_or_else(|| Embedded::MobileClip.name().to_owned());
    let loaded = clip::load_named(&model, tokenizer, args.device, args.dtype, threads)?;
    clip::hint(&model);
    Ok(loaded)
}

/// What [`load_model`] finds again, from any folder.
fn model_note(args: &PhotoModelArgs) -> Option<String> {
    let absolute =
        |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string();
    let model = args.model.as_ref()?;
    let embedded = Embedded::named(model).is_some();
    let model =
        if !embedded && Path::new(model).exists() { absolute(Path::new(model)) } else { model.clone() };
    let tokenizer = args.tokenizer.as_deref().map(absolute);
    Some(json!({"model": model, "tokenizer": tokenizer}).to_string())
}

/// Open an index for search; the model loads when it is needed.
fn open_search(index: &IndexFileArgs, model: &PhotoModelArgs) -> anyhow::Result<PhotoSearch> {
    let (path, model) = (index.path(), model.clone());
    let at = path.clone();
    let load: LoadModel = Box::new(move || {
        load_model(&model, Some(&at), model.threads)
            .map_err(|error| PhotoError::Load(crate::message::message(&error)))
    });
    Ok(PhotoSearch::open(&path, load)?)
}
