//! Which instruction set the kernels use, chosen once at run time.

use std::fmt;

/// Environment variable that forces an instruction set: `scalar`, `avx2`, `avx512`, `avx512bf16`, `amx`, `neon`
/// or `wasm`.
pub const ISA_VARIABLE: &str = "OCELLI_ISA";

/// Whether the reference is a part of this build. A page has the kernels alone, and loads 12 kB less.
pub(crate) const HAS_REFERENCE: bool =
    !cfg!(all(target_family = "wasm", target_os = "unknown", target_feature = "simd128"));

/// An instruction set that this CPU is known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// The scalar reference implementations: slow, the specification of every op.
    Scalar,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512, and its bf16 extension for products with bf16 matrices.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512 with the bf16 extension, and AMX for products with bf16 matrices. Linux only.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// NEON, which every 64-bit Arm CPU has.
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon,
    /// simd128 of WebAssembly, in modules compiled with it: an engine refuses a module that it cannot run.
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Wasm,
}

/// [`ISA_VARIABLE`] or a name asks for what cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// Not a name that is known.
    #[error("unknown instruction set `{0}`: use one of scalar, avx2, avx512, avx512bf16, amx, neon, wasm")]
    Unknown(String),
    /// Known, but this CPU or this build lacks it.
    #[error("this machine cannot run `{asked}` kernels; it has: {}", available.join(", "))]
    Unavailable {
        /// The name that was asked for.
        asked: String,
        /// Names that would work.
        available: Vec<&'static str>,
    },
}

impl Isa {
    /// All that this CPU has, the slowest first.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut found = if HAS_REFERENCE { vec![Isa::Scalar] } else { Vec::new() };
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Isa::Avx2);
                let avx512 = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq");
                if avx512 {
                    found.push(Isa::Avx512);
                    if is_x86_feature_detected!("avx512bf16") {
                        found.push(Isa::Avx512Bf16);
                    }
                    if crate::matmul::amx::available() {
                        found.push(Isa::Amx);
                    }
                }
            }
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Isa::Neon);
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        found.push(Isa::Wasm);
        found
    }

    /// The instruction set that [`ISA_VARIABLE`] names, or the best that this CPU has.
    ///
    /// # Errors
    /// When the variable names one that is unknown or that this CPU lacks.
    pub fn detect() -> Result<Isa, IsaError> {
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => Self::from_name(&name),
            _ => Ok(*Self::available().last().unwrap_or(&Isa::Scalar)),
        }
    }

    /// The instruction set of this name.
    ///
    /// # Errors
    /// When the name is unknown or this CPU lacks it.
    pub fn from_name(name: &str) -> Result<Isa, IsaError> {
        const KNOWN: [&str; 7] = ["scalar", "avx2", "avx512", "avx512bf16", "amx", "neon", "wasm"];
        let available = Self::available();
        if let Some(&isa) = available.iter().find(|isa| isa.name() == name) {
            return Ok(isa);
        }
        if KNOWN.contains(&name) {
            let available = available.iter().map(|isa| isa.name()).collect();
            return Err(IsaError::Unavailable { asked: name.to_owned(), available });
        }
        Err(IsaError::Unknown(name.to_owned()))
    }

    /// The name that [`ISA_VARIABLE`] and the reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => "amx",
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon => "neon",
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Wasm => "wasm",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
