//! How much memory a model takes and how much there is.

/// Bytes that answering will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Packed weights.
    pub weights: u64,
    /// Activations of the vision tower and of one prefill chunk.
    pub activations: u64,
    /// Keys and values of a prompt with one picture and 512 further tokens.
    pub cache: u64,
}

impl MemoryPlan {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.activations + self.cache
    }
}

/// Memory that programs may still take, where the system says so.
pub fn available_memory_bytes() -> Option<u64> {
    status_line("/proc/meminfo", "MemAvailable:")
}

/// Most memory that this process has had, where the system says so.
pub fn peak_rss_bytes() -> Option<u64> {
    status_line("/proc/self/status", "VmHWM:")
}

/// Forget the peak of [`peak_rss_bytes`], so that it tells what comes from now on; false where the system has no
/// such switch (Linux has: proc(5), clear_refs).
pub fn reset_peak_rss() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// A line `name  123 kB` of a file of /proc, in bytes.
fn status_line(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
