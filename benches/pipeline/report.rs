//! What is printed at the end: a table of ratios, which mean the same on any machine, and the numbers they are made of.

use std::{fmt, process::Command};

use triggerd::domain::clock::{Clock, SystemClock};

use crate::{
    harness::installed::{Server, path},
    ledger::{Arrivals, Ledger},
    load::{EVENT, WINDOW, Way},
};

/// What one load showed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) way: Way,
    pub(crate) events: f64,
    pub(crate) arrivals: Arrivals,
    /// CPU time per event of whoever calls the function, in microseconds.
    pub(crate) cpu_micros: f64,
    /// Transactions of the queue, the daemon's own probes among them.
    pub(crate) commits: f64,
    /// Deliveries parked.
    pub(crate) parked: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Arrivals { per_second, p50, p99 } = self.arrivals;
        write!(
            f,
            "{:8} {per_second:6.0}/s, CPU {:5.1} µs, p50 {p50:.0} µs, p99 {p99:.0} µs, {} commits, {} parked",
            self.way.name(),
            self.cpu_micros,
            self.commits,
            self.parked
        )
    }
}

impl Way {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Mqtt => "mqtt",
            Self::Webhook => "webhook",
        }
    }
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    events: usize,
    rounds: usize,
    full: Vec<Measured>,
    calm: Vec<Measured>,
    /// At the calm pace, beside a neighbour that hangs.
    beside: Vec<Measured>,
}

impl Report {
    pub(crate) fn new(events: usize, rounds: usize) -> Self {
        Self { events, rounds, full: Vec::new(), calm: Vec::new(), beside: Vec::new() }
    }

    /// A load at full speed; they come round by round.
    pub(crate) fn add(&mut self, measured: Measured) {
        self.full.push(measured);
    }

    /// A load at the calm pace.
    pub(crate) fn add_calm(&mut self, measured: Measured) {
        self.calm.push(measured);
    }

    /// A load at the calm pace beside a neighbour that hangs.
    pub(crate) fn add_beside(&mut self, measured: Measured) {
        self.beside.push(measured);
    }

    /// Prints the table, in Markdown.
    pub(crate) fn print(&self, ledger: &Ledger) {
        println!("\n{}", conditions());
        println!(
            "{} rounds of {} events of {EVENT} bytes, {WINDOW} at once; median (lowest to highest).\n",
            self.rounds, self.events
        );
        println!("| | bare loop | MQTT → function | webhook → function |\n|---|--:|--:|--:|");
        let speed = |one: &Measured| one.arrivals.per_second;
        let cpu = |one: &Measured| one.cpu_micros;
        self.row("events per second, of the bare loop's", |way| ratio(&self.ratios(way, speed)));
        self.row("CPU per event, of the bare loop's", |way| ratio(&self.ratios(way, cpu)));
        for (pace, measured) in [("at 1,000 a second", &self.calm), ("at full speed", &self.full)] {
            self.row(&format!("transactions of the queue per event, {pace}"), |way| {
                per_event(measured, way, |one| one.commits)
            });
            self.row(&format!("deliveries parked per event, {pace}"), |way| {
                per_event(measured, way, |one| one.parked)
            });
        }
        self.row("*events per second*", |way| absolute(&self.values(way, speed), ""));
        self.row("*CPU per event*", |way| absolute(&self.values(way, cpu), " µs"));
        for (title, pick) in
            [("p50", (|one| one.arrivals.p50) as fn(&Measured) -> f64), ("p99", |one| one.arrivals.p99)]
        {
            self.row(&format!("{title} beside a neighbour that hangs, of that without"), |way| {
                let of = |measured: &[Measured]| measured.iter().find(|one| one.way == way).map(pick);
                match (of(&self.beside), of(&self.calm)) {
                    (Some(beside), Some(calm)) => format!("{:.2}", beside / calm),
                    _ => "-".to_owned(),
                }
            });
        }
        for (title, pick) in
            [("p50", (|one| one.arrivals.p50) as fn(&Measured) -> f64), ("p99", |one| one.arrivals.p99)]
        {
            self.row(&format!("*{title}, sent to called, at full speed*"), |way| {
                absolute(&self.values(way, pick), " µs")
            });
            self.row(&format!("*{title}, at 1,000 a second*"), |way| {
                let calm: Vec<f64> = self.calm.iter().filter(|one| one.way == way).map(pick).collect();
                absolute(&calm, " µs")
            });
        }
        println!("\nlost: {}; function called again for the same event: {}", ledger.lost(), ledger.repeats());
    }

    fn row(&self, title: &str, cell: impl Fn(Way) -> String) {
        let cells = [Way::Bare, Way::Mqtt, Way::Webhook]
            .map(|way| if self.full.iter().any(|one| one.way == way) { cell(way) } else { "-".to_owned() });
        println!("| {title} | {} |", cells.join(" | "));
    }

    fn values(&self, way: Way, pick: impl Fn(&Measured) -> f64) -> Vec<f64> {
        self.full.iter().filter(|one| one.way == way).map(pick).collect()
    }

    /// To the bare loop of the same round.
    fn ratios(&self, way: Way, pick: impl Fn(&Measured) -> f64) -> Vec<f64> {
        let (values, bare) = (self.values(way, &pick), self.values(Way::Bare, &pick));
        values.iter().zip(bare).map(|(value, bare)| value / bare).collect()
    }
}

fn per_event(measured: &[Measured], way: Way, pick: impl Fn(&Measured) -> f64) -> String {
    if way == Way::Bare {
        return "-".to_owned();
    }
    let of_way = || measured.iter().filter(|one| one.way == way);
    let (total, events) = (of_way().map(pick).sum::<f64>(), of_way().map(|one| one.events).sum::<f64>());
    format!("{:.4} ({total} in {events})", total / events)
}

fn ratio(values: &[f64]) -> String {
    spread(values, |value| format!("{value:.2}"))
}

fn absolute(values: &[f64], unit: &str) -> String {
    format!("{}{unit}", spread(values, |value| format!("{value:.0}")))
}

fn spread(values: &[f64], show: impl Fn(f64) -> String) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => "-".to_owned(),
        [one] => show(*one),
        [low, .., high] => format!("{} ({} to {})", show(sorted[sorted.len() / 2]), show(*low), show(*high)),
    }
}

/// When and on what.
fn conditions() -> String {
    let now = SystemClock::new().now().to_string();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{}, triggerd {}, {}, {cores} cores, load average at the end {load}.",
        now.get(..10).unwrap_or_default(),
        env!("CARGO_PKG_VERSION"),
        mosquitto_version().unwrap_or_else(|| "Mosquitto of unknown version".into()),
    )
}

/// The first line of its help.
fn mosquitto_version() -> Option<String> {
    let output = Command::new(path(Server::Mosquitto, "mosquitto").ok()?).arg("-h").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().next()?.replace("mosquitto version", "Mosquitto").trim().to_owned())
}
