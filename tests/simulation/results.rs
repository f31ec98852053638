//! What platforms report of asynchronous calls that they had accepted: before their answer, late, twice, never, forged.
//!
//! An execution is the platform's: it survives the crashes of the process, and is reported again until it is heard. What
//! the composition root does with a report (`app::results`: token, node, dispatch) is done here in the same order.
//!
//! Held against the books: an awaited delivery is settled only when a report, or the call itself, said that it succeeded;
//! it is called only when it is on disk; after its success was recorded it is not called again; what is forged is refused.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use triggerd::{
    dispatch::{
        Bindings, Dispatcher, Report, Taken,
        callback::{Callbacks, Token},
    },
    domain::outcome::{Class, Outcome},
    platform::Call,
};

use crate::{
    bindings::SimCatalog,
    handshake::NODE,
    world::{State, World},
};

/// Where results are sent to.
pub(crate) fn callbacks() -> Callbacks {
    Callbacks::new("http://here", NODE)
}

/// An asynchronous call under way at a platform, until its result was heard.
#[derive(Debug, Clone)]
pub(crate) struct Execution {
    url: String,
    /// Of the function, in the run's own time.
    ends: Duration,
    class: Class,
    /// Reports that are still to be heard.
    reports: u32,
    /// Its report is on its way.
    sending: bool,
}

impl State {
    /// A call is accepted: it ends at some time, or nobody ever hears of it.
    pub(crate) fn accept(&mut self, call: &Call<'_>) {
        let asks = call.binding.spec.await_result().is_some() && call.delivery.letter.is_none();
        let Some(url) = call.callback_url.filter(|_| asks) else { return };
        let within = *self.chance.pick(&[(0, 0), (0, 40), (50, 3_000), (3_000, 25_000)]);
        let ends = self.elapsed() + self.chance.millis(within);
        let class = *self.chance.pick(&[Class::Ok, Class::Ok, Class::Ok, Class::FunctionFault]);
        let reports = *self.chance.pick(&[1, 1, 1, 1, 1, 2, 2, 0]);
        self.executions.push(Execution { url: url.to_owned(), ends, class, reports, sending: false });
    }

    /// The next execution that has ended, or in how long one will.
    fn ended(&mut self) -> Result<(usize, Execution), Duration> {
        let elapsed = self.elapsed();
        let open = self.executions.iter_mut().enumerate().filter(|(_, one)| one.reports > 0 && !one.sending);
        let Some((number, next)) = open.min_by_key(|(_, one)| one.ends) else {
            return Err(Duration::from_hours(1));
        };
        if next.ends > elapsed {
            return Err(next.ends.saturating_sub(elapsed));
        }
        next.sending = true;
        Ok((number, next.clone()))
    }
}

/// Reports what ends, in this life.
pub(crate) async fn report(world: Arc<World>, dispatcher: Dispatcher) {
    for execution in &mut world.state().executions {
        execution.sending = false;
    }
    loop {
        let ended = world.state().ended();
        match ended {
            Ok((number, execution)) => {
                let (world, dispatcher) = (Arc::clone(&world), dispatcher.clone());
                tokio::spawn(async move { send(&world, &dispatcher, number, &execution).await });
            }
            Err(wait) => drop(timeout(wait, world.accepted.notified()).await),
        }
    }
}

/// Sends a report until it is heard.
async fn send(world: &Arc<World>, dispatcher: &Dispatcher, number: usize, execution: &Execution) {
    let forged = world.state().chance.percent(10);
    if forged {
        forge(world, dispatcher, execution).await;
    }
    loop {
        world.step("a result").await;
        let heard = take(world, dispatcher, &execution.url, execution.class).await;
        world.step("a result's answer").await;
        if heard {
            break;
        }
        let wait = world.state().chance.millis((50, 3_000));
        sleep(wait).await;
    }
    let state = &mut *world.state();
    let again = state.elapsed() + state.chance.millis((0, 4_000));
    let one = &mut state.executions[number];
    (one.reports, one.sending, one.ends) = (one.reports - 1, false, again);
    world.accepted.notify_one();
}

/// What a daemon does with a report; whether it is not to be sent again.
async fn take(world: &Arc<World>, dispatcher: &Dispatcher, url: &str, class: Class) -> bool {
    let text = url.rsplit('/').next().unwrap_or_default();
    let token = Token::parse(text).unwrap();
    let found = SimCatalog(Arc::clone(world)).binding(token.binding).await;
    let binding = match found {
        Ok(Some(binding)) if token.is_authentic(&binding) && token.node == NODE => binding,
        Ok(_) => return true,
        Err(_) => return false,
    };
    {
        let state = &mut *world.state();
        let row = state.disk.rows.get(&token.delivery);
        if class == Class::Ok {
            state.books.succeeded(token.delivery);
        } else if row.is_some_and(|row| row.delivery.number() == token.attempt) {
            state.books.failed(token.delivery, token.attempt);
        }
    }
    let outcome = Outcome::new(class, None, "reported");
    let (delivery, attempt) = (token.delivery, token.attempt);
    let report = Report { delivery, attempt, outcome, took: Duration::from_millis(5) };
    let came = dispatcher.result(binding, report).await;
    if matches!(came, Ok(Taken::Delivered)) {
        world.state().books.settled_by_report(delivery);
    }
    let name = world.name(delivery);
    world.note(format_args!("{name}'s result of attempt {attempt}, {class:?}: {came:?}"));
    matches!(came, Ok(Taken::Delivered | Taken::Failed | Taken::Outdated | Taken::Late | Taken::Unknown))
}

/// Somebody who has seen a callback's address sends another's result.
async fn forge(world: &Arc<World>, dispatcher: &Dispatcher, execution: &Execution) {
    let url = &execution.url;
    let text = url.rsplit('/').next().unwrap_or_default();
    let attempt = Token::parse(text).unwrap().attempt;
    let forged = text.replacen(&format!(".{attempt}."), &format!(".{}.", attempt + 1), 1);
    let token = Token::parse(&forged).unwrap();
    let binding = SimCatalog(Arc::clone(world)).binding(token.binding).await;
    if let Ok(Some(binding)) = binding
        && token.is_authentic(&binding)
    {
        world.violation(format_args!("a forged result is believed"));
        take(world, dispatcher, &forged, Class::Ok).await;
    }
}
