//! The engine's own threads: pinned, they spin briefly for the next op and then sleep.
//!
//! Work is a number of chunks that threads take from a counter. Which thread runs a chunk never
//! changes a result: chunks write disjoint outputs and no sum crosses a chunk. What a chunk itself starts on a pool, it
//! does alone: a chunk may be a whole network.
//!
//! Where threads cannot be had, as on WebAssembly, the caller does all the work.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cores::Cores;

/// Between two ops of one token a worker stays awake; after this it sleeps.
const SPIN: Duration = Duration::from_micros(100);
/// The caller waits about as long for the last chunks of others before it offers them its core.
const SPINS: usize = 2000;
/// Chunks that a kernel makes for each thread: enough that one slow chunk does not leave the others waiting.
pub(crate) const CHUNKS_PER_THREAD: usize = 4;

thread_local! {
    /// Whether this thread is inside of a chunk.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// A fixed set of threads, the caller included.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    cores: Cores,
    /// One job at a time: two models may share a pool.
    in_use: Mutex<()>,
}

/// A job that workers may call while `Pool::run` has not returned.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    chunks: usize,
}

// SAFETY: the task is `Sync`, and `Pool::run` keeps it alive until no worker can call it.
unsafe impl Send for Job {}

struct Shared {
    /// Number of the current job; odd while one is set.
    generation: AtomicUsize,
    job: Mutex<State>,
    wake: Condvar,
    next: AtomicUsize,
    running: AtomicUsize,
    panicked: AtomicBool,
}

struct State {
    job: Option<Job>,
    stop: bool,
}

impl Pool {
    /// `threads` threads in all; 0 means one for each core that this process may use.
    pub fn new(threads: usize) -> Self {
        let threads = if threads == 0 { available_threads() } else { threads };
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            job: Mutex::new(State { job: None, stop: false }),
            wake: Condvar::new(),
            next: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        });
        let cores = Cores::of(threads);
        let workers =
            (1..threads).filter_map(|index| spawn_worker(Arc::clone(&shared), &cores, index)).collect();
        Self { shared, workers, cores, in_use: Mutex::new(()) }
    }

    /// Threads that share what the caller starts.
    pub fn threads(&self) -> usize {
        if BUSY.get() { 1 } else { self.workers.len() + 1 }
    }

    /// Call `task(i)` once for each `i` in `0..chunks`, on all threads; returns when all are done.
    ///
    /// # Panics
    /// When a task panics, after the others have finished.
    pub fn run(&self, chunks: usize, task: &(dyn Fn(usize) + Sync)) {
        if chunks <= 1 || self.threads() == 1 {
            let _flush = FlushToZero::enable();
            (0..chunks).for_each(task);
            return;
        }
        let _one_job = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        self.cores.leave_to_workers();
        self.publish(Job { task: erase_lifetime(task), chunks });
        let own = catch_unwind(AssertUnwindSafe(|| {
            let _flush = FlushToZero::enable();
            self.shared.take_chunks(task, chunks);
        }));
        self.retract();
        let worker_panicked = self.shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!worker_panicked, "a worker thread panicked");
    }

    fn publish(&self, job: Job) {
        let shared = &self.shared;
        let mut state = shared.lock();
        shared.next.store(0, Ordering::Relaxed);
        state.job = Some(job);
        shared.generation.fetch_add(1, Ordering::Release);
        drop(state);
        shared.wake.notify_all();
    }

    /// Withdraw the job and wait until no worker is inside of it.
    fn retract(&self) {
        let shared = &self.shared;
        shared.lock().job = None;
        shared.generation.fetch_add(1, Ordering::Release);
        let mut spins = 0;
        while shared.running.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                // A worker may wait for this thread's core: at real-time priority it would wait for ever.
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.generation.fetch_add(2, Ordering::Release);
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic has been reported by `run`.
            let _ = worker.join();
        }
    }
}

/// The pointer outlives the borrow only in type: `run` returns after the last worker has left.
fn erase_lifetime<'a>(task: &'a (dyn Fn(usize) + Sync + 'a)) -> *const (dyn Fn(usize) + Sync + 'static) {
    // SAFETY: only the lifetime changes; see above.
    unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + 'a), _>(task) }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_chunks(&self, task: &(dyn Fn(usize) + Sync), chunks: usize) {
        let _inside = Inside::enter();
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= chunks {
                return;
            }
            task(i);
        }
    }

    /// Join the current job if there is one. Registering under the lock that `retract` takes makes
    /// sure that the job cannot go away between seeing it and being counted as inside of it.
    fn enter(&self) -> Option<Job> {
        let state = self.lock();
        let job = state.job?;
        self.running.fetch_add(1, Ordering::Relaxed);
        Some(job)
    }

    fn work(&self) {
        let _flush = FlushToZero::enable();
        let mut seen = 0;
        loop {
            self.wait_for_change(seen);
            seen = self.generation.load(Ordering::Acquire);
            if let Some(job) = self.enter() {
                // SAFETY: `retract` waits for this worker before `run` gives the task back.
                let task = unsafe { &*job.task };
                if catch_unwind(AssertUnwindSafe(|| self.take_chunks(task, job.chunks))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
                self.running.fetch_sub(1, Ordering::Release);
            } else if self.lock().stop {
                return;
            }
        }
    }

    fn wait_for_change(&self, seen: usize) {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..64 {
                if self.generation.load(Ordering::Acquire) != seen {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut state = self.lock();
        while self.generation.load(Ordering::Acquire) == seen && !state.stop {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// This thread is inside of a chunk while this lives.
struct Inside;

impl Inside {
    fn enter() -> Self {
        BUSY.set(true);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        BUSY.set(false);
    }
}

/// Cores that this process may use.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A thread that cannot be had leaves its work to the others. WebAssembly has none.
fn spawn_worker(shared: Arc<Shared>, cores: &Cores, index: usize) -> Option<JoinHandle<()>> {
    if cfg!(target_family = "wasm") {
        return None;
    }
    let name = format!("ocelli-{index}");
    let cores = cores.clone();
    let start = move || {
        cores.keep(index);
        shared.work();
    };
    std::thread::Builder::new().name(name).spawn(start).ok()
}

/// Treat denormals as zero while this lives: they cost a hundred times an ordinary number.
struct FlushToZero {
    before: u64,
}

impl FlushToZero {
    fn enable() -> Self {
        let before = control::read();
        control::write(before | control::FLUSH);
        Self { before }
    }
}

impl Drop for FlushToZero {
    fn drop(&mut self) {
        control::write(self.before);
    }
}

/// The register that says how a thread computes: MXCSR.
#[cfg(target_arch = "x86_64")]
mod control {
    /// Results that are denormal, and inputs.
    pub(super) const FLUSH: u64 = 0x8040;

    pub(super) fn read() -> u64 {
        let mut value = 0u32;
        // SAFETY: stores the control register into the local.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack, preserves_flags)) };
        u64::from(value)
    }

    pub(super) fn write(value: u64) {
        let value = value as u32;
        // SAFETY: the value is one that was read, with the two flush bits possibly set.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &value, options(nostack, preserves_flags)) };
    }
}

/// The register that says how a thread computes: FPCR.
#[cfg(target_arch = "aarch64")]
mod control {
    /// FZ, for results and inputs; f16 numbers have a bit of their own.
    pub(super) const FLUSH: u64 = 1 << 24;

    pub(super) fn read() -> u64 {
        let value: u64;
        // SAFETY: reads the control register.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    pub(super) fn write(value: u64) {
        // SAFETY: the value is one that was read, with the flush bit possibly set.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

/// Elsewhere there is nothing to set.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod control {
    pub(super) const FLUSH: u64 = 0;

    pub(super) fn read() -> u64 {
        0
    }

    pub(super) fn write(_value: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_chunk_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for chunks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
                pool.run(chunks, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_chunk_does_alone_what_it_starts() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let all = pool.threads();
            let counts: Vec<AtomicU32> = (0..8 * 5).map(|_| AtomicU32::new(0)).collect();
            pool.run(8, &|i| {
                let thread = std::thread::current().id();
                assert_eq!(pool.threads(), 1);
                pool.run(5, &|j| {
                    assert_eq!(std::thread::current().id(), thread);
                    counts[i * 5 + j].fetch_add(1, Ordering::Relaxed);
                });
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            assert_eq!(pool.threads(), all);
        }
    }

    #[test]
    fn many_small_jobs_and_pauses() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        for i in 0..2000 {
            pool.run(5, &|_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
            if i % 500 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert_eq!(total.load(Ordering::Relaxed), 10_000);
    }

    // WebAssembly has no unwinding, and its threads cannot be had.
    #[cfg(not(target_family = "wasm"))]
    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(100, &|i| assert!(i != 50, "chunk fifty"));
        }));
        assert!(result.is_err());
        let total = AtomicUsize::new(0);
        pool.run(10, &|_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(total.load(Ordering::Relaxed), 10);
    }

    #[cfg(not(target_family = "wasm"))]
    #[test]
    fn two_callers_share_a_pool() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        pool.run(7, &|_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 3 * 300 * 7);
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn the_callers_rounding_mode_comes_back() {
        let (before, tiny) = (control::read(), std::hint::black_box(f32::from_bits(1)));
        Pool::new(1).run(1, &|_| {
            assert_ne!(control::read() & control::FLUSH, 0);
            assert_eq!(std::hint::black_box(tiny) * 2.0, 0.0);
        });
        assert_eq!(control::read(), before);
        assert_ne!(std::hint::black_box(tiny) * 2.0, 0.0);
    }
}
