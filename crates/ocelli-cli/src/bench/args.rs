//! The arguments of `bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::{Device, Dtype, ModelArgs, QuantArg, VisionArg};

/// What to measure.
#[derive(Subcommand)]
pub enum BenchCommand {
    /// Time to the first token and to 30 tokens; preprocessing, encoder and prefill apart (FastVLM)
    Ttft(TtftArgs),
    /// Vision tower and projector at some resolutions (FastVLM)
    Encode(EncodeArgs),
    /// Time from one token to the next (FastVLM)
    Decode(DecodeArgs),
    /// Answer without a pause: the first minute beside the last, with clock and temperature (FastVLM)
    Sustained(SustainedArgs),
    /// Peak memory of loading and of one answer, packed weights, arenas
    Memory(MemoryArgs),
    /// Resolutions and models side by side: visual tokens and latency, and what fits a budget (FastVLM)
    Pareto(ParetoArgs),
    /// Each op's time, bytes and FLOP/s beside the measured limits of the machine
    Ops(OpsArgs),
    /// Image and text tower of a MobileCLIP: ms alone, pictures in a second in a batch
    Embed(EmbedBenchArgs),
    /// All of these, short, into results.json and one page report.html
    Suite(SuiteArgs),
}

/// How to measure.
#[derive(Args, Clone)]
#[command(next_help_heading = "Measuring")]
pub struct MeasureArgs {
    /// One JSON object a measurement on stdout
    #[arg(long)]
    pub json: bool,
    /// With --json: every measured time too, as `times_ms`, in the order of the runs
    #[arg(long, requires = "json")]
    pub times: bool,
    /// Runs before the measured ones
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub warmup: usize,
    /// Measure with this picture, which is then read and decoded in each run, instead of built-in pixels
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Fail when other programs keep the machine busy, before or while measuring
    #[arg(long)]
    pub require_quiet: bool,
    /// Cores that other programs may keep busy on a machine that is called quiet
    #[arg(long, value_name = "CORES", default_value_t = 0.5, value_parser = cores)]
    pub quiet_load: f64,
}

/// `bench ttft`.
#[derive(Args, Clone)]
pub struct TtftArgs {
    /// How often
    #[arg(long, value_name = "N", default_value = "20")]
    pub runs: NonZeroUsize,
    /// Sides of the picture in pixels; the model's own when absent
    #[arg(long, value_name = "PX,..", value_delimiter = ',')]
    pub resolution: Vec<usize>,
    /// The question
    #[arg(long, value_name = "TEXT", default_value = "Describe the image.")]
    pub prompt: String,
    /// Tokens of each answer: the time to all of them is told too
    #[arg(long, value_name = "N", default_value = "30")]
    pub max_tokens: NonZeroUsize,
    #[command(flatten)]
    pub measure: MeasureArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// `bench encode`.
#[derive(Args, Clone)]
pub struct EncodeArgs {
    /// How often
    #[arg(long, value_name = "N", default_value = "10")]
    pub runs: NonZeroUsize,
    /// Sides of the picture in pixels
    #[arg(long, value_name = "PX,..", value_delimiter = ',', default_value = "448,896,1024")]
    pub resolution: Vec<usize>,
    #[command(flatten)]
    pub measure: MeasureArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// `bench decode`.
#[derive(Args, Clone)]
pub struct DecodeArgs {
    /// How many answers
    #[arg(long, value_name = "N", default_value = "3")]
    pub runs: NonZeroUsize,
    /// Tokens of each answer; the times between them are measured
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = two_or_more)]
    pub max_tokens: u64,
    /// Side of the picture in pixels; the model's own when absent
    #[arg(long, value_name = "PX")]
    pub resolution: Option<usize>,
    /// The question
    #[arg(long, value_name = "TEXT", default_value = "Describe the image.")]
    pub prompt: String,
    #[command(flatten)]
    pub measure: MeasureArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// `bench sustained`.
#[derive(Args, Clone)]
pub struct SustainedArgs {
    /// How long
    #[arg(long, value_name = "X", default_value_t = 5.0, value_parser = minutes)]
    pub minutes: f64,
    /// Side of the picture in pixels; the model's own when absent
    #[arg(long, value_name = "PX")]
    pub resolution: Option<usize>,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value = "30")]
    pub max_tokens: NonZeroUsize,
    #[command(flatten)]
    pub measure: MeasureArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// `bench memory`.
#[derive(Args, Clone)]
pub struct MemoryArgs {
    /// Side of the picture in pixels; the model's own when absent
    #[arg(long, value_name = "PX")]
    pub resolution: Option<usize>,
    /// Tokens of the answer
    #[arg(long, value_name = "N", default_value = "30")]
    pub max_tokens: NonZeroUsize,
    #[command(flatten)]
    pub measure: MeasureArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// `bench pareto`.
#[derive(Args, Clone)]
pub struct ParetoArgs {
    /// Model directory or the name of a pulled model; may be repeated
    #[arg(long = "model", value_name = "DIR|ID", help_heading = "Model")]
    pub models: Vec<String>,
    /// Sides of the picture in pixels
    #[arg(long, value_name = "PX,..", value_delimiter = ',', default_value = "256,512,768,1024")]
    pub resolution: Vec<usize>,
    /// How often each
    #[arg(long, value_name = "N", default_value = "5")]
    pub runs: NonZeroUsize,
    /// Say which model and resolution have the most visual tokens within this time to the first token
    #[arg(long, value_name = "400ms", value_parser = milliseconds)]
    pub ttft_budget: Option<f64>,
    #[command(flatten)]
    pub measure: MeasureArgs,
    /// Where to run: gpu takes the GPU that OCELLI_GPU names, or the first; auto is the CPU
    #[arg(long, value_enum, default_value_t = Device::Auto, help_heading = "Model")]
    pub device: Device,
    /// Threads; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Model")]
    pub threads: usize,
    /// Compute type: f32 is exact and takes twice the memory; auto is bf16
    #[arg(long, value_enum, default_value_t = Dtype::Auto, help_heading = "Model")]
    pub dtype: Dtype,
    /// Quantize the language model while loading
    #[arg(long, value_enum, help_heading = "Model")]
    pub quant: Option<QuantArg>,
    /// The wide matrices of the vision tower
    #[arg(long, value_enum, help_heading = "Model")]
    pub quant_vision: Option<VisionArg>,
}

impl ParetoArgs {
    /// The arguments of each model; without any, of the default one.
    pub fn each(&self) -> Vec<ModelArgs> {
        let (device, threads, dtype, quant) = (self.device, self.threads, self.dtype, self.quant);
        let quant_vision = self.quant_vision;
        let one = |model| ModelArgs {
            model,
            vision: None,
            tokenizer: None,
            device,
            threads,
            dtype,
            quant,
            quant_vision,
        };
        match &self.models[..] {
            [] => vec![one(None)],
            models => models.iter().map(|model| one(Some(model.clone()))).collect(),
        }
    }
}

/// `bench ops`.
#[derive(Args, Clone)]
pub struct OpsArgs {
    /// How often
    #[arg(long, value_name = "N", default_value = "5")]
    pub runs: NonZeroUsize,
    /// Side of the picture in pixels; the model's own when absent (FastVLM)
    #[arg(long, value_name = "PX")]
    pub resolution: Option<usize>,
    /// Positions of the prefill; those of a question about one picture when absent (FastVLM)
    #[arg(long, value_name = "N")]
    pub tokens: Option<NonZeroUsize>,
    #[command(flatten)]
    pub measure: MeasureArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// `bench embed`.
#[derive(Args, Clone)]
pub struct EmbedBenchArgs {
    /// How often
    #[arg(long, value_name = "N", default_value = "20")]
    pub runs: NonZeroUsize,
    /// Pictures that go through the image tower at a time
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,32")]
    pub batch: Vec<NonZeroUsize>,
    /// The text of the text tower
    #[arg(long, value_name = "TEXT", default_value = "a photo of a dog")]
    pub text: String,
    #[command(flatten)]
    pub measure: MeasureArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// `bench suite`.
#[derive(Args, Clone)]
pub struct SuiteArgs {
    /// Folder for results.json and report.html
    #[arg(long, value_name = "DIR", default_value = "ocelli-bench")]
    pub out: PathBuf,
    /// How often each
    #[arg(long, value_name = "N", default_value = "5")]
    pub runs: NonZeroUsize,
    /// Sides of the picture in pixels; a quarter, half and all of the model's own when absent (FastVLM)
    #[arg(long, value_name = "PX,..", value_delimiter = ',')]
    pub resolution: Vec<usize>,
    /// How long to answer without a pause (FastVLM)
    #[arg(long, value_name = "X", default_value_t = 0.5, value_parser = minutes)]
    pub minutes: f64,
    /// Say which resolution has the most visual tokens within this time to the first token (FastVLM)
    #[arg(long, value_name = "400ms", value_parser = milliseconds)]
    pub ttft_budget: Option<f64>,
    #[command(flatten)]
    pub measure: MeasureArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}

fn number(text: &str, fits: impl Fn(f64) -> bool, what: &str) -> Result<f64, String> {
    let value: f64 = text.trim().parse().map_err(|_| format!("{what} is needed"))?;
    if value.is_finite() && fits(value) { Ok(value) } else { Err(format!("{what} is needed")) }
}

fn cores(text: &str) -> Result<f64, String> {
    number(text, |v| v >= 0.0, "a number of cores, 0 or more,")
}

fn minutes(text: &str) -> Result<f64, String> {
    number(text, |v| v > 0.0 && v <= 1440.0, "a number of minutes above 0 and at most 1440")
}

fn two_or_more(text: &str) -> Result<u64, String> {
    let value = text.parse().ok().filter(|&n: &u64| n >= 2);
    value.ok_or_else(|| "a whole number of at least 2 is needed".to_owned())
}

/// `400ms`, `1.5s` or `400`, in ms.
fn milliseconds(text: &str) -> Result<f64, String> {
    const WHAT: &str = "a time such as 400ms or 1.5s";
    let (value, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(value), _) => (value, 1.0),
        (None, Some(value)) => (value, 1e3),
        (None, None) => (text, 1.0),
    };
    Ok(number(value, |v| v > 0.0, WHAT)? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(
            [milliseconds("400ms"), milliseconds("1.5s"), milliseconds("250")],
            [Ok(400.0), Ok(1500.0), Ok(250.0)]
        );
        for wrong in ["", "ms", "-3ms", "0s", "4h", "inf", "nan"] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
    }
}
