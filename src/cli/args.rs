//! The arguments, and what `--help` teaches.

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Args, CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use jiff::{SignedDuration, Span, SpanRelativeTo};

use crate::{
    admin::wire::LetterRequest,
    domain::{
        binding::Payload,
        clock::Timestamp,
        delivery::DeadReason,
        ids::{BindingId, DeliveryId},
        spec::MAX_AWAIT_S,
    },
};

const EXAMPLES: &str = "\
Examples:
  triggerd check
      Look at the config and at every part that it names, and say what to do.
  triggerd bind --bucket photos --event 's3:ObjectCreated:*' --prefix in/ --function local/thumb
      Call the function `thumb` of the platform `local` for every object that appears under in/.
  triggerd match --bucket photos --key in/cat.jpg
      Say which bindings would fire for this object, and why the others would not.
  triggerd outcomes
      Show what fired lately, and what came of it.
  triggerd dead-letters list --function local/thumb --since 2h
  triggerd dead-letters replay --function local/thumb --since 2h
      Show what was given up, and try it again once the function is mended.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 still on its way when the wait was over.";

/// Fires functions from object-storage events.
#[derive(Debug, Parser)]
#[command(name = "triggerd", version, propagate_version = true, after_help = EXAMPLES, max_term_width = 110)]
pub(super) struct Cli {
    /// The config file.
    #[arg(long, global = true, env = "TRIGGERD_CONFIG", default_value = "/etc/triggerd/triggerd.toml")]
    pub(super) config: PathBuf,

    /// Print JSON: what the admin API answered.
    #[arg(long, global = true)]
    pub(super) json: bool,

    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon until it is told to stop (systemd does this).
    Run,
    /// Look at the config and at every part that it names; report everything that is wrong at once.
    ///
    /// Each line begins with ok, warn or FAIL. Changes nothing. Fails when a line does.
    Check,
    /// Bring the databases to the schema of this version. The daemon must be stopped.
    Migrate,
    /// Bind a function to events of a bucket, and follow the handshake until the binding is active.
    #[command(after_help = BIND_EXAMPLES)]
    Bind(Box<BindArgs>),
    /// Take a binding back.
    ///
    /// What is parked for it becomes dead letters, unless --discard forgets it.
    Unbind(UnbindArgs),
    /// List the bindings, or show one with the steps of its handshake.
    Bindings(BindingsArgs),
    /// List, show, replay or discard the deliveries that were given up.
    DeadLetters(DeadLettersArgs),
    /// Look this host's queue over, or move it to another host. The daemon must be stopped.
    #[command(after_help = QUEUE_EXAMPLES)]
    Queue(QueueArgs),
    /// List, show, try again or discard what came in and could never be processed.
    Quarantine(QuarantineArgs),
    /// Say which bindings would fire for an event, and why the others would not. Fires nothing.
    Match(MatchArgs),
    /// Show what fired lately on this daemon, and what came of it; newest first.
    #[command(after_help = OUTCOMES)]
    Outcomes(OutcomesArgs),
    /// Show how each function flows on this daemon: what its last calls came to, what waits, its limits
    /// and circuit breaker.
    #[command(after_help = FUNCTIONS)]
    Functions,
    /// List the daemons that share the relations, or forget one that will not return.
    Nodes(NodesArgs),
    /// Print a script that completes these commands in a shell.
    ///
    /// For example: triggerd completions bash > /etc/bash_completion.d/triggerd
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

const BIND_EXAMPLES: &str = "\
Examples:
  triggerd bind --bucket photos --event 's3:ObjectCreated:*' --prefix in/ --suffix .jpg --function local/thumb
  triggerd bind --bucket logs --event 's3:ObjectCreated:*' --glob 'in/**/*.gz' --function local/etl --async
  triggerd bind --bucket films --event 's3:ObjectCreated:*' --function local/encode --async --await-result 2h
      Tried again when the platform reports a failure, or nothing in two hours. `triggerd functions` shows what is
      AWAITING.
  triggerd bind --bucket photos --event s3:ObjectRemoved:Delete --function local/cleanup --wait 0s

A --dead-letter-function is tried as the binding's own retries say, and then given up: the letter stays a dead letter,
but no command gives it to that function again. A call that is not answered within --timeout is given up here and goes on
at the platform, and the next attempt beside it: let --timeout be longer than the platform's own limit. With --async the
answer only says that the event was taken; how long the result may take is --await-result.

The same command again gives the same binding. To change its settings, unbind it and bind again.";

const OUTCOMES: &str = "\
Outcomes:
  ok                 the function succeeded; DETAIL is the beginning of its result
  accepted           the platform took the event, and runs the function later (--async)
  callback_succeeded, callback_failed
                     what the platform reported of such a function. With --await-result success
                     settles the delivery, and a failure is tried again as function_fault is;
                     without it, nothing more comes of either
  no_result          nothing was reported within --await-result; tried again as function_fault is
  callback_late      the function succeeded after its delivery was given up; see the dead letter
  handler_accepted, handler_ok, …
                     what came of giving a dead letter to its --dead-letter-function
  unmatched          no binding fires for this event; `triggerd match` says why
  function_fault     the function failed; tried again until its attempts are used up
  throttled          the platform had no room; tried again, costs no attempt
  platform_fault     the platform failed or did not answer; tried again, costs no attempt
  binding_broken     the platform does not know the rule; it is mended, then tried again
  permanent          no further attempt can help; a dead letter
  interrupted        cut off when this daemon stopped; called again at its start
  dead               given up; DETAIL is why, and `triggerd dead-letters` has it
  loop_suspected     a function seems to fire itself

AT is when an attempt began, TOOK how long it was under way. Lines are in the order in which things ended.";

const FUNCTIONS: &str = "\
Columns:
  FUNCTION  the functions that were called since this daemon started, or have deliveries parked
  LAST      what the last call came to, and when; how many failed in a row, whosever fault (words: `help outcomes`)
  PARKED    deliveries on disk that wait for their next attempt, or for a free permit
  HELD      deliveries on disk that wait for their binding to be mended, or taken back
  AWAITING  deliveries on disk whose call was accepted, and whose result is waited for (--await-result)
  OLDEST    age of the one that is on disk longest
  DRAINS    parked deliveries that left the disk in a second, over the last minute: delivered, or given up (DIED)
  DIED      deliveries given up in a second, over the last minute; `triggerd dead-letters list --function` has them
  EMPTY IN  when nothing is parked any more, at the pace of the last minute; - when it does not shrink
  RUNNING   attempts under way now
  AT ONCE   how many may run at once now, of how many its bindings allow; fewer after 429 and 503
  RATE      how many calls in a second its bindings allow
  BREAKER   closed: calls go as they come. open: none goes until a probe asks again. half_open: the probe is next, or
            on its way. A function's own failures do not open it: see LAST and DIED for those";

const QUEUE_EXAMPLES: &str = "\
Examples:
  triggerd queue verify
      Read everything that is parked, dead or in quarantine, and say what is wrong with the file.
  triggerd queue export queue.jsonl
  triggerd queue import queue.jsonl
      On the old host, then on the new one: move parked deliveries, dead letters and quarantine.
  triggerd queue export - | ssh new-host triggerd queue import -
      The same in one step. Do not start the old daemon again with the queue that was moved.";

/// What to do with the queue's file.
#[derive(Debug, Args)]
pub(super) struct QueueArgs {
    #[command(subcommand)]
    pub(super) command: QueueCommand,
}

/// What to do with the queue's file.
#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// Look the file over: its pages, each row, and how they belong together. Changes nothing.
    ///
    /// Each line begins with ok or FAIL. Fails when a line does.
    Verify,
    /// Write everything that the queue holds to a file, or to standard output (-). Changes nothing.
    ///
    /// Fails, with everything else written, when rows had to be left out because they cannot be read.
    Export {
        /// The file, which must not exist; - for standard output.
        file: PathBuf,
    },
    /// Take over what an export holds: all of it or nothing. What is here already is left as it is.
    Import {
        /// The file; - for standard input.
        file: PathBuf,
    },
}

/// A binding to be asked for.
#[derive(Debug, Args)]
pub(super) struct BindArgs {
    /// The bucket.
    #[arg(long)]
    pub(super) bucket: String,
    /// An event or a group of events, such as 's3:ObjectCreated:*'; can be given several times.
    #[arg(long = "event", required = true, value_name = "NAME")]
    pub(super) events: Vec<String>,
    /// Only keys that begin with this.
    #[arg(long)]
    pub(super) prefix: Option<String>,
    /// Only keys that end with this.
    #[arg(long)]
    pub(super) suffix: Option<String>,
    /// Only keys like this, in the place of prefix and suffix: `*` and `?` within a path segment, `**` across them.
    #[arg(long, conflicts_with_all = ["prefix", "suffix"])]
    pub(super) glob: Option<String>,
    /// The function, as PLATFORM/FUNCTION.
    #[arg(long, value_name = "PLATFORM/FUNCTION", value_parser = parse_function)]
    pub(super) function: (String, String),
    /// The storage's name in the config, where there are several.
    #[arg(long)]
    pub(super) storage: Option<String>,
    /// Let the platform take the event and run the function later; its result is shown when it comes.
    #[arg(long = "async")]
    pub(super) asynchronous: bool,
    /// Wait for that result for this long, and try again when none has come or the function has failed. Whole seconds,
    /// 1s to 7d, and no longer than --max-event-age. Without it, what the platform has accepted is delivered.
    #[arg(long, requires = "asynchronous", value_parser = parse_await, value_name = "TIME")]
    pub(super) await_result: Option<SignedDuration>,
    /// The form in which the function gets the event; cloudevents-structured when not given.
    #[arg(long, value_parser = parse_payload, value_name = "cloudevents-structured|cloudevents-binary|s3-records")]
    pub(super) payload: Option<Payload>,
    /// How long the platform's answer to a call is waited for (with --async: that it has taken the event, not the
    /// function's result); 30s when not given.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(super) timeout: Option<SignedDuration>,
    /// The age at which an event is given up, in whole seconds; 24h when not given.
    #[arg(long, value_parser = parse_seconds, value_name = "TIME")]
    pub(super) max_event_age: Option<SignedDuration>,
    /// Most calls of the function at once; 16 when not given.
    #[arg(long, value_name = "NUMBER")]
    pub(super) concurrency: Option<u32>,
    /// Most calls of the function in a second, such as 50 or 0.5; what exceeds it waits. No limit when not given.
    #[arg(long, value_name = "NUMBER")]
    pub(super) rate_limit: Option<f64>,
    /// Failed attempts after which a delivery becomes a dead letter; 10 when not given.
    #[arg(long, value_name = "NUMBER")]
    pub(super) max_attempts: Option<u32>,
    /// The bound of the first wait between attempts; 1s when not given. It doubles each time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(super) first_wait: Option<SignedDuration>,
    /// The bound of every wait between attempts; 5m when not given.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(super) max_wait: Option<SignedDuration>,
    /// A user whose doings do not fire: the one that the function writes with. Can be given several times.
    #[arg(long = "ignore-principal", value_name = "USER")]
    pub(super) ignore_principals: Vec<String>,
    /// The function, on the same platform, that is given what this one has finally failed at.
    #[arg(long, value_name = "FUNCTION")]
    pub(super) dead_letter_function: Option<String>,
    /// Have the storage's fast targets bring its events too (twin targets).
    #[arg(long)]
    pub(super) twin: bool,
    /// How long to follow the handshake; 0s does not.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "TIME")]
    pub(super) wait: SignedDuration,
}

/// A binding to be taken back.
#[derive(Debug, Args)]
pub(super) struct UnbindArgs {
    /// The binding.
    pub(super) id: BindingId,
    /// Forget what this daemon has parked for it, in the place of making dead letters of it.
    #[arg(long)]
    pub(super) discard: bool,
    /// Wait until it is gone: `--wait` for 30 seconds, `--wait=5m` for another time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s")]
    pub(super) wait: Option<SignedDuration>,
}

/// Which bindings to show.
#[derive(Debug, Args)]
pub(super) struct BindingsArgs {
    /// One binding, with everything about it.
    pub(super) id: Option<BindingId>,
}

/// What to do with dead letters.
#[derive(Debug, Args)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    pub(super) command: DeadLettersCommand,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List them, newest first.
    List {
        #[command(flatten)]
        which: Which,
        /// List all that fit, page after page.
        #[arg(long, conflicts_with_all = ["limit", "cursor"])]
        all: bool,
        /// At most this many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// Where the page before ended: the next page.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show one: its event, its attempts, and why it was given up.
    Show {
        /// The delivery.
        id: DeliveryId,
    },
    /// Try some again, from the beginning: same delivery id, attempts and age counted anew.
    ///
    /// Oldest first, so many a second. Ctrl-C stops after the batch that is under way; the same command again does the
    /// rest. A letter that dies again meanwhile is not replayed a second time by the same command.
    Replay(Choice),
    /// Forget some for good.
    Discard {
        #[command(flatten)]
        choice: Choice,
        /// Why, for the log. Needed unless they are named one by one.
        #[arg(long, value_name = "TEXT", required_unless_present = "ids")]
        why: Option<String>,
    },
}

/// Which dead letters: those that fit everything that is said.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Which {
    /// Only this binding's.
    #[arg(long)]
    pub(super) binding: Option<BindingId>,
    /// Only this function's, as PLATFORM/FUNCTION or FUNCTION.
    #[arg(long, value_name = "FUNCTION")]
    pub(super) function: Option<String>,
    /// Only those given up for this reason: attempts_exhausted, too_old, permanent, unbound or overflow.
    #[arg(long, value_parser = parse_reason)]
    pub(super) reason: Option<DeadReason>,
    /// Only those that died since then: a time such as 2026-11-21T20:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub(super) since: Option<Moment>,
    /// Only those that died before then.
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub(super) until: Option<Moment>,
    /// Only events in this bucket, its name without the storage.
    #[arg(long, value_parser = parse_bucket)]
    pub(super) bucket: Option<String>,
    /// Only objects whose key begins so.
    #[arg(long, value_name = "TEXT")]
    pub(super) key_prefix: Option<String>,
}

impl Which {
    /// What the API is asked.
    pub(super) fn request(&self, now: Timestamp) -> LetterRequest {
        LetterRequest {
            binding: self.binding,
            function: self.function.clone(),
            reason: self.reason,
            since: self.since.map(|since| since.at(now)),
            until: self.until.map(|until| until.at(now)),
            bucket: self.bucket.clone(),
            key_prefix: self.key_prefix.clone(),
            ..LetterRequest::default()
        }
    }
}

/// A moment, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The moment.
    At(Timestamp),
    /// So long ago.
    Ago(std::time::Duration),
}

impl Moment {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::Ago(ago) => {
                let ago = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
                Timestamp::from_micros(now.as_micros().saturating_sub(ago))
            }
        }
    }
}

/// Which dead letters, and how fast.
#[derive(Debug, Args)]
#[group(required = true, multiple = true, args = ["ids", "all", "binding", "function", "reason", "since", "until", "bucket", "key_prefix"])]
pub(super) struct Choice {
    /// These deliveries.
    #[arg(conflicts_with_all = ["all", "binding", "function", "reason", "since", "until", "bucket", "key_prefix"])]
    pub(super) ids: Vec<DeliveryId>,
    /// All that this daemon has.
    #[arg(long, conflicts_with_all = ["binding", "function", "reason", "since", "until", "bucket", "key_prefix"])]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) which: Which,
    /// At most so many a second.
    #[arg(long, default_value_t = 100, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rate: u32,
}

/// What to do with the quarantine.
#[derive(Debug, Args)]
pub(super) struct QuarantineArgs {
    #[command(subcommand)]
    pub(super) command: QuarantineCommand,
}

/// What to do with the quarantine.
#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// List what is there, newest first.
    List {
        /// At most this many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// Only items older than this one: the next page.
        #[arg(long, value_name = "ID")]
        before: Option<u64>,
    },
    /// Show one: where it came from, what is wrong with it, and its bytes.
    Show {
        /// The item.
        id: u64,
        /// Write the bytes as they came, and nothing else.
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Try some again, after an upgrade that understands them for example.
    ///
    /// What is understood now fires its functions and leaves the quarantine; what is not stays, with its first reason and the
    /// new one.
    Retry(Items),
    /// Forget some for good.
    Discard {
        #[command(flatten)]
        items: Items,
        /// Why, for the log. Needed with --all.
        #[arg(long, value_name = "TEXT", required_if_eq("all", "true"))]
        why: Option<String>,
    },
}

/// Which items of the quarantine.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Items {
    /// These.
    pub(super) ids: Vec<u64>,
    /// All that are there.
    #[arg(long)]
    pub(super) all: bool,
}

/// The event to be matched.
#[derive(Debug, Args)]
pub(super) struct MatchArgs {
    /// The bucket.
    #[arg(long)]
    pub(super) bucket: String,
    /// The object's key, as users know it.
    #[arg(long)]
    pub(super) key: String,
    /// What happens to the object.
    #[arg(long, default_value = "s3:ObjectCreated:Put", value_name = "NAME")]
    pub(super) event: String,
    /// The storage's name in the config, where there are several.
    #[arg(long)]
    pub(super) storage: Option<String>,
    /// Who does it.
    #[arg(long, value_name = "USER")]
    pub(super) principal: Option<String>,
}

/// Which outcomes to show.
#[derive(Debug, Args)]
pub(super) struct OutcomesArgs {
    /// Only this binding's.
    #[arg(long)]
    pub(super) binding: Option<BindingId>,
    /// Only this function's, as PLATFORM/FUNCTION or FUNCTION.
    #[arg(long, value_name = "FUNCTION")]
    pub(super) function: Option<String>,
    /// Only of objects with this key, the whole of it.
    #[arg(long)]
    pub(super) key: Option<String>,
    /// At most this many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) limit: u32,
}

/// What to do with daemons.
#[derive(Debug, Args)]
pub(super) struct NodesArgs {
    /// Forget the daemon of this name: bindings no longer wait for it.
    #[arg(long, value_name = "NAME")]
    pub(super) forget: Option<String>,
}

/// The same error with the usage of the command that these arguments name. What clap shows in its place has every option
/// that was given, `--config` from the environment among them, as if it were required.
pub(super) fn with_the_commands_usage(
    mut error: clap::Error,
    arguments: impl Iterator<Item = OsString>,
) -> clap::Error {
    if error.get(ContextKind::Usage).is_some() {
        let mut whole = Cli::command();
        whole.build();
        let mut command = &whole;
        for argument in arguments.skip(1) {
            if let Some(named) = argument.to_str().and_then(|name| command.find_subcommand(name)) {
                command = named;
            }
        }
        let usage = command.clone().render_usage();
        error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    }
    error
}

fn parse_function(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((platform, function)) if !platform.is_empty() && !function.is_empty() => {
            Ok((platform.to_owned(), function.to_owned()))
        }
        _ => Err("write PLATFORM/FUNCTION, such as local/thumb".to_owned()),
    }
}

fn parse_bucket(text: &str) -> Result<String, String> {
    match text.rsplit_once('/') {
        None => Ok(text.to_owned()),
        Some((_, bucket)) => Err(format!("write the bucket's name without the storage: {bucket}")),
    }
}

fn parse_payload(text: &str) -> Result<Payload, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "use cloudevents-structured, cloudevents-binary or s3-records".to_owned())
}

fn parse_reason(text: &str) -> Result<DeadReason, String> {
    DeadReason::parse(&text.replace('-', "_")).ok_or_else(|| {
        let words: Vec<_> = DeadReason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("use one of {}", words.join(", "))
    })
}

fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Ok(moment) = text.parse() {
        return Ok(Moment::At(moment));
    }
    let ago = parse_duration(text).ok().and_then(|ago| ago.try_into().ok());
    ago.map(Moment::Ago)
        .ok_or_else(|| "write a time such as 2026-11-21T20:00:00Z, or how long ago, such as 2h".to_owned())
}

fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    // A day is no fixed time to jiff, for that of a place may have 23 hours; here it is 24.
    let in_days = || text.parse::<Span>().ok()?.to_duration(SpanRelativeTo::days_are_24_hours()).ok();
    let parsed = text.parse().ok().or_else(in_days);
    parsed.filter(|time: &SignedDuration| !time.is_negative()).ok_or_else(|| {
        "write a number and a unit (ms, s, m, h or d), such as 500ms, 30s, 5m, 24h, 7d or 1h30m".to_owned()
    })
}

/// A time that the API takes in whole seconds.
fn parse_seconds(text: &str) -> Result<SignedDuration, String> {
    let time = parse_duration(text)?;
    if time.subsec_nanos() == 0 {
        return Ok(time);
    }
    Err("it is counted in whole seconds: write for example 1s, 90s or 10m".to_owned())
}

/// How long a result is waited for.
fn parse_await(text: &str) -> Result<SignedDuration, String> {
    let time = parse_seconds(text)?;
    if (1..=MAX_AWAIT_S).contains(&time.unsigned_abs().as_secs()) {
        return Ok(time);
    }
    Err("a result (`await_result_s`) is waited for from 1s to 7d".to_owned())
}
