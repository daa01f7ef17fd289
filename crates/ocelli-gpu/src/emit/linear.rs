//! Matrix products.

use std::sync::Arc;

use ocelli_plan::{Activation, BlockFormat, GatedLinear, Linear, Mlp, WeightId};

use super::{Binding, Count, Dispatch, Emitter, Launch, RunShape, optional, row_groups};
use crate::pipeline::{
    ACTIVATION, Access, GATE, HALF, INT8, INT8_DIRECT, INT8_TILED, MATMUL_DIRECT, MATMUL_TILED, MATVEC,
    PRODUCT, Pipeline, Prelude, QUANTIZE, Scalar, WEIGHT_BF16, WEIGHT_F32, WEIGHT_INT8, WEIGHT_Q4, WEIGHT_Q8,
    X_VALUES,
};
use crate::uniforms;
use crate::weights::MatrixFormat;

/// Up to so many rows, a workgroup for four outputs of one row is quicker than tiles.
const FEW_ROWS: u32 = 4;
/// Memory for rows between the two products of a feed-forward.
const HIDDEN_BYTES: usize = 32 << 20;

/// The scratch buffer of the codes of quantized rows.
const CODES: usize = 3;

/// ReLU, which is no activation of a plan.
pub(super) const RELU: u32 = 4;

/// The code of an activation in the shaders.
pub(super) fn code(activation: Activation) -> u32 {
    match activation {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::Silu => 2,
        Activation::QuickGelu => 3,
    }
}

/// A buffer of rows, and the type of its values.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub(super) binding: Binding,
    pub(super) scalar: Scalar,
    /// Vectors of four a row.
    pub(super) cols4: u32,
}

/// Which rows of the operands a product is about.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) rows: Count,
    /// Rows before the first one, and rows at most.
    pub(super) first: u32,
    pub(super) most: u32,
    /// Whether x, and y with the residual, begin at `first`; at their row 0 otherwise.
    pub(super) x_moves: bool,
    pub(super) y_moves: bool,
}

impl Span {
    pub(super) fn whole(rows: Count) -> Self {
        Self { rows, first: 0, most: u32::MAX, x_moves: false, y_moves: false }
    }

    pub(super) fn count(&self, shape: RunShape) -> u32 {
        self.rows.at(shape).saturating_sub(self.first).min(self.most)
    }
}

/// `y = residual + scale * activation(x W^T + bias)`.
pub(super) struct Product {
    pub(super) x: Operand,
    pub(super) weight: WeightId,
    pub(super) bias: Option<WeightId>,
    pub(super) activation: u32,
    pub(super) scale: Option<WeightId>,
    pub(super) residual: Option<Operand>,
    pub(super) y: Operand,
    pub(super) span: Span,
}

impl Emitter<'_> {
    pub(super) fn operand(&self, id: ocelli_plan::TensorId) -> Operand {
        Operand { binding: Binding::Tensor(id), scalar: self.scalar(id), cols4: self.cols4(id) }
    }

    pub(super) fn linear(&mut self, o: &Linear) {
        self.product(&Product {
            x: self.operand(o.x),
            weight: o.weight,
            bias: o.bias,
            activation: code(o.activation),
            scale: o.scale,
            residual: o.residual.map(|id| self.operand(id)),
            y: self.operand(o.out),
            span: Span::whole(self.rows(o.x)),
        });
    }

    /// Gate and up side by side, then one times the other; some rows at a time.
    pub(super) fn gated_linear(&mut self, o: &GatedLinear) {
        let both = (self.matrix_of(o.weight).rows / 4) as u32;
        let (x, y, scalar) = (self.operand(o.x), self.operand(o.out), self.activation());
        let prelude = Prelude::default()
            .scalar("x", scalar)
            .scalar("y", y.scalar)
            .number("ACTIVATION", code(Activation::Silu));
        for span in self.spans(o.x, both) {
            let binding = self.scratch_rows(span, both);
            let hidden = Operand { binding, scalar, cols4: both };
            self.product(&Product {
                x,
                weight: o.weight,
                bias: None,
                activation: 0,
                scale: None,
                residual: None,
                y: hidden,
                span: Span { x_moves: true, ..span },
            });
            let launch = move |shape| {
                let rows = span.count(shape);
                let uniforms = uniforms::Gate { rows, n4: both / 2, y_row: span.first };
                Launch::new(uniforms, [(both / 2).div_ceil(64), rows, 1])
            };
            self.dispatch("gate", &prelude, &[ACTIVATION, GATE], vec![binding, y.binding], Box::new(launch));
        }
    }

    /// Two products with hidden rows between them; some rows at a time.
    pub(super) fn mlp(&mut self, o: &Mlp) {
        let hidden4 = (self.matrix_of(o.fc1).rows / 4) as u32;
        let (x, y) = (self.operand(o.x), self.operand(o.out));
        let residual = o.residual.map(|id| self.operand(id));
        for span in self.spans(o.x, hidden4) {
            let binding = self.scratch_rows(span, hidden4);
            let hidden = Operand { binding, scalar: self.activation(), cols4: hidden4 };
            self.product(&Product {
                x,
                weight: o.fc1,
                bias: Some(o.bias1),
                activation: code(o.activation),
                scale: None,
                residual: None,
                y: hidden,
                span: Span { x_moves: true, ..span },
            });
            self.product(&Product {
                x: hidden,
                weight: o.fc2,
                bias: Some(o.bias2),
                activation: 0,
                scale: o.scale,
                residual,
                y,
                span: Span { y_moves: true, ..span },
            });
        }
    }

    /// Rows of a tensor in pieces whose hidden rows fit in the scratch buffer and in one dispatch.
    fn spans(&self, x: ocelli_plan::TensorId, hidden4: u32) -> Vec<Span> {
        let row_bytes = 4 * hidden4 as usize * self.activation().size();
        let most = (HIDDEN_BYTES / row_bytes).clamp(4, super::MOST_GROUPS as usize);
        let span = |first| Span { first: first as u32, most: most as u32, ..Span::whole(self.rows(x)) };
        (0..self.most_rows(x)).step_by(most).map(span).collect()
    }

    fn scratch_rows(&mut self, span: Span, cols4: u32) -> Binding {
        let bytes = self.most_of(span) * 4 * cols4 as usize * self.activation().size();
        self.scratch(0, bytes)
    }

    /// Most rows that a span can have.
    fn most_of(&self, span: Span) -> usize {
        let most = match span.rows {
            Count::Fixed(rows) => rows,
            Count::Bound => self.plan.max_rows as u32,
        };
        most.min(span.most) as usize
    }

    /// The rows that a product reads, as 8-bit codes in a scratch buffer; none where that is more than can be bound.
    fn quantized(&mut self, product: &Product) -> Option<Binding> {
        let (x, span) = (product.x, product.span);
        let bytes = self.most_of(span) * 4 * (x.cols4 as usize + 1);
        if bytes as u64 > self.device.binding_bytes() {
            return None;
        }
        let codes = self.scratch(CODES, bytes);
        let prelude = Prelude::default().scalar("x", x.scalar).reductions(self.device.subgroups());
        let launch = move |shape| {
            let rows = span.count(shape);
            let x_row = if span.x_moves { span.first } else { 0 };
            let [width, height] = row_groups(rows);
            Launch::new(uniforms::Quantize { rows, x_row, cols4: x.cols4 }, [width, height, 1])
        };
        self.dispatch("quantize", &prelude, &[QUANTIZE], vec![x.binding, codes], Box::new(launch));
        Some(codes)
    }

    pub(super) fn product(&mut self, product: &Product) {
        let matrix = self.matrix_of(product.weight);
        let (format, stride) = (matrix.format, (matrix.cols / 4) as u32);
        let parts: Vec<(u32, u32)> =
            matrix.parts.iter().map(|part| (part.first_row as u32 / 4, part.rows as u32 / 4)).collect();
        let residual = product.residual.map_or(product.y.scalar, |residual| residual.scalar);
        let prelude = Prelude::default()
            .scalar("x", product.x.scalar)
            .scalar("y", product.y.scalar)
            .scalar("r", residual)
            .number("ACTIVATION", product.activation)
            .flag("BIAS", product.bias.is_some())
            .flag("SCALE", product.scale.is_some())
            .flag("RESIDUAL", product.residual.is_some());
        let weight = match format {
            MatrixFormat::F32 => WEIGHT_F32,
            MatrixFormat::Bf16 => WEIGHT_BF16,
            MatrixFormat::Blocks(BlockFormat::Q8) => WEIGHT_Q8,
            MatrixFormat::Blocks(BlockFormat::Q4) => WEIGHT_Q4,
            MatrixFormat::Blocks(BlockFormat::Int8) => WEIGHT_INT8,
        };
        let tiled = self.device.opened().tiled;
        let integers = format == MatrixFormat::Blocks(BlockFormat::Int8) && self.device.dot();
        let codes = if integers { self.quantized(product) } else { None };
        let pipelines = self.product_pipelines(&prelude, weight, codes.is_some());
        let (x, x_moves) = codes.map_or((product.x.binding, product.span.x_moves), |codes| (codes, false));
        let k4 = product.x.cols4;
        // A row of codes begins with its scale.
        let x_stride = k4 + u32::from(codes.is_some());
        let decoded = codes.is_none();
        for (at, (first_n4, n4)) in parts.into_iter().enumerate() {
            let bindings = vec![
                x,
                Binding::Codes(product.weight, at),
                Binding::Scales(product.weight, at),
                optional(product.bias),
                optional(product.scale),
                product.residual.map_or(Binding::Nothing, |residual| residual.binding),
                product.y.binding,
            ];
            let (span, y_stride) = (product.span, product.y.cols4);
            let launch = move |shape| {
                let rows = span.count(shape);
                let uniforms = uniforms::Product {
                    rows,
                    x_row: if x_moves { span.first } else { 0 },
                    y_row: if span.y_moves { span.first } else { 0 },
                    x_stride,
                    k4,
                    w_stride: stride,
                    y_stride,
                    n4,
                    first_n4,
                };
                let few = decoded && rows <= FEW_ROWS;
                let groups = match (few, tiled) {
                    (true, _) => [n4, rows, 1],
                    (false, true) => [n4.div_ceil(16), rows.div_ceil(64), 1],
                    (false, false) => [n4.div_ceil(8), rows.div_ceil(32), 1],
                };
                Launch { pipeline: usize::from(few), ..Launch::new(uniforms, groups) }
            };
            self.push(Dispatch { pipelines: pipelines.clone(), bindings, launch: Box::new(launch) });
        }
    }

    /// The pipeline for many rows and the one for few; for `integers` there is one for all.
    fn product_pipelines(&self, prelude: &Prelude, weight: &str, integers: bool) -> Vec<Arc<Pipeline>> {
        let access = [[Access::Read; 6].as_slice(), &[Access::Write]].concat();
        let pipeline = |name: &str, prelude: &Prelude, files: &[&str]| {
            self.device.pipeline(name, prelude, files, &access)
        };
        let tiled = self.device.opened().tiled;
        if integers {
            let (name, main) = if tiled { ("int8_tiled", INT8_TILED) } else { ("int8_direct", INT8_DIRECT) };
            return vec![pipeline(name, prelude, &[ACTIVATION, PRODUCT, INT8, main])];
        }
        let (name, many) =
            if tiled { ("matmul_tiled", MATMUL_TILED) } else { ("matmul_direct", MATMUL_DIRECT) };
        let files = |main| [ACTIVATION, HALF, PRODUCT, X_VALUES, weight, main];
        let few = prelude.clone().reductions(self.device.subgroups());
        vec![pipeline(name, prelude, &files(many)), pipeline("matvec", &few, &files(MATVEC))]
    }
}
