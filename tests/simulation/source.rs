//! The simulated sources: a task for each message on its way, until it is acknowledged.
//!
//! A message comes once or twice, is sent again when it comes back unacknowledged, when the connection breaks and when
//! the process dies; a source of the kind `no` never sends again.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::{sync::mpsc, time::sleep};
use triggerd::{
    domain::{event::KeyEncoding, event::StorageName},
    source::{Ack, Acknowledged, Message, Origin, Redelivers},
};

use crate::{
    scenario::{Leg, Way},
    world::World,
};

/// The body of a message, the same each time it is sent.
pub(crate) fn body(leg: &Leg) -> Vec<u8> {
    if leg.events.is_empty() {
        return if leg.oversize { b"{\"Records\":[".to_vec() } else { b"not JSON".to_vec() };
    }
    let records: Vec<String> = leg.events.iter().map(|number| record(*number)).collect();
    format!("{{\"Records\":[{}]}}", records.join(",")).into_bytes()
}

fn record(number: u32) -> String {
    format!(
        r#"{{"eventVersion":"2.0","eventTime":"2025-11-21T15:46:40.000Z","eventName":"s3:ObjectCreated:Put","userIdentity":{{"principalId":"alice"}},"s3":{{"bucket":{{"name":"photos"}},"object":{{"key":"e{number}","size":7,"sequencer":"{number:016X}"}}}}}}"#
    )
}

/// The event's number, from its object's key.
pub(crate) fn number_of(key: &str) -> u32 {
    key.trim_start_matches('e').parse().unwrap_or(u32::MAX)
}

/// The source by which messages of this way come.
pub(crate) fn origin(world: &World, way: Way) -> Origin {
    let (name, redelivers) = match way {
        Way::Yes => ("yes", Redelivers::Yes),
        Way::No => ("no", Redelivers::No),
        Way::Twin => ("twin", Redelivers::Twin),
    };
    Origin {
        source: name.into(),
        storage: StorageName::new("default"),
        encoding: KeyEncoding::Form,
        redelivers,
        ack_within: world.plan.ack_within,
    }
}

/// Where the sources send to; none once they are stopped.
pub(crate) type Inbox = Arc<Mutex<Option<mpsc::Sender<Message>>>>;

/// The sources of one life.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) world: Arc<World>,
    pub(crate) inbox: Inbox,
}

enum Heard {
    Acknowledged,
    GivenBack,
    /// The connection broke, or this copy waits no longer: nobody heard anything.
    Nothing,
}

impl Sources {
    /// Sends what was not acknowledged yet, each in its time.
    pub(crate) fn start(&self) {
        for leg in self.world.state().books.open_legs() {
            let sources = self.clone();
            tokio::spawn(async move { sources.bring(leg).await });
        }
    }

    async fn bring(&self, leg: usize) {
        let plan = &self.world.plan.legs[leg];
        let wait = plan.at.saturating_sub(self.world.state().elapsed());
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let twice = self.world.state().chance.percent(self.world.plan.twice);
        if twice && plan.way == Way::Yes {
            let (second, after) = (self.clone(), self.world.state().chance.millis((0, 300)));
            tokio::spawn(async move {
                sleep(after).await;
                second.send_once(leg).await;
            });
        }
        loop {
            match self.send_once(leg).await {
                Some(Heard::Acknowledged) | None => return,
                Some(Heard::GivenBack) if plan.way != Way::Yes => return,
                Some(Heard::GivenBack | Heard::Nothing) => {
                    let wait = self.world.state().chance.millis((1, 2_000));
                    sleep(wait).await;
                }
            }
            if !self.world.state().books.open_legs().contains(&leg) {
                return;
            }
        }
    }

    /// Sends a copy and waits for what becomes of it; none when the sources are stopped.
    async fn send_once(&self, leg: usize) -> Option<Heard> {
        let plan = &self.world.plan.legs[leg];
        let (ack, acknowledged) = Ack::new(None);
        let message = self.message(plan, ack);
        let inbox = self.inbox.lock().unwrap().clone()?;
        self.world.step("a message").await;
        {
            let state = &mut *self.world.state();
            let elapsed = state.elapsed();
            state.books.sent(leg, elapsed);
        }
        let pressed = message.pressed;
        self.world.note(format_args!("message {leg} {:?} {:?} pressed {pressed}", plan.way, plan.events));
        inbox.send(message).await.ok()?;
        drop(inbox);
        let heard = self.hear(plan.way, acknowledged).await;
        if self.world.state().is_crashed() {
            std::future::pending::<()>().await;
        }
        match heard {
            Heard::Acknowledged => {
                self.world.note(format_args!("message {leg} is acknowledged"));
                let wrong = self.world.state().acknowledged(leg);
                if let Some(wrong) = wrong {
                    self.world.violation(format_args!("{wrong}"));
                }
            }
            Heard::GivenBack => {
                self.world.note(format_args!("message {leg} comes back"));
                self.world.state().given_back(leg);
            }
            Heard::Nothing => self.world.note(format_args!("message {leg} is heard of no more")),
        }
        Some(heard)
    }

    async fn hear(&self, way: Way, acknowledged: Acknowledged) -> Heard {
        tokio::select! {
            biased;
            // A webhook that never comes again hears its answer on the connection it came by, or not at all.
            () = self.world.hiccup.notified(), if way == Way::Yes => Heard::Nothing,
            answer = acknowledged => match answer {
                Ok(()) => Heard::Acknowledged,
                Err(_dropped) => Heard::GivenBack,
            },
        }
    }

    fn message(&self, leg: &Leg, ack: Ack) -> Message {
        let origin = origin(&self.world, leg.way);
        let mut state = self.world.state();
        Message {
            bytes: Bytes::from(body(leg)),
            oversize: leg.oversize.then_some(1 << 30),
            origin: Arc::new(origin),
            received_at: state.now(),
            pressed: state.sick(self.world.plan.pressed),
            ack,
        }
    }
}
