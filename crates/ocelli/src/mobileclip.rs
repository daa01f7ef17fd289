//! MobileCLIP: pictures and texts to one space, and labels by nearness in it.

use std::path::{Path, PathBuf};
#[cfg(not(target_family = "wasm"))]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex};

use ocelli_cpu::Isa;
#[cfg(feature = "decoders")]
use ocelli_image::DecodeOptions;
use ocelli_image::{ClipPreprocess, Filter, ResizeMode, Rgb8};
use ocelli_models::{ClipTextShape, VitShape, clip_text, mci, token_head, vit};
use ocelli_plan::{DType, Plan, PlanBuilder, PlanError, WeightSource};
use ocelli_text::{CLIP_MERGES_FILE, ClipTokenizer, ClipTokens, ModelFiles};
use ocelli_weights::{ClipCheckpoint, ClipConfig, ClipTower, Directory, Fnv, Folder, Interpolation};
use pollster::block_on;
use web_time::Instant;

use crate::Error;
use crate::engine::{DeviceChoice, Engine, EngineOptions};
use crate::fastvlm::{Stage as Prepared, lock, ms_since, named};
use crate::folder::small_files;
use crate::packed::PackedCache;
use crate::running::{Runner, Running, is_lost};
use crate::trace::{Stage, planar};

/// Text that tells two vocabularies apart by its tokens.
const PROBE: &str = "A photo of two zebras, jumping quickly over 1 lazy dog's fence.";

/// Pictures of a batch that a thread takes before others may use the device.
#[cfg(not(target_family = "wasm"))]
const TURNS: usize = 4;

/// How a MobileCLIP is loaded.
#[derive(Debug, Clone)]
pub struct ClipOptions {
    /// Type of activations and matrices.
    pub dtype: DType,
    /// Where the towers run.
    pub device: DeviceChoice,
    /// Threads; 0 means one for each core.
    pub threads: usize,
    /// Force an instruction set; otherwise `OCELLI_ISA` or the best that the CPU has.
    pub isa: Option<Isa>,
    /// A directory with the vocabulary; otherwise the model's own, or CLIP's, which is built in.
    pub tokenizer: Option<PathBuf>,
    /// Keep packed weights in this directory, so that the next start maps them instead of packing.
    pub packed_dir: Option<PathBuf>,
}

impl Default for ClipOptions {
    fn default() -> Self {
        Self {
            dtype: DType::Bf16,
            device: DeviceChoice::Auto,
            threads: 0,
            isa: None,
            tokenizer: None,
            packed_dir: None,
        }
    }
}

/// A loaded model. The two towers are prepared when they are first needed: a text query never loads the image
/// tower.
pub struct MobileClip {
    config: ClipConfig,
    fingerprint: u64,
    preprocess: ClipPreprocess,
    pub(crate) runner: Runner<Towers>,
    packed: Option<PackedCache>,
    source: Arc<dyn WeightSource>,
    /// Names of the text tower's tensors, in order.
    text_tensors: Vec<String>,
    /// Where the vocabulary comes from.
    vocabulary: Option<Arc<dyn Folder>>,
    tokenizer: Mutex<Option<Arc<ClipTokenizer>>>,
}

/// The towers on a device, as far as they were needed.
#[derive(Default)]
pub(crate) struct Towers {
    image: Mutex<Option<Arc<Tower>>>,
    text: Mutex<Option<Arc<Tower>>>,
}

/// A tower: trunk, and the head over one of its rows where the trunk does not end in it.
pub(crate) struct Tower {
    pub(crate) trunk: Prepared,
    head: Option<Prepared>,
}

/// A picture as the image tower wants it.
#[derive(Debug, Clone)]
pub struct ClipImage {
    /// `[size, size, 3]`, normalised with the model's mean and standard deviation.
    pub(crate) pixel_values: Arc<Vec<f32>>,
    /// Time that decoding, resizing and normalising took.
    pub preprocess_ms: f64,
}

/// One label of a zero-shot classification.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelScore {
    /// Which of the labels.
    pub label: usize,
    /// Softmax over the labels of similarity times the model's logit scale.
    pub probability: f32,
    /// Cosine of picture and label.
    pub similarity: f32,
}

impl MobileClip {
    /// Open a model: an open_clip directory, timm's image tower, or one safetensors file of either.
    ///
    /// # Errors
    /// When files are missing or broken, or a tensor is missing, unused or misshapen.
    pub fn load(path: &Path, options: &ClipOptions) -> Result<Self, Error> {
        let checkpoint = ClipCheckpoint::open(path)?;
        let dir = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        block_on(Self::with_checkpoint(checkpoint, Arc::new(Directory::new(dir)), options))
    }

    /// As [`Self::load`], from a folder that need not be a directory, for those who must not block.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub async fn load_folder(folder: Arc<dyn Folder>, options: &ClipOptions) -> Result<Self, Error> {
        let checkpoint = ClipCheckpoint::open_folder(&*folder)?;
        Self::with_checkpoint(checkpoint, folder, options).await
    }

    async fn with_checkpoint(
        checkpoint: ClipCheckpoint,
        folder: Arc<dyn Folder>,
        options: &ClipOptions,
    ) -> Result<Self, Error> {
        let own = [CLIP_MERGES_FILE, "tokenizer.json", "vocab.json"].iter().any(|name| folder.has(name));
        let vocabulary: Option<Arc<dyn Folder>> = match &options.tokenizer {
            Some(dir) => Some(Arc::new(Directory::new(dir))),
            None => (own || !cfg!(feature = "clip-vocabulary")).then_some(folder),
        };
        let source = checkpoint.weight_source();
        let tensors = checkpoint.weights().iter().map(|tensor| tensor.name);
        let text_tensors = tensors.filter(|name| name.starts_with("text.")).map(str::to_owned).collect();
        let (device, isa) = (options.device.clone(), options.isa);
        let wanted = EngineOptions { device, dtype: options.dtype, threads: options.threads, isa };
        let packed = options.packed_dir.as_deref().map(|packed| {
            PackedCache::new(packed, (checkpoint.fingerprint(), checkpoint.state()), options.dtype, None)
        });
        let runner =
            Runner::open(wanted, Arc::clone(&source), |engine| towers(engine, packed.as_ref())).await?;
        let image = &checkpoint.config.image;
        let preprocess = ClipPreprocess {
            size: image.size,
            mean: image.mean,
            std: image.std,
            interpolation: match image.interpolation {
                Interpolation::Bilinear => Filter::Bilinear,
                Interpolation::Bicubic => Filter::Bicubic,
            },
            resize_mode: if image.squash { ResizeMode::Squash } else { ResizeMode::Shortest },
        };
        Ok(Self {
            fingerprint: checkpoint.fingerprint(),
            config: checkpoint.config,
            preprocess,
            runner,
            packed,
            source,
            text_tensors,
            vocabulary,
            tokenizer: Mutex::default(),
        })
    }

    /// Do some work; again where the device is lost in it.
    async fn on_device<R>(
        &self,
        work: impl AsyncFn(&Running<Towers>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let ready = async || self.runner.ready(|engine| towers(engine, self.packed.as_ref())).await;
        let mut running = ready().await?;
        let mut result = work(&running).await;
        if is_lost(&result) {
            running = ready().await?;
            result = work(&running).await;
        }
        if result.is_ok() {
            running.is_proven();
        }
        result
    }

    /// End the GPU's device, as a driver does that is reset; what is asked next opens it again. For tests of programs
    /// that run for long. Does nothing on the CPU.
    pub fn lose_device(&self) {
        self.runner.current().engine.lose();
    }

    /// Sizes and constants of the checkpoint.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// What tells this model's embeddings from those of others: they can be compared where this is equal. Element
    /// type and instruction set are no part of it.
    pub fn identity(&self) -> String {
        let tower = match &self.config.tower {
            ClipTower::FastVit(_) => "fastvit",
            ClipTower::Vit { .. } => "vit",
        };
        format!("{tower}-{}px-{}-{:016x}", self.config.image.size, self.config.embed_dim, self.fingerprint)
    }

    /// Name of the instruction set that runs, or of the GPU.
    pub fn kernels(&self) -> String {
        self.runner.current().engine.kernels().to_owned()
    }

    /// `cpu` or `gpu`.
    pub fn device_name(&self) -> &'static str {
        self.runner.current().engine.device_name()
    }

    /// Why another device is used than was asked for, if so.
    pub fn device_note(&self) -> Option<String> {
        self.runner.current().note()
    }

    /// The compute type of the towers.
    pub fn dtype(&self) -> DType {
        self.runner.current().engine.dtype()
    }

    /// A name of the text tower by its content, 16 hexadecimal digits: towers of the same name give the same
    /// embeddings in the same compute type. Covers sizes, tokens, and of each tensor its shape and three rows,
    /// so it reads little and runs nothing. Training changes those rows; an edit of a few other rows, such as one
    /// new word of the vocabulary, goes unseen.
    ///
    /// # Errors
    /// As for [`Self::embed_texts`].
    pub fn text_fingerprint(&self) -> Result<String, Error> {
        let text = self.config.text.as_ref().ok_or(Error::NoTextTower)?;
        let mut hash = Fnv::default();
        let sizes = [text.context_length, text.vocab_size, text.layers, text.heads, usize::from(text.causal)];
        sizes.iter().for_each(|&size| hash.add(&(size as u64).to_le_bytes()));
        for id in self.tokenizer()?.encode(PROBE, text.context_length).ids {
            hash.add(&id.to_le_bytes());
        }
        for name in &self.text_tensors {
            let shape = self.source.shape(name).unwrap_or_default();
            hash.add(format!("{name} {shape:?}").as_bytes());
            let (rows, row_len) = (shape.first().copied().unwrap_or(1), shape.iter().skip(1).product());
            let mut row: Vec<f32> = vec![0.0; row_len];
            for at in [0, rows / 2, rows.saturating_sub(1)] {
                self.source.read_rows(name, at, &mut row)?;
                row.iter().for_each(|value| hash.add(&value.to_le_bytes()));
            }
        }
        Ok(format!("{:016x}", hash.value()))
    }

    /// Read a picture file.
    ///
    /// # Errors
    /// When the file cannot be read or is no picture, or has too many pixels.
    #[cfg(feature = "decoders")]
    pub fn open_image(&self, path: &Path, options: &DecodeOptions) -> Result<ClipImage, Error> {
        let start = Instant::now();
        let rgb = ocelli_image::open(path, options)?;
        Ok(ClipImage { preprocess_ms: ms_since(start), ..self.prepare_image(&rgb) })
    }

    /// Resize and normalise decoded pixels.
    pub fn prepare_image(&self, rgb: &Rgb8) -> ClipImage {
        let start = Instant::now();
        let pixel_values = Arc::new(self.preprocess.run(rgb));
        ClipImage { pixel_values, preprocess_ms: ms_since(start) }
    }

    /// Embeddings of pictures, `embed_dim` values of length 1 each.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn embed_images(&self, images: &[ClipImage]) -> Result<Vec<Vec<f32>>, Error> {
        block_on(self.embed_images_async(images))
    }

    /// [`Self::embed_images`] for those who must not block, such as a page in a browser.
    ///
    /// # Errors
    /// As for [`Self::embed_images`].
    pub async fn embed_images_async(&self, images: &[ClipImage]) -> Result<Vec<Vec<f32>>, Error> {
        self.on_device(async |running| {
            let tower = self.image_tower(running)?;
            let mut embeddings = self.embed_apart(&running.engine, &tower, images)?;
            for image in &images[embeddings.len()..] {
                embeddings.push(normalised(self.run_image(&tower, image).await?));
            }
            Ok(embeddings)
        })
        .await
    }

    /// Embeddings of as many pictures as give each thread of the CPU the same number, each picture on one thread.
    #[cfg(not(target_family = "wasm"))]
    fn embed_apart(
        &self,
        engine: &Engine,
        tower: &Tower,
        images: &[ClipImage],
    ) -> Result<Vec<Vec<f32>>, Error> {
        let Engine::Cpu(weights) = engine else { return Ok(Vec::new()) };
        let threads = weights.device().threads();
        let mut embeddings = Vec::with_capacity(images.len());
        for images in images[..images.len() / threads * threads].chunks(TURNS * threads) {
            let results: Vec<OnceLock<_>> = images.iter().map(|_| OnceLock::new()).collect();
            weights.device().each(images.len(), &|i| {
                let _ = results[i].set(block_on(self.run_image(tower, &images[i])));
            });
            for result in results {
                embeddings.push(normalised(result.into_inner().expect("each picture had its turn")?));
            }
        }
        Ok(embeddings)
    }

    /// A page has one thread.
    #[cfg(target_family = "wasm")]
    fn embed_apart(&self, _: &Engine, _: &Tower, _: &[ClipImage]) -> Result<Vec<Vec<f32>>, Error> {
        Ok(Vec::new())
    }

    /// Embeddings of texts, `embed_dim` values of length 1 each.
    ///
    /// # Errors
    /// When the model has no text tower, or the vocabulary is not the model's.
    pub fn embed_texts(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        block_on(self.embed_texts_async(texts))
    }

    /// [`Self::embed_texts`] for those who must not block, such as a page in a browser.
    ///
    /// # Errors
    /// As for [`Self::embed_texts`].
    pub async fn embed_texts_async(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        self.on_device(async |running| {
            let (tower, tokenizer) = (self.text_tower(running)?, self.tokenizer()?);
            let context = self.text_shape()?.context_length;
            let mut embeddings = Vec::with_capacity(texts.len());
            for text in texts {
                embeddings.push(normalised(self.run_text(&tower, &tokenizer.encode(text, context)).await?));
            }
            Ok(embeddings)
        })
        .await
    }

    /// One embedding for a label: the normalised mean over the templates, in which `{}` is the label. Without
    /// templates the label stands for itself.
    ///
    /// # Errors
    /// As for [`Self::embed_texts`].
    pub fn embed_label(&self, label: &str, templates: &[&str]) -> Result<Vec<f32>, Error> {
        let texts: Vec<String> = match templates {
            [] => vec![label.to_owned()],
            _ => templates.iter().map(|t| ocelli_text::templates::fill(t, label)).collect(),
        };
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let embeddings = self.embed_texts(&texts)?;
        let mut mean = vec![0.0; self.config.embed_dim];
        for embedding in &embeddings {
            mean.iter_mut().zip(embedding).for_each(|(m, v)| *m += v);
        }
        Ok(normalised(mean))
    }

    /// The labels in order of probability, given their embeddings.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn zero_shot(&self, image: &ClipImage, labels: &[Vec<f32>]) -> Result<Vec<LabelScore>, Error> {
        let embeddings = self.embed_images(std::slice::from_ref(image))?;
        Ok(self.rank(&embeddings[0], labels))
    }

    /// The labels in order of probability for an embedding of length 1.
    pub fn rank(&self, embedding: &[f32], labels: &[Vec<f32>]) -> Vec<LabelScore> {
        let cosine = |label: &Vec<f32>| embedding.iter().zip(label).map(|(a, b)| a * b).sum::<f32>();
        let similarities: Vec<f32> = labels.iter().map(cosine).collect();
        let most = similarities.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |s: f32| (f64::from(s - most) * f64::from(self.config.logit_scale)).exp();
        let total: f64 = similarities.iter().map(|&s| weight(s)).sum();
        let score = |(label, &similarity): (usize, &f32)| LabelScore {
            label,
            similarity,
            probability: (weight(similarity) / total) as f32,
        };
        let mut scores: Vec<LabelScore> = similarities.iter().enumerate().map(score).collect();
        scores.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.label.cmp(&b.label)));
        scores
    }

    /// Every stage of the image tower, and `image_features`, the embedding before it is normalised.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn trace_image(&self, image: &ClipImage) -> Result<Vec<Stage>, Error> {
        let running = self.runner.current();
        let plan = running.engine.prepare(self.image_plan(true)?)?;
        let mut arena = plan.new_arena();
        plan.write(&mut arena, named(&plan, "pixel_values"), &image.pixel_values);
        plan.run(&mut arena, 1, None, &|| false)?;
        let fast_vit = matches!(self.config.tower, ClipTower::FastVit(_));
        let mut stages = vec![planar("pixel_values", &image.pixel_values, self.config.image.size, 3)];
        for tensor in plan.plan().tensors.iter().filter(|t| t.is_output && t.name != "embedding") {
            let values = block_on(plan.read(&mut arena, named(&plan, &tensor.name), 1))?;
            let rows = values.len() / tensor.cols;
            stages.push(if fast_vit {
                planar(&tensor.name, &values, rows.isqrt(), tensor.cols)
            } else {
                Stage { name: tensor.name.clone(), shape: vec![rows, tensor.cols], values }
            });
        }
        let features = block_on(self.run_image(&*self.image_tower(&running)?, image))?;
        stages.push(Stage { name: "image_features".into(), shape: vec![features.len()], values: features });
        Ok(stages)
    }

    /// Every stage of the text tower, and `text_features`, the embedding before it is normalised.
    ///
    /// # Errors
    /// As for [`Self::embed_texts`].
    pub fn trace_text(&self, text: &str) -> Result<Vec<Stage>, Error> {
        let shape = self.text_shape()?;
        let tokens = self.tokenizer()?.encode(text, shape.context_length);
        let running = self.runner.current();
        let plan = running.engine.prepare(clip_text(&*self.source, &shape, true)?)?;
        let mut arena = plan.new_arena();
        plan.write_ids(&mut arena, named(&plan, "ids"), &tokens.ids);
        plan.run(&mut arena, 1, None, &|| false)?;
        let ids = tokens.ids.iter().map(|&id| id as f32).collect();
        let mut stages = vec![Stage { name: "token_ids".into(), shape: vec![tokens.ids.len()], values: ids }];
        for tensor in plan.plan().tensors.iter().filter(|t| t.is_output) {
            let values = block_on(plan.read(&mut arena, named(&plan, &tensor.name), 1))?;
            let shape = vec![values.len() / tensor.cols, tensor.cols];
            stages.push(Stage { name: tensor.name.clone(), shape, values });
        }
        let features = block_on(self.run_text(&*self.text_tower(&running)?, &tokens))?;
        stages.push(Stage { name: "text_features".into(), shape: vec![features.len()], values: features });
        Ok(stages)
    }

    /// The tokens of a text: `context_length` ids, padded with 0.
    ///
    /// # Errors
    /// As for [`Self::embed_texts`].
    pub fn tokens(&self, text: &str) -> Result<ClipTokens, Error> {
        Ok(self.tokenizer()?.encode(text, self.text_shape()?.context_length))
    }

    async fn run_image(&self, tower: &Tower, image: &ClipImage) -> Result<Vec<f32>, Error> {
        let output = if tower.head.is_some() { "tokens" } else { "embedding" };
        let rows = tower
            .trunk
            .with_arena(async |plan, arena| {
                plan.write(arena, named(plan, "pixel_values"), &image.pixel_values);
                plan.run(arena, 1, None, &|| false)?;
                Ok::<_, Error>(plan.read(arena, named(plan, output), 1).await?)
            })
            .await?;
        // The class token is the first.
        tower.finish(rows, 0).await
    }

    async fn run_text(&self, tower: &Tower, tokens: &ClipTokens) -> Result<Vec<f32>, Error> {
        let rows = tower
            .trunk
            .with_arena(async |plan, arena| {
                plan.write_ids(arena, named(plan, "ids"), &tokens.ids);
                plan.run(arena, 1, None, &|| false)?;
                Ok::<_, Error>(plan.read(arena, named(plan, "tokens"), 1).await?)
            })
            .await?;
        tower.finish(rows, tokens.end).await
    }

    fn image_plan(&self, trace: bool) -> Result<Plan, PlanError> {
        let size = self.config.image.size;
        let ClipTower::Vit { layers, heads, conv_stem } = self.config.tower else {
            return mci(&*self.source, size, trace);
        };
        let mut b = PlanBuilder::new("vit", &*self.source, 1).trace(trace);
        let tokens = vit(&mut b, &VitShape { layers, heads, conv_stem }, size)?;
        if !trace {
            b.output("tokens", tokens);
        }
        Ok(b.finish())
    }

    /// Bytes of the arenas that are kept.
    pub(crate) fn arena_bytes(&self) -> usize {
        let running = self.runner.current();
        let towers = [&running.networks.image, &running.networks.text].map(|tower| lock(tower).clone());
        let stages = towers.iter().flatten().flat_map(|tower| [Some(&tower.trunk), tower.head.as_ref()]);
        stages.flatten().map(Prepared::arena_bytes).sum()
    }

    pub(crate) fn image_tower(&self, running: &Running<Towers>) -> Result<Arc<Tower>, Error> {
        let mut kept = lock(&running.networks.image);
        if let Some(tower) = &*kept {
            return Ok(Arc::clone(tower));
        }
        let head = matches!(self.config.tower, ClipTower::Vit { .. });
        let tower = self.prepare(&running.engine, self.image_plan(false)?, head.then_some("vision"))?;
        Ok(Arc::clone(kept.insert(Arc::new(tower))))
    }

    pub(crate) fn text_tower(&self, running: &Running<Towers>) -> Result<Arc<Tower>, Error> {
        let mut kept = lock(&running.networks.text);
        if let Some(tower) = &*kept {
            return Ok(Arc::clone(tower));
        }
        let plan = clip_text(&*self.source, &self.text_shape()?, false)?;
        let tower = self.prepare(&running.engine, plan, Some("text"))?;
        Ok(Arc::clone(kept.insert(Arc::new(tower))))
    }

    fn prepare(&self, engine: &Engine, trunk: Plan, head: Option<&str>) -> Result<Tower, Error> {
        let head = head.map(|tower| token_head(&*self.source, tower)).transpose()?;
        let head = head.map(|plan| engine.prepare(plan)).transpose()?;
        let trunk = Prepared::new(engine.prepare(trunk)?);
        engine.save_packed(self.packed.as_ref());
        Ok(Tower { trunk, head: head.map(Prepared::new) })
    }

    pub(crate) fn text_shape(&self) -> Result<ClipTextShape, Error> {
        let text = self.config.text.as_ref().ok_or(Error::NoTextTower)?;
        Ok(ClipTextShape {
            context_length: text.context_length,
            layers: text.layers,
            heads: text.heads,
            causal: text.causal,
        })
    }

    pub(crate) fn tokenizer(&self) -> Result<Arc<ClipTokenizer>, Error> {
        let mut kept = lock(&self.tokenizer);
        if let Some(tokenizer) = &*kept {
            return Ok(Arc::clone(tokenizer));
        }
        let tokenizer = match &self.vocabulary {
            Some(folder) => {
                let read = small_files(&**folder);
                ClipTokenizer::from_files(ModelFiles::new(folder.path(), &read))?
            }
            #[cfg(feature = "clip-vocabulary")]
            None => ClipTokenizer::new(),
            #[cfg(not(feature = "clip-vocabulary"))]
            None => return Err(Error::NoTextTower),
        };
        let model = self.config.text.as_ref().ok_or(Error::NoTextTower)?.vocab_size;
        if tokenizer.vocab_size() != model {
            return Err(Error::Vocabulary { tokenizer: tokenizer.vocab_size(), model });
        }
        Ok(Arc::clone(kept.insert(Arc::new(tokenizer))))
    }
}

impl Tower {
    /// The embedding in the trunk's output: all of it, or what the head makes of row `row`.
    async fn finish(&self, rows: Vec<f32>, row: usize) -> Result<Vec<f32>, Error> {
        let Some(head) = &self.head else { return Ok(rows) };
        head.with_arena(async |plan, arena| {
            let token = named(plan, "token");
            let width = plan.plan().tensor(token).cols;
            plan.write(arena, token, &rows[row * width..][..width]);
            plan.run(arena, 1, None, &|| false)?;
            Ok(plan.read(arena, named(plan, "embedding"), 1).await?)
        })
        .await
    }
}

/// No towers yet, and what an earlier start packed of them.
fn towers(engine: &Engine, packed: Option<&PackedCache>) -> Result<Towers, Error> {
    engine.open_packed(packed);
    Ok(Towers::default())
}

/// Divided by its length; a vector of zeros stays one.
fn normalised(mut v: Vec<f32>) -> Vec<f32> {
    let length = v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if length > 0.0 {
        v.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    v
}
