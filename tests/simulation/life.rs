//! One life of the process: the real intake, dispatch, settle and reconciler on the simulated parts, as the composition
//! root joins them, until it dies, is stopped, or everything is settled.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use triggerd::{
    binding::{self, Handle, InspectionVerdict, Reconciler, Settings, Storage},
    dispatch::{self, Deliveries, Dispatcher},
    domain::{clock::Clock, event::StorageName, ids::BindingId, retry::RetryPolicy},
    intake::{Intake, Loops, Repeats},
    platform::Driver,
    queue::{QueueError, Timekeeper},
    telemetry::Recent,
};

use crate::{
    bindings::{SimCatalog, mend, operate},
    chance::SimEntropy,
    handshake::{NODE, SimRelations, SimStorage, TARGET, damage, follow},
    operator::Desk,
    platform::SimPlatform,
    queue::SimQueue,
    results::{callbacks, report},
    scenario::Family,
    source::Sources,
    world::{SimClock, World},
};

/// How long everything may take to be settled once everything is well; longer where the reconciler must mend first, and where a jump of the
/// clock went unseen: then nothing but the longest wait of all bounds how long a delivery waits.
const PATIENCE: [Duration; 2] = [Duration::from_mins(2), Duration::from_mins(10)];

/// How long it is watched after everything was settled: longer than the time between two sweeps.
const WATCHED: Duration = Duration::from_secs(40);

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Crashed,
    /// A worker ended, as it does when the disk fails at start; the process with it.
    WorkerEnded,
    Stopped,
    /// Everything is settled, or nothing more will be.
    Done,
}

struct Life {
    world: Arc<World>,
    dispatcher: Dispatcher,
    sources: Sources,
    intake: JoinHandle<()>,
    operator: Desk,
}

/// Lives once, in a runtime of its own.
pub(crate) fn live(world: &Arc<World>) -> End {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let end = runtime.block_on(async {
        world.begin_life();
        let end = tokio::select! {
            biased;
            () = world.died() => End::Crashed,
            end = run(world) => end,
        };
        // While there is a runtime: without one there is no paused time.
        world.end_life(match end {
            End::Crashed => "by a crash",
            End::WorkerEnded => "with a worker",
            End::Stopped => "in order",
            End::Done => "for good",
        });
        end
    });
    drop(runtime);
    world.bury_life();
    end
}

async fn run(world: &Arc<World>) -> End {
    let queue = SimQueue::new(Arc::clone(world));
    tokio::spawn(queue.clone().run());
    {
        let state = &mut *world.state();
        let elapsed = state.elapsed();
        state.relating.follow(None, elapsed);
    }
    let Some(clock) = wind_clock(world, &queue).await else { return End::WorkerEnded };
    let entropy = Arc::new(SimEntropy(Mutex::new(world.state().chance.split())));
    let platform: Arc<dyn Driver> = Arc::new(SimPlatform(Arc::clone(world)));
    let recent = Arc::new(Recent::new(200));
    let (dispatcher, suspected) = Dispatcher::new(dispatch::Parts {
        queue: Arc::new(queue.clone()),
        bindings: Arc::new(SimCatalog(Arc::clone(world))),
        drivers: ["first", "second"].map(|name| (name.into(), Arc::clone(&platform))).into(),
        callbacks: Some(callbacks()),
        max_concurrency: world.plan.max_concurrency,
        recent: Arc::clone(&recent),
        clock: Arc::clone(&clock),
        entropy: entropy.clone(),
    });
    let (reconciler, handle) = reconciler(world, &platform, &dispatcher, (&clock, entropy));
    let handshake = world.plan.family == Family::Handshake;
    tokio::spawn(suspicions(suspected, (handle.clone(), dispatcher.clone(), Arc::clone(&clock)), handshake));
    if handshake {
        tokio::spawn(reconciler.run(tokio_util::sync::CancellationToken::new()));
        tokio::spawn(follow(Arc::clone(world), handle.clone(), dispatcher.clone()));
        tokio::spawn(damage(Arc::clone(world), handle));
    }
    tokio::spawn(operate(Arc::clone(world), Arc::new(dispatcher.clone())));
    tokio::spawn(report(Arc::clone(world), dispatcher.clone()));
    tokio::spawn(watch(Arc::clone(world)));
    tokio::spawn(jumps(Arc::clone(world)));
    tokio::spawn(hiccups(Arc::clone(world)));
    if dispatcher.restore().await.is_err() {
        return End::WorkerEnded;
    }
    let pump = tokio::spawn(pump(dispatcher.clone()));
    let (sender, inbox) = mpsc::channel(64);
    let intake = Intake {
        matcher: Arc::new(SimCatalog(Arc::clone(world))),
        dispatcher: dispatcher.clone(),
        queue: Arc::new(queue.clone()),
        repeats: Repeats::new(10_000),
        loops: Arc::new(Loops::default()),
        recent,
        clock: Arc::clone(&clock),
    };
    let desk = |intake: &Intake| Desk {
        world: Arc::clone(world),
        queue: queue.clone(),
        dispatcher: dispatcher.clone(),
        intake: intake.clone(),
        clock: Arc::clone(&clock),
    };
    tokio::spawn(desk(&intake).work());
    let operator = desk(&intake);
    let intake = tokio::spawn(intake.run(inbox, || ()));
    let sources = Sources { world: Arc::clone(world), inbox: Arc::new(Mutex::new(Some(sender))) };
    sources.start();
    let mut life =
        Life { world: Arc::clone(world), dispatcher: dispatcher.clone(), sources, intake, operator };
    tokio::select! {
        biased;
        end = ended_early(pump, world) => end,
        end = life.until_over() => end,
    }
}

fn reconciler(
    world: &Arc<World>,
    platform: &Arc<dyn Driver>,
    dispatcher: &Dispatcher,
    (clock, entropy): (&Arc<dyn Clock>, Arc<SimEntropy>),
) -> (Reconciler, Handle) {
    let storage = Storage {
        buckets: Arc::new(SimStorage(Arc::clone(world))),
        targets: vec![TARGET.to_owned()],
        fast_targets: Vec::new(),
    };
    let parts = binding::Parts {
        relations: Arc::new(SimRelations(Arc::clone(world))),
        drivers: ["first", "second"].map(|name| (name.to_owned(), Arc::clone(platform))).into(),
        storages: HashMap::from([(StorageName::new("default"), storage)]),
        deliveries: Arc::new(dispatcher.clone()),
        clock: Arc::clone(clock),
        entropy,
    };
    Reconciler::new(parts, Settings::new(NODE))
}

/// The pump and what goes on beside it, as one worker.
async fn pump(dispatcher: Dispatcher) -> Result<(), QueueError> {
    let handlers = async {
        dispatcher.hand_over_letters().await;
        Ok(())
    };
    tokio::try_join!(biased; dispatcher.run(|| ()), handlers).map(drop)
}

/// The clock of this life, kept by the real timekeeper; none when the queue cannot be read.
async fn wind_clock(world: &Arc<World>, queue: &SimQueue) -> Option<Arc<dyn Clock>> {
    let wall = Arc::new(SimClock(Arc::clone(world)));
    match Timekeeper::wind(Arc::new(queue.clone()), wall).await {
        Ok((clock, timekeeper)) => {
            tokio::spawn(timekeeper.run(tokio_util::sync::CancellationToken::new()));
            Some(clock)
        }
        Err(error) => {
            world.note(format_args!("the queue cannot be opened: {error}"));
            None
        }
    }
}

/// Ends when the pump does though nobody told it to: the process with it.
async fn ended_early(pump: JoinHandle<Result<(), QueueError>>, world: &World) -> End {
    match pump.await {
        Ok(Ok(())) => std::future::pending().await,
        ended => {
            world.note(format_args!("the pump ended: {ended:?}"));
            if world.state().is_crashed() { std::future::pending().await } else { End::WorkerEnded }
        }
    }
}

impl Life {
    async fn until_over(&mut self) -> End {
        let elapsed = self.world.state().elapsed();
        let stop = self.world.plan.stops.iter().find(|(at, _)| *at > elapsed).copied();
        let calm_at = self.world.plan.calm_at;
        if let Some((at, drain)) = stop.filter(|(at, _)| *at < calm_at) {
            sleep(at.saturating_sub(elapsed)).await;
            return self.stop(drain).await;
        }
        sleep(calm_at.saturating_sub(elapsed)).await;
        if !self.world.state().calm {
            self.world.calm();
        }
        mend(&self.world, &self.dispatcher).await;
        self.operator.replay_all().await;
        self.settle().await;
        End::Done
    }

    /// Until nothing is open, and some time longer.
    async fn settle(&self) {
        let patience = PATIENCE[usize::from(self.world.plan.family == Family::Handshake)];
        let unseen = self.world.state().books.unseen_jump;
        let patience = patience + if unseen { RetryPolicy::LEAST_LONGEST } else { Duration::ZERO };
        let patient_until = self.world.state().elapsed() + patience;
        loop {
            let open = self.world.state().open_matters();
            if open.is_empty() {
                break;
            }
            if self.world.state().elapsed() > patient_until {
                for matter in open {
                    self.world.violation(format_args!("in the end {matter}"));
                }
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
        sleep(WATCHED).await;
        for matter in self.world.state().open_matters() {
            self.world.violation(format_args!("after the end {matter}"));
        }
    }

    /// Stops in the daemon's order.
    async fn stop(&mut self, drain: Duration) -> End {
        self.world.note(format_args!("told to stop, within {drain:?}"));
        drop(self.sources.inbox.lock().unwrap().take());
        self.dispatcher.stop_soft();
        let dispatcher = self.dispatcher.clone();
        let intake = &mut self.intake;
        let calm = async {
            drop(intake.await);
            dispatcher.drained().await;
        };
        if timeout(drain, calm).await.is_err() {
            self.world.note(format_args!("what runs is cut off"));
            self.dispatcher.stop_hard();
            let drained = timeout(Duration::from_secs(5), self.dispatcher.drained()).await;
            self.world.note(format_args!("drained: {}", drained.is_ok()));
        }
        // What was asked of the queue is done.
        sleep(Duration::from_secs(1)).await;
        End::Stopped
    }
}

/// Has what dispatch grows suspicious of inspected, as the daemon's worker does; without a reconciler all is in step.
async fn suspicions(
    mut suspected: mpsc::Receiver<BindingId>,
    (handle, dispatcher, clock): (Handle, Dispatcher, Arc<dyn Clock>),
    handshake: bool,
) {
    let (mut asked, mut inspections) = (BTreeSet::new(), FuturesUnordered::new());
    loop {
        tokio::select! {
            biased;
            Some(id) = suspected.recv() => {
                if asked.insert(id) {
                    let (handle, dispatcher, began) = (&handle, &dispatcher, clock.now());
                    inspections.push(async move {
                        if handshake {
                            return (id, began, handle.inspect_now(id).await);
                        }
                        sleep(Duration::from_millis(50)).await;
                        let bindings = Deliveries::running(dispatcher, id);
                        let revision = if bindings.len() > 1_000 { 0 } else { u64::from(id.as_bytes()[0]) };
                        (id, began, InspectionVerdict::InStep { revision })
                    });
                }
            }
            Some((id, began, verdict)) = inspections.next() => {
                asked.remove(&id);
                if let InspectionVerdict::InStep { revision } = verdict {
                    dispatcher.inspected(id, revision, began);
                }
            }
            else => return,
        }
    }
}

async fn jumps(world: Arc<World>) {
    for (at, by, back) in world.plan.jumps.clone() {
        let elapsed = world.state().elapsed();
        if at < elapsed {
            continue;
        }
        sleep(at.saturating_sub(elapsed)).await;
        world.jump(by);
        if let Some(after) = back {
            sleep(after).await;
            world.jump(-by);
        }
    }
}

/// Where nothing fails, nobody waits for the next sweep.
async fn watch(world: Arc<World>) {
    let plan = &world.plan;
    let disk = &plan.disk;
    let sick = disk.fails + disk.lies + disk.unreadable + plan.unreadable > 0 || disk.outage.is_some();
    if sick || !plan.jumps.is_empty() || !plan.stops.is_empty() || disk.room < usize::MAX {
        return;
    }
    loop {
        sleep(Duration::from_secs(1)).await;
        let overdue = world.state().is_overdue();
        if let Some(overdue) = overdue {
            return world.violation(format_args!("{overdue}"));
        }
    }
}

async fn hiccups(world: Arc<World>) {
    let Some(every) = world.plan.hiccups else { return };
    loop {
        let wait = world.state().chance.millis(every);
        sleep(wait).await;
        if world.state().calm {
            return;
        }
        world.note(format_args!("connections break"));
        world.hiccup.notify_waiters();
    }
}
