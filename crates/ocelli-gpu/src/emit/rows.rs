//! What goes row by row: norms, sums, position embeddings.

use ocelli_plan::{AddPositions, TensorId, WeightId};

use super::{Binding, Emitter, Launch, optional, row_groups};
use crate::device::GpuError;
use crate::pipeline::{ADD, NORM, Prelude, Scalar};
use crate::uniforms;

impl Emitter<'_> {
    pub(super) fn norm(
        &mut self,
        x: TensorId,
        weight: WeightId,
        bias: Option<WeightId>,
        eps: f32,
        out: TensorId,
    ) {
        let prelude = Prelude::default()
            .scalar("x", self.scalar(x))
            .scalar("y", self.scalar(out))
            .flag("LAYER", bias.is_some())
            .reductions(self.device.subgroups());
        let bindings =
            vec![Binding::Tensor(x), Binding::Values(weight), optional(bias), Binding::Tensor(out)];
        let (rows, cols) = (self.rows(x), self.cols(x) as u32);
        let launch = move |shape| {
            let rows = rows.at(shape);
            let [width, height] = row_groups(rows);
            Launch::new(uniforms::Norm { rows, cols, eps }, [width, height, 1])
        };
        self.dispatch("norm", &prelude, &[NORM], bindings, Box::new(launch));
    }

    /// `out = x + other`, where `x` begins `skip` rows later than the two others.
    pub(super) fn add(&mut self, x: TensorId, other: (Binding, Scalar), skip: u32, out: TensorId) {
        let prelude =
            Prelude::default().scalar("x", self.scalar(x)).scalar("r", other.1).scalar("y", self.scalar(out));
        let (rows, cols4) = (self.rows(out), self.cols4(x));
        let launch = move |shape| {
            let rows = rows.at(shape);
            let [width, height] = row_groups(rows);
            Launch::new(uniforms::Add { rows, cols4, skip }, [cols4.div_ceil(64), width, height])
        };
        let bindings = vec![Binding::Tensor(x), other.0, Binding::Tensor(out)];
        self.dispatch("add", &prelude, &[ADD], bindings, Box::new(launch));
    }

    /// The table, with the class token in its first row where there is one, is a constant of the plan.
    pub(super) fn add_positions(&mut self, o: &AddPositions) -> Result<(), GpuError> {
        let (rows, cols) = (self.most_rows(o.out), self.cols(o.x));
        let skip = rows - self.most_rows(o.x);
        let mut table = self.source.read(&self.plan.weight(o.table).parts[0])?;
        if table.len() < rows * cols {
            table.splice(..0, std::iter::repeat_n(0.0, cols));
        }
        if let Some(first) = o.first {
            let first = self.source.read(&self.plan.weight(first).parts[0])?;
            table.iter_mut().zip(first).for_each(|(t, f)| *t += f);
        }
        let width = cols.next_multiple_of(4);
        let mut filled = vec![0.0; rows * width];
        for (to, from) in filled.chunks_exact_mut(width).zip(table.chunks_exact(cols)) {
            to[..cols].copy_from_slice(from);
        }
        let table = self.constant(self.device.storage_of("positions", &filled));
        self.add(o.x, (table, Scalar::F32), skip as u32, o.out);
        Ok(())
    }
}
