//! `train clip` and `train clip reinforce`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use ocelli::{FastVlm, LoadOptions, MobileClip as Engine};
use ocelli_text::ClipTokenizer;
use ocelli_train::burn::tensor::Device;
use ocelli_train::checkpoint;
use ocelli_train::clip_data::{
    Augmentation, CaptionList, Pairs, Plain, Recipe, Reinforced, Shards, Synthetic, Take,
};
use ocelli_train::drawn::{DrawnConfig, DrawnPairs, texts};
use ocelli_train::estimate::Estimate;
use ocelli_train::fit::Run;
use ocelli_train::fit::clip::{ClipFit, ClipLoss, Sources, train};
use ocelli_train::nets::MobileClip;
use ocelli_train::recipe::{ClipData, ClipRecipe};
use ocelli_train::reinforce::{Captioner, DataSet, ReinforceConfig, Teacher, reinforce};
use ocelli_weights::{ClipCheckpoint, ClipConfig, Naming, RawCheckpoint};

use crate::arguments::RunArguments;
use crate::memory::tell_memory;
use crate::watch::{stop_flag, watched};

/// Scenes whose captions a new vocabulary is learned from.
const VOCABULARY_SCENES: usize = 5000;
/// What to change where memory is too small.
const REMEDY: &str =
    "make train.batch smaller (train.accumulate does not replace a large one), or lower train.resolution";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    reinforce: Option<Sub>,
    #[command(flatten)]
    train: Option<RunArguments>,
}

#[derive(Subcommand)]
enum Sub {
    /// Write a reinforced data set: stored augmentations, teachers' embeddings, synthetic captions.
    Reinforce(ReinforceArguments),
}

#[derive(Args)]
struct ReinforceArguments {
    /// JSON Lines with `image` and `caption`.
    captions: PathBuf,
    /// The new data set; one that was interrupted goes on.
    out: PathBuf,
    /// The folder of the pictures; that of the captions if not given.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// A MobileCLIP whose embeddings are stored. May be given several times.
    #[arg(long = "teacher", value_name = "DIR", required = true)]
    teachers: Vec<PathBuf>,
    /// A FastVLM that writes synthetic captions.
    #[arg(long, value_name = "DIR")]
    captioner: Option<PathBuf>,
    /// Augmentations of each picture.
    #[arg(long, default_value_t = 30)]
    augmentations: usize,
    /// Synthetic captions of each picture.
    #[arg(long, default_value_t = 5)]
    captions_each: usize,
    /// Pictures of a tar file.
    #[arg(long, default_value_t = 1000)]
    shard: usize,
    /// Of what is left to chance.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads; one for each core if not given.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match (&arguments.reinforce, &arguments.train) {
        (Some(Sub::Reinforce(arguments)), _) => write(arguments),
        (None, Some(arguments)) => learn(arguments),
        (None, None) => bail!("give --config and --out, or `reinforce`; --help says more"),
    }
}

fn learn(arguments: &RunArguments) -> anyhow::Result<()> {
    let recipe = ClipRecipe::read(&arguments.config, &arguments.changes)?;
    recipe.train.check()?;
    let device = arguments.open_device()?;
    recipe.train.dtype.check(&device)?;
    let write = recipe.new.as_ref().map(|new| {
        |dir: &Path| {
            let ClipData::Drawn(DrawnConfig { seed, .. }) = recipe.data else {
                bail!("a new model learns its vocabulary from [data.drawn]");
            };
            let texts = texts(seed, VOCABULARY_SCENES);
            Ok(new.write(dir, texts.iter().map(String::as_str))?)
        }
    });
    let from = arguments.begin("open_clip_model.safetensors", write)?;
    let config = ClipCheckpoint::open(&from)?.config;
    let source = |data: &ClipData, held_back| pairs(data, held_back, &recipe.train, &from, &config);
    let pairs = source(&recipe.data, false)?;
    let held_back = recipe.held_back.as_ref().map(|data| source(data, true)).transpose()?;
    if !tell_memory(&estimate(&from, &config, &recipe.train)?, arguments, REMEDY)? {
        return Ok(());
    }

    let (network, naming) = network(&from, &config, &device)?;
    let run = Run::open(&arguments.out, &from, &recipe)?;
    let earlier = run.read_records()?;
    let sources = Sources { pairs: &*pairs, held_back: held_back.as_deref() };
    watched(&arguments.out, earlier, arguments.json, |progress, tell| {
        train(network, &device, &naming, &sources, &recipe.train, &run, progress, tell).map(drop)
    })
}

fn estimate(from: &Path, config: &ClipConfig, fit: &ClipFit) -> anyhow::Result<Estimate> {
    let raw = RawCheckpoint::open_clip(from)?;
    let (image, text) = MobileClip::sizes(&raw, config)?;
    Ok(Estimate::clip(&image, &text, config.embed_dim, fit))
}

fn network(from: &Path, config: &ClipConfig, device: &Device) -> anyhow::Result<(MobileClip, Naming)> {
    let raw = RawCheckpoint::open_clip(from)?;
    let mut network = MobileClip::like(&raw, config, false, device)?;
    let unused = checkpoint::load(&mut network, &raw)?;
    if let Some(first) = unused.first() {
        bail!("{}: no part of the network takes {first}", from.display());
    }
    Ok((network, raw.naming))
}

/// Pairs to learn from, or held back to measure on: those of captions then with the middle of their pictures.
fn pairs(
    data: &ClipData,
    held_back: bool,
    fit: &ClipFit,
    from: &Path,
    config: &ClipConfig,
) -> anyhow::Result<Box<dyn Pairs>> {
    let own = ["tokenizer.json", "vocab.json"].iter().any(|name| from.join(name).is_file());
    let tokenizer = if own { ClipTokenizer::from_dir(from)? } else { ClipTokenizer::new() };
    let text = config.text.as_ref().context("a MobileCLIP without a text tower cannot be trained")?;
    let recipe = Recipe {
        size: fit.resolution,
        mean: config.image.mean,
        std: config.image.std,
        context_length: text.context_length,
    };
    Ok(match data {
        ClipData::Drawn(drawn) => Box::new(DrawnPairs::new(*drawn, recipe, tokenizer)),
        ClipData::Captions(file) => {
            let list = CaptionList::read(&file.file, &file.images())?;
            list.bad.iter().for_each(|bad| eprintln!("left out: {bad}"));
            let augmentation =
                if held_back { Augmentation::centre(recipe.size) } else { Augmentation::usual(recipe.size) };
            Box::new(Plain::new(list.samples, augmentation, recipe, tokenizer))
        }
        ClipData::Reinforced { folder, synthetic } => {
            let set = DataSet::open(folder)?;
            let shards = Shards::open(&Shards::in_folder(folder)?)?;
            shards.bad.iter().for_each(|bad| eprintln!("left out: {bad}"));
            Box::new(Reinforced::new(
                shards,
                set.image_augmentation,
                recipe,
                tokenizer,
                if held_back { Take::Pairs } else { take(&fit.loss, synthetic) },
            ))
        }
    })
}

/// What the loss needs of a reinforced data set.
fn take(loss: &ClipLoss, synthetic: &Synthetic) -> Take {
    match loss {
        ClipLoss::Reinforced { synthetic: wanted, teachers, .. } => Take::Teachers {
            columns: teachers.dims.iter().sum(),
            synthetic: if *wanted { synthetic.clone() } else { Synthetic::None },
        },
        ClipLoss::Clip {} | ClipLoss::Siglip { .. } => Take::Pairs,
    }
}

fn write(arguments: &ReinforceArguments) -> anyhow::Result<()> {
    let folder = arguments.captions.parent().unwrap_or(Path::new("")).to_owned();
    let list = CaptionList::read(&arguments.captions, &arguments.images.clone().unwrap_or(folder))?;
    list.bad.iter().for_each(|bad| eprintln!("left out: {bad}"));
    let options = ocelli::ClipOptions { threads: arguments.threads, ..ocelli::ClipOptions::default() };
    let teachers = arguments.teachers.iter().map(|dir| Engine::load(dir, &options));
    let teachers = teachers.collect::<Result<Vec<_>, _>>()?;
    let teachers: Vec<&dyn Teacher> = teachers.iter().map(|teacher| teacher as &dyn Teacher).collect();
    let options = LoadOptions { threads: arguments.threads, ..LoadOptions::default() };
    let captioner = arguments.captioner.as_ref().map(|dir| FastVlm::load(dir, &options)).transpose()?;
    let captioner = captioner.as_ref().map(|captioner| captioner as &dyn Captioner);
    let config = ReinforceConfig {
        augmentations: arguments.augmentations,
        captions: arguments.captions_each,
        shard: arguments.shard,
        seed: arguments.seed,
        ..ReinforceConfig::default()
    };
    let stop = stop_flag()?;
    let mut told = 0;
    let mut progress = |state: ocelli_train::reinforce::Reinforced| {
        let percent = 100 * state.done / state.pictures.max(1);
        if percent >= told {
            eprintln!("{} of {} pictures, {} bad", state.done, state.pictures, state.bad);
            told = percent - percent % 5 + 5;
        }
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut tell = |bad: &str| eprintln!("left out: {bad}");
    reinforce(&list.samples, &teachers, captioner, &config, &arguments.out, &mut progress, &mut tell)?;
    let set = DataSet::open(&arguments.out)?;
    eprintln!(
        "{}: teachers of {:?} values with logit scales {:?}{}",
        arguments.out.display(),
        set.teachers.dims,
        set.teachers.logit_scales,
        if set.synthetic { ", with synthetic captions" } else { "" }
    );
    Ok(())
}
