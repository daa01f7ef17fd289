//! AMX in software, so that tests of its kernels run on CPUs without it (feature `emulate-amx`).
//!
//! A CPU without an instruction raises a signal where it stands. The handler reads the instruction, does to tiles kept
//! in memory what it would have done, and goes on behind it (Intel Software Developer's Manual, volume 2, for encodings and
//! operations; volume 1, chapter 18, for what is an error). A thousand times slower than AMX, which no user would want.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use half::bf16;

/// Rows of a tile.
const ROWS: usize = 16;
/// Bytes of a tile's row.
const ROW_BYTES: usize = 64;
/// Bytes that `ldtilecfg` reads.
const CONFIG_BYTES: usize = 64;

#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    bytes_per_row: usize,
    data: [[u8; ROW_BYTES]; ROWS],
}

const NO_TILE: Tile = Tile { rows: 0, bytes_per_row: 0, data: [[0; ROW_BYTES]; ROWS] };

thread_local! {
    /// The tile registers of a thread; without a configuration they have no rows.
    static TILES: UnsafeCell<[Tile; 8]> = const { UnsafeCell::new([NO_TILE; 8]) };
}

/// From now on this process computes tile instructions.
pub(super) fn install() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // SAFETY: the action is valid: a handler with the signature that `SA_SIGINFO` asks for, and an empty mask.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction =
                on_illegal as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGILL, &action, ptr::null_mut()) == 0
        }
    })
}

extern "C" fn on_illegal(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands over the registers of the thread that was interrupted, at an instruction that it fetched.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let at = registers[libc::REG_RIP as usize] as *const u8;
        match Instruction::read(at, registers) {
            Some(instruction) => {
                TILES.with(|tiles| instruction.run(&mut *tiles.get()));
                registers[libc::REG_RIP as usize] += instruction.len as i64;
            }
            // Not one of ours: it happens again, and ends the process.
            None => {
                libc::signal(libc::SIGILL, libc::SIG_DFL);
            }
        }
    }
}

/// Tile registers and memory that an instruction names.
#[derive(Clone, Copy)]
enum Op {
    Configure { from: *const u8 },
    Release,
    Zero { tile: usize },
    Load { tile: usize, from: *const u8, stride: usize },
    Store { tile: usize, to: *mut u8, stride: usize },
    Bf16 { sums: usize, a: usize, b: usize },
    Int8 { sums: usize, a: usize, b: usize },
}

struct Instruction {
    op: Op,
    len: usize,
}

impl Instruction {
    /// The instruction at `at`, if it is one that our kernels use.
    ///
    /// # Safety
    /// An instruction is at `at`, whose addresses are computed from `registers`.
    unsafe fn read(at: *const u8, registers: &[i64; 23]) -> Option<Self> {
        // SAFETY: the caller's promise; bytes are read as far as those before say that there are some.
        unsafe {
            // A VEX prefix of three bytes for the opcode map 0F 38, 128 bits wide, W = 0.
            let (vex, map) = (*at, *at.add(1));
            if vex != 0xc4 || map & 0x1f != 2 {
                return None;
            }
            let prefix = *at.add(2);
            if prefix & 0x84 != 0 {
                return None;
            }
            let third = usize::from(!prefix >> 3 & 15);
            let (opcode, modrm) = (*at.add(3), *at.add(4));
            let (reg, rm) = (usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
            let registers_only = modrm >> 6 == 3;
            let place = || Place::read(at.add(4), !map, registers);
            // Of the mandatory prefix: 0 none, 1 is 66, 2 is F3, 3 is F2.
            let (op, len) = match (opcode, prefix & 3, registers_only) {
                (0x49, 0, false) => {
                    let place = place();
                    (Op::Configure { from: place.at }, 4 + place.len)
                }
                (0x49, 0, true) => (Op::Release, 5),
                (0x49, 3, true) => (Op::Zero { tile: reg }, 5),
                // With a hint about caches, or without.
                (0x4b, 1 | 3, false) => {
                    let place = place();
                    (Op::Load { tile: reg, from: place.at, stride: place.stride }, 4 + place.len)
                }
                (0x4b, 2, false) => {
                    let place = place();
                    (Op::Store { tile: reg, to: place.at.cast_mut(), stride: place.stride }, 4 + place.len)
                }
                (0x5c, 2, true) => (Op::Bf16 { sums: reg, a: rm, b: third }, 5),
                (0x5e, 3, true) => (Op::Int8 { sums: reg, a: rm, b: third }, 5),
                _ => return None,
            };
            Some(Self { op, len })
        }
    }

    /// # Safety
    /// The memory that the instruction names may be read or written.
    unsafe fn run(&self, tiles: &mut [Tile; 8]) {
        // SAFETY: the caller's promise, for each.
        unsafe {
            match self.op {
                Op::Configure { from } => configure(tiles, from),
                Op::Release => *tiles = [NO_TILE; 8],
                Op::Zero { tile } => {
                    let tile = configured(tiles, tile);
                    tile.data = NO_TILE.data;
                }
                Op::Load { tile, from, stride } => {
                    let tile = configured(tiles, tile);
                    tile.data = NO_TILE.data;
                    for row in 0..tile.rows {
                        let from = from.wrapping_add(row.wrapping_mul(stride));
                        ptr::copy_nonoverlapping(from, tile.data[row].as_mut_ptr(), tile.bytes_per_row);
                    }
                }
                Op::Store { tile, to, stride } => {
                    let tile = configured(tiles, tile);
                    for row in 0..tile.rows {
                        let to = to.wrapping_add(row.wrapping_mul(stride));
                        ptr::copy_nonoverlapping(tile.data[row].as_ptr(), to, tile.bytes_per_row);
                    }
                }
                Op::Bf16 { sums, a, b } => multiply(tiles, [sums, a, b], add_bf16),
                Op::Int8 { sums, a, b } => multiply(tiles, [sums, a, b], add_int8),
            }
        }
    }
}

/// An address, with the register that tile loads take as the distance of two rows.
struct Place {
    at: *const u8,
    stride: usize,
    /// Bytes of the encoding, `ModRM` and what follows.
    len: usize,
}

impl Place {
    /// The memory operand whose `ModRM` byte is at `at`; `extensions` has the bits X and B of the prefix, not inverted.
    ///
    /// # Safety
    /// As for [`Instruction::read`].
    unsafe fn read(at: *const u8, extensions: u8, registers: &[i64; 23]) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let (mode, rm) = (*at >> 6, *at & 7);
            let (mut len, mut base, mut stride) = (1, rm, 0);
            if rm == 4 {
                let sib = *at.add(1);
                len += 1;
                base = sib & 7;
                let index = sib >> 3 & 7 | (extensions & 0x40) >> 3;
                if index != 4 {
                    stride = (general(registers, index) as usize) << (sib >> 6);
                }
            }
            if mode == 0 && base == 5 {
                fail("an address without a base register");
            }
            let displacement = match mode {
                0 => 0,
                1 => i64::from(at.add(len).cast::<i8>().read()),
                _ => i64::from(at.add(len).cast::<i32>().read_unaligned()),
            };
            len += [0, 1, 4][usize::from(mode)];
            let base = general(registers, base | (extensions & 0x20) >> 2);
            Self { at: (base + displacement) as *const u8, stride, len }
        }
    }
}

/// The value of a general register by its number in instructions.
fn general(registers: &[i64; 23], number: u8) -> i64 {
    use libc::*;
    const ORDER: [c_int; 16] = [
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10,
        REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    ];
    registers[ORDER[usize::from(number)] as usize]
}

/// # Safety
/// A configuration is at `from`.
unsafe fn configure(tiles: &mut [Tile; 8], from: *const u8) {
    // SAFETY: the caller's promise.
    let config = unsafe { from.cast::<[u8; CONFIG_BYTES]>().read() };
    if config[0] != 1 || config[1..16].iter().any(|&b| b != 0) {
        fail("a configuration other than palette 1 from row 0 on");
    }
    for (i, tile) in tiles.iter_mut().enumerate() {
        let bytes_per_row = usize::from(u16::from_le_bytes([config[16 + 2 * i], config[17 + 2 * i]]));
        let rows = usize::from(config[48 + i]);
        if bytes_per_row > ROW_BYTES || rows > ROWS || (rows == 0) != (bytes_per_row == 0) {
            fail("a tile of an impossible shape");
        }
        *tile = Tile { rows, bytes_per_row, ..NO_TILE };
    }
}

fn configured(tiles: &mut [Tile; 8], tile: usize) -> &mut Tile {
    if tiles[tile].rows == 0 {
        fail("a tile that is not configured");
    }
    &mut tiles[tile]
}

/// `sums += a b`, where `add` adds the product of two words of four bytes to a third.
fn multiply(tiles: &mut [Tile; 8], [sums, a, b]: [usize; 3], add: fn(&mut [u8], &[u8], &[u8])) {
    let (left, right, mut out) = (tiles[a], tiles[b], *configured(tiles, sums));
    let fits = left.rows == out.rows
        && right.bytes_per_row == out.bytes_per_row
        && left.bytes_per_row == 4 * right.rows
        && sums != a
        && sums != b
        && a != b;
    if !fits {
        fail("a product of tiles that do not fit");
    }
    for row in 0..out.rows {
        for k in 0..right.rows {
            let word = &left.data[row][4 * k..4 * k + 4];
            for c in (0..out.bytes_per_row).step_by(4) {
                add(&mut out.data[row][c..c + 4], word, &right.data[k][c..c + 4]);
            }
        }
    }
    tiles[sums] = out;
}

/// Two products of bf16, added to f32 one after the other. The hardware's order of additions is another one.
fn add_bf16(sum: &mut [u8], a: &[u8], b: &[u8]) {
    let value = |v: &[u8], i: usize| flushed(bf16::from_le_bytes([v[2 * i], v[2 * i + 1]]).to_f32());
    let before = f32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]);
    let after = (0..2).fold(flushed(before), |s, i| flushed(value(a, i).mul_add(value(b, i), s)));
    sum.copy_from_slice(&after.to_le_bytes());
}

fn add_int8(sum: &mut [u8], a: &[u8], b: &[u8]) {
    let before = i32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]);
    let product = |(&a, &b): (&u8, &u8)| i32::from(a as i8) * i32::from(b as i8);
    let after = a.iter().zip(b).map(product).fold(before, i32::wrapping_add);
    sum.copy_from_slice(&after.to_le_bytes());
}

/// Zero in place of a denormal number, as AMX has it.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0 } else { x }
}

/// What AMX would raise an exception for, or what no kernel of ours does.
fn fail(what: &str) -> ! {
    eprintln!("emulated AMX: {what}");
    std::process::abort();
}
