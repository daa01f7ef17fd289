//! Work over the rows of a matrix, divided among threads.

use rayon::prelude::*;

/// Values that one task should have at least, so that handing it out costs little.
const TASK_VALUES: usize = 16 * 1024;
/// Most pieces that sums are taken over.
const MAX_PIECES: usize = 16;

/// Rows of a piece, so that no more than [`MAX_PIECES`] cover them all. Does not depend on the threads.
pub(crate) fn piece_rows(rows: usize, columns: usize) -> usize {
    rows.div_ceil(MAX_PIECES).max(TASK_VALUES.div_ceil(columns.max(1))).max(1)
}

/// `f(first row, rows of the output)` over all of an output of `columns` columns.
pub(crate) fn for_pieces(out: &mut [f32], columns: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = out.len() / columns.max(1);
    let step = piece_rows(rows, columns);
    out.par_chunks_mut((step * columns).max(1)).enumerate().for_each(|(i, piece)| f(i * step, piece));
}

/// The sum of `f(first row, number of rows, sums)` over all pieces, added in order, `width` values.
pub(crate) fn sum_pieces(
    rows: usize,
    columns: usize,
    width: usize,
    f: impl Fn(usize, usize, &mut [f32]) + Sync,
) -> Vec<f64> {
    let step = piece_rows(rows, columns);
    let parts: Vec<Vec<f32>> = (0..rows.div_ceil(step))
        .into_par_iter()
        .map(|i| {
            let mut sums = vec![0.0; width];
            f(i * step, step.min(rows - i * step), &mut sums);
            sums
        })
        .collect();
    let mut total = vec![0.0f64; width];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, value)| *total += f64::from(value));
    }
    total
}

/// As f32.
pub(crate) fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}
