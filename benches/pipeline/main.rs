//! How much slower is it to call a function by way of triggerd than to call it directly?
//!
//! `cargo bench --bench pipeline` (`make servers` first) measures, in one run and by turns, so that whatever else the
//! machine does meets all alike:
//!
//! * a **bare loop**: a reqwest client that sends the very request which triggerd sends (taken down from an
//!   invocation, so the same length, headers and signature), and does nothing else;
//! * **MQTT → function**: events published to a Mosquitto at QoS 1;
//! * **webhook → function**: events posted as a MinIO target with a `queue_dir` posts them (`redelivers = yes`).
//!
//! Events have 1,024 bytes; the function answers at once. The daemon is a process of its own, built for release, with
//! the default config; the function has a thread of its own, and the sender another. Results are **ratios to the bare
//! loop of the same round**, the median of all rounds with the lowest and the highest:
//!
//! * *events per second*, at most 64 on their way at once. Sender, broker, daemon and function share the machine's cores,
//!   so on two cores this says what the whole chain costs;
//! * *CPU per event*: the daemon's CPU time against that of the bare loop's thread. This says what the daemon costs, and
//!   hardly depends on what else runs;
//! * *time from sending to the function's call*, at 1,000 events a second; and how much longer it is while another
//!   function of the same platform hangs and is sent 1,000 events a second, too (by MQTT).
//!
//! Besides, from the daemon's own counters: transactions of the queue in all loads (the design says none for an event on
//! the happy path; the daemon's own probe makes one in five seconds), deliveries parked, repeats, and what was lost,
//! which fails the run.
//!
//! `TRIGGERD_BENCH_EVENTS` (20000), `TRIGGERD_BENCH_ROUNDS` (5) and `TRIGGERD_BENCH_WAYS` (`bare,mqtt,webhook`) change
//! the loads; `TRIGGERD_BENCH_DAEMON` is the path of another build of the daemon, for a comparison.

#![expect(clippy::print_stdout, reason = "printing is what a bench is for")]

mod function;
#[path = "../../tests/it/harness/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the harness of the tests, of which a bench needs a part"
)]
mod harness;
mod installation;
mod ledger;
mod load;
mod report;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use self::{
    function::Function,
    installation::{Installation, cpu_of_this_thread},
    ledger::Ledger,
    load::{Events, Pace, Way, Ways, publisher},
    report::{Measured, Report},
};

/// Events of each way before anything is measured.
const WARM_UP: usize = 2_000;

/// Events of each way that are sent at [`CALM`].
const CALM_EVENTS: usize = 5_000;

/// A pace at which nothing queues: 1,000 a second.
const CALM: Pace = Pace::Each(Duration::from_millis(1));

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<()> {
    let (events, rounds) = (number("TRIGGERD_BENCH_EVENTS", 20_000)?, number("TRIGGERD_BENCH_ROUNDS", 5)?);
    let wanted = std::env::var("TRIGGERD_BENCH_WAYS").unwrap_or_else(|_| "bare,mqtt,webhook".into());
    let ledger = Ledger::new(3 * (WARM_UP + 2 * CALM_EVENTS + events * rounds));
    let function = Function::start(Arc::clone(&ledger))?;
    let installation = Installation::start(&function).await?;
    println!("daemon: process {}", installation.daemon_id());
    let mut bench = Bench {
        ways: Ways {
            events: Events::new()?,
            publisher: publisher(installation.mosquitto.client_options("bench")?),
            webhook_port: installation.webhook_port,
            function_url: installation.function_url.clone(),
            sample: None,
        },
        ledger,
        installation,
    };
    bench.load(Way::Mqtt, WARM_UP, Pace::Closed).await?;
    bench.ways.sample = Some(function.sample()?);
    bench.load(Way::Webhook, WARM_UP, Pace::Closed).await?;
    bench.load(Way::Bare, WARM_UP, Pace::Closed).await?;

    let mut report = Report::new(events, rounds);
    let ways = [Way::Bare, Way::Mqtt, Way::Webhook];
    let ways = ways.into_iter().filter(|way| wanted.split(',').any(|name| name == way.name()));
    let ways: Vec<Way> = ways.collect();
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let way = ways[(round + turn) % ways.len()];
            let measured = bench.load(way, events, Pace::Closed).await?;
            println!("round {}: {measured}", round + 1);
            report.add(measured);
        }
    }
    for way in &ways {
        let measured = bench.load(*way, CALM_EVENTS, CALM).await?;
        println!("calm: {measured}");
        report.add_calm(measured);
    }
    bench.beside_a_neighbour(&ways, &mut report).await?;
    report.print(&bench.ledger);
    ensure!(bench.ledger.lost() == 0, "events were lost");
    Ok(())
}

/// Everything that a load needs.
struct Bench {
    ways: Ways,
    ledger: Arc<Ledger>,
    installation: Installation,
}

impl Bench {
    /// Sends a load and waits for its arrival.
    async fn load(&self, way: Way, events: usize, pace: Pace) -> Result<Measured> {
        let load = self.ledger.load(events)?;
        let before = self.installation.counters().await?;
        let cpu = self.cpu(way)?;
        self.ways.send(way, &load, pace).await.with_context(|| way.name())?;
        let arrivals = load.arrivals().await.with_context(|| way.name())?;
        let cpu = self.cpu(way)?.saturating_sub(cpu);
        let after = self.installation.counters().await?;
        let grown = |name: &str| grown(&before, &after, name);
        Ok(Measured {
            way,
            events: load.count(),
            arrivals,
            cpu_micros: cpu.as_secs_f64() * 1e6 / load.count(),
            commits: grown("triggerd_queue_commits_total"),
            parked: grown("triggerd_parked_total"),
        })
    }

    /// The calm loads once more, while another function hangs and is sent a thousand events a second.
    async fn beside_a_neighbour(&self, ways: &[Way], report: &mut Report) -> Result<()> {
        self.installation.bind_neighbour().await?;
        let (sent, parked) = (Arc::new(AtomicUsize::new(0)), "triggerd_parked_total");
        let before = self.installation.counters().await?;
        let flooding = tokio::spawn(load::flood(
            self.ways.publisher.clone(),
            self.ways.events.clone(),
            Duration::from_millis(1),
            Arc::clone(&sent),
        ));
        harness::wait::wait_for("the neighbour is flooded", Duration::from_mins(1), async || {
            sent.load(Ordering::Relaxed) >= 2_000
        })
        .await?;
        for way in ways.iter().filter(|way| **way != Way::Bare) {
            let measured = self.load(*way, CALM_EVENTS, CALM).await?;
            println!("beside a neighbour that hangs: {measured}");
            report.add_beside(measured);
        }
        flooding.abort();
        let after = self.installation.counters().await?;
        let (sent, parked) = (sent.load(Ordering::Relaxed), grown(&before, &after, parked));
        println!("the neighbour was sent {sent} events, {parked} were parked");
        ensure!(parked > 1_000.0, "the neighbour was not flooded");
        Ok(())
    }

    /// CPU time of whoever calls the function.
    fn cpu(&self, way: Way) -> Result<Duration> {
        if way == Way::Bare { cpu_of_this_thread() } else { self.installation.cpu() }
    }
}

fn grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, name: &str) -> f64 {
    let at = |counters: &BTreeMap<String, f64>| counters.get(name).copied().unwrap_or(0.0);
    at(after) - at(before)
}

fn number(name: &str, otherwise: usize) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number")),
        Err(_) => Ok(otherwise),
    }
}
