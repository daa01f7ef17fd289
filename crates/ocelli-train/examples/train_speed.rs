//! Images per second of training a tiny FastVLM on the CPU: forward, backward and AdamW step on random data.
//!
//!     cargo run --release -p ocelli-train --example train_speed [STEPS]
//!
//! 96 px, batch 32, 36 visual tokens and 24 of text. `reference/train_speed.py` times the same network in PyTorch.

use std::time::Instant;

use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Int, Tensor};
use ocelli_train::burn;
use ocelli_train::layers::Sight;
use ocelli_train::nets::{FastVitConfig, FastVlm, Qwen2Config, Visual};
use ocelli_weights::FastVitForm;

const BATCH: usize = 32;
const RESOLUTION: usize = 96;
const VISUAL_TOKENS: usize = 36;
const TEXT_TOKENS: usize = 24;
const VOCAB: usize = 512;

fn main() {
    let steps: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(8);
    let device = Device::flex().autodiff();
    let form = FastVitForm {
        blocks: vec![2, 3, 2],
        attention: vec![false, false, true],
        stem_scale: false,
        downsample_se: false,
        batch_norm: false,
    };
    let vision = FastVitConfig {
        form,
        widths: vec![48, 96, 192],
        hidden: vec![144, 288, 576],
        downsample_se: vec![0; 3],
        final_se: 24,
        folded: false,
    };
    let language = Qwen2Config {
        vocab_rows: VOCAB,
        hidden_size: 192,
        intermediate_size: 512,
        layers: 3,
        heads: 6,
        kv_heads: 2,
        head_dim: 32,
        rope_base: 1e6,
        norm_eps: 1e-6,
        tied: true,
    };
    let mut model = FastVlm::new(&vision, &language, &device);
    let mut optimizer = AdamWConfig::new().init();
    println!("{} parameters", burn::module::Module::num_params(&model));

    let positions = VISUAL_TOKENS + TEXT_TOKENS;
    let pixels =
        Tensor::<4>::random([BATCH, RESOLUTION, RESOLUTION, 3], Distribution::Uniform(0.0, 1.0), &device);
    let ids: Vec<i32> = (0..BATCH * positions).map(|i| (i * 7919 % VOCAB) as i32).collect();
    let labels: Vec<i32> = ids
        .iter()
        .enumerate()
        .map(|(i, &id)| if i % positions < VISUAL_TOKENS { -100 } else { id })
        .collect();
    let ids = Tensor::<1, Int>::from_data(&ids[..], &device).reshape([BATCH, positions]);
    let places: Vec<Visual> = (0..BATCH).map(|element| Visual { element, position: 0 }).collect();

    let mut times = Vec::new();
    for step in 0..steps {
        let start = Instant::now();
        let loss = model.loss(pixels.clone(), ids.clone(), &places, &labels, &Sight::causal());
        let forward = start.elapsed();
        let value = loss.clone().into_scalar::<f32>();
        let gradients = loss.backward();
        let backward = start.elapsed();
        let gradients = GradientsParams::from_grads(gradients, &model);
        model = optimizer.step(1e-3, model, gradients);
        let whole = start.elapsed();
        println!(
            "step {step}: {:.3} s (forward {:.3}, backward {:.3}, AdamW {:.3}), loss {value:.4}",
            whole.as_secs_f64(),
            forward.as_secs_f64(),
            (backward - forward).as_secs_f64(),
            (whole - backward).as_secs_f64()
        );
        times.push(whole.as_secs_f64());
    }
    // The first step allocates.
    let mut times = times.split_off(1.min(steps - 1));
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("median {median:.3} s a step, {:.1} images/s", BATCH as f64 / median);
}
