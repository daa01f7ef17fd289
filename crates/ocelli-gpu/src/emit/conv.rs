//! Convolutions.

use ocelli_plan::{Activation, Conv, DepthwiseConv, TensorId, WeightId};

use super::linear::code;
use super::{Binding, Emitter, Launch, optional};
use crate::pipeline::{ACTIVATION, CONV, DEPTHWISE, Prelude};
use crate::uniforms;

impl Emitter<'_> {
    pub(super) fn conv(&mut self, o: &Conv) {
        let side = |n: usize| ((n + 2 * o.padding - o.kernel) / o.stride + 1) as u32;
        let uniforms = uniforms::Conv {
            height: o.height as u32,
            width: o.width as u32,
            out_height: side(o.height),
            out_width: side(o.width),
            in4: self.cols4(o.x),
            out4: self.cols4(o.out),
            kernel: o.kernel as u32,
            stride: o.stride as u32,
            padding: o.padding as u32,
        };
        let prelude = self.prelude(o.x, o.out, o.activation, o.bias);
        let bindings = pixels(o.x, o.weight, o.bias, o.out);
        let groups = groups(uniforms.out4, uniforms.out_width, uniforms.out_height);
        let launch = Box::new(move |_| Launch::new(uniforms, groups));
        self.dispatch("conv", &prelude, &[ACTIVATION, CONV], bindings, launch);
    }

    pub(super) fn depthwise(&mut self, o: &DepthwiseConv) {
        let side = |n: usize| n.div_ceil(o.stride) as u32;
        let uniforms = uniforms::Depthwise {
            height: o.height as u32,
            width: o.width as u32,
            out_height: side(o.height),
            out_width: side(o.width),
            in4: self.cols4(o.x),
            out4: self.cols4(o.out),
            kernel_height: o.kernel[0] as u32,
            kernel_width: o.kernel[1] as u32,
            stride: o.stride as u32,
        };
        let multiplier = (self.cols(o.out) / self.cols(o.x)) as u32;
        let prelude = self.prelude(o.x, o.out, o.activation, o.bias).number("MULTIPLIER", multiplier);
        let bindings = pixels(o.x, o.weight, o.bias, o.out);
        let groups = groups(uniforms.out4, uniforms.out_width, uniforms.out_height);
        let launch = Box::new(move |_| Launch::new(uniforms, groups));
        self.dispatch("depthwise", &prelude, &[ACTIVATION, DEPTHWISE], bindings, launch);
    }

    fn prelude(&self, x: TensorId, y: TensorId, activation: Activation, bias: Option<WeightId>) -> Prelude {
        let types = Prelude::default().scalar("x", self.scalar(x)).scalar("y", self.scalar(y));
        types.number("ACTIVATION", code(activation)).flag("BIAS", bias.is_some())
    }
}

fn pixels(x: TensorId, kernels: WeightId, bias: Option<WeightId>, y: TensorId) -> Vec<Binding> {
    vec![Binding::Tensor(x), Binding::Values(kernels), optional(bias), Binding::Tensor(y)]
}

/// Workgroups of eight vectors of channels by eight pixels of a row.
fn groups(out4: u32, out_width: u32, out_height: u32) -> [u32; 3] {
    [out4.div_ceil(8), out_width.div_ceil(8), out_height]
}
