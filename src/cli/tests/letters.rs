//! Dead letters and the quarantine: listed, shown, sent on their way again, discarded.

use super::*;
use crate::{
    admin::fakes::letter,
    domain::{
        ids::DeliveryId,
        outcome::{Attempt, Class},
    },
};

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
async fn a_dead_letter_whose_function_succeeded_late_is_marked_and_replayed_by_name_alone() {
    let host = Host::new().await;
    let id = host.bound().await;
    let lost = host.world.bury(id, "local", "in/lost").await;
    let mut letter = letter(id, "local", "in/late");
    letter.attempts[0].detail = "out of ideas\nreally\n".into();
    letter.detail = "8 attempts failed: out of ideas\n".into();
    let came = Attempt {
        class: Class::Ok,
        detail: "attempt 1 succeeded late: done\n".into(),
        ..letter.attempts[0].clone()
    };
    let late = host.world.bury_as_it_is(letter).await;
    host.world.succeeds_late(late, came).await;
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

    let all = host.run("dead-letters replay --all").await;
    assert_eq!(all.done(), format!("{lost} replayed\n"), "what has succeeded is not run again");
    assert!(all.err.contains("1 left alone: their functions have succeeded since"), "{}", all.err);
    let again = host.run("dead-letters replay --all --json").await.json();
    assert_eq!((&again["replayed"], &again["succeeded_late"]), (&json!([]), &json!(1)));
    let named = host.run(&format!("dead-letters replay {late}")).await;
    assert_eq!(named.done(), format!("{late} replayed\n"), "it is, where it is meant");
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
