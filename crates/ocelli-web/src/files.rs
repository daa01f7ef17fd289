//! The files of a model as the page gives them, seen as a [`Folder`].
//!
//! A [`Folder`] may be shared between threads, an object of JavaScript may not leave its own. So the objects stay in
//! a table of this thread, and what is shared is a place in it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use js_sys::Function;
use ocelli::{FileBytes, Folder};
use wasm_bindgen::prelude::*;

use crate::error::message;

#[wasm_bindgen]
extern "C" {
    /// What a model's folder holds; reads are synchronous.
    #[derive(Clone)]
    #[wasm_bindgen(typescript_type = "ModelFiles")]
    pub type ModelFiles;

    #[wasm_bindgen(method, catch)]
    fn names(this: &ModelFiles) -> Result<Vec<String>, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn size(this: &ModelFiles, name: &str) -> Result<f64, JsValue>;

    /// Fills `target` from `offset` on.
    #[wasm_bindgen(method, catch)]
    fn read(this: &ModelFiles, name: &str, offset: f64, target: &mut [u8]) -> Result<(), JsValue>;
}

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** What a model folder holds. */
export interface ModelFiles {
  names(): string[];
  size(name: string): number;
  /** Fills `target` from `offset`, or throws. */
  read(name: string, offset: number, target: Uint8Array): void;
}
"#;

/// Progress is told a hundred times a load.
const STEPS: f64 = 100.0;

thread_local! {
    static GIVEN: RefCell<BTreeMap<u32, Given>> = const { RefCell::new(BTreeMap::new()) };
}

/// What the page gave for one model.
#[derive(Clone)]
struct Given {
    files: ModelFiles,
    progress: Option<Progress>,
}

#[derive(Clone)]
struct Progress {
    tell: Function,
    total: f64,
    done: Cell<f64>,
    told: Cell<f64>,
}

/// A place in the table; it is free again when the last user is gone.
struct Place(u32);

impl Place {
    fn new(given: Given) -> Self {
        GIVEN.with_borrow_mut(|table| {
            let place = table.last_key_value().map_or(0, |(last, _)| last + 1);
            table.insert(place, given);
            Self(place)
        })
    }

    fn files(&self) -> io::Result<ModelFiles> {
        let files = GIVEN.with_borrow(|table| table.get(&self.0).map(|given| given.files.clone()));
        files.ok_or_else(|| io::Error::other("the model belongs to another Worker"))
    }
}

impl Place {
    /// Tell the page that so many more bytes were read.
    fn tell(&self, bytes: usize) {
        let told = GIVEN.with_borrow(|table| {
            let progress = table.get(&self.0)?.progress.as_ref()?;
            // Some are read more than once.
            progress.done.set((progress.done.get() + bytes as f64).min(progress.total));
            if progress.done.get() < progress.told.get() + progress.total / STEPS {
                return None;
            }
            progress.told.set(progress.done.get());
            Some(progress.clone())
        });
        if let Some(Progress { tell, total, done, .. }) = told {
            // A listener that throws is the page's affair.
            let _ = tell.call3(&JsValue::NULL, &"weights".into(), &done.get().into(), &total.into());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // At the end of the thread the table is gone before.
        let _ = GIVEN.try_with(|table| table.borrow_mut().remove(&self.0));
    }
}

/// The model's files as a folder.
pub(crate) struct PageFolder {
    place: Arc<Place>,
    names: Vec<String>,
}

struct PageFile {
    place: Arc<Place>,
    name: String,
    size: u64,
}

impl PageFolder {
    /// The files; `tell` is called with a stage and how many of how many bytes of weights were read.
    ///
    /// # Errors
    /// What the page's functions throw.
    pub(crate) fn new(files: ModelFiles, tell: Function) -> Result<Self, JsValue> {
        let names = files.names()?;
        let mut total = 0.0;
        for name in names.iter().filter(|name| name.ends_with(".safetensors")) {
            total += files.size(name)?;
        }
        let progress = Progress { tell, total, done: Cell::new(0.0), told: Cell::new(0.0) };
        let place = Arc::new(Place::new(Given { files, progress: Some(progress) }));
        Ok(Self { place, names })
    }

    /// Tell no more progress.
    pub(crate) fn loaded(&self) {
        GIVEN.with_borrow_mut(|table| {
            if let Some(given) = table.get_mut(&self.place.0) {
                given.progress = None;
            }
        });
    }
}

impl Folder for PageFolder {
    fn path(&self) -> &Path {
        Path::new("the model")
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.names.clone())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileBytes>> {
        if !self.has(name) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the model has no such file"));
        }
        let size = self.place.files()?.size(name).map_err(failed)?;
        Ok(Arc::new(PageFile { place: Arc::clone(&self.place), name: name.to_owned(), size: size as u64 }))
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|found| found == name)
    }
}

impl FileBytes for PageFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, target: &mut [u8]) -> io::Result<()> {
        // Files are far below 2^53 bytes.
        self.place.files()?.read(&self.name, offset as f64, target).map_err(failed)?;
        if self.name.ends_with(".safetensors") {
            self.place.tell(target.len());
        }
        Ok(())
    }
}

fn failed(thrown: JsValue) -> io::Error {
    io::Error::other(message(&thrown))
}
