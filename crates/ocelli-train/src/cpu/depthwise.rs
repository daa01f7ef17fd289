//! Depthwise convolution over `[batch, height, width, channels]`, also with several outputs a channel.
//!
//! One image and one vector of channels at a time is copied into a plane with a border of zeros. Both the convolution
//! and the gradient of its input are then sums over a list of taps, for eight neighbouring pixels at once; with a
//! stride the second is one such sum for each remainder of the coordinates. The gradient of the weight keeps a row of
//! taps in registers while it goes along the pixels.

use pulp::bytemuck::{cast_slice, cast_slice_mut};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Array, CpuOp};

/// Pixels that are computed together: as many sums as keep the multiply-add units of any CPU busy.
const PIXELS: usize = 8;
/// Most pieces that a batch is divided into.
const MAX_PIECES: usize = 16;

/// The operation; inputs are `x` `[batch, height, width, in]` and the weight `[out, 1, kh, kw]`, kernel sides odd,
/// padding half a kernel, output `o` reading input channel `o / (out / in)`.
#[derive(Debug, Clone)]
pub(crate) struct Depthwise {
    /// Input pixels from one output pixel to the next.
    pub(crate) stride: usize,
}

/// All sizes.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    /// Height, width and channels.
    input: [usize; 3],
    output: [usize; 3],
    kernel: [usize; 2],
    stride: usize,
}

impl Sizes {
    fn of(x: &[usize], weight: &[usize], stride: usize) -> Self {
        let (&[batch, height, width, channels], &[out, 1, kh, kw]) = (x, weight) else {
            panic!("a depthwise convolution of {x:?} with {weight:?}");
        };
        assert!(kh % 2 == 1 && kw % 2 == 1, "a kernel of {kh}x{kw} has no middle");
        assert!(matches!(stride, 1 | 2), "a stride of {stride}");
        assert!(out % channels == 0, "{channels} channels in, {out} out");
        let output = [(height - 1) / stride + 1, (width - 1) / stride + 1, out];
        Self { batch, input: [height, width, channels], output, kernel: [kh, kw], stride }
    }

    /// Images of a piece.
    fn piece(&self) -> usize {
        self.batch.div_ceil(MAX_PIECES).max(1)
    }

    /// Outputs of an input channel.
    fn multiplier(&self) -> usize {
        self.output[2] / self.input[2]
    }
}

impl CpuOp<2> for Depthwise {
    type Saved = ();

    fn forward(&self, [x, weight]: &[Array; 2]) -> (Vec<f32>, Vec<usize>, ()) {
        let sizes = Sizes::of(x.shape(), weight.shape(), self.stride);
        let [height, width, channels] = sizes.output;
        let sums = TapSums::forward(&sizes);
        (sums.run(sizes, x.values(), weight.values()), vec![sizes.batch, height, width, channels], ())
    }

    fn backward(
        &self,
        [x, weight]: &[Array; 2],
        (): &(),
        grad: &[f32],
        wanted: [bool; 2],
    ) -> [Option<Vec<f32>>; 2] {
        let sizes = Sizes::of(x.shape(), weight.shape(), self.stride);
        let dx = wanted[0].then(|| TapSums::backward(&sizes).run(sizes, grad, weight.values()));
        [dx, wanted[1].then(|| weight_gradient(sizes, x.values(), grad))]
    }
}

/// A sum over taps at every pixel of a result.
#[derive(Debug)]
struct TapSums {
    /// Height, width and channels of what is read and of what is written; the more channels of the two are computed.
    from: [usize; 3],
    to: [usize; 3],
    plane: Plane,
    phases: Vec<Phase>,
}

/// One vector of channels of an image, with zeros around.
#[derive(Debug, Clone, Copy)]
struct Plane {
    height: usize,
    width: usize,
    /// Rows above and pixels to the left of the image.
    top: usize,
    left: usize,
}

/// Pixels of the result that have the same taps: every `step`th one, beginning at `first`.
#[derive(Debug)]
struct Phase {
    first: [usize; 2],
    step: usize,
    /// Rows and columns of this phase.
    count: [usize; 2],
    /// Pixels of the plane from one of ours to the next.
    stride: usize,
    /// Places in the plane, seen from the first tap of a pixel, and of the weight in its kernel.
    taps: Vec<(usize, usize)>,
}

impl TapSums {
    /// The convolution itself.
    fn forward(sizes: &Sizes) -> Self {
        let (stride, [kh, kw]) = (sizes.stride, sizes.kernel);
        let [rows, columns, _] = sizes.output;
        let width = columns.next_multiple_of(PIXELS) * stride + kw;
        let height = (rows - 1) * stride + kh;
        let plane = Plane { height: height.max(kh / 2 + sizes.input[0]), width, top: kh / 2, left: kw / 2 };
        let taps = (0..kh).flat_map(|y| (0..kw).map(move |x| (y * width + x, y * kw + x))).collect();
        let phase = Phase { first: [0, 0], step: 1, count: [rows, columns], stride, taps };
        Self { from: sizes.input, to: sizes.output, plane, phases: vec![phase] }
    }

    /// The gradient of its input, from that of its output: `dx[i] = sum of g[(i + pad - k) / stride] w[k]` over the
    /// `k` that leave no remainder.
    fn backward(sizes: &Sizes) -> Self {
        let (stride, kernel) = (sizes.stride, sizes.kernel);
        let [height, width, _] = sizes.input;
        let pad = kernel.map(|k| (k / 2).div_ceil(stride));
        let after = pad;
        let plane_width = pad[1] + width.div_ceil(stride).next_multiple_of(PIXELS) + after[1] + 1;
        let plane_height = pad[0] + height.div_ceil(stride) + after[0];
        let mut phases = Vec::new();
        for (row, column) in (0..stride).flat_map(|y| (0..stride).map(move |x| (y, x))) {
            let first = [row, column];
            let count =
                [height.saturating_sub(row).div_ceil(stride), width.saturating_sub(column).div_ceil(stride)];
            // Taps along one axis: how far from the pixel, border included, and which weight.
            let along = |axis: usize| {
                let reach = first[axis] + kernel[axis] / 2;
                (0..kernel[axis])
                    .filter(move |k| (reach + stride * kernel[axis] - k) % stride == 0)
                    .map(move |k| ((reach + stride * pad[axis] - k) / stride, k))
            };
            let taps = along(0)
                .flat_map(|(dy, y)| along(1).map(move |(dx, x)| (dy * plane_width + dx, y * kernel[1] + x)))
                .collect();
            phases.push(Phase { first, step: stride, count, stride: 1, taps });
        }
        let plane = Plane { height: plane_height, width: plane_width, top: pad[0], left: pad[1] };
        Self { from: sizes.output, to: sizes.input, plane, phases }
    }

    fn run(&self, sizes: Sizes, from: &[f32], weight: &[f32]) -> Vec<f32> {
        let (from_image, to_image) = (self.from.iter().product::<usize>(), self.to.iter().product::<usize>());
        let mut to = vec![0.0; sizes.batch * to_image];
        let piece = sizes.piece();
        to.par_chunks_mut((piece * to_image).max(1))
            .zip(from.par_chunks((piece * from_image).max(1)))
            .for_each(|(to, from)| Arch::new().dispatch(Images { sums: self, sizes, from, to, weight }));
        to
    }
}

/// [`TapSums`] over several images.
struct Images<'a> {
    sums: &'a TapSums,
    sizes: Sizes,
    from: &'a [f32],
    to: &'a mut [f32],
    weight: &'a [f32],
}

impl WithSimd for Images<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sums, sizes, from, to, weight } = self;
        let (channels, taps) = (sizes.output[2], sizes.kernel[0] * sizes.kernel[1]);
        let plane = sums.plane;
        let zero = simd.splat_f32s(0.0);
        let mut values = vec![zero; plane.height * plane.width + PIXELS * sizes.stride];
        let (from_image, to_image) = (sums.from.iter().product::<usize>(), sums.to.iter().product::<usize>());
        for first in (0..channels).step_by(S::F32_LANES) {
            let weight = packed_weight(simd, weight, first, channels, taps);
            let images = from.chunks_exact(from_image).zip(to.chunks_exact_mut(to_image));
            for (from, to) in images {
                fill_plane::<S>(&mut values, plane, from, sums.from, first, channels);
                for phase in &sums.phases {
                    for (row, column) in (0..phase.count[0])
                        .flat_map(|row| (0..phase.count[1]).step_by(PIXELS).map(move |column| (row, column)))
                    {
                        let at = (row * plane.width + column) * phase.stride;
                        let pixels = if phase.stride == 1 {
                            pixels::<S, 1>(simd, &values[at..], &phase.taps, &weight)
                        } else {
                            pixels::<S, 2>(simd, &values[at..], &phase.taps, &weight)
                        };
                        let y = phase.first[0] + row * phase.step;
                        let count = PIXELS.min(phase.count[1] - column);
                        for (p, sums_of_pixel) in pixels.iter().enumerate().take(count) {
                            let x = phase.first[1] + (column + p) * phase.step;
                            let at = (y * sums.to[1] + x) * sums.to[2];
                            put::<S>(&mut to[at..at + sums.to[2]], sums_of_pixel, first, channels);
                        }
                    }
                }
            }
        }
    }
}

/// Sums over the taps for the pixels whose first tap is the plane's first value and every `STRIDE`th after it.
#[inline(always)]
fn pixels<S: Simd, const STRIDE: usize>(
    simd: S,
    plane: &[S::f32s],
    taps: &[(usize, usize)],
    weight: &[S::f32s],
) -> [S::f32s; PIXELS] {
    let mut sums = [simd.splat_f32s(0.0); PIXELS];
    for &(offset, tap) in taps {
        let plane = &plane[offset..offset + PIXELS * STRIDE];
        let weight = weight[tap];
        for p in 0..PIXELS {
            sums[p] = simd.mul_add_e_f32s(plane[p * STRIDE], weight, sums[p]);
        }
    }
    sums
}

/// Write a vector of channels to a pixel, or add it up where several of ours are one of its channels.
#[inline(always)]
fn put<S: Simd>(pixel: &mut [f32], sums: &S::f32s, first: usize, channels: usize) {
    let sums: &[f32] = cast_slice(std::slice::from_ref(sums));
    let count = S::F32_LANES.min(channels - first);
    let multiplier = channels / pixel.len();
    if multiplier > 1 {
        for lane in 0..count {
            pixel[(first + lane) / multiplier] += sums[lane];
        }
    } else if count == S::F32_LANES {
        pixel[first..first + S::F32_LANES].copy_from_slice(sums);
    } else {
        pixel[first..first + count].copy_from_slice(&sums[..count]);
    }
}

/// The weights of a vector of channels, one a tap, zeros after the last channel.
#[inline(always)]
fn packed_weight<S: Simd>(
    simd: S,
    weight: &[f32],
    first: usize,
    channels: usize,
    taps: usize,
) -> Vec<S::f32s> {
    let mut packed = vec![simd.splat_f32s(0.0); taps];
    let values: &mut [f32] = cast_slice_mut(&mut packed);
    for lane in 0..S::F32_LANES.min(channels - first) {
        for tap in 0..taps {
            values[tap * S::F32_LANES + lane] = weight[(first + lane) * taps + tap];
        }
    }
    packed
}

/// Copy a vector of channels of an image into the plane, whose border stays as it is: zeros.
#[inline(always)]
fn fill_plane<S: Simd>(
    values: &mut [S::f32s],
    plane: Plane,
    image: &[f32],
    [height, width, in_channels]: [usize; 3],
    first: usize,
    channels: usize,
) {
    let lanes = S::F32_LANES;
    let count = lanes.min(channels - first);
    let multiplier = channels / in_channels;
    for y in 0..height {
        let row = &image[y * width * in_channels..][..width * in_channels];
        let to = (plane.top + y) * plane.width + plane.left;
        let to: &mut [f32] = cast_slice_mut(&mut values[to..to + width]);
        for (to, from) in to.chunks_exact_mut(lanes).zip(row.chunks_exact(in_channels)) {
            if multiplier == 1 && count == lanes {
                to.copy_from_slice(&from[first..first + lanes]);
            } else {
                for lane in 0..lanes {
                    to[lane] = if lane < count { from[(first + lane) / multiplier] } else { 0.0 };
                }
            }
        }
    }
}

/// `dw[k] = sum of g[i] x[i * stride + k - pad]` over all pixels of all images, `[out, 1, kh, kw]`.
fn weight_gradient(sizes: Sizes, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let (x_image, g_image) = (sizes.input.iter().product::<usize>(), sizes.output.iter().product::<usize>());
    let piece = sizes.piece();
    let parts: Vec<Vec<f32>> = x
        .par_chunks((piece * x_image).max(1))
        .zip(grad.par_chunks((piece * g_image).max(1)))
        .map(|(x, grad)| Arch::new().dispatch(WeightGradient { sizes, x, grad }))
        .collect();
    let mut total = vec![0.0; sizes.output[2] * sizes.kernel[0] * sizes.kernel[1]];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, value)| *total += value);
    }
    total
}

struct WeightGradient<'a> {
    sizes: Sizes,
    x: &'a [f32],
    grad: &'a [f32],
}

impl WithSimd for WeightGradient<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { sizes, x, grad } = self;
        let ([rows, columns, channels], [kh, kw], stride) = (sizes.output, sizes.kernel, sizes.stride);
        debug_assert_eq!(sizes.multiplier() * sizes.input[2], channels);
        let plane = TapSums::forward(&sizes).plane;
        let grad_plane = Plane { height: rows, width: columns, top: 0, left: 0 };
        let zero = simd.splat_f32s(0.0);
        let mut xs = vec![zero; plane.height * plane.width];
        let mut gs = vec![zero; rows * columns];
        let mut total = vec![0.0; channels * kh * kw];
        let (x_image, g_image) =
            (sizes.input.iter().product::<usize>(), sizes.output.iter().product::<usize>());
        for first in (0..channels).step_by(S::F32_LANES) {
            let mut sums = vec![zero; kh * kw];
            for (x, grad) in x.chunks_exact(x_image).zip(grad.chunks_exact(g_image)) {
                fill_plane::<S>(&mut xs, plane, x, sizes.input, first, channels);
                fill_plane::<S>(&mut gs, grad_plane, grad, sizes.output, first, channels);
                for (row, y) in (0..rows).flat_map(|row| (0..kh).map(move |y| (row, y))) {
                    let xs = &xs[(row * stride + y) * plane.width..][..plane.width];
                    let gs = &gs[row * columns..][..columns];
                    let sums = &mut sums[y * kw..][..kw];
                    let mut tap = 0;
                    while tap < kw {
                        let (xs, sums) = (&xs[tap..], &mut sums[tap..]);
                        tap += match kw - tap {
                            7.. => row_of_taps::<S, 7>(simd, xs, gs, sums, stride),
                            3.. => row_of_taps::<S, 3>(simd, xs, gs, sums, stride),
                            _ => row_of_taps::<S, 1>(simd, xs, gs, sums, stride),
                        };
                    }
                }
            }
            let sums: &[f32] = cast_slice(&sums);
            for lane in 0..S::F32_LANES.min(channels - first) {
                for tap in 0..kh * kw {
                    total[(first + lane) * kh * kw + tap] = sums[tap * S::F32_LANES + lane];
                }
            }
        }
        total
    }
}

/// Add `g[i] x[i * stride + t]` to `TAPS` sums, over the pixels of one row. Returns `TAPS`.
#[inline(always)]
fn row_of_taps<S: Simd, const TAPS: usize>(
    simd: S,
    xs: &[S::f32s],
    gs: &[S::f32s],
    sums: &mut [S::f32s],
    stride: usize,
) -> usize {
    let mut local = [simd.splat_f32s(0.0); TAPS];
    for (i, &g) in gs.iter().enumerate() {
        let x = &xs[i * stride..][..TAPS];
        for t in 0..TAPS {
            local[t] = simd.mul_add_e_f32s(g, x[t], local[t]);
        }
    }
    for (sum, local) in sums.iter_mut().zip(local) {
        *sum = simd.add_f32s(*sum, local);
    }
    TAPS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: calls `f(output, input, weight)` with the places of every product.
    fn products(sizes: &Sizes, mut f: impl FnMut(usize, usize, usize)) {
        let ([h, w, ci], [oh, ow, co], [kh, kw]) = (sizes.input, sizes.output, sizes.kernel);
        for (b, oy) in (0..sizes.batch).flat_map(|b| (0..oh).map(move |y| (b, y))) {
            for (ox, o) in (0..ow).flat_map(|x| (0..co).map(move |o| (x, o))) {
                for (ky, kx) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                    let y = (oy * sizes.stride + ky).checked_sub(kh / 2).filter(|&y| y < h);
                    let x = (ox * sizes.stride + kx).checked_sub(kw / 2).filter(|&x| x < w);
                    if let (Some(y), Some(x)) = (y, x) {
                        let input = ((b * h + y) * w + x) * ci + o / (co / ci);
                        f(((b * oh + oy) * ow + ox) * co + o, input, (o * kh + ky) * kw + kx);
                    }
                }
            }
        }
    }

    fn made(count: usize, salt: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + salt * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            assert!(error < 1e-5 * expected.abs().max(10.0), "{what}[{i}]: {found}, not {expected}");
        }
    }

    #[test]
    fn equal_to_the_definition() {
        for (batch, [h, w, c], multiplier, [kh, kw], stride) in [
            (2, [6, 9, 16], 1, [3, 3], 1),
            (1, [12, 17, 33], 1, [7, 7], 1),
            (3, [1, 1, 4], 1, [7, 7], 1),
            (2, [5, 8, 3], 2, [7, 7], 2),
            (1, [9, 20, 17], 2, [3, 3], 2),
            (17, [2, 3, 2], 3, [3, 3], 1),
            (1, [1, 40, 16], 1, [1, 11], 1),
            (1, [4, 4, 8], 1, [5, 9], 2),
        ] {
            let shape = [batch, h, w, c];
            let sizes = Sizes::of(&shape, &[c * multiplier, 1, kh, kw], stride);
            let (outputs, weights) =
                (batch * sizes.output.iter().product::<usize>(), c * multiplier * kh * kw);
            let (x, weight, grad) = (made(batch * h * w * c, 1), made(weights, 2), made(outputs, 3));
            let (mut y, mut dx, mut dw) = (vec![0.0; outputs], vec![0.0; x.len()], vec![0.0; weights]);
            products(&sizes, |o, i, k| {
                y[o] += f64::from(x[i]) * f64::from(weight[k]);
                dx[i] += f64::from(grad[o]) * f64::from(weight[k]);
                dw[k] += f64::from(grad[o]) * f64::from(x[i]);
            });
            let name = format!("{shape:?} x {multiplier}, {kh}x{kw} /{stride}");
            assert_close(&format!("{name} y"), &TapSums::forward(&sizes).run(sizes, &x, &weight), &y);
            assert_close(&format!("{name} dx"), &TapSums::backward(&sizes).run(sizes, &grad, &weight), &dx);
            assert_close(&format!("{name} dw"), &weight_gradient(sizes, &x, &grad), &dw);
            // What a CPU without AVX runs.
            let mut plain = vec![0.0; outputs];
            let sums = TapSums::forward(&sizes);
            Images { sums: &sums, sizes, from: &x, to: &mut plain, weight: &weight }.with_simd(pulp::Scalar);
            assert_close(&format!("{name} plain"), &plain, &y);
        }
    }
}
