//! What can be wrong with an image file, in words its owner can act on.

use std::path::PathBuf;

use crate::Format;

/// Why a picture could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file could not be read at all.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file was read, but it is not a good picture; `source` says why.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        source: Box<ImageError>,
    },
    /// There are no bytes.
    #[error("the file is empty")]
    Empty,
    /// The content is of no known image format.
    #[error("not an image we know: the content is {found}; known are JPEG, PNG, GIF, WebP, BMP and TIFF")]
    UnknownFormat {
        /// What the content looks like.
        found: String,
    },
    /// The file name promises an image, the content is none.
    #[error(
        "the extension is .{extension}, but the content is not an image we know: it is {found}; \
         known are JPEG, PNG, GIF, WebP, BMP and TIFF"
    )]
    Mislabelled {
        /// The file's extension, in lower case.
        extension: String,
        /// What the content looks like.
        found: String,
    },
    /// The file ends before the picture does.
    #[error("the {format} file is cut short: {detail}")]
    Truncated {
        /// Recognised from the content.
        format: Format,
        /// What is missing.
        detail: String,
    },
    /// The header asks for more pixels than the limit allows; nothing was allocated.
    #[error(
        "the picture is {width}x{height} = {} pixels, the limit is {limit}; raise it with --max-pixels",
        width * height
    )]
    TooManyPixels {
        /// Columns.
        width: u64,
        /// Rows.
        height: u64,
        /// [`crate::DecodeOptions::max_pixels`].
        limit: u64,
    },
    /// A variant of the format that is not read, such as arithmetic-coded JPEG.
    #[error("this kind of {format} is not supported: {detail}")]
    Unsupported {
        /// Recognised from the content.
        format: Format,
        /// The variant.
        detail: String,
    },
    /// The bytes contradict the format.
    #[error("the {format} file is damaged: {detail}")]
    Damaged {
        /// Recognised from the content.
        format: Format,
        /// What was found.
        detail: String,
    },
}
