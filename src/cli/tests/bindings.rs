//! Bindings: asked for, followed, shown and taken back.

use super::*;
use crate::domain::binding::{Step, StepName, StepState};

#[tokio::test]
async fn bind_follows_the_handshake_until_it_is_active() {
    let host = Host::new().await;
    host.world.becomes(State::Active, "every daemon knows it");
    let ran = host.run(BIND).await;
    let lines: Vec<&str> = ran.done().lines().collect();
    assert!(lines[0].ends_with("is pending"), "{}", ran.out);
    assert!(lines[1].ends_with("is active: every daemon knows it"), "{}", ran.out);
    let binding = host.world.bindings().await.remove(0);
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
        world.ends(id).await;
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
    host.world.steps(id, vec![step]).await;
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
