//! A model's networks on a device, prepared anew when the device is lost: a laptop that slept, a driver that was reset.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ocelli_plan::{RunError, WeightSource};

use crate::Error;
use crate::engine::{DeviceChoice, Engine, EngineOptions};
use crate::fastvlm::lock;

/// Networks of one kind on one device.
pub(crate) struct Running<T> {
    pub(crate) engine: Engine,
    pub(crate) networks: T,
    note: Option<String>,
    /// Whether it has completed any work.
    proven: AtomicBool,
}

impl<T> Running<T> {
    fn new(engine: Engine, note: Option<String>, networks: T) -> Arc<Self> {
        Arc::new(Self { engine, networks, note, proven: AtomicBool::new(false) })
    }

    /// Why another device is used than was asked for, if so.
    pub(crate) fn note(&self) -> Option<String> {
        self.note.clone()
    }

    /// Some work is complete: were the device lost now, another one would be worth opening.
    pub(crate) fn is_proven(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }
}

/// Where a model's networks run, from its loading on.
pub(crate) struct Runner<T> {
    wanted: EngineOptions,
    source: Arc<dyn WeightSource>,
    current: Mutex<Arc<Running<T>>>,
}

impl<T> Runner<T> {
    /// Open the device and prepare the networks.
    ///
    /// # Errors
    /// When there is no such device, or a network cannot be prepared on it.
    pub(crate) async fn open(
        wanted: EngineOptions,
        source: Arc<dyn WeightSource>,
        prepare: impl Fn(&Engine) -> Result<T, Error>,
    ) -> Result<Self, Error> {
        let (engine, note) = Engine::open(&wanted, Arc::clone(&source)).await?;
        let networks = prepare(&engine)?;
        Ok(Self { wanted, source, current: Mutex::new(Running::new(engine, note, networks)) })
    }

    /// What ran last, be its device lost or not.
    pub(crate) fn current(&self) -> Arc<Running<T>> {
        Arc::clone(&lock(&self.current))
    }

    /// What new work runs on. Where the device was lost it is opened again; where that fails, or the device was lost
    /// before it had done anything, the CPU takes over, and a note says so.
    ///
    /// # Errors
    /// When a network cannot be prepared on the CPU.
    pub(crate) async fn ready(
        &self,
        prepare: impl Fn(&Engine) -> Result<T, Error>,
    ) -> Result<Arc<Running<T>>, Error> {
        let lost = self.current();
        let Some(why) = lost.engine.failure() else { return Ok(lost) };
        let again = match lost.proven.load(Ordering::Relaxed) {
            true => {
                self.reopened(&prepare).await.map_err(|error| format!("{why}; opening it again: {error}"))
            }
            false => Err(why),
        };
        let running = match again {
            Ok(running) => running,
            Err(why) => {
                let wanted = EngineOptions { device: DeviceChoice::Cpu, ..self.wanted.clone() };
                let (engine, _) = Engine::open(&wanted, Arc::clone(&self.source)).await?;
                let note =
                    format!("the GPU `{}` is not used any more, the CPU is: {why}", lost.engine.kernels());
                let networks = prepare(&engine)?;
                Running::new(engine, Some(note), networks)
            }
        };
        let mut current = lock(&self.current);
        // Another request may have noticed it too and have been quicker.
        if Arc::ptr_eq(&current, &lost) {
            *current = running;
        }
        Ok(Arc::clone(&current))
    }

    async fn reopened(
        &self,
        prepare: impl Fn(&Engine) -> Result<T, Error>,
    ) -> Result<Arc<Running<T>>, Error> {
        let (engine, note) = Engine::open(&self.wanted, Arc::clone(&self.source)).await?;
        let networks = prepare(&engine)?;
        Ok(Running::new(engine, note, networks))
    }
}

/// Whether a device failed in the middle of some work, so that doing it again elsewhere may help.
pub(crate) fn is_lost<R>(result: &Result<R, Error>) -> bool {
    matches!(result, Err(Error::Run(RunError::Device(_)) | Error::Gpu(_)))
}
