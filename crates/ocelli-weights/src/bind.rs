//! Binding: every row of the name tables to tensors of the files, every tensor to a row.
//!
//! Nothing is configured. A row is expanded over stages, blocks and layers; its tensors are looked up by name,
//! folded form or training form by which keys are there; sizes such as the width of a stage are what most of
//! the shapes agree on, so that one wrong tensor is named and not all others.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ocelli_plan::BlockFormat;

use crate::convert::is_float;
use crate::error::LoadError;
use crate::names::{
    BranchConv, BranchRow, CPE_CONV, Dim, FOLDED, FOLDED_LARGE_KERNEL, Form, LARGE_KERNEL, MOBILE_ONE,
    REP_MIXER_NORM, REP_MIXER_SCALE, Row, ScaleBranch, Size, Style,
};
use crate::quantization::Quantization;
use crate::reparameterize::{BATCH_NORM, BatchNorm, Branch, Recipe};
use crate::report::LoadReport;
use crate::safetensors_file::{Dtype, TensorInfo};
use crate::shards::TensorFiles;
use crate::tensor_file::TensorFile;
use crate::weights::{AffineData, Data, Extent, Fold, FoldedPart, Tensor};

/// Files and how their quantized tensors are to be read.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) files: TensorFiles,
    pub(crate) quantization: Quantization,
}

/// A row with its placeholders filled in.
#[derive(Debug)]
pub(crate) struct Module<'a> {
    pub(crate) source: &'a Source,
    pub(crate) row: &'static Row,
    pub(crate) ours: String,
    pub(crate) theirs: String,
    /// Stage that its sizes belong to.
    pub(crate) scope: usize,
    pub(crate) style: Style,
    pub(crate) channels_last: bool,
    /// Whether the stem has 1x1 branches.
    pub(crate) stem_scale: bool,
}

/// What a module takes from the file.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a few hundred, dropped when the checkpoint is open")]
enum Plan {
    /// One tensor.
    Single(Part),
    /// Weight and bias, ready.
    Folded([Part; 2]),
    /// Something to fold; `true` if that is training form (and not just what no checkpoint folds).
    Fold(Recipe<Part>, bool),
}

/// One tensor that a module asks for.
#[derive(Debug)]
struct Part {
    key: String,
    dims: Vec<Dim>,
    found: Option<Found>,
    /// Names that are not there: the tensor itself, or the scales or biases of its codes.
    missing: Vec<String>,
}

/// A tensor of the file.
#[derive(Debug)]
struct Found {
    tensor: Tensor,
    stored_shape: Vec<usize>,
}

/// Sizes by stage, found by vote.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    votes: BTreeMap<(Size, usize), BTreeMap<usize, usize>>,
    chosen: BTreeMap<(Size, usize), usize>,
}

/// All modules bound.
pub(crate) struct Bound {
    pub(crate) tensors: BTreeMap<String, Tensor>,
    /// Keys that are used, by the address of their source.
    pub(crate) used: HashSet<(*const Source, String)>,
    /// Our names by the keys of tensors that are taken as they are.
    pub(crate) ours: BTreeMap<String, String>,
}

/// All modules looked up, not yet bound.
pub(crate) struct Draft<'a> {
    modules: Vec<(Module<'a>, Plan)>,
    pub(crate) sizes: Sizes,
}

impl<'a> Draft<'a> {
    /// Look up every module's tensors and find the sizes. `prefer` decides where votes are equal.
    pub(crate) fn new(modules: Vec<Module<'a>>, prefer: &[(Size, usize)]) -> Result<Self, LoadError> {
        let mut sizes = Sizes::default();
        let mut planned = Vec::with_capacity(modules.len());
        for module in modules {
            let plan = module.plan()?;
            for part in plan.parts() {
                sizes.vote(part, module.scope);
            }
            planned.push((module, plan));
        }
        sizes.choose(prefer);
        Ok(Self { modules: planned, sizes })
    }

    /// Check all shapes and build the tensors under our names. Problems go into the report.
    pub(crate) fn bind(self, report: &mut LoadReport) -> Bound {
        let mut bound = Bound { tensors: BTreeMap::new(), used: HashSet::new(), ours: BTreeMap::new() };
        for (module, plan) in &self.modules {
            for part in plan.parts() {
                bound.use_part(module, part);
            }
            bound.bind_module(module, plan, &self.sizes, report);
        }
        report.applied = bound.used.len();
        bound
    }
}

impl Bound {
    fn use_part(&mut self, module: &Module, part: &Part) {
        let keys = std::iter::once(part.key.clone()).chain(affine_keys(&part.key).into_iter().flatten());
        let quantized = matches!(&part.found, Some(f) if matches!(f.tensor.data, Data::Affine(_)))
            || part.missing.iter().any(|name| *name != part.key);
        for (i, key) in keys.enumerate() {
            if (i == 0 || quantized) && module.source.files.contains(&key) {
                self.used.insert((std::ptr::from_ref(module.source), key));
            }
        }
    }

    fn bind_module(&mut self, module: &Module, plan: &Plan, sizes: &Sizes, report: &mut LoadReport) {
        let mut take = |part: &Part| take(part, module, sizes, report);
        let ours = &module.ours;
        match plan {
            Plan::Single(part) => {
                if let Some(tensor) = take(part) {
                    self.tensors.insert(ours.clone(), tensor);
                    self.ours.insert(part.key.clone(), ours.clone());
                }
            }
            Plan::Folded(parts) => {
                for (part, name) in parts.iter().zip(["weight", "bias"]) {
                    if let Some(tensor) = take(part) {
                        self.tensors.insert(format!("{ours}.{name}"), tensor);
                    }
                }
            }
            Plan::Fold(recipe, training) => {
                let recipe = recipe.try_map(&mut take);
                report.folded &= !training;
                let shape = sizes.shape(module.row.shape, module.scope);
                let Some((recipe, shape)) = recipe.zip(shape) else { return };
                let bias = shape.iter().take(1).copied().collect();
                let fold = Fold::new(recipe, shape.clone());
                for (name, shape, part) in
                    [("weight", shape, FoldedPart::Weight), ("bias", bias, FoldedPart::Bias)]
                {
                    let data = Data::Folded(fold.clone(), part);
                    self.tensors.insert(format!("{ours}.{name}"), Tensor { shape, data });
                }
            }
        }
    }
}

/// The branches of a MobileOne block that are there.
fn mobile_one(wanted: [bool; 3]) -> impl Iterator<Item = &'static BranchRow> {
    MOBILE_ONE.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(row, _)| row)
}

/// The tensor of a part if it is there and its shape fits.
fn take(part: &Part, module: &Module, sizes: &Sizes, report: &mut LoadReport) -> Option<Tensor> {
    for name in &part.missing {
        report.add_missing(name.clone());
    }
    let found = part.found.as_ref()?;
    // A size that no tensor tells, because all that could are wrong, shows as 0.
    let number = |dim: &Dim| sizes.number(*dim, module.scope).unwrap_or(0);
    let expected: Vec<usize> = part.dims.iter().map(number).collect();
    if found.tensor.shape == expected && !expected.contains(&0) {
        return Some(found.tensor.clone());
    }
    let in_file_order = match expected[..] {
        [o, i, h, w] if module.channels_last => vec![o, h, w, i],
        [o, i] if module.row.form == Form::Transposed => vec![i, o],
        _ => expected,
    };
    report.add_misshapen(&part.key, in_file_order, &found.stored_shape);
    None
}

impl Plan {
    fn parts(&self) -> Vec<&Part> {
        match self {
            Self::Single(part) => vec![part],
            Self::Folded(parts) => parts.iter().collect(),
            Self::Fold(recipe, _) => recipe.tensors(),
        }
    }
}

impl Module<'_> {
    fn plan(&self) -> Result<Plan, LoadError> {
        let weight = self.row.shape.to_vec();
        let out = vec![weight.first().copied().unwrap_or(Dim::N(1))];
        match self.row.form {
            Form::Tensor => return Ok(Plan::Single(self.part(&self.theirs, weight)?)),
            Form::PerChannel | Form::Squeezed => {
                return Ok(Plan::Single(self.squeezed(&self.theirs, weight)?));
            }
            Form::Transposed => return Ok(Plan::Single(self.transposed(&self.theirs, weight)?)),
            Form::ConvBatchNorm { child, norm } => {
                let branch = BranchRow { timm: child.timm, apple: child.apple, conv: BranchConv::Full };
                let branch = self.branch(&branch, norm.in_style(self.style))?;
                return Ok(Plan::Fold(Recipe::Sum(vec![branch]), false));
            }
            Form::BatchNormLinear => return Ok(Plan::Fold(self.batch_norm_linear()?, false)),
            _ => {}
        }
        let large = self.row.form == Form::LargeKernel;
        let folded = if large { FOLDED_LARGE_KERNEL } else { FOLDED }.in_style(self.style);
        let folded = format!("{}.{folded}", self.theirs);
        let anything_else = self.training_keys().any(|key| self.source.files.any_under(&key));
        if self.source.files.any_under(&format!("{folded}.")) || !anything_else {
            let weight = self.part(&format!("{folded}.weight"), weight)?;
            let bias = self.part(&format!("{folded}.bias"), out)?;
            return Ok(Plan::Folded([weight, bias]));
        }
        let recipe = match self.row.form {
            Form::MobileOne { scale, identity } => {
                Recipe::Sum(self.branches(mobile_one([true, self.has_scale(scale), identity]))?)
            }
            Form::LargeKernel => Recipe::Sum(self.branches(&LARGE_KERNEL)?),
            Form::RepMixer { scale } => self.rep_mixer(out, self.has_scale(scale))?,
            _ => {
                let conv = format!("{}.{}", self.theirs, CPE_CONV.in_style(self.style));
                let weight = self.part(&format!("{conv}.weight"), weight)?;
                Recipe::Residual { weight, bias: self.part(&format!("{conv}.bias"), out)? }
            }
        };
        Ok(Plan::Fold(recipe, true))
    }

    /// Prefixes of the keys that the module has in training form.
    fn training_keys(&self) -> impl Iterator<Item = String> {
        let rows: &[BranchRow] = match self.row.form {
            Form::MobileOne { .. } => &MOBILE_ONE,
            Form::LargeKernel => &LARGE_KERNEL,
            _ => &[],
        };
        let branches = rows.iter().map(|row| row.name(self.style));
        let others = match self.row.form {
            Form::RepMixer { .. } => vec!["mixer.", "norm.", "layer_scale"],
            Form::RepCpe => vec![CPE_CONV.in_style(self.style)],
            _ => Vec::new(),
        };
        // A prefix without its dot: Apple's layer scale is a tensor, timm's a module.
        branches.chain(others).map(|name| format!("{}.{name}", self.theirs))
    }

    fn has_scale(&self, scale: ScaleBranch) -> bool {
        match scale {
            ScaleBranch::Absent => false,
            ScaleBranch::Required => true,
            ScaleBranch::InStem => self.stem_scale,
        }
    }

    fn rep_mixer(&self, out: Vec<Dim>, has_scale: bool) -> Result<Recipe<Part>, LoadError> {
        let mixer = Module { theirs: format!("{}.mixer", self.theirs), ours: String::new(), ..*self };
        let norm = format!("{}.{}", self.theirs, REP_MIXER_NORM.name(self.style));
        let scale = format!("{}.{}", self.theirs, REP_MIXER_SCALE.in_style(self.style));
        Ok(Recipe::RepMixer {
            mixer: mixer.branches(mobile_one([true, has_scale, true]))?,
            norm: self.batch_norm(&norm, &out)?,
            scale: self.squeezed(&scale, out)?,
        })
    }

    /// `norm.*` and `token_mixer.qkv.weight` of an attention block.
    fn batch_norm_linear(&self) -> Result<Recipe<Part>, LoadError> {
        let inputs = vec![self.row.shape.get(1).copied().unwrap_or(Dim::N(1))];
        let weight = format!("{}.token_mixer.qkv.weight", self.theirs);
        Ok(Recipe::BatchNormLinear {
            weight: self.part(&weight, self.row.shape.to_vec())?,
            norm: self.batch_norm(&format!("{}.norm", self.theirs), &inputs)?,
        })
    }

    fn branches<'r>(
        &self,
        rows: impl IntoIterator<Item = &'r BranchRow>,
    ) -> Result<Vec<Branch<Part>>, LoadError> {
        rows.into_iter().map(|row| self.branch(row, "bn")).collect()
    }

    fn branch(&self, row: &BranchRow, norm: &str) -> Result<Branch<Part>, LoadError> {
        let name = format!("{}.{}", self.theirs, row.name(self.style));
        let shape = self.row.shape;
        let out = [shape.first().copied().unwrap_or(Dim::N(1))];
        let dims = match row.conv {
            BranchConv::Identity => {
                return Ok(Branch { conv: None, norm: self.batch_norm(&name, &out)? });
            }
            BranchConv::Full => shape.to_vec(),
            BranchConv::Kernel(k) => shape.iter().take(2).copied().chain([Dim::N(k), Dim::N(k)]).collect(),
        };
        let conv = self.part(&format!("{name}.conv.weight"), dims)?;
        Ok(Branch { conv: Some(conv), norm: self.batch_norm(&format!("{name}.{norm}"), &out)? })
    }

    fn batch_norm(&self, name: &str, dims: &[Dim]) -> Result<BatchNorm<Part>, LoadError> {
        let part = |leaf| self.part(&format!("{name}.{leaf}"), dims.to_vec());
        let [weight, bias, mean, var] = BATCH_NORM.map(part);
        Ok(BatchNorm([weight?, bias?, mean?, var?]))
    }

    /// A part whose dimensions of length 1 do not count.
    fn squeezed(&self, key: &str, dims: Vec<Dim>) -> Result<Part, LoadError> {
        let wanted = dims.len();
        let mut part = self.part(key, dims)?;
        if let Some(found) = &mut part.found {
            found.tensor.shape.retain(|&dim| dim != 1);
            // `[1, 1, 1]` is one channel.
            while found.tensor.shape.len() < wanted {
                found.tensor.shape.insert(0, 1);
            }
        }
        Ok(part)
    }

    /// A matrix that the file has the other way round.
    fn transposed(&self, key: &str, dims: Vec<Dim>) -> Result<Part, LoadError> {
        let mut part = self.part(key, dims)?;
        if let Some(found) = &mut part.found {
            found.tensor.shape.reverse();
            if let (Data::Plain(plain), 2) = (&found.tensor.data, found.tensor.shape.len()) {
                found.tensor.data = Data::Transposed(plain.clone());
            }
        }
        Ok(part)
    }

    fn part(&self, key: &str, dims: Vec<Dim>) -> Result<Part, LoadError> {
        let mut part = Part { key: key.to_owned(), dims, found: None, missing: Vec::new() };
        let Some((file, info)) = self.source.files.get(key) else {
            part.missing.push(key.to_owned());
            return Ok(part);
        };
        if info.dtype == Dtype::U32 && affine_keys(key).is_some() {
            self.find_affine(&mut part, file, info)?;
            return Ok(part);
        }
        if info.dtype == Dtype::U8 && self.source.quantization.blocks {
            part.found = Some(blocks(key, file, info)?);
            return Ok(part);
        }
        let floats = floats(key, file, info)?;
        let mut shape = info.shape.clone();
        let mut data = Data::Plain(floats.clone());
        if let ([o, h, w, i], true) = (&info.shape[..], self.channels_last) {
            shape = vec![*o, *i, *h, *w];
            // With one tap or one channel the two orders are the same bytes.
            if h * w > 1 && *i > 1 {
                data = Data::ChannelsLast(floats);
            }
        }
        part.found = Some(Found { tensor: Tensor { shape, data }, stored_shape: info.shape.clone() });
        Ok(part)
    }

    /// Codes with scales and biases; the shape is that of the values.
    fn find_affine(
        &self,
        part: &mut Part,
        file: &Arc<TensorFile>,
        info: &TensorInfo,
    ) -> Result<(), LoadError> {
        let error = |reason: String| LoadError::Quantization { tensor: part.key.clone(), reason };
        let module = part.key.strip_suffix(".weight").unwrap_or(&part.key);
        let Some(layout) = self.source.quantization.of(module) else {
            return Err(error("it holds codes, but config.json has no \"quantization\"".to_owned()));
        };
        let &[rows, words] = &info.shape[..] else {
            return Err(error(format!("codes of shape {:?}; expected two dimensions", info.shape)));
        };
        let mut others = Vec::new();
        for key in affine_keys(&part.key).into_iter().flatten() {
            match self.source.files.get(&key) {
                Some((file, info)) => others.push((floats(&key, file, info)?, info.shape.clone())),
                None => part.missing.push(key),
            }
        }
        let Ok([(scales, scales_shape), (biases, biases_shape)]) = <[_; 2]>::try_from(others) else {
            return Ok(());
        };
        let values = words.saturating_mul(layout.codes_per_word());
        let groups = vec![rows, values / layout.group_size()];
        if layout.words_per_row(values) != Some(words) || scales_shape != groups || biases_shape != groups {
            return Err(error(format!(
                "with {} bits and groups of {}, codes {:?} need scales and biases {groups:?}, but these are \
                 {scales_shape:?} and {biases_shape:?}",
                layout.bits(),
                layout.group_size(),
                info.shape
            )));
        }
        let codes = Extent { file: file.clone(), dtype: info.dtype, range: info.bytes.clone() };
        let data = Data::Affine(AffineData { layout, codes, scales, biases });
        let shape = vec![rows, values];
        part.found = Some(Found { tensor: Tensor { shape: shape.clone(), data }, stored_shape: shape });
        Ok(())
    }
}

/// A matrix in our blocks, stored `[rows, blocks of a row, bytes of a block]`, or with 8-bit rows, stored in its own
/// shape with four more columns, which hold the scale; the shape is that of the values.
fn blocks(key: &str, file: &Arc<TensorFile>, info: &TensorInfo) -> Result<Found, LoadError> {
    let [q8, q4] = [BlockFormat::Q8, BlockFormat::Q4].map(|format| format.block_bytes(BlockFormat::GROUP));
    let scale = BlockFormat::Int8.block_bytes(0);
    let error = || {
        let shape = &info.shape;
        let reason = format!(
            "bytes of shape {shape:?}; expected [rows, blocks, {q8} or {q4}] or [rows, {scale} + columns]"
        );
        LoadError::Quantization { tensor: key.to_owned(), reason }
    };
    let (format, shape) = match info.shape[..] {
        [rows, bytes] if bytes > scale => (BlockFormat::Int8, vec![rows, bytes - scale]),
        [rows, bytes, 1, 1] if bytes > scale => (BlockFormat::Int8, vec![rows, bytes - scale, 1, 1]),
        [rows, blocks, bytes] if bytes == q8 || bytes == q4 => {
            let format = if bytes == q8 { BlockFormat::Q8 } else { BlockFormat::Q4 };
            (format, vec![rows, blocks.checked_mul(BlockFormat::GROUP).ok_or_else(error)?])
        }
        _ => return Err(error()),
    };
    let bytes = Extent { file: file.clone(), dtype: info.dtype, range: info.bytes.clone() };
    let tensor = Tensor { shape, data: Data::Blocks(format, bytes) };
    Ok(Found { stored_shape: tensor.shape.clone(), tensor })
}

/// Floats of a file.
fn floats(key: &str, file: &Arc<TensorFile>, info: &TensorInfo) -> Result<Extent, LoadError> {
    if !is_float(info.dtype) {
        return Err(LoadError::Dtype { tensor: key.to_owned(), dtype: info.dtype.to_string() });
    }
    Ok(Extent { file: file.clone(), dtype: info.dtype, range: info.bytes.clone() })
}

/// Scales and biases that belong to the codes `X.weight`.
fn affine_keys(key: &str) -> Option<[String; 2]> {
    let module = key.strip_suffix(".weight")?;
    Some([format!("{module}.scales"), format!("{module}.biases")])
}

impl Sizes {
    /// The size most tensors agree on, or `None` if none says anything about it.
    pub(crate) fn get(&self, size: Size, scope: usize) -> Option<usize> {
        self.chosen.get(&(size, own_scope(size, scope))).copied()
    }

    /// Numbers for symbols.
    fn shape(&self, dims: &[Dim], scope: usize) -> Option<Vec<usize>> {
        dims.iter().map(|dim| self.number(*dim, scope)).collect()
    }

    fn number(&self, dim: Dim, scope: usize) -> Option<usize> {
        match dim {
            Dim::N(n) => Some(n),
            Dim::S(k, size) => Some(k * self.get(size, scope)?),
        }
    }

    fn vote(&mut self, part: &Part, scope: usize) {
        let Some(found) = part.found.as_ref().filter(|f| f.tensor.shape.len() == part.dims.len()) else {
            return;
        };
        for (dim, &n) in part.dims.iter().zip(&found.tensor.shape) {
            if let Dim::S(k, size) = *dim
                && n % k == 0
                && n > 0
            {
                let votes = self.votes.entry((size, own_scope(size, scope))).or_default();
                *votes.entry(n / k).or_default() += 1;
            }
        }
    }

    fn choose(&mut self, prefer: &[(Size, usize)]) {
        for (&(size, scope), votes) in &self.votes {
            let preferred = |value: usize| prefer.contains(&(size, value));
            let best = votes.iter().max_by_key(|&(&value, &count)| (count, preferred(value)));
            if let Some((&value, _)) = best {
                self.chosen.insert((size, scope), value);
            }
        }
    }
}

/// Sizes of the tower's stages are by stage, all others exist once.
fn own_scope(size: Size, scope: usize) -> usize {
    match size {
        Size::Width | Size::Expanded | Size::DownsampleSe => scope,
        _ => 0,
    }
}
