//! What is measured on: processor, power source, clock, temperature.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::report::processor;

/// Facts that do not change while we measure, with the names that records use.
pub fn facts() -> Map<String, Value> {
    let (cpu, features) = processor();
    let sys = Path::new("/sys");
    let facts = [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("commit", json!(commit())),
        ("system", json!(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))),
        ("cpu", json!(cpu)),
        ("features", json!(features)),
        ("cores", json!(ocelli::available_threads())),
        ("power", json!(power_source(sys))),
        ("governor", json!(governor(sys))),
        // The pool's threads set it while they compute.
        ("flush_to_zero", json!(cfg!(target_arch = "x86_64"))),
    ];
    let known = facts.into_iter().filter(|(_, value)| !value.is_null());
    known.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The commit that this program was built from.
pub fn commit() -> Option<&'static str> {
    option_env!("OCELLI_BUILT_FROM")
}

/// `mains`, or `battery` with its charge; nothing where the system shows no supply, as servers do not.
fn power_source(sys: &Path) -> Option<String> {
    let supplies = std::fs::read_dir(sys.join("class/power_supply")).ok()?.flatten();
    let mut battery = None;
    for supply in supplies {
        let read = |name: &str| read(&supply.path().join(name));
        match read("type").unwrap_or_default().as_str() {
            "Battery" => {
                let charge = read("capacity").map(|percent| format!(" at {percent} %")).unwrap_or_default();
                let status = read("status").unwrap_or_default();
                battery = Some((status, charge));
            }
            _ if read("online").as_deref() == Some("1") => return Some("mains".to_owned()),
            _ => {}
        }
    }
    let (status, charge) = battery?;
    // A battery that is not drained hangs on a supply that does not show itself.
    let drained = status == "Discharging" || status.is_empty();
    Some(if drained { format!("battery{charge}") } else { "mains".to_owned() })
}

fn governor(sys: &Path) -> Option<String> {
    read(&sys.join("devices/system/cpu/cpu0/cpufreq/scaling_governor"))
}

/// Mean clock of all cores now, in MHz.
pub fn clock_mhz() -> Option<f64> {
    let cores = std::fs::read_dir("/sys/devices/system/cpu").ok()?.flatten();
    let mhz = |khz: String| Some(khz.parse::<f64>().ok()? / 1e3);
    let clocks = cores.filter_map(|core| read(&core.path().join("cpufreq/scaling_cur_freq")));
    let clocks: Vec<f64> = clocks.filter_map(mhz).collect();
    mean(&clocks).or_else(|| {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        let lines = text.lines().filter_map(|line| line.strip_prefix("cpu MHz")?.split_once(':'));
        mean(&lines.filter_map(|(_, value)| value.trim().parse().ok()).collect::<Vec<f64>>())
    })
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The hottest sensor of the processor now, in degrees Celsius.
pub fn temperature_c() -> Option<f64> {
    hottest(Path::new("/sys"))
}

fn hottest(sys: &Path) -> Option<f64> {
    let milli = |path: &Path| Some(read(path)?.parse::<f64>().ok()? / 1e3);
    let entries = |path: &Path| std::fs::read_dir(path).ok().into_iter().flatten().flatten();
    let mut found = Vec::new();
    for zone in entries(&sys.join("class/thermal")) {
        let kind = read(&zone.path().join("type")).unwrap_or_default().to_ascii_lowercase();
        if ["pkg", "cpu", "soc"].iter().any(|word| kind.contains(word)) {
            found.extend(milli(&zone.path().join("temp")));
        }
    }
    for monitor in entries(&sys.join("class/hwmon")) {
        let name = read(&monitor.path().join("name")).unwrap_or_default();
        if ["coretemp", "k10temp", "zenpower", "cpu_thermal"].contains(&name.as_str()) {
            let inputs = entries(&monitor.path()).map(|input| input.path());
            let is_input =
                |path: &Path| path.file_name().is_some_and(|n| n.to_string_lossy().ends_with("_input"));
            found.extend(inputs.filter(|path| is_input(path)).filter_map(|path| milli(&path)));
        }
    }
    found.into_iter().max_by(f64::total_cmp)
}

fn read(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like /sys.
    fn sys(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("folder");
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            std::fs::write(path, format!("{text}\n")).expect("file");
        }
        dir
    }

    #[test]
    fn power_is_told_as_the_system_shows_it() {
        let battery = [
            ("class/power_supply/BAT0/type", "Battery"),
            ("class/power_supply/BAT0/status", "Discharging"),
            ("class/power_supply/BAT0/capacity", "61"),
        ];
        assert_eq!(power_source(sys(&battery).path()).as_deref(), Some("battery at 61 %"));
        let mut plugged = battery.to_vec();
        plugged.extend([("class/power_supply/AC/type", "Mains"), ("class/power_supply/AC/online", "1")]);
        assert_eq!(power_source(sys(&plugged).path()).as_deref(), Some("mains"));
        plugged.pop();
        plugged.push(("class/power_supply/AC/online", "0"));
        assert_eq!(power_source(sys(&plugged).path()).as_deref(), Some("battery at 61 %"));
        assert_eq!(power_source(sys(&[]).path()), None);
    }

    #[test]
    fn the_hottest_sensor_of_the_processor_counts() {
        let files = [
            ("class/thermal/thermal_zone0/type", "x86_pkg_temp"),
            ("class/thermal/thermal_zone0/temp", "61500"),
            ("class/thermal/thermal_zone1/type", "wifi"),
            ("class/thermal/thermal_zone1/temp", "90000"),
            ("class/hwmon/hwmon0/name", "coretemp"),
            ("class/hwmon/hwmon0/temp1_input", "63000"),
            ("class/hwmon/hwmon0/temp1_max", "100000"),
        ];
        assert_eq!(hottest(sys(&files).path()), Some(63.0));
        assert_eq!(hottest(sys(&[]).path()), None);
        assert_eq!(governor(sys(&[]).path()), None);
    }
}
