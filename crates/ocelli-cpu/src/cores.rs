//! Which cores a pool's threads run on, where the system lets them choose: on Linux.
//!
//! Each worker stays on a core of its own. The caller is not ours to keep, so the scheduler may put it on a worker's core
//! while that one sleeps; there it would compute alone, with the worker waiting for it: always at real-time priority, for
//! some milliseconds else.

/// The cores that a process may use, in order: of the first thread, the caller, then of each worker, as far as there are so
/// many.
#[derive(Debug, Clone)]
pub(crate) struct Cores(Vec<usize>);

#[cfg(target_os = "linux")]
impl Cores {
    /// Of so many threads.
    pub(crate) fn of(threads: usize) -> Self {
        let Some(allowed) = allowed() else { return Self(Vec::new()) };
        // SAFETY: reads a bit of the set.
        let is_in = |&core: &usize| unsafe { libc::CPU_ISSET(core, &allowed) };
        Self((0..libc::CPU_SETSIZE as usize).filter(is_in).take(threads).collect())
    }

    /// Keep this thread on the core of thread `index`, if it has one.
    pub(crate) fn keep(&self, index: usize) {
        if let Some(&core) = self.0.get(index) {
            allow(&only(core));
        }
    }

    /// Move this thread to the first core if it is on that of a worker. It may go on from there, and is not moved again
    /// for a while: the scheduler may have a reason.
    pub(crate) fn leave_to_workers(&self) {
        use std::cell::Cell;
        use std::time::{Duration, Instant};

        const SELDOM: Duration = Duration::from_millis(1);
        thread_local! {
            static MOVED: Cell<Option<Instant>> = const { Cell::new(None) };
        }
        let Some((&first, workers)) = self.0.split_first() else { return };
        // SAFETY: asks for a number.
        let core = unsafe { libc::sched_getcpu() };
        if !workers.iter().any(|&worker| libc::c_int::try_from(worker) == Ok(core))
            || MOVED.get().is_some_and(|moved| moved.elapsed() < SELDOM)
        {
            return;
        }
        let Some(before) = allowed() else { return };
        // SAFETY: reads a bit of the set.
        if unsafe { libc::CPU_ISSET(first, &before) } && allow(&only(first)) {
            allow(&before);
            MOVED.set(Some(Instant::now()));
        }
    }
}

/// Cores that this thread may use.
#[cfg(target_os = "linux")]
fn allowed() -> Option<libc::cpu_set_t> {
    // SAFETY: the call gets a set of the size that it is told; all bits of a set may be zero.
    unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        let done = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut cores);
        (done == 0).then_some(cores)
    }
}

#[cfg(target_os = "linux")]
fn only(core: usize) -> libc::cpu_set_t {
    // SAFETY: all bits of a set may be zero; the core is one that a set had.
    unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut cores);
        cores
    }
}

/// Let this thread use these cores only. Refusal costs only speed.
#[cfg(target_os = "linux")]
fn allow(cores: &libc::cpu_set_t) -> bool {
    // SAFETY: the call gets a set of the size that it is told.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cores) == 0 }
}

#[cfg(not(target_os = "linux"))]
impl Cores {
    pub(crate) fn of(_threads: usize) -> Self {
        Self(Vec::new())
    }

    pub(crate) fn keep(&self, _index: usize) {}

    pub(crate) fn leave_to_workers(&self) {
        debug_assert!(self.0.is_empty());
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// In a thread of its own, whose cores are nobody else's business.
    fn on_a_workers_core(may_leave: bool) -> Option<(bool, bool)> {
        let cores = Cores::of(2);
        let &[first, second] = cores.0.as_slice() else {
            eprintln!("skipped: this process has one core");
            return None;
        };
        let run = move || {
            let before = allowed().expect("a set");
            allow(&only(second));
            if may_leave {
                allow(&before);
            }
            cores.leave_to_workers();
            // SAFETY: asks for a number; reads bits of a set.
            unsafe {
                let now = allowed().expect("a set");
                (libc::sched_getcpu() == first as i32, libc::CPU_ISSET(first, &now))
            }
        };
        Some(std::thread::spawn(run).join().expect("no panic"))
    }

    #[test]
    fn a_caller_leaves_a_workers_core_and_stays_free() {
        // Now and then the scheduler is in between.
        let tried: Vec<_> = (0..20).map_while(|_| on_a_workers_core(true)).collect();
        assert!(tried.is_empty() || tried.iter().any(|&(is_first, _)| is_first));
        assert!(tried.iter().all(|&(_, is_free)| is_free));
    }

    #[test]
    fn a_caller_that_was_put_there_stays() {
        if let Some((is_first, is_free)) = on_a_workers_core(false) {
            assert!(!is_first && !is_free);
        }
    }
}
