//! The arguments, and what `--help` teaches.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use jiff::SignedDuration;

use crate::domain::{
    binding::Payload,
    ids::{BindingId, DeliveryId},
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
  triggerd dead-letters list
  triggerd dead-letters replay --all
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
    /// Say which bindings would fire for an event, and why the others would not. Fires nothing.
    Match(MatchArgs),
    /// Show what fired lately on this daemon, and what came of it; newest first.
    Outcomes(OutcomesArgs),
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
  triggerd bind --bucket photos --event s3:ObjectRemoved:Delete --function local/cleanup --wait 0s

The same command again gives the same binding. To change its settings, unbind it and bind again.";

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
    /// Only keys like this: `*` and `?` within a path segment, `**` across them.
    #[arg(long, conflicts_with_all = ["prefix", "suffix"])]
    pub(super) glob: Option<String>,
    /// The function, as PLATFORM/FUNCTION.
    #[arg(long, value_name = "PLATFORM/FUNCTION", value_parser = parse_function)]
    pub(super) function: (String, String),
    /// The storage's name in the config, where there are several.
    #[arg(long)]
    pub(super) storage: Option<String>,
    /// Let the platform run the function on its own account, and do not wait for the result.
    #[arg(long = "async")]
    pub(super) asynchronous: bool,
    /// What the function is given.
    #[arg(long, value_parser = parse_payload, value_name = "cloudevents-structured|cloudevents-binary|s3-records")]
    pub(super) payload: Option<Payload>,
    /// The longest that one attempt may take, such as 30s.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(super) timeout: Option<SignedDuration>,
    /// The age at which an event is given up, such as 24h.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(super) max_event_age: Option<SignedDuration>,
    /// Most calls of the function at once.
    #[arg(long, value_name = "NUMBER")]
    pub(super) concurrency: Option<u32>,
    /// Failed attempts after which a delivery becomes a dead letter.
    #[arg(long, value_name = "NUMBER")]
    pub(super) max_attempts: Option<u32>,
    /// The bound of the first wait between attempts, such as 1s; it doubles each time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(super) first_wait: Option<SignedDuration>,
    /// The bound of every wait between attempts, such as 5m.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(super) max_wait: Option<SignedDuration>,
    /// A user whose doings do not fire: the one that the function writes with. Can be given several times.
    #[arg(long = "ignore-principal", value_name = "USER")]
    pub(super) ignore_principals: Vec<String>,
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
        /// Only this binding's.
        #[arg(long)]
        binding: Option<BindingId>,
        /// At most this many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// Only those that died before this one: the next page.
        #[arg(long, value_name = "ID")]
        before: Option<DeliveryId>,
    },
    /// Show one: its event, its attempts, and why it was given up.
    Show {
        /// The delivery.
        id: DeliveryId,
    },
    /// Try some again, from the beginning: same delivery id, attempts and age counted anew.
    Replay(Choice),
    /// Forget some for good.
    Discard(Choice),
}

/// Which dead letters.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct Choice {
    /// These deliveries.
    pub(super) ids: Vec<DeliveryId>,
    /// All that this daemon has.
    #[arg(long, conflicts_with = "ids")]
    pub(super) all: bool,
    /// All of this binding.
    #[arg(long, conflicts_with_all = ["ids", "all"])]
    pub(super) binding: Option<BindingId>,
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

fn parse_function(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((platform, function)) if !platform.is_empty() && !function.is_empty() => {
            Ok((platform.to_owned(), function.to_owned()))
        }
        _ => Err("write PLATFORM/FUNCTION, such as local/thumb".to_owned()),
    }
}

fn parse_payload(text: &str) -> Result<Payload, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "use cloudevents-structured, cloudevents-binary or s3-records".to_owned())
}

fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    let parsed: Option<SignedDuration> = text.parse().ok();
    parsed
        .filter(|time| !time.is_negative())
        .ok_or_else(|| "write a number and a unit, such as 500ms, 30s, 5m or 24h".to_owned())
}
