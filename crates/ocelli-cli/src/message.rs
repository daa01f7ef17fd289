//! How errors are told.

/// The error and its causes, each once: many of our messages already hold their cause.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    text
}

/// Whether whoever read our results has gone, as `head` does: nothing is left to be said.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Bytes as people write them.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, f64); 3] = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let found = UNITS.iter().find(|(_, unit)| bytes as f64 >= *unit);
    found.map_or_else(|| format!("{bytes} B"), |(name, unit)| format!("{:.1} {name}", bytes as f64 / unit))
}

/// Text of others without control characters, which could drive a terminal.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn each_cause_is_told_once() {
        let cause = std::io::Error::other("disk on fire");
        let error = anyhow::Error::new(cause).context("cannot read a.png: disk on fire");
        assert_eq!(message(&error), "cannot read a.png: disk on fire");
        let error = Err::<(), _>(error).context("loading").unwrap_err();
        assert_eq!(message(&error), "loading: cannot read a.png: disk on fire");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!([size(999), size(29_941), size(1_250_000_000)], ["999 B", "29.9 kB", "1.2 GB"]);
    }
}
