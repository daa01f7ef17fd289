//! Products with bf16 matrices on AMX (Intel Advanced Matrix Extensions, Sapphire Rapids and later).
//!
//! Tiles 0 to 3 hold sums, the others operands. A packed panel is a run of operand tiles as it is:
//! sixteen columns by 32 `k`, pairs of `k` interleaved.
//!
//! Stable Rust has no intrinsics for tiles, so they are written as assembly (Intel Software Developer's
//! Manual, volume 1, chapter 18). Linux gives the tile registers to a process that asks for them.

use std::arch::asm;
use std::sync::OnceLock;

use half::bf16;

use super::bf16_rows::{BfRows, TILE_K};
use super::epilogue::{Epilogue, Outputs};
use super::tile::Columns;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};

/// Rows or columns of one tile.
const TILE: usize = 16;
/// Values of the next panels that are asked for at each operand tile: few enough that the tiles' own loads do not wait.
const AHEAD: usize = 4 * TILE_K;
/// `k` that goes through two panels before the next rows do: these stay in the first-level cache.
const K_BLOCK: usize = 512;

/// Who computes tile instructions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Nobody,
    Hardware,
    /// Tests, with the feature `emulate-amx`.
    #[cfg(all(feature = "emulate-amx", target_os = "linux"))]
    Emulated,
}

/// Whether this CPU and this kernel let us use AMX with bf16.
pub(crate) fn available() -> bool {
    unit() != Unit::Nobody
}

fn unit() -> Unit {
    static FOUND: OnceLock<Unit> = OnceLock::new();
    *FOUND.get_or_init(|| {
        if !is_x86_feature_detected!("avx512bf16") {
            return Unit::Nobody;
        }
        if has_amx_bf16() && has_tile_state() && ask_for_tiles() {
            return Unit::Hardware;
        }
        #[cfg(all(feature = "emulate-amx", target_os = "linux"))]
        if super::amx_emulated::install() {
            return Unit::Emulated;
        }
        Unit::Nobody
    })
}

fn has_amx_bf16() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    __cpuid_count(7, 0).edx & BF16_AND_TILE == BF16_AND_TILE
}

/// Whether the operating system saves tile registers.
fn has_tile_state() -> bool {
    const TILE_CONFIG_AND_DATA: u32 = 1 << 17 | 1 << 18;
    let low: u32;
    // SAFETY: OSXSAVE has been checked, so the instruction exists; register 0 always does.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack)) };
    low & TILE_CONFIG_AND_DATA == TILE_CONFIG_AND_DATA
}

#[cfg(target_os = "linux")]
fn ask_for_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call changes nothing but this process' permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_tiles() -> bool {
    false
}

/// The tile configuration of this thread while it lives.
pub(super) struct Tiles;

#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Operand and sum tiles of the left side get `rows` rows, those of the right side sixteen.
    ///
    /// # Safety
    /// AMX is [`available`].
    pub(super) unsafe fn configure(rows: usize) -> Self {
        let mut config =
            TileConfig { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row: [0; 16], rows: [0; 16] };
        config.bytes_per_row[..8].fill(64);
        config.rows[..8].fill(TILE as u8);
        if rows < TILE {
            // The narrow kernel: sums in 0 to 3, left operand in 4.
            config.rows[..5].fill(rows as u8);
        }
        // SAFETY: the configuration is valid for palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Self
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: tiles were configured on this thread.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// The product of all rows with some panels, two at a time; a last one alone is computed twice.
///
/// To run it, rows and panels must be readable, the epilogue may write its outputs, and AMX is [`available`].
pub(super) struct Product<'a, E> {
    pub(super) a: BfRows,
    pub(super) b: Columns<bf16>,
    pub(super) outputs: Outputs<'a, E>,
}

impl<E: Epilogue> Kernel for Product<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { a, b, outputs } = self;
        // SAFETY: the caller's promise.
        unsafe {
            let _tiles = Tiles::configure(a.rows);
            if a.rows <= TILE {
                narrow::<S, E>(a, b, &outputs);
            } else {
                wide::<S, E>(a, b, &outputs);
            }
        }
    }
}

/// More than sixteen rows: blocks of two by two tiles.
#[inline(always)]
unsafe fn wide<S: Simd, E: Epilogue>(a: BfRows, b: Columns<bf16>, outputs: &Outputs<E>) {
    const BLOCK: usize = 2 * TILE;
    let blocks = a.rows.div_ceil(BLOCK);
    // Values from one operand tile of a panel to the next.
    let operand = TILE_K * b.k_stride;
    let mut memory = Scratch::take(blocks * BLOCK * BLOCK);
    let sums = memory.as_mut_ptr();
    let (mut panel, end) = (outputs.panels.start, outputs.panels.end);
    while panel < end {
        let count = 2.min(end - panel);
        // SAFETY: the tiles read whole blocks, for which rows are padded; `sums` holds all blocks.
        unsafe {
            let b0 = b.at.add((panel - b.first) * b.panel_stride);
            let b1 = b.at.add((panel + count - 1 - b.first) * b.panel_stride);
            // The panels after these, wherever they are.
            let next = b0.wrapping_add(2 * b.panel_stride);
            for first in (0..a.steps).step_by(K_BLOCK / TILE_K) {
                let steps = (K_BLOCK / TILE_K).min(a.steps - first);
                let last = first + steps == a.steps;
                for block in 0..blocks {
                    let row = block * BLOCK;
                    let to = sums.add(if a.steps == steps { 0 } else { block * BLOCK * BLOCK });
                    let left = a.at.add(row * a.stride + first * TILE_K);
                    let (b0, b1) = (b0.add(first * operand), b1.add(first * operand));
                    let done = AHEAD * (first * blocks + block * steps);
                    let ahead = next.wrapping_add(done);
                    if last {
                        outputs.ask::<S>(row, BLOCK.min(a.rows - row), panel, count);
                    }
                    two_by_two(left, a.stride, [b0, b1], operand, ahead, steps, to, first == 0);
                    if last {
                        let rows = BLOCK.min(a.rows - row);
                        finish::<S, E>(to, rows, count, outputs, row, panel);
                    }
                }
            }
        }
        panel += count;
    }
}

/// At most sixteen rows: one tile of rows by two panels, each with two sums that take turns in `k`.
#[inline(always)]
unsafe fn narrow<S: Simd, E: Epilogue>(a: BfRows, b: Columns<bf16>, outputs: &Outputs<E>) {
    let mut memory = Scratch::take(TILE * 2 * TILE);
    let sums = memory.as_mut_ptr();
    let (mut panel, end) = (outputs.panels.start, outputs.panels.end);
    while panel < end {
        let count = 2.min(end - panel);
        // SAFETY: as in `wide`, with one tile of rows.
        unsafe {
            let b0 = b.at.add((panel - b.first) * b.panel_stride);
            let b1 = b.at.add((panel + count - 1 - b.first) * b.panel_stride);
            one_by_two(a.at, a.stride, [b0, b1], TILE_K * b.k_stride, a.steps, sums);
            finish::<S, E>(sums, a.rows, count, outputs, 0, panel);
        }
        panel += count;
    }
}

/// `sums[32][32] (+)= a[32][32 * steps] b`, with `b` in two panels, while [`AHEAD`] values a step are asked for from
/// `ahead` on, which may point anywhere.
///
/// # Safety
/// All operands are readable for `steps > 0` tiles, tiles are configured with sixteen rows.
#[inline(always)]
unsafe fn two_by_two(
    a: *const bf16,
    stride: usize,
    b: [*const bf16; 2],
    operand: usize,
    ahead: *const bf16,
    steps: usize,
    sums: *mut f32,
    fresh: bool,
) {
    // SAFETY: the caller's promise; the assembly uses the registers that it names.
    unsafe {
        let lower = a.add(TILE * stride);
        let low_sums = sums.add(TILE * 2 * TILE);
        if fresh {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nomem, nostack, preserves_flags)
            );
        } else {
            asm!(
                "tileloadd tmm0, [{c} + {s}*1]",
                "tileloadd tmm1, [{c} + {s}*1 + 64]",
                "tileloadd tmm2, [{d} + {s}*1]",
                "tileloadd tmm3, [{d} + {s}*1 + 64]",
                c = in(reg) sums, d = in(reg) low_sums, s = in(reg) 128usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(readonly, nostack, preserves_flags)
            );
        }
        asm!(
            "2:",
            "tileloadd tmm4, [{a} + {s}*1]",
            "tileloadd tmm6, [{b0} + {t}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {t}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {s}*1]",
            "prefetcht1 [{p}]",
            "prefetcht1 [{p} + 64]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "prefetcht1 [{p} + 128]",
            "prefetcht1 [{p} + 192]",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {p}, 256",
            "add {a}, 64",
            "add {lower}, 64",
            "add {b0}, {o}",
            "add {b1}, {o}",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {u}*1], tmm0",
            "tilestored [{c} + {u}*1 + 64], tmm1",
            "tilestored [{d} + {u}*1], tmm2",
            "tilestored [{d} + {u}*1 + 64], tmm3",
            a = inout(reg) a => _, lower = inout(reg) lower => _,
            b0 = inout(reg) b[0] => _, b1 = inout(reg) b[1] => _, n = inout(reg) steps => _,
            o = in(reg) 2 * operand,
            s = in(reg) 2 * stride, t = in(reg) 64usize, u = in(reg) 128usize,
            c = in(reg) sums, d = in(reg) low_sums, p = inout(reg) ahead => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// `sums[rows][32] = a[rows][32 * steps] b`, with `b` in two panels.
///
/// # Safety
/// As for [`two_by_two`], with tiles configured for the rows.
#[inline(always)]
unsafe fn one_by_two(
    a: *const bf16,
    stride: usize,
    b: [*const bf16; 2],
    operand: usize,
    steps: usize,
    sums: *mut f32,
) {
    // SAFETY: the caller's promise; the assembly uses the registers that it names.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{a} + {s}*1]",
            "tileloadd tmm6, [{b0} + {t}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {t}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 64",
            "add {b0}, {o}",
            "add {b1}, {o}",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {u}*1], tmm0",
            "tilestored [{c} + {u}*1 + 64], tmm1",
            a = inout(reg) a => _, b0 = inout(reg) b[0] => _, b1 = inout(reg) b[1] => _,
            o = in(reg) 2 * operand,
            n = inout(reg) steps => _,
            s = in(reg) 2 * stride, t = in(reg) 64usize, u = in(reg) 128usize, c = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// Hand `rows` rows of sums `[rows][32]`, of which `panels` panels count, to the epilogue.
#[inline(always)]
unsafe fn finish<S: Simd, E: Epilogue>(
    sums: *const f32,
    rows: usize,
    panels: usize,
    outputs: &Outputs<E>,
    row: usize,
    panel: usize,
) {
    let mut r = 0;
    while r < rows {
        // SAFETY: the rows and columns were computed; the caller promises the outputs.
        r += unsafe {
            let at = sums.add(r * 2 * TILE);
            match (panels, rows - r) {
                (2, 8..) => finish_rows::<S, E, 8, 2>(at, outputs, row + r, panel),
                (2, _) => finish_rows::<S, E, 1, 2>(at, outputs, row + r, panel),
                _ => finish_rows::<S, E, 1, 1>(at, outputs, row + r, panel),
            }
        };
    }
}

#[inline(always)]
unsafe fn finish_rows<S: Simd, E: Epilogue, const MR: usize, const NP: usize>(
    sums: *const f32,
    outputs: &Outputs<E>,
    row: usize,
    panel: usize,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut values = [[S::zero(); NP]; MR];
        for i in 0..MR {
            for p in 0..NP {
                values[i][p] = S::load(sums.add(i * 2 * TILE + p * LANES));
            }
        }
        outputs.take::<S, MR, NP>(row, panel, &values);
    }
    MR
}

/// What tiles hold when their speed is measured.
#[derive(Clone, Copy)]
pub(crate) enum Operand {
    Bf16,
    Int8,
}

/// Whether this CPU multiplies tiles of 8-bit integers.
pub(crate) fn has_int8() -> bool {
    const INT8: u32 = 1 << 25;
    match unit() {
        Unit::Nobody => false,
        Unit::Hardware => std::arch::x86_64::__cpuid_count(7, 0).edx & INT8 != 0,
        #[cfg(all(feature = "emulate-amx", target_os = "linux"))]
        Unit::Emulated => true,
    }
}

/// Multiply tiles `4 * steps` times without loading any; returns how many operations these were.
///
/// # Panics
/// When this CPU has no tiles of this kind.
pub(crate) fn products_without_loads(steps: usize, operand: Operand) -> f64 {
    assert!(available() && (matches!(operand, Operand::Bf16) || has_int8()), "tiles are missing");
    // Four products at a time hide the latency; a step is 16 cycles of each, so fewer steps are enough.
    let steps = (steps / 16).max(1);
    // SAFETY: AMX is available; the assembly uses the registers that it names.
    unsafe {
        let _tiles = Tiles::configure(TILE);
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nomem, nostack, preserves_flags)
        );
        match operand {
            Operand::Bf16 => asm!(
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {n}",
                "jnz 2b",
                n = inout(reg) steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nomem, nostack)
            ),
            Operand::Int8 => asm!(
                "2:",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                "dec {n}",
                "jnz 2b",
                n = inout(reg) steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nomem, nostack)
            ),
        }
    }
    let depth = match operand {
        Operand::Bf16 => TILE_K,
        Operand::Int8 => 2 * TILE_K,
    };
    (steps * 4 * TILE * TILE * depth * 2) as f64
}

#[cfg(all(test, feature = "emulate-amx", target_os = "linux"))]
mod tests {
    /// Or the kernels would pass their tests by being skipped.
    #[test]
    fn tiles_are_there_when_they_are_emulated() {
        assert_eq!(super::available(), is_x86_feature_detected!("avx512bf16"));
    }
}
