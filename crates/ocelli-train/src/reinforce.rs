//! Writes a reinforced data set: pictures with augmentations, synthetic captions, and what teachers say about all of them.
//!
//! Multi-modal reinforced training (MobileCLIP, arXiv 2311.17049, section 3). Teachers are any MobileCLIPs of `ocelli`, the
//! captioner is any FastVLM of it. The folder holds
//!
//! ```text
//! reinforced.json     settings: augmentation, teachers, what was written
//! 00000000.tar        samples as `clip_data::Reinforced` and other readers of webdataset take them
//! ```
//!
//! A tar file is written aside and renamed when it is whole; a run that is started again goes on behind the last one.
//! What is left to chance depends on the seed and the sample alone, so an interruption changes no byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ocelli::{ImageOptions, Request, Sampling};
use ocelli_image::{DecodeOptions, Format, Orientation, Rgb8, decode};
use ocelli_weights::Fnv;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::TrainError;
use crate::clip_data::{Augmentation, Captioned, Rows, write_npz};
use crate::losses::Teachers;
use crate::random::Random;

/// The file of settings.
const SETTINGS: &str = "reinforced.json";
/// The name of the kind of synthetic captions.
const SYNTHETIC: &str = "syn_text";

/// What is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReinforceConfig {
    /// Augmentations of each picture; 30 for DataCompDR-12M, 10 for DataCompDR-1B.
    pub augmentations: usize,
    /// Synthetic captions of each picture, if there is a captioner; 5 for DataCompDR.
    pub captions: usize,
    /// Pictures of a tar file.
    pub shard: usize,
    /// Width and height of augmented pictures; 0 takes that of the largest teacher.
    pub size: usize,
    /// Of what is left to chance.
    pub seed: u64,
    /// What the captioner is asked.
    pub prompt: String,
    /// How much its captions differ; 0 makes them all the same.
    pub temperature: f32,
    /// The most tokens of a caption.
    pub caption_tokens: usize,
}

impl Default for ReinforceConfig {
    fn default() -> Self {
        Self {
            augmentations: 30,
            captions: 5,
            shard: 1000,
            size: 0,
            seed: 0,
            prompt: "Describe the image in one short sentence.".to_owned(),
            temperature: 0.8,
            caption_tokens: 60,
        }
    }
}

/// What says how pictures and texts are.
pub trait Teacher {
    /// Its name; another one for other weights.
    fn name(&self) -> String;
    /// Values of an embedding.
    fn dim(&self) -> usize;
    /// Width and height of the pictures that it takes.
    fn size(&self) -> usize;
    /// What its similarities are multiplied with.
    fn logit_scale(&self) -> f32;
    /// The embedding of a picture, of length 1.
    ///
    /// # Errors
    /// Why there is none.
    fn picture(&self, image: &Rgb8) -> Result<Vec<f32>, String>;
    /// The embedding of a text, of length 1.
    ///
    /// # Errors
    /// Why there is none.
    fn text(&self, text: &str) -> Result<Vec<f32>, String>;
}

impl Teacher for ocelli::MobileClip {
    fn name(&self) -> String {
        format!("{} {}", self.config().name, self.identity())
    }

    fn dim(&self) -> usize {
        self.config().embed_dim
    }

    fn size(&self) -> usize {
        self.config().image.size
    }

    fn logit_scale(&self) -> f32 {
        self.config().logit_scale
    }

    fn picture(&self, image: &Rgb8) -> Result<Vec<f32>, String> {
        let rows = self.embed_images(&[self.prepare_image(image)]).map_err(|e| e.to_string())?;
        rows.into_iter().next().ok_or_else(|| "no embedding".to_owned())
    }

    fn text(&self, text: &str) -> Result<Vec<f32>, String> {
        let rows = self.embed_texts(&[text]).map_err(|e| e.to_string())?;
        rows.into_iter().next().ok_or_else(|| "no embedding".to_owned())
    }
}

/// What writes captions.
pub trait Captioner {
    /// A caption of a picture; others for other seeds.
    ///
    /// # Errors
    /// Why there is none.
    fn caption(&self, image: &Rgb8, config: &ReinforceConfig, seed: u64) -> Result<String, String>;
}

impl Captioner for ocelli::FastVlm {
    fn caption(&self, image: &Rgb8, config: &ReinforceConfig, seed: u64) -> Result<String, String> {
        let image = self.prepare_rgb(image, &ImageOptions::default()).map_err(|e| e.to_string())?;
        let sampling = Sampling { temperature: config.temperature, top_p: 0.9, seed, ..Sampling::default() };
        let request = Request {
            sampling,
            max_tokens: config.caption_tokens,
            ..Request::ask(&config.prompt, vec![image])
        };
        let answer = self.generate(&request, &mut |_| {}).map_err(|e| e.to_string())?;
        Ok(answer.text.trim().to_owned())
    }
}

/// The settings of a data set, as a run of training needs them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSet {
    /// How its pictures were changed.
    pub image_augmentation: Augmentation,
    /// Its teachers; their logit scales are those they were trained to.
    pub teachers: Teachers,
    /// Their names.
    pub teacher_names: Vec<String>,
    /// Whether there are synthetic captions.
    pub synthetic: bool,
    /// What was asked for.
    pub config: ReinforceConfig,
    /// Pictures that it was made of.
    pub pictures: usize,
    /// Of their paths and captions.
    pub fingerprint: String,
}

impl DataSet {
    /// The settings in the folder of a data set that [`reinforce`] wrote.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(SETTINGS);
        let failed = |reason: String| TrainError::Read { path: path.clone(), reason };
        let text = std::fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| failed(e.to_string()))
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reinforced {
    /// Pictures that are done, of this start and those before.
    pub done: usize,
    /// All of them.
    pub pictures: usize,
    /// Pictures of this start that could not be read.
    pub bad: usize,
}

/// Write a data set of `samples` to `folder`, or go on where it was interrupted. `progress` is told of every picture and
/// may stop it; pictures that cannot be read are told through `tell`, left out and counted.
///
/// # Errors
/// When the settings cannot be, the folder holds another data set, or a file cannot be written.
pub fn reinforce(
    samples: &[Captioned],
    teachers: &[&dyn Teacher],
    captioner: Option<&dyn Captioner>,
    config: &ReinforceConfig,
    folder: &Path,
    progress: &mut dyn FnMut(Reinforced) -> ControlFlow<()>,
    tell: &mut dyn FnMut(&str),
) -> Result<Reinforced, TrainError> {
    let set = settings(samples, teachers, captioner.is_some(), config)?;
    begin(folder, &set)?;
    let mut state = Reinforced { pictures: samples.len(), ..Reinforced::default() };
    let work = Work { set: &set, teachers, captioner };
    for (number, shard) in samples.chunks(config.shard).enumerate() {
        let path = folder.join(format!("{number:08}.tar"));
        if path.is_file() {
            state.done += shard.len();
            continue;
        }
        let partial = path.with_extension("tar.partial");
        let failed = |source| TrainError::Write { path: path.clone(), source };
        let mut tar = tar::Builder::new(BufWriter::new(File::create(&partial).map_err(failed)?));
        for (i, sample) in shard.iter().enumerate() {
            let index = number * config.shard + i;
            match work.members(sample, index) {
                Ok(members) => {
                    members.iter().try_for_each(|member| append(&mut tar, index, member)).map_err(failed)?
                }
                Err(reason) => {
                    tell(&format!("{}: {reason}", sample.image.display()));
                    state.bad += 1;
                }
            }
            state.done += 1;
            // What is left of a tar file that is not whole is written anew.
            if progress(state).is_break() && i + 1 < shard.len() {
                return Ok(state);
            }
        }
        let file = tar.into_inner().and_then(|file| file.into_inner().map_err(|e| e.into_error()));
        file.and_then(|file| file.sync_all()).map_err(failed)?;
        std::fs::rename(&partial, &path).map_err(failed)?;
    }
    Ok(state)
}

fn settings(
    samples: &[Captioned],
    teachers: &[&dyn Teacher],
    synthetic: bool,
    config: &ReinforceConfig,
) -> Result<DataSet, TrainError> {
    if samples.is_empty() {
        return Err(TrainError::NoExamples { reason: "no pictures with captions".into() });
    }
    if config.augmentations == 0 || config.shard == 0 || (synthetic && config.captions == 0) {
        let reason = "augmentations, captions and pictures of a shard are at least 1".into();
        return Err(TrainError::Setting { reason });
    }
    let size = match config.size {
        0 => teachers.iter().map(|teacher| teacher.size()).max().unwrap_or(0),
        size => size,
    };
    let scales = teachers.iter().map(|teacher| teacher.logit_scale()).collect();
    let set = Teachers { dims: teachers.iter().map(|teacher| teacher.dim()).collect(), logit_scales: scales };
    set.check()?;
    let mut hash = Fnv::default();
    for sample in samples {
        hash.add(sample.image.as_os_str().as_encoded_bytes());
        hash.add(b"\0");
        hash.add(sample.caption.as_bytes());
        hash.add(b"\0");
    }
    Ok(DataSet {
        image_augmentation: Augmentation::usual(size),
        teachers: set,
        teacher_names: teachers.iter().map(|teacher| teacher.name()).collect(),
        synthetic,
        config: config.clone(),
        pictures: samples.len(),
        fingerprint: format!("{:016x}", hash.value()),
    })
}

/// Write the settings, or compare them with those that are there.
fn begin(folder: &Path, set: &DataSet) -> Result<(), TrainError> {
    let path = folder.join(SETTINGS);
    let failed = |source| TrainError::Write { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let value = serde_json::to_value(set).expect("settings are JSON");
    if path.is_file() {
        let found = serde_json::to_value(DataSet::open(folder)?).expect("settings are JSON");
        let keys =
            value.as_object().into_iter().flatten().filter(|(key, value)| found.get(key) != Some(value));
        let differ: Vec<&str> = keys.map(|(key, _)| key.as_str()).collect();
        if differ.is_empty() {
            return Ok(());
        }
        return Err(TrainError::OtherRun { dir: folder.to_owned(), what: differ.join(", ") });
    }
    let partial = folder.join(format!("{SETTINGS}.partial"));
    let text = serde_json::to_string_pretty(&value).expect("settings are JSON") + "\n";
    std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, &path)).map_err(failed)
}

struct Work<'a> {
    set: &'a DataSet,
    teachers: &'a [&'a dyn Teacher],
    captioner: Option<&'a dyn Captioner>,
}

/// The end of a member's name, and its bytes.
type MemberOf = (&'static str, Vec<u8>);

impl Work<'_> {
    /// All members of a sample.
    fn members(&self, sample: &Captioned, index: usize) -> Result<Vec<MemberOf>, String> {
        let config = &self.set.config;
        let seed = |what: u64| Random::of(&[config.seed, index as u64, what]);
        let (picture, image) = stored_picture(&sample.image)?;
        let (mut parameters, mut of_pictures) = (Vec::new(), Vec::new());
        for augmentation in 0..config.augmentations as u64 {
            let (stored, changed) = self.set.image_augmentation.draw(&image, &mut seed(augmentation))?;
            of_pictures.extend(self.all(|teacher| teacher.picture(&changed))?);
            parameters.push(stored);
        }
        let mut arrays =
            BTreeMap::from([("image_emb", of_pictures), ("text_emb", self.texts(&[&sample.caption])?)]);
        let mut members = vec![
            picture,
            ("txt", sample.caption.clone().into_bytes()),
            ("paug.json", written(&json!({ "param_aug": parameters }))),
        ];
        if let Some(captioner) = self.captioner {
            let caption = |k: u64| captioner.caption(&image, config, seed(u64::MAX - k).next());
            let captions = (0..config.captions as u64).map(caption).collect::<Result<Vec<_>, _>>()?;
            arrays.insert(
                "syn_text_emb",
                self.texts(&captions.iter().map(String::as_str).collect::<Vec<_>>())?,
            );
            members.push(("syn.json", written(&json!({ SYNTHETIC: captions }))));
        }
        let columns = self.set.teachers.columns();
        let arrays: Vec<(&str, Rows)> =
            arrays.into_iter().map(|(name, values)| (name, Rows { columns, values })).collect();
        let arrays: Vec<(&str, &Rows)> = arrays.iter().map(|(name, rows)| (*name, rows)).collect();
        members.push(("npz", write_npz(&arrays)?));
        Ok(members)
    }

    /// A row of all teachers.
    fn all(&self, row: impl Fn(&dyn Teacher) -> Result<Vec<f32>, String>) -> Result<Vec<f32>, String> {
        let rows = self.teachers.iter().map(|&teacher| {
            let values = row(teacher)?;
            let right = values.len() == teacher.dim() && values.iter().all(|value| value.is_finite());
            if right { Ok(values) } else { Err(format!("{} gave no embedding", teacher.name())) }
        });
        Ok(rows.collect::<Result<Vec<_>, String>>()?.concat())
    }

    fn texts(&self, texts: &[&str]) -> Result<Vec<f32>, String> {
        let rows = texts.iter().map(|text| self.all(|teacher| teacher.text(text)));
        Ok(rows.collect::<Result<Vec<_>, String>>()?.concat())
    }
}

fn written(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A picture as it goes into the tar file, and its pixels. Readers take files as they lie there: one that has to be turned
/// upright, or is of another format than theirs, is stored anew as PNG.
fn stored_picture(path: &PathBuf) -> Result<(MemberOf, Rgb8), String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let upright = decode(&bytes, &DecodeOptions::default()).map_err(|e| e.to_string())?;
    let extension = match Format::of(&bytes) {
        Some(Format::Jpeg) => Some("jpg"),
        Some(Format::Png) => Some("png"),
        Some(Format::WebP) => Some("webp"),
        _ => None,
    };
    if let Some(extension) = extension {
        let options = DecodeOptions { orientation: Orientation::Ignore, ..DecodeOptions::default() };
        if decode(&bytes, &options).map_err(|e| e.to_string())? == upright {
            return Ok(((extension, bytes), upright));
        }
    }
    Ok((("png", png_of(&upright)?), upright))
}

fn png_of(image: &Rgb8) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let side = |side: usize| u32::try_from(side).map_err(|e| e.to_string());
    let mut encoder = png::Encoder::new(&mut bytes, side(image.width)?, side(image.height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
    writer.write_image_data(&image.pixels).map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    index: usize,
    (extension, bytes): &MemberOf,
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, format!("{index:09}.{extension}"), bytes.as_slice())
}
