//! Products with bf16 matrices in twelve bits a value, exactly.
//!
//! A single row is bound by memory, and bf16 has bits to spare: the magnitudes of a matrix lie close together, so of 256
//! exponents sixteen serve nearly all values of a panel (for trained networks, see DFloat11, arXiv 2504.11651). A panel
//! keeps a table of these; a value is its place in the table, its sign and its mantissa. The few values of other
//! exponents are kept beside, whole. Expanded panels are those of a bf16 matrix, bit for bit, so several rows are
//! multiplied as there; a single row expands in registers.
//!
//! A panel, in order:
//!
//! | bytes | what |
//! |---|---|
//! | 64 | table: 32 words, the bf16 of each exponent with mantissa 0, positive, then negative |
//! | 8 each | exceptions, by place; the last one is [`Exception::END`] |
//! | 768 each | groups of 32 `k`: four times three lines of 32 words |
//!
//! Three lines hold four of an expanded panel (pairs of `k` of sixteen columns). Bits 0..12 of a word: place in the
//! table (5), mantissa (7). Bits 12..16 of the three hold the value of the fourth line, its lowest bits in the first.

use std::ops::Range;

use half::bf16;

use super::bf16_rows::{BfRows, BfUnit, TILE_K};
use super::epilogue::{Epilogue, Outputs};
use super::expanded::{self, Encoded};
use super::tile::{RowAhead, Source};
use crate::buffer::CACHE_LINE;
use crate::simd::{Kernel, LANES, Simd};

/// Values of a line of an expanded panel.
const LINE: usize = 2 * LANES;
/// Exponents of a table.
const EXPONENTS: usize = 16;
/// Values of one group, and what their codes take.
const GROUP_LEN: usize = TILE_K * LANES;
const GROUP_BYTES: usize = GROUP_LEN / 2 * 3;
/// The same of four lines.
const QUAD_LEN: usize = 4 * LINE;
const QUAD_BYTES: usize = 3 * CACHE_LINE;
const MANTISSA_BITS: u32 = 7;

/// A value whose exponent is not in the table.
#[derive(Clone, Copy)]
#[repr(C)]
struct Exception {
    /// In the expanded panel.
    place: u32,
    bits: u16,
}

impl Exception {
    /// Behind the last one.
    const END: Self = Self { place: u32::MAX, bits: 0 };
}

/// Exceptions that a panel has room for, the end among them: one a group, in whole lines.
fn exceptions(k: usize) -> usize {
    (k.div_ceil(TILE_K) + 1).next_multiple_of(CACHE_LINE / size_of::<Exception>())
}

fn codes_at(k: usize) -> usize {
    CACHE_LINE + exceptions(k) * size_of::<Exception>()
}

/// Bytes of a panel of columns of `k` values.
pub(crate) fn panel_bytes(k: usize) -> usize {
    codes_at(k) + k.div_ceil(TILE_K) * GROUP_BYTES
}

/// Write a panel of bf16 values, as it is expanded. False where too many values have rare exponents: then nothing that
/// was written counts.
///
/// # Panics
/// When `to` is not of [`panel_bytes`].
pub(crate) fn pack_panel(values: &[u16], k: usize, to: &mut [u8]) -> bool {
    let (head, codes) = to.split_at_mut(codes_at(k));
    let (table_bytes, exception_bytes) = head.split_at_mut(CACHE_LINE);
    let table = Table::of(values);
    for (word, to) in table.words().zip(table_bytes.chunks_exact_mut(2)) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let mut room = exception_bytes.chunks_exact_mut(size_of::<Exception>());
    let mut keep = |Exception { place, bits }| {
        let Some(to) = room.next() else { return false };
        to[..4].copy_from_slice(&place.to_le_bytes());
        to[4..6].copy_from_slice(&bits.to_le_bytes());
        true
    };
    let mut words = [0; QUAD_LEN];
    for (quad, values) in values.chunks_exact(QUAD_LEN).enumerate() {
        for (i, &bits) in values.iter().enumerate() {
            let word = table.encode(bits);
            words[i] = word.unwrap_or_default();
            let place = (quad * QUAD_LEN + i) as u32;
            if word.is_none() && !keep(Exception { place, bits }) {
                return false;
            }
        }
        pack_quad(&words, &mut codes[quad * QUAD_BYTES..][..QUAD_BYTES]);
    }
    keep(Exception::END)
}

/// The most frequent of 256 exponents.
struct Table {
    exponents: [u16; EXPONENTS],
    /// Where each exponent is among these, or [`Self::NOWHERE`].
    places: [u16; 256],
}

impl Table {
    const NOWHERE: u16 = u16::MAX;

    fn of(values: &[u16]) -> Self {
        let mut counts = [0usize; 256];
        values.iter().for_each(|&bits| counts[exponent(bits)] += 1);
        let mut order: [u16; 256] = std::array::from_fn(|exponent| exponent as u16);
        order.sort_by_key(|&exponent| std::cmp::Reverse(counts[usize::from(exponent)]));
        let exponents: [u16; EXPONENTS] = std::array::from_fn(|place| order[place]);
        let mut places = [Self::NOWHERE; 256];
        exponents.iter().enumerate().for_each(|(place, &e)| places[usize::from(e)] = place as u16);
        Self { exponents, places }
    }

    /// As kernels look them up.
    fn words(&self) -> impl Iterator<Item = u16> {
        [0, 1 << 15].into_iter().flat_map(|sign| self.exponents.map(|e| sign | e << MANTISSA_BITS))
    }

    /// The twelve bits of a value, if its exponent is among these.
    fn encode(&self, bits: u16) -> Option<u16> {
        let place = self.places[exponent(bits)];
        let word = place | bits >> 15 << 4 | (bits & 0x7f) << 5;
        (place != Self::NOWHERE).then_some(word)
    }
}

fn exponent(bits: u16) -> usize {
    usize::from(bits >> MANTISSA_BITS & 0xff)
}

/// Four lines of words of twelve bits, in three.
fn pack_quad(words: &[u16; QUAD_LEN], to: &mut [u8]) {
    let (three, fourth) = words.split_at(3 * LINE);
    for (i, to) in to.chunks_exact_mut(2).enumerate() {
        let rest = fourth[i % LINE] >> (4 * (i / LINE)) & 0xf;
        to.copy_from_slice(&(three[i] | rest << 12).to_le_bytes());
    }
}

/// The panels of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct CompactColumns {
    at: *const u8,
    k: usize,
}

/// A panel, from some group on.
#[derive(Clone, Copy)]
struct Cursor {
    table: *const u16,
    /// The next exception.
    exception: *const Exception,
    codes: *const u8,
}

impl CompactColumns {
    pub(crate) fn new(at: *const u8, k: usize) -> Self {
        Self { at, k }
    }

    /// # Safety
    /// The panel exists.
    #[inline(always)]
    unsafe fn panel(self, panel: usize) -> Cursor {
        // SAFETY: the caller's promise; a panel has these parts.
        unsafe {
            let at = self.at.add(panel * panel_bytes(self.k));
            Cursor { table: at.cast(), exception: at.add(CACHE_LINE).cast(), codes: at.add(codes_at(self.k)) }
        }
    }

    fn groups(self) -> usize {
        self.k.div_ceil(TILE_K)
    }
}

impl Cursor {
    /// From another group on; a panel has room for so many exceptions.
    ///
    /// # Safety
    /// The group exists, and this is the first.
    #[inline(always)]
    unsafe fn from(mut self, group: usize, exceptions: usize) -> Self {
        // SAFETY: the caller's promise; exceptions lie in order.
        unsafe {
            for _ in 0..exceptions {
                if (*self.exception).place as usize >= group * GROUP_LEN {
                    break;
                }
                self.exception = self.exception.add(1);
            }
            self.codes = self.codes.add(group * GROUP_BYTES);
        }
        self
    }

    /// Write the next group in bf16, and go on. `first` is the place of its first value in the expanded panel.
    ///
    /// # Safety
    /// There is one more group; it is `to[..GROUP_LEN]`; the CPU has `S`.
    #[inline(always)]
    unsafe fn expand<S: Simd>(&mut self, first: usize, to: *mut u16) {
        // SAFETY: the caller's promise; exceptions end with one that is beyond all groups.
        unsafe {
            let table = S::load(self.table.cast());
            for quad in 0..GROUP_LEN / QUAD_LEN {
                let lines = S::load_twelve_bits(self.codes.add(quad * QUAD_BYTES), table);
                for i in 0..4 {
                    S::store(to.add(quad * QUAD_LEN + i * LINE).cast(), lines[i]);
                }
            }
            while self.has_exception(first) {
                let Exception { place, bits } = *self.exception;
                *to.add(place as usize - first) = bits;
                self.exception = self.exception.add(1);
            }
            self.codes = self.codes.add(GROUP_BYTES);
        }
    }

    /// Whether the next exception is in the group whose first place this is. A place before it, which only a damaged
    /// file has, counts as none.
    ///
    /// # Safety
    /// There is one, or the end.
    #[inline(always)]
    unsafe fn has_exception(self, first: usize) -> bool {
        // SAFETY: the caller's promise.
        unsafe { ((*self.exception).place as usize).wrapping_sub(first) < GROUP_LEN }
    }
}

impl Encoded for CompactColumns {
    fn panel_len(self) -> usize {
        self.groups() * GROUP_LEN
    }

    fn source(self) -> Source {
        Source { at: self.at, panel_bytes: panel_bytes(self.k), first: 0 }
    }

    fn group(self, panel: usize, group: usize) -> (*const u8, usize) {
        let at = panel * panel_bytes(self.k) + codes_at(self.k) + group * GROUP_BYTES;
        (self.at.wrapping_add(at), GROUP_BYTES)
    }

    #[inline(always)]
    unsafe fn expand<S: Simd>(self, panel: usize, groups: Range<usize>, to: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut cursor = self.panel(panel).from(groups.start, exceptions(self.k));
            for (i, group) in groups.enumerate() {
                cursor.expand::<S>(group * GROUP_LEN, to.add(i * GROUP_LEN).cast());
            }
        }
    }
}

/// The product of all rows with some panels.
///
/// # Safety
/// As for [`super::multiply`].
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, E: Epilogue>(a: BfRows, b: CompactColumns, outputs: Outputs<E>) {
    if !S::BF16_PRODUCTS {
        unreachable!("matrices are compact for CPUs that multiply bf16");
    }
    // SAFETY: the caller's promise.
    unsafe {
        match a.rows {
            1 => S::call(RowProduct { a, b, outputs }),
            _ => S::call(expanded::Product { a, b, outputs }),
        }
    }
}

/// The product of a single row. To run it, row and panels must be readable, the epilogue may write its outputs, and the
/// CPU multiplies pairs of bf16.
struct RowProduct<'a, E> {
    a: BfRows,
    b: CompactColumns,
    outputs: Outputs<'a, E>,
}

impl<E: Epilogue> Kernel for RowProduct<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (mut panel, end) = (self.outputs.panels.start, self.outputs.panels.end);
        // SAFETY: the caller's promise, for each part.
        unsafe {
            // Each panel is a stream from memory. Of two more arrives than of four, but not on the CPUs that have AMX,
            // which can have less under way.
            let tiles = self.a.unit() == BfUnit::Tiles;
            let ahead = if tiles { RowAhead::BYTES / 2 } else { RowAhead::BYTES };
            while tiles && panel + 4 <= end {
                self.panels::<S, 4>(panel, ahead);
                panel += 4;
            }
            while panel + 2 <= end {
                self.panels::<S, 2>(panel, ahead);
                panel += 2;
            }
            if E::GROUP == 1 && panel < end {
                self.panels::<S, 1>(panel, ahead);
            }
        }
    }
}

impl<E: Epilogue> RowProduct<'_, E> {
    /// The row times `NP` panels, of which memory is asked for so many bytes ahead.
    ///
    /// # Safety
    /// They exist; otherwise as for the whole.
    #[inline(always)]
    unsafe fn panels<S: Simd, const NP: usize>(&self, panel: usize, ahead: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[S::zero(); NP]];
            let mut cursors = [self.b.panel(panel); NP];
            let mut tables = [S::zero(); NP];
            for p in 0..NP {
                cursors[p] = self.b.panel(panel + p);
                tables[p] = S::load(cursors[p].table.cast());
            }
            let ahead = RowAhead::new(ahead, self.b.groups(), GROUP_BYTES, NP, panel_bytes(self.b.k));
            for group in 0..self.b.groups() {
                let next = ahead.from(group, GROUP_BYTES);
                let (x, first) = (self.a.at.add(group * TILE_K), group * GROUP_LEN);
                if cursors.iter().any(|cursor| cursor.has_exception(first)) {
                    add_patched::<S, NP>(x, &mut cursors, first, &mut sums[0]);
                    continue;
                }
                for quad in 0..GROUP_LEN / QUAD_LEN {
                    for p in 0..NP {
                        let codes = cursors[p].codes.add(quad * QUAD_BYTES);
                        for line in (0..QUAD_BYTES).step_by(CACHE_LINE) {
                            S::prefetch_near(codes.wrapping_add(next + line));
                        }
                        let lines = S::load_twelve_bits(codes, tables[p]);
                        for i in 0..4 {
                            sums[0][p] = S::add_bf16_pairs(sums[0][p], pair::<S>(x, 4 * quad + i), lines[i]);
                        }
                    }
                }
                for cursor in &mut cursors {
                    cursor.codes = cursor.codes.add(GROUP_BYTES);
                }
            }
            self.outputs.take::<S, 1, NP>(0, panel, &sums);
        }
    }
}

/// Add a group in which a panel has an exception.
///
/// # Safety
/// 32 values at `x`, one more group at each cursor; the CPU has `S`.
#[inline(always)]
unsafe fn add_patched<S: Simd, const NP: usize>(
    x: *const bf16,
    cursors: &mut [Cursor; NP],
    first: usize,
    sums: &mut [S::F; NP],
) {
    for p in 0..NP {
        let mut values = [0; GROUP_LEN];
        // SAFETY: the caller's promise.
        unsafe {
            cursors[p].expand::<S>(first, values.as_mut_ptr());
            for i in 0..TILE_K / 2 {
                let line = S::load(values.as_ptr().add(i * LINE).cast());
                sums[p] = S::add_bf16_pairs(sums[p], pair::<S>(x, i), line);
            }
        }
    }
}

/// A pair of `k` of the row, for all lanes.
///
/// # Safety
/// It is there; the CPU has `S`.
#[inline(always)]
unsafe fn pair<S: Simd>(x: *const bf16, i: usize) -> S::F {
    // SAFETY: the caller's promise.
    unsafe { S::splat(x.add(2 * i).cast::<f32>().read_unaligned()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ocelli_plan::{Activation, DType, WeightDecl, WeightLayout};
    use ocelli_testing::{RandomWeights, Rng, relative_error};

    use super::*;
    use crate::Isa;
    use crate::linear::{gated_linear, linear};
    use crate::matmul::{Finish, bf16_rows::BfUnit};
    use crate::pack::{Matrix, Packed, Stored, WeightStore};
    use crate::pool::Pool;
    use crate::view::{Kind, View};

    /// Random values, a few of them of rare exponents: zeros of both signs, tiny and huge ones.
    fn values(len: usize) -> Vec<f32> {
        let mut values = Rng::new(len as u64).values(len);
        let rare = [0.0, -0.0, 1e-20, -3e-30, 1e5, 1e-39];
        values.iter_mut().step_by(509).zip(rare.iter().cycle()).for_each(|(v, rare)| *v = *rare);
        values
    }

    fn store(n: usize, k: usize, isa: Isa, values: Vec<f32>) -> (WeightStore, WeightDecl) {
        let weights = Arc::new(RandomWeights::with("w.weight", &[n, k], values));
        let parts = vec!["w.weight".to_owned()];
        let decl = WeightDecl { parts, rows: n, cols: k, layout: WeightLayout::Matrix };
        (WeightStore::new(weights, DType::Bf16, isa), decl)
    }

    fn view(values: &mut [f32], rows: usize) -> View {
        let cols = values.len() / rows;
        View { at: values.as_mut_ptr().cast(), rows, cols, stride: cols, kind: Kind::F32 }
    }

    fn product(isa: Isa, pool: &Pool, x: &mut [f32], rows: usize, weight: &Matrix, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; rows * n];
        let x = view(x, rows);
        let finish =
            |out| Finish { bias: None, activation: Activation::None, scale: None, residual: None, out };
        linear(isa, pool, x, weight, &finish(view(&mut out, rows)));
        out
    }

    fn isas() -> impl Iterator<Item = Isa> {
        Isa::available().into_iter().filter(|&isa| BfUnit::of(isa).is_some())
    }

    /// One row takes no tiles of AMX here, whose sums are in another order.
    fn check(isa: Isa, rows: usize, got: &[f32], want: &[f32], case: &str) {
        if isa == Isa::Amx && rows == 1 {
            assert!(relative_error(got, want) < 1e-5, "{case}");
        } else {
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(got), bits(want), "{case}");
        }
    }

    #[test]
    fn products_have_the_bits_of_bf16() {
        let pool = Pool::new(2);
        let shapes = [1, 15, 16, 17, 31, 33, 48, 63, 70, 97]
            .into_iter()
            .zip([1, 31, 32, 33, 64, 96, 127, 200, 896, 1100]);
        for (isa, (n, k)) in isas().flat_map(|isa| shapes.clone().map(move |shape| (isa, shape))) {
            let (store, decl) = store(n, k, isa, values(n * k));
            let whole = store.new_matrix(&decl, Stored::Bf16, &pool).unwrap();
            let compact = store.new_matrix(&decl, Stored::Compact, &pool).unwrap();
            for rows in [1, 2, 5, 6, 17, 70] {
                let mut x = Rng::new(7).values(rows * k);
                let [want, got] = [&whole, &compact].map(|m| product(isa, &pool, &mut x, rows, m, n));
                check(isa, rows, &got, &want, &format!("{isa} {rows}x{k}x{n}"));
            }
        }
    }

    /// Then several panels go through the same `k` of all rows, before the next.
    #[test]
    fn rows_that_no_cache_holds_have_the_bits_of_bf16() {
        let (pool, (rows, n, k)) = (Pool::new(1), (300, 1100, 2048));
        for isa in isas() {
            let (store, decl) = store(n, k, isa, values(n * k));
            let mut x = Rng::new(7).values(rows * k);
            let [want, got] = [Stored::Bf16, Stored::Compact].map(|stored| {
                let matrix = store.new_matrix(&decl, stored, &pool).unwrap();
                product(isa, &pool, &mut x, rows, &matrix, n)
            });
            check(isa, rows, &got, &want, &format!("{isa} {rows}x{k}x{n}"));
        }
    }

    #[test]
    fn gated_products_have_the_bits_of_bf16() {
        let pool = Pool::new(2);
        for (isa, (n, k)) in
            isas().flat_map(|isa| [(2, 7), (32, 64), (70, 200), (194, 96)].map(|shape| (isa, shape)))
        {
            let (store, decl) = store(n, k, isa, values(n * k));
            let parts = vec!["w.weight".to_owned()];
            let decl = WeightDecl { layout: WeightLayout::GatePair, parts, ..decl };
            let whole = store.new_matrix(&decl, Stored::Bf16, &pool).unwrap();
            let compact = store.new_matrix(&decl, Stored::Compact, &pool).unwrap();
            for rows in [1, 3, 40] {
                let mut x = Rng::new(7).values(rows * k);
                let [want, got] = [&whole, &compact].map(|m| {
                    let mut out = vec![0.0; rows * n / 2];
                    gated_linear(isa, &pool, view(&mut x, rows), m, view(&mut out, rows));
                    out
                });
                check(isa, rows, &got, &want, &format!("gated, {isa} {rows}x{k}x{n}"));
            }
        }
    }

    /// All bit patterns come back, as long as there is room for the rare ones.
    #[test]
    fn every_value_comes_back() {
        const K: usize = 512;
        let mut common = Rng::new(3);
        let mut values: Vec<u16> =
            common.values(K * LANES).into_iter().map(|v| bf16::from_f32(v).to_bits()).collect();
        for (i, bits) in [0, 0x8000, 1, 0x7f80, 0xff80, 0x7fc1, 0xffff, 0x0080].into_iter().enumerate() {
            values[i * 701] = bits;
        }
        let mut packed = vec![0; panel_bytes(K)];
        assert!(pack_panel(&values, K, &mut packed));
        let columns = CompactColumns::new(packed.as_ptr(), K);
        let mut expanded = vec![0_u16; values.len()];
        for isa in isas() {
            expanded.fill(0);
            isa.dispatch(ExpandPanel(columns, expanded.as_mut_ptr().cast()));
            assert_eq!(expanded, values, "{isa}");
        }
    }

    struct ExpandPanel(CompactColumns, *mut bf16);

    impl Kernel for ExpandPanel {
        type Output = ();

        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            if S::BF16_PRODUCTS {
                // SAFETY: the caller has one panel and room for it.
                unsafe {
                    let groups = self.0.groups();
                    self.0.expand::<S>(0, 0..groups / 3, self.1);
                    self.0.expand::<S>(0, groups / 3..groups, self.1.add(groups / 3 * GROUP_LEN));
                }
            }
        }
    }

    /// Where exponents are all over the place, twelve bits do not do.
    #[test]
    fn a_matrix_that_does_not_fit_stays_whole() {
        const N: usize = 40;
        const K: usize = 64;
        let scattered: Vec<f32> = (0..N * K).map(|i| 2f32.powi((i * 37 % 200) as i32 - 100)).collect();
        let pool = Pool::new(2);
        let stored = |isa, values, decodes| {
            let (store, decl) = store(N, K, isa, values);
            match store.pack(&decl, decodes, &pool).unwrap() {
                Packed::Matrix(matrix) => matrix.stored(),
                _ => unreachable!("the declaration is of a matrix"),
            }
        };
        for isa in isas() {
            assert_eq!(stored(isa, scattered.clone(), true), Stored::Bf16);
            assert_eq!(stored(isa, values(N * K), true), Stored::Compact);
            assert_eq!(stored(isa, values(N * K), false), Stored::Bf16);
        }
    }
}
