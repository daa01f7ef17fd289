//! The two small models that are part of the program: a FastVLM and a MobileCLIP of the drawn world. It knows files,
//! not what is in them.
//!
//! The files lie in `models/`, in the layout of any other checkpoint; whoever replaces them there replaces the models.
//! [`unpack`] writes them to a directory that the ordinary loader opens.
//!
//! ```
//! use ocelli_tiny::{Embedded, unpack};
//!
//! let home = tempfile::tempdir()?;
//! let dir = unpack(Embedded::FastVlm, home.path())?;
//! assert!(dir.ends_with("ocelli-tiny") && dir.join("config.json").is_file());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod unpack;

pub use unpack::{UnpackError, unpack};

include!(concat!(env!("OUT_DIR"), "/models.rs"));

/// A model of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embedded {
    /// Answers questions about pictures.
    FastVlm,
    /// One space for pictures and texts.
    MobileClip,
}

/// A file of a model.
#[derive(Debug)]
pub struct File {
    /// Its name, without a folder.
    pub name: &'static str,
    /// What is in it.
    pub bytes: &'static [u8],
}

/// What the build script found.
pub(crate) struct Model {
    hash: u64,
    files: &'static [File],
}

impl Embedded {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FastVlm, Self::MobileClip];

    /// What it is called: `ocelli-tiny` or `ocelli-tiny-clip`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FastVlm => "ocelli-tiny",
            Self::MobileClip => "ocelli-tiny-clip",
        }
    }

    /// The model of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.name() == name)
    }

    /// Its files, in the order of their names.
    pub fn files(self) -> &'static [File] {
        self.model().files
    }

    /// A name of its content, 16 hexadecimal digits: other files, other name.
    pub fn content_hash(self) -> String {
        format!("{:016x}", self.model().hash)
    }

    fn model(self) -> Model {
        match self {
            Self::FastVlm => OCELLI_TINY,
            Self::MobileClip => OCELLI_TINY_CLIP,
        }
    }
}
