//! What a run takes samples from.

/// Pictures with their captions, and what teachers said about them.
pub trait Pairs: Sync {
    /// Samples.
    fn count(&self) -> usize;

    /// A sample, from 0. `draw` decides what is left to chance (which augmentation, which caption); the same number gives
    /// the same sample.
    ///
    /// # Errors
    /// Why it cannot be learned from, with its name.
    fn pair(&self, index: usize, draw: u64) -> Result<Pair, String>;
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Normalised pixels `[size, size, 3]`.
    pub pixels: Vec<f32>,
    /// Ids of the caption, as many as the network has positions.
    pub text: Vec<u32>,
    /// Those of a synthetic caption.
    pub synthetic: Option<Vec<u32>>,
    /// What the teachers said.
    pub teachers: Option<TeacherRows>,
}

/// Embeddings by all teachers, one after another.
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherRows {
    /// Of the picture as it is changed in this sample.
    pub image: Vec<f32>,
    /// Of the caption.
    pub text: Vec<f32>,
    /// Of the synthetic caption.
    pub synthetic: Option<Vec<f32>>,
}
