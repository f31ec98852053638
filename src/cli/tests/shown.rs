//! What is only shown: matches, outcomes, nodes, functions.

use super::*;
use crate::admin::wire::Explanation;

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

    let held = Explanation { state: State::Degraded, ..explanation(3, true, &["its deliveries are held"]) };
    *host.world.explanations.lock().unwrap() = vec![held];
    let ran = host.run("match --bucket photos --key in/a.jpg").await;
    let lines: Vec<&str> = ran.done().lines().collect();
    assert!(
        lines[0].starts_with("1 of 1 binding(s) of this bucket would fire; held without a call now: 1"),
        "{}",
        ran.out
    );
    assert!(lines[2].starts_with("held") && lines[2].ends_with("are held"), "{}", ran.out);
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
async fn no_outcome_is_not_nothing_while_deliveries_are_held() {
    let host = Host::new().await;
    host.configure(listen(state(&host.world)).await, OPERATOR);
    let ran = host.run("outcomes").await;
    assert!(ran.done().is_empty() && ran.err.contains("nothing has come in"), "{}", ran.err);
    let binding = host.bound().await;
    for key in ["in/a.jpg", "in/b.jpg"] {
        host.world.park(binding, "local", key, true).await;
    }
    host.world.park(binding, "local", "in/c.jpg", false).await;
    let ran = host.run("outcomes").await;
    assert!(ran.done().is_empty() && !ran.err.contains("nothing has come in"), "{}", ran.err);
    assert!(ran.err.contains("; 2 held (") && ran.err.contains("1 parked"), "{}", ran.err);
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
