//! Requests that may touch very many rows, between their steps.
//!
//! A transaction holds one step of one of them at most, whatever else is in it: so many as there are, none delays the
//! commits of others by more than that. They stand in lines, one for each binding: within a line the second begins when the
//! first has ended (a hold and a release side by side would undo each other's steps without end), and the lines take turns,
//! so that a small one does not wait for all steps of a large one.

use std::collections::VecDeque;

use super::command::{Command, Work};
use crate::domain::ids::BindingId;

/// All lines, the next to have its turn first; none is empty.
#[derive(Debug, Default)]
pub(super) struct Long(VecDeque<VecDeque<Command>>);

impl Long {
    /// Puts a request at the end of its line.
    pub(super) fn add(&mut self, command: Command) {
        let key = line_of(&command.work);
        let same =
            |line: &&mut VecDeque<Command>| line.front().map(|first| line_of(&first.work)) == Some(key);
        match self.0.iter_mut().find(same) {
            Some(line) => line.push_back(command),
            None => self.0.push_back(VecDeque::from([command])),
        }
    }

    /// Takes the request whose turn it is; [`Self::ended`] must follow before anything is added.
    pub(super) fn next(&mut self) -> Option<Command> {
        self.0.front_mut()?.pop_front()
    }

    /// A step is done: of what is left of its request, if that has more of them, the next comes after those of the other
    /// lines.
    pub(super) fn ended(&mut self, unfinished: Option<Command>) {
        let Some(mut line) = self.0.pop_front() else { return };
        if let Some(command) = unfinished {
            line.push_front(command);
        }
        if !line.is_empty() {
            self.0.push_back(line);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Requests of no binding share a line.
fn line_of(work: &Work) -> Option<BindingId> {
    match work {
        Work::Hold { binding, .. } | Work::Dispose { binding, .. } => Some(*binding),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::domain::clock::Timestamp;

    fn hold(n: u8, held: bool) -> Command {
        let now = Timestamp::from_micros(0);
        let work = Work::Hold { binding: BindingId::from_bytes([n; 16]), held, now };
        Command { work, reply: oneshot::channel().0, so_far: 0 }
    }

    fn told(command: &Command) -> (u8, bool) {
        match &command.work {
            Work::Hold { binding, held, .. } => (binding.as_bytes()[0], *held),
            _ => (0, false),
        }
    }

    #[test]
    fn lines_take_turns_and_within_one_the_second_waits_for_the_first() {
        let mut long = Long::default();
        for command in [hold(1, true), hold(1, false), hold(2, true)] {
            long.add(command);
        }
        // The first of each line needs three steps, the last one.
        let (mut steps, mut order) = (std::collections::BTreeMap::new(), Vec::new());
        while let Some(command) = long.next() {
            let what = told(&command);
            order.push(what);
            let done: &mut u32 = steps.entry(what).or_default();
            *done += 1;
            let more = what.1 && *done < 3;
            long.ended(more.then_some(command));
        }
        let (one, two, last) = ((1, true), (2, true), (1, false));
        assert_eq!(order, [one, two, one, two, one, two, last]);
        assert!(long.is_empty());
    }
}
