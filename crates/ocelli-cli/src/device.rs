//! Which device the arguments mean.

use ocelli::{AdapterChoice, DeviceChoice};
use serde_json::{Value, json};

use crate::args::Device;

/// A part of the name of the GPU to use, such as `intel`. Software that only emulates one has to be named.
pub const GPU_VARIABLE: &str = "OCELLI_GPU";

/// The device of the arguments.
pub fn choice(device: Device) -> DeviceChoice {
    match device {
        Device::Auto => DeviceChoice::Auto,
        Device::Cpu => DeviceChoice::Cpu,
        Device::Gpu => DeviceChoice::Gpu(match std::env::var(GPU_VARIABLE) {
            Ok(name) if !name.is_empty() => AdapterChoice::Named(name),
            _ => AdapterChoice::Hardware,
        }),
    }
}

/// Say why another device works than was asked for, if so.
pub fn tell(note: Option<&str>) {
    if let Some(note) = note {
        eprintln!("note: {note}");
    }
}

/// Every adapter of this machine, for `doctor`.
pub fn adapters() -> Value {
    let adapters = ocelli::adapters().into_iter().map(|adapter| {
        json!({
            "name": adapter.name,
            "backend": adapter.backend,
            "kind": adapter.kind,
            "driver": adapter.driver,
            "f16": adapter.f16,
            "subgroups": adapter.subgroups,
            "max_binding_bytes": adapter.max_binding_bytes,
        })
    });
    adapters.collect()
}
