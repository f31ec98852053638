//! The operator: replays, discards and clears, takes up what is in quarantine, at moments of the seed's.
//!
//! What the admin API does with a request is done here in the same order, on the real dispatcher and intake. The operator is
//! another process: a walk that was stopped, or cut off by a crash, is taken up again where its last whole page ended.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::sleep;
use triggerd::{
    dispatch::{Deliveries, Dispatcher},
    domain::{
        clock::Clock,
        delivery::{DeadReason, FunctionRef},
        ids::{BindingId, DeliveryId},
    },
    intake::{Again, Intake},
    queue::{Cursor, Direction, Disposal, Item, LetterFilter, LetterOffice, LetterQuery, Queue, QueueError},
};

use crate::{queue::SimQueue, scenario::Way, source, world::World};

/// Where the operator asks.
pub(crate) struct Desk {
    pub(crate) world: Arc<World>,
    pub(crate) queue: SimQueue,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) intake: Intake,
    /// The daemon's own.
    pub(crate) clock: Arc<dyn Clock>,
}

/// A walk over many letters that is not over.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    filter: LetterFilter,
    cursor: Option<Cursor>,
    limit: u32,
}

impl Desk {
    /// Asks for something now and then, until everything is well.
    pub(crate) async fn work(self) {
        let Some(every) = self.world.plan.operator else { return };
        loop {
            let wait = self.world.state().chance.millis(every);
            sleep(wait).await;
            if self.world.state().calm {
                return;
            }
            self.world.step("an operator's request").await;
            let what = self.world.state().chance.below(12);
            let asked = match what {
                0..4 => self.replay_one().await,
                4 | 5 => self.walk(true).await,
                6 => self.discard_one().await,
                7 => self.walk(false).await,
                8 => self.expire().await,
                9 | 10 => self.quarantine().await,
                _ => self.clear().await,
            };
            if let Err(error) = asked {
                self.world.note(format_args!("the operator is told: {error}"));
            }
        }
    }

    /// Everything is well: all that was given up is replayed.
    pub(crate) async fn replay_all(&self) {
        if !self.world.plan.replayed_at_end {
            return;
        }
        self.world.note(format_args!("the operator replays everything"));
        self.world.state().walk = Some(Walk { filter: LetterFilter::default(), cursor: None, limit: 7 });
        while self.world.state().walk.is_some() {
            if self.walk(true).await.is_err() {
                return;
            }
        }
    }

    /// A dead letter's id, if there is one.
    async fn any_letter(&self) -> Result<Option<DeliveryId>, QueueError> {
        let query = LetterQuery { limit: 500, ..LetterQuery::default() };
        let letters = self.queue.dead_letters(&query).await?.letters;
        if letters.is_empty() {
            return Ok(None);
        }
        let chance = &mut self.world.state().chance;
        // The newest most often: its attempt may be running still.
        let letter = if chance.percent(50) { &letters[0] } else { chance.pick(&letters) };
        Ok(Some(letter.delivery.id))
    }

    fn may_be_called(&self, binding: BindingId) -> bool {
        self.world.state().relating.authority.contains_key(&binding)
    }

    /// `POST /v1/dead-letters/{id}/replay`.
    async fn replay(&self, id: DeliveryId) -> Result<Option<FunctionRef>, QueueError> {
        let Some(letter) = self.queue.dead_letter(id).await? else {
            return self.queue.parked_function(id).await;
        };
        if !self.may_be_called(letter.delivery.binding) {
            return Ok(None);
        }
        let now = self.clock.now();
        let replayed = self.queue.replay(id, now).await?;
        if let Some(function) = &replayed {
            self.dispatcher.wake(function);
        }
        Ok(replayed)
    }

    /// One letter, at times twice at once or again while it is on its way.
    async fn replay_one(&self) -> Result<(), QueueError> {
        let Some(id) = self.any_letter().await? else { return Ok(()) };
        let (how, wait) = {
            let chance = &mut self.world.state().chance;
            (chance.below(10), chance.millis((0, 60)))
        };
        match how {
            0..3 => {
                for replayed in join_all([self.replay(id), self.replay(id)]).await {
                    replayed?;
                }
            }
            3..6 => {
                self.replay(id).await?;
                sleep(wait).await;
                self.replay(id).await?;
            }
            _ => drop(self.replay(id).await?),
        }
        Ok(())
    }

    async fn discard_one(&self) -> Result<(), QueueError> {
        if let Some(id) = self.any_letter().await? {
            self.queue.discard(id).await?;
        }
        Ok(())
    }

    fn new_walk(&self) -> Walk {
        let state = &mut *self.world.state();
        let binding = self.world.plan.bindings[0].binding.id;
        let reason = *state.chance.pick(&[DeadReason::Permanent, DeadReason::AttemptsExhausted]);
        let filter = match state.chance.below(4) {
            0 => LetterFilter { binding: Some(binding), ..LetterFilter::default() },
            1 => LetterFilter { reason: Some(reason), ..LetterFilter::default() },
            _ => LetterFilter::default(),
        };
        let limit = u32::try_from(state.chance.between(1, 5)).unwrap_or(1);
        Walk { filter, cursor: None, limit }
    }

    /// `POST /v1/dead-letters/replay` or `/discard`, page by page: stopped midway, taken up again, a page asked for twice.
    async fn walk(&self, replays: bool) -> Result<(), QueueError> {
        let walk = self.world.state().walk.take();
        let mut walk = walk.unwrap_or_else(|| self.new_walk());
        loop {
            self.world.state().walk = Some(walk.clone());
            self.world.step("a page of dead letters").await;
            let (filter, cursor, limit) = (walk.filter.clone(), walk.cursor, walk.limit);
            let query = LetterQuery { filter, direction: Direction::OldestFirst, cursor, limit };
            let page = self.queue.dead_letters(&query).await?;
            let now = self.clock.now();
            let fit: Vec<DeliveryId> = page
                .letters
                .iter()
                .filter(|letter| !replays || self.may_be_called(letter.delivery.binding))
                .map(|letter| letter.delivery.id)
                .collect();
            if replays {
                for replayed in join_all(fit.iter().map(|id| self.queue.replay(*id, now))).await {
                    if let Some(function) = replayed? {
                        self.dispatcher.wake(&function);
                    }
                }
            } else {
                for discarded in join_all(fit.iter().map(|id| self.queue.discard(*id))).await {
                    discarded?;
                }
            }
            let (again, stops, rest) = {
                let state = &mut *self.world.state();
                let sick = !state.calm;
                let chance = &mut state.chance;
                (sick && chance.percent(10), sick && chance.percent(25), chance.millis((0, 300)))
            };
            if !again {
                walk.cursor = page.next;
            }
            self.world.state().walk = walk.cursor.is_some().then(|| walk.clone());
            if stops || walk.cursor.is_none() {
                return Ok(());
            }
            sleep(rest).await;
        }
    }

    /// What the retention does, sooner.
    async fn expire(&self) -> Result<(), QueueError> {
        let before = self.clock.now().since(crate::scenario::EPOCH).mul_f32(0.5);
        let before = crate::scenario::EPOCH.plus(before);
        let count = self.world.state().chance.between(2, 20);
        let act = move |disk: &mut crate::disk::Disk| Ok(disk.expire(Some(before), Some(count)));
        self.queue.write("expire", None, act).await.map(drop)
    }

    /// A binding's parked deliveries are thrown away, or become dead letters.
    async fn clear(&self) -> Result<(), QueueError> {
        let (binding, disposal) = {
            let state = &mut *self.world.state();
            let binding = state.chance.pick(&self.world.plan.bindings).binding.id;
            (binding, *state.chance.pick(&[Disposal::Discard, Disposal::DeadLetter]))
        };
        let left = self.dispatcher.clear(binding, disposal).await?;
        let number = binding.as_bytes()[0];
        self.world.note(format_args!("b{number} is cleared ({disposal:?}); {left} are left"));
        Ok(())
    }

    /// `/v1/quarantine`: an item is tried again, or discarded.
    async fn quarantine(&self) -> Result<(), QueueError> {
        let items = self.queue.quarantine_page(None, 50).await?;
        if items.is_empty() {
            return Ok(());
        }
        let (id, is_discarded) = {
            let chance = &mut self.world.state().chance;
            (chance.pick(&items).id, chance.percent(30))
        };
        let Some(item) = self.queue.quarantine_item(id).await? else { return Ok(()) };
        if is_discarded {
            self.world.state().books.given_away.insert(item.what.bytes);
            return self.queue.unquarantine(id).await.map(drop);
        }
        self.again(&item).await
    }

    /// `POST /v1/quarantine/{id}/retry`.
    async fn again(&self, item: &Item) -> Result<(), QueueError> {
        let way = match item.what.source.as_str() {
            "yes" => Way::Yes,
            "no" => Way::No,
            _ => Way::Twin,
        };
        let legs = self.world.plan.legs.iter();
        let leg = legs.filter(|leg| leg.way == way).find(|leg| source::body(leg) == item.what.bytes);
        for event in leg.into_iter().flat_map(|leg| &leg.events) {
            self.world.state().books.brought_again(*event);
        }
        let came = self.intake.again(&item.what, &source::origin(&self.world, way)).await;
        self.world.note(format_args!("item {} is tried again: {came:?}", item.id));
        match came {
            Again::Taken { .. } => {
                let missing = {
                    let state = self.world.state();
                    leg.and_then(|leg| state.books.unsafe_deliveries(leg, &state.disk))
                };
                if let Some(missing) = missing.filter(|_| !self.world.state().is_crashed()) {
                    let id = item.id;
                    self.world.violation(format_args!("item {id} was taken while {missing} was not safe"));
                }
                self.queue.unquarantine(item.id).await?;
            }
            Again::Hopeless(reason) => {
                let now = self.clock.now();
                self.queue.requarantine(item.id, &reason, now).await?;
            }
            Again::Unsafe => (),
        }
        Ok(())
    }
}
