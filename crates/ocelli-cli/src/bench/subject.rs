//! The model that is measured, and what it is measured with.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;
use ocelli::{
    Answer, CancelToken, ClipImage, DecodeOptions, FastVlm, Image, ImageOptions, MobileClip, Request, Rgb8,
};

use super::args::MeasureArgs;
use super::clip_subject;
use super::record::Subject;
use crate::args::ModelArgs;
use crate::clip::load_named;
use crate::home::PullRecord;
use crate::model::{clip_path, load};

/// Side of the built-in picture.
const BUILT_IN_PX: usize = 1024;
/// What is asked where it does not matter.
const PROMPT: &str = "Describe the image.";

/// A loaded model.
pub enum Model {
    /// Pictures and questions in, text out.
    Vlm(Box<Vlm>),
    /// Pictures and texts to embeddings.
    Clip(Box<Clip>),
}

impl Model {
    /// Load whichever it is.
    ///
    /// # Errors
    /// When there is no such model, or it is broken.
    pub fn load(args: &ModelArgs, measure: &MeasureArgs) -> anyhow::Result<Self> {
        match clip_path(args) {
            Some(path) => Ok(Self::Clip(Box::new(Clip::load(&path, args, measure)?))),
            None => Ok(Self::Vlm(Box::new(Vlm::load(args, measure)?))),
        }
    }
}

/// The name that was pulled, or the folder's or file's.
fn name_of(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let last = || whole.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    PullRecord::read(path).map_or_else(last, |record| record.id)
}

/// A FastVLM and its picture.
pub struct Vlm {
    /// The model.
    pub model: FastVlm,
    /// What records say about it.
    pub subject: Subject,
    /// Time that loading took.
    pub load_ms: f64,
    picture: Picture,
}

/// Pixels in memory, or a file that is read each time.
enum Picture {
    Pixels(Rgb8),
    File(PathBuf),
}

impl Picture {
    fn of(measure: &MeasureArgs) -> Self {
        measure.image.clone().map_or_else(|| Self::Pixels(built_in()), Self::File)
    }
}

impl Vlm {
    /// Load a FastVLM.
    ///
    /// # Errors
    /// When it is none, or broken.
    pub fn load(args: &ModelArgs, measure: &MeasureArgs) -> anyhow::Result<Self> {
        if let Some(path) = clip_path(args) {
            bail!(
                "{} is a MobileCLIP, this is for FastVLM: use `bench embed`, `ops`, `memory` or `suite`",
                path.display()
            );
        }
        let (model, dir, load_ms) = load(args)?;
        let subject = Subject {
            model: name_of(&dir),
            dtype: model.dtype().name(),
            quant: model.quant_name(),
            device: model.device_name(),
            threads: model.threads(),
            kernels: model.kernels(),
        };
        Ok(Self { model, subject, load_ms, picture: Picture::of(measure) })
    }

    /// The side of the picture: as asked for, or the model's own.
    pub fn resolution(&self, asked: Option<usize>) -> usize {
        asked.unwrap_or(self.model.config().image_size)
    }

    /// Read the picture anew.
    ///
    /// # Errors
    /// When it cannot be read or the resolution does not suit the tower.
    pub fn picture(&self, resolution: Option<usize>) -> anyhow::Result<Image> {
        let options = ImageOptions { resolution, ..ImageOptions::default() };
        Ok(match &self.picture {
            Picture::Pixels(rgb) => self.model.prepare_rgb(rgb, &options)?,
            Picture::File(path) => self.model.open_image_with(path, &options)?,
        })
    }

    /// Read the picture and answer anew, of all tokens that were asked for.
    ///
    /// # Errors
    /// As for [`Self::picture`], or when the prompt is too long.
    pub fn answer(
        &self,
        resolution: Option<usize>,
        prompt: Option<&str>,
        max_tokens: usize,
        cancel: &CancelToken,
    ) -> anyhow::Result<Answer> {
        self.model.forget();
        self.answer_on(self.picture(resolution)?, prompt, max_tokens, cancel)
    }

    /// Answer about this picture with what was kept of it and of the prompt.
    ///
    /// # Errors
    /// When the prompt is too long.
    pub fn answer_on(
        &self,
        image: Image,
        prompt: Option<&str>,
        max_tokens: usize,
        cancel: &CancelToken,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::ask(prompt.unwrap_or(PROMPT), vec![image]);
        (request.max_tokens, request.ignore_eos, request.cancel) = (max_tokens, true, cancel.clone());
        Ok(self.model.generate(&request, &mut |_| ())?)
    }
}

/// A MobileCLIP and its picture.
pub struct Clip {
    /// The model.
    pub model: MobileClip,
    /// What records say about it.
    pub subject: Subject,
    /// Time that loading took.
    pub load_ms: f64,
    picture: Picture,
}

impl Clip {
    fn load(path: &Path, args: &ModelArgs, measure: &MeasureArgs) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let load = || load_named(&name, args.tokenizer.clone(), args.device, args.dtype, args.threads);
        let (load_ms, model) = timed(load)?;
        let subject = clip_subject(&model, name_of(path));
        Ok(Self { model, subject, load_ms, picture: Picture::of(measure) })
    }

    /// Read the picture anew.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn picture(&self) -> anyhow::Result<ClipImage> {
        Ok(match &self.picture {
            Picture::Pixels(rgb) => self.model.prepare_image(rgb),
            Picture::File(path) => self.model.open_image(path, &DecodeOptions::default())?,
        })
    }
}

/// A picture without a file: coloured waves with fine grain, so that no part of it is flat.
fn built_in() -> Rgb8 {
    let side = BUILT_IN_PX;
    let mut pixels = Vec::with_capacity(side * side * 3);
    let mut grain = 1u32;
    for y in 0..side {
        for x in 0..side {
            // A step of a linear congruential generator (Numerical Recipes, 2nd edition, chapter 7.1).
            grain = grain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (x, y) = (x as f32 / side as f32, y as f32 / side as f32);
            for wave in [x * 9.0 + y, y * 7.0 - x, (x + y) * 12.0] {
                let light = 116.0 + 100.0 * wave.sin() + (grain >> 24) as f32 / 8.0;
                pixels.push(light as u8);
            }
        }
    }
    Rgb8 { height: side, width: side, pixels }
}

/// Milliseconds that something took, with what it gave.
pub fn timed<T>(what: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let start = Instant::now();
    let result = what()?;
    Ok((start.elapsed().as_secs_f64() * 1e3, result))
}
