//! Arguments of photo search.

use std::path::PathBuf;

use clap::Args;
use ocelli_index::{Encoding, Filter, Near, parse_date};

use crate::args::{Device, Dtype, share};

/// Which index.
#[derive(Args, Clone)]
pub struct IndexFileArgs {
    /// File of the index [default: $OCELLI_HOME/indexes/photos.sqlite]
    #[arg(long = "index", value_name = "FILE")]
    pub index_file: Option<PathBuf>,
}

/// Which model, where it matters.
#[derive(Args, Clone)]
#[command(next_help_heading = "Model")]
pub struct PhotoModelArgs {
    /// MobileCLIP: directory, weight file, or name of a pulled model [default: the one that made the index, else ocelli-tiny-clip]
    #[arg(long, value_name = "DIR|FILE|ID")]
    pub model: Option<String>,
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
}

/// What to index.
#[derive(Args, Clone)]
pub struct IndexArgs {
    /// Folders of pictures, with all folders in them; without any, those that the index knows
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    #[command(flatten)]
    pub index: IndexFileArgs,
    /// Stay, and follow changes until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Try files again that could not be indexed before
    #[arg(long)]
    pub retry: bool,
    /// Look into files and folders whose names begin with a dot
    #[arg(long)]
    pub hidden: bool,
    /// How a new index stores vectors: f16, or i8 in half the space
    #[arg(long, value_name = "f16|i8", default_value = "f16", value_parser = str::parse::<Encoding>)]
    pub vectors: Encoding,
    /// Build the search graph now, although the index is small enough to be read whole
    #[arg(long)]
    pub graph: bool,
    /// One JSON object about what was done
    #[arg(long)]
    pub json: bool,
    /// Refuse pictures with more pixels
    #[arg(long, value_name = "N", default_value_t = 178_956_970)]
    pub max_pixels: u64,
    #[command(flatten)]
    pub model: PhotoModelArgs,
}

/// What to look for.
#[derive(Args, Clone)]
pub struct SearchArgs {
    /// Words, a picture's file, or a sum of them: "./cat.jpg + 2:snow - people"
    #[arg(value_name = "QUERY", required_unless_present = "web")]
    pub query: Option<String>,
    #[command(flatten)]
    pub index: IndexFileArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub show: ShowArgs,
    /// Serve a search page to this machine alone (all its users), until Ctrl-C; with --open, show it in the browser
    // What is looked for, and how it is shown, is chosen on the page.
    #[arg(long, conflicts_with_all = ["query", "json", "html", "count", "min_score", "FilterArgs"])]
    pub web: bool,
    /// Port of the page; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 7878, requires = "web")]
    pub port: u16,
    #[command(flatten)]
    pub model: PhotoModelArgs,
}

/// What pictures are like.
#[derive(Args, Clone)]
pub struct SimilarArgs {
    /// The picture
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub index: IndexFileArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub show: ShowArgs,
    #[command(flatten)]
    pub model: PhotoModelArgs,
}

/// How results are shown.
#[derive(Args, Clone)]
#[command(next_help_heading = "Results")]
pub struct ShowArgs {
    /// Most pictures to show
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub count: usize,
    /// Leave out pictures below this score, 0 to 1: how sure it is that the likeness is no accident
    #[arg(long, value_name = "X", default_value_t = 0.8, value_parser = share)]
    pub min_score: f32,
    /// One JSON object a picture
    #[arg(long)]
    pub json: bool,
    /// Write a page of the pictures that needs no other file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Open the best picture, or the page of --html or --web, in the system's viewer
    #[arg(long)]
    pub open: bool,
}

/// What counts.
#[derive(Args, Clone)]
#[command(next_help_heading = "Filters")]
pub struct FilterArgs {
    /// Taken then or later: 2024, 2024-05, 2024-05-17 or 2024-05-17T18:30
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub since: Option<(i64, i64)>,
    /// Taken then or earlier; a year, month or day counts whole
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub until: Option<(i64, i64)>,
    /// Taken within so many kilometres of a place
    #[arg(long, value_name = "LAT,LON,KM", allow_hyphen_values = true, value_parser = near)]
    pub near: Option<Near>,
    /// In the camera's maker or model
    #[arg(long, value_name = "TEXT")]
    pub camera: Option<String>,
    /// In the file's path, or a pattern for all of it: "*/2023/*.jpg"
    #[arg(long, value_name = "TEXT|PATTERN")]
    pub path: Option<String>,
}

/// What looks the same.
#[derive(Args, Clone)]
pub struct DupesArgs {
    #[command(flatten)]
    pub index: IndexFileArgs,
    /// Cosine from which two pictures count as the same, 0 to 1
    #[arg(long, value_name = "X", default_value_t = 0.95, value_parser = share)]
    pub threshold: f32,
    /// One JSON object a group
    #[arg(long)]
    pub json: bool,
}

/// What there is.
#[derive(Args, Clone)]
pub struct StatsArgs {
    #[command(flatten)]
    pub index: IndexFileArgs,
    /// List the files that could not be indexed
    #[arg(long)]
    pub failures: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

impl FilterArgs {
    /// As the index wants it.
    pub fn filter(&self) -> Filter {
        Filter {
            since: self.since.map(|(begin, _)| begin),
            until: self.until.map(|(_, end)| end),
            near: self.near,
            camera: self.camera.clone(),
            path: self.path.clone(),
        }
    }
}

fn date(text: &str) -> Result<(i64, i64), String> {
    parse_date(text).map_err(|error| error.to_string())
}

fn near(text: &str) -> Result<Near, String> {
    text.parse::<Near>().map_err(|error| error.to_string())
}
