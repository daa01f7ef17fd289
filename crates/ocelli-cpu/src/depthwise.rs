//! Depthwise convolution over NHWC maps.
//!
//! A task takes a band of output rows and a block of channels. It widens the input that it needs to
//! f32 with the zero padding written out, so that the inner loop has no edges, then keeps a run of
//! output pixels in registers while the taps go by.

use ocelli_plan::Activation;

use crate::Isa;
use crate::math::activate;
use crate::pool::Pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::View;

/// Channels of a task: a staged band of them stays in the second-level cache.
const CHANNEL_BLOCK: usize = 4 * LANES;
/// Output rows of a task: the `kernel - 1` rows that two bands share are staged twice.
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
        let conv = self.conv;
        let first_row = self.band * BAND_ROWS;
        let rows = BAND_ROWS.min(conv.out_height() - first_row);
        let first_channel = self.block * CHANNEL_BLOCK;
        let channels = CHANNEL_BLOCK.min(conv.out.cols - first_channel);
        let lanes = channels.next_multiple_of(LANES);
        let [kernel_height, kernel_width] = conv.kernel;
        let staged_rows = (rows - 1) * conv.stride + kernel_height;
        // The run of pixels in registers may reach beyond the last output: pad for it.
        let run = S::CONV_PIXELS;
        let out_width = conv.out_width().next_multiple_of(run);
        let staged_width = (out_width - 1) * conv.stride + kernel_width;
        let mut memory = Scratch::take(staged_rows * staged_width * lanes);
        let scratch = memory.as_mut_ptr();
        let band = Staged { at: scratch, rows: staged_rows, width: staged_width, lanes };
        // SAFETY: the scratch holds the band; tasks write disjoint rows and channels.
        unsafe {
            stage::<S>(conv, band, first_row, first_channel, channels);
            for r in 0..rows {
                for c in (0..channels).step_by(LANES) {
                    row::<S>(conv, band, r, first_row + r, c, first_channel + c);
                }
            }
        }
    }
}

/// A band of the input as f32 `[rows, width, lanes]`, padding included.
#[derive(Clone, Copy)]
struct Staged {
    at: *mut f32,
    rows: usize,
    width: usize,
    lanes: usize,
}

/// Fill the band: zeros outside of the map, each input channel repeated for its outputs.
#[inline(always)]
unsafe fn stage<S: Simd>(
    conv: &Depthwise<'_>,
    band: Staged,
    first_row: usize,
    first_channel: usize,
    channels: usize,
) {
    let padding = conv.kernel[1] / 2;
    let top = (first_row * conv.stride) as isize - (conv.kernel[0] / 2) as isize;
    let row_len = band.width * band.lanes;
    for r in 0..band.rows {
        let y = top + r as isize;
        // SAFETY: inside of the band and of the map by the bounds of the loops.
        unsafe {
            let to = band.at.add(r * row_len);
            if y < 0 || y >= conv.height as isize {
                std::ptr::write_bytes(to, 0, row_len);
                continue;
            }
            let right = padding + conv.width.min(band.width - padding);
            std::ptr::write_bytes(to, 0, padding * band.lanes);
            std::ptr::write_bytes(to.add(right * band.lanes), 0, (band.width - right) * band.lanes);
            for x in 0..right - padding {
                let pixel = y as usize * conv.width + x;
                stage_pixel::<S>(conv, pixel, first_channel, channels, to.add((padding + x) * band.lanes));
            }
        }
    }
}

#[inline(always)]
unsafe fn stage_pixel<S: Simd>(
    conv: &Depthwise<'_>,
    pixel: usize,
    first_channel: usize,
    channels: usize,
    to: *mut f32,
) {
    let multiplier = conv.multiplier();
    // SAFETY: channels are in the map, `to` holds a multiple of sixteen of them.
    unsafe {
        if multiplier == 1 {
            for c in (0..channels).step_by(LANES) {
                let v = conv.x.load::<S>(pixel, first_channel + c, LANES.min(channels - c));
                S::store(to.add(c), v);
            }
            return;
        }
        // The outputs read fewer inputs than there are of them: widen those, then repeat each.
        let mut inputs = [0.0f32; CHANNEL_BLOCK];
        let first = first_channel / multiplier;
        let last = (first_channel + channels - 1) / multiplier;
        conv.x.widen::<S>(pixel, first, last - first + 1, inputs.as_mut_ptr());
        if multiplier == 2 && first_channel.is_multiple_of(2) {
            for c in 0..channels / 2 {
                *to.add(2 * c) = inputs[c];
                *to.add(2 * c + 1) = inputs[c];
            }
            for c in channels / 2 * 2..channels {
                *to.add(c) = inputs[c / 2];
            }
        } else {
            repeat(&inputs, multiplier, first_channel % multiplier, channels, to);
        }
        for c in channels..channels.next_multiple_of(LANES) {
            *to.add(c) = 0.0;
        }
    }
}

/// Each input `multiplier` times; the first one has been repeated `done` times in the block before.
#[inline(always)]
unsafe fn repeat(inputs: &[f32], multiplier: usize, done: usize, channels: usize, to: *mut f32) {
    let (mut repeats, mut input) = (done, 0);
    for c in 0..channels {
        // SAFETY: the caller promises room for the channels.
        unsafe { *to.add(c) = inputs[input] };
        repeats += 1;
        if repeats == multiplier {
            (repeats, input) = (0, input + 1);
        }
    }
}

/// One output row of sixteen channels, a run of pixels at a time.
#[inline(always)]
unsafe fn row<S: Simd>(
    conv: &Depthwise<'_>,
    band: Staged,
    band_row: usize,
    out_row: usize,
    lane: usize,
    channel: usize,
) {
    let width = conv.out_width();
    let mut x = 0;
    while x < width {
        // SAFETY: the band is padded to whole runs.
        unsafe {
            if S::CONV_PIXELS == 16 {
                run::<S, 16>(conv, band, band_row, out_row, x, lane, channel);
            } else {
                run::<S, 4>(conv, band, band_row, out_row, x, lane, channel);
            }
        }
        x += S::CONV_PIXELS;
    }
}

#[inline(always)]
unsafe fn run<S: Simd, const N: usize>(
    conv: &Depthwise<'_>,
    band: Staged,
    band_row: usize,
    out_row: usize,
    x: usize,
    lane: usize,
    channel: usize,
) {
    let step = conv.stride * band.lanes;
    let [kernel_height, kernel_width] = conv.kernel;
    // SAFETY: all taps of all `N` pixels are in the band; stored pixels are in the output.
    unsafe {
        let mut sums = [S::zero(); N];
        for ky in 0..kernel_height {
            let line = (band_row * conv.stride + ky) * band.width + x * conv.stride;
            let mut at = band.at.add(line * band.lanes + lane).cast_const();
            let mut weight = conv.weights.as_ptr().add(ky * kernel_width * conv.weight_stride + channel);
            for _ in 0..kernel_width {
                let w = S::load(weight);
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(S::load(at.add(i * step)), w, *sum);
                }
                at = at.add(band.lanes);
                weight = weight.add(conv.weight_stride);
            }
        }
        let bias = conv.bias.map_or(S::zero(), |b| S::load(b.as_ptr().add(channel)));
        let n = LANES.min(conv.out.cols - channel);
        let width = conv.out_width();
        for (i, &sum) in sums.iter().enumerate().take(width - x) {
            let v = activate::<S>(conv.activation, S::add(sum, bias));
            conv.out.store::<S>(out_row * width + x + i, channel, n, v);
        }
    }
}
