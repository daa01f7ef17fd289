//! What a MobileCLIP learns from: pictures with captions, and what its teachers said about both.
//!
//! [`Pairs`] is what a run takes samples from. [`Plain`] has pictures with captions, [`Reinforced`] the data sets of
//! MobileCLIP's multi-modal reinforced training in tar files ([`Shards`]), whose [`Augmentation`]s are replayed byte for
//! byte. Bad samples are told with their names and left out; none is replaced by another.

mod augment;
mod embeddings;
mod pairs;
mod plain;
mod rand_augment;
mod reinforced;
mod shards;

use ocelli_text::ClipTokenizer;

pub use augment::Augmentation;
pub(crate) use embeddings::write_npz;
pub use embeddings::{Rows, read_npz, read_pth_gz};
pub use pairs::{Pair, Pairs, TeacherRows};
pub use plain::{CaptionList, Captioned, Plain};
pub use rand_augment::Op;
pub use reinforced::{Reinforced, Stored, Synthetic, Take};
pub use shards::{Member, Members, Shards};

/// How a network takes pictures and texts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// Width and height of pictures.
    pub size: usize,
    /// Subtracted from values in 0 to 1; red, green, blue.
    pub mean: [f32; 3],
    /// What the difference is divided by; red, green, blue.
    pub std: [f32; 3],
    /// Positions of a text.
    pub context_length: usize,
}

impl Recipe {
    fn pixels(&self, augmentation: &Augmentation, image: &ocelli_image::Rgb8) -> Result<Vec<f32>, String> {
        let (width, height) = (image.width, image.height);
        if [width, height] != [self.size; 2] {
            return Err(format!(
                "the augmentations end at {width}x{height}; the network takes {0}x{0}",
                self.size
            ));
        }
        Ok(augmentation.normalized(image))
    }

    fn ids(&self, tokenizer: &ClipTokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text, self.context_length).ids
    }
}
