//! `eval drawn`: how often a model is right about scenes that Ocelli draws and that training never saw.
//!
//! A FastVLM is asked every question of every scene, greedily, and the drawn world judges its answers. A MobileCLIP
//! names the class of pictures of 40 classes, and finds the captions of 200 scenes. Beside each figure stands what
//! one gets right without a look at the picture.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use clap::Args;
use ocelli::{FastVlm, ImageOptions, MobileClip, Request, Rgb8, available_threads};
use ocelli_drawn::{Blind, DrawnClass, QuestionKind, Scene, Split, classes, retrieval_scenes, scene_seed};
use serde_json::json;

use crate::args::ModelArgs;
use crate::clip::load_named;
use crate::misses::{Miss, check, write_list, write_page};
use crate::model::{clip_path, load};
use crate::progress::CountProgress;

/// Longer than any right answer.
const MOST_TOKENS: usize = 40;
/// Training scenes in which the blind answers are counted.
const BLIND_SCENES: usize = 20_000;
/// Models whose weights take less run once a thread: their layers are too small to be shared between threads.
const SMALL_BYTES: usize = 256 << 20;

/// What to measure.
#[derive(Args, Clone)]
pub struct DrawnArgs {
    /// Same seed, same scenes: those of `synth-data --split eval` with this seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u32,
    /// How many scenes; for a MobileCLIP, how many pictures of the 40 classes together
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub scenes: u32,
    /// Write wrong answers as JSON Lines
    #[arg(long, value_name = "FILE")]
    pub misses: Option<PathBuf>,
    /// Write a page of pictures with wrong answers that needs no other file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// One JSON object a kind of question on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// What became of the questions of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    kind: &'static str,
    asked: usize,
    right: usize,
    /// Right without a look at the picture.
    blind_right: usize,
}

impl Tally {
    fn new(kind: &'static str) -> Self {
        Self { kind, asked: 0, right: 0, blind_right: 0 }
    }

    fn add(&mut self, right: bool, blind_right: bool) {
        self.asked += 1;
        self.right += usize::from(right);
        self.blind_right += usize::from(blind_right);
    }
}

/// Figures and wrong answers.
struct Outcome {
    tallies: Vec<Tally>,
    misses: Vec<Miss>,
}

/// `ocelli eval drawn`.
pub fn drawn(args: &DrawnArgs) -> anyhow::Result<bool> {
    [&args.misses, &args.html].into_iter().flatten().try_for_each(|file| check(file))?;
    let outcome = match clip_path(&args.model) {
        Some(path) => rank_all(args, &path)?,
        None => ask_all(args)?,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        for tally in &outcome.tallies {
            let Tally { kind, asked, right, blind_right } = *tally;
            let record = json!({"kind": kind, "asked": asked, "right": right, "blind_right": blind_right});
            writeln!(out, "{record}")?;
        }
    } else {
        out.write_all(table(&outcome.tallies).as_bytes())?;
    }
    if let Some(file) = &args.misses {
        write_list(file, &outcome.misses)?;
        eprintln!("wrote {} wrong answers to {}", outcome.misses.len(), file.display());
    }
    if let Some(file) = &args.html {
        let shown = write_page(file, &outcome.misses)?;
        eprintln!("wrote {shown} pictures with wrong answers to {}", file.display());
    }
    Ok(true)
}

fn table(tallies: &[Tally]) -> String {
    let width = tallies.iter().map(|tally| tally.kind.len()).max().unwrap_or(0);
    let mut text =
        format!("{:width$}  {:>6}  {:>6}  {:>7}  {:>7}\n", "kind", "asked", "right", "share", "blind");
    for tally in tallies {
        let share = |right: usize| match tally.asked {
            0 => "-".to_owned(),
            asked => format!("{:.1} %", 100.0 * right as f64 / asked as f64),
        };
        let (seeing, blind) = (share(tally.right), share(tally.blind_right));
        let Tally { kind, asked, right, .. } = tally;
        text += &format!("{kind:width$}  {asked:>6}  {right:>6}  {seeing:>7}  {blind:>7}\n");
    }
    text
}

/// What was said to one question.
struct Said {
    kind: QuestionKind,
    blind_right: bool,
    /// If it was wrong.
    miss: Option<Miss>,
}

/// Every question of every scene to a FastVLM.
fn ask_all(args: &DrawnArgs) -> anyhow::Result<Outcome> {
    let (model, ..) = load(&args.model)?;
    let models = if model.weight_bytes() < SMALL_BYTES {
        let one = ModelArgs { threads: 1, ..args.model.clone() };
        (0..workers(args)).map(|_| Ok(load(&one)?.0)).collect::<anyhow::Result<_>>()?
    } else {
        vec![model]
    };
    let blind = Blind::count(BLIND_SCENES, 0);
    let said = in_parallel("scenes", &models, args.scenes as usize, &|model, at| {
        let scene = Scene::any(Split::Eval, scene_seed(args.seed.into(), at));
        ask_scene(model, &blind, &scene)
    })?;
    let kinds = QuestionKind::ALL.into_iter().filter(|&kind| kind != QuestionKind::CaptionVaried);
    let kinds: Vec<QuestionKind> = kinds.collect();
    let mut tallies: Vec<Tally> = kinds.iter().map(|kind| Tally::new(kind.name())).collect();
    let mut misses = Vec::new();
    for said in said.into_iter().flatten() {
        if let Some(tally) = kinds.iter().position(|&kind| kind == said.kind) {
            tallies[tally].add(said.miss.is_none(), said.blind_right);
        }
        misses.extend(said.miss);
    }
    Ok(Outcome { tallies, misses })
}

/// The questions of a scene, one after the other: the picture is encoded once, and stays in the model's caches.
fn ask_scene(model: &FastVlm, blind: &Blind, scene: &Scene) -> anyhow::Result<Vec<Said>> {
    // What an answer leaves behind must not depend on which scenes this thread had before.
    model.forget();
    let image = model.prepare_rgb(&draw(scene, model.config().image_size), &ImageOptions::default())?;
    let ask = |question: ocelli_drawn::Question| {
        let mut request = Request::ask(&question.text, vec![image.clone()]);
        request.max_tokens = MOST_TOKENS;
        let said = model.generate(&request, &mut |_| ())?.text;
        let miss = (!question.answer.matches(&said)).then(|| Miss {
            kind: question.kind.name(),
            scene: scene.clone(),
            question: question.text.clone(),
            right: question.answer.text().to_owned(),
            said,
        });
        let blind_right = question.answer.matches(blind.answer(&question));
        Ok(Said { kind: question.kind, blind_right, miss })
    };
    scene.questions().into_iter().map(ask).collect()
}

/// Classes and captions by a MobileCLIP.
fn rank_all(args: &DrawnArgs, path: &Path) -> anyhow::Result<Outcome> {
    let (name, m) = (path.display().to_string(), &args.model);
    // Each worker runs one picture on one thread: no core waits for another.
    let model = load_named(&name, m.tokenizer.clone(), m.device, m.dtype, 1)?;
    let classes = classes();
    let labels: Vec<&str> = classes.iter().map(DrawnClass::text).collect();
    let shown = |at: usize| classes[at % classes.len()].scene(scene_seed(args.seed.into(), at));
    let scenes: Vec<Scene> = (0..args.scenes as usize).map(shown).collect();
    let found = retrieval_scenes(scene_seed(args.seed.into(), 0));
    let captions: Vec<String> = found.iter().map(Scene::caption).collect();
    let captions: Vec<&str> = captions.iter().map(String::as_str).collect();

    let (label_rows, caption_rows) = (model.embed_texts(&labels)?, model.embed_texts(&captions)?);
    let all: Vec<&Scene> = scenes.iter().chain(&found).collect();
    let rows = in_parallel("pictures", &vec![&model; workers(args)], all.len(), &|model, at| {
        let image = model.prepare_image(&draw(all[at], model.config().image.size));
        Ok(model.embed_images(&[image])?.remove(0))
    })?;
    let (scene_rows, found_rows) = rows.split_at(scenes.len());

    let first = |row: &Vec<f32>, among: &[Vec<f32>]| first_of(&model, row, among);
    let mut outcome = Outcome { tallies: Vec::new(), misses: Vec::new() };
    let class_of = |at: usize| at % classes.len();
    outcome.add("zeroshot", "Which class?", &labels, &scenes, class_of, |at| {
        first(&scene_rows[at], &label_rows)
    });
    let own = |at: usize| at;
    outcome.add("retrieval", "Which caption?", &captions, &found, own, |at| {
        first(&found_rows[at], &caption_rows)
    });
    let by_caption = |at: usize| first(&caption_rows[at], found_rows);
    outcome.add("retrieval_by_caption", "Which picture?", &captions, &found, own, by_caption);
    Ok(outcome)
}

/// The nearest of some embeddings, the first of several.
fn first_of(model: &MobileClip, row: &[f32], among: &[Vec<f32>]) -> usize {
    model.rank(row, among).first().map_or(0, |score| score.label)
}

impl Outcome {
    /// Count how often what comes first is right; the blind guess always says the first of all names.
    fn add(
        &mut self,
        kind: &'static str,
        question: &str,
        names: &[&str],
        scenes: &[Scene],
        truth: impl Fn(usize) -> usize,
        first: impl Fn(usize) -> usize,
    ) {
        let mut tally = Tally::new(kind);
        for (at, scene) in scenes.iter().enumerate() {
            let (right, said) = (truth(at), first(at));
            tally.add(right == said, right == 0);
            if right != said {
                let (right, said) = (names[right].to_owned(), names[said].to_owned());
                let question = question.to_owned();
                self.misses.push(Miss { kind, scene: scene.clone(), question, right, said });
            }
        }
        self.tallies.push(tally);
    }
}

fn draw(scene: &Scene, size: usize) -> Rgb8 {
    let picture = scene.draw(size);
    Rgb8 { height: picture.size, width: picture.size, pixels: picture.rgb }
}

fn workers(args: &DrawnArgs) -> usize {
    let threads = if args.model.threads == 0 { available_threads() } else { args.model.threads };
    threads.min(args.scenes as usize)
}

/// `work` for 0 to below `count`, each worker on a thread of its own; results in order, progress on stderr.
fn in_parallel<W: Sync, T: Send>(
    label: &str,
    workers: &[W],
    count: usize,
    work: &(dyn Fn(&W, usize) -> anyhow::Result<T> + Sync),
) -> anyhow::Result<Vec<T>> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut progress = CountProgress::new(label, count);
    let done = Mutex::new((0, &mut progress));
    let run = |worker: &W| {
        let mut results = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                break;
            }
            let result = work(worker, at);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            results.push((at, result));
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.0 += 1;
            let (so_far, progress) = (done.0, &mut done.1);
            progress.at(so_far);
        }
        results
    };
    let mut results = std::thread::scope(|scope| {
        let threads: Vec<_> = workers.iter().map(|worker| scope.spawn(|| run(worker))).collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results
            .flat_map(|joined| joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    let per_second = progress.per_second(count);
    progress.finish();
    results.sort_unstable_by_key(|(at, _)| *at);
    let results = results.into_iter().map(|(_, result)| result).collect::<anyhow::Result<_>>()?;
    eprintln!("{count} {label}, {per_second:.1} a second");
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_an_error_ends_the_work() {
        let workers = [3, 5];
        let squares = in_parallel("numbers", &workers, 50, &|_, at| Ok(at * at)).expect("squares");
        assert_eq!(squares, (0..50).map(|at| at * at).collect::<Vec<_>>());
        let begun = AtomicUsize::new(0);
        let failed = in_parallel("numbers", &workers, 1000, &|_, at| {
            begun.fetch_add(1, Ordering::Relaxed);
            if at == 7 { anyhow::bail!("seven") } else { Ok(at) }
        });
        assert_eq!(failed.expect_err("an error").to_string(), "seven");
        assert!(begun.into_inner() < 1000);
    }

    #[test]
    fn shares_stand_in_the_table() {
        let mut tally = Tally::new("color");
        [(true, false), (true, true), (false, true), (true, false)]
            .iter()
            .for_each(|&(right, blind)| tally.add(right, blind));
        assert_eq!((tally.asked, tally.right, tally.blind_right), (4, 3, 2));
        let text = table(&[tally, Tally::new("caption_one")]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["color", "4", "3", "75.0", "%", "50.0", "%"]);
        assert_eq!(lines[2], ["caption_one", "0", "0", "-", "-"]);
    }
}
