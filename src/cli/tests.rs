//! The commands against the real API over loopback, with real relations and a real queue behind it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{output::tests::Written, *};
use crate::{
    admin::{
        fakes::{OPERATOR, World, letter, listen, record, state},
        wire::Explanation,
    },
    domain::{
        binding::{State, Step, StepName, StepState},
        clock::Timestamp,
        ids::{BindingId, DeliveryId, EventId},
        outcome::{Attempt, Class},
        spec::BindingSpec,
    },
    queue::{Queue, Results},
    relations::{Progress, Relations},
    telemetry::RecentOutcome,
};

struct Ran {
    ended: Result<Ended, String>,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn done(&self) -> &str {
        assert_eq!(self.ended, Ok(Ended::Done), "{}{}", self.out, self.err);
        &self.out
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// A host with a config file, and a daemon's API that the config names.
struct Host {
    world: Arc<World>,
    folder: TempDir,
}

impl Host {
    async fn new() -> Self {
        let world = World::new().await;
        let host = Self { world: Arc::clone(&world), folder: TempDir::new().unwrap() };
        let state = state(&world);
        state.recent.note(RecentOutcome {
            at: Timestamp::from_micros(1_700_000_000_000_000),
            event: EventId::from_bytes([1; 16]),
            delivery: None,
            binding: None,
            platform: None,
            function: None,
            bucket: "photos".into(),
            key: "in/a.jpg".into(),
            name: "s3:ObjectCreated:Put".into(),
            outcome: "unmatched".into(),
            took_us: 1_250,
            detail: "as printed\n".into(),
        });
        let address = listen(state).await;
        host.world.listening.set(address).unwrap();
        host.configure(address, OPERATOR);
        host
    }

    fn configure(&self, address: SocketAddr, token: &str) {
        let config = format!("[admin]\nlisten = \"{address}\"\ntoken = \"{token}\"\n");
        std::fs::write(self.folder.path().join("triggerd.toml"), config).unwrap();
    }

    async fn run(&self, args: &str) -> Ran {
        let cli = Cli::try_parse_from(std::iter::once("triggerd").chain(args.split_whitespace())).unwrap();
        let (out, err) = (Written::default(), Written::default());
        let mut terminal = Terminal::new(Box::new(out.clone()), Box::new(err.clone()), cli.json);
        let inputs = Inputs { file: self.folder.path().join("triggerd.toml"), env: BTreeMap::new() };
        let ended = execute(cli.command, &inputs, &mut terminal).await;
        Ran { ended: ended.map_err(|error| format!("{error:#}")), out: out.text(), err: err.text() }
    }

    /// Makes a binding and gives its id.
    async fn bound(&self) -> BindingId {
        let ran = self.run(&format!("{BIND} --wait 0s --json")).await;
        ran.done();
        ran.json()["id"].as_str().unwrap().parse().unwrap()
    }
}

const BIND: &str = "bind --bucket photos --event s3:ObjectCreated:* --prefix in/ --function local/thumb";

#[test]
fn the_arguments_are_a_sound_definition() {
    Cli::command().debug_assert();
    let help = Cli::command().render_long_help().to_string();
    for part in ["Examples:", "triggerd bind", "Exit codes", "TRIGGERD_CONFIG", "/etc/triggerd/triggerd.toml"]
    {
        assert!(help.contains(part), "{part} is not in the help");
    }
}

#[test]
fn the_help_names_the_defaults_that_the_api_has() {
    let least = serde_json::json!({"storage": "main", "bucket": "photos", "events": ["s3:ObjectCreated:*"],
                                   "platform": "local", "function": "thumb"});
    let spec: BindingSpec = serde_json::from_value(least).unwrap();
    let spec = serde_json::to_value(&spec).unwrap();
    let help = Cli::command().find_subcommand_mut("bind").unwrap().render_long_help().to_string();
    let shown = |option: &str| {
        let told =
            help.split(&format!("--{option} <")).nth(1).unwrap().split("when not given").next().unwrap();
        told.rsplit("; ").next().unwrap().trim().to_owned()
    };
    let millis = |option: &str| shown(option).parse::<jiff::SignedDuration>().unwrap().as_millis();
    assert_eq!(shown("payload"), spec["payload"]);
    assert_eq!(shown("concurrency"), spec["concurrency"].to_string());
    assert_eq!(shown("max-attempts"), spec["retry"]["max_attempts"].to_string());
    for (option, default) in [
        ("timeout", &spec["timeout_ms"]),
        ("first-wait", &spec["retry"]["first_wait_ms"]),
        ("max-wait", &spec["retry"]["max_wait_ms"]),
    ] {
        assert_eq!(millis(option).to_string(), default.to_string(), "{option}");
    }
    assert_eq!((millis("max-event-age") / 1_000).to_string(), spec["max_event_age_s"].to_string());
    assert_eq!(bind::EVENT_AGE.as_secs().to_string(), spec["max_event_age_s"].to_string());
}

#[test]
fn the_help_tells_every_word_of_the_outcomes() {
    let help =
        |command: &str| Cli::command().find_subcommand_mut(command).unwrap().render_long_help().to_string();
    let outcomes = help("outcomes");
    let classes = [
        "ok",
        "accepted",
        "throttled",
        "platform_fault",
        "function_fault",
        "permanent",
        "binding_broken",
        "interrupted",
    ];
    let others = [
        "callback_succeeded",
        "callback_failed",
        "callback_late",
        "no_result",
        "handler_accepted",
        "unmatched",
        "dead",
        "loop_suspected",
    ];
    for word in classes.iter().chain(&others) {
        assert!(
            outcomes
                .lines()
                .any(|line| line.starts_with(&format!("  {word}")) || line.contains(&format!(", {word}"))),
            "{word}"
        );
    }
    assert!(outcomes.contains("With --await-result"));
    let bind = help("bind");
    for part in ["--async --await-result 2h", "1s to 7d", "whole seconds", "not the function's result"] {
        assert!(
            bind.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .to_lowercase()
                .contains(&part.to_lowercase()),
            "{part}: {bind}"
        );
    }
}

#[test]
fn wrong_arguments_are_refused_with_a_hint() {
    let refused = |args: &str| {
        let words = std::iter::once("triggerd").chain(args.split_whitespace());
        Cli::try_parse_from(words).unwrap_err().to_string()
    };
    assert!(refused("bind --bucket b --function local/f").contains("--event"));
    assert!(refused("bind --bucket b --event e --function thumb").contains("PLATFORM/FUNCTION"));
    assert!(refused(&format!("{BIND} --wait soon")).contains("30s"));
    assert!(refused(&format!("{BIND} --glob x")).contains("cannot be used with"));
    assert!(refused(&format!("{BIND} --await-result 10m")).contains("--async"));
    let waits = |time: &str| refused(&format!("{BIND} --async --await-result {time}"));
    for (time, why) in [
        ("500ms", "whole seconds"),
        ("1500ms", "whole seconds"),
        ("0s", "1s to 7d"),
        ("8d", "1s to 7d"),
        ("5", "ms, s, m, h or d"),
    ] {
        let said = waits(time);
        assert!(said.contains(why) && said.contains("--await-result"), "{time}: {said}");
    }
    assert!(refused(&format!("{BIND} --max-event-age 1500ms")).contains("whole seconds"));
    assert!(refused(&format!("{BIND} --timeout 1mo")).contains("ms, s, m, h or d"));
    assert!(refused(&format!("{BIND} --payload xml")).contains("s3-records"));
    assert!(refused("bindings nonsense").contains("32 hexadecimal digits"));
    assert!(refused("dead-letters replay").contains("required"));
    assert!(refused("dead-letters discard --all").contains("--why"));
    assert!(refused("quarantine discard --all").contains("--why"));
    assert!(refused("quarantine retry").contains("--all"));
    assert!(refused("dead-letters list --reason boredom").contains("attempts_exhausted"));
    assert!(refused("dead-letters list --since yesterday").contains("2h"));
    assert!(
        refused(&format!("dead-letters discard --all {}", DeliveryId::from_bytes([1; 16])))
            .contains("cannot be used")
    );
}

#[tokio::test]
async fn bind_follows_the_handshake_until_it_is_active() {
    let host = Host::new().await;
    host.world.becomes(State::Active, "every daemon knows it");
    let ran = host.run(BIND).await;
    let lines: Vec<&str> = ran.done().lines().collect();
    assert!(lines[0].ends_with("is pending"), "{}", ran.out);
    assert!(lines[1].ends_with("is active: every daemon knows it"), "{}", ran.out);
    let binding = host.world.relations.snapshot().await.unwrap().bindings.remove(0);
    assert_eq!((binding.spec.bucket.as_str(), binding.spec.retry.max_attempts), ("photos", 10));
}

#[tokio::test]
async fn bind_sends_every_setting() {
    let host = Host::new().await;
    let settings = "--async --await-result 10m --payload s3-records --timeout 2s --max-event-age 1h --concurrency 3 --max-attempts 2 \
                    --first-wait 50ms --rate-limit 2.5 --ignore-principal etl --storage main --suffix .jpg --wait 0s --json";
    let json = host.run(&format!("{BIND} {settings}")).await.json();
    assert_eq!((&json["mode"], &json["payload"]), (&"async".into(), &"s3-records".into()));
    assert_eq!((&json["timeout_ms"], &json["max_event_age_s"]), (&2_000.into(), &3_600.into()));
    assert_eq!((&json["rate_limit"], &json["await_result_s"]), (&2.5.into(), &600.into()));
    assert_eq!((&json["concurrency"], &json["suffix"]), (&3.into(), &".jpg".into()));
    assert_eq!(
        json["retry"],
        serde_json::json!({"max_attempts": 2, "first_wait_ms": 50, "max_wait_ms": 300_000})
    );
    assert_eq!(json["ignore_principals"], serde_json::json!(["etl"]));
}

#[tokio::test]
async fn a_result_that_would_come_after_its_event_is_refused_by_the_names_of_the_flags() {
    let host = Host::new().await;
    let said = async |flags: &str| host.run(&format!("{BIND} --async {flags}")).await.ended.unwrap_err();
    let default = said("--await-result 25h").await;
    for part in ["--await-result", "await_result_s", "90000 s", "--max-event-age", "24h when not given"] {
        assert!(default.contains(part), "{part}: {default}");
    }
    let given = said("--await-result 2h --max-event-age 1h").await;
    assert!(given.contains("3600 s)") && !given.contains("when not given"), "{given}");
    let days = host
        .run(&format!("{BIND} --async --await-result 3d --max-event-age 7d --wait 0s --json"))
        .await
        .json();
    assert_eq!((&days["await_result_s"], &days["max_event_age_s"]), (&259_200.into(), &604_800.into()));
}

#[tokio::test]
async fn what_the_api_says_of_a_field_names_its_flag() {
    let host = Host::new().await;
    for (flags, field, flag) in [
        ("--timeout 1h", "timeout_ms", "--timeout"),
        ("--max-attempts 0", "max_attempts", "--max-attempts"),
        ("--max-event-age 90d", "max_event_age_s", "--max-event-age"),
        ("--rate-limit 0", "rate_limit", "--rate-limit"),
    ] {
        let error = host.run(&format!("{BIND} {flags}")).await.ended.unwrap_err();
        assert!(error.contains(field) && error.contains(&format!("{flag}: ")), "{error}");
    }
}

#[tokio::test]
async fn a_rejected_binding_fails_with_its_reason() {
    let host = Host::new().await;
    host.world.becomes(State::Rejected, "the platform has no function thumb");
    let ran = host.run(BIND).await;
    assert_eq!(ran.ended, Ok(Ended::Failed));
    assert!(ran.out.contains("is rejected: the platform has no function thumb"), "{}", ran.out);
    assert!(ran.err.contains("triggerd unbind"), "{}", ran.err);
}

#[tokio::test]
async fn a_binding_that_takes_too_long_is_told_apart_from_one_that_failed() {
    let host = Host::new().await;
    let ran = host.run(&format!("{BIND} --wait 300ms")).await;
    assert_eq!(ran.ended, Ok(Ended::StillWaiting));
    assert!(ran.err.contains("still pending") && ran.err.contains("triggerd bindings"), "{}", ran.err);
}

#[tokio::test]
async fn a_conflict_names_the_binding_that_is_there() {
    let host = Host::new().await;
    let id = host.bound().await;
    let ran = host.run(&format!("{BIND} --concurrency 3")).await;
    let error = ran.ended.unwrap_err();
    assert!(error.contains(&id.to_string()) && error.contains("unbind it and bind again"), "{error}");
}

#[tokio::test]
async fn unbind_waits_until_the_binding_is_gone() {
    let host = Host::new().await;
    let id = host.bound().await;
    let ran = host.run(&format!("unbind {id} --discard --wait=300ms")).await;
    assert_eq!(ran.ended, Ok(Ended::StillWaiting));
    assert!(host.world.calls().contains(&"clear Discard at revision 2".to_owned()));
    let world = Arc::clone(&host.world);
    let woken = || world.calls().iter().filter(|call| call.starts_with("wake binding")).count();
    let before = woken();
    let gone = async {
        // As the reconciler would, once the command has asked.
        let asked = async {
            while woken() == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), asked).await.unwrap();
        assert!(world.relations.remove(id, Timestamp::from_micros(0)).await.unwrap());
    };
    let command = format!("unbind --wait {id}");
    let (ran, ()) = tokio::join!(host.run(&command), gone);
    assert!(ran.done().ends_with(&format!("binding {id} is gone\n")), "{}", ran.out);
    let ran = host.run(&format!("unbind {id}")).await;
    assert!(ran.ended.unwrap_err().contains("there is no binding"));
}

#[tokio::test]
async fn bindings_are_a_table_and_one_shows_its_handshake() {
    let host = Host::new().await;
    let empty = host.run("bindings").await;
    assert!(empty.done().is_empty() && empty.err.contains("triggerd help bind"));
    let id = host.bound().await;
    let step = Step {
        name: StepName::Rule,
        state: StepState::Failed,
        at: Timestamp::from_micros(0),
        error: Some("platform `local` cannot be reached".into()),
    };
    let now = Timestamp::from_micros(0);
    let found = Progress { state: State::Pending, reason: None, steps: vec![step], now };
    record(&host.world.relations, id, &found).await;
    let table = host.run("bindings").await;
    let lines: Vec<&str> = table.done().lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[0].contains("FUNCTION"), "{}", table.out);
    assert!(lines[1].starts_with(&id.to_string()) && lines[1].contains("local/thumb"), "{}", table.out);
    let one = host.run(&format!("bindings {id}")).await;
    assert!(one.done().contains("FAIL  rule          platform `local` cannot be reached"), "{}", one.out);
    let json = host.run("bindings --json").await.json();
    assert_eq!(json["bindings"][0]["id"], id.to_string());
    assert_eq!(host.run(&format!("bindings {id} --json")).await.json()["id"], id.to_string());
}

#[tokio::test]
async fn dead_letters_are_listed_shown_replayed_and_discarded() {
    let host = Host::new().await;
    assert!(host.run("dead-letters list").await.err.contains("no dead letter"));
    let id = host.bound().await;
    let one = host.world.bury(id, "local", "in/a b\u{1b}.jpg").await;
    let table = host.run("dead-letters list").await;
    assert!(table.done().contains("attempts_exhausted") && !table.out.contains('\u{1b}'), "{}", table.out);
    assert_eq!(host.run("dead-letters list --json").await.json()["dead_letters"][0]["id"], one.to_string());
    let shown = host.run(&format!("dead-letters show {one}")).await;
    for part in ["function_fault", "exit status 1", "1.5 ms", "record", "main/photos/in/a b"] {
        assert!(shown.done().contains(part), "{part}: {}", shown.out);
    }
    let ran = host.run(&format!("dead-letters replay {one}")).await;
    assert_eq!(ran.done(), format!("{one} replayed\n"));

    for number in 0..3 {
        host.world.bury(id, "local", &number.to_string()).await;
    }
    let other = host.world.bury(BindingId::from_bytes([9; 16]), "local", "x").await;
    let ran = host.run(&format!("dead-letters replay --binding {id} --json")).await;
    assert_eq!(ran.json()["replayed"].as_array().unwrap().len(), 3);
    let ran = host.run("dead-letters replay --all").await;
    assert_eq!(ran.done(), "");
    assert!(ran.err.contains("0 replayed") && ran.err.contains("1 skipped"), "{}", ran.err);
    let again = host.run(&format!("dead-letters replay {one}")).await;
    assert_eq!(again.done(), format!("{one} is on its way already\n"));
    let gone = host.run(&format!("dead-letters replay {other} {}", DeliveryId::from_bytes([7; 16]))).await;
    assert_eq!(gone.ended, Ok(Ended::Failed));
    assert!(gone.err.contains("0 replayed, 2 failed"), "{}", gone.err);
    let nobody = DeliveryId::from_bytes([7; 16]).to_string();
    let lines: Vec<_> = gone.err.lines().filter(|line| line.contains(&nobody)).collect();
    assert!(
        lines.len() == 1 && lines[0].starts_with("error: ") && lines[0].matches(&nobody).count() == 1,
        "it is named once: {lines:?}"
    );
    host.run("dead-letters discard --all --why trial").await.done();
    assert!(host.world.letters().await.is_empty());
}

#[tokio::test]
async fn a_dead_letter_whose_function_succeeded_late_is_marked() {
    let host = Host::new().await;
    let id = host.bound().await;
    let lost = host.world.bury(id, "local", "in/lost").await;
    let mut letter = letter(id, "local", "in/late");
    letter.attempts[0].detail = "out of ideas\nreally\n".into();
    letter.detail = "8 attempts failed: out of ideas\n".into();
    let late = letter.delivery.id;
    let came = Attempt {
        class: Class::Ok,
        detail: "attempt 1 succeeded late: done\n".into(),
        ..letter.attempts[0].clone()
    };
    assert!(host.world.queue.bury(letter).await.unwrap());
    assert!(host.world.queue.came_late(late, came).await.unwrap());
    let table = host.run("dead-letters list").await;
    for (id, marked) in [(late, true), (lost, false)] {
        let line = table.done().lines().find(|line| line.starts_with(&id.to_string())).unwrap();
        assert_eq!(line.contains("attempts_exhausted (succeeded late)"), marked, "{line}");
    }
    assert!(table.out.lines().all(|line| !line.ends_with("\\n")), "{}", table.out);
    let shown = host.run(&format!("dead-letters show {late}")).await;
    assert!(shown.done().contains("attempts_exhausted (succeeded late): 8 attempts"), "{}", shown.out);
    assert!(shown.out.contains("out of ideas\\nreally\n"), "{}", shown.out);
    assert!(shown.out.lines().all(|line| !line.ends_with("\\n")), "{}", shown.out);
    let json = host.run("dead-letters list --json").await.json();
    let marks: BTreeMap<_, _> = json["dead_letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| (letter["id"].as_str().unwrap().to_owned(), letter["succeeded_late"] == true))
        .collect();
    assert_eq!(marks, BTreeMap::from([(late.to_string(), true), (lost.to_string(), false)]));
}

#[tokio::test]
async fn dead_letters_are_chosen_by_filter_and_walked_in_batches() {
    let host = Host::new().await;
    let id = host.bound().await;
    for number in 0..9 {
        host.world.bury(id, "local", &format!("in/{number}")).await;
    }
    host.world.bury(id, "local", "out/1").await;
    let listed =
        host.run("dead-letters list --all --json --key-prefix in/ --function local/thumb").await.json();
    assert_eq!(listed["dead_letters"].as_array().unwrap().len(), 9);
    let page = host.run("dead-letters list --limit 4").await;
    let cursor = page.err.split("--cursor ").nth(1).unwrap().trim().to_owned();
    assert_eq!(host.run(&format!("dead-letters list --cursor {cursor}")).await.done().lines().count(), 7);
    for (filter, count) in [
        ("--reason attempts-exhausted", 10),
        ("--reason too_old", 0),
        ("--since 1970-01-01T00:00:03Z --until 1970-01-01T00:00:04Z", 10),
        ("--since 2h", 0),
        ("--until 2h", 10),
        ("--function other/thumb", 0),
        ("--function thumb --bucket photos", 10),
    ] {
        let listed = host.run(&format!("dead-letters list --json {filter}")).await.json();
        assert_eq!(listed["dead_letters"].as_array().unwrap().len(), count, "{filter}");
    }
    let ran = host.run("dead-letters replay --key-prefix in/ --rate 8").await;
    assert_eq!(ran.done().lines().count(), 9);
    assert!(ran.err.contains("2 replayed, 8 to look at"), "the daemon is asked in batches: {}", ran.err);
    let ran = host.run("dead-letters discard --bucket photos --why wrong --json").await;
    assert_eq!(ran.json()["discarded"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_quarantine_is_listed_shown_tried_again_and_discarded() {
    let host = Host::new().await;
    assert!(host.run("quarantine list").await.err.contains("nothing is in quarantine"));
    let good = host.world.shut_away(b"good").await;
    let bad = host.world.shut_away(b"\x1b[31m\xff{").await;
    let table = host.run("quarantine list").await;
    assert!(table.done().contains("not JSON") && !table.out.contains('\u{1b}'), "{}", table.out);
    assert_eq!(host.run("quarantine list --json").await.json()["quarantine"][0]["id"], bad);
    let shown = host.run(&format!("quarantine show {bad}")).await;
    assert!(shown.done().contains("1b 5b 33 31 6d ff 7b") && shown.out.contains(".[31m.{"), "{}", shown.out);
    let text = host.run(&format!("quarantine show {good}")).await;
    assert!(text.done().contains("  good\n"), "{}", text.out);
    assert_eq!(host.run(&format!("quarantine show {good} --raw")).await.done(), "good");
    let ran = host.run("quarantine retry --all").await;
    assert_eq!((ran.ended, &*ran.out), (Ok(Ended::Failed), "1 taken in: 2 events, 3 deliveries\n"));
    assert!(ran.err.contains("still not JSON") && ran.err.contains("1 taken in, 1 failed"), "{}", ran.err);
    let ran = host.run("quarantine discard 987654321").await;
    assert_eq!((ran.ended, ran.err.matches("987654321").count()), (Ok(Ended::Failed), 1), "{}", ran.err);
    let ran = host.run(&format!("quarantine discard {bad} --json")).await;
    assert_eq!(ran.json(), serde_json::json!({"discarded": [bad], "failed": []}));
}

#[tokio::test]
async fn match_says_what_fires_and_why_not() {
    let host = Host::new().await;
    let explanation = |number, fires, reasons: &[&str]| Explanation {
        binding: BindingId::from_bytes([number; 16]),
        platform: "local".into(),
        function: "thumb".into(),
        state: State::Active,
        fires,
        reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
    };
    *host.world.explanations.lock().unwrap() =
        vec![explanation(1, false, &["the key does not begin with `in/`"]), explanation(2, true, &[])];
    let ran = host.run("match --bucket photos --key out/a.jpg").await;
    let lines: Vec<&str> = ran.done().lines().collect();
    assert_eq!(lines[0], "1 of 2 binding(s) of this bucket would fire");
    assert!(lines[2].starts_with("fires"), "{}", ran.out);
    assert!(
        lines[3].starts_with("no") && lines[3].ends_with("the key does not begin with `in/`"),
        "{}",
        ran.out
    );
    assert_eq!(host.run("match --bucket photos --key k --json").await.json()["fires"], 1);
}

#[tokio::test]
async fn outcomes_and_nodes_are_tables() {
    let host = Host::new().await;
    let ran = host.run("outcomes").await;
    assert!(ran.done().contains("unmatched  1.2 ms  s3:ObjectCreated:Put  photos/in/a.jpg"), "{}", ran.out);
    assert!(ran.out.ends_with("as printed\n"), "the end of a function's last line is no news: {}", ran.out);
    let json = host.run("outcomes --json").await.json();
    assert_eq!(
        (&json["outcomes"][0]["key"], &json["outcomes"][0]["detail"]),
        (&"in/a.jpg".into(), &"as printed\n".into())
    );
    assert!(host.run("outcomes --key in/a.jpg").await.done().contains("photos/in/a.jpg"));
    for other in ["--key in/b.jpg", "--function local/thumb", "--key in/a.jpg --function thumb"] {
        let ran = host.run(&format!("outcomes {other}")).await;
        assert!(
            ran.done().is_empty() && ran.err.contains("triggerd match"),
            "{other}: {}{}",
            ran.out,
            ran.err
        );
    }
    host.world.hears_of("here", 0).await;
    host.world.hears_of("old", 3 * 86_400).await;
    let ran = host.run("nodes").await;
    assert!(ran.done().contains("here (this one)") && ran.out.contains("3 d ago"), "{}", ran.out);
    host.run("nodes --forget old").await.done();
    assert!(host.run("nodes --forget here").await.ended.unwrap_err().contains("would come back"));
    assert_eq!(host.run("nodes --json").await.json()["nodes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let host = Host::new().await;
    let address = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    host.configure(address, OPERATOR);
    let error = host.run("bindings").await.ended.unwrap_err();
    assert!(error.contains("systemctl status triggerd") && error.contains("onnect"), "{error}");
    let config = host.folder.path().join("triggerd.toml");
    std::fs::write(&config, "[admin]\n").unwrap();
    assert!(host.run("bindings").await.ended.unwrap_err().contains("token_file"));
    std::fs::remove_file(&config).unwrap();
    assert!(host.run("bindings").await.ended.unwrap_err().contains("--config"));
}

#[tokio::test]
async fn a_wrong_token_and_a_lost_database_are_told() {
    let host = Host::new().await;
    host.world.relations.close().await;
    let error = host.run(BIND).await.ended.unwrap_err();
    assert!(error.contains("events go on firing"), "{error}");
    let address = listen(state(&host.world)).await;
    host.configure(address, "not-the-operators-token");
    let error = host.run("bindings").await.ended.unwrap_err();
    assert!(error.contains("compare the token's file") && !error.contains("not-the-operators"), "{error}");
}

#[tokio::test]
async fn completions_are_printed_for_each_shell() {
    let host = Host::new().await;
    for shell in ["bash", "zsh", "fish"] {
        assert!(host.run(&format!("completions {shell}")).await.done().contains("dead-letters"), "{shell}");
    }
}

#[tokio::test]
async fn run_and_migrate_refuse_a_bad_config_with_everything_that_is_wrong() {
    let host = Host::new().await;
    std::fs::write(
        host.folder.path().join("triggerd.toml"),
        "[admin]\nlisten = 3\n[nod]\n[log]\nlevle = \"x\"\n",
    )
    .unwrap();
    for command in ["run", "migrate"] {
        let error = host.run(command).await.ended.unwrap_err();
        for part in ["admin.listen", "`nod` is no section", "log.levle", "admin.token_file"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn a_wrong_command_line_is_shown_what_is_required_and_no_more() {
    for (given, usage) in [
        (
            "bind --config /x --json --bucket photos",
            "Usage: triggerd bind [OPTIONS] --bucket <BUCKET> --event <NAME> --function <PLATFORM/FUNCTION>\n",
        ),
        ("--config /x queue export", "Usage: triggerd queue export [OPTIONS] <FILE>\n"),
        ("--config /x outcomes --frob", "Usage: triggerd outcomes [OPTIONS]\n"),
        ("--config /x frob", "Usage: triggerd [OPTIONS] <COMMAND>\n"),
    ] {
        let given: Vec<_> = std::iter::once("triggerd").chain(given.split(' ')).collect();
        let error = Cli::try_parse_from(&given).unwrap_err();
        let said =
            args::with_the_commands_usage(error, given.iter().map(std::ffi::OsString::from)).to_string();
        assert!(said.contains(usage), "{said}");
    }
    let help = Cli::try_parse_from(["triggerd", "bind", "--help"]).unwrap_err();
    let same = args::with_the_commands_usage(help, ["triggerd", "bind"].into_iter().map(Into::into));
    assert!(same.to_string().contains("Call the function") || same.to_string().contains("Bind a function"));
}

#[tokio::test]
async fn check_reports_config_and_host_at_once() {
    let host = Host::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let config = format!(
        "[node]\nname = \"n\"\nstate_dir = \"{}/triggerd.toml\"\n[admin]\nlisten = \"{free}\"\ntoken = \"{OPERATOR}\"\n\
         [sources.in]\ntype = \"webhook\"\nlisten = \"{}\"\nredelivers = \"yes\"\nbogus = 1\n",
        host.folder.path().display(),
        taken.local_addr().unwrap(),
    );
    std::fs::write(host.folder.path().join("triggerd.toml"), config).unwrap();
    let ran = host.run("check").await;
    assert_eq!(ran.ended, Ok(Ended::Failed));
    for part in [
        "FAIL sources.in.bogus: `bogus` is no key",
        "FAIL sources.in.storage:",
        "warn storages:",
        "FAIL node.state_dir:",
        "is no directory",
        &format!("ok   admin.listen: {free} is free"),
        "ok   daemon: not running",
        "FAIL sources.in.listen: ",
        "in use by another process",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(ran.err.contains("to mend"), "{}", ran.err);
    let json = host.run("check --json").await.json();
    assert_eq!(json["ok"], false);
    assert!(json["findings"].as_array().unwrap().len() >= 7);
}

#[tokio::test]
async fn check_of_a_running_daemon_finds_its_addresses_held() {
    let host = Host::new().await;
    let ran = host.run("check").await;
    assert!(ran.out.contains("is where this triggerd listens now"), "{}", ran.out);
    assert!(ran.out.contains("ok   daemon: running, and it takes events in"), "{}", ran.out);
    host.world.sick.store(true, Ordering::Relaxed);
    let ran = host.run("check").await;
    assert!(ran.out.contains("FAIL daemon: running, and not ready (queue: 2 of 100 bytes)"), "{}", ran.out);
    host.world.sick.store(false, Ordering::Relaxed);
    // Somebody else's address is not ours because the daemon runs.
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = host.folder.path().join("triggerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let source = format!(
        "[sources.in]\ntype = \"webhook\"\nlisten = \"{}\"\ntoken = \"t\"\nredelivers = \"yes\"\n",
        foreign.local_addr().unwrap()
    );
    std::fs::write(&file, format!("{config}{source}")).unwrap();
    let ran = host.run("check").await;
    assert!(
        ran.out.contains("FAIL sources.in.listen: ") && ran.out.contains("by another process"),
        "{}",
        ran.out
    );
    std::fs::remove_file(host.folder.path().join("triggerd.toml")).unwrap();
    let ran = host.run("check").await;
    assert_eq!((ran.ended, ran.out.lines().count()), (Ok(Ended::Failed), 1), "{}", ran.out);
}

#[tokio::test]
async fn functions_are_a_table_or_json() {
    let host = Host::new().await;
    assert!(host.run("functions").await.err.contains("no function was called"));
    host.world.flow_of_one_away(Timestamp::from_micros(1_700_000_000_000_000));
    let ran = host.run("functions").await;
    for part in [
        "local/thumb",
        "14 failed, function_fault",
        "4 of 16",
        "0.5/s",
        "1.3/s",
        "open, probe in",
        "throttled: too many",
    ] {
        assert!(ran.done().contains(part), "{part} is not in\n{}", ran.out);
    }
    let json = host.run("functions --json").await.json();
    assert_eq!(json["functions"][0]["breaker"]["state"], "open");
}
