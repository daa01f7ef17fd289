//! `eval`: how often a model is right about pictures whose content is known.
//!
//! Zero-shot accuracy as in CLIP (Radford et al. 2021, <https://arxiv.org/abs/2103.00020>, section 3.1): the
//! labels are embedded, each picture gets the nearest one.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::args::ZeroshotArgs;
use crate::clip::{chosen_templates, decode_options, each_image, load, report, walk};
use crate::confusion;
use crate::labels::embed;
use crate::message::printable;
use crate::progress::CountProgress;

/// Ranks that count as right beside the first.
const TOP: usize = 5;

/// A folder of pictures.
struct Class {
    folder: String,
    label: String,
    pictures: Vec<PathBuf>,
}

/// What became of the pictures of one class.
#[derive(Default)]
struct Tally {
    /// Pictures that could be read.
    images: usize,
    /// The right label came first.
    top1: usize,
    /// The right label was among the first [`TOP`].
    top5: usize,
    /// How often each class came first.
    predicted: BTreeMap<usize, usize>,
}

impl Tally {
    fn add(&mut self, class: usize, ranked: &[usize]) {
        self.images += 1;
        self.top1 += usize::from(ranked.first() == Some(&class));
        self.top5 += usize::from(ranked.iter().take(TOP).any(|&label| label == class));
        if let Some(&first) = ranked.first() {
            *self.predicted.entry(first).or_default() += 1;
        }
    }

    /// The wrong class that came first most often, the earlier one of several, and how often.
    fn most_confused(&self, class: usize) -> Option<(usize, usize)> {
        let wrong = self.predicted.iter().filter(|(label, _)| **label != class);
        wrong.map(|(&label, &n)| (label, n)).max_by_key(|&(label, n)| (n, std::cmp::Reverse(label)))
    }
}

/// `ocelli eval zeroshot`.
pub fn zeroshot(args: &ZeroshotArgs) -> anyhow::Result<bool> {
    let seven = ["7".to_owned()];
    let templates = chosen_templates(if args.templates.is_empty() { &seven } else { &args.templates })?;
    let labels = args.labels_file.as_deref().map(read_map).transpose()?;
    let classes = classes(&args.dir, labels.as_ref(), args.limit.map(usize::from))?;
    if let Some(path) = &args.confusion {
        confusion::check(path, classes.len())?;
    }
    let model = load(&args.clip)?;
    let labels: Vec<String> = classes.iter().map(|class| class.label.clone()).collect();
    let embedded = embed(&labels, &templates, &model)?;

    let truth: Vec<usize> =
        classes.iter().enumerate().flat_map(|(i, class)| vec![i; class.pictures.len()]).collect();
    let paths: Vec<PathBuf> = classes.iter().flat_map(|class| class.pictures.clone()).collect();
    let mut tallies: Vec<Tally> = classes.iter().map(|_| Tally::default()).collect();
    let mut unreadable = Vec::new();
    let mut progress = CountProgress::new("pictures", paths.len());
    let mut done = 0;
    each_image(&model, &paths, &decode_options(&args.clip), &mut |path, image| {
        match image.and_then(|image| Ok(model.zero_shot(&image, &embedded)?)) {
            Ok(scores) => {
                let ranked: Vec<usize> = scores.iter().map(|score| score.label).collect();
                tallies[truth[done]].add(truth[done], &ranked);
            }
            Err(error) => {
                progress.around(|| report(path, &error));
                unreadable.push(path.display().to_string());
            }
        }
        done += 1;
        progress.at(done);
        Ok(())
    })?;
    let images: usize = tallies.iter().map(|tally| tally.images).sum();
    let images_per_s = progress.per_second(images);
    progress.finish();
    if images == 0 {
        bail!("none of the {} pictures under {} could be read", paths.len(), args.dir.display());
    }
    eprintln!("{images} pictures, {images_per_s:.1} a second, {} could not be read", unreadable.len());

    let result = Outcome { classes: &classes, tallies: &tallies, images };
    if let Some(path) = &args.confusion {
        let rows: Vec<_> = tallies.iter().map(|tally| tally.predicted.clone()).collect();
        confusion::write(path, &rows)?;
        eprintln!("wrote {}: rows are the true classes, columns what they were taken for", path.display());
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut object = result.json();
        object["dir"] = json!(args.dir.display().to_string());
        object["model"] = json!(model.config().name);
        object["dtype"] = json!(model.dtype().name());
        object["kernels"] = json!(model.kernels());
        object["templates"] = json!(templates);
        object["unreadable"] = json!(unreadable);
        object["images_per_s"] = json!(images_per_s);
        object["confusion_file"] = json!(args.confusion.as_ref().map(|path| path.display().to_string()));
        writeln!(out, "{object}")?;
    } else {
        out.write_all(result.text().as_bytes())?;
    }
    Ok(unreadable.is_empty())
}

/// The folders of a folder, in order, with their labels and pictures.
fn classes(
    dir: &Path,
    labels: Option<&BTreeMap<String, String>>,
    limit: Option<usize>,
) -> anyhow::Result<Vec<Class>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    folders.retain(|path| path.is_dir());
    folders.sort();
    let (mut classes, mut unnamed) = (Vec::new(), 0);
    for path in folders {
        let folder = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut pictures = Vec::new();
        walk(&path, &mut pictures)?;
        if folder.starts_with('.') || pictures.is_empty() {
            eprintln!("ocelli: {} is left out: it is hidden or has no pictures", path.display());
            continue;
        }
        pictures.truncate(limit.unwrap_or(usize::MAX));
        let named = labels.and_then(|labels| labels.get(&folder)).cloned();
        unnamed += usize::from(named.is_none());
        let label = named.unwrap_or_else(|| folder.replace('_', " "));
        classes.push(Class { folder, label, pictures });
    }
    match classes.len() {
        0 => bail!("{} has no folders with pictures: one folder a class is needed", dir.display()),
        1 => bail!(
            "{} has pictures in one folder only: with a single class there is nothing to tell apart",
            dir.display()
        ),
        _ => {}
    }
    if labels.is_some() && unnamed > 0 {
        eprintln!(
            "ocelli: {unnamed} of {} folders are not in the list of labels: their names are",
            classes.len()
        );
    }
    let mut seen = BTreeMap::new();
    for class in &classes {
        if let Some(first) = seen.insert(&class.label, &class.folder) {
            eprintln!(
                "ocelli: folders {first} and {} have the same label `{}`: the first one gets all of it",
                class.folder,
                printable(&class.label)
            );
        }
    }
    Ok(classes)
}

/// Lines `FOLDER=LABEL`.
fn read_map(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut map = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = || format!("{}, line {}", path.display(), number + 1);
        let Some((folder, label)) = line.split_once('=') else {
            bail!("{}: `{}` is no FOLDER=LABEL", at(), printable(line));
        };
        let (folder, label) = (folder.trim(), label.trim());
        if folder.is_empty() || label.is_empty() {
            bail!("{}: `{}` is no FOLDER=LABEL", at(), printable(line));
        }
        if map.insert(folder.to_owned(), label.to_owned()).is_some() {
            bail!("{}: folder `{}` is there twice", at(), printable(folder));
        }
    }
    if map.is_empty() {
        bail!("{} is empty: it needs lines FOLDER=LABEL", path.display());
    }
    Ok(map)
}

/// What was found, to be told.
struct Outcome<'a> {
    classes: &'a [Class],
    tallies: &'a [Tally],
    /// At least 1.
    images: usize,
}

impl Outcome<'_> {
    fn share(&self, count: impl Fn(&Tally) -> usize) -> f64 {
        self.tallies.iter().map(count).sum::<usize>() as f64 / self.images as f64
    }

    /// Mean of the shares of the classes, each with the same weight.
    fn mean_per_class(&self) -> f64 {
        let read = self.tallies.iter().filter(|tally| tally.images > 0);
        let (n, sum) =
            read.fold((0, 0.0), |(n, sum), tally| (n + 1, sum + tally.top1 as f64 / tally.images as f64));
        sum / f64::from(n)
    }

    fn json(&self) -> Value {
        let of = |n: usize, tally: &Tally| (tally.images > 0).then(|| n as f64 / tally.images as f64);
        let per_class = self.classes.iter().zip(self.tallies).enumerate().map(|(i, (class, tally))| {
            let confused = tally.most_confused(i).map(|(label, n)| {
                json!({"folder": self.classes[label].folder, "label": self.classes[label].label, "n": n})
            });
            let predicted = tally.predicted.iter();
            let predicted: BTreeMap<&str, usize> =
                predicted.map(|(&label, &n)| (self.classes[label].folder.as_str(), n)).collect();
            json!({
                "index": i,
                "folder": class.folder,
                "label": class.label,
                "n": tally.images,
                "top1": of(tally.top1, tally),
                "top5": of(tally.top5, tally),
                "most_confused_with": confused,
                "predicted": predicted,
            })
        });
        json!({
            "classes": self.classes.len(),
            "images": self.images,
            "top1": self.share(|tally| tally.top1),
            "top5": self.share(|tally| tally.top5),
            "mean_per_class_top1": self.mean_per_class(),
            "per_class": per_class.collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let few = self.classes.len() <= TOP;
        let note = if few { " (there are no more labels than that)" } else { "" };
        let mut text = format!(
            "{} pictures of {} classes\ntop-1 {:.2} %   top-5 {:.2} %{note}   mean of the classes' top-1 {:.2} %\n\n",
            self.images,
            self.classes.len(),
            100.0 * self.share(|tally| tally.top1),
            100.0 * self.share(|tally| tally.top5),
            100.0 * self.mean_per_class()
        );
        let labels: Vec<String> = self.classes.iter().map(|class| printable(&class.label)).collect();
        let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).max("class".len());
        text += &format!(
            "{:>4}  {:width$}  {:>6}  {:>6}  {:>6}  most confused with\n",
            "#", "class", "n", "top-1", "top-5"
        );
        for (i, (label, tally)) in labels.iter().zip(self.tallies).enumerate() {
            let percent = |n: usize| match tally.images {
                0 => "-".to_owned(),
                images => format!("{:.1}", 100.0 * n as f64 / images as f64),
            };
            let confused = tally.most_confused(i);
            let confused = confused.map_or("-".to_owned(), |(label, n)| format!("{} ({n})", labels[label]));
            let (top1, top5) = (percent(tally.top1), percent(tally.top5));
            text +=
                &format!("{i:>4}  {label:width$}  {:>6}  {top1:>6}  {top5:>6}  {confused}\n", tally.images);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted() {
        let mut tally = Tally::default();
        for ranked in [[2, 0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [3, 4, 5, 1, 2, 0]] {
            tally.add(0, &ranked);
        }
        assert_eq!((tally.images, tally.top1, tally.top5), (4, 1, 3));
        // Three classes came first once each: the earliest is named.
        assert_eq!(tally.most_confused(0), Some((1, 1)));
        tally.add(0, &[3, 0]);
        assert_eq!(tally.most_confused(0), Some((3, 2)));
        let mut right = Tally::default();
        right.add(1, &[1, 0]);
        assert_eq!(right.most_confused(1), None);
    }

    #[test]
    fn the_mean_of_classes_gives_each_the_same_weight() {
        let class = |name: &str| Class { folder: name.into(), label: name.into(), pictures: Vec::new() };
        let classes = [class("a"), class("b"), class("c")];
        let mut tallies: Vec<Tally> = classes.iter().map(|_| Tally::default()).collect();
        (0..9).for_each(|_| tallies[0].add(0, &[0, 1, 2]));
        tallies[1].add(1, &[0, 1, 2]);
        // No picture of the third could be read.
        let result = Outcome { classes: &classes, tallies: &tallies, images: 10 };
        let json = result.json();
        assert_eq!((json["top1"].as_f64(), json["mean_per_class_top1"].as_f64()), (Some(0.9), Some(0.5)));
        assert_eq!(json["per_class"][2]["top1"], Value::Null);
        assert_eq!(json["per_class"][1]["most_confused_with"]["folder"], "a");
        assert_eq!(json["per_class"][0]["predicted"], json!({"a": 9}));
    }

    #[test]
    fn a_map_has_a_folder_and_a_label_a_line() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("map.txt");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("write");
            read_map(&path).map_err(|error| error.to_string())
        };
        let map = read("n01=great white shark\n\n n02 = a = b \n").expect("map");
        assert_eq!((map["n01"].as_str(), map["n02"].as_str()), ("great white shark", "a = b"));
        for (text, reason) in
            [("a", "line 1"), ("a=b\na=c", "line 2"), ("=b", "line 1"), ("a=", "line 1"), ("", "empty")]
        {
            let error = read(text).expect_err(text);
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
