//! A product in blocks of 32 by 32 outputs whose sums go through memory: that of AMX tiles, and all of 8-bit codes.
//!
//! The epilogue of a block runs between the tile instructions of the next, so that vector and tile units work at the
//! same time, and the sums that it loads were stored long before. A few rows go behind each instruction that multiplies
//! tiles: behind four of them in a row, as many rows at once would keep the next operands from being loaded.

use super::epilogue::{Epilogue, Outputs};
use crate::scratch::Scratch;
use crate::simd::Simd;

/// Rows, and columns, of one block of sums.
pub(super) const BLOCK: usize = 32;

/// Rows that the epilogue takes at a time where it has no lines.
const ROWS_TAKEN: usize = 4;
/// Parts of the products of an operand tile of rows and one of columns.
pub(super) const QUARTERS: usize = 4;

/// How large a product is.
pub(super) struct Extent {
    /// Rows of the left factor.
    pub(super) rows: usize,
    /// Operand tiles of a row.
    pub(super) steps: usize,
    /// Operand tiles of two panels that all rows go through before the next: these stay in the first-level cache.
    pub(super) steps_together: usize,
    /// Pairs of panels that have their turn with so many operand tiles of all rows, before those of the next `k` come: more
    /// than one where the rows do not fit a cache.
    pub(super) pairs_together: usize,
}

/// What computes the sums of blocks. A sum takes four bytes.
pub(super) trait BlockProduct {
    /// Where a job is.
    type Cursor;

    /// Operand tiles that [`Self::add`] adds: those of the job, or none where [`Self::end`] does it all.
    fn steps(&self, job: &Job) -> usize;

    /// Before the products of a job, whose sums are kept at `sums`.
    ///
    /// # Safety
    /// The block's rows and panels are readable, `sums` has room for it, and the CPU has what it takes.
    unsafe fn begin<S: Simd>(&self, job: &Job, sums: *mut f32) -> Self::Cursor;

    /// A quarter of the products of the next operand tile, between which the epilogue of the block before may run: they come in
    /// order, the last one goes on to the tile after.
    ///
    /// # Safety
    /// There is one; as for [`Self::begin`], which the cursor is of.
    unsafe fn add<S: Simd, const QUARTER: usize>(&self, cursor: &mut Self::Cursor);

    /// After the last product: the sums are written. Returns where those of the job's first row are, if they are not yet where
    /// the epilogue wants them.
    ///
    /// # Safety
    /// As for [`Self::add`].
    unsafe fn end(&self, job: &Job, sums: *mut f32) -> Option<*const f32>;

    /// Hand sums of rows from `row` and of panels from `panel`, whose first is at `sums`, to the epilogue.
    ///
    /// # Safety
    /// They were written; the epilogue may write its outputs; the CPU has `S`.
    unsafe fn take<S: Simd, const MR: usize, const NP: usize>(
        &self,
        sums: *const f32,
        row: usize,
        panel: usize,
    );

    /// [`Self::take`] for one row of two panels where the outputs have lines.
    ///
    /// # Safety
    /// As for [`Self::take`].
    unsafe fn take_line<S: Simd>(&self, sums: *const f32, row: usize, panel: usize);
}

/// All rows with the panels of `outputs`, two at a time; a last one alone is computed twice.
///
/// # Safety
/// Rows and panels are readable, the epilogue may write its outputs, the CPU has `S` and what the product takes.
#[inline(always)]
pub(super) unsafe fn walk<S: Simd, E: Epilogue>(
    product: &impl BlockProduct,
    outputs: &Outputs<E>,
    extent: Extent,
) {
    let mut job = Job::first(extent, outputs.panels.clone());
    let mut memory = Scratch::take(job.slots * BLOCK * BLOCK);
    let mut before = Finished::nothing();
    // SAFETY: the caller's promise; a block has its slot until it is taken.
    unsafe {
        loop {
            let there = job.is_there();
            let sums = memory.as_mut_ptr().add(job.slot * BLOCK * BLOCK);
            let last = job.step + job.steps() == job.all_steps;
            if there && last {
                outputs.ask::<S>(job.row, job.rows(), job.panel, job.count());
            }
            if there {
                let mut cursor = product.begin::<S>(&job, sums);
                let steps = product.steps(&job);
                before.between::<S, _>(product, &mut cursor, steps);
            }
            let first = if there { product.end(&job, sums) } else { None };
            before.rest::<S>(product);
            if !there {
                break;
            }
            if let (true, Some(first)) = (last, first) {
                before = Finished::new(first, &job, outputs.has_lines(job.panel));
            }
            job.advance();
        }
    }
}

/// A block of rows by two panels by some `k`.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) panel: usize,
    /// Where the panels end.
    end: usize,
    /// The first panel of those that have the same `k` together, and how many these are.
    first_panel: usize,
    together: usize,
    /// The first row.
    pub(super) row: usize,
    all_rows: usize,
    /// The first operand tile.
    pub(super) step: usize,
    all_steps: usize,
    /// Most operand tiles at a time.
    most: usize,
    /// Where its sums are.
    slot: usize,
    slots: usize,
}

impl Job {
    pub(super) fn first(extent: Extent, panels: std::ops::Range<usize>) -> Self {
        let Extent { rows: all_rows, steps: all_steps, steps_together: most, pairs_together } = extent;
        // Sums of a block are taken while those of the next are made; when `k` is cut, all blocks wait for its end.
        let slots = if all_steps <= most { 2 } else { pairs_together * all_rows.div_ceil(BLOCK) + 1 };
        Self {
            panel: panels.start,
            end: panels.end,
            first_panel: panels.start,
            together: 2 * pairs_together,
            row: 0,
            all_rows,
            step: 0,
            all_steps,
            most,
            slot: 0,
            slots,
        }
    }

    /// Whether there is anything to do.
    #[inline(always)]
    pub(super) fn is_there(&self) -> bool {
        self.panel < self.end
    }

    /// Rows that count.
    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        BLOCK.min(self.all_rows - self.row)
    }

    /// Operand tiles.
    #[inline(always)]
    pub(super) fn steps(&self) -> usize {
        self.most.min(self.all_steps - self.step)
    }

    /// Whether all of `k` is in this job, and two panels.
    #[cfg(target_arch = "x86_64")] // Only tiles store blocks.
    #[inline(always)]
    pub(super) fn is_whole(&self) -> bool {
        self.steps() == self.all_steps && self.count() == 2
    }

    /// Panels that count.
    #[inline(always)]
    fn count(&self) -> usize {
        2.min(self.end.saturating_sub(self.panel)).max(1)
    }

    /// Both panels; one alone is there twice.
    #[inline(always)]
    pub(super) fn panels(&self) -> [usize; 2] {
        [self.panel, self.panel + self.count() - 1]
    }

    /// All rows, then the next panels, then the next `k`: panels stay in the first-level cache.
    #[inline(always)]
    fn advance(&mut self) {
        self.row += BLOCK;
        self.slot += 1;
        if self.row >= self.all_rows {
            self.next_panels();
        }
        self.slot %= self.slots;
    }

    /// The first rows again, with other panels or another `k`.
    #[inline(always)]
    pub(super) fn next_panels(&mut self) {
        self.row = 0;
        self.panel += 2;
        let end = self.end.min(self.first_panel + self.together);
        if self.panel < end {
            return;
        }
        self.step += self.most;
        if self.step >= self.all_steps {
            self.step = 0;
            self.first_panel = end;
        } else {
            // Back to the sums of the first block.
            let pairs = (end - self.first_panel).div_ceil(2);
            self.slot += self.slots - pairs * self.all_rows.div_ceil(BLOCK);
        }
        self.panel = self.first_panel;
    }
}

/// A block of sums on its way to the epilogue.
#[derive(Clone, Copy)]
struct Finished {
    /// Those of the next row.
    sums: *const f32,
    /// The next row, and where the block ends.
    row: usize,
    end: usize,
    panel: usize,
    count: usize,
    /// Rows from here on are not taken as lines.
    lines_end: usize,
}

impl Finished {
    fn new(sums: *const f32, job: &Job, has_lines: bool) -> Self {
        let end = job.row + job.rows();
        let lines_end = if has_lines && job.count() == 2 { end } else { 0 };
        Self { sums, row: job.row, end, panel: job.panel, count: job.count(), lines_end }
    }

    /// Nothing to do.
    fn nothing() -> Self {
        Self { sums: std::ptr::null(), row: 0, end: 0, panel: 0, count: 0, lines_end: 0 }
    }

    /// The products of so many operand tiles with a block of sums before, whose rows are taken between them: about as many at
    /// each. How many is known where it is compiled, or a core would guess wrong.
    ///
    /// # Safety
    /// As for [`Self::lines`] and [`BlockProduct::add`].
    #[inline(always)]
    unsafe fn between<S: Simd, P: BlockProduct>(
        &mut self,
        product: &P,
        cursor: &mut P::Cursor,
        steps: usize,
    ) {
        let rows = self.lines_end.saturating_sub(self.row);
        // SAFETY: the caller's promise.
        unsafe {
            let left = match rows.div_ceil(steps.max(1)) {
                0 => steps,
                1 => self.products::<S, P, 1, 0, 0, 0>(product, cursor, steps),
                2 => self.products::<S, P, 1, 0, 1, 0>(product, cursor, steps),
                3..6 => self.products::<S, P, 1, 1, 1, 0>(product, cursor, steps),
                6..10 => self.products::<S, P, 1, 1, 2, 1>(product, cursor, steps),
                _ => self.products::<S, P, 2, 2, 2, 2>(product, cursor, steps),
            };
            self.products::<S, P, 0, 0, 0, 0>(product, cursor, left);
        }
    }

    /// Products of operand tiles with so many rows behind each quarter, while there are as many, but at most of `steps` tiles.
    /// Returns how many tiles are left.
    ///
    /// # Safety
    /// As for [`Self::between`].
    #[inline(always)]
    unsafe fn products<
        S: Simd,
        P: BlockProduct,
        const A: usize,
        const B: usize,
        const C: usize,
        const D: usize,
    >(
        &mut self,
        product: &P,
        cursor: &mut P::Cursor,
        steps: usize,
    ) -> usize {
        let rows = self.lines_end.saturating_sub(self.row);
        let now = steps.min(rows.checked_div(A + B + C + D).unwrap_or(steps));
        for _ in 0..now {
            // SAFETY: the caller's promise; there are so many tiles and rows.
            unsafe {
                product.add::<S, 0>(cursor);
                self.lines::<S, A>(product);
                product.add::<S, 1>(cursor);
                self.lines::<S, B>(product);
                product.add::<S, 2>(cursor);
                self.lines::<S, C>(product);
                product.add::<S, 3>(cursor);
                self.lines::<S, D>(product);
            }
        }
        steps - now
    }

    /// The next rows, as lines.
    ///
    /// # Safety
    /// There are so many; the sums are those of the block; the epilogue may write its outputs; the CPU has `S`.
    #[inline(always)]
    unsafe fn lines<S: Simd, const ROWS: usize>(&mut self, product: &impl BlockProduct) {
        for i in 0..ROWS {
            // SAFETY: the caller's promise.
            unsafe { product.take_line::<S>(self.sums.add(i * BLOCK), self.row + i, self.panel) };
        }
        self.next(ROWS);
    }

    /// All rows that are left.
    ///
    /// # Safety
    /// As for [`Self::lines`].
    #[inline(always)]
    unsafe fn rest<S: Simd>(&mut self, product: &impl BlockProduct) {
        while self.row < self.lines_end {
            // SAFETY: the caller's promise.
            unsafe { self.lines::<S, 1>(product) };
        }
        while self.row < self.end {
            let Self { sums, row, panel, .. } = *self;
            // SAFETY: the caller's promise; so many rows are left.
            let taken = unsafe {
                match (self.count, self.end - row) {
                    (2, ROWS_TAKEN..) => {
                        product.take::<S, ROWS_TAKEN, 2>(sums, row, panel);
                        ROWS_TAKEN
                    }
                    (2, _) => {
                        product.take::<S, 1, 2>(sums, row, panel);
                        1
                    }
                    _ => {
                        product.take::<S, 1, 1>(sums, row, panel);
                        1
                    }
                }
            };
            self.next(taken);
        }
    }

    #[inline(always)]
    fn next(&mut self, rows: usize) {
        self.row += rows;
        self.sums = self.sums.wrapping_add(rows * BLOCK);
    }
}
