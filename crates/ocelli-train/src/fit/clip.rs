//! Training of a MobileCLIP: batches of pictures with their captions, by CLIP's loss, SigLIP's, or that of reinforced
//! data.

use std::ops::ControlFlow;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use ocelli_weights::{Naming, RawCheckpoint};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::adamw::{AdamW, AdamWConfig, Part, check_rates, frozen_at_zero};
use super::run::{Run, optimizer_state};
use super::steps::{Learner, Measured, Samples, Steps, check_measuring, evaluate_samples};
use super::{Record, Schedule};
use crate::TrainError;
use crate::clip_data::{Pair, Pairs};
use crate::losses::{self, Teachers, Texts};
use crate::nets::MobileClip;
use crate::precision::Precision;
use crate::random::Random;
use crate::tensors::{Exchange, Form, Named, Parameter};

/// The logarithm of the most that similarities are multiplied with, as in CLIP.
const MOST_LOG_SCALE: f32 = 4.605_170_2;

/// Settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipFit {
    /// Samples of a batch, each told from all others of it; 8192 and more for the released models.
    pub batch: usize,
    /// Batches of a step. Samples are not told from those of another batch.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Width and height of pictures; 256 for most released models.
    pub resolution: usize,
    /// Peak learning rate; 1e-3 for the released models.
    #[serde(default = "learning_rate")]
    pub learning_rate: f64,
    /// Other ones for some parts.
    #[serde(default, skip_serializing_if = "ClipRates::is_empty")]
    pub learning_rates: ClipRates,
    /// How it rises and falls.
    #[serde(default)]
    pub schedule: Schedule,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: ClipOptimizer,
    /// What is learned by.
    #[serde(default)]
    pub loss: ClipLoss,
    /// In what products are computed; weights and the optimizer's state are f32 in any case.
    #[serde(default, skip_serializing_if = "Precision::is_usual")]
    pub dtype: Precision,
    /// Steps from one evaluation to the next; 0 evaluates never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub evaluate_every: u64,
    /// Samples of an evaluation.
    #[serde(default = "evaluate_samples", skip_serializing_if = "is_usual")]
    pub evaluate_samples: usize,
    /// Of the order of samples, and of what is left to chance in them.
    #[serde(default)]
    pub seed: u64,
    /// Steps from one checkpoint to the next.
    pub save_every: u64,
}

fn one() -> usize {
    1
}

fn learning_rate() -> f64 {
    1e-3
}

/// Peak learning rates of parts, where it is not that of all; 0 freezes a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipRates {
    /// Of the image tower with its projection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<f64>,
    /// Of the text tower with its projection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<f64>,
    /// Of what similarities are multiplied with, and of SigLIP's bias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_scale: Option<f64>,
}

impl ClipRates {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

// What older runs did not say is not written, so that they go on.
fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_usual(samples: &usize) -> bool {
    *samples == evaluate_samples()
}

/// Peak learning rates of all parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeakRates {
    pub(crate) image: f64,
    pub(crate) text: f64,
    pub(crate) logit_scale: f64,
}

/// Settings of AdamW; by default those of the released MobileCLIPs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipOptimizer {
    /// Decay of the mean of gradients; 0.9.
    pub beta1: f32,
    /// Decay of the mean of their squares; 0.95.
    pub beta2: f32,
    /// Added to the root of the second; 1e-8.
    pub eps: f32,
    /// Of matrices and kernels; 0.2.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm over all of them; 1. At 0 they stay.
    pub clip_norm: f32,
}

impl Default for ClipOptimizer {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.2, clip_norm: 1.0 }
    }
}

impl From<ClipOptimizer> for AdamWConfig {
    fn from(settings: ClipOptimizer) -> Self {
        let ClipOptimizer { beta1, beta2, eps, weight_decay, clip_norm } = settings;
        Self { beta1, beta2, eps, weight_decay, clip_norm }
    }
}

/// What is learned by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ClipLoss {
    /// Cross entropy over the batch, both ways.
    Clip {},
    /// Every pair of the batch on its own.
    Siglip {
        /// What is added to similarities to begin with.
        #[serde(default = "siglip_bias")]
        bias: f32,
    },
    /// CLIP's, and what teachers found.
    Reinforced {
        /// Share of the teachers: 0.75 for DataCompDR-1B, 1 for its part of 12 million and for DFNDR.
        #[serde(default = "lambda")]
        lambda: f32,
        /// Whether synthetic captions are learned too.
        #[serde(default = "yes")]
        synthetic: bool,
        /// The teachers.
        teachers: Teachers,
    },
}

impl Default for ClipLoss {
    fn default() -> Self {
        Self::Clip {}
    }
}

fn siglip_bias() -> f32 {
    -10.0
}

fn lambda() -> f32 {
    0.75
}

fn yes() -> bool {
    true
}

impl ClipLoss {
    /// The loss of pairs without teachers.
    fn of_pairs(&self) -> Self {
        match self {
            Self::Siglip { bias } => Self::Siglip { bias: *bias },
            Self::Clip {} | Self::Reinforced { .. } => Self::Clip {},
        }
    }
}

impl ClipFit {
    /// The peak learning rate of every part.
    pub(crate) fn rates(&self) -> PeakRates {
        let ClipRates { image, text, logit_scale } = self.learning_rates;
        let [image, text, logit_scale] =
            [image, text, logit_scale].map(|rate| rate.unwrap_or(self.learning_rate));
        PeakRates { image, text, logit_scale }
    }

    /// Whether a run can be of these settings.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |reason: String| Err(TrainError::Setting { reason });
        if self.batch == 0 || self.accumulate == 0 || self.resolution == 0 {
            return wrong("batch, accumulate and resolution are at least 1".into());
        }
        let PeakRates { image, text, logit_scale } = self.rates();
        check_rates(&[image, text, logit_scale])?;
        match &self.loss {
            ClipLoss::Reinforced { lambda, .. } if !(0.0..=1.0).contains(lambda) => {
                wrong(format!("lambda is {lambda}; it is a share, from 0 to 1"))
            }
            ClipLoss::Reinforced { teachers, .. } => teachers.check(),
            ClipLoss::Clip {} | ClipLoss::Siglip { .. } => Ok(()),
        }
    }
}

/// What a run learns from and what it is measured on.
pub struct Sources<'a> {
    /// To learn from.
    pub pairs: &'a dyn Pairs,
    /// To measure on, if [`ClipFit::evaluate_every`] asks for it: by the loss of pairs alone, without teachers.
    pub held_back: Option<&'a dyn Pairs>,
}

/// Train `network`, which lies on `device`, or go on with the run in the folder of `run`. `progress` gets the record of
/// every step and may stop the run, which then writes a checkpoint. Bad samples are told through `tell` and counted.
///
/// # Errors
/// When the settings cannot be, there is nothing to learn from, a file cannot be read or written, or the loss is no
/// number any more.
pub fn train(
    mut network: MobileClip,
    device: &Device,
    naming: &Naming,
    sources: &Sources<'_>,
    config: &ClipFit,
    run: &Run,
    progress: &mut dyn FnMut(&Record) -> ControlFlow<()>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<MobileClip, TrainError> {
    config.check()?;
    config.dtype.check(device)?;
    check_measuring(config.evaluate_every, sources.held_back.is_some())?;
    let mut optimizer = AdamW::new(config.optimizer.into());
    if let (ClipLoss::Siglip { bias }, None) = (&config.loss, &network.similarity.bias) {
        network.similarity.add_bias(*bias, device);
    }
    let mut network = freeze(network, config.rates());
    let sizes = Sizes::of(&mut network, naming)?;
    let mut taken = 0;
    if let Some((last, dir)) = run.last() {
        let checkpoint = RawCheckpoint::open_clip(&dir.join("model.safetensors"))?;
        crate::checkpoint::load(&mut network, &checkpoint)?;
        optimizer.restore(optimizer_state(&dir)?, last);
        taken = last;
    }
    let pairs = sources.pairs;
    let mut order = Order::new(pairs.count(), config)?;
    let schedule = config.schedule.in_steps(order.steps_per_epoch());
    let held_back = sources.held_back;
    let mut learner = Learning { network, optimizer, device, naming, held_back, sizes, config, run };
    let (save_every, evaluate_every) = (config.save_every, config.evaluate_every);
    let make =
        |step| order.step(step).into_iter().map(|drawn| Batch::make(pairs, &drawn, config, sizes)).collect();
    Steps { taken, schedule, save_every, evaluate_every, run, progress, tell }.take(make, &mut learner)?;
    Ok(learner.network)
}

/// A network while it learns.
struct Learning<'a> {
    network: MobileClip,
    optimizer: AdamW,
    device: &'a Device,
    naming: &'a Naming,
    held_back: Option<&'a dyn Pairs>,
    sizes: Sizes,
    config: &'a ClipFit,
    run: &'a Run,
}

impl Learner<Batch> for Learning<'_> {
    fn learn(&mut self, batches: &[Batch], rate: f64) -> Result<(f32, f64), TrainError> {
        let Self { network, optimizer, naming, config, device, .. } = self;
        config.dtype.compute(|| learn(network, optimizer, naming, batches, config, rate, device))
    }

    fn measure(&self, tell: &dyn Fn(&str)) -> Option<Measured> {
        evaluate(&self.network, self.held_back?, self.config, self.sizes, self.device, tell)
    }

    fn save(&mut self, step: u64) -> Result<(), TrainError> {
        self.run.save(step, &mut self.network, self.naming, &self.optimizer, None).map(drop)
    }
}

/// One step; mean loss of its batches, and norm of the gradients.
fn learn(
    network: &mut MobileClip,
    optimizer: &mut AdamW,
    naming: &Naming,
    batches: &[Batch],
    config: &ClipFit,
    rate: f64,
    device: &Device,
) -> Result<(f32, f64), TrainError> {
    let rates = config.rates();
    let mut loss = 0.0;
    for batch in batches {
        let batch_loss = batch.loss(network, &config.loss, device);
        loss += batch_loss.clone().into_scalar::<f32>() / batches.len() as f32;
        optimizer.add(&mut parts(network, rates, rate), naming, &batch_loss.backward())?;
        optimizer.end_batch();
    }
    let norm = optimizer.step(&mut parts(network, rates, rate), naming)?;
    if rates.logit_scale > 0.0 {
        clamp(&mut network.similarity.log_scale);
    }
    Ok((loss, norm))
}

fn parts(network: &mut MobileClip, rates: PeakRates, rate: f64) -> [Part<'_>; 3] {
    let MobileClip { image, text, similarity } = network;
    [
        Part { name: "vision", network: image, learning_rate: rates.image * rate },
        Part { name: "text", network: text, learning_rate: rates.text * rate },
        Part { name: "logit_scale", network: similarity, learning_rate: rates.logit_scale * rate },
    ]
}

fn freeze(network: MobileClip, rates: PeakRates) -> MobileClip {
    let MobileClip { image, text, similarity } = network;
    MobileClip {
        image: frozen_at_zero(image, rates.image),
        text: frozen_at_zero(text, rates.text),
        similarity: frozen_at_zero(similarity, rates.logit_scale),
    }
}

fn clamp(log_scale: &mut Param<Tensor<1>>) {
    let values = Parameter::values(log_scale);
    let clamped: Vec<f32> = values.iter().map(|value| value.clamp(0.0, MOST_LOG_SCALE)).collect();
    if clamped != values {
        Parameter::set(log_scale, clamped);
    }
}

/// Loss over pairs that nothing is learned from, in batches as they are learned from, and recall among all of them; as
/// the engine would compute them, by running statistics.
fn evaluate(
    network: &MobileClip,
    held_back: &dyn Pairs,
    config: &ClipFit,
    sizes: Sizes,
    device: &Device,
    tell: &dyn Fn(&str),
) -> Option<Measured> {
    let (network, device) = (network.valid(), device.clone().inner());
    let count = held_back.count().min(config.evaluate_samples);
    // What is left to chance is the same in every measurement.
    let drawn: Vec<Drawn> = (0..count).map(|index| (index, Random::of(&[index as u64]).next())).collect();
    // Teachers say nothing about how the network does.
    let config = &ClipFit { loss: config.loss.of_pairs(), ..config.clone() };
    let (mut all, mut ids) = ([Vec::new(), Vec::new()], Vec::new());
    let (mut sum, mut counted) = (0.0, 0);
    for drawn in drawn.chunks(config.batch) {
        let batch = Batch::make(held_back, drawn, config, sizes);
        batch.bad.iter().for_each(|reason| tell(reason));
        if batch.pairs == 0 {
            continue;
        }
        let embeddings = batch.embed(&network, &device);
        // The loss depends on the size of a batch.
        if batch.pairs == config.batch || counted == 0 {
            let loss = batch.loss_of(&network, &config.loss, &embeddings, &device);
            sum += loss.into_scalar::<f32>() * batch.pairs as f32;
            counted += batch.pairs;
        }
        all[0].push(embeddings.images);
        all[1].push(embeddings.texts);
        ids.extend(batch.texts[0].chunks_exact(sizes.context_length).map(<[i32]>::to_vec));
    }
    let [images, texts] = all.map(|rows| (!rows.is_empty()).then(|| Tensor::cat(rows, 0)));
    let nearest = images?.matmul(texts?.transpose()).argmax(1).into_data().convert::<i32>();
    let nearest: Vec<i32> = nearest.try_to_vec().expect("converted");
    // Some texts come twice.
    let right = nearest.iter().zip(&ids).filter(|(nearest, own)| ids[**nearest as usize] == **own).count();
    Some(Measured { loss: sum / counted as f32, recall: Some(right as f32 / ids.len() as f32) })
}

/// What a network takes as texts.
#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    vocab_size: usize,
    context_length: usize,
}

/// Finds the shapes of the two embeddings of texts.
struct FindSizes<'a> {
    naming: &'a Naming,
    names: [String; 2],
    found: Sizes,
}

impl Sizes {
    fn of(network: &mut MobileClip, naming: &Naming) -> Result<Self, TrainError> {
        let name = |ours: &str| crate::checkpoint::module(naming, ours).map(|(name, _)| name);
        let names = [name("text.token_embedding.weight")?, name("text.pos_embed")?];
        let mut find = FindSizes { naming, names, found: Self::default() };
        network.exchange("", &mut find)?;
        Ok(find.found)
    }
}

impl Exchange for FindSizes<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, name: &str, _: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        let rows = || parameter.sizes().first().copied().unwrap_or(0);
        if name == self.names[0] {
            self.found.vocab_size = rows();
        } else if name == self.names[1] {
            self.found.context_length = rows();
        }
        Ok(())
    }
}

/// The samples of every step: each epoch has all of them in another order, but for those that fill no whole step.
struct Order {
    count: usize,
    batch: usize,
    accumulate: usize,
    seed: u64,
    /// An epoch and its order.
    current: Option<(u64, Vec<usize>)>,
}

/// A sample, and the number that decides what is left to chance in it.
type Drawn = (usize, u64);

impl Order {
    fn new(count: usize, config: &ClipFit) -> Result<Self, TrainError> {
        if count == 0 {
            return Err(TrainError::NoExamples { reason: "no samples".into() });
        }
        let batch = config.batch.min(count);
        let accumulate = config.accumulate.min(count / batch);
        Ok(Self { count, batch, accumulate, seed: config.seed, current: None })
    }

    fn steps_per_epoch(&self) -> u64 {
        (self.count / (self.batch * self.accumulate)) as u64
    }

    /// The batches of a step, counted from 0 over all epochs.
    fn step(&mut self, step: u64) -> Vec<Vec<Drawn>> {
        let samples = self.batch * self.accumulate;
        let per_epoch = self.steps_per_epoch();
        let (epoch, step) = (step / per_epoch, (step % per_epoch) as usize);
        if self.current.as_ref().is_none_or(|(current, _)| *current != epoch) {
            let mut all: Vec<usize> = (0..self.count).collect();
            Random::of(&[self.seed, epoch]).shuffle(&mut all);
            self.current = Some((epoch, all));
        }
        let (_, all) = self.current.as_ref().expect("just made");
        let drawn = |&index: &usize| (index, Random::of(&[self.seed, epoch, index as u64]).next());
        let batches = all[step * samples..][..samples].chunks(self.batch);
        batches.map(|batch| batch.iter().map(drawn).collect()).collect()
    }
}

/// What a network makes of a batch, rows of length 1.
struct Embeddings {
    /// `[pairs, embed_dim]`.
    images: Tensor<2>,
    /// `[kinds * pairs, embed_dim]`.
    texts: Tensor<2>,
}

/// Samples of one forward pass.
struct Batch {
    pairs: usize,
    resolution: usize,
    context_length: usize,
    /// `[pairs, resolution, resolution, 3]`.
    pixels: Vec<f32>,
    /// Ids of captions, and behind them those of synthetic ones.
    texts: [Vec<i32>; 2],
    /// What teachers say about pictures, captions and synthetic captions.
    teachers: [Vec<f32>; 3],
    bad: Vec<String>,
}

impl Samples for Batch {
    fn count(&self) -> usize {
        self.pairs
    }

    fn bad(&self) -> &[String] {
        &self.bad
    }
}

impl Batch {
    fn make(pairs: &dyn Pairs, drawn: &[Drawn], config: &ClipFit, sizes: Sizes) -> Self {
        let found: Vec<_> = drawn
            .par_iter()
            .map(|&(index, draw)| {
                let pair = pairs.pair(index, draw)?;
                checked(pair, config, sizes).map_err(|reason| format!("sample {index}: {reason}"))
            })
            .collect();
        let mut batch = Self {
            pairs: 0,
            resolution: config.resolution,
            context_length: sizes.context_length,
            pixels: Vec::new(),
            texts: [Vec::new(), Vec::new()],
            teachers: [Vec::new(), Vec::new(), Vec::new()],
            bad: Vec::new(),
        };
        for pair in found {
            match pair {
                Ok(pair) => batch.add(pair),
                Err(reason) => batch.bad.push(reason),
            }
        }
        batch
    }

    fn add(&mut self, pair: Pair) {
        self.pairs += 1;
        self.pixels.extend(pair.pixels);
        let mut extend = |which: usize, ids: Vec<u32>| {
            self.texts[which]
                .extend(ids.into_iter().map(|id| i32::try_from(id).expect("vocabularies are small")));
        };
        extend(0, pair.text);
        if let Some(synthetic) = pair.synthetic {
            extend(1, synthetic);
        }
        if let Some(rows) = pair.teachers {
            self.teachers[0].extend(rows.image);
            self.teachers[1].extend(rows.text);
            self.teachers[2].extend(rows.synthetic.unwrap_or_default());
        }
    }

    fn loss(&self, network: &MobileClip, loss: &ClipLoss, device: &Device) -> Tensor<1> {
        self.loss_of(network, loss, &self.embed(network, device), device)
    }

    fn embed(&self, network: &MobileClip, device: &Device) -> Embeddings {
        let shape = [self.pairs, self.resolution, self.resolution, 3];
        let pixels = Tensor::from_data(TensorData::new(self.pixels.clone(), shape), device);
        let images = losses::normalized(network.embed_images(pixels));
        let ids = TensorData::new(self.texts.concat(), [self.kinds() * self.pairs, self.context_length]);
        let texts = losses::normalized(network.embed_texts(Tensor::<2, Int>::from_data(ids, device)));
        Embeddings { images, texts }
    }

    /// Of texts: captions, and synthetic ones.
    fn kinds(&self) -> usize {
        if self.texts[1].is_empty() { 1 } else { 2 }
    }

    fn loss_of(
        &self,
        network: &MobileClip,
        loss: &ClipLoss,
        Embeddings { images, texts }: &Embeddings,
        device: &Device,
    ) -> Tensor<1> {
        let log_scale = network.similarity.log_scale.val();
        match loss {
            ClipLoss::Reinforced { lambda, teachers, .. } => {
                let rows = |of: usize| losses::rows(self.teachers[of].clone(), teachers.columns(), device);
                let kind = |k: usize| Texts {
                    student: texts.clone().narrow(0, k * self.pairs, self.pairs),
                    teachers: rows(1 + k),
                };
                let kinds: Vec<Texts> = (0..self.kinds()).map(kind).collect();
                losses::reinforced(images, &rows(0), &kinds, &log_scale, teachers, *lambda)
            }
            ClipLoss::Siglip { .. } => {
                let bias = network.similarity.bias.as_ref().expect("a network with this loss has a bias");
                losses::siglip(images, texts, &log_scale, &bias.val())
            }
            ClipLoss::Clip {} => losses::clip(images, texts, &log_scale),
        }
    }
}

/// A sample with what the loss needs, and nothing else.
fn checked(pair: Pair, config: &ClipFit, sizes: Sizes) -> Result<Pair, String> {
    let resolution = config.resolution;
    if pair.pixels.len() != resolution * resolution * 3 {
        return Err(format!("a picture that is not {resolution} x {resolution}"));
    }
    let ClipLoss::Reinforced { synthetic, teachers, .. } = &config.loss else {
        check_text(&pair.text, sizes)?;
        return Ok(Pair { synthetic: None, teachers: None, ..pair });
    };
    check_text(&pair.text, sizes)?;
    let rows = pair.teachers.ok_or("nothing of the teachers")?;
    let columns = teachers.columns();
    let counted = |row: &[f32]| match row.len() == columns {
        true => Ok(()),
        false => Err(format!("{} values of the teachers, who have {columns}", row.len())),
    };
    counted(&rows.image)?;
    counted(&rows.text)?;
    if !synthetic {
        let teachers = Some(crate::clip_data::TeacherRows { synthetic: None, ..rows });
        return Ok(Pair { synthetic: None, teachers, ..pair });
    }
    check_text(pair.synthetic.as_deref().ok_or("no synthetic caption")?, sizes)?;
    counted(rows.synthetic.as_deref().ok_or("nothing of the teachers about the synthetic caption")?)?;
    Ok(Pair { teachers: Some(rows), ..pair })
}

fn check_text(ids: &[u32], sizes: Sizes) -> Result<(), String> {
    if ids.len() != sizes.context_length {
        return Err(format!("a text of {} ids; the network takes {}", ids.len(), sizes.context_length));
    }
    match ids.iter().find(|&&id| id as usize >= sizes.vocab_size) {
        Some(id) => Err(format!("the id {id}; the network has {} tokens", sizes.vocab_size)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &str) -> Result<ClipFit, serde_json::Error> {
        let schedule = r#""schedule": {"steps": 9}"#;
        serde_json::from_str(&format!(
            r#"{{"batch": 4, "accumulate": 2, "resolution": 64, "save_every": 3, {schedule}{settings}}}"#
        ))
    }

    #[test]
    fn settings_have_the_usual_values() {
        let usual = config("").expect("settings");
        assert_eq!(
            (usual.learning_rate, usual.optimizer.beta2, usual.optimizer.weight_decay),
            (1e-3, 0.95, 0.2)
        );
        assert_eq!(usual.loss, ClipLoss::Clip {});
        let part = config(r#", "optimizer": {"weight_decay": 0.1}"#).expect("settings");
        assert_eq!((part.optimizer.beta2, part.optimizer.weight_decay), (0.95, 0.1));
        let siglip = config(r#", "loss": {"kind": "siglip"}"#).expect("settings");
        assert_eq!(siglip.loss, ClipLoss::Siglip { bias: -10.0 });
        let teachers = r#""teachers": {"dims": [768, 768], "logit_scales": [100.0]}"#;
        let one_scale =
            config(&format!(r#", "loss": {{"kind": "reinforced", {teachers}}}"#)).expect("settings");
        let message = one_scale.check().expect_err("refused").to_string();
        assert!(message.contains("2 teachers but 1 logit scale"), "{message}");
        assert!(config(r#", "temperature": 1"#).is_err());
        assert!(config(r#", "loss": {"kind": "clip", "lambda": 1}"#).is_err());
    }

    #[test]
    fn an_epoch_has_every_sample_at_most_once() {
        let config = config("").expect("settings");
        let mut order = Order::new(23, &config).expect("samples");
        for first in [0, 2] {
            let mut all: Vec<Drawn> = (first..first + 2).flat_map(|step| order.step(step).concat()).collect();
            assert_eq!(all.len(), 16);
            all.sort_unstable();
            all.dedup_by_key(|drawn| drawn.0);
            assert_eq!(all.len(), 16);
        }
        assert_ne!(order.step(0), order.step(2));
        let again = Order::new(23, &config).expect("samples").step(3);
        assert_eq!(order.step(3), again);
        // Fewer samples than a batch are one batch.
        assert_eq!(Order::new(3, &config).expect("samples").step(5).concat().len(), 3);
        assert!(Order::new(0, &config).is_err());
    }
}
