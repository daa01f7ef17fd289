//! The steps of a run, whatever is trained: batches made ahead by another thread, a record of every step, checkpoints
//! now and then.

use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use super::{Record, Run, Schedule};
use crate::TrainError;

/// Steps whose batches are made ahead.
const AHEAD: usize = 2;

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

    /// The loss over samples that nothing is learned from, if the step, counted from 1, is one to measure it at.
    fn held_back_loss(&self, step: u64, is_last: bool) -> Option<f32>;

    /// Write a checkpoint after so many steps.
    fn save(&mut self, step: u64) -> Result<(), TrainError>;
}

/// Where a run stands and what it tells.
pub(crate) struct Steps<'a> {
    /// Steps that have been taken.
    pub(crate) taken: u64,
    /// Of the whole run, in steps.
    pub(crate) schedule: Schedule,
    /// Steps from one checkpoint to the next.
    pub(crate) save_every: u64,
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
                let samples_per_s = samples as f64 / started.elapsed().as_secs_f64();
                let record = Record {
                    step,
                    steps: last,
                    loss,
                    held_back_loss: learner.held_back_loss(step, step == last),
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
