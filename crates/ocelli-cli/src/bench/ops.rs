//! `ops`: where the time of a network goes, beside what the machine can do (a roofline: Williams, Waterman,
//! Patterson, Communications of the ACM 52(4), 2009).

use std::collections::BTreeMap;

use ocelli::{MachineLimits, OpProfile};
use serde_json::json;

use super::args::OpsArgs;
use super::record::{Recorder, Subject};
use super::stats::Summary;
use super::subject::{Model, Vlm};

/// What the text tower reads; every text is padded to the same length.
const TEXT: &str = "a photo of a dog";

/// `bench ops`.
pub fn ops(args: &OpsArgs) -> anyhow::Result<Recorder> {
    let mut recorder = Recorder::new(&args.measure)?;
    let model = Model::load(&args.model, &args.measure)?;
    let tokens = args.tokens.map(|n| n.get());
    profile(&mut recorder, &model, args.resolution, tokens, args.runs.get())?;
    Ok(recorder)
}

/// Profile every network of a model, then measure the limits.
pub fn profile(
    recorder: &mut Recorder,
    model: &Model,
    resolution: Option<usize>,
    tokens: Option<usize>,
    runs: usize,
) -> anyhow::Result<()> {
    recorder.reading();
    let limits = match model {
        Model::Vlm(vlm) => vlm.model.machine_limits()?,
        Model::Clip(clip) => clip.model.machine_limits()?,
    };
    match model {
        Model::Vlm(vlm) => {
            tell_limits(recorder, &vlm.subject, &limits)?;
            profile_vlm(recorder, vlm, &limits, resolution, tokens, runs)
        }
        Model::Clip(clip) => {
            tell_limits(recorder, &clip.subject, &limits)?;
            let image = clip.picture()?;
            let at = Work { resolution: Some(clip.model.config().image.size), tokens: None };
            let cancel = recorder.cancel.clone();
            let ops = clip.model.profile_image(&image, runs, &cancel).map_err(anyhow::Error::from);
            tell(recorder, &clip.subject, &limits, ops, at)?;
            if let Some(text) = &clip.model.config().text {
                let at = Work { resolution: None, tokens: Some(text.context_length) };
                let ops = clip.model.profile_text(TEXT, runs, &cancel).map_err(anyhow::Error::from);
                tell(recorder, &clip.subject, &limits, ops, at)?;
            }
            Ok(())
        }
    }
}

fn profile_vlm(
    recorder: &mut Recorder,
    vlm: &Vlm,
    limits: &MachineLimits,
    resolution: Option<usize>,
    tokens: Option<usize>,
    runs: usize,
) -> anyhow::Result<()> {
    let cancel = recorder.cancel.clone();
    let image = vlm.picture(resolution)?;
    // One answer tells how long the prompt is, and warms up.
    let answer = vlm.answer_on(image.clone(), None, 1, &cancel)?;
    let tokens = tokens.unwrap_or(answer.usage.prompt_tokens);
    let resolution = vlm.resolution(resolution);
    let at = Work { resolution: Some(resolution), tokens: Some(vlm.model.image_tokens(resolution)) };
    let ops = vlm.model.profile_encoder(&image, runs, &cancel).map_err(anyhow::Error::from);
    tell(recorder, &vlm.subject, limits, ops, at)?;
    let at = Work { resolution: None, tokens: Some(tokens) };
    let ops = vlm.model.profile_prefill(tokens, runs, &cancel).map_err(anyhow::Error::from);
    tell(recorder, &vlm.subject, limits, ops, at)?;
    let at = Work { resolution: None, tokens: Some(1) };
    let ops = vlm.model.profile_decode(tokens, runs, &cancel).map_err(anyhow::Error::from);
    tell(recorder, &vlm.subject, limits, ops, at)
}

/// What one run of a network took in.
#[derive(Clone, Copy)]
struct Work {
    resolution: Option<usize>,
    tokens: Option<usize>,
}

fn tell_limits(recorder: &mut Recorder, subject: &Subject, limits: &MachineLimits) -> anyhow::Result<()> {
    let reading = recorder.reading();
    let extra = [
        ("read_bytes_per_s", json!(limits.read_bytes_per_s)),
        ("f32_flops_per_s", json!(limits.f32_flops)),
        ("bf16_flops_per_s", json!(limits.bf16_flops)),
        ("int8_ops_per_s", json!(limits.int8_ops)),
    ];
    recorder.values(["ops", "limits"], subject, &reading, &extra)
}

/// All ops of one kind in one network.
#[derive(Default)]
struct Kind {
    count: usize,
    ms: Vec<f64>,
    flops: u64,
    bytes: u64,
    /// The sum of what each of the ops takes at least.
    limit_ms: f64,
    /// The part of `limit_ms` in which arithmetic holds it up, not memory.
    compute_ms: f64,
}

impl Kind {
    fn add(&mut self, op: &OpProfile, limits: &MachineLimits, bf16: bool) {
        self.count += 1;
        self.ms.resize(op.ms.len(), 0.0);
        self.ms.iter_mut().zip(&op.ms).for_each(|(sum, ms)| *sum += ms);
        self.flops += op.flops;
        self.bytes += op.bytes;
        let rate = match limits.bf16_flops {
            Some(rate) if bf16 && op.matrix_product => rate,
            _ => limits.f32_flops,
        };
        let (compute_ms, memory_ms) =
            (op.flops as f64 / rate * 1e3, op.bytes as f64 / limits.read_bytes_per_s * 1e3);
        self.limit_ms += compute_ms.max(memory_ms);
        if compute_ms >= memory_ms {
            self.compute_ms += compute_ms;
        }
    }
}

fn tell(
    recorder: &mut Recorder,
    subject: &Subject,
    limits: &MachineLimits,
    ops: anyhow::Result<Vec<OpProfile>>,
    work: Work,
) -> anyhow::Result<()> {
    if recorder.stopped() {
        return Ok(());
    }
    let ops = ops?;
    let reading = recorder.reading();
    let bf16 = subject.dtype == "bf16";
    let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
    for op in &ops {
        kinds.entry(op.op).or_default().add(op, limits, bf16);
        kinds.entry("total").or_default().add(op, limits, bf16);
    }
    let median = |kind: &Kind| Summary::of(&kind.ms).map_or(0.0, |summary| summary.median);
    let mut kinds: Vec<(&str, Kind)> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| median(&b.1).total_cmp(&median(&a.1)));
    let Some(part) = ops.first().map(|op| op.part) else { return Ok(()) };
    for (op, kind) in kinds {
        let median_ms = median(&kind);
        let extra = [
            ("op", json!(op)),
            ("count", json!(kind.count)),
            ("resolution", json!(work.resolution)),
            ("tokens", json!(work.tokens)),
            ("flops", json!(kind.flops)),
            ("bytes", json!(kind.bytes)),
            ("flops_per_s", json!(kind.flops as f64 / median_ms * 1e3)),
            ("bytes_per_s", json!(kind.bytes as f64 / median_ms * 1e3)),
            ("limit_ms", json!(kind.limit_ms)),
            ("of_limit", json!(kind.limit_ms / median_ms)),
            ("bound", json!(if kind.compute_ms * 2.0 >= kind.limit_ms { "compute" } else { "memory" })),
        ];
        recorder.times(["ops", part], subject, &kind.ms, &reading, &extra)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_op_is_held_up_by_whichever_takes_longer() {
        let limits =
            MachineLimits { read_bytes_per_s: 1e9, f32_flops: 1e9, bf16_flops: Some(1e10), int8_ops: None };
        let op = |matrix_product, flops, bytes| OpProfile {
            part: "encoder",
            op: "linear",
            matrix_product,
            ms: vec![20.0, 40.0],
            flops,
            bytes,
        };
        let mut kind = Kind::default();
        // 1 ms of arithmetic on the matrix unit, 2 ms of memory.
        kind.add(&op(true, 10_000_000, 2_000_000), &limits, true);
        assert!((kind.limit_ms - 2.0).abs() < 1e-9 && kind.compute_ms == 0.0);
        // The same in f32: 10 ms of arithmetic.
        kind.add(&op(true, 10_000_000, 2_000_000), &limits, false);
        assert!((kind.limit_ms - 12.0).abs() < 1e-9 && (kind.compute_ms - 10.0).abs() < 1e-9);
        assert_eq!((kind.count, kind.ms, kind.flops), (2, vec![40.0, 80.0], 20_000_000));
    }
}
