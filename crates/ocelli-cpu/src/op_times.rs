//! How long each op of a plan takes.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use ocelli_plan::RunError;

use crate::kv_cache::KvCache;
use crate::session::{Arena, PreparedPlan};

/// Time of each op over one or more runs of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpTimes {
    /// One for each op in the plan's order, summed over the runs.
    pub times: Vec<Duration>,
}

impl PreparedPlan {
    /// Run as [`PreparedPlan::run`] does and add each op's time to `times`. The clock is read once before each
    /// op and once at the end, on the caller's thread. A run that fails adds nothing.
    ///
    /// # Errors
    /// As for [`PreparedPlan::run`].
    ///
    /// # Panics
    /// As for [`PreparedPlan::run`].
    pub fn run_timed(
        &self,
        arena: &mut Arena,
        rows: usize,
        cache: Option<&mut KvCache>,
        stop: &dyn Fn() -> bool,
        times: &mut OpTimes,
    ) -> Result<(), RunError> {
        let ops = self.plan().ops.len();
        let marks = RefCell::new(Vec::with_capacity(ops + 1));
        self.run(arena, rows, cache, &|| {
            marks.borrow_mut().push(Instant::now());
            stop()
        })?;
        let mut marks = marks.into_inner();
        marks.push(Instant::now());
        times.times.resize(ops, Duration::ZERO);
        for (time, pair) in times.times.iter_mut().zip(marks.windows(2)) {
            *time += pair[1] - pair[0];
        }
        Ok(())
    }
}
