//! The command line: names and flags that scripts rely on.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Vision-language on your own machine; nothing leaves it.
#[derive(Parser)]
#[command(name = "ocelli", version, about)]
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
        #[arg(required = true)]
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
    /// Show a model's family, sizes, types and memory plan without loading it
    Inspect {
        /// Model directory
        dir: PathBuf,
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
        #[arg(long)]
        prompt: String,
        /// Safetensors file to write
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        model: ModelArgs,
        #[command(flatten)]
        generate: GenerateArgs,
    },
    /// Make a random checkpoint at a real size, for measuring: its words mean nothing
    Synth {
        /// fastvlm-tiny, fastvlm-0.5b, fastvlm-1.5b or fastvlm-7b
        arch: String,
        /// Directory to write
        dir: PathBuf,
        /// Same seed, same weights
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Replace an earlier synth model in the directory
        #[arg(long)]
        force: bool,
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
pub struct ModelArgs {
    /// Model directory, or its name under $OCELLI_HOME/models; without it, a random tiny model
    #[arg(long, value_name = "DIR|ID")]
    pub model: Option<String>,
    /// Take the vision tower from this checkpoint (for language-only MLX models)
    #[arg(long, value_name = "DIR")]
    pub vision: Option<PathBuf>,
    /// Where to run
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Threads; 0 is one for each core
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Compute type; auto is bf16
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
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
pub struct GenerateArgs {
    /// One JSON object a result on stdout
    #[arg(long)]
    pub json: bool,
    /// Most tokens to generate
    #[arg(long, default_value_t = 256)]
    pub max_tokens: usize,
    /// 0 is greedy
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Keep the most likely tokens with this total probability
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Keep this many of the most likely tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Keep tokens this likely relative to the most likely one
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// Above 1, avoid tokens that were generated before
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Same seed, same text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// End the answer before this text; may be repeated
    #[arg(long)]
    pub stop: Vec<String>,
    /// Go on after an end token
    #[arg(long)]
    pub ignore_eos: bool,
    /// Replace the system message
    #[arg(long)]
    pub system: Option<String>,
    /// How a picture becomes a square
    #[arg(long, value_enum, default_value_t = FitArg::Pad)]
    pub fit: FitArg,
    /// Side of the square in pixels, a multiple of 64
    #[arg(long)]
    pub resolution: Option<usize>,
    /// Whether EXIF orientation is applied
    #[arg(long, value_enum, default_value_t = OrientationArg::Exif)]
    pub orientation: OrientationArg,
    /// Refuse pictures with more pixels
    #[arg(long, default_value_t = 178_956_970)]
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
