//! The learning rate of a step.

use serde::{Deserialize, Serialize};

/// Rises in a line from 0, then falls along half a cosine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Steps of the whole run; 0 takes `epochs`.
    pub steps: u64,
    /// How often every sample comes, if `steps` is 0.
    pub epochs: f64,
    /// Steps until the peak is reached; 0 takes `warmup_share`.
    pub warmup_steps: u64,
    /// Share of the steps until the peak is reached, if `warmup_steps` is 0.
    pub warmup_share: f64,
    /// What is left of the peak at the end, 0 to 1.
    pub floor: f64,
}

impl Default for Schedule {
    /// LLaVA's.
    fn default() -> Self {
        Self { steps: 0, epochs: 1.0, warmup_steps: 0, warmup_share: 0.03, floor: 0.0 }
    }
}

impl Schedule {
    /// The same in steps.
    pub fn in_steps(self, steps_per_epoch: u64) -> Self {
        let of_epochs = (self.epochs * steps_per_epoch as f64).ceil().max(1.0) as u64;
        let steps = if self.steps == 0 { of_epochs } else { self.steps };
        let of_share = (self.warmup_share * steps as f64).round() as u64;
        let warmup_steps = if self.warmup_steps == 0 { of_share } else { self.warmup_steps };
        Self { steps, warmup_steps, ..self }
    }

    /// The share of the peak for a step, counted from 0, of a schedule in steps.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let rest = (self.steps.saturating_sub(self.warmup_steps)).max(1);
        let done = ((step - self.warmup_steps) as f64 / rest as f64).min(1.0);
        self.floor + (1.0 - self.floor) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_and_falls() {
        let schedule = Schedule { steps: 110, warmup_steps: 10, floor: 0.1, ..Schedule::default() };
        assert_eq!(schedule.at(0), 0.1);
        assert_eq!(schedule.at(9), 1.0);
        assert_eq!(schedule.at(10), 1.0);
        assert!((schedule.at(60) - 0.55).abs() < 1e-12);
        assert!((schedule.at(110) - 0.1).abs() < 1e-12);
        assert!((schedule.at(1000) - 0.1).abs() < 1e-12);
        let none = Schedule { warmup_share: 0.0, ..Schedule::default() };
        assert_eq!(none.at(0), 1.0);
    }

    #[test]
    fn epochs_and_shares_become_steps() {
        let schedule = Schedule { epochs: 2.5, ..Schedule::default() }.in_steps(400);
        assert_eq!((schedule.steps, schedule.warmup_steps), (1000, 30));
        assert_eq!(schedule.in_steps(7), schedule);
        let schedule = Schedule { steps: 50, warmup_steps: 5, ..Schedule::default() }.in_steps(400);
        assert_eq!((schedule.steps, schedule.warmup_steps), (50, 5));
    }
}
