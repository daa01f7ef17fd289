//! What vector instructions take beside those for AMX's tiles, for work on epilogues.
//!
//! ```text
//! cargo run --release -p ocelli-cpu --example beside_tiles
//! ```
//!
//! Prints the nanoseconds of 128 independent instructions of 512 bits alone, behind one product of tiles, and behind four:
//! the least of twenty rounds. An instruction that takes twice as long beside tiles has lost one of two ports.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use ocelli_cpu::Isa;
    if Isa::detect()? != Isa::Amx {
        println!("this CPU has no AMX");
        return Ok(());
    }
    // SAFETY: there is AMX, and with it AVX-512.
    unsafe { tiles::print_all() };
    Ok(())
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn main() {
    println!("AMX is on Linux on x86-64 only");
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles {
    use std::arch::asm;
    use std::time::Instant;

    const TIMES: usize = 20_000;

    /// Palette 1, eight tiles of sixteen rows by 64 bytes.
    #[repr(C, align(64))]
    struct TileConfig([u8; 64]);

    impl TileConfig {
        fn new() -> Self {
            let mut config = [0; 64];
            config[0] = 1;
            for tile in 0..8 {
                config[16 + 2 * tile] = 64;
                config[48 + tile] = 16;
            }
            Self(config)
        }
    }

    /// The least nanoseconds of `run` in twenty rounds.
    fn least(mut run: impl FnMut()) -> f64 {
        let rounds = (0..20).map(|_| {
            let begin = Instant::now();
            (0..TIMES).for_each(|_| run());
            begin.elapsed().as_secs_f64() * 1e9 / TIMES as f64
        });
        rounds.fold(f64::INFINITY, f64::min)
    }

    /// Assembly of some products of tiles and 128 times an instruction, on whatever registers hold.
    macro_rules! run {
        ($products:literal, $instruction:literal) => {
            // SAFETY: the caller's promise; tiles are configured; the assembly names its registers.
            least(|| unsafe {
                asm!(
                    concat!(".rept ", $products),
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    ".endr",
                    ".rept 16",
                    concat!($instruction, " zmm0, zmm8, zmm9"),
                    concat!($instruction, " zmm1, zmm8, zmm9"),
                    concat!($instruction, " zmm2, zmm8, zmm9"),
                    concat!($instruction, " zmm3, zmm8, zmm9"),
                    concat!($instruction, " zmm4, zmm8, zmm9"),
                    concat!($instruction, " zmm5, zmm8, zmm9"),
                    concat!($instruction, " zmm6, zmm8, zmm9"),
                    concat!($instruction, " zmm7, zmm8, zmm9"),
                    ".endr",
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                    out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                    out("zmm8") _, out("zmm9") _, out("tmm0") _,
                    options(nomem, nostack)
                );
            })
        };
    }

    macro_rules! print_times {
        ($($instruction:literal)*) => {
            $(
                let times = [run!("0", $instruction), run!("1", $instruction), run!("4", $instruction)];
                println!("{:16} {:8.1} {:8.1} {:8.1}", $instruction, times[0], times[1], times[2]);
            )*
        };
    }

    /// # Safety
    /// The CPU has AMX with bf16, and AVX-512 with its bf16 extension.
    pub(super) unsafe fn print_all() {
        let config = TileConfig::new();
        println!("{:16} {:>8} {:>8} {:>8}", "ns of 128", "alone", "1 tile", "4 tiles");
        // SAFETY: the configuration is valid for palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        print_times! {
            "vfmadd231ps" "vmulps" "vmaxps" "vaddps" "vpaddd" "vpandd" "vpermd" "vpermt2ps" "vcvtne2ps2bf16"
        }
        // SAFETY: tiles were configured on this thread.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}
