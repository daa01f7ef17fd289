//! `embed` and `classify`: pictures and texts in MobileCLIP's space.

use std::io::{BufRead, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use anyhow::{Context, bail};
use ocelli::{ClipImage, ClipOptions, DType, DecodeOptions, MobileClip, Orientation, Stage, templates};
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::args::{ClassifyArgs, ClipArgs, Device, Dtype, EmbedArgs, OrientationArg};
use crate::device;
use crate::embedded;
use crate::home::{find, packed};
use crate::labels::LabelSet;
use crate::message::{message, printable};
use crate::whole::replace;

/// Files that a folder is searched for.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];
/// Pictures that wait for the model while it works: decoding and inference overlap.
const WAITING: usize = 4;

/// Load the model of the arguments.
pub fn load(args: &ClipArgs) -> anyhow::Result<MobileClip> {
    let model = load_named(&args.model, args.tokenizer.clone(), args.device, args.dtype, args.threads)?;
    hint(&args.model);
    Ok(model)
}

/// Say what an embedded model is for, if this name or path is one.
pub fn hint(model: &str) {
    if let Ok(dir) = find(model) {
        embedded::hint(&dir);
    }
}

/// Load a directory, a weight file or a model that is kept here.
pub fn load_named(
    model: &str,
    tokenizer: Option<PathBuf>,
    device: Device,
    dtype: Dtype,
    threads: usize,
) -> anyhow::Result<MobileClip> {
    let path = Path::new(model);
    let path = if path.is_file() { path.to_owned() } else { find(model)? };
    let dtype = if dtype == Dtype::F32 { DType::F32 } else { DType::Bf16 };
    let device = device::choice(device);
    let options = ClipOptions { dtype, device, threads, isa: None, tokenizer, packed_dir: packed() };
    let model = MobileClip::load(&path, &options)?;
    device::tell(model.device_note().as_deref());
    Ok(model)
}

/// How the arguments want pictures to be read.
pub fn decode_options(args: &ClipArgs) -> DecodeOptions {
    let ignore = matches!(args.orientation, OrientationArg::Ignore);
    let orientation = if ignore { Orientation::Ignore } else { Orientation::Exif };
    DecodeOptions { orientation, max_pixels: args.max_pixels }
}

/// `ocelli embed`.
pub fn embed(args: &EmbedArgs) -> anyhow::Result<bool> {
    let model = load(&args.clip)?;
    let mut out = Embeddings::new(args.out.as_deref(), model.config().embed_dim)?;
    let images = expand(&args.images)?;
    let texts = lines_of(&args.texts)?;
    if images.is_empty() && texts.is_empty() {
        bail!("nothing to embed: give --image FILE|DIR, --text TEXT, or - for a list on stdin");
    }
    let mut all_well = true;
    each_image(&model, &images, &decode_options(&args.clip), &mut |path, image| {
        let embedding = image.and_then(|image| Ok(model.embed_images(&[image])?.remove(0)));
        match embedding {
            Ok(embedding) => out.add(&path.display().to_string(), "image", embedding),
            Err(error) => {
                all_well = false;
                report(path, &error);
                Ok(())
            }
        }
    })?;
    for text in &texts {
        out.add(text, "text", model.embed_texts(&[text])?.remove(0))?;
    }
    out.finish()?;
    Ok(all_well)
}

/// `ocelli classify`.
pub fn classify(args: &ClassifyArgs) -> anyhow::Result<bool> {
    let set = match &args.labels_set {
        Some(name) => LabelSet::read(name)?,
        None => LabelSet::new(
            labels(args.labels.as_deref(), args.labels_file.as_deref())?,
            chosen_templates(&args.templates)?,
        ),
    };
    let model = load(&args.clip)?;
    let start = Instant::now();
    let embedded = set.embeddings(args.labels_set.as_deref(), &model)?;
    let labels = set.labels;
    eprintln!("{} labels in {:.0} ms", labels.len(), start.elapsed().as_secs_f64() * 1e3);
    let mut all_well = true;
    let images = expand(&args.images)?;
    each_image(&model, &images, &decode_options(&args.clip), &mut |path, image| match image
        .and_then(|image| Ok(model.zero_shot(&image, &embedded)?))
    {
        Ok(scores) => {
            let top = if args.top == 0 { scores.len() } else { args.top };
            let scores = scores.into_iter().take(top);
            if args.json {
                let labels: Vec<_> = scores
                        .map(|s| json!({"label": labels[s.label], "probability": s.probability, "similarity": s.similarity}))
                        .collect();
                let line = json!({"image": path.display().to_string(), "labels": labels});
                writeln!(std::io::stdout(), "{line}")?;
            } else {
                writeln!(std::io::stdout(), "{}", printable(&path.display().to_string()))?;
                for s in scores {
                    writeln!(std::io::stdout(), "  {:.3}  {}", s.probability, printable(&labels[s.label]))?;
                }
            }
            Ok(())
        }
        Err(error) => {
            all_well = false;
            report(path, &error);
            Ok(())
        }
    })?;
    Ok(all_well)
}

/// Stages of both towers, for `ocelli trace` with a MobileCLIP.
pub fn trace(args: &ClipArgs, image: &Path, text: &str) -> anyhow::Result<(Vec<Stage>, [String; 2])> {
    let model = load(args)?;
    let image = model.open_image(image, &decode_options(args))?;
    let mut stages = model.trace_image(&image)?;
    if model.config().text.is_some() {
        stages.extend(model.trace_text(text)?);
    }
    Ok((stages, [model.device_name().to_owned(), model.kernels()]))
}

/// Say on stderr what went wrong with one file.
pub fn report(path: &Path, error: &anyhow::Error) {
    let (path, text) = (path.display().to_string(), message(error));
    // Most messages name the file themselves.
    if text.contains(&path) { eprintln!("ocelli: {text}") } else { eprintln!("ocelli: {path}: {text}") }
}

/// Decode on a thread of its own, a few pictures ahead, and hand each to `work` in order.
pub fn each_image(
    model: &MobileClip,
    paths: &[PathBuf],
    options: &DecodeOptions,
    work: &mut dyn FnMut(&Path, anyhow::Result<ClipImage>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(WAITING);
        scope.spawn(move || {
            for path in paths {
                // Nobody receives any more: the work has ended with an error.
                if send.send(model.open_image(path, options).map_err(anyhow::Error::from)).is_err() {
                    return;
                }
            }
        });
        let receive: Receiver<anyhow::Result<ClipImage>> = receive;
        paths.iter().zip(receive).try_for_each(|(path, image)| work(path, image))
    })
}

/// Folders become the pictures in them, `-` the lines of stdin.
fn expand(given: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for path in given {
        if path.as_os_str() == "-" {
            paths.extend(stdin_lines()?.into_iter().map(PathBuf::from));
        } else if path.is_dir() {
            walk(path, &mut paths)?;
        } else {
            paths.push(path.clone());
        }
    }
    Ok(paths)
}

/// The pictures of a folder and of those below it, in order.
pub fn walk(dir: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut entries: Vec<_> = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        if kind.is_dir() {
            walk(&path, paths)?;
        } else if extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str())) {
            paths.push(path);
        }
    }
    Ok(())
}

fn lines_of(texts: &[String]) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for text in texts {
        if text == "-" { all.extend(stdin_lines()?) } else { all.push(text.clone()) }
    }
    Ok(all)
}

fn stdin_lines() -> anyhow::Result<Vec<String>> {
    let lines = std::io::stdin().lock().lines().collect::<Result<Vec<_>, _>>();
    let lines = lines.context("reading the list on stdin")?;
    Ok(lines.into_iter().filter(|line| !line.is_empty()).collect())
}

/// The labels of `--labels` or `--labels-file`.
pub fn labels(given: Option<&str>, file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let text = match (given, file) {
        (Some(labels), _) => labels.replace(',', "\n"),
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?
        }
        (None, None) => bail!("no labels: give --labels a,b,c or --labels-file FILE"),
    };
    let labels: Vec<String> = text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
    if labels.is_empty() {
        bail!("the list of labels is empty");
    }
    Ok(labels)
}

/// The templates that `--template` stands for.
pub fn chosen_templates(given: &[String]) -> anyhow::Result<Vec<String>> {
    let mut chosen = Vec::new();
    for template in given {
        match template.as_str() {
            "7" => chosen.extend(templates::seven().iter().map(|t| (*t).to_owned())),
            "80" => chosen.extend(templates::eighty().iter().map(|t| (*t).to_owned())),
            text if text.contains(templates::PLACE) => chosen.push(text.to_owned()),
            text => bail!("template `{text}` has no {} for the label", templates::PLACE),
        }
    }
    Ok(chosen)
}

/// Where embeddings go: JSON Lines on stdout, or one file in the end.
struct Embeddings<'a> {
    file: Option<&'a Path>,
    dim: usize,
    inputs: Vec<String>,
    values: Vec<f32>,
}

impl<'a> Embeddings<'a> {
    fn new(file: Option<&'a Path>, dim: usize) -> anyhow::Result<Self> {
        let known = |path: &Path| path.extension().is_some_and(|e| e == "npy" || e == "safetensors");
        if let Some(path) = file
            && !known(path)
        {
            bail!("--out {}: the name must end in .npy or .safetensors", path.display());
        }
        Ok(Self { file, dim, inputs: Vec::new(), values: Vec::new() })
    }

    fn add(&mut self, input: &str, kind: &str, embedding: Vec<f32>) -> anyhow::Result<()> {
        if self.file.is_some() {
            self.inputs.push(input.to_owned());
            self.values.extend(embedding);
        } else {
            let line = json!({"input": input, "kind": kind, "embedding": embedding, "dim": self.dim});
            writeln!(std::io::stdout(), "{line}")?;
        }
        Ok(())
    }

    /// Write the file aside and rename it, so that no half file is left.
    fn finish(self) -> anyhow::Result<()> {
        let Some(path) = self.file else { return Ok(()) };
        replace(path, |aside| self.write(aside, path))?;
        eprintln!("wrote {} embeddings of {} values to {}", self.inputs.len(), self.dim, path.display());
        Ok(())
    }

    fn write(&self, aside: &Path, path: &Path) -> anyhow::Result<()> {
        let bytes: Vec<u8> = self.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape = vec![self.inputs.len(), self.dim];
        if path.extension().is_some_and(|e| e == "npy") {
            let mut file = BufWriter::new(std::fs::File::create(aside)?);
            file.write_all(&npy_header(&shape))?;
            file.write_all(&bytes)?;
            return Ok(file.flush()?);
        }
        let view = TensorView::new(safetensors::Dtype::F32, shape, &bytes)?;
        let inputs = serde_json::to_string(&self.inputs)?;
        let metadata = std::collections::HashMap::from([("inputs".to_owned(), inputs)]);
        Ok(safetensors::serialize_to_file([("embeddings", view)], Some(metadata), aside)?)
    }
}

/// The header of NumPy's format, version 1.0 (numpy.lib.format): padded to a multiple of 64 bytes.
fn npy_header(shape: &[usize]) -> Vec<u8> {
    let [rows, cols] = [shape[0], shape[1]];
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let unpadded = 10 + text.len() + 1;
    text.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}
