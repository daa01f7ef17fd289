//! `bench`: how quick a model is on this machine, by the definitions of docs/performance.md.

pub mod args;
mod embed;
mod fastvlm;
mod load;
mod machine;
mod ops;
mod page;
mod pareto;
mod plot;
mod record;
mod stats;
mod subject;
mod suite;

use anyhow::bail;
use ocelli::{MobileClip, ModelMemory};
use ocelli_tiny::Embedded;
use serde_json::json;

use args::{BenchCommand, MemoryArgs};
use record::{Recorder, Subject};
use subject::{Model, Vlm};

/// `ocelli bench`: false when it was stopped, or the machine had to be quiet and was not.
///
/// # Errors
/// When there is no such model, a picture cannot be read, or stdout cannot be written.
pub fn bench(command: &BenchCommand) -> anyhow::Result<bool> {
    let recorder = match command {
        BenchCommand::Ttft(a) => with_vlm(&a.measure, &a.model, |r, vlm| fastvlm::ttft(r, vlm, a)),
        BenchCommand::Encode(a) => {
            with_vlm(&a.measure, &a.model, |r, vlm| fastvlm::encode(r, vlm, &a.resolution, a.runs.get()))
        }
        BenchCommand::Decode(a) => with_vlm(&a.measure, &a.model, |r, vlm| {
            fastvlm::decode(r, vlm, a.resolution, Some(&a.prompt), a.max_tokens as usize, a.runs.get())
        }),
        BenchCommand::Sustained(a) => with_vlm(&a.measure, &a.model, |r, vlm| {
            fastvlm::sustained(r, vlm, a.resolution, a.max_tokens.get(), a.minutes)
        }),
        BenchCommand::Memory(a) => memory(a),
        BenchCommand::Pareto(a) => pareto::pareto(a),
        BenchCommand::Ops(a) => ops::ops(a),
        BenchCommand::Embed(a) => {
            let mut recorder = Recorder::new(&a.measure)?;
            let mut model = a.model.clone();
            model.model.get_or_insert_with(|| Embedded::MobileClip.name().to_owned());
            let Model::Clip(clip) = Model::load(&model, &a.measure)? else {
                bail!(
                    "`bench embed` is for MobileCLIP, this is a FastVLM: use `bench ttft` or `bench encode`"
                );
            };
            let batches: Vec<usize> = a.batch.iter().map(|n| n.get()).collect();
            embed::embed(&mut recorder, &clip, &batches, &a.text, a.runs.get())?;
            Ok(recorder)
        }
        BenchCommand::Suite(a) => suite::suite(a),
    }?;
    Ok(recorder.finish())
}

fn with_vlm(
    measure: &args::MeasureArgs,
    model: &crate::args::ModelArgs,
    run: impl FnOnce(&mut Recorder, &Vlm) -> anyhow::Result<()>,
) -> anyhow::Result<Recorder> {
    let mut recorder = Recorder::new(measure)?;
    let vlm = Vlm::load(model, measure)?;
    run(&mut recorder, &vlm)?;
    Ok(recorder)
}

/// `bench memory`.
fn memory(args: &MemoryArgs) -> anyhow::Result<Recorder> {
    let mut recorder = Recorder::new(&args.measure)?;
    let model = Model::load(&args.model, &args.measure)?;
    measure_memory(&mut recorder, &model, args.resolution, args.max_tokens.get())?;
    Ok(recorder)
}

/// Peak memory after loading and after one answer, or one picture and one text.
fn measure_memory(
    recorder: &mut Recorder,
    model: &Model,
    resolution: Option<usize>,
    max_tokens: usize,
) -> anyhow::Result<()> {
    let load_peak = ocelli::peak_rss_bytes();
    recorder.reading();
    let (subject, load_ms, memory, resolution, tokens) = match model {
        Model::Vlm(vlm) => {
            let answer = vlm.answer(resolution, None, max_tokens, &recorder.cancel)?;
            let tokens = answer.usage.prompt_tokens + answer.usage.completion_tokens;
            (&vlm.subject, vlm.load_ms, vlm.model.memory(), Some(vlm.resolution(resolution)), Some(tokens))
        }
        Model::Clip(clip) => {
            clip.model.embed_images(&[clip.picture()?])?;
            if clip.model.config().text.is_some() {
                clip.model.embed_texts(&["a photo of a dog"])?;
            }
            (&clip.subject, clip.load_ms, clip.model.memory(), Some(clip.model.config().image.size), None)
        }
    };
    if recorder.stopped() {
        return Ok(());
    }
    let ModelMemory { weights_bytes, arena_bytes, cache_bytes } = memory;
    let reading = recorder.reading();
    recorder.values(
        ["memory", "peak"],
        subject,
        &reading,
        &[
            ("resolution", json!(resolution)),
            ("tokens", json!(tokens)),
            ("load_ms", json!(load_ms)),
            ("peak_rss_bytes", json!(ocelli::peak_rss_bytes())),
            ("load_peak_rss_bytes", json!(load_peak)),
            ("weights_bytes", json!(weights_bytes)),
            ("arena_bytes", json!(arena_bytes)),
            ("cache_bytes", json!(cache_bytes)),
        ],
    )
}

/// What records say about a MobileCLIP.
fn clip_subject(model: &MobileClip, name: String) -> Subject {
    Subject {
        model: name,
        dtype: model.dtype().name(),
        quant: None,
        threads: model.threads(),
        device: model.device_name(),
        kernels: model.kernels(),
    }
}
