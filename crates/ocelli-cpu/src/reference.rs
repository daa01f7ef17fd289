//! The scalar reference of every op: its specification, and the device when `OCELLI_ISA=scalar`.
//!
//! Plain loops over f32 rows. Inputs are widened and outputs rounded to the compute type, so that a
//! kernel may be compared with them in either type.

use half::bf16;
use ocelli_plan::{Activation, Op, RunError, TensorId, WeightId};

use crate::kv_cache::KvCache;
use crate::matmul::int8::row_scale;
use crate::pack::Packed;
use crate::session::{Run, needed, read_view, take_last_row, write_view};
use crate::view::Kind;

/// A tensor as f32 `[rows, cols]`.
struct Values {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Values {
    fn zeroed(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.cols..][..self.cols]
    }
}

/// Run one op.
pub(crate) fn run(run: &Run<'_>, op: &Op, cache: Option<&mut KvCache>) -> Result<(), RunError> {
    let read = |id: TensorId| {
        let view = run.view(id);
        Values { rows: view.rows, cols: view.cols, data: read_view(view) }
    };
    let write = |id: TensorId, values: Values| write_view(run.view(id), &values.data);
    let weight = |id: WeightId| run.weight(id).plain();
    let optional = |id: Option<WeightId>| id.map(weight);
    match op {
        Op::Linear(o) => {
            let n = run.plan().weight(o.weight).rows;
            let mut y = linear(&read(o.x), run.weight(o.weight), n, optional(o.bias), o.activation);
            finish(&mut y, optional(o.scale), o.residual.map(read));
            write(o.out, y);
        }
        Op::GatedLinear(o) => {
            let n = run.plan().weight(o.weight).rows / 2;
            let both = linear(&read(o.x), run.weight(o.weight), 2 * n, None, Activation::None);
            let mut y = Values::zeroed(both.rows, n);
            for r in 0..y.rows {
                for c in 0..n {
                    y.row_mut(r)[c] = activate(Activation::Silu, both.row(r)[c]) * both.row(r)[n + c];
                }
            }
            write(o.out, y);
        }
        Op::Mlp(o) => {
            let (hidden, n) = (run.plan().weight(o.fc1).rows, run.plan().weight(o.fc2).rows);
            let mut h = linear(&read(o.x), run.weight(o.fc1), hidden, Some(weight(o.bias1)), o.activation);
            if matches!(run.weight(o.fc2), Packed::PlainInt8 { .. }) && run.view(o.x).kind == Kind::Bf16 {
                // Their codes are made of what is kept of them.
                h.data.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
            }
            let mut y = linear(&h, run.weight(o.fc2), n, Some(weight(o.bias2)), Activation::None);
            finish(&mut y, optional(o.scale), o.residual.map(read));
            write(o.out, y);
        }
        Op::DepthwiseConv(o) => {
            let out = run.view(o.out);
            let map = Map { height: o.height, width: o.width, kernel: o.kernel, stride: o.stride };
            let y = depthwise(&read(o.x), weight(o.weight), &map, out.rows, out.cols);
            write(o.out, biased(y, optional(o.bias), o.activation));
        }
        Op::Conv(o) => {
            let out = run.view(o.out);
            let kernel = [o.kernel; 2];
            let map = Map { height: o.height, width: o.width, kernel, stride: o.stride };
            let y = conv(&read(o.x), weight(o.weight), &map, o.padding, out.rows, out.cols);
            write(o.out, biased(y, optional(o.bias), o.activation));
        }
        Op::LayerNorm(o) => {
            let mut y = read(o.x);
            for r in 0..y.rows {
                layer_norm(y.row_mut(r), weight(o.weight), weight(o.bias), o.eps);
            }
            write(o.out, y);
        }
        Op::RmsNorm(o) => {
            let mut y = read(o.x);
            for r in 0..y.rows {
                rms_norm(y.row_mut(r), weight(o.weight), o.eps);
            }
            write(o.out, y);
        }
        Op::Attention(o) => write(o.out, attention(&read(o.qkv), o.heads, o.head_dim, o.causal)),
        Op::CachedAttention(o) => {
            let cache = needed(cache);
            let past = cache.len();
            let qkv = read(o.qkv);
            append(cache, o.layer, &qkv, o.heads, past);
            write(o.out, cached_attention(&qkv, o.heads, cache, o.layer, past));
        }
        Op::Rope(o) => {
            let first = needed(cache).len();
            let mut x = read(o.x);
            for r in 0..x.rows {
                rope(x.row_mut(r), o.heads, o.head_dim, o.base, first + r);
            }
            write(o.x, x);
        }
        Op::Embed(o) => run.embed(run.ids(o.ids), o.table, run.view(o.out))?,
        Op::SqueezeExcite(o) => {
            let x = read(o.x);
            let hidden = run.plan().weight(o.fc1).rows;
            let mut s = linear(&mean(&x), run.weight(o.fc1), hidden, Some(weight(o.bias1)), Activation::None);
            s.data.iter_mut().for_each(|v| *v = v.max(0.0));
            let gate = linear(&s, run.weight(o.fc2), x.cols, Some(weight(o.bias2)), Activation::None);
            let mut y = x;
            for r in 0..y.rows {
                for (v, &g) in y.row_mut(r).iter_mut().zip(gate.row(0)) {
                    *v = activate(o.activation, *v * sigmoid(g));
                }
            }
            write(o.out, y);
        }
        Op::MeanPool(o) => write(o.out, mean(&read(o.x))),
        Op::Add(o) => {
            let mut y = read(o.a);
            finish(&mut y, None, Some(read(o.b)));
            write(o.out, y);
        }
        Op::AddPositions(o) => run.add_positions(o)?,
        Op::TakeLastRow(o) => take_last_row(run.view(o.x), run.view(o.out)),
    }
    Ok(())
}

/// `activation(x W^T + bias)`.
fn linear(x: &Values, weight: &Packed, n: usize, bias: Option<&[f32]>, activation: Activation) -> Values {
    let mut y = Values::zeroed(x.rows, n);
    for r in 0..x.rows {
        if let Packed::PlainInt8 { codes, scales } = weight {
            int8_row(x.row(r), codes, scales, y.row_mut(r));
            continue;
        }
        for (c, w) in weight.plain().chunks_exact(x.cols).enumerate() {
            y.row_mut(r)[c] = dot(x.row(r), w);
        }
    }
    biased(y, bias, activation)
}

/// Codes of a row, nearest and ties to even, times the codes of each weight row: integers, so the order of the sum
/// is all the same.
fn int8_row(x: &[f32], weight: &[i8], scales: &[f32], y: &mut [f32]) {
    let (scale, inverse) = row_scale(x.iter().fold(0.0, |most, v| most.max(v.abs())));
    let x: Vec<i32> = x.iter().map(|v| i32::from((v * inverse).round_ties_even() as i8)).collect();
    for ((y, w), &weight_scale) in y.iter_mut().zip(weight.chunks_exact(x.len())).zip(scales) {
        let sum: i32 = x.iter().zip(w).map(|(&x, &w)| x * i32::from(w)).sum();
        *y = sum as f32 * (scale * weight_scale);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn biased(mut y: Values, bias: Option<&[f32]>, activation: Activation) -> Values {
    for r in 0..y.rows {
        for (c, v) in y.row_mut(r).iter_mut().enumerate() {
            *v = activate(activation, *v + bias.map_or(0.0, |b| b[c]));
        }
    }
    y
}

/// `y = residual + scale * y`.
fn finish(y: &mut Values, scale: Option<&[f32]>, residual: Option<Values>) {
    for r in 0..y.rows {
        for (c, v) in y.row_mut(r).iter_mut().enumerate() {
            *v = *v * scale.map_or(1.0, |s| s[c]) + residual.as_ref().map_or(0.0, |x| x.row(r)[c]);
        }
    }
}

fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::None => x,
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::Silu => x * sigmoid(x),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `erf` by its Taylor series near zero and by the continued fraction of `erfc` further out
/// (Abramowitz and Stegun 7.1.5 and 7.1.14), in f64; exact to f32.
fn erf(x: f32) -> f32 {
    let z = f64::from(x.abs());
    let value = if z < 2.5 {
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -z * z / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..=60).rev().fold(z, |f, k| z + f64::from(k) / 2.0 / f);
        1.0 - (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    (value as f32).copysign(x)
}

/// Geometry of a convolution.
struct Map {
    height: usize,
    width: usize,
    kernel: [usize; 2],
    stride: usize,
}

impl Map {
    /// Calls `f(tap, pixel)` for each tap of output pixel `(oy, ox)` that lies in the map.
    fn taps(&self, oy: usize, ox: usize, padding: [usize; 2], mut f: impl FnMut(usize, usize)) {
        let [height, width] = self.kernel;
        for ky in 0..height {
            for kx in 0..width {
                let (y, x) = (oy * self.stride + ky, ox * self.stride + kx);
                let inside = |at: usize, size: usize, padding: usize| at >= padding && at < size + padding;
                if inside(y, self.height, padding[0]) && inside(x, self.width, padding[1]) {
                    f(ky * width + kx, (y - padding[0]) * self.width + x - padding[1]);
                }
            }
        }
    }
}

/// `weight` is `[channels_out][taps]`.
fn depthwise(x: &Values, weight: &[f32], map: &Map, rows: usize, channels: usize) -> Values {
    let (taps, per_input) = (map.kernel[0] * map.kernel[1], channels / x.cols);
    let width = map.width.div_ceil(map.stride);
    let mut y = Values::zeroed(rows, channels);
    for r in 0..rows {
        map.taps(r / width, r % width, map.kernel.map(|k| k / 2), |tap, pixel| {
            for c in 0..channels {
                y.row_mut(r)[c] += x.row(pixel)[c / per_input] * weight[c * taps + tap];
            }
        });
    }
    y
}

/// `weight` is `[channels_out][kernel * kernel][channels_in]`.
fn conv(x: &Values, weight: &[f32], map: &Map, padding: usize, rows: usize, channels: usize) -> Values {
    let taps = map.kernel[0] * map.kernel[1];
    let width = (map.width + 2 * padding - map.kernel[1]) / map.stride + 1;
    let mut y = Values::zeroed(rows, channels);
    for r in 0..rows {
        map.taps(r / width, r % width, [padding; 2], |tap, pixel| {
            for c in 0..channels {
                y.row_mut(r)[c] += dot(x.row(pixel), &weight[(c * taps + tap) * x.cols..][..x.cols]);
            }
        });
    }
    y
}

fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n;
    let scale = 1.0 / (variance + eps).sqrt();
    for (c, v) in x.iter_mut().enumerate() {
        *v = (*v - mean) * scale * weight[c] + bias[c];
    }
}

fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    let mean_square = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
    let scale = 1.0 / (mean_square + eps).sqrt();
    for (c, v) in x.iter_mut().enumerate() {
        *v *= scale * weight[c];
    }
}

fn mean(x: &Values) -> Values {
    let mut y = Values::zeroed(1, x.cols);
    for r in 0..x.rows {
        y.data.iter_mut().zip(x.row(r)).for_each(|(sum, v)| *sum += v);
    }
    y.data.iter_mut().for_each(|sum| *sum /= x.rows as f32);
    y
}

/// `softmax(scores) V` for one query; `key(p)` and `value(p)` give a position's rows.
fn attend<'a>(
    query: &[f32],
    positions: usize,
    key: impl Fn(usize) -> Vec<f32>,
    value: impl Fn(usize) -> &'a [f32],
    out: &mut [f32],
) {
    let scale = 1.0 / (query.len() as f32).sqrt();
    let mut scores: Vec<f32> = (0..positions).map(|p| dot(query, &key(p)) * scale).collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - max).exp());
    let sum: f32 = scores.iter().sum();
    for (p, s) in scores.iter().enumerate() {
        out.iter_mut().zip(value(p)).for_each(|(o, v)| *o += s / sum * v);
    }
}

fn attention(qkv: &Values, heads: usize, dim: usize, causal: bool) -> Values {
    let mut y = Values::zeroed(qkv.rows, heads * dim);
    let part = |row: usize, part: usize, head: usize| &qkv.row(row)[(part * heads + head) * dim..][..dim];
    for r in 0..qkv.rows {
        for h in 0..heads {
            let visible = if causal { r + 1 } else { qkv.rows };
            let out = &mut y.row_mut(r)[h * dim..][..dim];
            attend(part(r, 0, h), visible, |p| part(p, 1, h).to_vec(), |p| part(p, 2, h), out);
        }
    }
    y
}

fn append(cache: &mut KvCache, layer: usize, qkv: &Values, heads: usize, past: usize) {
    let (kv_heads, dim) = (cache.kv_heads(), cache.head_dim());
    for (h, head) in cache.layer_mut(layer).iter_mut().enumerate() {
        head.truncate(past);
        for r in 0..qkv.rows {
            let part = |at: usize| &qkv.row(r)[at * dim..][..dim];
            head.push(part(heads + h), part(heads + kv_heads + h));
        }
    }
}

fn cached_attention(qkv: &Values, heads: usize, cache: &mut KvCache, layer: usize, past: usize) -> Values {
    let (kv_heads, dim) = (cache.kv_heads(), cache.head_dim());
    let mut y = Values::zeroed(qkv.rows, heads * dim);
    for r in 0..qkv.rows {
        for h in 0..heads {
            let kv = &cache.layer_mut(layer)[h / (heads / kv_heads)];
            let out = &mut y.row_mut(r)[h * dim..][..dim];
            attend(&qkv.row(r)[h * dim..][..dim], past + r + 1, |p| kv.key(p), |p| kv.value(p), out);
        }
    }
    y
}

fn rope(row: &mut [f32], heads: usize, dim: usize, base: f32, position: usize) {
    let half = dim / 2;
    for head in row.chunks_exact_mut(dim).take(heads) {
        for i in 0..half {
            let angle = position as f32 * (1.0 / base.powf((2 * i) as f32 / dim as f32));
            let (a, b) = (head[i], head[half + i]);
            head[i] = a * angle.cos() - b * angle.sin();
            head[half + i] = b * angle.cos() + a * angle.sin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_is_exact_to_f32() {
        for i in -60_000..=60_000 {
            let x = i as f32 * 1e-4;
            let want = libm::erf(f64::from(x));
            assert!((f64::from(erf(x)) - want).abs() <= 6e-8 * want.abs().max(1e-30), "erf({x})");
        }
    }

    #[test]
    fn attention_with_one_position_returns_its_value() {
        let qkv = Values { rows: 1, cols: 6, data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
        assert_eq!(attention(&qkv, 1, 2, false).data, [5.0, 6.0]);
    }

    #[test]
    fn a_quarter_turn_swaps_the_halves() {
        let mut row = [1.0, 0.0, 0.0, 2.0];
        rope(&mut row, 1, 4, 1.0, 1);
        let (sin, cos) = 1f32.sin_cos();
        let want = [cos, -2.0 * sin, sin, 2.0 * cos];
        assert!(row.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?}");
    }
}
