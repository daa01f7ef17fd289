//! Depthwise convolution over NHWC maps.
//!
//! A task takes a band of output rows and a block of channels, a run of pixels and sixteen channels at a time. It
//! widens the input that these need to f32 with the zero padding written out, so that the inner loop has no edges and
//! reads from the first-level cache alone; then it keeps a row of the run in registers while the taps go by.

use half::bf16;
use ocelli_plan::Activation;

use crate::Isa;
use crate::math::activate_rows;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::{Kind, View};

/// Channels of a task: a band of them stays in the second-level cache.
const CHANNEL_BLOCK: usize = 4 * LANES;
/// Output rows of a task: the `kernel - 1` rows that two bands share are read twice.
const BAND_ROWS: usize = 16;

/// One depthwise convolution. `x` is `[height * width, channels_in]`.
pub(crate) struct Depthwise<'a> {
    pub(crate) x: View,
    pub(crate) weights: &'a [f32],
    /// Padded number of output channels.
    pub(crate) weight_stride: usize,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Activation,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Height and width.
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: usize,
    pub(crate) out: View,
}

impl Depthwise<'_> {
    fn out_height(&self) -> usize {
        self.height.div_ceil(self.stride)
    }

    fn out_width(&self) -> usize {
        self.width.div_ceil(self.stride)
    }

    /// Outputs that read one input channel.
    fn multiplier(&self) -> usize {
        self.out.cols / self.x.cols
    }
}

pub(crate) fn depthwise(isa: Isa, pool: &Pool, conv: &Depthwise<'_>) {
    let bands = conv.out_height().div_ceil(BAND_ROWS);
    let blocks = conv.out.cols.div_ceil(CHANNEL_BLOCK);
    pool.run(bands * blocks, &|task| {
        isa.dispatch(BandTask { conv, band: task / blocks, block: task % blocks });
    });
}

struct BandTask<'a, 'b> {
    conv: &'a Depthwise<'b>,
    band: usize,
    block: usize,
}

impl Kernel for BandTask<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: tasks write disjoint rows and channels.
        unsafe {
            match (S::CONV_PIXELS, self.conv.stride) {
                (16, 1) => band::<S, 16, 1>(self.conv, self.band, self.block),
                // The input of a run is as large as that of twice as many pixels.
                (16, 2) => band::<S, 8, 2>(self.conv, self.band, self.block),
                (_, 1) => band::<S, 4, 1>(self.conv, self.band, self.block),
                _ => band::<S, 4, ANY>(self.conv, self.band, self.block),
            }
        }
    }
}

/// In place of a stride that is known when compiled; such ones make addresses that do not wait for each other.
const ANY: usize = 0;

/// A band of a block of channels, `N` pixels at a time.
#[inline(always)]
unsafe fn band<S: Simd, const N: usize, const STRIDE: usize>(
    conv: &Depthwise<'_>,
    band: usize,
    block: usize,
) {
    let first_row = band * BAND_ROWS;
    let rows = BAND_ROWS.min(conv.out_height() - first_row);
    let channels = block * CHANNEL_BLOCK..conv.out.cols.min((block + 1) * CHANNEL_BLOCK);
    let (width, height) = ((N - 1) * conv.stride + conv.kernel[1], (rows - 1) * conv.stride + conv.kernel[0]);
    let mut memory = Scratch::take(width * height * LANES);
    for x in (0..conv.out_width()).step_by(N) {
        for channel in channels.clone().step_by(LANES) {
            let at = memory.as_mut_ptr();
            let window =
                Window { at, width, height, top: first_row * conv.stride, left: x * conv.stride, channel };
            // SAFETY: the scratch holds the window; the caller promises the outputs.
            unsafe {
                stage::<S>(conv, window);
                for r in 0..rows {
                    pixels::<S, N, STRIDE>(conv, window, r, first_row + r, x);
                }
            }
        }
    }
}

/// The input of a run as f32 `[height, width, 16]`, padding included.
#[derive(Clone, Copy)]
struct Window {
    at: *mut f32,
    width: usize,
    height: usize,
    /// Where it begins in the padded map.
    top: usize,
    left: usize,
    /// Its first output channel.
    channel: usize,
}

/// Fill a window: zeros outside of the map, each input channel repeated for its outputs.
#[inline(always)]
unsafe fn stage<S: Simd>(conv: &Depthwise<'_>, window: Window) {
    let n = LANES.min(conv.out.cols - window.channel);
    let multiplier = conv.multiplier();
    let padding = conv.kernel[1] / 2;
    // The columns of the window that are in the map.
    let first = padding.saturating_sub(window.left).min(window.width);
    let last = (conv.width + padding).saturating_sub(window.left).clamp(first, window.width);
    for r in 0..window.height {
        let y = (window.top + r).wrapping_sub(conv.kernel[0] / 2);
        // SAFETY: inside of the window by the bounds of the loops; `first..last` and `y` are in the map.
        unsafe {
            let to = window.at.add(r * window.width * LANES);
            if y >= conv.height {
                std::ptr::write_bytes(to, 0, window.width * LANES);
                continue;
            }
            std::ptr::write_bytes(to, 0, first * LANES);
            std::ptr::write_bytes(to.add(last * LANES), 0, (window.width - last) * LANES);
            // A row of pixels without a gap: the one behind the padding is the first.
            let pixel = y * conv.width + window.left + first - padding;
            let to = to.add(first * LANES);
            match conv.x.kind {
                Kind::Bf16 if multiplier == 1 && n == LANES => {
                    let from = conv.x.row::<bf16>(pixel).add(window.channel).cast_const();
                    for c in 0..last - first {
                        S::store(to.add(c * LANES), S::load_bf16(from.add(c * conv.x.stride)));
                    }
                }
                _ if multiplier == 1 => {
                    for c in 0..last - first {
                        S::store(to.add(c * LANES), conv.x.load::<S>(pixel + c, window.channel, n));
                    }
                }
                Kind::Bf16 if multiplier == 2 && n == LANES => {
                    let from = conv.x.row::<bf16>(pixel).add(window.channel / 2).cast_const();
                    for c in 0..last - first {
                        S::store(to.add(c * LANES), S::load_bf16_twice(from.add(c * conv.x.stride)));
                    }
                }
                Kind::F32 if multiplier == 2 && n == LANES => {
                    let from = conv.x.row::<f32>(pixel).add(window.channel / 2).cast_const();
                    for c in 0..last - first {
                        S::store(to.add(c * LANES), S::load_twice(from.add(c * conv.x.stride)));
                    }
                }
                _ => {
                    for c in 0..last - first {
                        repeat::<S>(conv, multiplier, pixel + c, window.channel, n, to.add(c * LANES));
                    }
                }
            }
        }
    }
}

/// The inputs of `n` outputs, each as often as there are outputs of it; zeros after them.
#[inline(always)]
unsafe fn repeat<S: Simd>(
    conv: &Depthwise<'_>,
    multiplier: usize,
    pixel: usize,
    channel: usize,
    n: usize,
    to: *mut f32,
) {
    let (first, last) = (channel / multiplier, (channel + n - 1) / multiplier);
    let (mut input, mut repeats) = (0, channel % multiplier);
    let mut inputs = [0.0; LANES];
    // SAFETY: sixteen outputs have at most as many inputs, which are in the map; `to` has room for sixteen values.
    unsafe {
        conv.x.widen::<S>(pixel, first, last - first + 1, inputs.as_mut_ptr());
        for c in 0..LANES {
            *to.add(c) = if c < n { inputs[input] } else { 0.0 };
            repeats += 1;
            if repeats == multiplier {
                (repeats, input) = (0, (input + 1) % LANES);
            }
        }
    }
}

/// A run of output pixels of sixteen channels, in row `r` of the window's outputs.
#[inline(always)]
unsafe fn pixels<S: Simd, const N: usize, const STRIDE: usize>(
    conv: &Depthwise<'_>,
    window: Window,
    r: usize,
    out_row: usize,
    x: usize,
) {
    let step = LANES * if STRIDE == ANY { conv.stride } else { STRIDE };
    let [kernel_height, kernel_width] = conv.kernel;
    // SAFETY: all taps of all `N` pixels are in the window; stored pixels are in the output.
    unsafe {
        let mut sums = [S::zero(); N];
        for ky in 0..kernel_height {
            let mut at = window.at.add((r * conv.stride + ky) * window.width * LANES).cast_const();
            let mut weight =
                conv.weights.as_ptr().add(ky * kernel_width * conv.weight_stride + window.channel);
            for _ in 0..kernel_width {
                let w = S::load(weight);
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(S::load(at.add(i * step)), w, *sum);
                }
                at = at.add(LANES);
                weight = weight.add(conv.weight_stride);
            }
        }
        finish::<S, N>(conv, out_row, x, window.channel, sums);
    }
}

/// Add the bias, apply the activation, and store the sums of neighbouring pixels from `x` on, as far as the row goes.
#[inline(always)]
unsafe fn finish<S: Simd, const N: usize>(
    conv: &Depthwise<'_>,
    out_row: usize,
    x: usize,
    channel: usize,
    mut sums: [S::F; N],
) {
    let (width, n) = (conv.out_width(), LANES.min(conv.out.cols - channel));
    let pixel = out_row * width + x;
    // SAFETY: the pixels and channels are in the output; vectors are padded to whole panels.
    unsafe {
        let bias = conv.bias.map_or(S::zero(), |b| S::load(b.as_ptr().add(channel)));
        for v in &mut sums {
            *v = S::add(*v, bias);
        }
        activate_rows::<S, N>(conv.activation, conv.out.kind, &mut sums);
        if x + N <= width {
            return conv.out.store_rows::<S, N>(pixel, channel, n, sums);
        }
        for (i, &v) in sums.iter().enumerate().take(width - x) {
            conv.out.store::<S>(pixel + i, channel, n, v);
        }
    }
}
