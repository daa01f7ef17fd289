//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) over the tensors of a network, by their names in a checkpoint.
//!
//! Gradients of several batches are added up before a step. Values and moments are f32 in the memory of the host, so
//! that a step is the same on every device.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Gradients;
use ocelli_weights::Naming;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::checkpoint::Tensors;
use crate::tensors::{Exchange, Form, Named, Parameter};

/// Settings of the optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the second.
    pub eps: f32,
    /// Of matrices and kernels; vectors (norms, biases, scales) do not decay.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm over all of them; 0 leaves them.
    pub clip_norm: f32,
}

impl Default for AdamWConfig {
    /// LLaVA's: no decay, clipped to 1.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, clip_norm: 1.0 }
    }
}

/// The optimizer with its state.
pub struct AdamW {
    config: AdamWConfig,
    /// Steps taken.
    steps: i32,
    moments: BTreeMap<String, Moments>,
    sums: BTreeMap<String, Vec<f32>>,
    /// Gradients in each sum.
    batches: usize,
}

#[derive(Default)]
struct Moments {
    mean: Vec<f32>,
    square: Vec<f32>,
}

/// A part of a network and its learning rate; parts that are not named, or have a rate of 0, stay as they are.
pub struct Part<'a> {
    /// Our name of it.
    pub name: &'a str,
    /// The part.
    pub network: &'a mut dyn Named,
    /// Its learning rate.
    pub learning_rate: f64,
}

/// A part with a peak learning rate of 0 gets no gradients, and its BatchNorms keep their statistics.
pub(crate) fn frozen_at_zero<M: Module>(part: M, peak: f64) -> M {
    if peak == 0.0 { part.freeze() } else { part }
}

/// Whether parts can learn at these peak learning rates.
///
/// # Errors
/// When one is no rate, or all are 0.
pub(crate) fn check_rates(rates: &[f64]) -> Result<(), TrainError> {
    let wrong = |reason: String| Err(TrainError::Setting { reason });
    match rates.iter().find(|rate| !rate.is_finite() || **rate < 0.0) {
        Some(rate) => {
            wrong(format!("a learning rate of {rate}; it is a positive number, or 0 to freeze a part"))
        }
        None if rates.iter().all(|&rate| rate == 0.0) => {
            wrong("every learning rate is 0: no part would learn".into())
        }
        None => Ok(()),
    }
}

impl AdamW {
    /// A fresh one.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: BTreeMap::new(), sums: BTreeMap::new(), batches: 0 }
    }

    /// Add gradients of a batch, which may come in several pieces.
    ///
    /// # Errors
    /// When the family has no name for a part.
    pub fn add(
        &mut self,
        parts: &mut [Part<'_>],
        naming: &Naming,
        gradients: &Gradients,
    ) -> Result<(), TrainError> {
        let mut collect = Collect { naming, gradients, sums: &mut self.sums };
        for part in parts.iter_mut().filter(|part| part.learning_rate > 0.0) {
            part.network.exchange(part.name, &mut collect)?;
        }
        Ok(())
    }

    /// All gradients of a batch have been added.
    pub fn end_batch(&mut self) {
        self.batches += 1;
    }

    /// Take a step along the mean of the gradients added since the last one. Returns their norm before clipping.
    ///
    /// # Errors
    /// When the family has no name for a part.
    pub fn step(&mut self, parts: &mut [Part<'_>], naming: &Naming) -> Result<f64, TrainError> {
        let mean = 1.0 / self.batches.max(1) as f64;
        let squares = self.sums.values().flatten().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        let norm = squares.sqrt() * mean;
        let clip = f64::from(self.config.clip_norm);
        let scale = if clip > 0.0 && norm > clip { mean * clip / norm } else { mean };
        self.steps += 1;
        for part in parts.iter_mut().filter(|part| part.learning_rate > 0.0) {
            let mut update = Update {
                naming,
                config: self.config,
                learning_rate: part.learning_rate,
                steps: self.steps,
                scale: scale as f32,
                moments: &mut self.moments,
                sums: &self.sums,
            };
            part.network.exchange(part.name, &mut update)?;
        }
        self.sums.clear();
        self.batches = 0;
        Ok(norm)
    }

    /// Whether a step has changed this tensor.
    pub(crate) fn has_trained(&self, name: &str) -> bool {
        self.moments.contains_key(name)
    }

    /// Its state between two steps.
    pub(crate) fn state(&self) -> Tensors {
        let mut state = Tensors::new();
        for (name, moments) in &self.moments {
            for (kind, values) in [("mean", &moments.mean), ("square", &moments.square)] {
                state.insert(format!("{name}.{kind}"), (vec![values.len()], values.clone()));
            }
        }
        state
    }

    /// Go on from a state after so many steps.
    pub(crate) fn restore(&mut self, state: Tensors, steps: u64) {
        self.steps = i32::try_from(steps).unwrap_or(i32::MAX);
        for (name, (_, values)) in state {
            let Some((name, kind)) = name.rsplit_once('.') else { continue };
            let moments = self.moments.entry(name.to_owned()).or_default();
            *(if kind == "mean" { &mut moments.mean } else { &mut moments.square }) = values;
        }
    }
}

struct Collect<'a> {
    naming: &'a Naming,
    gradients: &'a Gradients,
    sums: &'a mut BTreeMap<String, Vec<f32>>,
}

impl Exchange for Collect<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, name: &str, _: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        let Some(gradient) = parameter.gradient(self.gradients) else { return Ok(()) };
        match self.sums.get_mut(name) {
            Some(sum) => sum.par_iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g),
            None => drop(self.sums.insert(name.to_owned(), gradient)),
        }
        Ok(())
    }
}

struct Update<'a> {
    naming: &'a Naming,
    config: AdamWConfig,
    learning_rate: f64,
    steps: i32,
    /// Of every gradient.
    scale: f32,
    moments: &'a mut BTreeMap<String, Moments>,
    sums: &'a BTreeMap<String, Vec<f32>>,
}

impl Exchange for Update<'_> {
    fn naming(&self) -> &Naming {
        self.naming
    }

    fn tensor(&mut self, name: &str, _: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError> {
        let Some(sum) = self.sums.get(name) else { return Ok(()) };
        let moments = self.moments.entry(name.to_owned()).or_default();
        moments.mean.resize(sum.len(), 0.0);
        moments.square.resize(sum.len(), 0.0);
        let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let decays = parameter.sizes().len() > 1;
        let rate = self.learning_rate as f32;
        let keep = if decays { 1.0 - rate * weight_decay } else { 1.0 };
        // Both means begin at zero, which this takes out again.
        let rate = rate / (1.0 - beta1.powi(self.steps));
        let square_scale = 1.0 / (1.0 - beta2.powi(self.steps));
        let scale = self.scale;
        let mut values = parameter.values();
        let state = moments.mean.par_iter_mut().zip(&mut moments.square);
        values.par_iter_mut().zip(sum).zip(state).for_each(|((value, &sum), (mean, square))| {
            let gradient = scale * sum;
            *mean = beta1 * *mean + (1.0 - beta1) * gradient;
            *square = beta2 * *square + (1.0 - beta2) * gradient * gradient;
            *value = keep * *value - rate * *mean / ((*square * square_scale).sqrt() + eps);
        });
        parameter.set(values);
        Ok(())
    }
}
