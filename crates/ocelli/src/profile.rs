//! Parts of an answer alone, each op's time and the memory in use: what measurements need.

use ocelli_cpu::{Arena, KvCache, MachineLimits, OpTimes, PreparedPlan};
use pollster::block_on;

use crate::Error;
use crate::engine::{self, Prepared};
use crate::fastvlm::{FastVlm, Stage, chunk_len, lock, ms_since};
use crate::mobileclip::{ClipImage, MobileClip};
use crate::request::{CancelToken, Image};

/// One op of a network: its time and its work in one run.
#[derive(Debug, Clone, PartialEq)]
pub struct OpProfile {
    /// Which network: `encoder`, `prefill`, `decode`, `image`, `text`.
    pub part: &'static str,
    /// Which of the ops, by [`ocelli_plan::Op::name`].
    pub op: &'static str,
    /// Whether nearly all of its work is a product with a matrix.
    pub matrix_product: bool,
    /// Of each run.
    pub ms: Vec<f64>,
    /// Floating-point operations of one run.
    pub flops: u64,
    /// Bytes of one run: activations that are read and written, each once, and packed weights.
    pub bytes: u64,
}

/// Memory that a model holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelMemory {
    /// Packed weights.
    pub weights_bytes: u64,
    /// Activations of all networks that have run, and that are kept for the next run.
    pub arena_bytes: u64,
    /// Keys and values of the last prompt and answer.
    pub cache_bytes: u64,
}

impl FastVlm {
    /// Forget pictures, and keys and values, so that the next answer computes everything anew. Packed weights and
    /// arenas stay.
    pub fn forget(&self) {
        *lock(&self.embeds) = crate::prefix::ImageEmbeds::default();
        if let Some(prefix) = &mut *lock(&self.runner.current().networks.prefix) {
            prefix.slots.clear();
            prefix.cache.truncate(0);
        }
    }

    /// Run vision tower and projector on a picture and return the time in ms, whatever was kept of it.
    ///
    /// # Errors
    /// When it was cancelled or a weight cannot be read.
    pub fn time_encoder(&self, image: &Image, cancel: &CancelToken) -> Result<f64, Error> {
        self.forget();
        let start = web_time::Instant::now();
        block_on(self.encode(image, &|| cancel.is_cancelled()))?;
        Ok(ms_since(start))
    }

    /// Memory in use.
    pub fn memory(&self) -> ModelMemory {
        let running = self.runner.current();
        let networks = &running.networks;
        let vision = lock(&networks.vision);
        let stages = vision.values().map(|stage| &**stage).chain([&networks.language]);
        let arena_bytes = stages.map(|stage| stage.arena_bytes() as u64).sum();
        let config = &self.config;
        let positions = lock(&networks.prefix).as_ref().map_or(0, |prefix| prefix.cache.len());
        let cache = KvCache::bytes_for(config.num_layers, config.num_kv_heads, config.head_dim, positions);
        ModelMemory { weights_bytes: running.engine.bytes() as u64, arena_bytes, cache_bytes: cache as u64 }
    }

    /// What the machine can do with this model's threads and instruction set.
    ///
    /// # Errors
    /// When it runs on a GPU.
    pub fn machine_limits(&self) -> Result<MachineLimits, Error> {
        Ok(self.runner.current().engine.on_cpu()?.device().measure_limits())
    }

    /// Each op of vision tower and projector.
    ///
    /// # Errors
    /// When it was cancelled or a weight cannot be read.
    pub fn profile_encoder(
        &self,
        image: &Image,
        runs: usize,
        cancel: &CancelToken,
    ) -> Result<Vec<OpProfile>, Error> {
        let stage = self.vision_stage(&self.runner.current(), image.resolution)?;
        profile(&stage, "encoder", runs, cancel, &|plan, arena| {
            plan.write(arena, input(plan, "pixel_values"), &image.pixel_values);
        })
    }

    /// Each op of the language model for a prompt of `tokens` positions, summed over its chunks.
    ///
    /// # Errors
    /// When it was cancelled or a weight cannot be read.
    pub fn profile_prefill(
        &self,
        tokens: usize,
        runs: usize,
        cancel: &CancelToken,
    ) -> Result<Vec<OpProfile>, Error> {
        let mut profiles: Vec<OpProfile> = Vec::new();
        let mut past = 0;
        while past < tokens {
            let rows = chunk_len(tokens).min(tokens - past);
            let chunk = self.profile_language("prefill", past, rows, runs, cancel)?;
            if profiles.is_empty() {
                profiles = chunk;
            } else {
                profiles.iter_mut().zip(chunk).for_each(|(sum, op)| {
                    sum.ms.iter_mut().zip(op.ms).for_each(|(sum, ms)| *sum += ms);
                    sum.flops += op.flops;
                    sum.bytes += op.bytes;
                });
            }
            past += rows;
        }
        Ok(profiles)
    }

    /// Each op of the language model for one token after `past` positions.
    ///
    /// # Errors
    /// When it was cancelled or a weight cannot be read.
    pub fn profile_decode(
        &self,
        past: usize,
        runs: usize,
        cancel: &CancelToken,
    ) -> Result<Vec<OpProfile>, Error> {
        self.profile_language("decode", past, 1, runs, cancel)
    }

    fn profile_language(
        &self,
        part: &'static str,
        past: usize,
        rows: usize,
        runs: usize,
        cancel: &CancelToken,
    ) -> Result<Vec<OpProfile>, Error> {
        let config = &self.config;
        let mut cache = KvCache::new(config.num_layers, config.num_kv_heads, config.head_dim);
        cache.reserve(past + rows);
        let stop = || cancel.is_cancelled();
        on_cpu(&self.runner.current().networks.language, |plan, arena| {
            let input = input(plan, "inputs_embeds");
            let width = plan.plan().tensor(input).cols;
            while cache.len() < past {
                let rows = chunk_len(past).min(past - cache.len());
                plan.write(arena, input, &waves(rows * width));
                plan.run(arena, rows, Some(&mut cache), &stop)?;
            }
            // The first run warms up.
            let mut timed = vec![OpTimes::default(); runs + 1];
            for times in &mut timed {
                plan.write(arena, input, &waves(rows * width));
                plan.run_timed(arena, rows, Some(&mut cache), &stop, times)?;
                cache.truncate(past);
            }
            Ok(profiles(plan, part, rows, past, &timed[1..]))
        })
    }
}

impl MobileClip {
    /// Memory in use.
    pub fn memory(&self) -> ModelMemory {
        let (weights, arenas) = (self.runner.current().engine.bytes(), self.arena_bytes());
        ModelMemory { weights_bytes: weights as u64, arena_bytes: arenas as u64, cache_bytes: 0 }
    }

    /// What the machine can do with this model's threads and instruction set.
    ///
    /// # Errors
    /// When it runs on a GPU.
    pub fn machine_limits(&self) -> Result<MachineLimits, Error> {
        Ok(self.runner.current().engine.on_cpu()?.device().measure_limits())
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.runner.current().engine.threads()
    }

    /// Each op of the image tower, without a head over one token.
    ///
    /// # Errors
    /// When it was cancelled or a weight cannot be read.
    pub fn profile_image(
        &self,
        image: &ClipImage,
        runs: usize,
        cancel: &CancelToken,
    ) -> Result<Vec<OpProfile>, Error> {
        let tower = self.image_tower(&self.runner.current())?;
        profile(&tower.trunk, "image", runs, cancel, &|plan, arena| {
            plan.write(arena, input(plan, "pixel_values"), &image.pixel_values);
        })
    }

    /// Each op of the text tower, without the head over its last token.
    ///
    /// # Errors
    /// As for [`MobileClip::embed_texts`], and when it was cancelled.
    pub fn profile_text(
        &self,
        text: &str,
        runs: usize,
        cancel: &CancelToken,
    ) -> Result<Vec<OpProfile>, Error> {
        let tower = self.text_tower(&self.runner.current())?;
        let tokens = self.tokenizer()?.encode(text, self.text_shape()?.context_length);
        profile(&tower.trunk, "text", runs, cancel, &|plan, arena| {
            plan.write_ids(arena, input(plan, "ids"), &tokens.ids);
        })
    }
}

/// Use a plan as the CPU runs it: no other device tells the time of one op.
fn on_cpu<R>(
    stage: &Stage,
    work: impl FnOnce(&PreparedPlan, &mut Arena) -> Result<R, Error>,
) -> Result<R, Error> {
    block_on(stage.with_arena(async |plan, arena| match (plan, arena) {
        (Prepared::Cpu(plan), engine::Arena::Cpu(arena)) => work(plan, arena),
        _ => Err(Error::CpuOnly),
    }))
}

/// # Panics
/// When the plan has no input of this name: our own plans do.
fn input(plan: &PreparedPlan, name: &str) -> ocelli_plan::TensorId {
    plan.plan().find(name).expect("our plans name their inputs")
}

/// Run a plan of fixed rows once to warm up, then `runs` times.
fn profile(
    stage: &Stage,
    part: &'static str,
    runs: usize,
    cancel: &CancelToken,
    write: &dyn Fn(&PreparedPlan, &mut Arena),
) -> Result<Vec<OpProfile>, Error> {
    let stop = || cancel.is_cancelled();
    on_cpu(stage, |plan, arena| {
        let mut timed = vec![OpTimes::default(); runs + 1];
        for times in &mut timed {
            // Inputs may share memory with what came after them.
            write(plan, arena);
            plan.run_timed(arena, 1, None, &stop, times)?;
        }
        Ok(profiles(plan, part, 1, 0, &timed[1..]))
    })
}

fn profiles(
    prepared: &PreparedPlan,
    part: &'static str,
    rows: usize,
    past: usize,
    timed: &[OpTimes],
) -> Vec<OpProfile> {
    let (plan, dtype) = (prepared.plan(), prepared.device().dtype());
    plan.ops
        .iter()
        .enumerate()
        .map(|(at, op)| {
            let cost = plan.op_cost(op, rows, past, dtype);
            let weights: usize = op.weights().into_iter().map(|id| prepared.weight_bytes(id)).sum();
            OpProfile {
                part,
                op: op.name(),
                matrix_product: op.is_matrix_product(),
                ms: timed.iter().map(|run| run.times[at].as_secs_f64() * 1e3).collect(),
                flops: cost.flops,
                bytes: cost.activation_bytes + weights as u64,
            }
        })
        .collect()
}

/// Values between -1 and 1 that stand for embeddings: time does not depend on them.
fn waves(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.7).sin()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClipOptions, ImageOptions, LoadOptions};

    fn model() -> (FastVlm, Image) {
        let dir = ocelli_testing::fixture("fastvlm-apple");
        let model = FastVlm::load(&dir, &LoadOptions::default()).expect("model");
        let picture = ocelli_testing::fixture("images").join("rgb_160x120.png");
        let image = model.open_image_with(&picture, &ImageOptions::default()).expect("image");
        (model, image)
    }

    #[test]
    fn every_op_of_the_encoder_has_its_time_and_work() {
        let (model, image) = model();
        let profile = model.profile_encoder(&image, 2, &CancelToken::default()).expect("profile");
        assert_eq!(
            profile.len(),
            model
                .vision_stage(&model.runner.current(), image.resolution)
                .expect("stage")
                .plan
                .plan()
                .ops
                .len()
        );
        assert!(profile.iter().all(|op| op.ms.len() == 2 && op.bytes > 0 && op.part == "encoder"));
        assert!(profile.iter().flat_map(|op| &op.ms).all(|&ms| ms > 0.0));
        for product in profile.iter().filter(|op| op.matrix_product) {
            assert!(product.flops > 0, "{product:?}");
        }
    }

    #[test]
    fn profiling_leaves_answers_as_they_are() {
        let (model, image) = model();
        let mut request = crate::Request::ask("What is it?", vec![image.clone()]);
        request.max_tokens = 4;
        let before = model.generate(&request, &mut |_| ()).expect("answer");
        let prefill = model.profile_prefill(300, 1, &CancelToken::default()).expect("profile");
        let decode = model.profile_decode(20, 1, &CancelToken::default()).expect("profile");
        let work = |ops: &[OpProfile]| ops.iter().map(|op| op.flops).sum::<u64>();
        assert!(work(&prefill) > 250 * work(&decode) / 2, "300 positions are more work than one");
        model.forget();
        let after = model.generate(&request, &mut |_| ()).expect("answer");
        assert_eq!((before.token_ids, after.usage.cached_tokens), (after.token_ids, 0));
        assert!(after.timings.encode_ms > 0.0, "the picture is encoded anew");
        assert_eq!(after.token_ms.len(), 4);
        assert!(after.token_ms.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(after.token_ms[0], after.timings.ttft_ms);
        let memory = model.memory();
        assert!(memory.weights_bytes > 0 && memory.arena_bytes > 0 && memory.cache_bytes > 0, "{memory:?}");
    }

    #[test]
    fn a_cancelled_profile_is_an_error() {
        let (model, image) = model();
        let cancel = CancelToken::default();
        cancel.cancel();
        assert!(model.time_encoder(&image, &cancel).is_err());
        assert!(model.profile_encoder(&image, 1, &cancel).is_err());
        assert!(model.profile_decode(3, 1, &cancel).is_err());
    }

    #[test]
    fn the_towers_of_a_mobileclip_have_profiles() {
        let dir = ocelli_testing::fixture("mobileclip-b");
        let model = MobileClip::load(&dir, &ClipOptions::default()).expect("model");
        let picture = ocelli_testing::fixture("images").join("rgb_160x120.png");
        let image = model.open_image(&picture, &crate::DecodeOptions::default()).expect("image");
        let cancel = CancelToken::default();
        let ops = model.profile_image(&image, 1, &cancel).expect("image tower");
        assert!(ops.iter().any(|op| op.matrix_product) && ops.iter().all(|op| op.part == "image"));
        assert!(model.memory().arena_bytes > 0 && model.threads() > 0);
    }
}
