//! The register tile: a few rows times a few panels of sixteen columns.

use half::bf16;

use super::epilogue::{Epilogue, Outputs};
use crate::buffer::CACHE_LINE;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};

/// Steps of a tile between two times that it asks for the next panels.
const ASK_STEPS: usize = 16;
/// What panels take of the first-level cache while all rows go by: as much as leaves room for rows and sums.
const PANELS_BYTES: usize = 24 << 10;
/// How far ahead one row asks for its panels.
pub(super) const PREFETCH_BYTES: usize = 2048;

/// Rows of the left factor in f32 memory.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) at: *const f32,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    /// Values a row.
    pub(crate) k: usize,
}

/// Columns of the right factor in panels of sixteen.
#[derive(Clone, Copy)]
pub(crate) struct Columns<B> {
    pub(crate) at: *const B,
    /// Values from one panel to the next.
    pub(crate) panel_stride: usize,
    /// Values from one `k` to the next.
    pub(crate) k_stride: usize,
    /// Number of the panel at `at`.
    pub(crate) first: usize,
}

/// Where panels come from: where they lie, or the codes that they are expanded from.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) at: *const u8,
    pub(super) panel_bytes: usize,
    /// Number of the panel at `at`.
    pub(super) first: usize,
}

impl<B> Columns<B> {
    pub(super) fn source(self) -> Source {
        let panel_bytes = self.panel_stride * size_of::<B>();
        Source { at: self.at.cast(), panel_bytes, first: self.first }
    }
}

/// Panels that will be wanted next, asked for a little at each step of the tiles before them: the first tile that needs
/// them would wait for memory otherwise.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    at: *const u8,
    /// Lines of all, and of a step.
    lines: usize,
    step: usize,
}

impl Ahead {
    pub(super) const NOTHING: Self = Self { at: std::ptr::null(), lines: 0, step: 0 };

    /// Some panels from `panel` on, over so many steps; they may be anywhere.
    pub(super) fn new(from: Source, panel: usize, panels: usize, steps: usize) -> Self {
        let at = from.at.wrapping_add((panel - from.first) * from.panel_bytes);
        let lines = (panels * from.panel_bytes).div_ceil(CACHE_LINE);
        Self { at, lines, step: lines.div_ceil(steps.max(1)) }
    }

    /// Ask for what belongs to a step.
    ///
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    pub(super) unsafe fn ask<S: Simd>(self, step: usize) {
        let first = step * self.step;
        for line in first..self.lines.min(first + self.step) {
            // SAFETY: the caller's promise.
            unsafe { S::prefetch(self.at.wrapping_add(line * CACHE_LINE)) };
        }
    }
}

/// Where a single row asks for the codes that it will read: so many bytes on in the order in which it reads them, some
/// panels at a time, group after group. More would not fit what a core may have under way, less would not fill it.
#[derive(Clone, Copy)]
pub(super) struct RowAhead {
    /// Groups of a panel.
    groups: usize,
    /// How many groups on.
    ahead: usize,
    /// Bytes to the panels after these.
    next_panels: usize,
}

impl RowAhead {
    /// Of all panels that are read at a time.
    pub(super) const BYTES: usize = 8192;

    /// So many bytes on, at least a group.
    pub(super) fn new(
        bytes: usize,
        groups: usize,
        group_bytes: usize,
        panels: usize,
        panel_stride: usize,
    ) -> Self {
        let ahead = (bytes / (panels * group_bytes)).max(1);
        Self { groups, ahead: ahead.min(groups), next_panels: panels * panel_stride }
    }

    /// Bytes to it from this group of a panel, where groups lie so far apart.
    #[inline(always)]
    pub(super) fn from(self, group: usize, group_stride: usize) -> usize {
        if group + self.ahead < self.groups {
            self.ahead * group_stride
        } else {
            self.next_panels - (self.groups - self.ahead) * group_stride
        }
    }
}

/// How the values of a panel are stored.
pub(crate) trait Panel: Copy + Send + Sync + 'static {
    /// `k` that lie interleaved, an odd end padded: 1, or 2.
    const STEP: usize;

    /// Sixteen columns at the first `k` of a step.
    ///
    /// # Safety
    /// They are in the panel; the CPU has `S`.
    unsafe fn load_first<S: Simd>(p: *const Self) -> S::F;
    /// Sixteen columns at the second `k` of the step at `p`.
    ///
    /// # Safety
    /// As for `load_first`; a step has two.
    unsafe fn load_second<S: Simd>(p: *const Self) -> S::F;
}

/// `k` after `k`, sixteen columns each.
impl Panel for f32 {
    const STEP: usize = 1;

    #[inline(always)]
    unsafe fn load_first<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn load_second<S: Simd>(_p: *const Self) -> S::F {
        unreachable!("a step is one `k`")
    }
}

/// Pairs of `k` interleaved, as the bf16 matrix instructions want them.
impl Panel for bf16 {
    const STEP: usize = 2;

    #[inline(always)]
    unsafe fn load_first<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's promise; the padding makes the last pair whole.
        unsafe { S::load_bf16_pairs(p).0 }
    }
    #[inline(always)]
    unsafe fn load_second<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16_pairs(p).1 }
    }
}

/// The product of all rows with some panels.
///
/// To run it, rows and panels must be readable, and the epilogue may write its outputs.
pub(crate) struct Product<'a, B, E> {
    pub(crate) a: Rows,
    pub(crate) b: Columns<B>,
    pub(crate) outputs: Outputs<'a, E>,
}

impl<B: Panel, E: Epilogue> Kernel for Product<'_, B, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { a, b, outputs } = self;
        let (mut panel, end) = (outputs.panels.start, outputs.panels.end);
        // SAFETY: the caller's promise, for each part.
        unsafe {
            if a.rows == 1 && E::GROUP == 1 {
                // One row is bound by memory: many panels at once hide the latency of the chain.
                while S::TILE_PANELS > 1 && panel + 8 <= end {
                    tile::<S, B, E, 1, 8>(a, b, 0, panel, Part::whole(a), Ahead::NOTHING, &outputs);
                    panel += 8;
                }
                while panel + 4 <= end {
                    tile::<S, B, E, 1, 4>(a, b, 0, panel, Part::whole(a), Ahead::NOTHING, &outputs);
                    panel += 4;
                }
            }
            while S::TILE_PANELS >= 4 && panel + 4 <= end {
                row_tiles::<S, B, E, 4>(a, b, panel, &outputs);
                panel += 4;
            }
            while (S::TILE_PANELS >= 2 || E::GROUP == 2) && panel + 2 <= end {
                row_tiles::<S, B, E, 2>(a, b, panel, &outputs);
                panel += 2;
            }
            while E::GROUP == 1 && panel < end {
                row_tiles::<S, B, E, 1>(a, b, panel, &outputs);
                panel += 1;
            }
        }
    }
}

/// All rows against `NP` panels.
#[inline(always)]
unsafe fn row_tiles<S: Simd, B: Panel, E: Epilogue, const NP: usize>(
    a: Rows,
    b: Columns<B>,
    panel: usize,
    outputs: &Outputs<E>,
) {
    let tiles = a.rows.div_ceil(S::TILE_ROWS);
    let ahead = Ahead::new(b.source(), panel + NP, NP, tiles * (a.k / B::STEP).div_ceil(ASK_STEPS));
    let most = PANELS_BYTES / (NP * LANES * size_of::<B>());
    // SAFETY: the caller's promise, for each part.
    unsafe {
        if !cuts_k::<S>() {
            return part_tiles::<S, B, E, NP>(a, b, panel, Part::whole(a), ahead, outputs);
        }
        let parts = a.k.div_ceil(most).max(1);
        let length = a.k.div_ceil(parts).max(1).next_multiple_of(B::STEP * ASK_STEPS);
        let mut memory = Scratch::take(if parts > 1 { a.rows * NP * LANES } else { 0 });
        for first in (0..a.k.max(1)).step_by(length) {
            let part = Part { first, end: a.k.min(first + length), sums: memory.as_mut_ptr() };
            part_tiles::<S, B, E, NP>(a, b, panel, part, ahead, outputs);
        }
    }
}

/// Some `k` of all rows against `NP` panels.
#[inline(always)]
unsafe fn part_tiles<S: Simd, B: Panel, E: Epilogue, const NP: usize>(
    a: Rows,
    b: Columns<B>,
    panel: usize,
    part: Part,
    ahead: Ahead,
    outputs: &Outputs<E>,
) {
    let mut r = 0;
    while r < a.rows {
        // SAFETY: the tile's rows are among `a.rows`.
        r += unsafe {
            match S::TILE_ROWS.min(a.rows - r) {
                6.. => tile::<S, B, E, 6, NP>(a, b, r, panel, part, ahead, outputs),
                5 => tile::<S, B, E, 5, NP>(a, b, r, panel, part, ahead, outputs),
                4 => tile::<S, B, E, 4, NP>(a, b, r, panel, part, ahead, outputs),
                3 => tile::<S, B, E, 3, NP>(a, b, r, panel, part, ahead, outputs),
                2 => tile::<S, B, E, 2, NP>(a, b, r, panel, part, ahead, outputs),
                _ => tile::<S, B, E, 1, NP>(a, b, r, panel, part, ahead, outputs),
            }
        };
    }
}

/// Whether `k` is cut: narrow tiles take few panels at a time, of which the cache holds much.
const fn cuts_k<S: Simd>() -> bool {
    S::TILE_PANELS >= 4
}

/// Some `k` of all rows, and where sums over those before are.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    end: usize,
    /// For each row those of all panels.
    sums: *mut f32,
}

impl Part {
    /// All `k`.
    fn whole(a: Rows) -> Self {
        Self { first: 0, end: a.k, sums: std::ptr::null_mut() }
    }
}

/// `MR` rows from row `r` times `NP` panels from `panel`; returns `MR`.
#[inline(always)]
unsafe fn tile<S: Simd, B: Panel, E: Epilogue, const MR: usize, const NP: usize>(
    a: Rows,
    b: Columns<B>,
    r: usize,
    panel: usize,
    part: Part,
    ahead: Ahead,
    outputs: &Outputs<E>,
) -> usize {
    // SAFETY: the caller's promise: rows `r..r + MR`, panels `panel..panel + NP`, all `k`.
    unsafe {
        let at = part.sums.wrapping_add(r * NP * LANES);
        let last = !cuts_k::<S>() || part.end == a.k;
        if last {
            outputs.ask::<S>(r, MR, panel, NP);
        }
        let mut all = [[S::zero(); NP]; MR];
        if cuts_k::<S>() && part.first > 0 {
            for i in 0..MR {
                for p in 0..NP {
                    all[i][p] = S::load(at.add((i * NP + p) * LANES));
                }
            }
        }
        if MR > 1 && NP > S::TILE_PANELS {
            // Panels that an epilogue wants together, but for which there are not the registers.
            for p in 0..NP {
                let mut one = [[S::zero(); 1]; MR];
                for i in 0..MR {
                    one[i][0] = all[i][p];
                }
                one = add::<S, B, MR, 1>(a, b, r, panel + p, part, ahead, one);
                for i in 0..MR {
                    all[i][p] = one[i][0];
                }
            }
        } else {
            all = add::<S, B, MR, NP>(a, b, r, panel, part, ahead, all);
        }
        if last {
            outputs.take::<S, MR, NP>(r, panel, &all);
        } else {
            for i in 0..MR {
                for p in 0..NP {
                    S::store(at.add((i * NP + p) * LANES), all[i][p]);
                }
            }
        }
    }
    MR
}

/// The sums of such a tile with a part's products.
#[inline(always)]
unsafe fn add<S: Simd, B: Panel, const MR: usize, const NP: usize>(
    a: Rows,
    b: Columns<B>,
    r: usize,
    panel: usize,
    part: Part,
    ahead: Ahead,
    mut sums: [[S::F; NP]; MR],
) -> [[S::F; NP]; MR] {
    // SAFETY: the caller's promise: rows `r..r + MR`, panels `panel..panel + NP`, all `k`.
    unsafe {
        let rows = a.at.add(r * a.stride);
        let columns = b.at.add((panel - b.first) * b.panel_stride);
        let (start, end) = (part.first / B::STEP, part.end / B::STEP);
        let asked = start * a.rows.div_ceil(S::TILE_ROWS) + r / S::TILE_ROWS * (end - start);
        for first in (start..end).step_by(ASK_STEPS) {
            if MR > 1 {
                ahead.ask::<S>((asked + first - start) / ASK_STEPS);
            }
            for step in first..end.min(first + ASK_STEPS) {
                let at = columns.add(step * B::STEP * b.k_stride);
                let x = rows.add(step * B::STEP);
                let mut panels = [S::zero(); NP];
                if MR == 1 {
                    // Bound by memory: where pages are small, the hardware stops at the end of each.
                    for p in 0..NP {
                        S::prefetch(at.add(p * b.panel_stride).cast::<u8>().wrapping_add(PREFETCH_BYTES));
                    }
                }
                for p in 0..NP {
                    panels[p] = B::load_first::<S>(at.add(p * b.panel_stride));
                }
                rank_one::<S, MR, NP>(x, a.stride, panels, &mut sums);
                if B::STEP == 2 {
                    for p in 0..NP {
                        panels[p] = B::load_second::<S>(at.add(p * b.panel_stride));
                    }
                    rank_one::<S, MR, NP>(x.add(1), a.stride, panels, &mut sums);
                }
            }
        }
        if !part.end.is_multiple_of(B::STEP) {
            let mut panels = [S::zero(); NP];
            for p in 0..NP {
                panels[p] = B::load_first::<S>(columns.add(p * b.panel_stride + (a.k - 1) * b.k_stride));
            }
            rank_one::<S, MR, NP>(rows.add(a.k - 1), a.stride, panels, &mut sums);
        }
        sums
    }
}

/// Add one column of the left factor times one row of the right.
#[inline(always)]
pub(super) unsafe fn rank_one<S: Simd, const MR: usize, const NP: usize>(
    x: *const f32,
    stride: usize,
    panels: [S::F; NP],
    sums: &mut [[S::F; NP]; MR],
) {
    for i in 0..MR {
        // SAFETY: the caller's promise: `MR` rows at `x`.
        unsafe {
            let x = S::splat(*x.add(i * stride));
            for p in 0..NP {
                sums[i][p] = S::fma(x, panels[p], sums[i][p]);
            }
        }
    }
}
