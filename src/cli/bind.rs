//! `bind` and `unbind`: a binding asked for and followed, or taken back.

use std::time::Duration;

use anyhow::bail;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    admin::wire::{BindingRequest, Pending},
    client::{Answer, Client, ClientError},
    domain::{
        binding::{BindingView, Mode, State, Step, StepState},
        ids::BindingId,
        retry::RetryPolicy,
    },
};

use super::{
    Ended,
    args::{BindArgs, UnbindArgs},
    output::Terminal,
    show::word,
};

const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// The age at which an event is given up where nothing else is asked for.
pub(super) const EVENT_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Fields of the request whose flag has another name or form.
const FLAGS: [(&str, &str); 9] = [
    ("await_result_s", "--await-result"),
    ("timeout_ms", "--timeout"),
    ("max_event_age_s", "--max-event-age"),
    ("rate_limit", "--rate-limit"),
    ("max_attempts", "--max-attempts"),
    ("first_wait_ms", "--first-wait"),
    ("max_wait_ms", "--max-wait"),
    ("ignore_principals", "--ignore-principal"),
    ("dead_letter_function", "--dead-letter-function"),
];

/// Asks for a binding and follows its handshake.
pub(super) async fn bind(
    client: &Client,
    args: Box<BindArgs>,
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    let wait = args.wait.unsigned_abs();
    check_wait(&args)?;
    let asked = client.bind(&request(*args)).await.map_err(in_flags)?;
    let mut shown = Shown::default();
    shown.show(&asked.value, terminal)?;
    let settled = |view: &BindingView| matches!(view.state, State::Active | State::Rejected);
    let mut last = asked;
    let followed = follow(client, last.value.id, wait, |seen| {
        let done = seen.as_ref().is_none_or(|answer| settled(&answer.value));
        if let Some(answer) = seen {
            shown.show(&answer.value, terminal)?;
            last = answer;
        } else {
            last.json = json!({"id": last.value.id, "state": "gone"});
            last.value.state = State::Unbinding;
        }
        Ok(done)
    })
    .await?;
    if terminal.json() {
        terminal.document(&last.json)?;
    }
    let id = last.value.id;
    Ok(match last.value.state {
        State::Active => Ended::Done,
        State::Rejected => {
            terminal.aside(format!(
                "error: the platform refused; take the binding back by `triggerd unbind {id}`"
            ))?;
            Ended::Failed
        }
        State::Unbinding => {
            terminal.aside("error: the binding was taken back meanwhile")?;
            Ended::Failed
        }
        _ if followed == Followed::NotAtAll => Ended::Done,
        state => {
            terminal
                .aside(format!("the binding is still {state}; look again by `triggerd bindings {id}`"))?;
            Ended::StillWaiting
        }
    })
}

/// Takes a binding back, and waits until it is gone if that is asked.
pub(super) async fn unbind(
    client: &Client,
    args: UnbindArgs,
    terminal: &mut Terminal,
) -> anyhow::Result<Ended> {
    let pending = if args.discard { Pending::Discard } else { Pending::DeadLetter };
    let asked = client.unbind(args.id, pending).await?;
    let mut shown = Shown::default();
    shown.show(&asked.value, terminal)?;
    let mut last: Option<Value> = Some(asked.json);
    let wait = args.wait.map_or(Duration::ZERO, SignedDuration::unsigned_abs);
    let followed = follow(client, args.id, wait, |seen| {
        if let Some(answer) = &seen {
            shown.show(&answer.value, terminal)?;
        }
        last = seen.map(|answer| answer.json);
        Ok(last.is_none())
    })
    .await?;
    let gone = last.is_none();
    if terminal.json() {
        terminal.document(&last.unwrap_or_else(|| json!({"id": args.id, "state": "gone"})))?;
    } else if gone {
        terminal.line(format!("binding {} is gone", args.id))?;
    }
    if followed == Followed::TimeIsOver {
        terminal.aside(format!("it is still on its way; look again by `triggerd bindings {}`", args.id))?;
        return Ok(Ended::StillWaiting);
    }
    Ok(Ended::Done)
}

/// A result that may come after its event was given up: said here, where it can be said which flag is which.
fn check_wait(args: &BindArgs) -> anyhow::Result<()> {
    let age = args.max_event_age.unwrap_or(EVENT_AGE);
    let when_not_given = if args.max_event_age.is_none() { ", which is 24h when not given" } else { "" };
    if let Some(wait) = args.await_result.filter(|wait| *wait > age) {
        bail!(
            "--await-result (`await_result_s`) is {} s, longer than --max-event-age (`max_event_age_s`, {} s{when_not_given}): \
             the event would be given up before its result → make one shorter or the other longer",
            wait.as_secs(),
            age.as_secs()
        );
    }
    Ok(())
}

/// What the API says of a field of the request, with the flag that it comes from.
fn in_flags(error: ClientError) -> anyhow::Error {
    let flags: Vec<_> = match &error {
        ClientError::Refused { detail, .. } => {
            FLAGS.iter().filter(|(field, _)| names(detail, field)).map(|(_, flag)| *flag).collect()
        }
        _ => Vec::new(),
    };
    let error = anyhow::Error::from(error);
    if flags.is_empty() { error } else { error.context(flags.join(", ")) }
}

/// Whether the text has this word.
fn names(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|part| part == word)
}

fn request(args: BindArgs) -> BindingRequest {
    let default = RetryPolicy::default();
    let millis = |time: Option<SignedDuration>| time.map(whole_millis);
    let own_retry = args.max_attempts.is_some() || args.first_wait.is_some() || args.max_wait.is_some();
    let retry = own_retry.then(|| RetryPolicy {
        max_attempts: args.max_attempts.unwrap_or(default.max_attempts),
        first_wait_ms: millis(args.first_wait).unwrap_or(default.first_wait_ms),
        max_wait_ms: millis(args.max_wait).unwrap_or(default.max_wait_ms),
    });
    let (platform, function) = args.function;
    BindingRequest {
        storage: args.storage,
        bucket: args.bucket,
        events: args.events,
        prefix: args.prefix,
        suffix: args.suffix,
        glob: args.glob,
        platform: Some(platform),
        function,
        mode: args.asynchronous.then_some(Mode::Async),
        await_result_s: args.await_result.map(|wait| wait.unsigned_abs().as_secs()),
        payload: args.payload,
        retry,
        timeout_ms: millis(args.timeout),
        max_event_age_s: args.max_event_age.map(|age| age.unsigned_abs().as_secs()),
        concurrency: args.concurrency,
        rate_limit: args.rate_limit,
        ignore_principals: args.ignore_principals,
        dead_letter_function: args.dead_letter_function,
        twin: args.twin,
    }
}

fn whole_millis(time: SignedDuration) -> u64 {
    u64::try_from(time.unsigned_abs().as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Followed {
    NotAtAll,
    ToTheEnd,
    TimeIsOver,
}

/// Looks at the binding again and again, none when it is gone, until `seen` says that it is enough.
async fn follow(
    client: &Client,
    id: BindingId,
    wait: Duration,
    mut seen: impl FnMut(Option<Answer<BindingView>>) -> anyhow::Result<bool>,
) -> anyhow::Result<Followed> {
    if wait.is_zero() {
        return Ok(Followed::NotAtAll);
    }
    let looks = async {
        loop {
            let found = match client.binding(id).await {
                Ok(answer) => Some(answer),
                Err(error) if error.is_not_found() => None,
                // The daemon goes on with it; its database may be back in a moment.
                Err(ClientError::Refused { status: 503, .. }) => {
                    tokio::time::sleep(BETWEEN_LOOKS).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if seen(found)? {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    match tokio::time::timeout(wait, looks).await {
        Ok(ended) => ended.map(|()| Followed::ToTheEnd),
        Err(_) => Ok(Followed::TimeIsOver),
    }
}

/// What was printed of a binding, so that only what changed is printed again.
#[derive(Default)]
struct Shown {
    state: Option<(State, Option<String>)>,
    steps: Vec<Step>,
}

impl Shown {
    fn show(&mut self, view: &BindingView, terminal: &mut Terminal) -> std::io::Result<()> {
        if terminal.json() {
            return Ok(());
        }
        for step in &view.steps {
            let same =
                |old: &Step| old.name == step.name && old.state == step.state && old.error == step.error;
            if !self.steps.iter().any(same) {
                terminal.line(step_line(step))?;
            }
        }
        self.steps.clone_from(&view.steps);
        let state = (view.state, view.reason.clone());
        if self.state.as_ref() != Some(&state) {
            let reason = view.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            terminal.line(format!("binding {} is {}{reason}", view.id, view.state))?;
            self.state = Some(state);
        }
        Ok(())
    }
}

/// One step of a handshake, for a person.
pub(super) fn step_line(step: &Step) -> String {
    let mark = match step.state {
        StepState::Done => "done",
        StepState::Waiting => "wait",
        StepState::Failed => "FAIL",
    };
    let error = step.error.as_ref().map(|error| format!("  {error}")).unwrap_or_default();
    format!("  {mark}  {:12}{error}", word(&step.name)).trim_end().to_owned()
}
