//! Small plots as inline SVG. Colours are classes `s0` to `s5`, which the page defines.

use std::fmt::Write;

use crate::html::escape;

/// Size of a plot in its own units; the page scales it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
/// Room for the axes.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// Height of a bar with its gap.
const BAR: f64 = 26.0;
/// Room for the names of bars.
const NAMES: f64 = 150.0;
/// Colours that the page has.
const COLOURS: usize = 6;

/// An axis.
pub struct Axis<'a> {
    /// What is on it, with the unit.
    pub title: &'a str,
    /// Powers of ten are equally far apart.
    pub log: bool,
}

/// Values of one kind.
pub struct Series {
    /// What they are.
    pub name: String,
    /// `(x, y)`.
    pub points: Vec<(f64, f64)>,
    /// What a point says of itself; nothing where there are fewer than points.
    pub notes: Vec<String>,
    /// Joined by a line, or single dots.
    pub line: bool,
}

/// A chart of points and lines; empty where there is nothing to show.
pub fn chart(x: &Axis, y: &Axis, series: &[Series]) -> String {
    let usable = |axis: &Axis, v: f64| v.is_finite() && (!axis.log || v > 0.0);
    let points = || series.iter().flat_map(|s| &s.points).filter(|p| usable(x, p.0) && usable(y, p.1));
    let Some(x_scale) = Scale::of(x, points().map(|p| p.0), LEFT, WIDTH - RIGHT) else {
        return String::new();
    };
    let Some(y_scale) = Scale::of(y, points().map(|p| p.1), HEIGHT - BOTTOM, TOP) else {
        return String::new();
    };
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for (value, at) in x_scale.ticks() {
        let (end, text) = (HEIGHT - BOTTOM, number(value));
        let _ = write!(svg, "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{end}\"/>");
        let _ = write!(svg, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>", end + 16.0);
    }
    for (value, at) in y_scale.ticks() {
        let (end, text) = (WIDTH - RIGHT, number(value));
        let _ =
            write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{end}\" y2=\"{at:.1}\"/>");
        let _ =
            write!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 6.0, at + 4.0);
    }
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0,
        escape(x.title)
    );
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = write!(
        svg,
        "<text x=\"14\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {middle})\">{}</text>",
        escape(y.title)
    );
    for (number, series) in series.iter().enumerate() {
        let class = format!("s{}", number % COLOURS);
        let at = |p: &(f64, f64)| (x_scale.at(p.0), y_scale.at(p.1));
        let shown: Vec<usize> = (0..series.points.len())
            .filter(|&i| usable(x, series.points[i].0) && usable(y, series.points[i].1))
            .collect();
        if series.line {
            let path: Vec<String> =
                shown.iter().map(|&i| at(&series.points[i])).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = write!(svg, "<polyline class=\"line {class}\" points=\"{}\"/>", path.join(" "));
        }
        if series.line && series.notes.is_empty() {
            continue;
        }
        for i in shown {
            let (px, py) = at(&series.points[i]);
            let note = series.notes.get(i).map(|note| escape(note)).unwrap_or_default();
            let _ = write!(
                svg,
                "<circle class=\"dot {class}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"4\"><title>{note}</title></circle>"
            );
        }
    }
    svg + "</svg>" + &legend(series.iter().map(|s| &s.name[..]))
}

/// Horizontal bars, each of one or more parts that follow each other; empty where there are none.
pub fn bars(rows: &[(String, Vec<f64>)], parts: &[&str], unit: &str) -> String {
    let total = |values: &[f64]| values.iter().filter(|v| v.is_finite()).sum::<f64>();
    let most = rows.iter().map(|(_, values)| total(values)).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let height = rows.len() as f64 * BAR + 6.0;
    let scale = (WIDTH - NAMES - 110.0) / most;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    for (row, (name, values)) in rows.iter().enumerate() {
        let (top, mut left) = (row as f64 * BAR + 3.0, NAMES);
        let base = top + 15.0;
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>",
            NAMES - 8.0,
            escape(name)
        );
        for (part, value) in values.iter().enumerate().filter(|(_, v)| v.is_finite() && **v > 0.0) {
            let width = value * scale;
            let title = parts.get(part).map(|p| format!("{p}: ")).unwrap_or_default()
                + &format!("{} {unit}", number(*value));
            let _ = write!(
                svg,
                "<rect class=\"bar s{}\" x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{}\"><title>{}</title></rect>",
                part % COLOURS,
                BAR - 6.0,
                escape(&title)
            );
            left += width;
        }
        let _ =
            write!(svg, "<text x=\"{:.1}\" y=\"{base}\">{} {unit}</text>", left + 6.0, number(total(values)));
    }
    svg + "</svg>" + &legend(parts.iter().copied())
}

/// What the colours stand for, where there are several.
fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.len() < 2 {
        return String::new();
    }
    let entry = |(i, name): (usize, &&str)| {
        format!("<span><i class=\"s{}\"></i>{}</span>", i % COLOURS, escape(name))
    };
    format!("<p class=\"legend\">{}</p>", names.iter().enumerate().map(entry).collect::<String>())
}

/// Three digits are enough for a plot.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")];
    if let Some((_, unit)) = units.iter().find(|(from, _)| size >= *from) {
        let by =
            if *unit == "k" { 1e3 } else { units.iter().find(|(_, u)| u == unit).map_or(1.0, |(by, _)| *by) };
        return format!("{}{unit}", three_digits(value / by));
    }
    three_digits(value)
}

fn three_digits(value: f64) -> String {
    let size = value.abs();
    let decimals =
        if size >= 100.0 || size == 0.0 { 0 } else { 2 - size.log10().floor().clamp(-4.0, 2.0) as i32 };
    let text = format!("{value:.*}", decimals as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// From values to places.
struct Scale {
    log: bool,
    /// Lowest and highest value, as logarithms where the axis is one.
    from: f64,
    to: f64,
    begin: f64,
    end: f64,
}

impl Scale {
    fn of(axis: &Axis, values: impl Iterator<Item = f64>, begin: f64, end: f64) -> Option<Self> {
        let log = axis.log;
        let values: Vec<f64> = values.map(|v| if log { v.log10() } else { v }).collect();
        let low = values.iter().copied().reduce(f64::min)?;
        let high = values.iter().copied().reduce(f64::max)?;
        let (from, to) = if log {
            (low.floor(), high.ceil().max(low.floor() + 1.0))
        } else {
            // Lengths are compared from zero.
            (low.min(0.0), if high > 0.0 { high * 1.05 } else { 1.0 })
        };
        Some(Self { log, from, to, begin, end })
    }

    fn at(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        self.begin + (value - self.from) / (self.to - self.from) * (self.end - self.begin)
    }

    /// Round values and their places.
    fn ticks(&self) -> Vec<(f64, f64)> {
        let values: Vec<f64> = if self.log {
            let step = ((self.to - self.from) / 8.0).ceil().max(1.0) as i32;
            (self.from as i32..=self.to as i32)
                .step_by(step as usize)
                .map(|power| 10f64.powi(power))
                .collect()
        } else {
            let step = round_step((self.to - self.from) / 5.0);
            let (first, last) = ((self.from / step).ceil() as i64, (self.to / step).floor() as i64);
            (first..=last).map(|i| i as f64 * step).collect()
        };
        values.into_iter().map(|value| (value, self.at(value))).collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|&s| s >= step).unwrap_or(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let pairs = [
            (0.0, "0"),
            (0.0123, "0.0123"),
            (3.25, "3.25"),
            (17.26, "17.3"),
            (512.4, "512"),
            (1024.0, "1024"),
        ];
        for (value, text) in pairs.into_iter().chain([(58_200.0, "58.2k"), (6.2e12, "6.2T"), (1e9, "1G")]) {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis { title: "", log: false };
        let scale = Scale::of(&axis, [3.0, 97.0].into_iter(), 0.0, 100.0).expect("values");
        let values: Vec<f64> = scale.ticks().iter().map(|tick| tick.0).collect();
        assert_eq!(values, [0.0, 50.0, 100.0]);
        assert!(scale.ticks().iter().all(|tick| (0.0..=100.0).contains(&tick.1)));
        let axis = Axis { title: "", log: true };
        let scale = Scale::of(&axis, [0.5, 300.0].into_iter(), 0.0, 100.0).expect("values");
        assert_eq!(scale.ticks().iter().map(|t| t.0).collect::<Vec<_>>(), [0.1, 1.0, 10.0, 100.0, 1000.0]);
        assert_eq!((scale.at(0.1), scale.at(1000.0)), (0.0, 100.0));
        let one = Scale::of(&axis, [10.0].into_iter(), 0.0, 100.0).expect("value");
        assert!(one.at(10.0).is_finite());
    }

    #[test]
    fn names_are_no_markup() {
        let rows = [("<script>".to_owned(), vec![1.0, f64::NAN])];
        let svg = bars(&rows, &["a \"b\"", "c"], "ms");
        assert!(
            !svg.contains("<script>") && svg.contains("&lt;script&gt;") && svg.contains("a &quot;b&quot;")
        );
        assert!(!svg.contains("NaN"));
        assert_eq!(
            (
                bars(&[], &[], "ms"),
                chart(&Axis { title: "", log: false }, &Axis { title: "", log: true }, &[])
            ),
            (String::new(), String::new())
        );
    }
}
