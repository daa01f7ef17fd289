//! `suite`: everything, into one file for programs and one page for people.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::args::{SuiteArgs, TtftArgs};
use super::record::Recorder;
use super::subject::{Model, Vlm};
use super::{embed, fastvlm, measure_memory, ops, page, pareto};
use crate::whole::write_whole;

/// Tokens of the answers.
const MAX_TOKENS: usize = 30;

/// `bench suite`. What was measured before a Ctrl-C is written too.
pub fn suite(args: &SuiteArgs) -> anyhow::Result<Recorder> {
    let mut recorder = Recorder::new(&args.measure)?;
    // A folder that cannot be written should fail now and not at the end.
    std::fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    let model = Model::load(&args.model, &args.measure)?;
    // Memory first: everything else adds to the peak.
    match &model {
        Model::Vlm(vlm) => {
            measure_memory(&mut recorder, &model, None, MAX_TOKENS)?;
            measure_vlm(&mut recorder, vlm, args)?;
        }
        Model::Clip(clip) => {
            measure_memory(&mut recorder, &model, None, MAX_TOKENS)?;
            embed::embed(&mut recorder, clip, &[1, 8], "a photo of a dog", args.runs.get())?;
        }
    }
    if !recorder.stopped() {
        ops::profile(&mut recorder, &model, None, None, args.runs.get())?;
    }
    write(&recorder, &args.out)?;
    Ok(recorder)
}

fn measure_vlm(recorder: &mut Recorder, vlm: &Vlm, args: &SuiteArgs) -> anyhow::Result<()> {
    let runs = args.runs;
    let resolutions = if args.resolution.is_empty() { steps(vlm) } else { args.resolution.clone() };
    let ttft = TtftArgs {
        runs,
        resolution: vec![],
        prompt: "Describe the image.".to_owned(),
        max_tokens: std::num::NonZeroUsize::new(MAX_TOKENS).unwrap_or(std::num::NonZeroUsize::MIN),
        measure: args.measure.clone(),
        model: args.model.clone(),
    };
    fastvlm::ttft(recorder, vlm, &ttft)?;
    fastvlm::encode(recorder, vlm, &resolutions, runs.get())?;
    fastvlm::decode(recorder, vlm, None, None, 2 * MAX_TOKENS, runs.get().min(3))?;
    let points = pareto::measure(recorder, vlm, &resolutions, runs.get())?;
    if let Some(budget_ms) = args.ttft_budget {
        pareto::pick(recorder, &points, budget_ms)?;
    }
    if !recorder.stopped() {
        fastvlm::sustained(recorder, vlm, None, MAX_TOKENS, args.minutes)?;
    }
    Ok(())
}

/// A quarter, half and all of the model's own resolution, as far as its tower takes them.
fn steps(vlm: &Vlm) -> Vec<usize> {
    let (own, stride) = (vlm.resolution(None), vlm.model.config().vision.stride);
    let mut steps: Vec<usize> =
        [4, 2, 1].iter().map(|part| (own / part / stride * stride).max(stride)).collect();
    steps.dedup();
    steps
}

fn write(recorder: &Recorder, dir: &Path) -> anyhow::Result<()> {
    let machine = Value::Object(recorder.facts().clone());
    let results = json!({"machine": machine, "records": recorder.records});
    let (json_file, page_file) = (dir.join("results.json"), dir.join("report.html"));
    let text = serde_json::to_string_pretty(&results)?;
    write_whole(&json_file, text.as_bytes())?;
    write_whole(&page_file, page::page(&machine, &recorder.records).as_bytes())?;
    eprintln!("wrote {} and {}", json_file.display(), page_file.display());
    Ok(())
}
