//! The command line: names and flags that scripts rely on.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ocelli::{BlockFormat, QuantPolicy, SynthArch};

use crate::bench::args::BenchCommand;
use crate::eval_drawn::DrawnArgs;
use crate::photos::args::{DupesArgs, IndexArgs, SearchArgs, SimilarArgs, StatsArgs};
use crate::synth_data::SynthDataArgs;

/// Vision-language on your own machine; nothing leaves it.
#[derive(Parser)]
#[command(name = "ocelli", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Describe pictures, one result each
    Caption {
        /// Picture files
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<PathBuf>,
        #[command(flatten)]
        model: ModelArgs,
        #[command(flatten)]
        generate: GenerateArgs,
    },
    /// Ask a question: about each picture, or without one
    Ask {
        /// Picture files, then the question
        #[arg(required = true, value_name = "[IMAGE]... QUESTION")]
        images_and_question: Vec<String>,
        /// Put all pictures into one prompt instead of asking about each
        #[arg(long)]
        together: bool,
        #[command(flatten)]
        model: ModelArgs,
        #[command(flatten)]
        generate: GenerateArgs,
    },
    /// Talk about a picture in several turns: /image FILE adds one, Ctrl-C stops an answer, Ctrl-D ends
    Chat {
        /// A picture to begin with
        image: Option<PathBuf>,
        #[command(flatten)]
        model: ModelArgs,
        #[command(flatten)]
        generate: GenerateArgs,
    },
    /// Turn pictures and texts into embeddings of length 1 (MobileCLIP), one JSON object each
    Embed(EmbedArgs),
    /// Say which of some labels a picture shows (MobileCLIP)
    Classify(ClassifyArgs),
    /// Keep lists of labels and their embeddings, for `classify --labels-set NAME`
    Labels {
        #[command(subcommand)]
        command: LabelsCommand,
    },
    /// Measure a model on pictures whose content is known
    Eval {
        #[command(subcommand)]
        command: EvalCommand,
    },
    /// Measure how quick a model is on this machine
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Index folders of photos for `search`; run it again after changes, it does only what is new
    Index(IndexArgs),
    /// Find photos by words, by a picture, or by a sum of them
    Search(SearchArgs),
    /// Find photos like one
    Similar(SimilarArgs),
    /// Group photos that look the same
    Dupes(DupesArgs),
    /// Show what the photo index holds
    Stats(StatsArgs),
    /// Show a model's family, sizes, types and memory plan without loading it
    Inspect {
        /// Model directory, MobileCLIP weight file, or the name of a pulled model
        #[arg(value_name = "DIR|FILE|ID", default_value = "ocelli-tiny")]
        model: String,
        /// Take the vision tower from this checkpoint
        #[arg(long, value_name = "DIR")]
        vision: Option<PathBuf>,
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Write every stage of one answer as f32, to compare engines
    Trace {
        /// Picture file
        image: PathBuf,
        /// The question
        #[arg(long, value_name = "TEXT")]
        prompt: String,
        /// Safetensors file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        model: ModelArgs,
        #[command(flatten)]
        generate: GenerateArgs,
    },
    /// Make a random checkpoint at a real size, for measuring: its answers mean nothing
    Synth {
        /// fastvlm-0.5b (1.5b, 7b, tiny), mobileclip-s0 (s1, s2, b, blt, tiny) or mobileclip2-s0 (s2, s3, s4, b, l14)
        #[arg(value_parser = str::parse::<SynthArch>)]
        arch: SynthArch,
        /// Directory to write
        dir: PathBuf,
        /// Same seed, same weights
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// Replace an earlier synth model in the directory
        #[arg(long)]
        force: bool,
        /// One JSON object about what was written
        #[arg(long)]
        json: bool,
    },
    /// Draw scenes with captions, questions and right answers, to train on or to measure with
    SynthData(SynthDataArgs),
    /// Train and fine-tune models; `ocelli train --help` says more
    #[command(disable_help_flag = true)]
    Train {
        /// Arguments of `ocelli-train`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Quantize the language model of a FastVLM, compare it with the original, and write it if it is close
    Quantize(QuantizeArgs),
    /// Models for pages in a browser
    Web {
        #[command(subcommand)]
        command: WebCommand,
    },
    /// Get a model from the hub, or finish a pull that was stopped; the only command that uses the network
    ///
    /// Models go under $OCELLI_HOME/models (default ~/.local/share/ocelli/models) and are found by the same
    /// name with --model. HF_TOKEN is sent to the server where it is set.
    Pull {
        /// fastvlm-0.5b, fastvlm-1.5b, fastvlm-7b, mobileclip2-s0 (s2, s3, s4, b, l14), mobileclip-s0 (s1, s2, b,
        /// blt) or ORG/REPO
        #[arg(value_name = "ID")]
        model: String,
        /// Server to take it from [default: $HF_ENDPOINT, else https://huggingface.co]
        #[arg(long, value_name = "URL")]
        endpoint: Option<String>,
        /// One JSON object instead of the directory
        #[arg(long)]
        json: bool,
    },
    /// Show the models that are kept here and those that are part of the program
    List {
        /// One JSON object a model
        #[arg(long)]
        json: bool,
    },
    /// Remove a model that is kept here
    Rm {
        /// Its name, as `ocelli list` shows it
        #[arg(value_name = "ID")]
        model: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Show CPU features, threads, memory and where models live
    Doctor {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Which model, and how it runs.
#[derive(Args, Clone)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model directory, or the name of a pulled model [default: ocelli-tiny, which is part of the program]
    #[arg(long, value_name = "DIR|ID")]
    pub model: Option<String>,
    /// Take the vision tower from this checkpoint (for language-only MLX models)
    #[arg(long, value_name = "DIR")]
    pub vision: Option<PathBuf>,
    /// Directory of the vocabulary, for `trace` with a MobileCLIP that has another one than CLIP's
    #[arg(long, value_name = "DIR", hide = true)]
    pub tokenizer: Option<PathBuf>,
    /// Where to run: gpu takes the GPU that OCELLI_GPU names, or the first; auto is the CPU
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Threads; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Compute type: f32 is exact and takes twice the memory; auto is bf16
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
    /// Quantize the language model while loading: less memory, faster answers, a little less exact
    #[arg(long, value_enum)]
    pub quant: Option<QuantArg>,
    /// The wide matrices of the vision tower while loading: q8 multiplies 8-bit integers, with or without --quant
    #[arg(long, value_enum)]
    pub quant_vision: Option<VisionArg>,
}

impl ModelArgs {
    /// What to quantize while loading, if anything.
    pub fn policy(&self) -> Option<QuantPolicy> {
        policy(self.quant, self.quant_vision)
    }
}

fn policy(quant: Option<QuantArg>, vision: Option<VisionArg>) -> Option<QuantPolicy> {
    let int8_vision = vision == Some(VisionArg::Q8);
    match quant {
        Some(quant) => Some(QuantPolicy::of(quant.format()).with_vision(int8_vision)),
        None => int8_vision.then_some(QuantPolicy::VISION),
    }
}

/// What to quantize, and where to.
#[derive(Args, Clone)]
pub struct QuantizeArgs {
    /// Model directory, or the name of a pulled model
    #[arg(value_name = "MODEL", default_value = "ocelli-tiny")]
    pub model: String,
    /// Directory to write; without it the model is only compared
    #[arg(value_name = "OUT")]
    pub out: Option<PathBuf>,
    /// Blocks of the language model's layers
    #[arg(long, value_enum, default_value_t = QuantArg::Q4)]
    pub weights: QuantArg,
    /// Blocks of the embedding and the head
    #[arg(long, value_enum, default_value_t = QuantArg::Q8)]
    pub head: QuantArg,
    /// What becomes of the wide matrices of the vision tower: bf16 keeps them as they are stored
    #[arg(long, value_enum, default_value_t = VisionArg::Bf16)]
    pub vision: VisionArg,
    /// A picture to compare on; may be repeated; without it, three drawn ones
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,
    /// Write it even if it is over a limit
    #[arg(long)]
    pub force: bool,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    /// Threads; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Compute type of the comparison; auto is bf16
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
}

/// Blocks of quantized matrices.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum QuantArg {
    /// 8 bits and a scale for 32 values
    Q8,
    /// 4 bits and a scale for 32 values
    Q4,
}

impl QuantArg {
    /// The blocks that the argument stands for.
    pub fn format(self) -> BlockFormat {
        match self {
            QuantArg::Q8 => BlockFormat::Q8,
            QuantArg::Q4 => BlockFormat::Q4,
        }
    }
}

/// What becomes of the wide matrices of the vision tower.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum VisionArg {
    /// 8-bit codes with a scale a row; activations get 8-bit codes while it runs
    Q8,
    /// They stay as they are stored
    Bf16,
}

/// Which MobileCLIP, and how it runs.
#[derive(Args, Clone)]
#[command(next_help_heading = "Model")]
pub struct ClipArgs {
    /// Model directory or weight file, or the name of a pulled model
    #[arg(long, value_name = "DIR|FILE|ID", default_value = "ocelli-tiny-clip")]
    pub model: String,
    /// Directory of the vocabulary, where it is neither CLIP's own nor beside the weights
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Where to run: gpu takes the GPU that OCELLI_GPU names, or the first; auto is the CPU
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Threads; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Compute type: f32 is exact and takes twice the memory; auto is bf16
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
    /// Turn pictures upright as their EXIF data say, or ignore it
    #[arg(long, value_enum, value_name = "HOW", default_value_t = OrientationArg::Exif, help_heading = "Pictures")]
    pub orientation: OrientationArg,
    /// Refuse pictures with more pixels
    #[arg(long, value_name = "N", default_value_t = 178_956_970, help_heading = "Pictures")]
    pub max_pixels: u64,
}

/// What to embed.
#[derive(Args, Clone)]
pub struct EmbedArgs {
    /// A picture, a folder of pictures, or - for a list of files on stdin; may be repeated
    #[arg(long = "image", value_name = "FILE|DIR|-")]
    pub images: Vec<PathBuf>,
    /// A text, or - for one a line on stdin; may be repeated
    #[arg(long = "text", value_name = "TEXT|-")]
    pub texts: Vec<String>,
    /// Write one file instead of JSON Lines: .npy or .safetensors
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// JSON Lines on stdout, which is the default
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub clip: ClipArgs,
}

/// What to tell apart.
#[derive(Args, Clone)]
pub struct ClassifyArgs {
    /// Picture files or folders, or - for a list on stdin
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// The labels, with commas between
    #[arg(
        long,
        value_name = "A,B,C",
        conflicts_with = "labels_file",
        required_unless_present_any = ["labels_file", "labels_set"]
    )]
    pub labels: Option<String>,
    /// A file with one label a line
    #[arg(long, value_name = "FILE")]
    pub labels_file: Option<PathBuf>,
    /// Labels and templates that `ocelli labels save` keeps under this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["labels", "labels_file", "templates"])]
    pub labels_set: Option<String>,
    /// A text around each label, such as "a photo of a {}"; 7 or 80 are CLIP's own ensembles; may be repeated
    #[arg(long = "template", value_name = "TEXT|7|80")]
    pub templates: Vec<String>,
    /// Show this many labels; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top: usize,
    /// One JSON object a picture on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub clip: ClipArgs,
}

/// What to do with label sets.
#[derive(Subcommand)]
pub enum LabelsCommand {
    /// Keep labels under a name, in place of what was kept there
    Save(SaveLabelsArgs),
    /// Show the label sets that are kept here
    List {
        /// One JSON object a set
        #[arg(long)]
        json: bool,
    },
    /// Remove a label set
    Rm {
        /// Its name, as `ocelli labels list` shows it
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// What to keep.
#[derive(Args, Clone)]
pub struct SaveLabelsArgs {
    /// Name of the set: ASCII letters, digits, `-`, `_` and `.`
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The labels, with commas between
    #[arg(
        long,
        value_name = "A,B,C",
        conflicts_with = "labels_file",
        required_unless_present = "labels_file"
    )]
    pub labels: Option<String>,
    /// A file with one label a line
    #[arg(long, value_name = "FILE")]
    pub labels_file: Option<PathBuf>,
    /// A text around each label, such as "a photo of a {}"; 7 or 80 are CLIP's own ensembles; may be repeated
    #[arg(long = "template", value_name = "TEXT|7|80")]
    pub templates: Vec<String>,
    /// One JSON object about what was kept
    #[arg(long)]
    pub json: bool,
    /// Keep the embeddings of this MobileCLIP too, so that its text tower need not run again
    #[arg(long, value_name = "DIR|FILE|ID", help_heading = "Model")]
    pub model: Option<String>,
    /// Directory of the vocabulary, where it is neither CLIP's own nor beside the weights
    #[arg(long, value_name = "DIR", requires = "model", help_heading = "Model")]
    pub tokenizer: Option<PathBuf>,
    /// Where to run: gpu takes the GPU that OCELLI_GPU names, or the first; auto is the CPU
    #[arg(long, value_enum, default_value_t = Device::Auto, help_heading = "Model")]
    pub device: Device,
    /// Threads; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Model")]
    pub threads: usize,
    /// Compute type: f32 is exact and takes twice the memory; auto is bf16
    #[arg(long, value_enum, default_value_t = Dtype::Auto, help_heading = "Model")]
    pub dtype: Dtype,
}

/// What to do for pages.
#[derive(Subcommand)]
pub enum WebCommand {
    /// Write a static folder that any file server can host: a model with hashes, in pieces under 100 MB, and the page
    Export(WebExportArgs),
}

/// What to export, and where to.
#[derive(Args, Clone)]
pub struct WebExportArgs {
    /// Model directory, or the name of a pulled model: a FastVLM or a MobileCLIP
    #[arg(long, value_name = "DIR|ID", default_value = "ocelli-tiny")]
    pub model: String,
    /// Folder to write; further models can be exported into the same one
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Folder of the model under models/ [default: the model's own name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Quantize the language model of a FastVLM on the way
    #[arg(long, value_enum)]
    pub quant: Option<QuantArg>,
    /// Blocks of the embedding and the head [default: those of --quant]
    #[arg(long, value_enum, requires = "quant")]
    pub head: Option<QuantArg>,
    /// What becomes of the wide matrices of a FastVLM's vision tower [default: q8 with --quant, else bf16]
    #[arg(long, value_enum)]
    pub quant_vision: Option<VisionArg>,
    /// The built page [default: web/build/site, where it is there]
    #[arg(long, value_name = "DIR")]
    pub site: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

impl WebExportArgs {
    /// What to quantize on the way, if anything: everything that can be, because every byte is downloaded.
    pub fn policy(&self) -> Option<QuantPolicy> {
        let vision = self.quant_vision.or(self.quant.map(|_| VisionArg::Q8));
        let policy = policy(self.quant, vision)?;
        let head = self.head.or(self.quant).map(QuantArg::format);
        Some(QuantPolicy { head, ..policy })
    }
}

/// What to measure.
#[derive(Subcommand)]
pub enum EvalCommand {
    /// Zero-shot accuracy of a MobileCLIP on a folder of folders, one a class
    Zeroshot(ZeroshotArgs),
    /// Answers about scenes that Ocelli draws and training never saw; a MobileCLIP gets classes and captions of them
    Drawn(DrawnArgs),
}

/// What to tell apart, and where the answers are.
#[derive(Args, Clone)]
pub struct ZeroshotArgs {
    /// Folder with one folder of pictures a class; the label is the folder's name with spaces for underscores
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// A file with other labels, one FOLDER=LABEL a line
    #[arg(long, value_name = "MAP")]
    pub labels_file: Option<PathBuf>,
    /// A text around each label, such as "a photo of a {}"; 7 or 80 are CLIP's own ensembles; may be repeated
    /// [default: 7]
    #[arg(long = "template", value_name = "TEXT|7|80")]
    pub templates: Vec<String>,
    /// Take the first N pictures of each class
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroUsize>,
    /// Draw which class is taken for which: rows are true, columns predicted, each row sums to 100 %
    #[arg(long, value_name = "F.png")]
    pub confusion: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub clip: ClipArgs,
}

/// Where to run.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Auto,
    Cpu,
    Gpu,
}

/// Compute type.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    Auto,
    F32,
    Bf16,
}

/// How pictures are read and tokens chosen.
#[derive(Args, Clone)]
#[command(next_help_heading = "Answer")]
pub struct GenerateArgs {
    /// One JSON object a result on stdout
    #[arg(long)]
    pub json: bool,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// How freely tokens are drawn; 0 is greedy, always the most likely one
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = not_negative)]
    pub temperature: f32,
    /// Keep the most likely tokens with this total probability
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive_share)]
    pub top_p: f32,
    /// Keep this many of the most likely tokens; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top_k: usize,
    /// Keep tokens this likely relative to the most likely one
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = share)]
    pub min_p: f32,
    /// Above 1, avoid tokens that were generated before
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    pub repetition_penalty: f32,
    /// Same seed, same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Go on after an end token
    #[arg(long)]
    pub ignore_eos: bool,
    /// Replace the system message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// How a picture becomes a square: put on black, or the middle cut out
    #[arg(long, value_enum, value_name = "HOW", default_value_t = FitArg::Pad, help_heading = "Pictures")]
    pub fit: FitArg,
    /// Side of the square in pixels, a multiple of 64; the default is the checkpoint's own
    #[arg(long, value_name = "PX", help_heading = "Pictures")]
    pub resolution: Option<usize>,
    /// Turn pictures upright as their EXIF data say, or ignore it
    #[arg(long, value_enum, value_name = "HOW", default_value_t = OrientationArg::Exif, help_heading = "Pictures")]
    pub orientation: OrientationArg,
    /// Refuse pictures with more pixels
    #[arg(long, value_name = "N", default_value_t = 178_956_970, help_heading = "Pictures")]
    pub max_pixels: u64,
}

/// How a picture becomes a square.
#[derive(ValueEnum, Clone, Copy)]
pub enum FitArg {
    Pad,
    Crop,
}

/// Whether EXIF orientation is applied.
#[derive(ValueEnum, Clone, Copy)]
pub enum OrientationArg {
    Exif,
    Ignore,
}

fn number(text: &str, fits: impl Fn(f32) -> bool, range: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| format!("a number {range} is needed"))?;
    if value.is_finite() && fits(value) { Ok(value) } else { Err(format!("it must be {range}")) }
}

fn not_negative(text: &str) -> Result<f32, String> {
    number(text, |v| v >= 0.0, "0 or more")
}

fn positive(text: &str) -> Result<f32, String> {
    number(text, |v| v > 0.0, "above 0")
}

/// A number between 0 and 1.
pub fn share(text: &str) -> Result<f32, String> {
    number(text, |v| (0.0..=1.0).contains(&v), "between 0 and 1")
}

fn positive_share(text: &str) -> Result<f32, String> {
    number(text, |v| v > 0.0 && v <= 1.0, "above 0 and at most 1")
}
