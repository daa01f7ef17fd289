//! Whether a run fits into memory.

use anyhow::bail;
use ocelli_train::estimate::Estimate;

use crate::arguments::RunArguments;
use crate::device::DeviceKind;

/// Say how much memory a run takes, and refuse one that does not fit; `remedy` is what its recipe may change. Returns
/// whether the run is to start.
pub fn tell_memory(estimate: &Estimate, arguments: &RunArguments, remedy: &str) -> anyhow::Result<bool> {
    let gb = |bytes: u64| bytes as f64 / 1e9;
    eprintln!(
        "memory: about {:.2} GB ({:.2} weights, {:.2} gradients and optimizer, {:.2} activations, {:.2} pictures)",
        gb(estimate.total()),
        gb(estimate.weights),
        gb(estimate.optimizer),
        gb(estimate.activations),
        gb(estimate.samples)
    );
    if arguments.estimate {
        if arguments.json {
            println!("{}", serde_json::json!({"estimated_bytes": estimate.total()}));
        }
        return Ok(false);
    }
    // What other devices have is not known here.
    let available = available_bytes().filter(|_| arguments.device == DeviceKind::Cpu);
    match available.filter(|&available| estimate.total() > available && !arguments.force) {
        Some(available) => {
            bail!("{:.2} GB are free: {remedy}; --force starts all the same", gb(available))
        }
        None => Ok(true),
    }
}

/// Memory that a new program can have, where the system tells.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
