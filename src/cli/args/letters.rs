//! The arguments of `dead-letters` and `quarantine`.

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::parse_duration;
use crate::{
    admin::wire::LetterRequest,
    domain::{
        clock::Timestamp,
        delivery::DeadReason,
        ids::{BindingId, DeliveryId},
    },
};

/// What to do with dead letters.
#[derive(Debug, Args)]
pub(in crate::cli) struct DeadLettersArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: DeadLettersCommand,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DeadLettersCommand {
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
    /// rest. A letter that dies again meanwhile is not replayed a second time by the same command. Of many, those whose
    /// function has succeeded since are left alone (`succeeded late` in the list); one that is named is replayed.
    Replay(Choice),
    /// Forget some for good.
    Discard {
        #[command(flatten)]
        choice: Choice,
        /// Why, for the log. Needed unless they are named one by one.
        #[arg(long, value_name = "TEXT", required_unless_present = "ids", value_parser = parse_why)]
        why: Option<String>,
    },
}

/// Which dead letters: those that fit everything that is said.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct Which {
    /// Only this binding's.
    #[arg(long)]
    pub(in crate::cli) binding: Option<BindingId>,
    /// Only this function's, as PLATFORM/FUNCTION or FUNCTION.
    #[arg(long, value_name = "FUNCTION")]
    pub(in crate::cli) function: Option<String>,
    /// Only those given up for this reason: attempts_exhausted, too_old, permanent, unbound or overflow.
    #[arg(long, value_parser = parse_reason)]
    pub(in crate::cli) reason: Option<DeadReason>,
    /// Only those that died since then: a time such as 2026-11-21T20:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub(in crate::cli) since: Option<Moment>,
    /// Only those that died before then.
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub(in crate::cli) until: Option<Moment>,
    /// Only events in this bucket, its name without the storage.
    #[arg(long, value_parser = parse_bucket)]
    pub(in crate::cli) bucket: Option<String>,
    /// Only objects whose key begins so.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(in crate::cli) key_prefix: Option<String>,
}

impl Which {
    /// What the API is asked.
    pub(in crate::cli) fn request(&self, now: Timestamp) -> LetterRequest {
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
pub(in crate::cli) enum Moment {
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
pub(in crate::cli) struct Choice {
    /// These deliveries.
    #[arg(conflicts_with_all = ["all", "binding", "function", "reason", "since", "until", "bucket", "key_prefix"])]
    pub(in crate::cli) ids: Vec<DeliveryId>,
    /// All that this daemon has.
    #[arg(long, conflicts_with_all = ["binding", "function", "reason", "since", "until", "bucket", "key_prefix"])]
    pub(in crate::cli) all: bool,
    #[command(flatten)]
    pub(in crate::cli) which: Which,
    /// At most so many a second.
    #[arg(long, default_value_t = 100, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(in crate::cli) rate: u32,
}

/// What to do with the quarantine.
#[derive(Debug, Args)]
pub(in crate::cli) struct QuarantineArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: QuarantineCommand,
}

/// What to do with the quarantine.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum QuarantineCommand {
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
        #[arg(long, value_name = "TEXT", required_if_eq("all", "true"), value_parser = parse_why)]
        why: Option<String>,
    },
}

/// Which items of the quarantine.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct Items {
    /// These.
    pub(in crate::cli) ids: Vec<u64>,
    /// All that are there.
    #[arg(long)]
    pub(in crate::cli) all: bool,
}

fn parse_bucket(text: &str) -> Result<String, String> {
    match text.rsplit_once('/') {
        None => Ok(text.to_owned()),
        Some((_, bucket)) => Err(format!("write the bucket's name without the storage: {bucket}")),
    }
}

/// What the log is to be told is said.
fn parse_why(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("say why in a few words".to_owned()) } else { Ok(text.to_owned()) }
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
