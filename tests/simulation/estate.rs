//! What is held against the books of handler functions, which are given dead letters.
//!
//! * Each dead letter of a binding that has a handler function is given to it, unless somebody replays or discards it first:
//!   at the end each was, or waits for a paused binding.
//! * Never two calls about one death at once, none about another one than its delivery is for, and none after the
//!   handler's yes was recorded.
//! * Nothing that happens to a handler's delivery makes a dead letter, or calls a handler about that.

use std::time::Duration;

use triggerd::{domain::ids::DeliveryId, platform::Call};

use crate::{books::Books, world::State};

/// A maximum age at which nothing dies of itself in a run.
const LONG: Duration = Duration::from_hours(1);

/// A delivery to a handler function.
#[derive(Debug)]
pub(crate) struct Handed {
    /// What it is about.
    pub(crate) letter: DeliveryId,
    running: bool,
    said_yes: bool,
    /// It was recorded, or somebody took the letter away.
    pub(crate) is_over: bool,
}

impl Handed {
    /// What is known is known of one life.
    pub(crate) fn begin_anew(&mut self) {
        (self.running, self.said_yes, self.is_over) = (false, false, false);
    }

    pub(crate) fn ended(&mut self, well: bool) {
        self.running = false;
        self.said_yes |= well;
    }
}

impl Books {
    /// A handler function is called about a letter; what is wrong with that.
    pub(crate) fn handler_called(
        &mut self,
        letter: DeliveryId,
        call: &Call<'_>,
        excused: bool,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        if call.letter.is_none_or(|told| told.delivery != letter) {
            wrong.push("a handler is called and not told about which letter".to_owned());
        }
        if call.letter.is_some_and(|told| DeliveryId::of_letter(letter, told.died_at) != call.delivery.id) {
            wrong.push("a handler is told of another death".to_owned());
        }
        if self.handed.contains_key(&letter) || !self.tracks.contains_key(&letter) {
            wrong.push("a handler is called about something that was never an event's delivery".to_owned());
        }
        let anew = Handed { letter, running: false, said_yes: false, is_over: false };
        let handed = self.handed.entry(call.delivery.id).or_insert(anew);
        if handed.running {
            wrong.push("two calls of it at once".to_owned());
        }
        if handed.is_over && !excused {
            wrong.push("a call after its end was recorded".to_owned());
        }
        if handed.said_yes && !excused {
            wrong.push("a call after the handler had said yes".to_owned());
        }
        handed.running = true;
        wrong
    }
}

impl State {
    /// The dead letters that no handler function was given though there is one.
    pub(crate) fn unhanded(&self) -> Vec<String> {
        let mut open = Vec::new();
        for (id, (position, letter)) in &self.disk.dead {
            let name = self.books.name(*id);
            if letter.delivery.letter.is_some() {
                open.push(format!("a delivery to a handler function became the dead letter {name}"));
            }
            // Where the binding is gone, the leave to call is, too.
            let binding = self.relating.authority.get(&letter.delivery.binding);
            if binding.is_none_or(|binding| binding.spec.dead_letter_function.is_none()) {
                continue;
            }
            let handler = DeliveryId::of_letter(*id, letter.died_at);
            // It may have become too old, in truth or by a jump that nobody saw.
            let was_given = self.books.handed.contains_key(&handler)
                || self.disk.rows.contains_key(&handler)
                || self.books.forgotten.contains(&handler)
                || self.books.unseen_jump
                || binding.is_some_and(|binding| binding.spec.max_event_age() < LONG);
            if *position > self.disk.handed {
                open.push(format!("nobody has looked at the dead letter {name}"));
            } else if !was_given {
                open.push(format!("its handler function was not given the dead letter {name}"));
            }
        }
        open
    }
}
