//! What computes.

use ocelli_train::burn::tensor::Device;

/// A kind of device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceKind {
    /// The processor.
    #[default]
    Cpu,
    /// NVIDIA's, if the program was built with the feature `cuda`.
    Cuda,
    /// Any GPU, if the program was built with the feature `wgpu`.
    Wgpu,
}

impl DeviceKind {
    /// The first device of the kind.
    pub fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda => Ok(Device::cuda(0)),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda => {
                anyhow::bail!("built without CUDA: cargo build --release -p ocelli-train --features cuda")
            }
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Ok(Device::wgpu(ocelli_train::burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(not(feature = "wgpu"))]
            Self::Wgpu => {
                anyhow::bail!("built without wgpu: cargo build --release -p ocelli-train --features wgpu")
            }
        }
    }
}
