//! Tiles of 8-bit codes on AMX. As in [`super::amx`] tiles 0 to 3 hold the sums of a block of 32 by 32 outputs and the
//! others operands, of which one holds 64 `k`.

use std::arch::asm;

use super::amx::Tiles;
use super::int8::BLOCK;

/// Rows or columns of one tile.
const TILE: usize = 16;

/// Tiles of sixteen rows while the value lives.
///
/// # Safety
/// The CPU has AMX.
#[inline(always)]
pub(super) unsafe fn configure() -> Tiles {
    // SAFETY: the caller's promise.
    unsafe { Tiles::configure(TILE) }
}

/// Sums of a block become zero.
///
/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(super) unsafe fn clear() {
    // SAFETY: the caller's promise; the assembly uses the registers that it names.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Sums of a block from memory.
///
/// # Safety
/// Tiles are configured, a block is at `sums`.
#[inline(always)]
pub(super) unsafe fn load(sums: *const i32) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c} + {s}*1]",
            "tileloadd tmm1, [{c} + {s}*1 + 64]",
            "tileloadd tmm2, [{d} + {s}*1]",
            "tileloadd tmm3, [{d} + {s}*1 + 64]",
            c = in(reg) sums, d = in(reg) sums.add(TILE * BLOCK), s = in(reg) 4 * BLOCK,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Sums of a block to memory.
///
/// # Safety
/// Tiles are configured, `sums` has room for a block.
#[inline(always)]
pub(super) unsafe fn store(sums: *mut i32) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tilestored [{c} + {s}*1], tmm0",
            "tilestored [{c} + {s}*1 + 64], tmm1",
            "tilestored [{d} + {s}*1], tmm2",
            "tilestored [{d} + {s}*1 + 64], tmm3",
            c = in(reg) sums, d = in(reg) sums.add(TILE * BLOCK), s = in(reg) 4 * BLOCK,
            options(nostack, preserves_flags)
        );
    }
}

/// Add the products of two tiles of rows with two of columns to the sums.
///
/// # Safety
/// Tiles are configured, operands are at all four places.
#[inline(always)]
pub(super) unsafe fn multiply(upper: *const i8, lower: *const i8, stride: usize, b0: *const i8, b1: *const i8) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tileloadd tmm4, [{upper} + {s}*1]",
            "tileloadd tmm6, [{b0} + {t}*1]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {t}*1]",
            "tdpbssd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {s}*1]",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            upper = in(reg) upper, lower = in(reg) lower, b0 = in(reg) b0, b1 = in(reg) b1,
            s = in(reg) stride, t = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}
