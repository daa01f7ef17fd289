//! Which device the arguments mean.

use ocelli::{AdapterChoice, AdapterSummary, DeviceChoice};
use serde_json::{Value, json};

use crate::args::Device;
use crate::message::size;

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

/// What is known of a GPU, for `doctor --json`.
pub fn fields(gpu: &AdapterSummary) -> Value {
    json!({
        "name": gpu.name,
        "backend": gpu.backend,
        "kind": gpu.kind,
        "driver": gpu.driver,
        "f16": gpu.f16,
        "subgroups": gpu.subgroups,
        "subgroup_sizes": gpu.subgroup_sizes,
        "dot": gpu.dot,
        "max_binding_bytes": gpu.max_binding_bytes,
        "max_buffer_bytes": gpu.max_buffer_bytes,
    })
}

/// The same in a line.
pub fn line(gpu: &AdapterSummary) -> String {
    let kind = match gpu.kind {
        "software" => "no GPU, but software that emulates one",
        "other" => "of unknown kind",
        kind => kind,
    };
    let has = |has: bool, what: &str| format!("{}{what}", if has { "" } else { "no " });
    let [least, most] = gpu.subgroup_sizes;
    let subgroups = match (gpu.subgroups, least == most) {
        (false, _) => "no subgroups".to_owned(),
        (true, true) => format!("subgroups of {least}"),
        (true, false) => format!("subgroups of {least} to {most}"),
    };
    let memory =
        format!("buffers of {}, {} bound at once", size(gpu.max_buffer_bytes), size(gpu.max_binding_bytes));
    let parts = [
        gpu.backend.clone(),
        kind.to_owned(),
        gpu.driver.clone(),
        memory,
        has(gpu.f16, "f16"),
        subgroups,
        has(gpu.dot, "8-bit dot products"),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{}: {}", gpu.name, parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_a_gpu_has_and_lacks() {
        let gpu = AdapterSummary {
            name: "Big (TM) One, rev 2".into(),
            backend: "vulkan".into(),
            kind: "discrete",
            driver: String::new(),
            f16: true,
            subgroups: true,
            subgroup_sizes: [32, 64],
            dot: false,
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 1 << 30,
        };
        let text = line(&gpu);
        assert!(text.starts_with("Big (TM) One, rev 2: vulkan; discrete; buffers of "), "{text}");
        assert!(text.ends_with("; f16; subgroups of 32 to 64; no 8-bit dot products"), "{text}");
        let text = line(&AdapterSummary { subgroups: false, f16: false, ..gpu });
        assert!(text.contains("; no f16; no subgroups; "), "{text}");
    }
}
