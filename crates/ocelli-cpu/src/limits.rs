//! What the machine can do at most: reading memory and multiplying, measured with the threads and the
//! instruction set of a device. A roofline sets the ops beside these.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::Isa;
use crate::buffer::Buffer;
#[cfg(target_arch = "x86_64")]
use crate::matmul::amx;
#[cfg(target_arch = "x86_64")]
use crate::matmul::bf16_rows::BfUnit;
use crate::pool::Pool;
use crate::session::CpuDevice;
use crate::simd::{Kernel, LANES, Simd};

/// Bytes that the memory benchmark reads: beyond the last-level cache's share of a few cores.
const READ_BYTES: usize = 256 << 20;
/// Each measurement goes on this long at least; its quickest round counts.
const LEAST: Duration = Duration::from_millis(150);
/// Chunks of work for each thread, so that a thread that is held up does not hold up the others.
const CHUNKS: usize = 8;

/// Limits of a machine with the threads of one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineLimits {
    /// Bytes read from memory in a second.
    pub read_bytes_per_s: f64,
    /// f32 multiplications and additions in a second, from registers.
    pub f32_flops: f64,
    /// bf16 multiplications and additions in a second where there are instructions for them, without loads.
    pub bf16_flops: Option<f64>,
    /// 8-bit integer multiplications and additions in a second where there is a matrix unit, without loads.
    pub int8_ops: Option<f64>,
}

impl CpuDevice {
    /// Measure the limits; takes about a second and 256 MiB. Other programs make them look lower.
    pub fn measure_limits(&self) -> MachineLimits {
        let (isa, pool) = (self.isa(), self.pool());
        MachineLimits {
            read_bytes_per_s: read_rate(isa, pool),
            f32_flops: rate(pool, &|| multiply_add(isa)),
            bf16_flops: bf16_rate(isa, pool),
            int8_ops: int8_rate(isa, pool),
        }
    }
}

/// Work in a second of the quickest round; `work` returns what one chunk of it did.
fn rate(pool: &Pool, work: &(dyn Fn() -> f64 + Sync)) -> f64 {
    let chunks = pool.threads() * CHUNKS;
    let each = work();
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < LEAST || !best.is_finite() {
        let start = Instant::now();
        pool.run(chunks, &|_| {
            work();
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    each * chunks as f64 / best.max(1e-9)
}

fn read_rate(isa: Isa, pool: &Pool) -> f64 {
    let mut buffer = Buffer::zeroed(READ_BYTES);
    let chunks = pool.threads() * CHUNKS;
    let len = READ_BYTES / size_of::<f32>() / chunks / ROUND * ROUND;
    let base = Base(buffer.as_mut_ptr().cast());
    pool.run(chunks, &|chunk| {
        // SAFETY: chunks are disjoint parts of the buffer. Untouched pages would all be one page of zeros.
        unsafe { std::slice::from_raw_parts_mut(base.at().add(chunk * len), len) }.fill(1.0);
    });
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < LEAST || !best.is_finite() {
        let start = Instant::now();
        pool.run(chunks, &|chunk| {
            // SAFETY: as above; nobody writes any more.
            let values = unsafe { std::slice::from_raw_parts(base.at().add(chunk * len), len) };
            black_box(sum(isa, values));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (chunks * len * size_of::<f32>()) as f64 / best.max(1e-9)
}

/// Where the buffer begins.
#[derive(Clone, Copy)]
struct Base(*mut f32);

// SAFETY: threads touch disjoint parts, or only read.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

impl Base {
    /// A method, so that closures take the whole of it and not the bare pointer.
    fn at(&self) -> *mut f32 {
        self.0
    }
}

/// Vectors that are added apart, so that no sum waits for the one before it.
const SUMS: usize = 4;
/// Values of one round of them.
const ROUND: usize = SUMS * LANES;

fn sum(isa: Isa, values: &[f32]) -> f32 {
    if isa == Isa::Scalar {
        return values.chunks_exact(LANES).fold([0.0; LANES], plain_sum).iter().sum();
    }
    isa.dispatch(Sum(values))
}

fn plain_sum(mut sums: [f32; LANES], values: &[f32]) -> [f32; LANES] {
    sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
    sums
}

/// Sum of some whole rounds.
struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: a round is `SUMS` vectors; the caller promises the instruction set.
        unsafe {
            let mut sums = [S::zero(); SUMS];
            for round in self.0.chunks_exact(ROUND) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = S::add(*sum, S::load(round.as_ptr().add(i * LANES)));
                }
            }
            let [a, b, c, d] = sums;
            S::reduce_add(S::add(S::add(a, b), S::add(c, d)))
        }
    }
}

/// Steps of one chunk of arithmetic: about a millisecond.
const STEPS: usize = 200_000;

/// A chunk of multiply-adds from registers; returns how many operations these were.
fn multiply_add(isa: Isa) -> f64 {
    if isa == Isa::Scalar {
        return plain_multiply_add();
    }
    isa.dispatch(MultiplyAdd)
}

fn plain_multiply_add() -> f64 {
    let (mut sums, by) = ([1.0f32; LANES], black_box(0.5f32));
    for _ in 0..STEPS {
        sums.iter_mut().for_each(|sum| *sum = *sum * by + by);
    }
    black_box(sums);
    (STEPS * LANES * 2) as f64
}

struct MultiplyAdd;

impl Kernel for MultiplyAdd {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f64 {
        // SAFETY: the caller promises the instruction set. As many chains as fit the registers: eight hide the
        // latency of two units; where a vector is two registers, five vectors are ten chains, and where it is four
        // out of 32, they are twenty.
        unsafe {
            match (S::TILE_PANELS, S::TILE_ROWS) {
                (4, _) => chains::<S, 12>(),
                (_, 5..) => chains::<S, 5>(),
                _ => chains::<S, 3>(),
            }
        }
    }
}

/// # Safety
/// The CPU has `S`.
#[inline(always)]
unsafe fn chains<S: Simd, const N: usize>() -> f64 {
    // SAFETY: the caller's promise.
    unsafe {
        let by = S::splat(black_box(0.5));
        let mut sums = [S::splat(black_box(1.0)); N];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = S::fma(*sum, by, by);
            }
        }
        black_box(sums.map(|sum| S::reduce_add(sum)));
    }
    (STEPS * N * LANES * 2) as f64
}

#[cfg(target_arch = "x86_64")]
fn bf16_rate(isa: Isa, pool: &Pool) -> Option<f64> {
    Some(match BfUnit::of(isa)? {
        BfUnit::Tiles => rate(pool, &|| amx::products_without_loads(STEPS, amx::Operand::Bf16)),
        BfUnit::Pairs => rate(pool, &|| isa.dispatch(MultiplyPairs)),
    })
}

/// As [`MultiplyAdd`], two bf16 a lane.
#[cfg(target_arch = "x86_64")]
struct MultiplyPairs;

#[cfg(target_arch = "x86_64")]
impl Kernel for MultiplyPairs {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f64 {
        // SAFETY: the caller promises the instruction set.
        unsafe {
            let by = S::splat(f32::from_bits(black_box(0x3f00_3f00)));
            let mut sums = [S::splat(black_box(1.0)); 12];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = S::add_bf16_pairs(*sum, by, by);
                }
            }
            black_box(sums.map(|sum| S::reduce_add(sum)));
        }
        (STEPS * 12 * LANES * 4) as f64
    }
}

#[cfg(target_arch = "x86_64")]
fn int8_rate(isa: Isa, pool: &Pool) -> Option<f64> {
    let there = isa == Isa::Amx && amx::has_int8();
    there.then(|| rate(pool, &|| amx::products_without_loads(STEPS, amx::Operand::Int8)))
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_rate(_isa: Isa, _pool: &Pool) -> Option<f64> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn int8_rate(_isa: Isa, _pool: &Pool) -> Option<f64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocelli_plan::DType;

    #[test]
    fn every_instruction_set_sums_the_same() {
        let values: Vec<f32> = (0..10 * ROUND).map(|i| (i % 7) as f32).collect();
        let want: f32 = values.iter().sum();
        for isa in Isa::available() {
            assert_eq!(sum(isa, &values), want, "{isa}");
        }
    }

    #[test]
    fn limits_are_plausible() {
        for isa in Isa::available() {
            let limits = CpuDevice::new(isa, DType::Bf16, 1).measure_limits();
            // Between a tenth of a slow core and ten times a quick one.
            assert!((1e8..1e12).contains(&limits.read_bytes_per_s), "{isa}: {limits:?}");
            assert!((1e8..1e13).contains(&limits.f32_flops), "{isa}: {limits:?}");
            if let Some(bf16) = limits.bf16_flops {
                // CPUs with AMX multiply pairs without it half as quick as f32.
                assert!(bf16 > limits.f32_flops / 4.0, "{isa}: {limits:?}");
            }
        }
    }
}
