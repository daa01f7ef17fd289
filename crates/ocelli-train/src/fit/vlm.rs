//! Training of a FastVLM: batches of conversations about pictures, the loss over what the assistant says.

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use ocelli_text::{PromptToken, SaidToken};
use ocelli_weights::{Naming, RawCheckpoint};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::adamw::{AdamW, AdamWConfig, Part, check_rates, frozen_at_zero};
use super::run::{Run, optimizer_state};
use super::steps::{Learner, Measured, Samples, Steps, check_measuring, evaluate_samples};
use super::{Record, Schedule};
use crate::TrainError;
use crate::layers::Sight;
use crate::lora::{self, LoraConfig};
use crate::nets::{FastVlm, Visual};
use crate::precision::Precision;
use crate::vlm_data::batches::{Length, epoch};

/// What a model learns from.
pub trait Examples: Sync {
    /// The length of every sample.
    fn lengths(&self) -> Vec<Length>;

    /// A sample, from 0, its pictures `resolution` pixels a side; the same whenever it is asked for.
    ///
    /// # Errors
    /// Why it cannot be learned from, with its name.
    fn example(&self, index: usize, resolution: usize) -> Result<Example, String>;
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Normalised pixels `[resolution, resolution, 3]` of each picture.
    pub pictures: Vec<Vec<f32>>,
    /// The conversation, with as many places for pictures.
    pub tokens: Vec<SaidToken>,
    /// Tokens at which a branch begins: conversations that share what comes before the first and do not see each
    /// other. None in an ordinary one. Pictures belong to the shared beginning.
    pub branches: Vec<usize>,
}

/// Settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VlmConfig {
    /// Samples of a batch.
    pub batch: usize,
    /// Batches of a step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Width and height of pictures.
    pub resolution: usize,
    /// Smaller pictures to begin with, in the order of their steps.
    #[serde(default)]
    pub smaller_first: Vec<Smaller>,
    /// Peak learning rate of each part; 0 freezes it.
    pub learning_rates: LearningRates,
    /// How they rise and fall.
    #[serde(default)]
    pub schedule: Schedule,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// Adapters for the language model in place of its weights, which stay as they are.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// Keep the inputs of the tower's blocks and of the language model's layers only, and compute blocks and layers anew
    /// in the backward pass: less memory, a third more work.
    #[serde(default)]
    pub checkpoint_activations: bool,
    /// In what products are computed; weights and the optimizer's state are f32 in any case.
    #[serde(default, skip_serializing_if = "Precision::is_usual")]
    pub dtype: Precision,
    /// Steps from one evaluation to the next; 0 evaluates never.
    #[serde(default)]
    pub evaluate_every: u64,
    /// Samples of an evaluation.
    #[serde(default = "evaluate_samples")]
    pub evaluate_samples: usize,
    /// Of the order of samples.
    #[serde(default)]
    pub seed: u64,
    /// Steps from one checkpoint to the next.
    pub save_every: u64,
}

impl VlmConfig {
    /// Whether a run can be of these settings.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), TrainError> {
        let LearningRates { vision, projector, language } = self.learning_rates;
        check_rates(&[vision, projector, language])
    }

    /// The resolution of a step, counted from 0.
    fn resolution_at(&self, step: u64) -> usize {
        let smaller = self.smaller_first.iter().find(|smaller| step < smaller.until_step);
        smaller.map_or(self.resolution, |smaller| smaller.resolution)
    }
}

/// A resolution for the first steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smaller {
    /// The first step that it does not hold for, counted from 0.
    pub until_step: u64,
    /// Width and height of pictures.
    pub resolution: usize,
}

fn one() -> usize {
    1
}

/// Peak learning rates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRates {
    /// Of the tower.
    pub vision: f64,
    /// Of the projector.
    pub projector: f64,
    /// Of the language model.
    pub language: f64,
}

/// What a run learns from and what it is measured on.
pub struct Sources<'a> {
    /// To learn from.
    pub examples: &'a dyn Examples,
    /// To measure on, if [`VlmConfig::evaluate_every`] asks for it.
    pub held_back: Option<&'a dyn Examples>,
}

/// Train `network`, which lies on `device`, or go on with the run in the folder of `run`. `progress` gets the record of
/// every step and may stop the run, which then writes a checkpoint. Bad samples are told through `tell` and counted.
///
/// # Errors
/// When the settings cannot be, there is nothing to learn from, a file cannot be read or written, or the loss is no
/// number any more.
pub fn train(
    mut network: FastVlm,
    device: &Device,
    naming: &Naming,
    sources: &Sources<'_>,
    config: &VlmConfig,
    run: &Run,
    progress: &mut dyn FnMut(&Record) -> ControlFlow<()>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<FastVlm, TrainError> {
    config.check()?;
    config.dtype.check(device)?;
    check_measuring(config.evaluate_every, sources.held_back.is_some())?;
    let mut optimizer = AdamW::new(config.optimizer);
    let mut taken = 0;
    network = freeze(network, config.learning_rates);
    if let Some(lora) = &config.lora {
        network = lora::attach(network, lora, config.seed, device)?;
    }
    if let Some((last, dir)) = run.last() {
        match config.lora {
            Some(_) => lora::load(&mut network, naming, &dir)?,
            None => drop(crate::checkpoint::load(&mut network, &RawCheckpoint::open_fastvlm(&dir)?)?),
        }
        optimizer.restore(optimizer_state(&dir)?, last);
        taken = last;
    }
    let examples = sources.examples;
    let mut order = Order::new(examples, config)?;
    let schedule = config.schedule.in_steps(order.steps_per_epoch);
    let mut learner =
        Learning { network, optimizer, device, naming, held_back: sources.held_back, config, run };
    let (save_every, evaluate_every) = (config.save_every, config.evaluate_every);
    let make = |step| {
        let (indices, resolution) = (order.step(step), config.resolution_at(step));
        indices.iter().map(|indices| Batch::make(examples, indices, resolution)).collect()
    };
    Steps { taken, schedule, save_every, evaluate_every, run, progress, tell }.take(make, &mut learner)?;
    Ok(learner.network)
}

/// A network while it learns.
struct Learning<'a> {
    network: FastVlm,
    optimizer: AdamW,
    device: &'a Device,
    naming: &'a Naming,
    held_back: Option<&'a dyn Examples>,
    config: &'a VlmConfig,
    run: &'a Run,
}

impl Learner<Batch> for Learning<'_> {
    fn learn(&mut self, batches: &[Batch], rate: f64) -> Result<(f32, f64), TrainError> {
        let Self { network, optimizer, naming, config, device, .. } = self;
        config.dtype.compute(|| learn(network, optimizer, naming, batches, config, rate, device))
    }

    fn measure(&self, tell: &dyn Fn(&str)) -> Option<Measured> {
        let loss = evaluate(&self.network, self.held_back?, self.config, self.device, tell)?;
        Some(Measured { loss, recall: None })
    }

    fn save(&mut self, step: u64) -> Result<(), TrainError> {
        let lora = self.config.lora.as_ref();
        self.run.save(step, &mut self.network, self.naming, &self.optimizer, lora).map(drop)
    }
}

/// Mean loss over samples that nothing is learned from, as the engine would compute it: by running statistics.
fn evaluate(
    network: &FastVlm,
    held_back: &dyn Examples,
    config: &VlmConfig,
    device: &Device,
    tell: &dyn Fn(&str),
) -> Option<f32> {
    let (network, device) = (network.valid(), device.clone().inner());
    let samples: Vec<usize> = (0..held_back.lengths().len().min(config.evaluate_samples)).collect();
    let (mut sum, mut counted) = (0.0, 0);
    for indices in samples.chunks(config.batch.max(1)) {
        let batch = Batch::make(held_back, indices, config.resolution);
        batch.bad.iter().for_each(|reason| tell(reason));
        if batch.elements > 0 {
            sum += batch.loss(&network, &device).into_scalar::<f32>() * batch.elements as f32;
            counted += batch.elements;
        }
    }
    (counted > 0).then(|| sum / counted as f32)
}

fn freeze(network: FastVlm, rates: LearningRates) -> FastVlm {
    let FastVlm { vision, projector, language } = network;
    FastVlm {
        vision: frozen_at_zero(vision, rates.vision),
        projector: frozen_at_zero(projector, rates.projector),
        language: frozen_at_zero(language, rates.language),
    }
}

/// One step; mean loss of its batches, and norm of the gradients.
fn learn(
    network: &mut FastVlm,
    optimizer: &mut AdamW,
    naming: &Naming,
    batches: &[Batch],
    config: &VlmConfig,
    rate: f64,
    device: &Device,
) -> Result<(f32, f64), TrainError> {
    let rates = &config.learning_rates;
    let mut loss = 0.0;
    for batch in batches {
        // Another handle on the same weights.
        let learned = network.clone();
        let mut take =
            |gradients: &Gradients| optimizer.add(&mut parts(network, rates, rate), naming, gradients);
        let batch_loss = if config.checkpoint_activations {
            backward_anew(&learned, batch, config, device, &mut take)?
        } else {
            let batch_loss = batch.loss(&learned, device);
            let value = batch_loss.clone().into_scalar::<f32>();
            if batch.teaches(config) {
                take(&batch_loss.backward())?;
            }
            value
        };
        optimizer.end_batch();
        loss += batch_loss / batches.len() as f32;
    }
    let norm = optimizer.step(&mut parts(network, rates, rate), naming)?;
    Ok((loss, norm))
}

/// Forward and backward pass of a batch that computes blocks and layers twice; `take` gets the gradients of one after
/// another. Returns the loss.
fn backward_anew(
    network: &FastVlm,
    batch: &Batch,
    config: &VlmConfig,
    device: &Device,
    take: &mut dyn FnMut(&Gradients) -> Result<(), TrainError>,
) -> Result<f32, TrainError> {
    if !batch.teaches(config) {
        return Ok(batch.loss(network, device).into_scalar::<f32>());
    }
    let rates = &config.learning_rates;
    let (mut tower, mut features) = (None, None);
    if let Some(pixels) = batch.pixels(device) {
        if rates.vision > 0.0 {
            let kept = network.vision.forward_by_blocks(pixels);
            features = Some(kept.features.clone());
            tower = Some(kept);
        } else {
            features = Some(network.vision.forward(pixels));
        }
    }
    let images = features.map(|features| network.project(features));
    let Inputs { embeds, labels, sight } = batch.inputs(network, images, device);
    let table_learns = rates.language > 0.0 && config.lora.is_none();
    let embeds_learn = table_learns || batch.teaches_pictures(config);
    let (loss, slope) =
        network.language.backward_by_layers(embeds.clone(), embeds_learn, &labels, &sight, take)?;
    if let Some(slope) = slope {
        let gradients = (embeds * slope.autodiff()).sum().backward();
        take(&gradients)?;
        if let Some(tower) = tower {
            network.vision.backward_by_blocks(tower, &gradients, take)?;
        }
    }
    Ok(loss)
}

fn parts<'a>(network: &'a mut FastVlm, rates: &LearningRates, rate: f64) -> [Part<'a>; 3] {
    let FastVlm { vision, projector, language } = network;
    [
        Part { name: "vision", network: vision, learning_rate: rates.vision * rate },
        Part { name: "projector", network: projector, learning_rate: rates.projector * rate },
        Part { name: "language", network: language, learning_rate: rates.language * rate },
    ]
}

/// The samples of every step.
struct Order {
    lengths: Vec<Length>,
    batch: usize,
    accumulate: usize,
    seed: u64,
    steps_per_epoch: u64,
    /// An epoch and its batches.
    current: Option<(u64, Vec<Vec<usize>>)>,
}

impl Order {
    fn new(examples: &dyn Examples, config: &VlmConfig) -> Result<Self, TrainError> {
        let lengths = examples.lengths();
        if lengths.is_empty() {
            return Err(TrainError::NoExamples { reason: "no samples".into() });
        }
        let (batch, accumulate) = (config.batch.max(1), config.accumulate.max(1));
        let steps_per_epoch = lengths.len().div_ceil(batch).div_ceil(accumulate) as u64;
        Ok(Self { lengths, batch, accumulate, seed: config.seed, steps_per_epoch, current: None })
    }

    /// The batches of a step, counted from 0 over all epochs.
    fn step(&mut self, step: u64) -> Vec<Vec<usize>> {
        let (number, step) = (step / self.steps_per_epoch, (step % self.steps_per_epoch) as usize);
        if self.current.as_ref().is_none_or(|(current, _)| *current != number) {
            let batches = epoch(&self.lengths, self.batch, self.accumulate, self.seed, number);
            self.current = Some((number, batches));
        }
        let (_, batches) = self.current.as_ref().expect("just made");
        batches.chunks(self.accumulate).nth(step).map(<[_]>::to_vec).unwrap_or_default()
    }
}

/// Samples of one forward pass, padded at their ends.
struct Batch {
    /// `[pictures, resolution, resolution, 3]`.
    pixels: Vec<f32>,
    places: Vec<PictureAt>,
    /// Tokens of each element, a place for each picture.
    tokens: Vec<Vec<SaidToken>>,
    /// Tokens of each element at which branches begin.
    branches: Vec<Vec<usize>>,
    elements: usize,
    resolution: usize,
    bad: Vec<String>,
}

impl Samples for Batch {
    fn count(&self) -> usize {
        self.elements
    }

    fn bad(&self) -> &[String] {
        &self.bad
    }
}

/// What the language model takes.
struct Inputs {
    /// `[elements, positions, hidden_size]`.
    embeds: Tensor<3>,
    /// `[elements * positions]`.
    labels: Vec<i32>,
    sight: Sight,
}

/// Where a picture stands before it is known how many positions one takes.
struct PictureAt {
    element: usize,
    /// Tokens before it, and pictures among them.
    before: [usize; 2],
}

impl Batch {
    fn make(examples: &dyn Examples, indices: &[usize], resolution: usize) -> Self {
        let found: Vec<_> = indices.par_iter().map(|&index| examples.example(index, resolution)).collect();
        let mut batch = Self {
            pixels: Vec::new(),
            places: Vec::new(),
            tokens: Vec::new(),
            branches: Vec::new(),
            elements: 0,
            resolution,
            bad: Vec::new(),
        };
        for example in found {
            match example.and_then(|example| checked(example, resolution)) {
                Ok(example) => batch.add(example),
                Err(reason) => batch.bad.push(reason),
            }
        }
        batch
    }

    fn add(&mut self, example: Example) {
        let mut pictures = 0;
        for (at, said) in example.tokens.iter().enumerate() {
            if said.token == PromptToken::Image {
                self.places.push(PictureAt { element: self.elements, before: [at - pictures, pictures] });
                pictures += 1;
            }
        }
        self.pixels.extend(example.pictures.concat());
        self.tokens.push(example.tokens);
        self.branches.push(example.branches);
        self.elements += 1;
    }

    fn loss(&self, network: &FastVlm, device: &Device) -> Tensor<1> {
        let images = self.pixels(device).map(|pixels| network.image_embeds(pixels));
        let Inputs { embeds, labels, sight } = self.inputs(network, images, device);
        network.language.loss(embeds, &labels, &sight)
    }

    /// Whether any part learns from it: without pictures neither tower nor projector does.
    fn teaches(&self, config: &VlmConfig) -> bool {
        config.learning_rates.language > 0.0 || self.teaches_pictures(config)
    }

    fn teaches_pictures(&self, config: &VlmConfig) -> bool {
        let LearningRates { vision, projector, .. } = config.learning_rates;
        !self.places.is_empty() && (vision > 0.0 || projector > 0.0)
    }

    /// `[pictures, resolution, resolution, 3]`; none without pictures.
    fn pixels(&self, device: &Device) -> Option<Tensor<4>> {
        let shape = [self.places.len(), self.resolution, self.resolution, 3];
        let pixels = || Tensor::from_data(TensorData::new(self.pixels.clone(), shape), device);
        (!self.places.is_empty()).then(pixels)
    }

    /// `images` are the visual tokens of the pictures, `[pictures, tokens, hidden_size]`.
    fn inputs(&self, network: &FastVlm, images: Option<Tensor<3>>, device: &Device) -> Inputs {
        let image_tokens = images.as_ref().map_or(0, |images| images.dims()[1]);
        let rows: Vec<[Vec<i32>; 2]> =
            self.tokens.iter().map(|tokens| spread(tokens, image_tokens)).collect();
        let positions = rows.iter().map(|[ids, _]| ids.len()).max().unwrap_or(0);
        let padded = |which: usize, padding: i32| -> Vec<i32> {
            let row = |row: &[Vec<i32>; 2]| {
                let padding = std::iter::repeat_n(padding, positions - row[which].len());
                row[which].iter().copied().chain(padding).collect::<Vec<_>>()
            };
            rows.iter().flat_map(row).collect()
        };
        let ids = TensorData::new(padded(0, 0), [self.elements, positions]);
        let ids = Tensor::<2, Int>::from_data(ids, device);
        let embeds = match images {
            Some(images) => {
                let places: Vec<Visual> =
                    self.places.iter().map(|place| place.visual(image_tokens)).collect();
                network.splice(ids, images, &places)
            }
            None => network.language.embed(ids),
        };
        // What is padded stands behind everything, where nothing sees it.
        Inputs { embeds, labels: padded(1, IGNORED), sight: self.sight(&rows, positions, image_tokens) }
    }
}

impl Batch {
    fn sight(&self, rows: &[[Vec<i32>; 2]], positions: usize, image_tokens: usize) -> Sight {
        let sequences =
            rows.iter().zip(&self.branches).zip(&self.tokens).map(|(([ids, _], branches), tokens)| {
                let pictures = tokens.iter().filter(|said| said.token == PromptToken::Image).count();
                // A picture is one token here, and `image_tokens` positions.
                let shift = pictures * image_tokens - pictures;
                (ids.len(), branches.iter().map(|begin| begin + shift).collect())
            });
        Sight::branching(&sequences.collect::<Vec<_>>(), positions)
    }
}

impl PictureAt {
    fn visual(&self, image_tokens: usize) -> Visual {
        Visual { element: self.element, position: self.before[0] + self.before[1] * image_tokens }
    }
}

/// The label of what is only read.
const IGNORED: i32 = -100;

/// Ids and labels, with `image_tokens` positions for each picture.
fn spread(tokens: &[SaidToken], image_tokens: usize) -> [Vec<i32>; 2] {
    let (mut ids, mut labels) = (Vec::new(), Vec::new());
    for said in tokens {
        match said.token {
            PromptToken::Image => {
                ids.extend(std::iter::repeat_n(0, image_tokens));
                labels.extend(std::iter::repeat_n(IGNORED, image_tokens));
            }
            PromptToken::Id(id) => {
                let id = i32::try_from(id).expect("vocabularies are small");
                ids.push(id);
                labels.push(if said.said { id } else { IGNORED });
            }
        }
    }
    [ids, labels]
}

fn checked(example: Example, resolution: usize) -> Result<Example, String> {
    let places = example.tokens.iter().filter(|said| said.token == PromptToken::Image).count();
    if places != example.pictures.len() {
        return Err(format!("{} pictures for {places} places", example.pictures.len()));
    }
    let shared =
        example.branches.first().map_or(example.tokens.len(), |&first| first.min(example.tokens.len()));
    if example.tokens[shared..].iter().any(|said| said.token == PromptToken::Image) {
        return Err("a picture behind the shared beginning".into());
    }
    if example.pictures.iter().any(|pixels| pixels.len() != resolution * resolution * 3) {
        return Err(format!("a picture that is not {resolution} x {resolution}"));
    }
    Ok(example)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(id: u32, said: bool) -> SaidToken {
        SaidToken { token: PromptToken::Id(id), said }
    }

    #[test]
    fn pictures_take_their_positions_and_only_answers_are_learned() {
        let image = SaidToken { token: PromptToken::Image, said: false };
        let tokens = vec![said(7, false), image, said(8, false), image, said(9, true), said(10, true)];
        let [ids, labels] = spread(&tokens, 3);
        assert_eq!(ids, [7, 0, 0, 0, 8, 0, 0, 0, 9, 10]);
        assert_eq!(labels, [-100, -100, -100, -100, -100, -100, -100, -100, 9, 10]);
        let mut batch = Batch {
            pixels: Vec::new(),
            places: Vec::new(),
            tokens: Vec::new(),
            branches: Vec::new(),
            elements: 1,
            resolution: 1,
            bad: Vec::new(),
        };
        batch.add(Example { pictures: vec![vec![0.0; 3]; 2], tokens, branches: Vec::new() });
        let places: Vec<Visual> = batch.places.iter().map(|place| place.visual(3)).collect();
        assert_eq!(places, [Visual { element: 1, position: 1 }, Visual { element: 1, position: 5 }]);
    }

    #[test]
    fn every_epoch_has_all_samples() {
        struct Many;
        impl Examples for Many {
            fn lengths(&self) -> Vec<Length> {
                (0..23).map(|i| Length { tokens: i, pictured: i.is_multiple_of(2) }).collect()
            }
            fn example(&self, _: usize, _: usize) -> Result<Example, String> {
                Err("none".into())
            }
        }
        let config = VlmConfig {
            batch: 4,
            accumulate: 2,
            resolution: 64,
            smaller_first: Vec::new(),
            learning_rates: LearningRates { vision: 0.0, projector: 1e-3, language: 0.0 },
            schedule: Schedule { steps: 9, ..Schedule::default() },
            optimizer: AdamWConfig::default(),
            lora: None,
            checkpoint_activations: false,
            dtype: Precision::F32,
            evaluate_every: 0,
            evaluate_samples: 0,
            seed: 1,
            save_every: 3,
        };
        let mut order = Order::new(&Many, &config).expect("samples");
        assert_eq!(order.steps_per_epoch, 3);
        for first in [0, 3] {
            let mut all = (first..first + 3).flat_map(|step| order.step(step).concat()).collect::<Vec<_>>();
            all.sort_unstable();
            assert_eq!(all, (0..23).collect::<Vec<_>>());
        }
        assert_ne!(order.step(0), order.step(3));
    }
}
