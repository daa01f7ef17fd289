//! `ttft`, `encode`, `decode` and `sustained`.

use std::time::{Duration, Instant};

use ocelli::Answer;
use serde_json::json;

use super::args::TtftArgs;
use super::machine;
use super::record::Recorder;
use super::subject::Vlm;

/// `bench ttft`.
pub fn ttft(recorder: &mut Recorder, vlm: &Vlm, args: &TtftArgs) -> anyhow::Result<()> {
    let own = [vlm.resolution(None)];
    let resolutions = if args.resolution.is_empty() { &own[..] } else { &args.resolution };
    for &resolution in resolutions {
        time_answers(
            recorder,
            vlm,
            resolution,
            &args.prompt,
            args.max_tokens.get(),
            args.runs.get(),
            "ttft",
        )?;
    }
    Ok(())
}

/// Answer `runs` times from nothing and tell the parts of the time to the first token, and the time to all.
pub fn time_answers(
    recorder: &mut Recorder,
    vlm: &Vlm,
    resolution: usize,
    prompt: &str,
    max_tokens: usize,
    runs: usize,
    bench: &str,
) -> anyhow::Result<Vec<Answer>> {
    let answers =
        recorder.repeat(runs, |cancel| vlm.answer(Some(resolution), Some(prompt), max_tokens, cancel))?;
    let Some(first) = answers.first() else { return Ok(answers) };
    let (prompt_tokens, image_tokens) = (first.usage.prompt_tokens, first.usage.image_tokens);
    let reading = recorder.reading();
    let to_all = format!("to_{max_tokens}_tokens");
    type Part = fn(&Answer) -> f64;
    let parts: [(&str, Part, usize); 5] = [
        ("ttft", |a| a.timings.ttft_ms, prompt_tokens),
        ("preprocess", |a| a.timings.preprocess_ms, image_tokens),
        ("encode", |a| a.timings.encode_ms, image_tokens),
        ("prefill", |a| a.timings.prefill_ms, prompt_tokens),
        (&to_all, |a| a.token_ms.last().copied().unwrap_or(a.timings.total_ms), prompt_tokens + max_tokens),
    ];
    let parts = if max_tokens == 1 { &parts[..4] } else { &parts };
    for (measure, part, tokens) in parts {
        let values: Vec<f64> = answers.iter().map(part).collect();
        let mut extra = vec![("resolution", json!(resolution)), ("tokens", json!(tokens))];
        if *measure == "ttft" {
            extra.push(("image_tokens", json!(image_tokens)));
        }
        recorder.times([bench, measure], &vlm.subject, &values, &reading, &extra)?;
    }
    Ok(answers)
}

/// `bench encode`.
pub fn encode(recorder: &mut Recorder, vlm: &Vlm, resolutions: &[usize], runs: usize) -> anyhow::Result<()> {
    for &resolution in resolutions {
        let image = vlm.picture(Some(resolution))?;
        let times = recorder.repeat(runs, |cancel| Ok(vlm.model.time_encoder(&image, cancel)?))?;
        let reading = recorder.reading();
        let tokens = vlm.model.image_tokens(resolution);
        let extra = [("resolution", json!(resolution)), ("tokens", json!(tokens))];
        recorder.times(["encode", "encode"], &vlm.subject, &times, &reading, &extra)?;
    }
    Ok(())
}

/// `bench decode`: the times from one token of an answer to the next.
pub fn decode(
    recorder: &mut Recorder,
    vlm: &Vlm,
    resolution: Option<usize>,
    prompt: Option<&str>,
    max_tokens: usize,
    runs: usize,
) -> anyhow::Result<()> {
    let image = vlm.picture(resolution)?;
    // Neither encoder nor prefill is measured, so what is kept of them may be used.
    let answers = recorder.repeat(runs, |cancel| vlm.answer_on(image.clone(), prompt, max_tokens, cancel))?;
    let Some(first) = answers.first() else { return Ok(()) };
    let steps =
        |answer: &Answer| answer.token_ms.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
    let times: Vec<f64> = answers.iter().flat_map(steps).collect();
    let per_s = 1e3 * times.len() as f64 / times.iter().sum::<f64>();
    let extra = [
        ("resolution", json!(vlm.resolution(resolution))),
        ("tokens", json!(max_tokens)),
        ("context", json!(first.usage.prompt_tokens)),
        ("tokens_per_s", json!(per_s)),
    ];
    let reading = recorder.reading();
    recorder.times(["decode", "token"], &vlm.subject, &times, &reading, &extra)
}

/// One answer of many.
struct Moment {
    /// When it ended, from the beginning.
    at: Duration,
    ttft_ms: f64,
}

/// `bench sustained`: whether the machine keeps its speed.
pub fn sustained(
    recorder: &mut Recorder,
    vlm: &Vlm,
    resolution: Option<usize>,
    max_tokens: usize,
    minutes: f64,
) -> anyhow::Result<()> {
    let whole = Duration::from_secs_f64(minutes * 60.0);
    // Where there are no two minutes, two halves are compared.
    let window = Duration::from_secs(60).min(whole / 2);
    let mut moments: Vec<Moment> = Vec::new();
    let mut first_state = None;
    // Only to warm up.
    recorder.repeat(0, |cancel| vlm.answer(resolution, None, max_tokens, cancel))?;
    recorder.reading();
    let begin = Instant::now();
    while begin.elapsed() < whole && !recorder.stopped() {
        let answer = vlm.answer(resolution, None, max_tokens, &recorder.cancel)?;
        if recorder.stopped() {
            break;
        }
        let at = begin.elapsed();
        moments.push(Moment { at, ttft_ms: answer.timings.ttft_ms });
        if at >= window && first_state.is_none() {
            first_state = Some(state());
        }
    }
    let Some(end) = moments.last().map(|moment| moment.at) else { return Ok(()) };
    let reading = recorder.reading();
    let within = |from: Duration, to: Duration| -> Vec<f64> {
        moments.iter().filter(|m| m.at > from && m.at <= to).map(|m| m.ttft_ms).collect()
    };
    // Of a run that was stopped early the windows may overlap; the last one is told then and the first is not.
    let first = if end >= 2 * window { within(Duration::ZERO, window) } else { vec![] };
    let last = within(end.saturating_sub(window), end);
    let all: Vec<f64> = moments.iter().map(|moment| moment.ttft_ms).collect();
    let series: Vec<_> = moments.iter().map(|m| json!([m.at.as_secs_f64(), m.ttft_ms])).collect();
    let series = [("series_s_ms", json!(series))];
    let windows = [
        ("first_minute", first, window, first_state, &[][..]),
        ("last_minute", last, window, Some(state()), &[][..]),
        ("whole", all, end, None, &series[..]),
    ];
    for (measure, values, seconds, state, more) in windows {
        let mut extra = vec![
            ("resolution", json!(vlm.resolution(resolution))),
            ("tokens", json!(max_tokens)),
            ("window_s", json!(seconds.as_secs_f64())),
            ("clock_mhz", json!(state.and_then(|s| s.0))),
            ("temperature_c", json!(state.and_then(|s| s.1))),
        ];
        extra.extend_from_slice(more);
        recorder.times(["sustained", measure], &vlm.subject, &values, &reading, &extra)?;
    }
    Ok(())
}

/// Clock and temperature now.
fn state() -> (Option<f64>, Option<f64>) {
    (machine::clock_mhz(), machine::temperature_c())
}
