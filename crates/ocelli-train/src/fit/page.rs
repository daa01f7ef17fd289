//! The curves of a run as one page that needs nothing else.

use std::fmt::Write;

use super::Record;

/// Size of a plot in its own units; the page scales it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 30.0;
const EDGE: f64 = 12.0;
/// Points of a curve; more steps are averaged.
const POINTS: usize = 300;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;\
    background:#fff;color:#222}svg{width:100%}text{font-size:12px;fill:#555}.grid{stroke:#ddd}\
    .a{fill:none;stroke:#0b62a4;stroke-width:1.5}.b{fill:none;stroke:#c8502a;stroke-width:1.5}\
    @media(prefers-color-scheme:dark){body{background:#181a1b;color:#ddd}text{fill:#aaa}.grid{stroke:#444}}";

/// The page of a run of this name.
pub fn page(name: &str, records: &[Record]) -> String {
    let name: String = name.chars().filter(|c| !"<>&\"".contains(*c)).collect();
    let curve = |f: &dyn Fn(&Record) -> Option<f64>| -> Vec<(f64, f64)> {
        averaged(records.iter().filter_map(|record| Some((record.step as f64, f(record)?))).collect())
    };
    let losses = [curve(&|r| Some(f64::from(r.loss))), curve(&|r| r.held_back_loss.map(f64::from))];
    let recall = [Vec::new(), curve(&|r| r.held_back_recall.map(f64::from))];
    let rate = [curve(&|r| Some(r.rate)), Vec::new()];
    let norm = [curve(&|r| Some(r.gradient_norm)), Vec::new()];
    let speed = [curve(&|r| Some(r.samples_per_s)), Vec::new()];
    let last = records.last();
    let summary = last.map_or_else(String::new, |r| {
        let held_back = records.iter().rev().find_map(|r| r.held_back_loss);
        let held_back = held_back.map_or_else(String::new, |loss| format!(", held back {loss:.4}"));
        let samples: usize = records.iter().map(|r| r.samples).sum();
        let bad = r.bad_samples;
        format!(
            "Step {} of {}: loss {:.4}{held_back}; {samples} samples, {bad} bad ones.",
            r.step, r.steps, r.loss
        )
    });
    let plots = [
        ("Loss; samples that nothing is learned from in red", losses),
        ("Share of their pictures to which the own text is nearest", recall),
        ("Learning rate, share of the peak", rate),
        ("Norm of the gradients before clipping", norm),
        ("Samples per second", speed),
    ];
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{name}</title><style>{STYLE}</style><h1>{name}</h1><p>{summary}</p>\n"
    );
    for (title, curves) in plots.iter().filter(|(_, curves)| curves.iter().any(|c| !c.is_empty())) {
        let _ = writeln!(html, "<h2>{title}</h2>{}", plot(curves));
    }
    html
}

/// At most [`POINTS`] points, each the mean of its neighbours.
fn averaged(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let n = points.len() as f64;
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(group).map(mean).filter(|p| p.1.is_finite()).collect()
}

fn plot(curves: &[Vec<(f64, f64)>; 2]) -> String {
    let all = || curves.iter().flatten();
    let largest = |f: fn(&(f64, f64)) -> f64| all().map(f).fold(0.0, f64::max);
    let (steps, top) = (largest(|p| p.0).max(1.0), largest(|p| p.1));
    let top = if top > 0.0 { top } else { 1.0 };
    let x = |step: f64| LEFT + step / steps * (WIDTH - LEFT - EDGE);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - EDGE);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let (at, value) = (y(share * top), share * top);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - EDGE
        );
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            short(value)
        );
        let (at, step) = (x(share * steps), share * steps);
        let _ =
            write!(svg, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{step:.0}</text>", HEIGHT - 8.0);
    }
    for (curve, class) in curves.iter().zip(["a", "b"]).filter(|(curve, _)| !curve.is_empty()) {
        let points: Vec<String> = curve.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = write!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
    }
    svg + "</svg>"
}

/// A number with about three digits.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.1}"),
        v if v > 0.0 => format!("{v:.3}"),
        _ => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> Record {
        Record {
            step,
            steps: 1000,
            loss: 4.0 / step as f32,
            held_back_loss: step.is_multiple_of(100).then_some(0.5),
            held_back_recall: None,
            rate: 1.0,
            gradient_norm: 2.0,
            samples: 8,
            bad_samples: 1,
            samples_per_s: 50.0,
            seconds: step as f64,
        }
    }

    #[test]
    fn curves_lie_in_their_plots() {
        let records: Vec<Record> = (1..=1000).map(record).collect();
        let page = page("a <run>", &records);
        assert!(
            page.contains("<title>a run</title>") && page.contains("held back 0.5000; 8000 samples, 1 bad")
        );
        assert_eq!(page.matches("<polyline").count(), 5);
        let points = page.split("points=\"").skip(1).flat_map(|rest| {
            let list = rest.split('"').next().unwrap_or_default();
            list.split([' ', ',']).map(|n| n.parse::<f64>().expect("a number")).collect::<Vec<_>>()
        });
        assert!(points.into_iter().all(|n| (0.0..=WIDTH).contains(&n)));
    }

    #[test]
    fn no_steps_yet() {
        assert!(!page("new", &[]).contains("NaN"));
    }
}
