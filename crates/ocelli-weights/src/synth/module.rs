//! From a row of the name tables to the tensors that a checkpoint stores for it, in either style of names, folded
//! or in training form: the way that `bind` goes, backwards.

use super::tensor::{Fill, TensorList};
use crate::names::{
    BranchConv, BranchRow, CPE_CONV, Dim, FOLDED, FOLDED_LARGE_KERNEL, Form, LARGE_KERNEL, MOBILE_ONE,
    REP_MIXER_NORM, REP_MIXER_SCALE, Row, ScaleBranch, Size, Style,
};

/// Root mean square of GELU of a standard normal, 0.652.
const GELU_RMS: f32 = 0.652;
/// The gain of a linear after a GELU that keeps the size of what goes in.
pub(super) const GELU_GAIN: f32 = 1.0 / GELU_RMS;

/// How the values of a module are drawn.
#[derive(Debug, Clone, Copy)]
pub(super) enum Draw {
    /// Weights that keep the size of what goes in, times this.
    Gain(f32),
    /// A module that adds a little to what goes in; `noise` is the standard deviation of one weight.
    Residual { noise: f32 },
    /// One tensor.
    As(Fill),
    /// One tensor, stored with as many dimensions of length 1 before its own.
    After(usize, Fill),
}

/// Writes modules into a list.
pub(super) struct Modules<'a> {
    pub(super) list: &'a mut TensorList,
    pub(super) style: Style,
    /// Branches are one conv already.
    pub(super) folded: bool,
    /// In training form, the stem has 1x1 branches.
    pub(super) stem_scale: bool,
}

impl Modules<'_> {
    /// The tensors of `row`, which the checkpoint calls `name`.
    pub(super) fn add(&mut self, row: &Row, name: &str, size: impl Fn(Size) -> usize, draw: Draw) {
        let number = |dim: &Dim| match *dim {
            Dim::N(n) => n,
            Dim::S(k, of) => k * size(of),
        };
        let shape: Vec<usize> = row.shape.iter().map(number).collect();
        match (row.form, draw) {
            (Form::PerChannel, Draw::As(fill)) => self.list.add(name, &[shape[0], 1, 1], fill),
            (_, Draw::As(fill)) => self.list.add(name, &shape, fill),
            (_, Draw::After(ones, fill)) => self.list.add(name, &[&[1, 1][..ones], &shape].concat(), fill),
            (_, Draw::Residual { noise }) => self.residual(row.form, name, &shape, noise),
            (Form::Transposed, Draw::Gain(gain)) => {
                let std = gain / (shape[1] as f32).sqrt();
                self.list.random(name, &[shape[1], shape[0]], std);
            }
            (Form::MobileOne { .. } | Form::LargeKernel, Draw::Gain(gain)) if self.folded => {
                self.list.weight_and_bias(&self.folded_name(row.form, name), &shape, gain);
            }
            (Form::MobileOne { scale, identity }, Draw::Gain(gain)) => {
                self.branches(name, &self.mobile_one(scale, identity), &shape, gain);
            }
            (Form::LargeKernel, Draw::Gain(gain)) => {
                self.branches(name, &LARGE_KERNEL.each_ref(), &shape, gain);
            }
            (Form::ConvBatchNorm { child, norm }, Draw::Gain(gain)) => {
                let child = format!("{name}.{}", child.in_style(self.style));
                self.list.weight(&format!("{child}.conv.weight"), &shape, 1.0);
                self.list.batch_norm(&format!("{child}.{}", norm.in_style(self.style)), shape[0], gain);
            }
            (Form::BatchNormLinear, Draw::Gain(gain)) => {
                self.list.batch_norm(&format!("{name}.norm"), shape[1], 1.0);
                self.list.weight(&format!("{name}.token_mixer.qkv.weight"), &shape, gain);
            }
            (_, Draw::Gain(gain)) => self.list.weight(name, &shape, gain),
        }
    }

    /// `x` and a little of something else.
    fn residual(&mut self, form: Form, name: &str, shape: &[usize], noise: f32) {
        if self.folded {
            let conv = self.folded_name(form, name);
            self.list.add(&format!("{conv}.weight"), shape, Fill::Identity { noise });
            self.list.add(&format!("{conv}.bias"), &shape[..1], Fill::BIAS);
            return;
        }
        let Form::RepMixer { scale } = form else {
            let conv = format!("{name}.{}", CPE_CONV.in_style(self.style));
            self.list.random(&format!("{conv}.weight"), shape, noise);
            self.list.add(&format!("{conv}.bias"), &shape[..1], Fill::BIAS);
            return;
        };
        let branches = self.mobile_one(scale, true);
        self.branches(&format!("{name}.mixer"), &branches, shape, 1.0);
        // As large as the branch that it is subtracted from.
        let norm = format!("{name}.{}", REP_MIXER_NORM.name(self.style));
        self.list.batch_norm(&norm, shape[0], share(1.0, branches.len()));
        let layer_scale = format!("{name}.{}", REP_MIXER_SCALE.in_style(self.style));
        self.list.add(&layer_scale, &[shape[0], 1, 1], Fill::LAYER_SCALE);
    }

    fn folded_name(&self, form: Form, name: &str) -> String {
        let folded = if form == Form::LargeKernel { FOLDED_LARGE_KERNEL } else { FOLDED };
        format!("{name}.{}", folded.in_style(self.style))
    }

    /// The branches that a MobileOne block has.
    fn mobile_one(&self, scale: ScaleBranch, identity: bool) -> Vec<&'static BranchRow> {
        let scale = match scale {
            ScaleBranch::Absent => false,
            ScaleBranch::Required => true,
            ScaleBranch::InStem => self.stem_scale,
        };
        let wanted = [true, scale, identity];
        MOBILE_ONE.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(row, _)| row).collect()
    }

    /// Branches that together have the gain.
    fn branches(&mut self, name: &str, rows: &[&BranchRow], shape: &[usize], gain: f32) {
        let gain = share(gain, rows.len());
        for row in rows {
            let branch = format!("{name}.{}", row.name(self.style));
            let kernel = match row.conv {
                BranchConv::Identity => {
                    self.list.batch_norm(&branch, shape[0], gain);
                    continue;
                }
                BranchConv::Full => shape.to_vec(),
                BranchConv::Kernel(k) => vec![shape[0], shape[1], k, k],
            };
            self.list.weight(&format!("{branch}.conv.weight"), &kernel, 1.0);
            self.list.batch_norm(&format!("{branch}.bn"), shape[0], gain);
        }
    }
}

/// What each of `terms` independent terms has to be multiplied with for a sum `gain` times as large as one.
fn share(gain: f32, terms: usize) -> f32 {
    gain / (terms as f32).sqrt()
}
