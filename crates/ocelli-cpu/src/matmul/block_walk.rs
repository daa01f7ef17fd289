//! A product in blocks of 32 by 32 outputs whose sums go through memory: that of AMX tiles, and all of 8-bit codes.
//!
//! The epilogue of a block runs between the tile instructions of the next, so that vector and tile units work at the
//! same time, and the sums that it loads were stored long before.

use super::epilogue::{Epilogue, Outputs};
use crate::scratch::Scratch;
use crate::simd::Simd;

/// Rows, and columns, of one block of sums.
pub(super) const BLOCK: usize = 32;

/// Rows that the epilogue takes at a time.
const ROWS_TAKEN: usize = 4;

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

    /// Parts of `steps` operand tiles, between which the epilogue of the block before may run.
    fn parts(&self, steps: usize) -> usize;

    /// Before the first part of a job, whose sums are kept at `sums`.
    ///
    /// # Safety
    /// The block's rows and panels are readable, `sums` has room for it, and the CPU has what it takes.
    unsafe fn begin<S: Simd>(&self, job: &Job, sums: *mut f32) -> Self::Cursor;

    /// The next part.
    ///
    /// # Safety
    /// There is one; as for [`Self::begin`], which the cursor is of.
    unsafe fn add<S: Simd>(&self, cursor: &mut Self::Cursor);

    /// After the last part: the sums are written.
    ///
    /// # Safety
    /// As for [`Self::add`].
    unsafe fn end(&self, job: &Job, sums: *mut f32);

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
            let mut cursor = if there { Some(product.begin::<S>(&job, sums)) } else { None };
            let parts = if there { product.parts(job.steps()) } else { 1 };
            let rows = BLOCK.div_ceil(parts).next_multiple_of(ROWS_TAKEN);
            for part in 0..parts {
                if let Some(cursor) = &mut cursor {
                    product.add::<S>(cursor);
                }
                before.up_to::<S>((part + 1) * rows, product);
            }
            if !there {
                break;
            }
            product.end(&job, sums);
            if last {
                before = Finished::new(sums, &job);
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
    sums: *const f32,
    /// The first row.
    row: usize,
    rows: usize,
    panel: usize,
    count: usize,
    /// Rows that are done.
    done: usize,
}

impl Finished {
    fn new(sums: *const f32, job: &Job) -> Self {
        Self { sums, row: job.row, rows: job.rows(), panel: job.panel, count: job.count(), done: 0 }
    }

    /// Nothing to do.
    fn nothing() -> Self {
        Self { sums: std::ptr::null(), row: 0, rows: 0, panel: 0, count: 0, done: 0 }
    }

    /// Hand rows to the epilogue until `rows` of the block, or all that it has, are done.
    ///
    /// # Safety
    /// The sums are those of the block; the epilogue may write its outputs; the CPU has `S`.
    #[inline(always)]
    unsafe fn up_to<S: Simd>(&mut self, rows: usize, product: &impl BlockProduct) {
        let end = rows.min(self.rows);
        while self.done < end {
            // SAFETY: the caller's promise; so many rows are left.
            unsafe {
                let (sums, row) = (self.sums.add(self.done * BLOCK), self.row + self.done);
                self.done += match (self.count, self.rows - self.done) {
                    (2, ROWS_TAKEN..) => {
                        product.take::<S, ROWS_TAKEN, 2>(sums, row, self.panel);
                        ROWS_TAKEN
                    }
                    (2, _) => {
                        product.take::<S, 1, 2>(sums, row, self.panel);
                        1
                    }
                    _ => {
                        product.take::<S, 1, 1>(sums, row, self.panel);
                        1
                    }
                };
            }
        }
    }
}
