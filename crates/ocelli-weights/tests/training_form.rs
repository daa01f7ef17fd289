//! Towers in training form: branches and BatchNorms are folded, and the folded conv computes what the branches
//! do together.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ocelli_plan::WeightSource;
use ocelli_weights::{Checkpoint, LoadError};
use support::{Raw, Tensors, edit_config, fixture, read_dir, write_dir};
use tempfile::TempDir;

/// A tower to make up.
#[derive(Clone, Copy)]
struct Variant {
    widths: &'static [usize],
    blocks: &'static [usize],
    first_attention: usize,
    /// mci0 to mci2: BatchNorm before attention, squeeze-excite in downsamples, 1x1 branches in the stem.
    small: bool,
}

const MCI0: Variant =
    Variant { widths: &[8, 16, 32, 64], blocks: &[1, 2, 2, 1], first_attention: 3, small: true };
const MCI3: Variant =
    Variant { widths: &[4, 8, 16, 32, 64], blocks: &[1, 2, 1, 1, 2], first_attention: 3, small: false };

/// A conv that a module makes of its branches.
#[derive(Clone, Debug)]
struct Conv {
    timm: String,
    ours: String,
    kind: Kind,
    inputs: usize,
    shape: [usize; 4],
    stride: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    MobileOne { scale: bool, identity: bool },
    LargeKernel,
    RepMixer,
    Cpe,
    Ffn,
}

/// Tensors in timm's names, and the convs they make.
#[derive(Default)]
struct Tower {
    tensors: Tensors,
    convs: Vec<Conv>,
    state: u64,
}

impl Tower {
    fn new(variant: Variant, seed: u64) -> Self {
        let mut tower = Self { state: seed, ..Self::default() };
        let Variant { widths, blocks, first_attention, small } = variant;
        let c = widths[0];
        tower.mobile_one("stem.0", "stem.0", 3, [c, 3, 3, 3], 2, small, false);
        tower.mobile_one("stem.1", "stem.1", c, [c, 1, 3, 3], 2, small, false);
        tower.mobile_one("stem.2", "stem.2", c, [c, c, 1, 1], 1, false, true);
        for (s, &c) in widths.iter().enumerate() {
            if s > 0 {
                tower.downsample(s, widths[s - 1], c, small && s > 1);
            }
            if s >= first_attention {
                let name = format!("stages.{s}.pos_emb");
                tower.random(&format!("{name}.pos_enc.weight"), &[c, 1, 7, 7]);
                tower.random(&format!("{name}.pos_enc.bias"), &[c]);
                tower.conv(&name, &name, Kind::Cpe, c, [c, 1, 7, 7], 1);
            }
            for b in 0..blocks[s] {
                tower.block(&format!("stages.{s}.blocks.{b}"), c, s >= first_attention, small);
            }
        }
        let last = widths[widths.len() - 1];
        tower.mobile_one("final_conv", "final_conv", last, [2 * last, 1, 3, 3], 1, true, false);
        tower.squeeze_excite("final_conv.se", 2 * last, last / 8);
        tower.random("head.fc.weight", &[24, 2 * last]);
        tower.random("head.fc.bias", &[24]);
        tower
    }

    fn downsample(&mut self, s: usize, inputs: usize, c: usize, se: bool) {
        let (timm, ours) = (format!("stages.{s}.downsample.proj"), format!("stages.{s}.downsample"));
        for (branch, k) in [("large_conv", 7), ("small_conv", 3)] {
            self.random(&format!("{timm}.0.{branch}.conv.weight"), &[c, 1, k, k]);
            self.batch_norm(&format!("{timm}.0.{branch}.bn"), c);
        }
        self.conv(&format!("{timm}.0"), &format!("{ours}.dw"), Kind::LargeKernel, inputs, [c, 1, 7, 7], 2);
        if se {
            self.squeeze_excite(&format!("{timm}.0.se"), c, c / 4);
        }
        self.mobile_one(&format!("{timm}.1"), &format!("{ours}.pw"), c, [c, c, 1, 1], 1, false, true);
    }

    fn block(&mut self, name: &str, c: usize, attention: bool, batch_norm: bool) {
        if attention {
            if batch_norm {
                self.batch_norm(&format!("{name}.norm"), c);
            } else {
                self.random(&format!("{name}.norm.weight"), &[c]);
                self.random(&format!("{name}.norm.bias"), &[c]);
            }
            self.random(&format!("{name}.token_mixer.qkv.weight"), &[3 * c, c]);
            self.random(&format!("{name}.token_mixer.proj.weight"), &[c, c]);
            self.random(&format!("{name}.token_mixer.proj.bias"), &[c]);
            self.random(&format!("{name}.layer_scale_1.gamma"), &[c, 1, 1]);
            self.random(&format!("{name}.layer_scale_2.gamma"), &[c, 1, 1]);
        } else {
            let mixer = format!("{name}.token_mixer");
            self.mobile_one(&format!("{mixer}.mixer"), "", c, [c, 1, 3, 3], 1, true, true);
            self.convs.pop();
            self.batch_norm(&format!("{mixer}.norm.identity"), c);
            self.random(&format!("{mixer}.layer_scale.gamma"), &[c, 1, 1]);
            self.conv(&mixer, &mixer, Kind::RepMixer, c, [c, 1, 3, 3], 1);
            self.random(&format!("{name}.layer_scale.gamma"), &[c, 1, 1]);
        }
        self.random(&format!("{name}.mlp.conv.conv.weight"), &[c, 1, 7, 7]);
        self.batch_norm(&format!("{name}.mlp.conv.bn"), c);
        self.conv(&format!("{name}.mlp"), &format!("{name}.ffn.dw"), Kind::Ffn, c, [c, 1, 7, 7], 1);
        self.random(&format!("{name}.mlp.fc1.weight"), &[3 * c, c, 1, 1]);
        self.random(&format!("{name}.mlp.fc1.bias"), &[3 * c]);
        self.random(&format!("{name}.mlp.fc2.weight"), &[c, 3 * c, 1, 1]);
        self.random(&format!("{name}.mlp.fc2.bias"), &[c]);
    }

    fn mobile_one(
        &mut self,
        timm: &str,
        ours: &str,
        inputs: usize,
        shape: [usize; 4],
        stride: usize,
        scale: bool,
        identity: bool,
    ) {
        self.random(&format!("{timm}.conv_kxk.0.conv.weight"), &shape);
        self.batch_norm(&format!("{timm}.conv_kxk.0.bn"), shape[0]);
        if scale {
            self.random(&format!("{timm}.conv_scale.conv.weight"), &[shape[0], shape[1], 1, 1]);
            self.batch_norm(&format!("{timm}.conv_scale.bn"), shape[0]);
        }
        if identity {
            self.batch_norm(&format!("{timm}.identity"), shape[0]);
        }
        self.conv(timm, ours, Kind::MobileOne { scale, identity }, inputs, shape, stride);
    }

    fn squeeze_excite(&mut self, name: &str, c: usize, hidden: usize) {
        self.random(&format!("{name}.fc1.weight"), &[hidden, c, 1, 1]);
        self.random(&format!("{name}.fc1.bias"), &[hidden]);
        self.random(&format!("{name}.fc2.weight"), &[c, hidden, 1, 1]);
        self.random(&format!("{name}.fc2.bias"), &[c]);
    }

    fn conv(&mut self, timm: &str, ours: &str, kind: Kind, inputs: usize, shape: [usize; 4], stride: usize) {
        let (timm, ours) = (timm.to_owned(), format!("vision.{ours}"));
        self.convs.push(Conv { timm, ours, kind, inputs, shape, stride });
    }

    fn batch_norm(&mut self, name: &str, c: usize) {
        for (leaf, low, high) in [
            ("weight", 0.5, 1.5),
            ("bias", -0.5, 0.5),
            ("running_mean", -0.5, 0.5),
            ("running_var", 0.2, 2.0),
        ] {
            self.between(&format!("{name}.{leaf}"), &[c], low, high);
        }
        let counter = Raw { dtype: safetensors::Dtype::I64, shape: vec![], bytes: vec![0; 8] };
        self.tensors.insert(format!("{name}.num_batches_tracked"), counter);
    }

    fn random(&mut self, name: &str, shape: &[usize]) {
        self.between(name, shape, -0.5, 0.5);
    }

    fn between(&mut self, name: &str, shape: &[usize], low: f32, high: f32) {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| low + (high - low) * random(&mut self.state)).collect();
        self.tensors.insert(name.to_owned(), Raw::f32(shape, &values));
    }
}

fn random(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 40) as f32 / (1 << 24) as f32
}

/// timm's name in Apple's style (ml-mobileclip, `mobileclip/models/mci.py`).
fn to_apple(name: &str, variant: Variant) -> String {
    let mut name = name.to_owned();
    let mut place = 0;
    let mut places = BTreeMap::new();
    for s in 0..variant.widths.len() {
        for part in ["downsample", "pos_emb", "blocks"] {
            let there = match part {
                "downsample" => s > 0,
                "pos_emb" => s >= variant.first_attention,
                _ => true,
            };
            if there {
                places.insert(format!("stages.{s}.{part}."), format!("network.{place}."));
                place += 1;
            }
        }
    }
    for (timm, apple) in &places {
        if let Some(rest) = name.strip_prefix(timm.as_str()) {
            name = format!("{apple}{rest}");
        }
    }
    if name.contains(".proj.0.") {
        name = name.replace("reparam_conv", "lkb_reparam").replace("large_conv", "lkb_origin");
    }
    if name.starts_with("final_conv.") {
        name = name.replace("se.fc1", "se.reduce").replace("se.fc2", "se.expand");
    }
    for (timm, apple) in [
        ("final_conv.", "conv_exp."),
        ("stem.", "patch_embed."),
        (".pos_enc.", ".pe."),
        (".mlp.", ".convffn."),
        (".conv_kxk.", ".rbr_conv."),
        (".conv_scale.", ".rbr_scale."),
        (".identity.", ".rbr_skip."),
        (".gamma", ""),
    ] {
        name = name.replace(timm, apple);
    }
    name
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Style {
    Timm,
    Apple,
}

/// The fixture with another tower.
fn checkpoint_dir(tower: &Tensors, variant: Variant, style: Style) -> TempDir {
    let (like, prefix): (PathBuf, _) = match style {
        Style::Timm => (fixture("fastvlm-native"), "model.vision_tower.timm_model."),
        Style::Apple => (fixture("fastvlm-apple"), "model.vision_tower.vision_tower.model."),
    };
    let mut tensors = read_dir(&like);
    tensors.retain(|name, _| !name.starts_with(prefix));
    for (name, raw) in tower {
        let name = if style == Style::Apple { to_apple(name, variant) } else { name.clone() };
        tensors.insert(format!("{prefix}{name}"), raw.clone());
    }
    let dir = write_dir(&like, &tensors);
    edit_config(dir.path(), |_| {});
    dir
}

fn open(tower: &Tensors, variant: Variant, style: Style) -> Result<Checkpoint, LoadError> {
    Checkpoint::open(checkpoint_dir(tower, variant, style).path(), None)
}

const CASES: [(Variant, Style); 4] =
    [(MCI0, Style::Timm), (MCI0, Style::Apple), (MCI3, Style::Timm), (MCI3, Style::Apple)];

#[test]
fn whole_towers_load() {
    for (variant, style) in CASES {
        let tower = Tower::new(variant, 1);
        let checkpoint = open(&tower.tensors, variant, style).unwrap_or_else(|e| panic!("{style:?}: {e}"));
        assert!(!checkpoint.report.folded);
        assert_eq!(checkpoint.config.vision.widths, variant.widths);
        assert_eq!(checkpoint.config.vision.blocks, variant.blocks);
        assert_eq!(checkpoint.config.vision.stride, 4 << (variant.widths.len() - 1));
        let weights = checkpoint.weights();
        assert_eq!(weights.contains("vision.stages.3.downsample.se.fc1.weight"), variant.small);
        assert!(!weights.contains("vision.stages.1.downsample.se.fc1.weight"));
        assert_eq!(weights.contains("vision.stages.3.blocks.0.attn.qkv.bias"), variant.small);
        assert_eq!(weights.contains("vision.stages.3.blocks.0.norm.weight"), !variant.small);
        for conv in &tower.convs {
            assert_eq!(weights.shape(&format!("{}.weight", conv.ours)), Some(&conv.shape[..]), "{conv:?}");
            assert_eq!(weights.shape(&format!("{}.bias", conv.ours)), Some(&conv.shape[..1]), "{conv:?}");
        }
    }
}

/// Each folded conv against its branches on a random input: relative error of at most 1e-5, which is rounding
/// of the folded weights to f32 and of the sums here.
#[test]
fn folded_convs_compute_the_branches() {
    for (variant, style) in CASES {
        let tower = Tower::new(variant, 2);
        let checkpoint = open(&tower.tensors, variant, style).expect("a checkpoint");
        let mut state = 3;
        for conv in &tower.convs {
            let side = 9;
            let x: Vec<f64> =
                (0..conv.inputs * side * side).map(|_| f64::from(random(&mut state)) - 0.5).collect();
            let x = Map { channels: conv.inputs, side, values: x };
            let weight = checkpoint.weights().read(&format!("{}.weight", conv.ours)).expect("a weight");
            let bias = checkpoint.weights().read(&format!("{}.bias", conv.ours)).expect("a bias");
            let mut folded = x.conv(&weight, conv.shape, conv.stride);
            folded.each(|c, v| v + f64::from(bias[c]));
            let direct = direct(conv, &tower.tensors, &x);
            let error = folded.distance(&direct);
            assert!(error <= 1e-5, "{style:?} {conv:?}: {error}");
        }
    }
}

/// `Linear(BN(x))` against the linear with a bias.
#[test]
fn folded_qkv_computes_norm_and_linear() {
    let tower = Tower::new(MCI0, 4);
    for style in [Style::Timm, Style::Apple] {
        let checkpoint = open(&tower.tensors, MCI0, style).expect("a checkpoint");
        let read = |name: &str| {
            checkpoint.weights().read(&format!("vision.stages.3.blocks.0.{name}")).expect("there")
        };
        let (weight, bias) = (read("attn.qkv.weight"), read("attn.qkv.bias"));
        let (c, mut state) = (64, 5);
        let x = Map { channels: c, side: 1, values: (0..c).map(|_| f64::from(random(&mut state))).collect() };
        let mut folded = x.conv(&weight, [3 * c, c, 1, 1], 1);
        folded.each(|c, v| v + f64::from(bias[c]));
        let normed = batch_norm(&tower.tensors, "stages.3.blocks.0.norm", x);
        let qkv = tower.tensors["stages.3.blocks.0.token_mixer.qkv.weight"].values();
        let error = folded.distance(&normed.conv(&qkv, [3 * c, c, 1, 1], 1));
        assert!(error <= 1e-5, "{error}");
    }
}

/// A file with the folded convs gives the same numbers as the file with the branches.
#[test]
fn folded_equals_unfolded() {
    for (variant, style) in CASES {
        let tower = Tower::new(variant, 6);
        let training = open(&tower.tensors, variant, style).expect("a checkpoint");
        let mut folded = tower.tensors.clone();
        for conv in tower.convs.iter().filter(|conv| conv.kind != Kind::Ffn) {
            let prefix = format!("{}.", conv.timm);
            folded.retain(|name, _| !name.starts_with(&prefix) || name[prefix.len()..].starts_with("se."));
            for (leaf, shape) in [("weight", &conv.shape[..]), ("bias", &conv.shape[..1])] {
                let values = training.weights().read(&format!("{}.{leaf}", conv.ours)).expect("there");
                folded.insert(format!("{prefix}reparam_conv.{leaf}"), Raw::f32(shape, &values));
            }
        }
        let folded = open(&folded, variant, style).expect("a checkpoint");
        assert!(folded.report.folded && !training.report.folded);
        for tensor in training.weights().iter() {
            let read = |c: &Checkpoint| c.weights().read(tensor.name).expect("there");
            assert!(read(&training) == read(&folded), "{}", tensor.name);
        }
        assert_eq!(training.weights().iter().count(), folded.weights().iter().count());
    }
}

/// No branch is optional: every tensor of a training-form file is missed.
#[test]
fn every_tensor_is_missed() {
    for (variant, style) in CASES {
        let tower = Tower::new(variant, 7);
        for name in tower.tensors.keys() {
            if name.ends_with("num_batches_tracked") || name.starts_with("head.") {
                continue;
            }
            let mut less = tower.tensors.clone();
            less.remove(name);
            let error = open(&less, variant, style).expect_err(name);
            let key = if style == Style::Apple { to_apple(name, variant) } else { name.clone() };
            assert!(error.to_string().contains(&format!("{key}`")), "{style:?} {key}: {error}");
        }
    }
}

/// What the branches of a module give together, step by step.
fn direct(conv: &Conv, tensors: &Tensors, x: &Map) -> Map {
    let name = |rest: &str| format!("{}.{rest}", conv.timm);
    let branch = |rest: &str| {
        let raw = &tensors[&name(&format!("{rest}.conv.weight"))];
        let shape: [usize; 4] = raw.shape[..].try_into().expect("a conv");
        batch_norm(tensors, &name(&format!("{rest}.bn")), x.conv(&raw.values(), shape, conv.stride))
    };
    match conv.kind {
        Kind::MobileOne { scale, identity } => mobile_one(conv, tensors, x, scale, identity),
        Kind::LargeKernel => branch("large_conv").plus(&branch("small_conv")),
        Kind::Ffn => branch("conv"),
        Kind::Cpe => {
            let weight = tensors[&name("pos_enc.weight")].values();
            let bias = tensors[&name("pos_enc.bias")].values();
            let mut y = x.conv(&weight, conv.shape, 1);
            y.each(|c, v| v + f64::from(bias[c]));
            y.plus(x)
        }
        Kind::RepMixer => {
            let mixer = Conv { timm: name("mixer"), ..conv.clone() };
            let mut y = mobile_one(&mixer, tensors, x, true, true);
            let normed = batch_norm(tensors, &name("norm.identity"), x.clone());
            let scale = tensors[&name("layer_scale.gamma")].values();
            y.values.iter_mut().zip(&normed.values).for_each(|(y, n)| *y -= n);
            y.each(|c, v| v * f64::from(scale[c]));
            y.plus(x)
        }
    }
}

fn mobile_one(conv: &Conv, tensors: &Tensors, x: &Map, scale: bool, identity: bool) -> Map {
    let branch = |rest: &str, k: usize| {
        let weight = tensors[&format!("{}.{rest}.conv.weight", conv.timm)].values();
        let shape = [conv.shape[0], conv.shape[1], k, k];
        batch_norm(tensors, &format!("{}.{rest}.bn", conv.timm), x.conv(&weight, shape, conv.stride))
    };
    let mut y = branch("conv_kxk.0", conv.shape[2]);
    if scale {
        y = y.plus(&branch("conv_scale", 1));
    }
    if identity {
        y = y.plus(&batch_norm(tensors, &format!("{}.identity", conv.timm), x.clone()));
    }
    y
}

fn batch_norm(tensors: &Tensors, name: &str, mut x: Map) -> Map {
    let [weight, bias, mean, var] = ["weight", "bias", "running_mean", "running_var"]
        .map(|leaf| tensors[&format!("{name}.{leaf}")].values());
    let at = |values: &[f32], c: usize| f64::from(values[c]);
    x.each(|c, v| (v - at(&mean, c)) / (at(&var, c) + 1e-5).sqrt() * at(&weight, c) + at(&bias, c));
    x
}

/// A feature map `[channels, side, side]`.
#[derive(Clone)]
struct Map {
    channels: usize,
    side: usize,
    values: Vec<f64>,
}

impl Map {
    /// Grouped conv with zero padding of half the kernel; the groups follow from the shapes.
    fn conv(&self, weight: &[f32], shape: [usize; 4], stride: usize) -> Map {
        let [out, inputs, k, _] = shape;
        let groups = self.channels / inputs;
        let side = (self.side - 1) / stride + 1;
        let mut values = Vec::with_capacity(out * side * side);
        for o in 0..out {
            let first = o / (out / groups) * inputs;
            for (y, x) in (0..side * side).map(|p| (p / side, p % side)) {
                let mut sum = 0.0;
                for (i, tap) in (0..inputs).flat_map(|i| (0..k * k).map(move |tap| (i, tap))) {
                    let (row, column) = (y * stride + tap / k, x * stride + tap % k);
                    let inside = |v: usize| v.checked_sub(k / 2).filter(|&v| v < self.side);
                    if let (Some(row), Some(column)) = (inside(row), inside(column)) {
                        let w = f64::from(weight[(o * inputs + i) * k * k + tap]);
                        sum += w * self.values[((first + i) * self.side + row) * self.side + column];
                    }
                }
                values.push(sum);
            }
        }
        Map { channels: out, side, values }
    }

    fn each(&mut self, f: impl Fn(usize, f64) -> f64) {
        let area = self.side * self.side;
        self.values.iter_mut().enumerate().for_each(|(i, v)| *v = f(i / area, *v));
    }

    fn plus(mut self, other: &Map) -> Map {
        assert_eq!(self.values.len(), other.values.len());
        self.values.iter_mut().zip(&other.values).for_each(|(a, b)| *a += b);
        self
    }

    /// Relative L2.
    fn distance(&self, other: &Map) -> f64 {
        assert_eq!(self.values.len(), other.values.len());
        let difference: f64 = self.values.iter().zip(&other.values).map(|(a, b)| (a - b) * (a - b)).sum();
        let norm: f64 = other.values.iter().map(|v| v * v).sum();
        (difference / norm).sqrt()
    }
}
