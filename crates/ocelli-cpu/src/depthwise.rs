//! Depthwise convolution over NHWC maps.
//!
//! A task takes a band of output rows and some lines of channels: a run of pixels of one or two of them down the band, then
//! the same run of the next ones, then the next run. The input rows that an output row needs are in a ring, as vectors of
//! sixteen channels with the zero padding written out, so that the inner loop has no edges and reads from the first-level
//! cache alone; it keeps a row of the run in registers while the taps go by. A row enters the ring right before the first
//! output row that needs it, and is asked for some rows before, so that memory and arithmetic work at the same time.
//!
//! In the ring are f32 values, one of them a lane; where pairs of bf16 are multiplied quicker, pairs of neighbours in a row.

use std::ops::Range;

use half::bf16;
use ocelli_plan::Activation;

use crate::Isa;
use crate::math::activate_rows;
use crate::pool::{CHUNKS_PER_THREAD, Pool};
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};
use crate::view::{Kind, View};

/// Most vectors of channels of a task: lines that are neighbours in memory come quicker than others.
const VECTORS: usize = 12;
/// Pixels of a row whose vectors are computed before those of the next ones.
const PIXELS: usize = 16;
/// Least output rows of a task: the `kernel - 1` rows that two bands share are read twice.
const LEAST_ROWS: usize = 16;
/// Output rows before the one that reads or writes it, at which a row is asked for.
const AHEAD: usize = 2;

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
    let vectors = vectors_of_a_task(conv, pool.threads());
    let (blocks, rows) = cut(conv, pool.threads(), vectors);
    // Small kernels wait for memory, and would lose accuracy for nothing.
    let pairs = conv.kernel == [7, 7] && conv.x.kind == Kind::Bf16 && multiplies_pairs(isa);
    pool.run(conv.out_height().div_ceil(rows) * blocks, &|task| {
        let (first_row, first) = (task / blocks * rows, task % blocks * vectors);
        let rows = rows.min(conv.out_height() - first_row);
        let vectors = vectors.min(conv.out.cols.div_ceil(LANES) - first);
        let channel = first * LANES;
        isa.dispatch(Band { conv, pairs, first_row, rows, channel, vectors });
    });
}

/// As many as may be where all tasks have as many, in whole lines, and all threads as many tasks.
fn vectors_of_a_task(conv: &Depthwise<'_>, threads: usize) -> usize {
    if cfg!(target_family = "wasm") {
        return VECTORS; // There is one thread.
    }
    let even = |&vectors: &usize| {
        let (blocks, rows) = cut(conv, threads, vectors);
        let tasks = blocks * conv.out_height().div_ceil(rows);
        conv.out.cols.div_ceil(LANES).is_multiple_of(vectors) && tasks.is_multiple_of(threads)
    };
    (2..=VECTORS).rev().step_by(2).find(even).unwrap_or(VECTORS)
}

/// Tasks of so many vectors beside each other, and the output rows of each.
fn cut(conv: &Depthwise<'_>, threads: usize, vectors: usize) -> (usize, usize) {
    let blocks = conv.out.cols.div_ceil(vectors * LANES);
    let bands = (CHUNKS_PER_THREAD * threads).div_ceil(blocks);
    (blocks, conv.out_height().div_ceil(bands).max(LEAST_ROWS))
}

/// Whether pairs of bf16 are multiplied quicker than f32. CPUs with AMX compute them half as quick.
fn multiplies_pairs(isa: Isa) -> bool {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => true,
        _ => false,
    }
}

/// Output rows of some vectors of channels, from `channel` on.
#[derive(Clone, Copy)]
struct Band<'a, 'b> {
    conv: &'a Depthwise<'b>,
    /// Whether pairs of bf16 are multiplied.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 multiplies in bf16"))]
    pairs: bool,
    first_row: usize,
    rows: usize,
    channel: usize,
    vectors: usize,
}

impl Kernel for Band<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: tasks write disjoint rows and channels.
        unsafe {
            match (S::CONV_PIXELS, self.conv.stride) {
                (16, 1) => self.wide::<S, 16, 1>(),
                // The input of a run is as large as that of twice as many pixels.
                (16, 2) => self.wide::<S, 8, 2>(),
                (_, 1) => self.runs::<S, false, 4, 1, ANY>(),
                _ => self.runs::<S, false, 4, ANY, ANY>(),
            }
        }
    }
}

/// In place of a stride, or a kernel's side, that is known when compiled: with those, addresses do not wait for each other,
/// and taps are written out.
const ANY: usize = 0;

impl Band<'_, '_> {
    /// Where registers hold sixteen pixels.
    #[inline(always)]
    unsafe fn wide<S: Simd, const N: usize, const STRIDE: usize>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if S::BF16_PRODUCTS && self.pairs {
                return self.runs::<S, true, N, STRIDE, 7>();
            }
            match self.conv.kernel {
                [7, 7] => self.runs::<S, false, N, STRIDE, 7>(),
                [3, 3] => self.runs::<S, false, N, STRIDE, 3>(),
                _ => self.runs::<S, false, N, STRIDE, ANY>(),
            }
        }
    }

    /// The band, `N` pixels of some vectors of channels at a time.
    #[inline(always)]
    unsafe fn runs<S: Simd, const PAIRS: bool, const N: usize, const STRIDE: usize, const KERNEL: usize>(
        self,
    ) {
        let (conv, width) = (self.conv, (N - 1) * self.conv.stride + self.conv.kernel[1]);
        let mut ring_memory = Scratch::take(Ring::len(conv.kernel[0], width));
        let mut tap_memory = Scratch::take(VECTORS * Taps::len(conv.kernel));
        let at = ring_memory.as_mut_ptr();
        // SAFETY: the scratch holds the taps, and the ring; the caller promises the outputs.
        unsafe {
            let taps = Taps::of::<S, PAIRS>(conv, self.channel, self.vectors, tap_memory.as_mut_ptr());
            for run in 0..self.count(N) {
                let [ring, next] = [run, run + 1].map(|run| self.ring(run, N, at, width));
                if ring.x < conv.out_width() {
                    self.run_down::<S, PAIRS, N, STRIDE, KERNEL>(ring, next, taps);
                }
            }
        }
    }

    /// Runs of `n` pixels: those of [`PIXELS`] pixels of some vectors, then of the next ones, then of the next pixels.
    fn count(&self, n: usize) -> usize {
        let groups = self.vectors.div_ceil(together(self.conv.kernel[0]));
        self.conv.out_width().div_ceil(PIXELS) * groups * (PIXELS / n)
    }

    /// The ring at `at` for a run, whose pixels may lie behind the row.
    fn ring(&self, run: usize, n: usize, at: *mut f32, width: usize) -> Ring {
        let (conv, together) = (self.conv, together(self.conv.kernel[0]));
        let groups = self.vectors.div_ceil(together);
        let (block, vector) = (run / (PIXELS / n), run / (PIXELS / n) % groups * together);
        Ring {
            at,
            width,
            top: self.first_row * conv.stride,
            x: block / groups * PIXELS + run % (PIXELS / n) * n,
            channel: self.channel + vector * LANES,
            vectors: together.min(self.vectors - vector),
        }
    }

    /// A run of `N` pixels, row by row.
    #[inline(always)]
    unsafe fn run_down<
        S: Simd,
        const PAIRS: bool,
        const N: usize,
        const STRIDE: usize,
        const KERNEL: usize,
    >(
        self,
        mut ring: Ring,
        next: Ring,
        taps: Taps,
    ) {
        let conv = self.conv;
        let outputs = self.first_row..self.first_row + self.rows;
        let inputs = ring.top..(outputs.end - 1) * conv.stride + conv.kernel[0];
        let mut staged = ring.top;
        for row in outputs.clone() {
            ring.top = row * conv.stride;
            let end = ring.top + conv.kernel[0];
            // SAFETY: the caller's promise; the ring has all rows from its top on.
            unsafe {
                for y in staged.max(ring.top)..end {
                    match ahead(y, AHEAD * conv.stride, &inputs) {
                        (y, true) => ring.ask::<S>(conv, y),
                        (y, false) => next.ask::<S>(conv, y),
                    }
                    ring.stage::<S, PAIRS>(conv, y);
                }
                let (row_ahead, here) = ahead(row, AHEAD, &outputs);
                let run = if here { ring } else { next };
                conv.out.ask_lines::<S>(row_ahead * conv.out_width() + run.x, N, run.channel);
                for vector in 0..ring.vectors {
                    pixels::<S, PAIRS, N, STRIDE, KERNEL>(conv, ring, taps, vector, row);
                }
            }
            staged = end;
        }
    }
}

/// Vectors of a run: as many as leave the ring in the first-level cache.
fn together(kernel_height: usize) -> usize {
    if kernel_height > 3 { 2 } else { 4 }
}

/// The row `by` rows after `row`, in a band that begins again in the next run, and whether it is in this one.
fn ahead(row: usize, by: usize, band: &Range<usize>) -> (usize, bool) {
    if row + by < band.end { (row + by, true) } else { (band.start + row + by - band.end, false) }
}

/// The weights of a task's channels, `[vectors][taps of the kernel][16]`; pairs of neighbours in a row count as one.
///
/// Pairs are rounded to bf16, and behind them is what the rounding took from the one in the middle: there a folded kernel
/// has the identity of its block, so that an error of its place goes from block to block.
#[derive(Clone, Copy)]
struct Taps {
    at: *const f32,
    /// The first channel.
    channel: usize,
    /// Of a row of the kernel.
    count: usize,
}

impl Taps {
    /// f32 values of scratch for the kernels of a vector.
    fn len([height, width]: [usize; 2]) -> usize {
        (height * width + 1) * LANES
    }

    /// # Safety
    /// `to` has room for [`Self::len`] values of each vector; the CPU has `S`.
    #[inline(always)]
    unsafe fn of<S: Simd, const PAIRS: bool>(
        conv: &Depthwise<'_>,
        channel: usize,
        vectors: usize,
        to: *mut f32,
    ) -> Self {
        let [height, width] = conv.kernel;
        let step = if PAIRS { 2 } else { 1 };
        let count = width.div_ceil(step);
        let middle = height / 2 * count + width / 2 / step;
        for vector in 0..vectors {
            let to = to.wrapping_add(vector * Self::len(conv.kernel));
            for place in 0..height * count {
                let kx = place % count * step;
                let tap = place / count * width + kx;
                // SAFETY: the taps are in the kernel, whose rows are padded to whole vectors.
                unsafe {
                    let at = tap * conv.weight_stride + channel + vector * LANES;
                    let weights = conv.weights.as_ptr().add(at);
                    let to_place = to.add(place * LANES);
                    let first = S::load(weights);
                    if PAIRS {
                        let second =
                            if kx + 1 < width { S::load(weights.add(conv.weight_stride)) } else { S::zero() };
                        S::store_bf16_pairs(to_place.cast(), first, second);
                        if place == middle {
                            let (a, b) = S::load_bf16_pairs(to_place.cast());
                            let rest = to.add(height * count * LANES);
                            S::store_bf16_pairs(rest.cast(), S::sub(first, a), S::sub(second, b));
                        }
                    } else {
                        S::store(to_place, first);
                    }
                }
            }
        }
        Self { at: to, channel, count }
    }
}

/// The rows of the padded map that an output row of a run of pixels needs: row `y` in place `y % kernel height`,
/// `[vectors][width + 1][16]`.
#[derive(Clone, Copy)]
struct Ring {
    at: *mut f32,
    width: usize,
    /// The first row that is needed.
    top: usize,
    /// The first output pixel of a row.
    x: usize,
    /// The first output channel.
    channel: usize,
    vectors: usize,
}

impl Ring {
    /// f32 values of scratch.
    fn len(height: usize, width: usize) -> usize {
        height * together(height) * (width + 1) * LANES
    }

    /// A row of a vector of channels.
    ///
    /// # Safety
    /// The ring's memory is large enough.
    #[inline(always)]
    unsafe fn row(self, place: usize, vector: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.at.add((place * self.vectors + vector) * (self.width + 1) * LANES) }
    }

    /// The columns of the run that are in the map.
    #[inline(always)]
    fn inside(self, conv: &Depthwise<'_>) -> (usize, usize) {
        let (padding, left) = (conv.kernel[1] / 2, self.x * conv.stride);
        let first = padding.saturating_sub(left).min(self.width);
        let last = (conv.width + padding).saturating_sub(left).clamp(first, self.width);
        (first, last)
    }

    /// Ask for row `y` of the padded map.
    ///
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    unsafe fn ask<S: Simd>(self, conv: &Depthwise<'_>, y: usize) {
        let y = y.wrapping_sub(conv.kernel[0] / 2);
        if y < conv.height {
            let (first, last) = self.inside(conv);
            let pixel = y * conv.width + self.x * conv.stride + first - conv.kernel[1] / 2;
            // SAFETY: the caller's promise.
            unsafe { conv.x.ask_lines::<S>(pixel, last - first, self.channel / conv.multiplier()) };
        }
    }

    /// Write row `y` of the padded map to its place.
    ///
    /// # Safety
    /// The ring has its memory; the CPU has `S`.
    #[inline(always)]
    unsafe fn stage<S: Simd, const PAIRS: bool>(self, conv: &Depthwise<'_>, y: usize) {
        let place = y % conv.kernel[0];
        let y = y.wrapping_sub(conv.kernel[0] / 2);
        let (first, last) = if y < conv.height { self.inside(conv) } else { (self.width, self.width) };
        for vector in 0..self.vectors {
            // SAFETY: `first..last` and `y` are in the map, what is pushed is in the row.
            unsafe {
                let mut line = Line::<S, PAIRS>::new(self.row(place, vector));
                line.push_zeros(first);
                if first < last {
                    // A row of pixels without a gap: the one behind the padding is the first.
                    let pixel = y * conv.width + self.x * conv.stride + first - conv.kernel[1] / 2;
                    push_pixels(&mut line, conv, pixel, last - first, self.channel + vector * LANES);
                }
                line.push_zeros(self.width - last + usize::from(PAIRS));
            }
        }
    }
}

/// A row that is written vector by vector. Of pairs, the second comes a vector after the first.
struct Line<S: Simd, const PAIRS: bool> {
    at: *mut f32,
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 multiplies in bf16"))]
    before: S::F,
}

impl<S: Simd, const PAIRS: bool> Line<S, PAIRS> {
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    unsafe fn new(at: *mut f32) -> Self {
        // SAFETY: the caller's promise.
        Self { at: at.wrapping_add(if PAIRS { 0 } else { LANES }), before: unsafe { S::zero() } }
    }

    /// # Safety
    /// There is room for the vector, whose values are bf16 if there are pairs; the CPU has `S`.
    #[inline(always)]
    unsafe fn push(&mut self, v: S::F) {
        // SAFETY: the caller's promise.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if PAIRS {
                S::store(self.at, S::bf16_pairs(self.before, v));
                self.before = v;
            } else {
                S::store(self.at, v);
            }
            #[cfg(not(target_arch = "x86_64"))]
            S::store(self.at, v);
            self.at = self.at.add(LANES);
        }
    }

    /// # Safety
    /// As for [`Self::push`].
    #[inline(always)]
    unsafe fn push_zeros(&mut self, n: usize) {
        for _ in 0..n {
            // SAFETY: the caller's promise.
            unsafe { self.push(S::zero()) };
        }
    }
}

/// Sixteen output channels from `channel` on of `count` pixels: each input channel repeated for its outputs.
#[inline(always)]
unsafe fn push_pixels<S: Simd, const PAIRS: bool>(
    line: &mut Line<S, PAIRS>,
    conv: &Depthwise<'_>,
    pixel: usize,
    count: usize,
    channel: usize,
) {
    let n = LANES.min(conv.out.cols - channel);
    let multiplier = conv.multiplier();
    // SAFETY: the pixels and channels are in the map.
    unsafe {
        match conv.x.kind {
            Kind::Bf16 if multiplier == 1 && n == LANES => {
                let from = conv.x.row::<bf16>(pixel).add(channel).cast_const();
                for c in 0..count {
                    line.push(S::load_bf16(from.add(c * conv.x.stride)));
                }
            }
            _ if multiplier == 1 => {
                for c in 0..count {
                    line.push(conv.x.load::<S>(pixel + c, channel, n));
                }
            }
            Kind::Bf16 if multiplier == 2 && n == LANES => {
                let from = conv.x.row::<bf16>(pixel).add(channel / 2).cast_const();
                for c in 0..count {
                    line.push(S::load_bf16_twice(from.add(c * conv.x.stride)));
                }
            }
            Kind::F32 if multiplier == 2 && n == LANES => {
                let from = conv.x.row::<f32>(pixel).add(channel / 2).cast_const();
                for c in 0..count {
                    line.push(S::load_twice(from.add(c * conv.x.stride)));
                }
            }
            _ => {
                for c in 0..count {
                    line.push(repeat::<S>(conv, multiplier, pixel + c, channel, n));
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
) -> S::F {
    let (first, last) = (channel / multiplier, (channel + n - 1) / multiplier);
    let (mut input, mut repeats) = (0, channel % multiplier);
    let (mut inputs, mut outputs) = ([0.0; LANES], [0.0; LANES]);
    // SAFETY: sixteen outputs have at most as many inputs, which are in the map.
    unsafe {
        conv.x.widen::<S>(pixel, first, last - first + 1, inputs.as_mut_ptr());
        for output in outputs.iter_mut().take(n) {
            *output = inputs[input];
            repeats += 1;
            if repeats == multiplier {
                (repeats, input) = (0, (input + 1) % LANES);
            }
        }
        S::load(outputs.as_ptr())
    }
}

/// A run of output pixels of a vector of channels.
#[inline(always)]
unsafe fn pixels<S: Simd, const PAIRS: bool, const N: usize, const STRIDE: usize, const KERNEL: usize>(
    conv: &Depthwise<'_>,
    ring: Ring,
    taps: Taps,
    vector: usize,
    out_row: usize,
) {
    let step = LANES * if STRIDE == ANY { conv.stride } else { STRIDE };
    let (height, count) = match KERNEL {
        ANY => (conv.kernel[0], taps.count),
        side => (side, side.div_ceil(if PAIRS { 2 } else { 1 })),
    };
    // SAFETY: all taps of all `N` pixels are in the ring; stored pixels are in the output.
    unsafe {
        let mut sums = [S::zero(); N];
        let channel = ring.channel + vector * LANES;
        let mut weight = taps.at.add((channel - taps.channel) / LANES * Taps::len(conv.kernel));
        let mut place = ring.top % height;
        for _ in 0..height {
            let mut at = ring.row(place, vector).add(LANES).cast_const();
            for _ in 0..count {
                let w = S::load(weight);
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = tap::<S, PAIRS>(S::load(at.add(i * step)), w, *sum);
                }
                at = at.add(if PAIRS { 2 * LANES } else { LANES });
                weight = weight.add(LANES);
            }
            place = if place + 1 == height { 0 } else { place + 1 };
        }
        if PAIRS {
            let w = S::load(weight);
            let middle = conv.kernel.map(|side| side / 2);
            let at = ring.row((ring.top + middle[0]) % height, vector).add((1 + middle[1] / 2 * 2) * LANES);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = tap::<S, PAIRS>(S::load(at.add(i * step)), w, *sum);
            }
        }
        finish::<S, N>(conv, out_row, ring.x, channel, sums);
    }
}

#[inline(always)]
unsafe fn tap<S: Simd, const PAIRS: bool>(x: S::F, w: S::F, sum: S::F) -> S::F {
    // SAFETY: the caller has `S`.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if PAIRS {
            return S::add_bf16_pairs(sum, x, w);
        }
        S::fma(x, w, sum)
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
