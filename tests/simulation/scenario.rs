//! What one seed means: who calls whom, what goes wrong and when. Everything that is decided before the run.

use std::time::Duration;

use triggerd::domain::{
    binding::{Binding, BindingSpec, Mode, State, Wanted},
    clock::Timestamp,
    ids::BindingId,
    secret::SigningSecret,
};

use crate::chance::{Chance, SimEntropy};

/// The wall clock's beginning.
pub(crate) const EPOCH: Timestamp = Timestamp::from_micros(1_763_740_000_000_000);

/// Which part of the promise a seed is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Everything that can fail does; bindings are paused and damaged by an operator.
    Storm,
    /// The same with the reconciler at work: rules vanish, bindings are unbound.
    Handshake,
    /// One function hangs and is flooded; its neighbour must not notice. No crash, and the disk is well.
    Neighbours,
}

/// How a function behaves until the storm is over; weights of what it answers.
#[derive(Debug, Clone)]
pub(crate) struct Temper {
    pub(crate) ok: u64,
    pub(crate) accepted: u64,
    pub(crate) throttled: u64,
    pub(crate) platform_fault: u64,
    pub(crate) function_fault: u64,
    pub(crate) permanent: u64,
    pub(crate) broken: u64,
    pub(crate) panic: u64,
    pub(crate) hang: u64,
    /// How long it takes, in milliseconds.
    pub(crate) delay: (u64, u64),
}

impl Temper {
    const WELL: Self = Self {
        ok: 1,
        accepted: 0,
        throttled: 0,
        platform_fault: 0,
        function_fault: 0,
        permanent: 0,
        broken: 0,
        panic: 0,
        hang: 0,
        delay: (0, 20),
    };

    /// Whether it never says that it is too much for it, nor seems to be away.
    pub(crate) fn is_steady(&self) -> bool {
        self.throttled + self.platform_fault + self.panic + self.hang == 0 && self.delay.1 < 200
    }

    fn draw(chance: &mut Chance) -> Self {
        let slow = [(0, 0), (0, 5), (0, 60), (20, 40), (100, 3_000)];
        let delay = *chance.pick(&slow);
        match chance.below(6) {
            0 => Self { delay, ..Self::WELL },
            1 => Self { accepted: 2, platform_fault: 2, delay, ..Self::WELL },
            2 => Self { hang: 1, ok: 2, delay, ..Self::WELL },
            3 => Self { function_fault: 2, permanent: 1, delay, ..Self::WELL },
            _ => Self {
                ok: chance.between(2, 12),
                accepted: chance.below(3),
                throttled: chance.below(3),
                platform_fault: chance.below(4),
                function_fault: chance.below(4),
                permanent: chance.below(2),
                broken: chance.below(2),
                panic: chance.below(2),
                hang: chance.below(2),
                delay,
            },
        }
    }
}

/// How the disk behaves until the storm is over.
#[derive(Debug, Clone)]
pub(crate) struct DiskTemper {
    /// Of a commit, in milliseconds.
    pub(crate) delay: (u64, u64),
    /// Percent of the commits that fail and leave nothing.
    pub(crate) fails: u64,
    /// Percent of the commits that say that they failed, and did not.
    pub(crate) lies: u64,
    /// Percent of the reads that fail.
    pub(crate) unreadable: u64,
    /// From when to when everything fails.
    pub(crate) outage: Option<(Duration, Duration)>,
    pub(crate) share: usize,
    pub(crate) room: usize,
}

/// By which way a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The source redelivers.
    Yes,
    /// It never does.
    No,
    /// The fast leg of twin targets.
    Twin,
}

/// One message on one way.
#[derive(Debug, Clone)]
pub(crate) struct Leg {
    pub(crate) way: Way,
    /// The events in it, by number; none when it is not to be understood.
    pub(crate) events: Vec<u32>,
    /// When its source first sends it.
    pub(crate) at: Duration,
    pub(crate) oversize: bool,
}

/// A binding and when it goes.
#[derive(Debug, Clone)]
pub(crate) struct BindingPlan {
    pub(crate) binding: Binding,
    pub(crate) unbound_at: Option<Duration>,
    /// It stays paused when the storm is over.
    pub(crate) stays_paused: bool,
}

/// One seed's plan.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) family: Family,
    pub(crate) legs: Vec<Leg>,
    pub(crate) bindings: Vec<BindingPlan>,
    pub(crate) functions: Vec<Temper>,
    pub(crate) disk: DiskTemper,
    /// How many times the process dies, and after about how many steps each.
    pub(crate) crashes: (u32, u64),
    /// When it is stopped in order, and how long that may take.
    pub(crate) stops: Vec<(Duration, Duration)>,
    /// When the wall clock jumps, by how many seconds, and after how long it jumps back.
    pub(crate) jumps: Vec<(Duration, i64, Option<Duration>)>,
    /// When everything has become well again.
    pub(crate) calm_at: Duration,
    pub(crate) ack_within: Duration,
    /// Percent of messages that come twice, that come pressed; how often the connection breaks.
    pub(crate) twice: u64,
    pub(crate) pressed: u64,
    pub(crate) hiccups: Option<(u64, u64)>,
    /// Most time until the mirror has a change, in milliseconds.
    pub(crate) lag: u64,
    /// Percent of looks at the bindings that fail or panic.
    pub(crate) unreadable: u64,
    pub(crate) max_concurrency: u32,
    /// How a handler function behaves.
    pub(crate) handler: Temper,
    /// How often an operator asks for something, in milliseconds.
    pub(crate) operator: Option<(u64, u64)>,
    /// All that was given up is replayed once everything is well.
    pub(crate) replayed_at_end: bool,
}

/// The numbers of bindings' ids, so that they can be read in a trace.
pub(crate) fn binding_id(number: u8) -> BindingId {
    BindingId::from_bytes([number; 16])
}

impl Scenario {
    /// The plan that belongs to a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let chance = &mut Chance::new(seed);
        match chance.below(10) {
            0..6 => Self::storm(seed, Family::Storm, chance),
            6..9 => Self::storm(seed, Family::Handshake, chance),
            _ => Self::neighbours(seed, chance),
        }
    }

    fn storm(seed: u64, family: Family, chance: &mut Chance) -> Self {
        let seconds = chance.between(5, 60);
        let calm_at = Duration::from_secs(seconds);
        let functions: Vec<Temper> = (0..chance.between(1, 3)).map(|_| Temper::draw(chance)).collect();
        let rates: Vec<Option<f64>> = functions.iter().map(|_| rate(chance)).collect();
        let bindings = (1..=chance.between(1, 4))
            .map(|number| {
                let function = chance.below(functions.len() as u64);
                let unbound = family == Family::Handshake && chance.percent(20);
                let mut binding = binding(u8::try_from(number).unwrap_or(1), function, family, chance);
                binding.spec.rate_limit = rates[usize::try_from(function).unwrap_or(0)];
                let handler = *chance.pick(&[None, None, Some("h0"), Some("h1")]);
                binding.spec.dead_letter_function = handler.map(str::to_owned);
                let awaited = *chance.pick(&[None, Some(2), Some(20)]);
                binding.spec.await_result_s = awaited.filter(|_| binding.spec.mode == Mode::Async);
                BindingPlan {
                    binding,
                    unbound_at: unbound.then(|| chance.millis((0, seconds * 1_000))),
                    stays_paused: family == Family::Storm && chance.percent(8),
                }
            })
            .collect();
        let outage = chance.percent(15).then(|| {
            let from = chance.millis((0, seconds * 900));
            (from, from + chance.millis((500, 20_000)))
        });
        let sick = chance.percent(50);
        let disk = DiskTemper {
            delay: *chance.pick(&[(0, 0), (0, 3), (1, 30), (50, 400)]),
            fails: if sick { chance.between(1, 25) } else { 0 },
            lies: if sick { chance.below(12) } else { 0 },
            unreadable: if sick { chance.below(10) } else { 0 },
            outage,
            share: if chance.percent(15) { 3 } else { usize::MAX },
            room: if chance.percent(8) { 12 } else { usize::MAX },
        };
        let jumps = if chance.percent(20) { jumps(seconds, chance) } else { Vec::new() };
        let mut plan = Self {
            seed,
            family,
            legs: legs(chance.between(3, 30), seconds * 900, chance),
            bindings,
            functions,
            disk,
            crashes: if chance.percent(60) { (3, chance.between(20, 400)) } else { (0, 0) },
            stops: if chance.percent(30) {
                let drain = *chance.pick(&[0, 100, 8_000]);
                vec![(chance.millis((500, seconds * 900)), chance.millis((0, drain)))]
            } else {
                Vec::new()
            },
            jumps,
            calm_at,
            ack_within: Duration::from_millis(*chance.pick(&[2, 25, 25, 500])),
            twice: chance.below(25),
            pressed: if chance.percent(20) { 20 } else { 0 },
            hiccups: chance.percent(40).then(|| (200, chance.between(400, 15_000))),
            lag: *chance.pick(&[0, 20, 500]),
            unreadable: if chance.percent(20) { chance.between(1, 10) } else { 0 },
            max_concurrency: 64,
            handler: Temper::draw(chance),
            operator: chance.percent(60).then(|| *chance.pick(&[(20, 400), (100, 2_000), (500, 8_000)])),
            replayed_at_end: chance.percent(30),
        };
        // Drawn last: a seed goes on meaning what it meant.
        if chance.percent(15) {
            let age = *chance.pick(&[20, 40]);
            plan.bindings.iter_mut().for_each(|one| one.binding.spec.max_event_age_s = age);
        }
        plan
    }

    fn neighbours(seed: u64, chance: &mut Chance) -> Self {
        let sick = Temper {
            ok: 0,
            hang: *chance.pick(&[0, 1]),
            throttled: 1,
            platform_fault: 1,
            delay: (0, 3_000),
            ..Temper::WELL
        };
        let family = Family::Neighbours;
        let bindings = [(1, 0), (2, 1)].map(|(number, function)| BindingPlan {
            binding: binding(number, function, family, chance),
            unbound_at: None,
            stays_paused: false,
        });
        let mut legs = legs(chance.between(30, 60), 20_000, chance);
        legs.retain(|leg| !leg.oversize && !leg.events.is_empty());
        Self {
            seed,
            family,
            legs,
            bindings: bindings.into(),
            functions: vec![sick, Temper { delay: (0, 30), ..Temper::WELL }],
            disk: DiskTemper {
                delay: (0, 10),
                fails: 0,
                lies: 0,
                unreadable: 0,
                outage: None,
                share: usize::MAX,
                room: usize::MAX,
            },
            crashes: (0, 0),
            stops: Vec::new(),
            jumps: Vec::new(),
            calm_at: Duration::from_secs(40),
            ack_within: Duration::from_millis(*chance.pick(&[2, 25, 500])),
            twice: chance.below(20),
            pressed: 0,
            hiccups: None,
            lag: 0,
            unreadable: 0,
            max_concurrency: 64,
            handler: Temper::WELL,
            operator: None,
            replayed_at_end: false,
        }
    }
}

/// A rate for all bindings of one function.
fn rate(chance: &mut Chance) -> Option<f64> {
    if chance.percent(15) { Some(*chance.pick(&[2.0, 12.5, 60.0])) } else { None }
}

/// There and, most of the time, back again; nothing is to die of it.
fn jumps(seconds: u64, chance: &mut Chance) -> Vec<(Duration, i64, Option<Duration>)> {
    let mut jumps = Vec::new();
    for _ in 0..chance.between(1, 2) {
        let by = *chance.pick(&[-3_600, -60, 60, 600, 7_200, 36_000]);
        let back = chance.percent(75).then(|| chance.millis((100, 40_000)));
        jumps.push((chance.millis((0, seconds * 1_000)), by, back));
    }
    jumps
}

fn binding(number: u8, function: u64, family: Family, chance: &mut Chance) -> Binding {
    let secret = SigningSecret::generate(&SimEntropy(chance.split().into()));
    let spec: BindingSpec = serde_json::from_value(serde_json::json!({
        "storage": "default", "bucket": "photos", "events": ["s3:ObjectCreated:*"],
        "prefix": format!("p{number}"),
        "platform": if function == 2 { "second" } else { "first" },
        "function": format!("f{function}"),
        "mode": *chance.pick(&["sync", "sync", "async"]),
        "concurrency": *chance.pick(&[1, 2, 4, 16]),
        "timeout_ms": *chance.pick(&[200, 2_000, 10_000]),
        "max_event_age_s": 3_600,
        "retry": {
            "max_attempts": *chance.pick(&[1, 3, 8]),
            "first_wait_ms": *chance.pick(&[10, 1_000]),
            "max_wait_ms": *chance.pick(&[1_000, 15_000]),
        },
    }))
    .unwrap();
    Binding {
        id: binding_id(number),
        spec,
        wanted: Wanted::Present,
        state: if family == Family::Handshake && chance.percent(30) { State::Pending } else { State::Active },
        reason: None,
        steps: Vec::new(),
        secret,
        revision: u64::from(number),
        created_at: EPOCH,
        updated_at: EPOCH,
    }
}

fn legs(events: u64, within_ms: u64, chance: &mut Chance) -> Vec<Leg> {
    let bursts = chance.percent(50).then(|| chance.millis((0, within_ms)));
    let usual = *chance.pick(&[Way::Yes, Way::Yes, Way::No, Way::Twin]);
    let (mut legs, mut number) = (Vec::new(), 0);
    while u64::from(number) < events {
        let at = match bursts {
            Some(at) if chance.percent(70) => at + chance.millis((0, 20)),
            _ => chance.millis((0, within_ms)),
        };
        if chance.percent(2) {
            let oversize = chance.percent(50);
            legs.push(Leg { way: Way::Yes, events: Vec::new(), at, oversize });
        }
        let of_it = if chance.percent(10) { chance.between(2, 3) } else { 1 };
        let these: Vec<u32> = (number..).zip(0..of_it).map(|(number, _)| number).collect();
        number += u32::try_from(of_it).unwrap_or(1);
        let way = if chance.percent(80) { usual } else { *chance.pick(&[Way::Yes, Way::No, Way::Twin]) };
        legs.push(Leg { way, events: these.clone(), at, oversize: false });
        if way == Way::Twin {
            // The safe leg, some time later or, at times, sooner.
            let at = if chance.percent(20) { at } else { at + chance.millis((0, 3_000)) };
            legs.push(Leg { way: Way::Yes, events: these, at, oversize: false });
        }
    }
    legs
}
