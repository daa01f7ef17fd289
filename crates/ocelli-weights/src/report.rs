//! What happened to every tensor of a checkpoint.

use std::fmt;

use crate::family::Family;

/// Lines of each kind that a message shows.
const SHOWN: usize = 10;
/// Problems of one kind that are collected; hostile files can cause millions.
const COLLECTED: usize = 1000;

/// The outcome of binding a checkpoint's tensors to the name tables. A checkpoint loads only if nothing is
/// missing, unused or misshapen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// Who wrote the checkpoint.
    pub family: Family,
    /// Names of the files.
    pub files: Vec<String>,
    /// Tensors of the files that are used.
    pub applied: usize,
    /// Tensors that are known and never needed, such as BatchNorm counters.
    pub ignored: Vec<String>,
    /// Whether the tower was saved in folded form (`true`) or in training form.
    pub folded: bool,
    /// Tensors that should be there, as the files would name them.
    pub missing: Vec<String>,
    /// Tensors that no row of the tables asks for.
    pub unused: Vec<String>,
    /// Tensors of another shape than the rest of the checkpoint asks for.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor whose shape does not fit the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// As the file names it.
    pub name: String,
    /// The shape asked for, in the file's order of dimensions.
    pub expected: Vec<usize>,
    /// The shape in the file.
    pub found: Vec<usize>,
}

impl LoadReport {
    pub(crate) fn new(family: Family) -> Self {
        Self {
            family,
            files: Vec::new(),
            applied: 0,
            ignored: Vec::new(),
            folded: true,
            missing: Vec::new(),
            unused: Vec::new(),
            misshapen: Vec::new(),
        }
    }

    /// Whether every tensor found its place.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.misshapen.is_empty()
    }

    pub(crate) fn add_missing(&mut self, name: String) {
        if self.missing.len() < COLLECTED {
            self.missing.push(name);
        }
    }

    pub(crate) fn add_misshapen(&mut self, name: &str, expected: Vec<usize>, found: &[usize]) {
        if self.misshapen.len() < COLLECTED {
            self.misshapen.push(Misshapen { name: name.to_owned(), expected, found: found.to_vec() });
        }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} tensors used, {} ignored, {} missing, {} unused, {} misshapen",
            self.family,
            self.applied,
            self.ignored.len(),
            self.missing.len(),
            self.unused.len(),
            self.misshapen.len()
        )?;
        for name in self.missing.iter().take(SHOWN) {
            write!(f, "\n  missing `{name}`")?;
            write_nearest(f, name, &self.unused)?;
        }
        write_more(f, self.missing.len())?;
        for name in self.unused.iter().take(SHOWN) {
            write!(f, "\n  unused `{}`", clip(name))?;
            write_nearest(f, name, &self.missing)?;
        }
        write_more(f, self.unused.len())?;
        for m in self.misshapen.iter().take(SHOWN) {
            write!(f, "\n  `{}` has shape {:?}, expected {:?}", m.name, m.found, m.expected)?;
        }
        write_more(f, self.misshapen.len())
    }
}

fn write_more(f: &mut fmt::Formatter<'_>, count: usize) -> fmt::Result {
    match count.checked_sub(SHOWN) {
        Some(more @ 1..) => write!(f, "\n  and {more} more"),
        _ => Ok(()),
    }
}

fn write_nearest(f: &mut fmt::Formatter<'_>, name: &str, candidates: &[String]) -> fmt::Result {
    match nearest(name, candidates) {
        Some(other) => write!(f, " (did you mean `{other}`?)"),
        None => Ok(()),
    }
}

/// The candidate that differs least, if it differs in at most a third of the letters.
fn nearest<'a>(name: &str, candidates: &'a [String]) -> Option<&'a str> {
    let limit = name.len() / 3;
    let sizes_fit = |c: &&String| c.len() <= 300 && c.len().abs_diff(name.len()) <= limit;
    let near = candidates.iter().filter(sizes_fit).map(|c| (edit_distance(name, c), c));
    near.min().filter(|(distance, _)| *distance <= limit).map(|(_, c)| c.as_str())
}

/// Levenshtein distance in bytes, one row of the table at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Names out of a file may be very long.
pub(crate) fn clip(name: &str) -> String {
    if name.chars().count() <= 120 {
        name.to_owned()
    } else {
        name.chars().take(120).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        for (a, b, distance) in
            [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn messages_are_capped_and_suggest() {
        let mut report = LoadReport::new(Family::AppleLlava);
        for i in 0..25 {
            report.add_missing(format!("model.layers.{i}.weight"));
        }
        report.unused.push("model.layers.7.weihgt".to_owned());
        let text = report.to_string();
        assert!(
            text.contains("missing `model.layers.7.weight` (did you mean `model.layers.7.weihgt`?)"),
            "{text}"
        );
        assert!(text.contains("and 15 more"), "{text}");
        assert!(!text.contains("layers.12.weight`\n"), "{text}");
    }
}
