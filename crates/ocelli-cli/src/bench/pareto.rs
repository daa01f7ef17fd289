//! `pareto`: what more visual tokens or a larger model cost on this machine.

use serde_json::json;

use super::args::ParetoArgs;
use super::fastvlm::time_answers;
use super::record::{Recorder, Subject};
use super::stats::Summary;
use super::subject::Vlm;

/// One model at one resolution.
#[derive(Clone)]
pub struct Point {
    subject: Subject,
    resolution: usize,
    image_tokens: usize,
    /// Median time to the first token.
    ttft_ms: f64,
}

/// `bench pareto`.
pub fn pareto(args: &ParetoArgs) -> anyhow::Result<Recorder> {
    let mut recorder = Recorder::new(&args.measure)?;
    let mut points = Vec::new();
    for model in args.each() {
        if recorder.stopped() {
            break;
        }
        // The model before is gone by now: its memory is not this one's.
        ocelli::reset_peak_rss();
        let vlm = Vlm::load(&model, &args.measure)?;
        points.extend(measure(&mut recorder, &vlm, &args.resolution, args.runs.get())?);
    }
    if let Some(budget_ms) = args.ttft_budget {
        pick(&mut recorder, &points, budget_ms)?;
    }
    Ok(recorder)
}

/// Time to the first token at each resolution.
pub fn measure(
    recorder: &mut Recorder,
    vlm: &Vlm,
    resolutions: &[usize],
    runs: usize,
) -> anyhow::Result<Vec<Point>> {
    let mut points = Vec::new();
    for &resolution in resolutions {
        let answers = time_answers(recorder, vlm, resolution, "Describe the image.", 1, runs, "pareto")?;
        let times: Vec<f64> = answers.iter().map(|answer| answer.timings.ttft_ms).collect();
        let (Some(summary), Some(first)) = (Summary::of(&times), answers.first()) else { break };
        points.push(Point {
            subject: vlm.subject.clone(),
            resolution,
            image_tokens: first.usage.image_tokens,
            ttft_ms: summary.median,
        });
    }
    Ok(points)
}

/// Tell for each model the resolution with the most visual tokens whose median is within the budget.
pub fn pick(recorder: &mut Recorder, points: &[Point], budget_ms: f64) -> anyhow::Result<()> {
    let reading = recorder.reading();
    for best in best_within(points, budget_ms) {
        let extra = [
            ("ttft_budget_ms", json!(budget_ms)),
            ("resolution", json!(best.resolution)),
            ("image_tokens", json!(best.image_tokens)),
            ("ttft_ms", json!(best.ttft_ms)),
        ];
        recorder.values(["pareto", "pick"], &best.subject, &reading, &extra)?;
    }
    if best_within(points, budget_ms).is_empty() && !points.is_empty() {
        eprintln!("ocelli: no resolution is within {budget_ms} ms to the first token on this machine");
    }
    Ok(())
}

/// Of each model that has one, in order.
fn best_within(points: &[Point], budget_ms: f64) -> Vec<&Point> {
    let mut best: Vec<&Point> = Vec::new();
    for point in points.iter().filter(|point| point.ttft_ms <= budget_ms) {
        match best.iter_mut().find(|b| b.subject.model == point.subject.model) {
            Some(known) if point.image_tokens > known.image_tokens => *known = point,
            Some(_) => {}
            None => best.push(point),
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_tokens_within_the_budget_win() {
        let point = |model: &str, resolution: usize, ttft_ms| Point {
            subject: Subject {
                model: model.into(),
                dtype: "bf16",
                quant: None,
                threads: 2,
                device: "cpu",
                kernels: "scalar".to_owned(),
            },
            resolution,
            image_tokens: (resolution / 64).pow(2),
            ttft_ms,
        };
        let points = [
            point("small", 1024, 500.0),
            point("small", 256, 90.0),
            point("small", 512, 200.0),
            point("large", 256, 390.0),
            point("large", 512, 900.0),
        ];
        let picked = |budget| best_within(&points, budget).iter().map(|p| p.resolution).collect::<Vec<_>>();
        assert_eq!(picked(400.0), [512, 256]);
        assert_eq!(picked(200.0), [512]);
        assert_eq!(picked(1000.0), [1024, 512]);
        assert!(picked(10.0).is_empty());
    }
}
