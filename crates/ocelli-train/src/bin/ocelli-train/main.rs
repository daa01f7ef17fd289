//! `ocelli-train`, which `ocelli train` runs: training and fine-tuning on the command line.

mod arguments;
mod clip;
mod device;
mod memory;
mod view;
mod vlm;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ocelli_train::export::{export_clip, export_vlm};
use ocelli_train::fit::Run;
use ocelli_train::lora;
use ocelli_weights::ClipCheckpoint;

/// Train and fine-tune FastVLM and MobileCLIP.
#[derive(Parser)]
#[command(name = "ocelli train", bin_name = "ocelli train", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a FastVLM.
    Vlm(Box<vlm::Arguments>),
    /// Train a MobileCLIP, or write a reinforced data set for one.
    Clip(Box<clip::Arguments>),
    /// Make adapters part of the model that they were trained for.
    Merge {
        /// That model.
        #[arg(long, value_name = "DIR")]
        model: PathBuf,
        /// The adapters: the folder of a run, or one of its checkpoints.
        #[arg(long, value_name = "DIR")]
        adapter: PathBuf,
        /// The new folder.
        to: PathBuf,
    },
    /// Fold a trained checkpoint and store it in bf16, as models are shipped.
    Export {
        /// The checkpoint: the folder of a run, or one of its checkpoints.
        from: PathBuf,
        /// The new folder.
        to: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Vlm(arguments) => vlm::run(&arguments),
        Command::Clip(arguments) => clip::run(&arguments),
        Command::Merge { model, adapter, to } => merge(&model, &adapter, &to),
        Command::Export { from, to } => export(&from, &to),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ocelli train: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

/// What went wrong and why; some errors tell their cause themselves.
fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match &told[..] {
        "" => cause,
        all if all.contains(&cause) => told,
        all => format!("{all}: {cause}"),
    })
}

fn merge(model: &Path, adapter: &Path, to: &Path) -> anyhow::Result<()> {
    let adapter = Run::last_of(adapter).unwrap_or_else(|| adapter.to_owned());
    lora::write_merged(model, &adapter, to)?;
    eprintln!("{} with {}: {}", model.display(), adapter.display(), to.display());
    Ok(())
}

fn export(from: &Path, to: &Path) -> anyhow::Result<()> {
    let from = Run::last_of(from).unwrap_or_else(|| from.to_owned());
    let bytes = if ClipCheckpoint::is_clip(&from) { export_clip(&from, to) } else { export_vlm(&from, to) }?;
    eprintln!("{} to {}: {:.1} MB of weights", from.display(), to.display(), bytes as f64 / 1e6);
    Ok(())
}
