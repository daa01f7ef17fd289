//! Whether the machine does anything else while we measure, as far as Linux tells.

use std::time::{Duration, Instant};

/// The kernel averages the load with this time constant (proc(5), loadavg).
const MINUTE_S: f64 = 60.0;
/// Ticks in a second that /proc counts processor time in, on every Linux (`USER_HZ`).
const TICKS_PER_S: f64 = 100.0;
/// Shorter stretches have too few ticks to tell who was busy.
const LEAST: Duration = Duration::from_millis(200);

/// How busy others kept the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// The load average of the last minute, ourselves included.
    pub load1: Option<f64>,
    /// The same without our share, which is estimated from our processor time.
    pub load1_others: Option<f64>,
    /// Cores that others kept busy since the last reading.
    pub busy_others: Option<f64>,
}

impl Reading {
    /// Whether others took at most `limit` cores; nothing where the system does not tell.
    pub fn is_quiet(&self, limit: f64) -> Option<bool> {
        let load = self.load1_others?;
        Some(load <= limit && self.busy_others.unwrap_or(0.0) <= limit)
    }
}

/// What the counters say at one moment.
#[derive(Debug, Clone, Copy)]
struct Counters {
    at: Instant,
    load1: Option<f64>,
    /// Processor seconds of this process.
    own_s: Option<f64>,
    /// Processor seconds of the machine, idle ones left out; those that a hypervisor took are in it.
    busy_s: Option<f64>,
}

/// Follows the load from reading to reading.
pub struct LoadWatch {
    last: Counters,
    /// Our share of the load average.
    own_load: f64,
}

impl LoadWatch {
    /// Begin before there is any load of ours.
    pub fn new() -> Self {
        Self { last: counters(), own_load: 0.0 }
    }

    /// What the load is without us at the beginning.
    pub fn first(&self) -> Reading {
        Reading { load1: self.last.load1, load1_others: self.last.load1, busy_others: None }
    }

    /// Read the counters.
    pub fn read(&mut self) -> Reading {
        self.advance(counters())
    }

    fn advance(&mut self, now: Counters) -> Reading {
        let wall = now.at.duration_since(self.last.at);
        let wall_s = wall.as_secs_f64().max(1e-9);
        let own_s = now.own_s.zip(self.last.own_s).map(|(now, last)| now - last);
        let busy_s = now.busy_s.zip(self.last.busy_s).map(|(now, last)| now - last);
        if let Some(own_s) = own_s {
            let kept = (-wall_s / MINUTE_S).exp();
            self.own_load = self.own_load * kept + own_s / wall_s * (1.0 - kept);
        }
        self.last = now;
        let others = busy_s.zip(own_s).map(|(busy, own)| ((busy - own) / wall_s).max(0.0));
        Reading {
            load1: now.load1,
            load1_others: now.load1.map(|load| (load - self.own_load).max(0.0)),
            busy_others: others.filter(|_| wall >= LEAST),
        }
    }
}

fn counters() -> Counters {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    Counters {
        at: Instant::now(),
        load1: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
        own_s: read("/proc/self/stat").and_then(|text| own_seconds(&text)),
        busy_s: read("/proc/stat").and_then(|text| busy_seconds(&text)),
    }
}

/// Fields 14 and 15 of /proc/self/stat, user and system time. Field 2 is a name that may hold anything, in
/// brackets.
fn own_seconds(text: &str) -> Option<f64> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS_PER_S)
}

/// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
fn busy_seconds(text: &str) -> Option<f64> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line.split_whitespace().filter_map(|t| t.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|&at| ticks.get(at)).sum::<f64>();
    (ticks.len() >= 4).then_some(busy / TICKS_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: f64, load1: f64, own_s: f64, busy_s: f64) -> Counters {
        let at = start + Duration::from_secs_f64(seconds);
        Counters { at, load1: Some(load1), own_s: Some(own_s), busy_s: Some(busy_s) }
    }

    #[test]
    fn our_own_load_is_not_held_against_us() {
        let start = Instant::now();
        let mut watch = LoadWatch { last: at(start, 0.0, 0.0, 0.0, 0.0), own_load: 0.0 };
        // Two threads for a minute on an idle machine: the kernel's average is 2 (1 - 1/e).
        let load = 2.0 * (1.0 - (-1.0f64).exp());
        let reading = watch.advance(at(start, 60.0, load, 120.0, 120.0));
        assert!(reading.load1_others.expect("load") < 1e-9, "{reading:?}");
        assert_eq!((reading.busy_others, reading.is_quiet(0.5)), (Some(0.0), Some(true)));
        // Then we idle for a minute, and so does all else.
        let reading = watch.advance(at(start, 120.0, load * (-1.0f64).exp(), 120.0, 120.0));
        assert!(reading.load1_others.expect("load") < 1e-9, "{reading:?}");
    }

    #[test]
    fn others_are_seen_in_the_average_and_at_once() {
        let start = Instant::now();
        let mut watch = LoadWatch { last: at(start, 0.0, 1.5, 0.0, 0.0), own_load: 0.0 };
        assert_eq!(watch.first().is_quiet(0.5), Some(false));
        // One core of ours and one and a half of others for ten seconds.
        let reading = watch.advance(at(start, 10.0, 0.2, 10.0, 25.0));
        assert_eq!((reading.busy_others, reading.is_quiet(0.5)), (Some(1.5), Some(false)));
        assert_eq!(reading.is_quiet(1.5), Some(true));
        // Too short for ticks.
        assert_eq!(watch.advance(at(start, 10.1, 0.2, 10.0, 26.0)).busy_others, None);
    }

    #[test]
    fn a_system_that_tells_nothing_is_neither_quiet_nor_loud() {
        assert_eq!(Reading::default().is_quiet(0.5), None);
    }

    #[test]
    fn the_files_of_proc_are_read() {
        let stat = "7 (a ) b) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0";
        assert_eq!(own_seconds(stat), Some(2.0));
        assert_eq!(busy_seconds("cpu  100 10 90 5000 300 1 2 97 0 0\ncpu0 1 1 1 1\n"), Some(3.0));
        assert_eq!((own_seconds("nothing"), busy_seconds("intr 5")), (None, None));
        #[cfg(target_os = "linux")]
        assert!(counters().load1.is_some() && counters().own_s.is_some() && counters().busy_s.is_some());
    }
}
