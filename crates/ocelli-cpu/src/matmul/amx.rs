//! Whether there is AMX (Intel Advanced Matrix Extensions, Sapphire Rapids and later), and how quick it is. Linux gives
//! the tile registers to a process that asks for them.

use std::arch::asm;
use std::sync::OnceLock;

pub(crate) use super::amx_tiles::Operand;
use super::amx_tiles::{TILE, Tiles};

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

/// Whether this CPU multiplies tiles of 8-bit integers. Asked once: in a virtual machine the question costs as much as
/// a small product.
pub(crate) fn has_int8() -> bool {
    const INT8: u32 = 1 << 25;
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| match unit() {
        Unit::Nobody => false,
        Unit::Hardware => std::arch::x86_64::__cpuid_count(7, 0).edx & INT8 != 0,
        #[cfg(all(feature = "emulate-amx", target_os = "linux"))]
        Unit::Emulated => true,
    })
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
    (steps * 4 * TILE * TILE * operand.depth() * 2) as f64
}

#[cfg(all(test, feature = "emulate-amx", target_os = "linux"))]
mod tests {
    /// Or the kernels would pass their tests by being skipped.
    #[test]
    fn tiles_are_there_when_they_are_emulated() {
        assert_eq!(super::available(), is_x86_feature_detected!("avx512bf16"));
    }
}
