//! Convolutions.

use ocelli_plan::{Conv, DepthwiseConv};

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
        let prelude = Prelude::default()
            .scalar("x", self.scalar(o.x))
            .scalar("y", self.scalar(o.out))
            .number("ACTIVATION", code(o.activation))
            .flag("BIAS", o.bias.is_some());
        let bindings =
            vec![Binding::Tensor(o.x), Binding::Values(o.weight), optional(o.bias), Binding::Tensor(o.out)];
        let groups = [uniforms.out4.div_ceil(8), uniforms.out_width.div_ceil(8), uniforms.out_height];
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
        let prelude = Prelude::default()
            .scalar("x", self.scalar(o.x))
            .scalar("y", self.scalar(o.out))
            .number("ACTIVATION", code(o.activation))
            .number("MULTIPLIER", multiplier)
            .flag("BIAS", o.bias.is_some());
        let bindings =
            vec![Binding::Tensor(o.x), Binding::Values(o.weight), optional(o.bias), Binding::Tensor(o.out)];
        let groups = [uniforms.out4.div_ceil(8), uniforms.out_width.div_ceil(8), uniforms.out_height];
        let launch = Box::new(move |_| Launch::new(uniforms, groups));
        self.dispatch("depthwise", &prelude, &[ACTIVATION, DEPTHWISE], bindings, launch);
    }
}
