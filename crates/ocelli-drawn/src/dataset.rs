//! Scenes as files: pictures, LLaVA's conversations, captions, questions and a page to look at.
//!
//! Every file is written aside and renamed, so a file that is there is whole; a run that was killed goes on with the
//! pictures that are missing. Lists are made anew at the end of each run, from the seeds.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{DrawnError, Result};
use crate::picture::{MAX_SIZE, png};
use crate::questions::Question;
use crate::scene::{Scene, Split};

/// Changes whenever a seed draws other scenes or asks other questions than it did.
pub const WORLD_VERSION: u32 = 1;

/// Pictures in one folder.
const FOLDER: usize = 1000;

/// Scenes that the page shows.
const SHOWN: usize = 300;

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct DatasetOptions {
    /// How many scenes.
    pub scenes: usize,
    /// Same seed, same files.
    pub seed: u64,
    /// What for.
    pub split: Split,
    /// Pixels a side.
    pub size: usize,
    /// Threads that draw; 0 is one for each core.
    pub threads: usize,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetReport {
    /// Pictures of this run.
    pub drawn: usize,
    /// Pictures that were there from an earlier one.
    pub kept: usize,
    /// Questions about all of them.
    pub questions: usize,
}

/// What a directory was written with.
#[derive(Serialize, Deserialize, PartialEq)]
struct Settings {
    world: u32,
    seed: u64,
    split: String,
    size_px: usize,
}

impl Settings {
    fn text(&self) -> String {
        format!("seed {}, split {}, {} px, world {}", self.seed, self.split, self.size_px, self.world)
    }
}

/// The seed of the scene at this place of a data set: data sets of different seeds have no scene in common, up to
/// 2^32 scenes and seeds.
pub fn scene_seed(seed: u64, at: usize) -> u64 {
    (seed << 32).wrapping_add(at as u64)
}

/// Write scenes to a directory, which is made if it is missing, or go on where a run with the same settings was
/// stopped. `progress` is told how many pictures are there, from several threads.
///
/// | file | what |
/// |---|---|
/// | `images/000/000000.png` | pictures |
/// | `drawn.json` | `{id, image, conversations: [{from, value}]}` as LLaVA reads them; `<image>` stands in the first question |
/// | `captions.jsonl` | `{id, image, kind, caption, varied}` |
/// | `questions.jsonl` | `{id, image, kind, form, question, answer}` |
/// | `index.html` | the first 300, to look at |
/// | `settings.json` | seed, split and size |
///
/// # Errors
/// When the directory holds something else, a setting cannot be, or a file cannot be written.
pub fn write_dataset(
    dir: &Path,
    options: &DatasetOptions,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<DatasetReport> {
    check(options)?;
    settle(dir, options)?;
    let folders = options.scenes.div_ceil(FOLDER);
    for folder in 0..folders {
        let path = dir.join(format!("images/{folder:03}"));
        std::fs::create_dir_all(&path).map_err(DrawnError::io(&path))?;
    }
    let (drawn, kept) = write_pictures(dir, options, progress)?;
    let questions = write_lists(dir, options)?;
    write_page(dir, options)?;
    Ok(DatasetReport { drawn, kept, questions })
}

fn check(options: &DatasetOptions) -> Result<()> {
    if options.scenes == 0 {
        return Err(DrawnError::Setting("no scene is asked for: ask for one or more".to_owned()));
    }
    if !(16..=MAX_SIZE).contains(&options.size) {
        let message =
            format!("pictures of {} pixels a side cannot be drawn: 16 to {MAX_SIZE} can", options.size);
        return Err(DrawnError::Setting(message));
    }
    if options.seed >> 32 != 0 || options.scenes as u64 >> 32 != 0 {
        return Err(DrawnError::Setting("seeds and numbers of scenes end below 4294967296".to_owned()));
    }
    Ok(())
}

/// Make the directory, or find out that it is ours.
fn settle(dir: &Path, options: &DatasetOptions) -> Result<()> {
    let asked = Settings {
        world: WORLD_VERSION,
        seed: options.seed,
        split: options.split.name().to_owned(),
        size_px: options.size,
    };
    std::fs::create_dir_all(dir).map_err(DrawnError::io(dir))?;
    let path = dir.join("settings.json");
    if path.exists() {
        let text = std::fs::read_to_string(&path).map_err(DrawnError::io(&path))?;
        let found: Option<Settings> = serde_json::from_str(&text).ok();
        if found.as_ref() == Some(&asked) {
            return Ok(());
        }
        let found = found.map_or_else(|| "unknown settings".to_owned(), |found| found.text());
        return Err(DrawnError::OtherDataset { path: dir.to_owned(), found, asked: asked.text() });
    }
    let mut entries = std::fs::read_dir(dir).map_err(DrawnError::io(dir))?;
    if entries.next().is_some() {
        return Err(DrawnError::NotEmpty { path: dir.to_owned() });
    }
    whole(&path, |file| writeln!(file, "{}", json!(asked)))
}

/// Write a file aside, and rename it when it is done.
fn whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".partial");
    let aside = PathBuf::from(aside);
    let written = File::create(&aside).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        std::fs::rename(&aside, path)
    });
    if written.is_err() {
        // What is left of it is of no use; that it stays is a lesser evil than another error.
        let _ = std::fs::remove_file(&aside);
    }
    written.map_err(DrawnError::io(path))
}

fn image_name(at: usize) -> String {
    format!("images/{:03}/{at:06}.png", at / FOLDER)
}

fn scene(options: &DatasetOptions, at: usize) -> Scene {
    Scene::any(options.split, scene_seed(options.seed, at))
}

/// How many were drawn, and how many were there.
fn write_pictures(
    dir: &Path,
    options: &DatasetOptions,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<(usize, usize)> {
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let (next, done, drawn) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let (failed, failure) = (AtomicBool::new(false), Mutex::new(None));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= options.scenes {
                return;
            }
            let path = dir.join(image_name(at));
            if !path.exists() {
                if let Err(error) = write_picture(&path, &scene(options, at), options.size) {
                    failed.store(true, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                    return;
                }
                drawn.fetch_add(1, Ordering::Relaxed);
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(options.scenes) {
            scope.spawn(work);
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(error);
    }
    let drawn = drawn.into_inner();
    Ok((drawn, options.scenes - drawn))
}

fn write_picture(path: &Path, scene: &Scene, size: usize) -> Result<()> {
    let bytes = png(size, &scene.draw(size).rgb)?;
    whole(path, |file| file.write_all(&bytes))
}

/// The number of questions.
fn write_lists(dir: &Path, options: &DatasetOptions) -> Result<usize> {
    let mut asked = 0;
    whole(&dir.join("drawn.json"), |file| {
        for at in 0..options.scenes {
            let (image, questions) = (image_name(at), scene(options, at).questions());
            asked += questions.len();
            let entry = json!({"id": id(at), "image": image, "conversations": conversation(&questions)});
            write!(file, "{}\n{entry}", if at == 0 { "[" } else { "," })?;
        }
        writeln!(file, "\n]")
    })?;
    whole(&dir.join("captions.jsonl"), |file| {
        for at in 0..options.scenes {
            let scene = scene(options, at);
            let (caption, varied) = (scene.caption(), scene.varied_caption());
            let kind = scene.kind().name();
            let entry = json!({"id": id(at), "image": image_name(at), "kind": kind, "caption": caption, "varied": varied});
            writeln!(file, "{entry}")?;
        }
        Ok(())
    })?;
    whole(&dir.join("questions.jsonl"), |file| {
        for at in 0..options.scenes {
            for question in scene(options, at).questions() {
                let Question { kind, form, text, answer } = question;
                let entry = json!({
                    "id": id(at), "image": image_name(at), "kind": kind.name(), "form": form,
                    "question": text, "answer": answer.text(),
                });
                writeln!(file, "{entry}")?;
            }
        }
        Ok(())
    })?;
    Ok(asked)
}

fn id(at: usize) -> String {
    format!("{at:06}")
}

fn conversation(questions: &[Question]) -> Vec<serde_json::Value> {
    let turn = |(at, question): (usize, &Question)| {
        let image = if at == 0 { "<image>\n" } else { "" };
        [
            json!({"from": "human", "value": format!("{image}{}", question.text)}),
            json!({"from": "gpt", "value": question.answer.text()}),
        ]
    };
    questions.iter().enumerate().flat_map(turn).collect()
}

fn write_page(dir: &Path, options: &DatasetOptions) -> Result<()> {
    const HEAD: &str = "<!doctype html>\n<meta charset=\"utf-8\">\n<title>The drawn world</title>\n<style>\n\
        body { font: 14px sans-serif; margin: 1em; background: #fff; color: #222; }\n\
        main { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 1em; }\n\
        figure { margin: 0; } img { width: 256px; border: 1px solid #bbb; }\n\
        dl { margin: 0.3em 0; } dt { color: #666; } dd { margin: 0 0 0 1em; }\n</style>\n";
    let shown = options.scenes.min(SHOWN);
    whole(&dir.join("index.html"), |file| {
        let (split, seed) = (options.split.name(), options.seed);
        writeln!(
            file,
            "{HEAD}<h1>The drawn world: {split}, seed {seed}</h1>\n<p>{shown} of {} scenes</p>\n<main>",
            options.scenes
        )?;
        for at in 0..shown {
            let scene = scene(options, at);
            let caption = escape(&scene.caption());
            writeln!(
                file,
                "<figure><img src=\"{}\" alt=\"{caption}\"><figcaption><b>{caption}</b><dl>",
                image_name(at)
            )?;
            for question in scene.questions().iter().skip(1) {
                let (text, answer) = (escape(&question.text), escape(question.answer.text()));
                writeln!(file, "<dt>{text} <small>{}</small></dt><dd>{answer}</dd>", question.kind.name())?;
            }
            writeln!(file, "</dl></figcaption></figure>")?;
        }
        writeln!(file, "</main>")
    })
}

/// Text that is no markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
