//! FastVLM from a checkpoint directory to answers: encode, splice, prefill, decode.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ocelli_cpu::{Isa, KvCache};
#[cfg(feature = "decoders")]
use ocelli_image::DecodeOptions;
use ocelli_models::{EMBEDDING, LogitRows, Qwen2Shape, fastvithd, projector, qwen2};
use ocelli_plan::{
    AttentionShape, BlockFormat, DType, Plan, PlanBuilder, PlanError, RunError, WeightSource, plan_arena,
};
use ocelli_text::{
    ModelFiles, PromptToken, Qwen2Tokenizer, StopMatcher, StopStep, Template, TokenStream, build_prompt,
    stop_ids_of,
};
use ocelli_weights::{Checkpoint, Directory, Family, FastVlmConfig, Folder, QuantPolicy, quantized};
use pollster::block_on;
use web_time::Instant;

use crate::Error;
use crate::answer::{Answer, FinishReason, Timings, Usage};
use crate::engine::{Arena, DeviceChoice, Engine, EngineOptions, Prepared};
use crate::folder::small_files;
use crate::memory::{MemoryPlan, available_memory_bytes};
use crate::packed::PackedCache;
use crate::prefix::{ImageEmbeds, Prefix, Slot};
use crate::request::{Image, ImageOptions, Request};
use crate::running::{Runner, Running, is_lost};
use crate::sampler::{Next, Sampler};

/// Most positions that go through the language model at a time: bounds the memory of long prompts. A picture of 1024 pixels
/// and a question have some 300, which take longer in two parts: each passes all matrices.
const PREFILL_CHUNK: usize = 512;
/// Generated tokens that the memory plan counts with.
const PLANNED_TOKENS: usize = 512;
/// Side of the largest picture in pixels.
const MAX_RESOLUTION: usize = 4096;

/// A matrix of the language model: when it is quantized, the layers are.
const FIRST_MATRIX: &str = "language.layers.0.attn.q_proj.weight";

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Take the vision tower from this checkpoint.
    pub vision: Option<PathBuf>,
    /// Type of activations and matrices.
    pub dtype: DType,
    /// Quantize matrices while loading. The language model's must not be quantized already; those of the vision tower
    /// stay as they are then.
    pub quant: Option<QuantPolicy>,
    /// Where the networks run.
    pub device: DeviceChoice,
    /// Threads; 0 means one for each core.
    pub threads: usize,
    /// Force an instruction set; otherwise `OCELLI_ISA` or the best that the CPU has.
    pub isa: Option<Isa>,
    /// Load even when memory seems too small.
    pub ignore_memory: bool,
    /// Keep packed weights in this directory, so that the next start maps them instead of packing.
    pub packed_dir: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            vision: None,
            dtype: DType::Bf16,
            quant: None,
            device: DeviceChoice::Auto,
            threads: 0,
            isa: None,
            ignore_memory: false,
            packed_dir: None,
        }
    }
}

/// A loaded model. Answers take `&self`; what one answer leaves in the caches serves the next.
pub struct FastVlm {
    pub(crate) config: FastVlmConfig,
    pub(crate) runner: Runner<Networks>,
    packed: Option<PackedCache>,
    pub(crate) source: Arc<dyn WeightSource>,
    int8_vision: bool,
    tokenizer: Arc<Qwen2Tokenizer>,
    template: Template,
    stop_ids: Vec<u32>,
    pub(crate) embeds: Mutex<ImageEmbeds>,
}

/// The networks on a device, and the keys and values of the last prompt.
pub(crate) struct Networks {
    pub(crate) language: Stage,
    pub(crate) vision: Mutex<HashMap<usize, Arc<Stage>>>,
    pub(crate) prefix: Mutex<Option<Prefix>>,
}

/// A prepared plan and the memory of its last runs, as far as nobody is using it.
pub(crate) struct Stage {
    pub(crate) plan: Prepared,
    /// As many as were ever in use at once.
    arenas: Mutex<Vec<Arena>>,
}

impl Stage {
    pub(crate) fn new(plan: Prepared) -> Self {
        Self { plan, arenas: Mutex::default() }
    }

    pub(crate) async fn with_arena<R>(&self, f: impl AsyncFnOnce(&Prepared, &mut Arena) -> R) -> R {
        let kept = lock(&self.arenas).pop();
        let mut arena = kept.unwrap_or_else(|| self.plan.new_arena());
        let result = f(&self.plan, &mut arena).await;
        lock(&self.arenas).push(arena);
        result
    }

    /// Bytes of the arenas that are kept.
    pub(crate) fn arena_bytes(&self) -> usize {
        lock(&self.arenas).len() * self.plan.arena_bytes()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Positions of each chunk of so many, but for the last: chunks of a length, as few as may be.
pub(crate) fn chunk_len(positions: usize) -> usize {
    if cfg!(target_arch = "wasm32") {
        return PREFILL_CHUNK; // A page loads less so.
    }
    let last = positions.saturating_sub(1);
    last / (last / PREFILL_CHUNK + 1) + 1
}

pub(crate) fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Whether a matrix of the vision tower has 8-bit rows.
pub(crate) fn has_int8(source: &dyn WeightSource, weights: &ocelli_weights::Weights) -> bool {
    let mut tower = weights.iter().filter(|tensor| tensor.name.starts_with("vision."));
    tower.any(|tensor| source.block_format(tensor.name) == Some(BlockFormat::Int8))
}

pub(crate) fn quant_name(language: Option<BlockFormat>, int8_vision: bool) -> Option<&'static str> {
    match (language, int8_vision) {
        (None, false) => None,
        (None, true) => Some("vision-int8"),
        (Some(format), false) => Some(format.name()),
        (Some(BlockFormat::Q8), true) => Some("q8+vision-int8"),
        (Some(BlockFormat::Q4), true) => Some("q4+vision-int8"),
        (Some(BlockFormat::Int8), true) => Some("int8+vision-int8"),
    }
}

impl FastVlm {
    /// Load a checkpoint directory of any supported layout.
    ///
    /// # Errors
    /// When files are missing or broken, a tensor is missing, unused or misshapen, or the model does
    /// not fit in memory.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self, Error> {
        block_on(Self::load_folder(&Directory::new(dir), options))
    }

    /// As [`Self::load`], from a folder that need not be a directory, for those who must not block.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub async fn load_folder(folder: &dyn Folder, options: &LoadOptions) -> Result<Self, Error> {
        let vision = options.vision.as_deref().map(Directory::new);
        let vision = vision.as_ref().map(|dir| dir as &dyn Folder);
        let checkpoint = Checkpoint::open_folder(folder, vision)?;
        let read = small_files(folder);
        let files = ModelFiles::new(folder.path(), &read);
        let tokenizer = Arc::new(Qwen2Tokenizer::from_files(files)?);
        let stop_ids = stop_ids_of(files, &tokenizer)?;
        let config = checkpoint.config.clone();
        let mut source = checkpoint.weight_source();
        if let Some(policy) = options.quant {
            let stored = checkpoint.weights().stored_dtype(FIRST_MATRIX).filter(|s| s.is_quantized());
            if let Some(stored) = stored.filter(|_| policy.layers.is_some()) {
                return Err(Error::Quantized { stored: stored.to_string() });
            }
            source = quantized(source, policy);
        }
        let int8_vision = has_int8(&*source, checkpoint.weights());
        // A GPU tells nobody how much memory it has left.
        if !options.ignore_memory && !matches!(options.device, DeviceChoice::Gpu(_)) {
            check_memory(&plan_memory(&config, &*source, options.dtype)?)?;
        }
        let (device, isa) = (options.device.clone(), options.isa);
        let wanted = EngineOptions { device, dtype: options.dtype, threads: options.threads, isa };
        let packed = options.packed_dir.as_deref().map(|packed| {
            PackedCache::new(
                packed,
                (checkpoint.fingerprint(), checkpoint.state()),
                options.dtype,
                quant_name(source.block_format(FIRST_MATRIX), int8_vision),
            )
        });
        let prepare = |engine: &Engine| networks(engine, &*source, &config, packed.as_ref());
        let runner = Runner::open(wanted, Arc::clone(&source), prepare).await?;
        let template = match config.family {
            Family::Native => Template::Native,
            _ => Template::Apple,
        };
        Ok(Self {
            embeds: Mutex::default(),
            config,
            runner,
            packed,
            source,
            int8_vision,
            tokenizer,
            template,
            stop_ids,
        })
    }

    /// What the next answer runs on; see [`Runner::ready`].
    pub(crate) async fn ready(&self) -> Result<Arc<Running<Networks>>, Error> {
        let prepare = |engine: &Engine| networks(engine, &*self.source, &self.config, self.packed.as_ref());
        self.runner.ready(prepare).await
    }

    /// End the GPU's device, as a driver does that is reset; the next answer opens it again. For tests of programs that
    /// run for long. Does nothing on the CPU.
    pub fn lose_device(&self) {
        self.runner.current().engine.lose();
    }

    /// Sizes and constants of the checkpoint.
    pub fn config(&self) -> &FastVlmConfig {
        &self.config
    }

    /// Name of the instruction set that runs, or of the GPU.
    pub fn kernels(&self) -> String {
        self.runner.current().engine.kernels().to_owned()
    }

    /// Why another device is used than was asked for, if so.
    pub fn device_note(&self) -> Option<String> {
        self.runner.current().note()
    }

    /// `cpu` or `gpu`.
    pub fn device_name(&self) -> &'static str {
        self.runner.current().engine.device_name()
    }

    /// The compute type.
    pub fn dtype(&self) -> DType {
        self.runner.current().engine.dtype()
    }

    /// The blocks that the layers of the language model are stored in, if it is quantized.
    pub fn quant(&self) -> Option<BlockFormat> {
        self.source.block_format(FIRST_MATRIX)
    }

    /// Whether the wide matrices of the vision tower have 8-bit codes.
    pub fn int8_vision(&self) -> bool {
        self.int8_vision
    }

    /// How the model is quantized, in one word: `q8` or `q4` for the language model, `vision-int8` for the tower.
    pub fn quant_name(&self) -> Option<&'static str> {
        quant_name(self.quant(), self.int8_vision)
    }

    /// Bytes of the packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.runner.current().engine.bytes()
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.runner.current().engine.threads()
    }

    /// Read a picture from a file with default options.
    ///
    /// # Errors
    /// When it cannot be read; the error names the file.
    #[cfg(feature = "decoders")]
    pub fn open_image(&self, path: &Path) -> Result<Image, Error> {
        self.open_image_with(path, &ImageOptions::default())
    }

    /// Read a picture from a file.
    ///
    /// # Errors
    /// When it cannot be read (the error names the file) or the resolution does not suit the tower.
    #[cfg(feature = "decoders")]
    pub fn open_image_with(&self, path: &Path, options: &ImageOptions) -> Result<Image, Error> {
        let start = Instant::now();
        let rgb = ocelli_image::open(path, &decode_options(options))?;
        self.prepare_image(&rgb, options, start)
    }

    /// Read a picture from bytes.
    ///
    /// # Errors
    /// As for [`Self::open_image_with`].
    #[cfg(feature = "decoders")]
    pub fn decode_image(&self, bytes: &[u8], options: &ImageOptions) -> Result<Image, Error> {
        let start = Instant::now();
        let rgb = ocelli_image::decode(bytes, &decode_options(options))?;
        self.prepare_image(&rgb, options, start)
    }

    /// Take pixels that are decoded already; what [`Image::preprocess_ms`] tells is without decoding then.
    ///
    /// # Errors
    /// When the resolution does not suit the tower.
    pub fn prepare_rgb(&self, rgb: &ocelli_image::Rgb8, options: &ImageOptions) -> Result<Image, Error> {
        self.prepare_image(rgb, options, Instant::now())
    }

    pub(crate) fn prepare_image(
        &self,
        rgb: &ocelli_image::Rgb8,
        options: &ImageOptions,
        start: Instant,
    ) -> Result<Image, Error> {
        let stride = self.config.vision.stride;
        let resolution = options.resolution.unwrap_or(self.config.image_size);
        if resolution == 0 || !resolution.is_multiple_of(stride) || resolution > MAX_RESOLUTION {
            return Err(Error::Resolution { resolution, stride, most: MAX_RESOLUTION });
        }
        let mut image = Image::new(rgb, resolution, options.fit);
        image.preprocess_ms = ms_since(start);
        Ok(image)
    }

    /// Visual tokens of a picture at this resolution.
    pub fn image_tokens(&self, resolution: usize) -> usize {
        (resolution / self.config.vision.stride).pow(2)
    }

    /// Answer a request; `on_text` gets each piece of text as soon as it is certain.
    ///
    /// A request that is cancelled is no error: the answer says so.
    ///
    /// # Errors
    /// When pictures and placeholders do not match, the prompt is too long or an option is wrong.
    pub fn generate(&self, request: &Request, on_text: &mut dyn FnMut(&str)) -> Result<Answer, Error> {
        block_on(self.generate_async(request, on_text, async || ()))
    }

    /// [`Self::generate`] for those who must not block, such as a page in a browser; `turn` is awaited once a token, so
    /// that whoever asks to stop is heard.
    ///
    /// # Errors
    /// As for [`Self::generate`].
    pub async fn generate_async(
        &self,
        request: &Request,
        on_text: &mut dyn FnMut(&str),
        turn: impl AsyncFn(),
    ) -> Result<Answer, Error> {
        request.sampling.check()?;
        let stops = StopMatcher::new(request.stop.clone())?;
        let slots = self.slots(request)?;
        let mut generation =
            Generation::new(self, self.ready().await?, request, slots.clone(), stops.clone());
        let mut result = generation.run(on_text, &turn).await;
        if is_lost(&result) && generation.ids.is_empty() {
            // Nothing was said yet: nobody need know.
            generation = Generation::new(self, self.ready().await?, request, slots, stops);
            result = generation.run(on_text, &turn).await;
        }
        match result {
            Ok(reason) => {
                generation.running.is_proven();
                Ok(generation.finish(reason, on_text))
            }
            Err(Error::Run(RunError::Cancelled)) => Ok(generation.finish(FinishReason::Cancelled, on_text)),
            Err(error) => Err(error),
        }
    }

    /// The spliced sequence, position by position.
    pub(crate) fn slots(&self, request: &Request) -> Result<Vec<Slot>, Error> {
        let prompt = build_prompt(&self.tokenizer, self.template, &request.turns, request.system.as_deref())?;
        let images = prompt.iter().filter(|t| matches!(t, PromptToken::Image)).count();
        if images != request.images.len() {
            let tokens = self.image_tokens(self.config.image_size);
            return Err(Error::ImageCount { images, given: request.images.len(), tokens });
        }
        let mut next = request.images.iter();
        let mut slots = Vec::new();
        for token in prompt {
            match token {
                PromptToken::Id(id) => slots.push(Slot::Token(id)),
                PromptToken::Image => {
                    let Some(image) = next.next() else { continue };
                    let rows = 0..self.image_tokens(image.resolution) as u32;
                    slots.extend(rows.map(|row| Slot::Image { key: image.key, row }));
                }
            }
        }
        if slots.len() >= self.config.max_positions {
            return Err(Error::TooLong { prompt: slots.len(), most: self.config.max_positions });
        }
        Ok(slots)
    }

    /// Visual tokens of a picture as embeddings `[tokens, hidden_size]`, from memory when it was
    /// seen before. The flag says whether the encoder ran.
    pub(crate) async fn encode(
        &self,
        image: &Image,
        stop: &dyn Fn() -> bool,
    ) -> Result<(Arc<Vec<f32>>, bool), Error> {
        if let Some(rows) = lock(&self.embeds).get(image.key) {
            return Ok((rows, false));
        }
        let running = self.ready().await?;
        let rows = self
            .vision_stage(&running, image.resolution)?
            .with_arena(async |plan, arena| {
                let (input, output) = (named(plan, "pixel_values"), named(plan, "projected"));
                plan.write(arena, input, &image.pixel_values);
                plan.run(arena, 1, None, stop)?;
                Ok::<_, Error>(Arc::new(plan.read(arena, output, 1).await?))
            })
            .await?;
        lock(&self.embeds).insert(image.key, Arc::clone(&rows));
        Ok((rows, true))
    }

    pub(crate) fn vision_stage(
        &self,
        running: &Running<Networks>,
        resolution: usize,
    ) -> Result<Arc<Stage>, Error> {
        let vision = &running.networks.vision;
        if let Some(stage) = lock(vision).get(&resolution) {
            return Ok(Arc::clone(stage));
        }
        let plan = vision_plan(&*self.source, resolution, false)?;
        let stage = Arc::new(Stage::new(running.engine.prepare(plan)?));
        lock(vision).insert(resolution, Arc::clone(&stage));
        Ok(stage)
    }

    /// Embeddings of some positions, `[slots, hidden_size]`: rows of the table, which stays in the checkpoint, and of
    /// the pictures.
    pub(crate) fn splice(
        &self,
        slots: &[Slot],
        images: &HashMap<u64, Arc<Vec<f32>>>,
    ) -> Result<Vec<f32>, Error> {
        let hidden = self.config.hidden_size;
        let vocabulary = self.source.shape(EMBEDDING).map_or(0, |shape| shape[0]);
        let mut embeds = vec![0.0; slots.len() * hidden];
        for (slot, row) in slots.iter().zip(embeds.chunks_exact_mut(hidden)) {
            match slot {
                Slot::Token(id) if *id as usize >= vocabulary => {
                    return Err(RunError::Id { id: *id, vocabulary }.into());
                }
                Slot::Token(id) => self.source.read_rows(EMBEDDING, *id as usize, row)?,
                Slot::Image { key, row: index } => {
                    row.copy_from_slice(&images[key][*index as usize * hidden..][..hidden]);
                }
            }
        }
        Ok(embeds)
    }

    /// Take the cache of the last answer as far as it fits, or an empty one.
    fn take_prefix(&self, running: &Running<Networks>, slots: &[Slot]) -> (Prefix, usize) {
        let config = &self.config;
        let mut prefix = lock(&running.networks.prefix).take().unwrap_or_else(|| Prefix {
            slots: vec![],
            cache: running.engine.new_cache(config.num_layers, config.num_kv_heads, config.head_dim),
        });
        let shared = prefix.shared(slots);
        prefix.slots.truncate(shared);
        prefix.cache.truncate(shared);
        (prefix, shared)
    }
}

/// One answer in the making.
struct Generation<'a> {
    model: &'a FastVlm,
    running: Arc<Running<Networks>>,
    request: &'a Request,
    slots: Vec<Slot>,
    sampler: Sampler,
    stream: TokenStream<Arc<Qwen2Tokenizer>>,
    stops: StopMatcher,
    text: String,
    ids: Vec<u32>,
    token_ms: Vec<f64>,
    start: Instant,
    usage: Usage,
    timings: Timings,
    stopped_by_text: bool,
}

impl<'a> Generation<'a> {
    fn new(
        model: &'a FastVlm,
        running: Arc<Running<Networks>>,
        request: &'a Request,
        slots: Vec<Slot>,
        stops: StopMatcher,
    ) -> Self {
        let image_tokens = slots.iter().filter(|s| matches!(s, Slot::Image { .. })).count();
        let usage = Usage { prompt_tokens: slots.len(), image_tokens, ..Usage::default() };
        let preprocess_ms = request.images.iter().map(|i| i.preprocess_ms).sum();
        Self {
            model,
            running,
            request,
            slots,
            sampler: Sampler::new(&request.sampling),
            stream: TokenStream::new(Arc::clone(&model.tokenizer)),
            stops,
            text: String::new(),
            ids: vec![],
            token_ms: vec![],
            start: Instant::now(),
            usage,
            timings: Timings { preprocess_ms, ..Timings::default() },
            stopped_by_text: false,
        }
    }

    async fn run(
        &mut self,
        on_text: &mut dyn FnMut(&str),
        turn: &impl AsyncFn(),
    ) -> Result<FinishReason, Error> {
        let cancel = self.request.cancel.clone();
        let stop = move || cancel.is_cancelled();
        let slots = std::mem::take(&mut self.slots);
        let (mut prefix, shared) = self.model.take_prefix(&self.running, &slots);
        self.usage.cached_tokens = shared;
        let result = self.run_with(&slots, &mut prefix, &stop, on_text, turn).await;
        // A cancelled chunk leaves layers of unequal length: keep only what all of them have.
        let whole = prefix.cache.len();
        prefix.cache.truncate(whole);
        prefix.slots.truncate(whole);
        *lock(&self.running.networks.prefix) = Some(prefix);
        result
    }

    async fn run_with(
        &mut self,
        slots: &[Slot],
        prefix: &mut Prefix,
        stop: &dyn Fn() -> bool,
        on_text: &mut dyn FnMut(&str),
        turn: &impl AsyncFn(),
    ) -> Result<FinishReason, Error> {
        let images = self.encode(&slots[prefix.slots.len()..], stop).await?;
        let most = self.model.config.max_positions.min(slots.len() + self.request.max_tokens);
        prefix.cache.reserve(most);
        let start = Instant::now();
        let mut next = self.prefill(&slots[prefix.slots.len()..], &images, prefix, stop).await?;
        self.timings.prefill_ms = ms_since(start);
        let decode = Instant::now();
        let reason = loop {
            if self.ids.len() >= self.request.max_tokens {
                break FinishReason::Length;
            }
            turn().await;
            if stop() {
                return Err(RunError::Cancelled.into());
            }
            let id = self.sampler.choose(next, &self.ids);
            let known_ms = ms_since(self.start) + self.timings.preprocess_ms;
            if self.timings.ttft_ms == 0.0 {
                self.timings.ttft_ms = known_ms;
            }
            if !self.request.ignore_eos && self.model.stop_ids.contains(&id) {
                break FinishReason::Stop;
            }
            self.ids.push(id);
            self.token_ms.push(known_ms);
            if self.emit(id, on_text) {
                break FinishReason::Stop;
            }
            if prefix.cache.len() >= self.model.config.max_positions {
                break FinishReason::Length;
            }
            if self.ids.len() >= self.request.max_tokens {
                break FinishReason::Length;
            }
            next = self.prefill(&[Slot::Token(id)], &images, prefix, stop).await?;
        };
        if self.ids.len() > 1 {
            self.timings.decode_ms_per_token = ms_since(decode) / (self.ids.len() - 1) as f64;
            self.timings.tokens_per_s = 1e3 / self.timings.decode_ms_per_token;
        }
        Ok(reason)
    }

    /// Embeddings of the pictures that these positions need.
    async fn encode(
        &mut self,
        slots: &[Slot],
        stop: &dyn Fn() -> bool,
    ) -> Result<HashMap<u64, Arc<Vec<f32>>>, Error> {
        let start = Instant::now();
        let mut embeds = HashMap::new();
        let mut encoded = false;
        for image in &self.request.images {
            let needed = slots.iter().any(|s| matches!(s, Slot::Image { key, .. } if *key == image.key));
            if needed && !embeds.contains_key(&image.key) {
                let (rows, ran) = self.model.encode(image, stop).await?;
                encoded |= ran;
                embeds.insert(image.key, rows);
            }
        }
        if encoded {
            self.timings.encode_ms = ms_since(start);
        }
        Ok(embeds)
    }

    /// Append positions to the cache chunk by chunk; returns what the last one says of the next token.
    async fn prefill(
        &self,
        slots: &[Slot],
        images: &HashMap<u64, Arc<Vec<f32>>>,
        prefix: &mut Prefix,
        stop: &dyn Fn() -> bool,
    ) -> Result<Next, Error> {
        let likeliest = self.sampler.takes_the_likeliest();
        let mut next = Next::Logits(vec![]);
        for chunk in slots.chunks(chunk_len(slots.len())) {
            let embeds = self.model.splice(chunk, images)?;
            let cache = &mut prefix.cache;
            next = self
                .running
                .networks
                .language
                .with_arena(async |plan, arena| {
                    plan.write(arena, named(plan, "inputs_embeds"), &embeds);
                    plan.run(arena, chunk.len(), Some(cache), stop)?;
                    let logits = named(plan, "logits");
                    Ok::<_, Error>(if likeliest {
                        Next::Likeliest(plan.largest(arena, logits).await?)
                    } else {
                        Next::Logits(plan.read(arena, logits, chunk.len()).await?)
                    })
                })
                .await?;
            prefix.slots.extend_from_slice(chunk);
        }
        Ok(next)
    }

    /// Hand out the text of one more token; true when a stop text ended the answer.
    fn emit(&mut self, id: u32, on_text: &mut dyn FnMut(&str)) -> bool {
        let Some(piece) = self.stream.push(id) else { return false };
        let step = self.stops.push(&piece);
        self.stopped_by_text = matches!(step, StopStep::Stopped(_));
        let (StopStep::Text(text) | StopStep::Stopped(text)) = step;
        self.say(&text, on_text);
        self.stopped_by_text
    }

    fn say(&mut self, text: &str, on_text: &mut dyn FnMut(&str)) {
        if !text.is_empty() {
            self.text.push_str(text);
            on_text(text);
        }
    }

    /// Flush what was held back and close the books.
    fn finish(mut self, reason: FinishReason, on_text: &mut dyn FnMut(&str)) -> Answer {
        if !self.stopped_by_text {
            let mut rest = String::new();
            if let Some(piece) = self.stream.finish() {
                let (StopStep::Text(text) | StopStep::Stopped(text)) = self.stops.push(&piece);
                rest.push_str(&text);
            }
            rest.push_str(&self.stops.finish());
            self.say(&rest, on_text);
        }
        self.usage.completion_tokens = self.ids.len();
        self.timings.total_ms = ms_since(self.start) + self.timings.preprocess_ms;
        Answer {
            text: self.text,
            token_ids: self.ids,
            finish_reason: reason,
            usage: self.usage,
            timings: self.timings,
            token_ms: self.token_ms,
        }
    }
}

/// The networks at the checkpoint's own resolution.
fn networks(
    engine: &Engine,
    source: &dyn WeightSource,
    config: &FastVlmConfig,
    packed: Option<&PackedCache>,
) -> Result<Networks, Error> {
    engine.open_packed(packed);
    let vision = vision_plan(source, config.image_size, false)?;
    let language = qwen2(source, &shape(config), PREFILL_CHUNK, LogitRows::Last)?;
    let vision = Arc::new(Stage::new(engine.prepare(vision)?));
    let language = Stage::new(engine.prepare(language)?);
    engine.save_packed(packed);
    let vision = Mutex::new(HashMap::from([(config.image_size, vision)]));
    Ok(Networks { language, vision, prefix: Mutex::new(None) })
}

#[cfg(feature = "decoders")]
fn decode_options(options: &ImageOptions) -> DecodeOptions {
    DecodeOptions { orientation: options.orientation, max_pixels: options.max_pixels }
}

/// # Panics
/// When the plan has no tensor of this name: our own plans do.
pub(crate) fn named(plan: &Prepared, name: &str) -> ocelli_plan::TensorId {
    plan.plan().find(name).unwrap_or_else(|| panic!("plan `{}` has no `{name}`", plan.plan().name))
}

/// Tower and projector at one resolution: `pixel_values` to `projected`.
pub(crate) fn vision_plan(
    source: &dyn WeightSource,
    resolution: usize,
    trace: bool,
) -> Result<Plan, PlanError> {
    let mut b = PlanBuilder::new("fastvithd", source, 1).trace(trace);
    let features = fastvithd(&mut b, resolution)?;
    let projected = projector(&mut b, features.tensor)?;
    b.output("projected", projected);
    Ok(b.finish())
}

pub(crate) fn shape(config: &FastVlmConfig) -> Qwen2Shape {
    Qwen2Shape {
        layers: config.num_layers,
        attention: AttentionShape {
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
        },
        rope_base: config.rope_theta,
        norm_eps: config.rms_norm_eps,
    }
}

/// What answering with this checkpoint takes; reads no weights.
///
/// # Errors
/// When the weights do not make the networks.
pub fn memory_plan(checkpoint: &Checkpoint, dtype: DType) -> Result<MemoryPlan, Error> {
    plan_memory(&checkpoint.config, checkpoint.weights(), dtype)
}

fn plan_memory(config: &FastVlmConfig, source: &dyn WeightSource, dtype: DType) -> Result<MemoryPlan, Error> {
    let vision = vision_plan(source, config.image_size, false)?;
    let language = qwen2(source, &shape(config), PREFILL_CHUNK, LogitRows::Last)?;
    let positions = (config.image_size / config.vision.stride).pow(2) + PLANNED_TOKENS;
    let cache = KvCache::bytes_for(config.num_layers, config.num_kv_heads, config.head_dim, positions);
    Ok(MemoryPlan {
        weights: (vision.weight_bytes(source, dtype) + language.weight_bytes(source, dtype)) as u64,
        activations: (plan_arena(&vision, dtype).bytes + plan_arena(&language, dtype).bytes) as u64,
        cache: cache as u64,
    })
}

fn check_memory(plan: &MemoryPlan) -> Result<(), Error> {
    match available_memory_bytes() {
        Some(available) if plan.total() > available => Err(Error::Memory { needed: plan.total(), available }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::cell::Cell;

    #[test]
    fn chunks_are_few_and_alike() {
        let chunks = [0, 1, 300, 512, 513, 1024, 1025].map(chunk_len);
        assert_eq!(chunks, [1, 1, 300, 512, 257, 512, 342]);
    }

    #[test]
    fn cancelling_stops_between_two_ops_of_the_encoder() {
        let dir = ocelli_testing::fixture("fastvlm-apple");
        let model = FastVlm::load(&dir, &LoadOptions::default()).expect("model");
        let picture = ocelli_testing::fixture("images").join("rgb_160x120.png");
        let image = model.open_image_with(&picture, &ImageOptions::default()).expect("image");
        let asked = Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > 5
        };
        let cancelled = block_on(model.encode(&image, &stop)).expect_err("cancelled");
        assert!(matches!(cancelled, Error::Run(RunError::Cancelled)));
        assert_eq!(asked.get(), 6, "the encoder asks before each op");
        let (after, ran) = block_on(model.encode(&image, &|| false)).expect("features");
        assert!(ran, "half a picture was kept");
        let fresh = FastVlm::load(&dir, &LoadOptions::default()).expect("model");
        assert_eq!(after, block_on(fresh.encode(&image, &|| false)).expect("features").0);
    }
}
