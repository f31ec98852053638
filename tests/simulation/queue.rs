//! The simulated queue: the disk survives a crash, the batch that has not been committed does not.
//!
//! As in the real one, a single writer takes what has gathered, seals the tickets of the parks among it, commits all of
//! it at once, and answers then. By the seed a commit takes its time, fails and leaves nothing, or says that it failed
//! and did not; reads see what was committed last, and fail, too.
//!
//! A new verb of the trait is one line here: a closure on the [`Disk`], by `write` or by `read`.

use std::{fmt, io, sync::Arc, sync::Mutex, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, oneshot},
    time::sleep,
};
use triggerd::{
    domain::{
        clock::Timestamp,
        delivery::{Delivery, FunctionRef},
        ids::{BindingId, DeliveryId},
        outcome::Attempt,
    },
    queue::{
        Backlog, DeadLetter, Disposal, FunctionState, Handover, Park, Parked, Quarantined, Queue, QueueError,
        Results, Retry, Ticket, Unhanded, Wait,
    },
};

use crate::{disk::Disk, world::World};

/// What becomes of a request's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Committed,
    /// It failed, and nothing of it is there.
    Failed,
    /// It failed, and all of it is there.
    Lied,
}

type Answer = Box<dyn FnOnce() + Send>;

type Apply = Box<dyn FnOnce(Fate, &World) -> Answer + Send>;

type Sender<T> = oneshot::Sender<Result<T, QueueError>>;

/// What is told to who asked for a park that was withdrawn.
type Withdrawn<T> = Box<dyn FnOnce(Sender<T>) + Send>;

struct Job {
    ticket: Option<Ticket>,
    withdrawn: Box<dyn FnOnce() + Send>,
    apply: Apply,
}

/// The queue of one life.
#[derive(Clone)]
pub(crate) struct SimQueue {
    world: Arc<World>,
    batch: Arc<Mutex<Vec<Job>>>,
    gathered: Arc<Notify>,
}

impl fmt::Debug for SimQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimQueue")
    }
}

fn failed(verb: &'static str) -> QueueError {
    QueueError::Failed { verb, source: Arc::new(sqlx::Error::Io(io::Error::other("simulated"))) }
}

impl SimQueue {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self { world, batch: Arc::default(), gathered: Arc::new(Notify::new()) }
    }

    /// The writer; it never ends.
    pub(crate) async fn run(self) {
        loop {
            let batch = std::mem::take(&mut *self.batch.lock().unwrap());
            if batch.is_empty() {
                self.gathered.notified().await;
                continue;
            }
            let delay = {
                let mut state = self.world.state();
                let calm = state.calm;
                state.chance.millis(if calm { (0, 2) } else { self.world.plan.disk.delay })
            };
            let mut sealed = Vec::with_capacity(batch.len());
            for job in batch {
                match &job.ticket {
                    Some(ticket) if !ticket.seal() => {
                        self.world.note(format_args!("  queue: a park was withdrawn"));
                        (job.withdrawn)();
                    }
                    _ => sealed.push(job),
                }
            }
            self.world.step("a commit's beginning").await;
            if !delay.is_zero() {
                sleep(delay).await;
            }
            self.world.step("a commit").await;
            let fate = self.fate();
            if fate != Fate::Committed {
                self.world.note(format_args!("a commit of {} fails: {fate:?}", sealed.len()));
            }
            let answers: Vec<Answer> = sealed.into_iter().map(|job| (job.apply)(fate, &self.world)).collect();
            self.world.step("a commit's answers").await;
            for answer in answers {
                answer();
            }
        }
    }

    fn fate(&self) -> Fate {
        let temper = &self.world.plan.disk;
        let mut state = self.world.state();
        let elapsed = state.elapsed();
        let out = temper.outage.is_some_and(|(from, to)| (from..to).contains(&elapsed));
        if state.sick(temper.lies) {
            Fate::Lied
        } else if state.sick(temper.fails) || (out && !state.calm) {
            Fate::Failed
        } else {
            Fate::Committed
        }
    }

    /// Asks the writer. `about` is for the trace, and for the books: what failed may be repeated.
    pub(crate) async fn write<T: Send + fmt::Debug + 'static>(
        &self,
        verb: &'static str,
        about: Option<DeliveryId>,
        act: impl FnOnce(&mut Disk) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let (sender, answer) = oneshot::channel();
        self.push(verb, about, None, (sender, Box::new(|_| ()), act)).await;
        answer.await.unwrap_or(Err(QueueError::Closed))
    }

    async fn push<T: Send + fmt::Debug + 'static>(
        &self,
        verb: &'static str,
        about: Option<DeliveryId>,
        ticket: Option<Ticket>,
        (sender, withdrawn, act): (
            Sender<T>,
            Withdrawn<T>,
            impl FnOnce(&mut Disk) -> Result<T, QueueError> + Send + 'static,
        ),
    ) {
        self.world.step(verb).await;
        let sender = Arc::new(Mutex::new(Some(sender)));
        let (to_withdraw, to_answer) = (Arc::clone(&sender), sender);
        let apply = move |fate: Fate, world: &World| -> Answer {
            let result = match fate {
                Fate::Failed => Err(failed(verb)),
                Fate::Committed | Fate::Lied => {
                    let state = &mut *world.state();
                    let result = act(&mut state.disk);
                    if let (Some(id), Ok(value)) = (about, &result) {
                        let life = state.disk.rows.get(&id).map(|row| row.delivery.earlier);
                        state.books.happened(id, verb, &format!("{value:?}"), life);
                    }
                    let elapsed = state.elapsed();
                    for id in std::mem::take(&mut state.disk.just_forgotten) {
                        state.books.forgotten(id, (verb == "dispose").then_some(elapsed));
                    }
                    result
                }
            };
            let name = about.map(|id| world.name(id)).unwrap_or_default();
            world.note(format_args!("  queue: {verb} {name} → {result:?}"));
            let wrong = std::mem::take(&mut world.state().disk.wrongly_buried);
            for wrong in wrong.into_iter().filter(|_| !world.state().is_crashed()) {
                world.violation(format_args!("{wrong}"));
            }
            if let (Some(id), Ok(value), true) = (about, &result, fate == Fate::Committed) {
                world.state().books.recorded(id, verb, &format!("{value:?}"));
            }
            let result = if fate == Fate::Lied { Err(failed(verb)) } else { result };
            if let (Some(id), Err(_)) = (about, &result) {
                world.state().books.excuse(id);
            }
            Box::new(move || {
                if let Some(sender) = to_answer.lock().unwrap().take() {
                    drop(sender.send(result));
                }
            })
        };
        let withdrawn = move || {
            if let Some(sender) = to_withdraw.lock().unwrap().take() {
                withdrawn(sender);
            }
        };
        let job = Job { ticket, withdrawn: Box::new(withdrawn), apply: Box::new(apply) };
        self.batch.lock().unwrap().push(job);
        self.gathered.notify_one();
    }

    pub(crate) async fn read<T>(
        &self,
        verb: &'static str,
        look: impl FnOnce(&Disk) -> T,
    ) -> Result<T, QueueError> {
        self.world.step(verb).await;
        self.linger().await;
        let (result, fails) = {
            let state = &mut *self.world.state();
            let fails = state.sick(self.world.plan.disk.unreadable);
            (look(&state.disk), fails)
        };
        if fails {
            self.world.note(format_args!("  queue: {verb} cannot be read"));
            return Err(failed(verb));
        }
        self.linger().await;
        Ok(result)
    }

    /// Gives a delivery up; what is wrong with that is told if it comes to that.
    /// Holds how long an attempt's delivery is to wait against the books.
    fn put_off(&self, delivery: &Delivery, due: Timestamp) {
        let wrong = self.world.state().put_off(delivery, due);
        if let Some(wrong) = wrong {
            self.world.violation(format_args!("{wrong}"));
        }
    }

    async fn give_up(
        &self,
        letter: DeadLetter,
        verb: fn(&mut Disk, DeadLetter) -> Result<bool, QueueError>,
    ) -> Result<bool, QueueError> {
        if letter.delivery.letter.is_some() {
            self.world.violation(format_args!("a handler's delivery was to become a dead letter"));
        }
        let (id, wrong) = (letter.delivery.id, self.world.state().given_up(&letter));
        let bury = move |disk: &mut Disk| {
            let buried = verb(disk, letter)?;
            disk.wrongly_buried.extend(wrong.filter(|_| buried));
            Ok(buried)
        };
        self.write("bury", Some(id), bury).await
    }

    /// A read takes a moment before and after it sees what it sees.
    async fn linger(&self) {
        let (slow, wait) = {
            let mut state = self.world.state();
            let slow = state.sick(20);
            (slow, state.chance.millis((0, 3)))
        };
        if slow {
            sleep(wait.max(Duration::from_millis(1))).await;
        }
    }
}

#[async_trait]
impl Results for SimQueue {
    async fn parked(&self, id: DeliveryId) -> Result<Option<Delivery>, QueueError> {
        let row = self.read("parked", |disk| disk.parked(id)).await?;
        if row.is_some() {
            let state = &mut *self.world.state();
            let elapsed = state.elapsed();
            state.books.row_seen.insert(id, elapsed);
        }
        Ok(row)
    }

    async fn wait_for_result(&self, wait: Wait) -> Result<bool, QueueError> {
        self.write("wait_for_result", Some(wait.id), move |disk| Ok(disk.wait_for_result(wait))).await
    }

    async fn bury_parked(&self, letter: DeadLetter) -> Result<bool, QueueError> {
        self.give_up(letter, Disk::bury_parked).await
    }

    async fn came_late(&self, id: DeliveryId, attempt: Attempt) -> Result<bool, QueueError> {
        self.write("came_late", None, move |disk| Ok(disk.came_late(id, attempt))).await
    }
}

#[async_trait]
impl Queue for SimQueue {
    async fn park(&self, park: Park) -> Result<Parked, QueueError> {
        if park.attempt.is_some() {
            self.put_off(&park.delivery, park.due);
        }
        let (id, ticket) = (park.delivery.id, park.ticket.clone());
        let (sender, answer) = oneshot::channel();
        let withdrawn = |sender: Sender<Parked>| drop(sender.send(Ok(Parked::Withdrawn)));
        let act = move |disk: &mut Disk| disk.park(park);
        self.push("park", Some(id), Some(ticket), (sender, Box::new(withdrawn), act)).await;
        answer.await.unwrap_or(Err(QueueError::Closed))
    }

    async fn delivered(&self, id: DeliveryId) -> Result<bool, QueueError> {
        self.write("delivered", Some(id), move |disk| Ok(disk.delivered(id))).await
    }

    async fn retry(&self, retry: Retry) -> Result<bool, QueueError> {
        let row = self.world.state().disk.parked(retry.id);
        if let (Some(delivery), Some(_)) = (row, &retry.attempt) {
            self.put_off(&delivery, retry.due);
        }
        self.write("retry", Some(retry.id), move |disk| Ok(disk.retry(retry))).await
    }

    async fn bury(&self, letter: DeadLetter) -> Result<bool, QueueError> {
        self.give_up(letter, Disk::bury).await
    }

    async fn quarantine(&self, item: Quarantined) -> Result<u64, QueueError> {
        self.write("quarantine", None, move |disk| Ok(disk.quarantine(item))).await
    }

    async fn due(
        &self,
        function: &FunctionRef,
        now: Timestamp,
        running: &[DeliveryId],
        limit: u32,
    ) -> Result<Vec<Delivery>, QueueError> {
        self.read("due", |disk| disk.due(function, now, running, limit)).await
    }

    async fn next_due(
        &self,
        function: &FunctionRef,
        running: &[DeliveryId],
    ) -> Result<Option<Timestamp>, QueueError> {
        self.read("next_due", |disk| disk.next_due(function, running)).await
    }

    async fn backlog(&self) -> Result<Vec<Backlog>, QueueError> {
        self.read("backlog", Disk::backlog).await
    }

    async fn hold(&self, binding: BindingId, held: bool, now: Timestamp) -> Result<u64, QueueError> {
        let verb = if held { "hold" } else { "release" };
        self.write(verb, None, move |disk| Ok(disk.hold(binding, held, now))).await
    }

    async fn bring_forward(
        &self,
        function: &FunctionRef,
        latest: Timestamp,
        now: Timestamp,
    ) -> Result<u64, QueueError> {
        let function = function.clone();
        self.write("bring_forward", None, move |disk| Ok(disk.bring_forward(&function, latest, now))).await
    }

    async fn keep_skew(&self, micros: i64) -> Result<(), QueueError> {
        self.write("keep_skew", None, move |disk| {
            disk.skew = micros;
            Ok(())
        })
        .await
    }

    async fn skew(&self) -> Result<i64, QueueError> {
        self.read("skew", |disk| disk.skew).await
    }

    async fn held_bindings(&self) -> Result<Vec<BindingId>, QueueError> {
        self.read("held_bindings", Disk::held_bindings).await
    }

    async fn parked_of(&self, binding: BindingId) -> Result<u64, QueueError> {
        self.read("parked_of", |disk| disk.parked_of(binding)).await
    }

    async fn dispose(
        &self,
        binding: BindingId,
        disposal: Disposal,
        running: &[DeliveryId],
        now: Timestamp,
    ) -> Result<u64, QueueError> {
        let running = running.to_vec();
        self.write("dispose", None, move |disk| Ok(disk.dispose(binding, disposal, &running, now))).await
    }

    async fn attempts(&self, id: DeliveryId) -> Result<Vec<Attempt>, QueueError> {
        self.read("attempts", |disk| disk.attempts(id)).await
    }

    async fn dead_letter(&self, id: DeliveryId) -> Result<Option<DeadLetter>, QueueError> {
        self.read("dead_letter", |disk| disk.dead_letter(id)).await
    }

    async fn replay(&self, id: DeliveryId, now: Timestamp) -> Result<Option<FunctionRef>, QueueError> {
        self.write("replay", Some(id), move |disk| Ok(disk.replay(id, now))).await
    }

    async fn discard(&self, id: DeliveryId) -> Result<bool, QueueError> {
        self.write("discard", Some(id), move |disk| Ok(disk.discard(id))).await
    }

    async fn keep_function_state(
        &self,
        function: FunctionRef,
        state: Option<FunctionState>,
    ) -> Result<(), QueueError> {
        self.write("keep_function_state", None, move |disk| {
            disk.keep_function_state(function, state);
            Ok(())
        })
        .await
    }

    async fn function_states(&self) -> Result<Vec<FunctionState>, QueueError> {
        self.read("function_states", Disk::function_states).await
    }

    async fn unhanded(&self, limit: u32) -> Result<Unhanded, QueueError> {
        self.read("unhanded", |disk| disk.unhanded(limit)).await
    }

    async fn hand_over(&self, letters: Vec<Handover>, upto: i64) -> Result<u64, QueueError> {
        self.write("hand_over", None, move |disk| disk.hand_over(letters, upto)).await
    }

    async fn usage(&self) -> Result<(u64, u64), QueueError> {
        self.read("usage", |disk| (disk.rows.len() as u64, u64::MAX)).await
    }
}
