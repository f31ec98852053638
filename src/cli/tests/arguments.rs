//! What is asked for on the command line: help, defaults, and what is wrong with it.

use super::*;
use crate::domain::{ids::DeliveryId, spec::BindingSpec};

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
    for rate in ["nan", "inf", "many"] {
        assert!(refused(&format!("{BIND} --rate-limit {rate}")).contains("such as 50 or 0.5"), "{rate}");
    }
    assert!(refused("bindings nonsense").contains("32 hexadecimal digits"));
    assert!(refused("dead-letters replay").contains("required"));
    assert!(refused("dead-letters discard --all").contains("--why"));
    assert!(refused("quarantine discard --all").contains("--why"));
    for command in ["dead-letters discard --all --why=", "quarantine discard --all --why="] {
        assert!(refused(command).contains("say why"), "{command}");
    }
    assert!(refused("dead-letters replay --key-prefix=").contains("--key-prefix"));
    assert!(refused("quarantine retry").contains("--all"));
    assert!(refused("dead-letters list --reason boredom").contains("attempts_exhausted"));
    assert!(refused("dead-letters list --since yesterday").contains("2h"));
    assert!(
        refused(&format!("dead-letters discard --all {}", DeliveryId::from_bytes([1; 16])))
            .contains("cannot be used")
    );
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
async fn completions_are_printed_for_each_shell() {
    let host = Host::new().await;
    for shell in ["bash", "zsh", "fish"] {
        assert!(host.run(&format!("completions {shell}")).await.done().contains("dead-letters"), "{shell}");
    }
}
