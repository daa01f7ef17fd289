//! `train vlm`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use ocelli_text::{Qwen2Tokenizer, Template};
use ocelli_train::conversations::Conversations;
use ocelli_train::drawn::{DrawnScenes, texts};
use ocelli_train::estimate::Estimate;
use ocelli_train::fit::{Run, vlm};
use ocelli_train::nets::{FastVitConfig, FastVlm, Qwen2Config};
use ocelli_train::recipe::{Data, LlavaFile, Stage, VlmRecipe};
use ocelli_train::vlm_data::llava::{Corpus, Source};
use ocelli_train::vlm_data::tokens::Style;
use ocelli_weights::{Checkpoint, Family, RawCheckpoint};

use crate::arguments::RunArguments;
use crate::memory::tell_memory;
use crate::watch::watched;

/// Scenes whose texts a new vocabulary is learned from.
const VOCABULARY_SCENES: usize = 5000;
/// Samples whose lengths the memory is estimated from.
const MEASURED: usize = 64;
/// What to change where memory is too small.
const REMEDY: &str = "make train.batch smaller and train.accumulate larger, lower train.resolution, set \
    train.checkpoint_activations or [train.lora]";
/// Bad samples that are told one by one.
const TOLD: usize = 20;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// Learn the recipe's data in the manner of this stage.
    #[arg(long, value_enum)]
    stage: Option<StageArgument>,
    /// LLaVA's JSON in place of the recipe's data, with the folder of its pictures behind an equals sign if that is
    /// not the file's own. May be given several times.
    #[arg(long, value_name = "FILE[=IMAGES]")]
    data: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum StageArgument {
    /// Captions, the projector alone.
    #[value(name = "1")]
    One,
    /// All parts at a higher resolution.
    #[value(name = "1.5")]
    OneAndHalf,
    /// All parts, instructions.
    #[value(name = "2")]
    Two,
}

impl From<StageArgument> for Stage {
    fn from(stage: StageArgument) -> Self {
        match stage {
            StageArgument::One => Self::One,
            StageArgument::OneAndHalf => Self::OneAndHalf,
            StageArgument::Two => Self::Two,
        }
    }
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let recipe = recipe(arguments)?;
    recipe.train.check()?;
    let device = arguments.run.open_device()?;
    recipe.train.dtype.check(&device)?;
    let write = recipe.new.as_ref().map(|new| {
        |dir: &Path| {
            let drawn = recipe.data.drawn.context("a new model learns its vocabulary from [data.drawn]")?;
            let texts = texts(drawn.seed, VOCABULARY_SCENES);
            Ok(new.write(dir, texts.iter().map(String::as_str))?)
        }
    });
    let from = arguments.run.begin("model.safetensors", write)?;
    let tokenizer = Qwen2Tokenizer::from_dir(&from)?;
    let checkpoint = Checkpoint::open(&from, None)?.config;
    let stride = checkpoint.vision.stride;
    let template = if checkpoint.family == Family::Native { Template::Native } else { Template::Apple };
    check_resolutions(&recipe.train, stride)?;
    let source = |data: &Data| examples(data, recipe.stage, &tokenizer, template, stride);
    let (examples, bad) = source(&recipe.data)?;
    let held_back = recipe.held_back.as_ref().map(source).transpose()?.map(|(examples, _)| examples);
    tell_bad(&bad);
    let estimate = estimate(&from, &recipe.train, &*examples)?;
    if !tell_memory(&estimate, &arguments.run, REMEDY)? {
        return Ok(());
    }

    let (network, _, naming) = FastVlm::open(&from, &device)?;
    let run = Run::open(&arguments.run.out, &from, &recipe)?;
    let earlier = run.read_records()?;
    let sources = vlm::Sources { examples: &*examples, held_back: held_back.as_deref() };
    watched(&arguments.run.out, earlier, arguments.run.json, |progress, tell| {
        vlm::train(network, &device, &naming, &sources, &recipe.train, &run, progress, tell).map(drop)
    })
}

/// The recipe with what the arguments change.
fn recipe(arguments: &Arguments) -> anyhow::Result<VlmRecipe> {
    let mut recipe = VlmRecipe::read(&arguments.run.config, &arguments.run.changes)?;
    if let Some(stage) = arguments.stage {
        recipe.stage = stage.into();
    }
    if !arguments.data.is_empty() {
        let file = |argument: &String| {
            let (file, images) =
                argument.split_once('=').map_or((&argument[..], None), |(f, i)| (f, Some(i)));
            LlavaFile { file: file.into(), images: images.map(PathBuf::from) }
        };
        let llava = arguments.data.iter().map(file).collect();
        recipe.data = Data { drawn: None, llava, ..recipe.data };
    }
    Ok(recipe)
}

fn check_resolutions(config: &vlm::VlmConfig, stride: usize) -> anyhow::Result<()> {
    let smaller = config.smaller_first.iter().map(|smaller| smaller.resolution);
    match smaller.chain([config.resolution]).find(|&side| side == 0 || !side.is_multiple_of(stride)) {
        Some(side) => bail!("a resolution of {side}: this tower takes multiples of {stride}"),
        None => Ok(()),
    }
}

/// What to learn from, and what of it cannot be learned from.
fn examples<'a>(
    data: &Data,
    stage: Stage,
    tokenizer: &'a Qwen2Tokenizer,
    template: Template,
    stride: usize,
) -> anyhow::Result<(Box<dyn vlm::Examples + 'a>, Vec<String>)> {
    if let Some(drawn) = data.drawn.filter(|_| data.llava.is_empty()) {
        let captions_only = stage == Stage::One;
        return Ok((Box::new(DrawnScenes::new(drawn, tokenizer, template, captions_only)), Vec::new()));
    }
    if data.drawn.is_some() || data.llava.is_empty() {
        bail!("give either [data.drawn] or [[data.llava]] in the recipe, or --data FILE");
    }
    let source = |llava: &LlavaFile| Source { file: llava.file.clone(), images: llava.images() };
    let mut corpus = Corpus::read(&data.llava.iter().map(source).collect::<Vec<_>>())?;
    let bad = std::mem::take(&mut corpus.bad).iter().map(ToString::to_string).collect();
    let style = if stage == Stage::One { Style::Caption } else { Style::Chat(template) };
    Ok((Box::new(Conversations::new(corpus, tokenizer, style, stride, data.longest)), bad))
}

fn tell_bad(bad: &[String]) {
    bad.iter().take(TOLD).for_each(|reason| eprintln!("left out: {reason}"));
    if bad.len() > TOLD {
        eprintln!("and {} more; {} left out in all", bad.len() - TOLD, bad.len());
    }
}

fn estimate(from: &Path, config: &vlm::VlmConfig, examples: &dyn vlm::Examples) -> anyhow::Result<Estimate> {
    let raw = RawCheckpoint::open_fastvlm(from)?;
    let sizes = Checkpoint::open(from, None)?.config;
    let samples = (0..examples.lengths().len().min(MEASURED))
        .filter_map(|i| examples.example(i, config.resolution).ok());
    let text = samples.map(|example| example.tokens.len()).max().unwrap_or(0);
    Ok(Estimate::vlm(&FastVitConfig::of(&raw)?, &Qwen2Config::of(&sizes, &raw)?, config, text))
}
