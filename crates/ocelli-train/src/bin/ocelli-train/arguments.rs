//! What the training of both kinds of model takes.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use ocelli_train::burn::tensor::Device;
use ocelli_train::fit::Run;

use crate::device::DeviceKind;

#[derive(Args)]
pub struct RunArguments {
    /// The recipe: what to learn from, and how (TOML; those of every stage and size are in recipes/).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The folder of the run: checkpoints, metrics.jsonl, curves.html. A run that was interrupted goes on.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The model to begin with; not for a recipe that makes a new one.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Change a value of the recipe, as in --set train.batch=4. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// What computes.
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceKind,
    /// Threads; one for each core if not given.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Tell how much memory the run takes, and stop.
    #[arg(long)]
    pub estimate: bool,
    /// Start even when memory seems too small.
    #[arg(long)]
    pub force: bool,
    /// A record of every step to stdout, as JSON Lines.
    #[arg(long)]
    pub json: bool,
}

impl RunArguments {
    /// Start the threads and open the device.
    pub fn open_device(&self) -> anyhow::Result<Device> {
        if let Some(threads) = self.threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build_global().context("cannot start threads")?;
        }
        Ok(self.device.open()?.autodiff())
    }

    /// The checkpoint to begin with: that of `--model`, or a new one that `write` writes if it is not there yet.
    pub fn begin(
        &self,
        weights: &str,
        write: Option<impl FnOnce(&Path) -> anyhow::Result<()>>,
    ) -> anyhow::Result<PathBuf> {
        match (&self.model, write) {
            (Some(_), Some(_)) => {
                bail!("the recipe makes a new model: leave --model out, or [new] in the recipe")
            }
            (Some(model), None) => Ok(Run::last_of(model).unwrap_or_else(|| model.clone())),
            (None, Some(write)) => {
                let dir = self.out.join("begin");
                if !dir.join(weights).is_file() {
                    write(&dir)?;
                }
                Ok(dir)
            }
            (None, None) => bail!("give the model to begin with: --model DIR"),
        }
    }
}
