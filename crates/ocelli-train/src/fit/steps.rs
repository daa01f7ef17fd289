//! The steps of a run, whatever is trained: batches made ahead by another thread, a record of every step, checkpoints
//! now and then.

use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use super::{Record, Run, Schedule};
use crate::TrainError;

/// Steps whose batches are made ahead.
const AHEAD: usize = 2;
/// Steps whose batches are in memory at most: the one that is learned from, those ahead, and the one that is being made.
pub(crate) const STEPS_IN_MEMORY: usize = AHEAD + 2;

/// Samples of one forward pass.
pub(crate) trait Samples: Send {
    /// How many there are to learn from.
    fn count(&self) -> usize;
    /// Why others are left out.
    fn bad(&self) -> &[String];
}

/// What learns.
pub(crate) trait Learner<B> {
    /// Take a step along the batches at this share of the peak learning rate. Returns the mean loss and the norm of the
    /// gradients.
    fn learn(&mut self, batches: &[B], rate: f64) -> Result<(f32, f64), TrainError>;

    /// What it makes of samples that nothing is learned from; none if there are none. Bad ones are told.
    fn measure(&self, tell: &dyn Fn(&str)) -> Option<Measured>;

    /// Write a checkpoint after so many steps.
    fn save(&mut self, step: u64) -> Result<(), TrainError>;
}

/// What a network makes of samples that nothing is learned from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// Mean loss.
    pub(crate) loss: f32,
    /// Share of pictures to which their own text is nearest, of networks that compare both.
    pub(crate) recall: Option<f32>,
}

/// How a run that is trained with a recipe is to be measured.
///
/// # Errors
/// When it is to be measured on nothing.
pub(crate) fn check_measuring(evaluate_every: u64, held_back: bool) -> Result<(), TrainError> {
    if evaluate_every > 0 && !held_back {
        let reason = "train.evaluate_every is set, but there is nothing to measure on: give [held_back], or leave it out";
        return Err(TrainError::Setting { reason: reason.into() });
    }
    Ok(())
}

/// Samples of a measurement, if a recipe says nothing else.
pub(crate) fn evaluate_samples() -> usize {
    64
}

/// Where a run stands and what it tells.
pub(crate) struct Steps<'a> {
    /// Steps that have been taken.
    pub(crate) taken: u64,
    /// Of the whole run, in steps.
    pub(crate) schedule: Schedule,
    /// Steps from one checkpoint to the next.
    pub(crate) save_every: u64,
    /// Steps from one measurement to the next, the last step always being one; 0 measures never.
    pub(crate) evaluate_every: u64,
    /// The folder.
    pub(crate) run: &'a Run,
    /// Gets the record of every step and may stop the run, which then writes a checkpoint.
    pub(crate) progress: &'a mut dyn FnMut(&Record) -> ControlFlow<()>,
    /// Gets the reasons of bad samples.
    pub(crate) tell: &'a (dyn Fn(&str) + Sync),
}

impl Steps<'_> {
    /// Take the steps that are left; `make` makes the batches of a step, counted from 0.
    pub(crate) fn take<B: Samples>(
        self,
        make: impl FnMut(u64) -> Vec<B> + Send,
        learner: &mut impl Learner<B>,
    ) -> Result<(), TrainError> {
        let mut records = self.run.records(self.taken)?;
        let mut bad_samples = records.bad_samples();
        let (begin, last) = (Instant::now(), self.schedule.steps);
        let (send, made) = sync_channel::<Vec<B>>(AHEAD);
        std::thread::scope(|scope| {
            let mut make = make;
            scope.spawn(move || (self.taken..last).try_for_each(|step| send.send(make(step))));
            for step in self.taken + 1..=last {
                let started = Instant::now();
                let batches = made.recv().expect("batches are made for every step");
                for reason in batches.iter().flat_map(Samples::bad) {
                    bad_samples += 1;
                    (self.tell)(reason);
                }
                let batches: Vec<B> = batches.into_iter().filter(|batch| batch.count() > 0).collect();
                if batches.is_empty() {
                    return Err(TrainError::NoExamples {
                        reason: format!("every sample of step {step} is bad"),
                    });
                }
                let samples = batches.iter().map(Samples::count).sum();
                let rate = self.schedule.at(step - 1);
                let (loss, gradient_norm) = learner.learn(&batches, rate)?;
                if !loss.is_finite() {
                    return Err(TrainError::Diverged { step, loss });
                }
                let due =
                    self.evaluate_every > 0 && (step.is_multiple_of(self.evaluate_every) || step == last);
                let samples_per_s = samples as f64 / started.elapsed().as_secs_f64();
                let measured = if due { learner.measure(&|bad| (self.tell)(bad)) } else { None };
                let record = Record {
                    step,
                    steps: last,
                    loss,
                    held_back_loss: measured.map(|measured| measured.loss),
                    held_back_recall: measured.and_then(|measured| measured.recall),
                    rate,
                    gradient_norm,
                    samples,
                    bad_samples,
                    samples_per_s,
                    seconds: begin.elapsed().as_secs_f64(),
                };
                records.add(&record)?;
                let stop = (self.progress)(&record).is_break();
                if stop || step == last || step.is_multiple_of(self.save_every.max(1)) {
                    learner.save(step)?;
                }
                if stop {
                    break;
                }
            }
            // The other thread ends when nobody takes its batches.
            drop(made);
            Ok(())
        })
    }
}
