//! The `ocelli` command: the only crate that prints or exits.
//!
//! Results go to stdout, progress and errors to stderr. Exit status: 0 done, 1 something failed,
//! 2 usage.

#![forbid(unsafe_code)]

mod answer;
mod args;
mod bench;
mod clip;
mod confusion;
mod device;
mod embedded;
mod eval;
mod eval_drawn;
mod home;
mod html;
mod hub;
mod inspect_clip;
mod kept;
mod labels;
mod message;
mod misses;
mod model;
mod photos;
mod progress;
mod pull;
mod quantize;
mod report;
mod synth_data;
mod train;
mod web_export;
mod whole;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command, EvalCommand, LabelsCommand, WebCommand};

fn main() -> ExitCode {
    let result = run(Cli::parse().command);
    embedded::clean_up();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if message::is_closed_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ocelli: {}", message::message(&error));
            ExitCode::FAILURE
        }
    }
}

/// True when all went well, false when some inputs failed and were reported.
fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Caption { images, model, generate } => answer::caption(&images, &model, &generate),
        Command::Ask { images_and_question, together, model, generate } => {
            answer::ask(&images_and_question, together, &model, &generate)
        }
        Command::Chat { image, model, generate } => answer::chat(image.as_deref(), &model, &generate),
        Command::Embed(args) => clip::embed(&args),
        Command::Classify(args) => clip::classify(&args),
        Command::Labels { command: LabelsCommand::Save(args) } => labels::save(&args),
        Command::Labels { command: LabelsCommand::List { json } } => labels::list(json),
        Command::Labels { command: LabelsCommand::Rm { name } } => labels::remove(&name),
        Command::Eval { command: EvalCommand::Zeroshot(args) } => eval::zeroshot(&args),
        Command::Eval { command: EvalCommand::Drawn(args) } => eval_drawn::drawn(&args),
        Command::Bench { command } => bench::bench(&command),
        Command::Index(args) => photos::index(&args),
        Command::Search(args) => photos::search(&args),
        Command::Similar(args) => photos::similar(&args),
        Command::Dupes(args) => photos::dupes(&args),
        Command::Stats(args) => photos::stats(&args),
        Command::Inspect { model, vision, json } => report::inspect(&model, vision.as_deref(), json),
        Command::Trace { image, prompt, out, model, generate } => {
            answer::trace(&image, &prompt, &out, &model, &generate)
        }
        Command::Synth { arch, dir, seed, force, json } => model::synth(arch, &dir, seed, force, json),
        Command::SynthData(args) => synth_data::synth_data(&args),
        Command::Train { arguments } => train::train(&arguments),
        Command::Quantize(args) => quantize::quantize(&args),
        Command::Web { command: WebCommand::Export(args) } => web_export::export(&args),
        Command::Pull { model, endpoint, json } => pull::pull(&model, endpoint.as_deref(), json),
        Command::List { json } => kept::list(json),
        Command::Rm { model, yes } => kept::remove(&model, yes),
        Command::Doctor { json } => report::doctor(json),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "ocelli", &mut std::io::stdout());
            Ok(true)
        }
    }
}
