//! Dot products of a query with rows of f16 or i8, for the instruction set that this CPU has.
//!
//! [`dots_f16`] of the scalar set is the specification. Each pair of a row and a query has one vector
//! accumulator, added to in the order of the row, whatever the tile: scores of one instruction set do not
//! depend on how rows are grouped or shared among threads. Between instruction sets they differ in the
//! last bits, because lanes are added in another order. Sums of i8 rows are integers and equal everywhere.

#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;

/// The instruction set of the kernels. A value other than `Scalar` exists only on a CPU that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Environment variable that forces a set: `scalar`, `avx2` or `avx512`.
const ISA_VARIABLE: &str = "OCELLI_ISA";

impl Kernel {
    /// All that this CPU has, the slowest first.
    pub fn available() -> Vec<Kernel> {
        #[allow(unused_mut)]
        let mut found = vec![Kernel(Set::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            let f16c = is_x86_feature_detected!("f16c");
            if f16c && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Kernel(Set::Avx2));
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                    found.push(Kernel(Set::Avx512));
                }
            }
        }
        found
    }

    /// The set that `OCELLI_ISA` names where this CPU has it, else the best that it has.
    pub fn detect() -> Kernel {
        let available = Self::available();
        let best = available[available.len() - 1];
        let Ok(name) = std::env::var(ISA_VARIABLE) else { return best };
        available.into_iter().find(|kernel| kernel.name() == name).unwrap_or(best)
    }

    /// `scalar`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
        }
    }

    /// Writes the dot products of `query` `[dim]` with each of `rows` `[out.len(), dim]` to `out`.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub fn dots_f16(self, query: &[f32], rows: &[f16], out: &mut [f32]) {
        assert_eq!(rows.len(), query.len() * out.len(), "rows are not [out, dim]");
        match self.0 {
            Set::Scalar => scalar_f16(query, rows, out),
            // SAFETY: the set is only made on a CPU that has it, and the lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { x86::dots_avx2(query, rows, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { x86::dots_avx512(query, rows, out) },
        }
    }

    /// Writes the dot products of `queries` `[q, dim]` with `rows` `[r, dim]` to `out` `[q, r]`.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub fn products_f16(self, dim: usize, queries: &[f32], rows: &[f16], out: &mut [f32]) {
        assert!(dim > 0 && queries.len().is_multiple_of(dim) && rows.len().is_multiple_of(dim));
        assert_eq!(out.len(), (queries.len() / dim) * (rows.len() / dim));
        match self.0 {
            Set::Scalar => {
                let row_count = rows.len() / dim;
                for (query, out) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(row_count.max(1))) {
                    scalar_f16(query, rows, out);
                }
            }
            // SAFETY: the set is only made on a CPU that has it, and the lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { x86::products_avx2(dim, queries, rows, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { x86::products_avx512(dim, queries, rows, out) },
        }
    }

    /// Returns the dot product of two f16 rows of the same length.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn dot_f16_f16(self, a: &[f16], b: &[f16]) -> f32 {
        assert_eq!(a.len(), b.len(), "rows of different lengths");
        match self.0 {
            Set::Scalar => a.iter().zip(b).map(|(a, b)| a.to_f32() * b.to_f32()).sum(),
            // SAFETY: the set is only made on a CPU that has it, and the lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { x86::pair_avx2(a, b) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { x86::pair_avx512(a, b) },
        }
    }

    /// Returns the integer dot product of two i8 rows of the same length.
    ///
    /// # Panics
    /// When the lengths differ, or are above 4096.
    pub fn dot_i8_i8(self, a: &[i8], b: &[i8]) -> i32 {
        assert!(a.len() == b.len() && a.len() <= crate::MAX_DIM, "rows of different or too great lengths");
        match self.0 {
            Set::Scalar => a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum(),
            // SAFETY: the set is only made on a CPU that has it, and the lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { x86::pair_i8_avx2(a, b) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { x86::pair_i8_avx512(a, b) },
        }
    }

    /// Writes the integer dot products of `query` `[dim]` with each of `rows` `[out.len(), dim]` to `out`.
    ///
    /// # Panics
    /// When the lengths do not fit together, or `dim` is above 4096, where a sum could overflow.
    pub fn dots_i8(self, query: &QueryI16, rows: &[i8], out: &mut [i32]) {
        let query = query.values.as_slice();
        assert!(query.len() <= crate::MAX_DIM, "more numbers than an i32 sum has room for");
        assert_eq!(rows.len(), query.len() * out.len(), "rows are not [out, dim]");
        match self.0 {
            Set::Scalar => scalar_i8(query, rows, out),
            // SAFETY: the set is only made on a CPU that has it, and the lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { x86::dots_i8_avx2(query, rows, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { x86::dots_i8_avx512(query, rows, out) },
        }
    }
}

/// The reference: plain sums in the order of the row.
fn scalar_f16(query: &[f32], rows: &[f16], out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(query.len().max(1)).zip(out) {
        *out = row.iter().zip(query).map(|(r, q)| r.to_f32() * q).sum();
    }
}

/// The reference of the i8 kernels.
fn scalar_i8(query: &[i16], rows: &[i8], out: &mut [i32]) {
    for (row, out) in rows.chunks_exact(query.len().max(1)).zip(out) {
        *out = row.iter().zip(query).map(|(&r, &q)| i32::from(r) * i32::from(q)).sum();
    }
}

/// Largest magnitude in a [`QueryI16`]: 4096 products of it with 127 still fit into an i32.
const QUERY_PEAK: f32 = 4095.0;

/// A query for i8 rows: 13-bit integers, so that it adds no error worth naming to that of the rows.
#[derive(Clone, Debug)]
pub struct QueryI16 {
    values: Vec<i16>,
    /// What an integer is worth.
    pub scale: f32,
}

impl QueryI16 {
    /// Rounds `query` to multiples of its largest magnitude / 4095.
    pub fn new(query: &[f32]) -> Self {
        let peak = query.iter().fold(0.0_f32, |peak, x| peak.max(x.abs()));
        let scale = if peak > 0.0 { peak / QUERY_PEAK } else { 1.0 };
        // A value in range by construction of the scale.
        Self { values: query.iter().map(|x| (x / scale).round() as i16).collect(), scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn f16s(random: &mut Random, n: usize) -> Vec<f16> {
        (0..n).map(|_| f16::from_f32(random.normal())).collect()
    }

    /// Every length to twice the widest unrolled step, and the real ones; rows that no tile divides.
    fn sizes() -> impl Iterator<Item = (usize, usize)> {
        let dims = (1..=67).chain([127, 128, 255, 511, 512, 513, 768, 1000]);
        dims.flat_map(|dim| [1, 2, 3, 5, 8, 9, 17].map(|rows| (dim, rows)))
    }

    #[test]
    fn every_set_agrees_with_the_scalar_reference() {
        let mut random = Random::new(1);
        for (dim, count) in sizes() {
            let query: Vec<f32> = (0..dim).map(|_| random.normal()).collect();
            // One extra number in front makes every row unaligned.
            let rows = f16s(&mut random, 1 + dim * count);
            let rows = &rows[1..];
            let mut expected = vec![0.0; count];
            Kernel(Set::Scalar).dots_f16(&query, rows, &mut expected);
            for kernel in Kernel::available() {
                let mut got = vec![f32::NAN; count];
                kernel.dots_f16(&query, rows, &mut got);
                for (got, expected) in got.iter().zip(&expected) {
                    // Sums of `dim` products of size about 1, in another order.
                    let bound = 2e-6 * dim as f32;
                    let close = (got - expected).abs() <= bound.max(1e-5);
                    assert!(close, "{} dim {dim} rows {count}: {got} {expected}", kernel.name());
                }
            }
        }
    }

    #[test]
    fn pairs_agree_with_the_scalar_reference() {
        let mut random = Random::new(2);
        for dim in (1..=67).chain([512, 513]) {
            let (a, b) = (f16s(&mut random, dim), f16s(&mut random, dim));
            let expected = Kernel(Set::Scalar).dot_f16_f16(&a, &b);
            for kernel in Kernel::available() {
                let got = kernel.dot_f16_f16(&a, &b);
                assert!((got - expected).abs() <= (2e-6 * dim as f32).max(1e-5), "{} {dim}", kernel.name());
            }
        }
    }

    #[test]
    fn scores_do_not_depend_on_the_tile() {
        let mut random = Random::new(3);
        for kernel in Kernel::available() {
            for (dim, count) in [(5, 7), (33, 19), (512, 23)] {
                let queries: Vec<f32> = (0..dim * 6).map(|_| random.normal()).collect();
                let rows = f16s(&mut random, dim * count);
                let mut product = vec![0.0; 6 * count];
                kernel.products_f16(dim, &queries, &rows, &mut product);
                for (query, product) in queries.chunks(dim).zip(product.chunks(count)) {
                    let mut together = vec![0.0; count];
                    kernel.dots_f16(query, &rows, &mut together);
                    assert_eq!(together, product, "{}", kernel.name());
                    for (row, expected) in rows.chunks(dim).zip(&together) {
                        let mut alone = [0.0];
                        kernel.dots_f16(query, row, &mut alone);
                        assert_eq!(alone[0], *expected, "{}", kernel.name());
                    }
                }
            }
        }
    }

    #[test]
    fn integer_sums_are_equal_on_every_set() {
        let mut random = Random::new(4);
        for (dim, count) in sizes() {
            let query = QueryI16::new(&(0..dim).map(|_| random.normal()).collect::<Vec<_>>());
            let rows: Vec<i8> = (0..dim * count).map(|_| (random.uniform() * 255.0 - 127.0) as i8).collect();
            let mut expected = vec![0; count];
            Kernel(Set::Scalar).dots_i8(&query, &rows, &mut expected);
            for kernel in Kernel::available() {
                let mut got = vec![-1; count];
                kernel.dots_i8(&query, &rows, &mut got);
                assert_eq!(got, expected, "{} dim {dim} rows {count}", kernel.name());
            }
        }
    }

    #[test]
    fn integer_pairs_are_equal_on_every_set() {
        let mut random = Random::new(6);
        for dim in (0..=67).chain([511, 512, 513, crate::MAX_DIM]) {
            let mut row = || (0..dim).map(|_| (random.uniform() * 255.0 - 127.0) as i8).collect::<Vec<i8>>();
            let (a, b) = (row(), row());
            let expected = Kernel(Set::Scalar).dot_i8_i8(&a, &b);
            for kernel in Kernel::available() {
                assert_eq!(kernel.dot_i8_i8(&a, &b), expected, "{} {dim}", kernel.name());
            }
        }
    }

    #[test]
    fn the_largest_integer_sum_fits() {
        let query = QueryI16::new(&vec![1.0; crate::MAX_DIM]);
        for kernel in Kernel::available() {
            let mut out = [0];
            kernel.dots_i8(&query, &vec![-127; crate::MAX_DIM], &mut out);
            assert_eq!(out[0], -127 * 4095 * 4096);
        }
    }
}
