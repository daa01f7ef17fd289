//! Attention over a block and against the cache, and the rotary embedding before it.

use ocelli_plan::{Attention, CachedAttention, Rope, TensorId};

use super::{AngleTable, Binding, Emitter, Launch, RunShape};
use crate::device::GpuError;
use crate::pipeline::{ATTENTION, CACHE_APPEND, Prelude, ROPE};
use crate::uniforms;

/// Values a head at most: those that a workgroup keeps in registers and workgroup memory.
const MOST_HEAD_DIM: usize = 256;

impl Emitter<'_> {
    /// Values a row as it lies in memory.
    fn stride(&self, id: TensorId) -> u32 {
        4 * self.cols4(id)
    }

    pub(super) fn attention(&mut self, o: &Attention) -> Result<(), GpuError> {
        let (heads, dim, stride) = (o.heads as u32, o.head_dim as u32, self.stride(o.qkv));
        let (rows, causal) = (self.rows(o.qkv), o.causal);
        let uniforms = uniforms::Attention {
            rows: 0,
            q_stride: stride,
            kv_stride: stride,
            y_stride: self.stride(o.out),
            first_key: heads * dim,
            first_value: 2 * heads * dim,
            head_dim: dim,
            heads_per_kv: 1,
            heads,
            past: 0,
            visible: 0,
        };
        let scalar = self.scalar(o.qkv);
        let prelude =
            Prelude::default().scalar("x", scalar).scalar("k", scalar).scalar("y", self.scalar(o.out));
        let at = move |shape: RunShape| {
            let rows = rows.at(shape);
            uniforms::Attention { rows, visible: if causal { 0 } else { rows }, ..uniforms }
        };
        self.attend(&prelude, Binding::Tensor(o.qkv), Binding::Tensor(o.qkv), o.out, o.head_dim, at)
    }

    pub(super) fn cached_attention(&mut self, o: &CachedAttention) -> Result<(), GpuError> {
        let (heads, kv_heads, dim) = (o.heads as u32, o.kv_heads as u32, o.head_dim as u32);
        let (rows, x_stride, cols) = (self.rows(o.qkv), self.stride(o.qkv), 2 * kv_heads * dim);
        let (scalar, kept) = (self.scalar(o.qkv), self.activation());
        let append = move |shape: RunShape| {
            let uniforms = uniforms::Append {
                rows: rows.at(shape),
                cols,
                x_stride,
                first_key: heads * dim,
                past: shape.past,
            };
            Launch::new(uniforms, [cols.div_ceil(64), uniforms.rows, 1])
        };
        let prelude = Prelude::default().scalar("x", scalar).scalar("k", kept);
        let bindings = vec![Binding::Tensor(o.qkv), Binding::Cache(o.layer)];
        self.dispatch("cache_append", &prelude, &[CACHE_APPEND], bindings, Box::new(append));
        let uniforms = uniforms::Attention {
            rows: 0,
            q_stride: x_stride,
            kv_stride: cols,
            y_stride: self.stride(o.out),
            first_key: 0,
            first_value: kv_heads * dim,
            head_dim: dim,
            heads_per_kv: heads / kv_heads,
            heads,
            past: 0,
            visible: 0,
        };
        let prelude = prelude.scalar("y", self.scalar(o.out));
        let at =
            move |shape: RunShape| uniforms::Attention { rows: rows.at(shape), past: shape.past, ..uniforms };
        self.attend(&prelude, Binding::Tensor(o.qkv), Binding::Cache(o.layer), o.out, o.head_dim, at)
    }

    fn attend(
        &mut self,
        prelude: &Prelude,
        queries: Binding,
        kv: Binding,
        out: TensorId,
        head_dim: usize,
        at: impl Fn(RunShape) -> uniforms::Attention + Send + Sync + 'static,
    ) -> Result<(), GpuError> {
        if head_dim > MOST_HEAD_DIM {
            let what = format!("attention heads of {head_dim} values (at most {MOST_HEAD_DIM})");
            return Err(GpuError::Unsupported(what));
        }
        let launch = move |shape| {
            let uniforms = at(shape);
            Launch::new(uniforms, [uniforms.rows, uniforms.heads, 1])
        };
        let bindings = vec![queries, kv, Binding::Tensor(out)];
        let prelude = &prelude.clone().reductions(self.device.subgroups());
        self.dispatch("attention", prelude, &[ATTENTION], bindings, Box::new(launch));
        Ok(())
    }

    pub(super) fn rope(&mut self, o: &Rope) {
        let angles = self.angles(AngleTable { half_dim: o.head_dim / 2, base: o.base });
        let (rows, heads, half_dim) = (self.rows(o.x), o.heads as u32, o.head_dim as u32 / 2);
        let stride = self.stride(o.x);
        let prelude = Prelude::default().scalar("x", self.scalar(o.x));
        let launch = move |shape| {
            let uniforms = uniforms::Rope { rows: rows.at(shape), heads, half_dim, stride };
            Launch::new(uniforms, [(heads * half_dim).div_ceil(64), uniforms.rows, 1])
        };
        self.dispatch("rope", &prelude, &[ROPE], vec![angles, Binding::Tensor(o.x)], Box::new(launch));
    }
}
