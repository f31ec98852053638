//! The arguments, and what `--help` teaches.

mod bind;
mod letters;

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Args, CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use jiff::{SignedDuration, Span, SpanRelativeTo};

use crate::domain::ids::BindingId;

use bind::BIND_EXAMPLES;
pub(super) use bind::{BindArgs, UnbindArgs};
pub(super) use letters::{
    Choice, DeadLettersArgs, DeadLettersCommand, Items, QuarantineArgs, QuarantineCommand,
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

AT is when an attempt began (of callback_* and no_result when it was reported, or when the wait
ended), TOOK how long it was under way. Lines are in the order in which things ended.";

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

/// Which bindings to show.
#[derive(Debug, Args)]
pub(super) struct BindingsArgs {
    /// One binding, with everything about it.
    pub(super) id: Option<BindingId>,
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

fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    // A day is no fixed time to jiff, for that of a place may have 23 hours; here it is 24.
    let in_days = || text.parse::<Span>().ok()?.to_duration(SpanRelativeTo::days_are_24_hours()).ok();
    let parsed = text.parse().ok().or_else(in_days);
    parsed.filter(|time: &SignedDuration| !time.is_negative()).ok_or_else(|| {
        "write a number and a unit (ms, s, m, h or d), such as 500ms, 30s, 5m, 24h, 7d or 1h30m".to_owned()
    })
}
