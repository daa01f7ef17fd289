//! The instructions of AMX's tiles. Tiles 0 to 3 hold the sums of a block of 32 by 32 outputs, four bytes each, the
//! others operands: sixteen rows or columns by 64 bytes of `k`.
//!
//! Rows pass through the first-level cache once while the columns stay there: rows are loaded with the hint that they are
//! not for it (`tileloaddt1`), or they would drive the columns out.
//!
//! Stable Rust has no intrinsics for tiles, so they are written as assembly (Intel Software Developer's
//! Manual, volume 1, chapter 18).

use std::arch::asm;

use super::block_walk::BLOCK;

/// Rows or columns of one tile.
pub(super) const TILE: usize = 16;

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
    /// Tiles of the left side get `rows` rows, those of the right side sixteen.
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

/// Sums of a block become zero, or what is in memory.
///
/// # Safety
/// Tiles are configured, a block is at `sums` if they are not `fresh`.
#[inline(always)]
pub(super) unsafe fn begin(fresh: bool, sums: *const f32) {
    // SAFETY: the caller's promise; the assembly uses the registers that it names.
    unsafe {
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
                c = in(reg) sums, d = in(reg) sums.add(TILE * BLOCK), s = in(reg) 4 * BLOCK,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(readonly, nostack, preserves_flags)
            );
        }
    }
}

/// Sums of a block to memory, rows `stride` values apart.
///
/// # Safety
/// Tiles are configured, at `to` is room for 32 values of each of 32 rows.
#[inline(always)]
pub(super) unsafe fn store(to: *mut f32, stride: usize) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tilestored [{c} + {s}*1], tmm0",
            "tilestored [{c} + {s}*1 + 64], tmm1",
            "tilestored [{d} + {s}*1], tmm2",
            "tilestored [{d} + {s}*1 + 64], tmm3",
            c = in(reg) to, d = in(reg) to.add(TILE * stride), s = in(reg) 4 * stride,
            options(nostack, preserves_flags)
        );
    }
}

/// What operand tiles hold.
#[derive(Clone, Copy)]
pub(crate) enum Operand {
    Bf16,
    Int8,
}

impl Operand {
    /// `k` of a tile.
    pub(super) fn depth(self) -> usize {
        match self {
            Self::Bf16 => 32,
            Self::Int8 => 64,
        }
    }
}

/// Add a quarter of the products of two tiles of rows, `stride` bytes apart, with two of columns to the sums: the product of
/// one with one. The first two quarters are those of the upper rows. They follow each other, and find in tiles what those
/// before have loaded.
///
/// # Safety
/// Tiles are configured, operands are at all four places.
#[inline(always)]
pub(super) unsafe fn multiply_quarter<const QUARTER: usize>(
    of: Operand,
    rows: [*const u8; 2],
    stride: usize,
    columns: [*const u8; 2],
) {
    macro_rules! products {
        ($dot:literal) => {
            match QUARTER {
                0 => asm!(
                    "tileloaddt1 tmm4, [{rows} + {s}*1]",
                    "tileloadd tmm6, [{columns} + {t}*1]",
                    concat!($dot, " tmm0, tmm4, tmm6"),
                    rows = in(reg) rows[0], columns = in(reg) columns[0], s = in(reg) stride, t = in(reg) 64usize,
                    out("tmm0") _, out("tmm4") _, out("tmm6") _, options(readonly, nostack, preserves_flags)
                ),
                1 => asm!(
                    "tileloadd tmm7, [{columns} + {t}*1]",
                    concat!($dot, " tmm1, tmm4, tmm7"),
                    columns = in(reg) columns[1], t = in(reg) 64usize,
                    out("tmm1") _, out("tmm7") _, options(readonly, nostack, preserves_flags)
                ),
                2 => asm!(
                    "tileloaddt1 tmm5, [{rows} + {s}*1]",
                    concat!($dot, " tmm2, tmm5, tmm6"),
                    rows = in(reg) rows[1], s = in(reg) stride,
                    out("tmm2") _, out("tmm5") _, options(readonly, nostack, preserves_flags)
                ),
                _ => asm!(
                    concat!($dot, " tmm3, tmm5, tmm7"),
                    out("tmm3") _, options(nomem, nostack, preserves_flags)
                ),
            }
        };
    }
    // SAFETY: as above.
    unsafe {
        match of {
            Operand::Bf16 => products!("tdpbf16ps"),
            Operand::Int8 => products!("tdpbssd"),
        }
    }
}
