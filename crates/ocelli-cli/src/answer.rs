//! `caption`, `ask`, `chat` and `trace`.

use std::collections::HashMap;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::CommandFactory;
use clap::error::ErrorKind;
use ocelli::{
    Answer, CancelToken, FastVlm, Fit, Image, ImageOptions, Orientation, Request, Role, Sampling, Turn,
};
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::args::{Cli, ClipArgs, FitArg, GenerateArgs, ModelArgs, OrientationArg};
use crate::clip;
use crate::device;
use crate::embedded;
use crate::home::PullRecord;
use crate::message::{is_closed_pipe, message, printable};
use crate::model::{clip_path, load};

const CAPTION_PROMPT: &str = "Describe the image.";

/// A loaded model with the options of the command line.
struct Session {
    model: FastVlm,
    name: String,
    load_ms: f64,
    generate: GenerateArgs,
    cancel: CancelToken,
}

impl Session {
    fn new(model: &ModelArgs, generate: &GenerateArgs) -> anyhow::Result<Self> {
        let (model, dir, load_ms) = load(model)?;
        embedded::hint(&dir);
        let cancel = CancelToken::default();
        let on_interrupt = cancel.clone();
        // A second Ctrl-C while nothing is generated ends the program.
        ctrlc::set_handler(move || {
            if on_interrupt.is_cancelled() {
                embedded::clean_up();
                std::process::exit(130);
            }
            on_interrupt.cancel();
        })?;
        let folder = || dir.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
        let name = PullRecord::read(&dir).map_or_else(folder, |record| record.id);
        Ok(Self { model, name, load_ms, generate: generate.clone(), cancel })
    }

    fn open(&self, path: &Path) -> Result<Image, ocelli::Error> {
        let g = &self.generate;
        let fit = if matches!(g.fit, FitArg::Crop) { Fit::Crop } else { Fit::Pad };
        let ignore = matches!(g.orientation, OrientationArg::Ignore);
        let orientation = if ignore { Orientation::Ignore } else { Orientation::Exif };
        let options = ImageOptions { orientation, fit, resolution: g.resolution, max_pixels: g.max_pixels };
        self.model.open_image_with(path, &options)
    }

    fn request(&self, turns: Vec<Turn>, images: Vec<Image>) -> Request {
        let g = &self.generate;
        Request {
            turns,
            system: g.system.clone(),
            images,
            sampling: Sampling {
                temperature: g.temperature,
                top_p: g.top_p,
                top_k: g.top_k,
                min_p: g.min_p,
                repetition_penalty: g.repetition_penalty,
                seed: g.seed,
            },
            max_tokens: g.max_tokens,
            stop: g.stop.clone(),
            ignore_eos: g.ignore_eos,
            cancel: self.cancel.clone(),
        }
    }

    fn ask(&self, question: &str, images: Vec<Image>) -> Request {
        let turn = Turn { role: Role::User, text: question.to_owned(), images: images.len() };
        self.request(vec![turn], images)
    }

    /// Generate and print: streamed text, or one JSON object.
    fn answer(&self, request: &Request, image: Option<&str>) -> anyhow::Result<Answer> {
        let mut out = std::io::stdout();
        let terminal = out.is_terminal();
        let mut written = Ok(());
        let note = self.model.device_note();
        let answer = self.model.generate(request, &mut |piece| {
            if !self.generate.json && written.is_ok() {
                // What a picture makes a model say must not drive the terminal.
                let piece = if terminal { printable(piece) } else { piece.to_owned() };
                written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
                if written.is_err() {
                    self.cancel.cancel();
                }
            }
        })?;
        written.context("writing the answer")?;
        let end = if self.generate.json { self.json(&answer, image).to_string() } else { String::new() };
        writeln!(out, "{end}").context("writing the answer")?;
        let now = self.model.device_note();
        if now != note {
            // The GPU was lost, and not to be had again.
            device::tell(now.as_deref());
        }
        Ok(answer)
    }

    fn json(&self, answer: &Answer, image: Option<&str>) -> serde_json::Value {
        let (u, t) = (answer.usage, answer.timings);
        json!({
            "image": image,
            "text": answer.text,
            "token_ids": answer.token_ids,
            "finish_reason": answer.finish_reason.name(),
            "usage": {
                "prompt_tokens": u.prompt_tokens,
                "image_tokens": u.image_tokens,
                "completion_tokens": u.completion_tokens,
                "cached_tokens": u.cached_tokens,
            },
            "timings": {
                "load_ms": self.load_ms,
                "preprocess_ms": t.preprocess_ms,
                "encode_ms": t.encode_ms,
                "prefill_ms": t.prefill_ms,
                "ttft_ms": t.ttft_ms,
                "decode_ms_per_token": t.decode_ms_per_token,
                "tokens_per_s": t.tokens_per_s,
                "total_ms": t.total_ms,
            },
            "peak_rss_bytes": ocelli::peak_rss_bytes(),
            "model": self.name,
            "quant": self.model.quant_name(),
            "device": self.model.device_name(),
            "kernels": self.model.kernels(),
        })
    }

    /// One question about each picture, in order; a bad picture is reported and the rest goes on.
    fn each(&self, images: &[PathBuf], question: &str) -> anyhow::Result<bool> {
        let mut all_well = true;
        for path in images {
            let name = path.display().to_string();
            if images.len() > 1 && !self.generate.json {
                eprintln!("{name}:");
            }
            let result = self
                .open(path)
                .map_err(anyhow::Error::from)
                .and_then(|image| self.answer(&self.ask(question, vec![image]), Some(&name)));
            if let Err(error) = result {
                if is_closed_pipe(&error) {
                    return Err(error);
                }
                all_well = false;
                self.report(&name, &error)?;
            }
            if self.cancel.is_cancelled() {
                return Ok(false);
            }
        }
        Ok(all_well)
    }

    fn report(&self, image: &str, error: &anyhow::Error) -> anyhow::Result<()> {
        let error = message(error);
        eprintln!("ocelli: {error}");
        if self.generate.json {
            writeln!(std::io::stdout(), "{}", json!({"image": image, "error": error}))?;
        }
        Ok(())
    }
}

/// `ocelli caption`.
pub fn caption(images: &[PathBuf], model: &ModelArgs, generate: &GenerateArgs) -> anyhow::Result<bool> {
    Session::new(model, generate)?.each(images, CAPTION_PROMPT)
}

/// `ocelli ask`.
pub fn ask(
    words: &[String],
    together: bool,
    model: &ModelArgs,
    generate: &GenerateArgs,
) -> anyhow::Result<bool> {
    let Some((question, images)) = words.split_last() else { bail!("a question is missing") };
    if Path::new(question).is_file() {
        let hint = format!("the last argument is the question, but `{question}` is a file: add a question");
        Cli::command().error(ErrorKind::MissingRequiredArgument, hint).exit();
    }
    let images: Vec<PathBuf> = images.iter().map(PathBuf::from).collect();
    let session = Session::new(model, generate)?;
    if !images.is_empty() && !together {
        return session.each(&images, question);
    }
    let opened = images.iter().map(|path| session.open(path)).collect::<Result<Vec<_>, _>>()?;
    let names = images.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    let name = (!names.is_empty()).then_some(&names[..]);
    session.answer(&session.ask(question, opened), name)?;
    Ok(!session.cancel.is_cancelled())
}

/// `ocelli chat`.
pub fn chat(image: Option<&Path>, model: &ModelArgs, generate: &GenerateArgs) -> anyhow::Result<bool> {
    let session = Session::new(model, generate)?;
    let mut chat = Chat { session: &session, turns: vec![], images: vec![], waiting: vec![] };
    if let Some(path) = image {
        chat.add(path)?;
    }
    let stdin = std::io::stdin();
    let prompt = || {
        if stdin.is_terminal() {
            eprint!("> ");
        }
    };
    let mut all_well = true;
    prompt();
    for line in stdin.lock().lines() {
        let line = line?;
        session.cancel.reset();
        let result = match line.strip_prefix("/image") {
            Some(path) if path.trim().is_empty() => Err(anyhow::anyhow!("/image needs a file: /image FILE")),
            Some(path) if path.starts_with(' ') => chat.add(Path::new(path.trim())),
            _ if line.trim().is_empty() => Ok(()),
            _ => chat.ask(line),
        };
        if let Err(error) = result {
            if is_closed_pipe(&error) {
                return Err(error);
            }
            all_well = false;
            eprintln!("ocelli: {}", message(&error));
        }
        session.cancel.reset();
        prompt();
    }
    Ok(all_well)
}

/// A conversation.
struct Chat<'a> {
    session: &'a Session,
    turns: Vec<Turn>,
    /// Pictures of all turns.
    images: Vec<Image>,
    /// Pictures of the next question, with their names.
    waiting: Vec<(String, Image)>,
}

impl Chat<'_> {
    fn add(&mut self, path: &Path) -> anyhow::Result<()> {
        let image = self.session.open(path)?;
        self.waiting.push((path.display().to_string(), image));
        Ok(())
    }

    /// Answer one more question; a question that fails leaves the conversation as it was.
    fn ask(&mut self, question: String) -> anyhow::Result<()> {
        let mut turns = self.turns.clone();
        turns.push(Turn { role: Role::User, text: question, images: self.waiting.len() });
        let mut images = self.images.clone();
        images.extend(self.waiting.iter().map(|(_, image)| image.clone()));
        let names = self.waiting.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let name = (!names.is_empty()).then_some(&names[..]);
        let answer = self.session.answer(&self.session.request(turns.clone(), images.clone()), name)?;
        turns.push(Turn { role: Role::Assistant, text: answer.text, images: 0 });
        (self.turns, self.images) = (turns, images);
        self.waiting.clear();
        Ok(())
    }
}

/// `ocelli trace`.
pub fn trace(
    image: &Path,
    prompt: &str,
    out: &Path,
    model: &ModelArgs,
    generate: &GenerateArgs,
) -> anyhow::Result<bool> {
    let (stages, [device, kernels], name) = if let Some(clip) = clip_arguments(model, generate) {
        let (stages, engine) = clip::trace(&clip, image, prompt)?;
        (stages, engine, clip.model)
    } else {
        let session = Session::new(model, generate)?;
        let request = session.ask(prompt, vec![session.open(image)?]);
        let engine = [session.model.device_name().to_owned(), session.model.kernels()];
        (session.model.trace(&request)?, engine, session.name)
    };
    let bytes: Vec<Vec<u8>> =
        stages.iter().map(|s| s.values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let mut views = Vec::new();
    for (stage, bytes) in stages.iter().zip(&bytes) {
        let view = TensorView::new(safetensors::Dtype::F32, stage.shape.clone(), bytes)?;
        views.push((stage.name.clone(), view));
    }
    let metadata = Some(HashMap::from([("kernels".to_owned(), kernels.clone())]));
    safetensors::serialize_to_file(views, metadata, out)
        .with_context(|| format!("writing {}", out.display()))?;
    eprintln!("wrote {} stages to {}", stages.len(), out.display());
    if generate.json {
        let stages: Vec<_> = stages.iter().map(|s| json!({"name": s.name, "shape": s.shape})).collect();
        let report = json!({
            "image": image.display().to_string(),
            "out": out.display().to_string(),
            "stages": stages,
            "model": name,
            "device": device,
            "kernels": kernels,
        });
        writeln!(std::io::stdout(), "{report}")?;
    }
    Ok(true)
}

/// The arguments of `trace` for a MobileCLIP, if the model is one.
fn clip_arguments(model: &ModelArgs, generate: &GenerateArgs) -> Option<ClipArgs> {
    clip_path(model)?;
    Some(ClipArgs {
        model: model.model.clone()?,
        tokenizer: model.tokenizer.clone(),
        device: model.device,
        threads: model.threads,
        dtype: model.dtype,
        orientation: generate.orientation,
        max_pixels: generate.max_pixels,
    })
}
