//! A tiny MobileCLIP learns sixteen pairs by heart, and a run that was stopped goes on as if it had not been.

mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ocelli_train::clip_data::{Pair, Pairs, TeacherRows};
use ocelli_train::fit::{Record, Run, Schedule, clip};
use ocelli_train::losses::{Teachers, normalized};
use ocelli_train::nets::{ClipTextConfig, FastVitConfig, ImageTower, MobileClip};
use ocelli_train::precision::Precision;
use ocelli_train::{TrainError, burn};
use ocelli_weights::{ClipCheckpoint, Family, Naming};
use support::values;

const COUNT: usize = 16;
const SIZE: usize = 32;
const CONTEXT: usize = 6;
const END: u32 = 39;
/// Values of two teachers.
const TEACHERS: [usize; 2] = [4, 6];

/// Numbers from -1 to 1, others for each salt.
fn noise(count: usize, salt: usize) -> Vec<f32> {
    let mut state = salt as u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    // The first ones of neighbouring salts are alike.
    (0..count + 4).map(|_| next()).skip(4).collect()
}

/// Pictures of four coloured squares, each with its own text of two words.
struct Squares {
    bad: Vec<usize>,
}

impl Squares {
    fn pixels(index: usize) -> Vec<f32> {
        let colours = noise(12, 100 + index);
        let value = |i: usize| {
            let (y, x, channel) = (i / 3 / SIZE, i / 3 % SIZE, i % 3);
            colours[3 * (2 * (2 * y / SIZE) + 2 * x / SIZE) + channel]
        };
        (0..SIZE * SIZE * 3).map(value).collect()
    }

    fn text(index: usize) -> Vec<u32> {
        vec![38, index as u32 % 4, 4 + index as u32 / 4, END, 0, 0]
    }
}

/// A row of length 1 that no other sample has.
fn teacher_row(dims: [usize; 2], salt: usize) -> Vec<f32> {
    dims.iter()
        .flat_map(|&dim| {
            let row = noise(dim, salt);
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.into_iter().map(move |v| v / length)
        })
        .collect()
}

impl Pairs for Squares {
    fn count(&self) -> usize {
        COUNT
    }

    fn pair(&self, index: usize, draw: u64) -> Result<Pair, String> {
        if self.bad.contains(&index) {
            return Err(format!("square {index} is bad"));
        }
        let mut pixels = Self::pixels(index);
        // What is left to chance: a little more or less light.
        let light = 0.9 + 0.2 * (draw >> 40) as f32 / (1 << 24) as f32;
        pixels.iter_mut().for_each(|value| *value *= light);
        // Teachers find a picture and both of its texts alike.
        let row = teacher_row(TEACHERS, 50 + index);
        let mut synthetic = Self::text(index);
        synthetic.swap(1, 2);
        let teachers = TeacherRows { image: row.clone(), text: row.clone(), synthetic: Some(row) };
        Ok(Pair { pixels, text: Self::text(index), synthetic: Some(synthetic), teachers: Some(teachers) })
    }
}

fn network(seed: u64, device: &Device) -> (MobileClip, Naming) {
    // The numbers of all devices come from one sequence.
    static LOCK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOCK.lock().expect("no test panics here");
    device.seed(seed);
    let vision = FastVitConfig::mci(&[8, 16, 32, 64], &[1, 1, 1, 1], 2);
    let text = ClipTextConfig {
        vocab_size: 40,
        context_length: CONTEXT,
        width: 32,
        hidden: 64,
        heads: 2,
        convolutions: vec![None, None],
        causal: true,
        folded: false,
    };
    let naming = Naming::new(Family::OpenClip, Some(&vision.form)).expect("a family to train");
    (MobileClip::new(&ImageTower::FastVit(vision), &text, 24, true, device), naming)
}

fn config(steps: u64, loss: clip::ClipLoss) -> clip::ClipFit {
    clip::ClipFit {
        batch: 8,
        accumulate: 1,
        resolution: SIZE,
        learning_rate: 3e-3,
        learning_rates: clip::ClipRates::default(),
        schedule: Schedule { steps, warmup_steps: 3, floor: 0.05, ..Schedule::default() },
        optimizer: clip::ClipOptimizer::default(),
        loss,
        dtype: Precision::F32,
        evaluate_every: 0,
        evaluate_samples: COUNT,
        seed: 3,
        save_every: 1000,
    }
}

struct Folders {
    run: tempfile::TempDir,
    /// Of a checkpoint to begin with.
    from: tempfile::TempDir,
}

impl Folders {
    fn new() -> Self {
        let dir = || tempfile::tempdir().expect("a folder");
        Self { run: dir(), from: dir() }
    }
}

/// Train until a step; returns the records and the network.
fn fit(
    folders: &Folders,
    config: &clip::ClipFit,
    pairs: &Squares,
    seed: u64,
    until: u64,
) -> Result<(Vec<Record>, MobileClip), TrainError> {
    let device = Device::flex().autodiff();
    let (network, naming) = network(seed, &device);
    let run = Run::open(folders.run.path(), folders.from.path(), config)?;
    let mut records = Vec::new();
    let mut progress = |record: &Record| {
        records.push(record.clone());
        if record.step >= until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    // Held back is nothing here, so that it is known what a measurement is to find.
    let sources = clip::Sources { pairs, held_back: Some(pairs) };
    let network = clip::train(network, &device, &naming, &sources, config, &run, &mut progress, &|_| {})?;
    Ok((records, network))
}

/// How many pictures are nearest to their own text, as the engine would compute it: by running statistics.
fn right(network: &MobileClip) -> usize {
    let device = Device::flex();
    let network = network.valid();
    let pixels: Vec<f32> = (0..COUNT).flat_map(Squares::pixels).collect();
    let pixels = Tensor::from_data(TensorData::new(pixels, [COUNT, SIZE, SIZE, 3]), &device);
    let ids: Vec<i32> = (0..COUNT).flat_map(Squares::text).map(|id| id as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [COUNT, CONTEXT]), &device);
    let images = normalized(network.embed_images(pixels));
    let texts = normalized(network.embed_texts(ids));
    let likeness = values(images.matmul(texts.transpose()));
    let nearest = |row: &[f32]| (0..COUNT).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("texts");
    likeness.chunks(COUNT).enumerate().filter(|(i, row)| nearest(row) == *i).count()
}

#[test]
fn sixteen_pairs_are_learned_by_heart() {
    let none = Squares { bad: Vec::new() };
    let teachers = Teachers { dims: TEACHERS.to_vec(), logit_scales: vec![20.0, 15.0] };
    let reinforced = clip::ClipLoss::Reinforced { lambda: 0.5, synthetic: true, teachers };
    let losses = [clip::ClipLoss::Clip {}, clip::ClipLoss::Siglip { bias: -3.0 }, reinforced];
    for loss in losses {
        let folders = Folders::new();
        assert!(right(&network(1, &Device::flex()).0) < COUNT / 2);
        // All of them in every batch: the statistics of a batch are then those of the network in use.
        let config = clip::ClipFit { batch: COUNT, evaluate_every: 78, ..config(80, loss.clone()) };
        let (records, network) = fit(&folders, &config, &none, 1, u64::MAX).expect("trains");
        assert_eq!(records.len(), 80);
        let (first, last) = (records[0].loss, records[79].loss);
        assert!(last < 0.1 * first, "{loss:?}: {first} to {last}");
        assert_eq!(right(&network), COUNT, "{loss:?}: {first} to {last}");
        let measured: Vec<_> = records.iter().filter(|record| record.held_back_loss.is_some()).collect();
        assert_eq!(measured.iter().map(|record| record.step).collect::<Vec<_>>(), [78, 80]);
        assert_eq!(measured[1].held_back_recall, Some(1.0));
        let pairs_alone = measured[1].held_back_loss.expect("measured");
        assert!(pairs_alone < 0.3 * first, "{loss:?}: {pairs_alone} of {first}");
    }
}

fn bytes(folder: &Path, step: u64, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(format!("step-{step:08}")).join(file)).expect("a checkpoint")
}

#[test]
fn a_run_that_was_stopped_goes_on_bit_for_bit() {
    let none = Squares { bad: Vec::new() };
    for loss in [clip::ClipLoss::Clip {}, clip::ClipLoss::Siglip { bias: -10.0 }] {
        let config = clip::ClipFit { accumulate: 2, ..config(7, loss) };
        let [whole, stopped] = [Folders::new(), Folders::new()];
        let (records, _) = fit(&whole, &config, &none, 1, u64::MAX).expect("trains");
        let (before, _) = fit(&stopped, &config, &none, 1, 4).expect("trains");
        // What a network is before it goes on does not matter.
        let (after, _) = fit(&stopped, &config, &none, 2, u64::MAX).expect("trains");
        let curve = |records: &[Record]| {
            records.iter().map(|r| (r.step, r.loss.to_bits(), r.gradient_norm.to_bits())).collect::<Vec<_>>()
        };
        assert_eq!((before.len(), after.len()), (4, 3));
        assert_eq!(curve(&[before, after].concat()), curve(&records));
        // The ordinary loader takes what is written, SigLIP's with its bias too.
        let model = whole.run.path().join("step-00000007/model.safetensors");
        assert_eq!(ClipCheckpoint::open(&model).expect("a checkpoint").config.embed_dim, 24);
        for file in ["model.safetensors", "optimizer.safetensors"] {
            assert!(bytes(whole.run.path(), 7, file) == bytes(stopped.run.path(), 7, file), "{file}");
        }
    }
}

#[test]
fn bad_samples_are_told_and_counted() {
    let folders = Folders::new();
    let (records, _) = fit(&folders, &config(4, clip::ClipLoss::Clip {}), &Squares { bad: vec![2, 9] }, 1, 9)
        .expect("trains");
    // Two epochs of two steps.
    assert_eq!(records[3].bad_samples, 4);
    assert_eq!(records.iter().map(|record| record.samples).sum::<usize>(), 4 * 8 - 4);
    let all = Squares { bad: (0..COUNT).collect() };
    let error =
        fit(&Folders::new(), &config(4, clip::ClipLoss::Clip {}), &all, 1, 9).expect_err("nothing to learn");
    assert!(matches!(error, TrainError::NoExamples { .. }), "{error}");
    let teachers = Teachers { dims: vec![5, 5], logit_scales: vec![20.0] };
    let reinforced = clip::ClipLoss::Reinforced { lambda: 0.5, synthetic: true, teachers };
    let error = fit(&Folders::new(), &config(4, reinforced), &all, 1, 9).expect_err("refused");
    assert!(error.to_string().contains("1 logit scale"), "{error}");
}
