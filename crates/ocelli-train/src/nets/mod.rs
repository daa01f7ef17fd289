//! One network a file: sizes, layers, `forward`, and the names of its tensors.

mod anew;
mod clip_head;
mod clip_text;
mod fastvit;
mod fastvlm;
mod mobileclip;
mod projector;
mod qwen2;
mod vit;

pub use clip_head::ClipHead;
pub use clip_text::{ClipText, ClipTextConfig};
pub use fastvit::{ByBlocks, FastVit, FastVitConfig};
pub use fastvlm::{FastVlm, Visual};
pub use mobileclip::{ImageSide, ImageTower, MobileClip, Similarity, TextSide};
pub use projector::Projector;
pub use qwen2::{Qwen2, Qwen2Config};
pub use vit::{Vit, VitConfig, VitStem};

use crate::TrainError;
use crate::tensors::Exchange;

/// The checkpoint's name of a layer: that of its weight, without `.weight`.
pub(crate) fn layer(with: &dyn Exchange, ours: &str) -> Result<String, TrainError> {
    let (name, _) = with.module(&format!("{ours}.weight"))?;
    Ok(name.strip_suffix(".weight").unwrap_or(&name).to_owned())
}
