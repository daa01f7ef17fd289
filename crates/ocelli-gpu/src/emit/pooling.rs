//! The mean over rows, and squeeze-and-excite around it.

use ocelli_plan::{SqueezeExcite, TensorId};

use super::linear::{Operand, Product, RELU, Span, code};
use super::{Binding, Count, Emitter, Launch, row_groups};
use crate::pipeline::{ACTIVATION, EXCITE, MEAN, Prelude, Scalar};
use crate::uniforms;

impl Emitter<'_> {
    pub(super) fn mean(&mut self, x: TensorId, out: Binding, scalar: Scalar) {
        let types = Prelude::default().scalar("x", self.scalar(x)).scalar("y", scalar);
        let prelude = types.reductions(self.device.subgroups());
        let (rows, cols4) = (self.rows(x), self.cols4(x));
        let launch = move |shape| Launch::new(uniforms::Mean { rows: rows.at(shape), cols4 }, [cols4, 1, 1]);
        self.dispatch("mean", &prelude, &[MEAN], vec![Binding::Tensor(x), out], Box::new(launch));
    }

    /// Mean, two small products in f32, and the gate over all rows.
    pub(super) fn squeeze_excite(&mut self, o: &SqueezeExcite) {
        let cols4 = self.cols4(o.x);
        let hidden4 = (self.matrix_of(o.fc1).rows / 4) as u32;
        let mut row = |at: usize, cols4: u32| {
            let binding = self.scratch(at, 16 * cols4 as usize);
            Operand { binding, scalar: Scalar::F32, cols4 }
        };
        let (mean, hidden, gate) = (row(0, cols4), row(1, hidden4), row(2, cols4));
        self.mean(o.x, mean.binding, Scalar::F32);
        let span = Span::whole(Count::Fixed(1));
        let (scale, residual) = (None, None);
        let (weight, bias, activation) = (o.fc1, Some(o.bias1), RELU);
        self.product(&Product { x: mean, weight, bias, activation, scale, residual, y: hidden, span });
        let (weight, bias, activation) = (o.fc2, Some(o.bias2), 0);
        self.product(&Product { x: hidden, weight, bias, activation, scale, residual, y: gate, span });

        let prelude = Prelude::default()
            .scalar("x", self.scalar(o.x))
            .scalar("y", self.scalar(o.out))
            .number("ACTIVATION", code(o.activation));
        let rows = self.rows(o.x);
        let launch = move |shape| {
            let rows = rows.at(shape);
            let [width, height] = row_groups(rows);
            Launch::new(uniforms::Excite { rows, cols4 }, [cols4.div_ceil(64), width, height])
        };
        let bindings = vec![Binding::Tensor(o.x), gate.binding, Binding::Tensor(o.out)];
        self.dispatch("excite", &prelude, &[ACTIVATION, EXCITE], bindings, Box::new(launch));
    }
}
