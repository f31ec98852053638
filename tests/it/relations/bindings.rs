//! Binding, unbinding, recording what the reconciler finds, listing.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use triggerd::{
    domain::binding::{State, StepState, Wanted},
    relations::{Bound, ListQuery, NewBinding, RelationsError},
};

use super::{World, at, bind, conformance, new, progress, read, shown, spec};
use crate::harness::suite::Test;

pub(crate) fn tests() -> Vec<Test> {
    conformance! {
        a_binding_reads_as_it_was_made;
        the_same_request_twice_is_one_binding;
        other_settings_for_the_same_filter_and_function_are_a_conflict;
        daemons_that_bind_the_same_at_once_make_one_binding;
        unbinding_is_idempotent_and_binding_again_waits_until_it_is_gone;
        a_platform_has_no_more_bindings_than_it_may_have;
        rejected_bindings_take_no_others_place_and_have_as_many_of_their_own;
        only_an_unbinding_one_can_be_removed;
        progress_is_recorded_only_on_what_was_seen;
        progress_that_says_nothing_new_changes_nothing;
        pages_follow_the_order_of_making;
        platforms_are_told_apart_by_case;
        history_tells_the_states_and_stays_bounded;
        audit_tells_who_did_what;
        a_row_that_makes_no_sense_is_named;
    }
}

async fn a_binding_reads_as_it_was_made(world: World) -> Result<()> {
    let relations = world.open().await?;
    let request = new(spec("photos", "thumb")?, 1);
    let Bound::Created(made) = relations.bind(request.clone()).await? else { bail!("not created") };
    ensure!(made.id == request.id && made.spec == request.spec && made.state == State::Pending);
    ensure!(made.secret.expose() == request.secret.expose() && made.wanted == Wanted::Present);
    ensure!(made.revision == relations.head().await?.revision && made.created_at == at(0));
    let read_back = read(&*relations, made.id).await?;
    ensure!(shown(&read_back) == shown(&made), "{read_back:?} is not {made:?}");
    let other_daemon = world.open().await?;
    ensure!(shown(&read(&*other_daemon, made.id).await?) == shown(&made));
    Ok(())
}

async fn the_same_request_twice_is_one_binding(world: World) -> Result<()> {
    let relations = world.open().await?;
    let first = bind(&*relations, "photos", "thumb", 1).await?;
    let head = relations.head().await?;
    let Bound::Same(again) = relations.bind(new(spec("photos", "thumb")?, 2)).await? else {
        bail!("not the same")
    };
    ensure!(shown(&again) == shown(&first), "the second request changed id, secret or state");
    ensure!(relations.head().await? == head, "a repeated request made a revision");
    Ok(())
}

async fn other_settings_for_the_same_filter_and_function_are_a_conflict(world: World) -> Result<()> {
    let relations = world.open().await?;
    let first = bind(&*relations, "photos", "thumb", 1).await?;
    let mut other = spec("photos", "thumb")?;
    other.concurrency += 1;
    let Bound::Conflict(named) = relations.bind(new(other, 2)).await? else { bail!("no conflict") };
    ensure!(named.id == first.id && named.spec.concurrency == first.spec.concurrency);
    let mut suffix = serde_json::to_value(spec("photos", "thumb")?)?;
    suffix["suffix"] = ".JPG".into();
    let Bound::Created(second) = relations.bind(new(serde_json::from_value(suffix)?, 3)).await? else {
        bail!("a suffix in capitals is another binding")
    };
    ensure!(second.id != first.id);
    Ok(())
}

async fn daemons_that_bind_the_same_at_once_make_one_binding(world: World) -> Result<()> {
    let mut asked = tokio::task::JoinSet::new();
    for seed in 0..12 {
        let relations = world.open().await?;
        let request = new(spec("photos", "thumb")?, seed);
        asked.spawn(async move { relations.bind(request).await });
    }
    let (mut ids, mut created) = (BTreeSet::new(), 0);
    while let Some(answer) = asked.join_next().await {
        match answer?? {
            Bound::Created(binding) => {
                created += 1;
                ids.insert(binding.id);
            }
            Bound::Same(binding) => {
                ids.insert(binding.id);
            }
            other => bail!("{other:?}"),
        }
    }
    ensure!(created == 1 && ids.len() == 1, "{created} created, ids {ids:?}");
    ensure!(world.open().await?.head().await?.revision == 1);
    Ok(())
}

async fn a_platform_has_no_more_bindings_than_it_may_have(world: World) -> Result<()> {
    let request = |platform: &str, function: String, seed| {
        let mut spec = spec("photos", &function)?;
        platform.clone_into(&mut spec.function.platform);
        anyhow::Ok(NewBinding { most: 3, ..new(spec, seed) })
    };
    let mut asked = tokio::task::JoinSet::new();
    for seed in 0..12 {
        let (relations, request) = (world.open().await?, request("local", format!("f{seed}"), seed)?);
        asked.spawn(async move { relations.bind(request).await });
    }
    let (mut made, mut refused) = (Vec::new(), 0);
    while let Some(answer) = asked.join_next().await {
        match answer?? {
            Bound::Created(binding) => made.push(binding),
            Bound::Full => refused += 1,
            other => bail!("{other:?}"),
        }
    }
    ensure!((made.len(), refused) == (3, 9), "{} made, {refused} refused, by daemons at once", made.len());
    let relations = world.open().await?;
    ensure!(relations.head().await?.revision == 3, "a refusal made a revision");
    let mut again = request("local", String::new(), 20)?;
    again.spec = made[0].spec.clone();
    ensure!(matches!(relations.bind(again).await?, Bound::Same(_)), "what is there may be asked for");
    let other = request("other", "f".into(), 21)?;
    ensure!(matches!(relations.bind(other).await?, Bound::Created(_)), "another platform has its own");
    relations.unbind(made[0].id, "operator", at(1)).await?;
    let next = request("local", "next".into(), 22)?;
    ensure!(matches!(relations.bind(next.clone()).await?, Bound::Full), "it is there until it is gone");
    relations.remove(made[0].id, at(2)).await?;
    ensure!(matches!(relations.bind(next).await?, Bound::Created(_)));
    Ok(())
}

async fn rejected_bindings_take_no_others_place_and_have_as_many_of_their_own(world: World) -> Result<()> {
    let relations = world.open().await?;
    let request =
        |function: &str, seed| anyhow::Ok(NewBinding { most: 2, ..new(spec("photos", function)?, seed) });
    for (function, seed) in [("tumb", 1), ("thmub", 2)] {
        let Bound::Created(binding) = relations.bind(request(function, seed)?).await? else {
            bail!("`{function}` was not made");
        };
        let refused = progress(State::Rejected, Some("no such function"), 1);
        ensure!(relations.record(binding.id, binding.revision, &refused).await?);
        let there = relations.bind(request(&format!("right-{seed}"), 10 + seed)?).await?;
        // The second finds as many rejected ones as there may be: they are bounded, too.
        ensure!(matches!(there, Bound::Created(_)) == (seed == 1), "{there:?}");
        if seed == 2 {
            ensure!(matches!(there, Bound::Full), "{there:?}");
            relations.unbind(binding.id, "operator", at(2)).await?;
            relations.remove(binding.id, at(3)).await?;
        }
    }
    ensure!(
        matches!(relations.bind(request("right-2", 20)?).await?, Bound::Created(_)),
        "beside a rejected one"
    );
    ensure!(matches!(relations.bind(request("right-3", 21)?).await?, Bound::Full));
    Ok(())
}

async fn unbinding_is_idempotent_and_binding_again_waits_until_it_is_gone(world: World) -> Result<()> {
    let relations = world.open().await?;
    let made = bind(&*relations, "photos", "thumb", 1).await?;
    let first = relations.unbind(made.id, "operator", at(1)).await?.context("not there")?;
    ensure!(first.state == State::Unbinding && first.wanted == Wanted::Absent && first.updated_at == at(1));
    ensure!(first.revision > made.revision);
    let head = relations.head().await?;
    let second = relations.unbind(made.id, "operator", at(2)).await?.context("not there")?;
    ensure!(shown(&second) == shown(&first) && relations.head().await? == head);
    let again = relations.bind(new(spec("photos", "thumb")?, 2)).await?;
    ensure!(matches!(&again, Bound::Unbinding(binding) if binding.id == made.id), "{again:?}");
    ensure!(relations.remove(made.id, at(3)).await?);
    ensure!(relations.unbind(made.id, "operator", at(4)).await?.is_none());
    let anew = bind(&*relations, "photos", "thumb", 2).await?;
    ensure!(anew.id != made.id && anew.state == State::Pending);
    Ok(())
}

async fn only_an_unbinding_one_can_be_removed(world: World) -> Result<()> {
    let relations = world.open().await?;
    let made = bind(&*relations, "photos", "thumb", 1).await?;
    ensure!(!relations.remove(made.id, at(1)).await?, "a pending binding was removed");
    relations.unbind(made.id, "operator", at(1)).await?;
    let revision = relations.head().await?.revision;
    ensure!(relations.remove(made.id, at(2)).await?);
    ensure!(relations.binding(made.id).await?.is_none());
    ensure!(relations.head().await?.revision == revision + 1);
    ensure!(!relations.remove(made.id, at(3)).await?, "it was removed twice");
    ensure!(relations.head().await?.revision == revision + 1);
    Ok(())
}

async fn progress_is_recorded_only_on_what_was_seen(world: World) -> Result<()> {
    let relations = world.open().await?;
    let made = bind(&*relations, "photos", "thumb", 1).await?;
    let armed = progress(State::Armed, Some("n2 has been silent for 40 s"), 1);
    ensure!(relations.record(made.id, made.revision, &armed).await?);
    let seen = read(&*relations, made.id).await?;
    ensure!(seen.state == State::Armed && seen.reason == armed.reason && seen.steps == armed.steps);
    ensure!(seen.revision == made.revision + 1 && seen.updated_at == at(1) && seen.created_at == at(0));
    // A second reconciler that still goes by what it saw before.
    let late = progress(State::Rejected, Some("no such function"), 2);
    ensure!(!relations.record(made.id, made.revision, &late).await?);
    ensure!(shown(&read(&*relations, made.id).await?) == shown(&seen));
    // Unbound in between: the reconciler must not bring it back.
    relations.unbind(made.id, "operator", at(3)).await?;
    ensure!(!relations.record(made.id, seen.revision, &progress(State::Active, None, 4)).await?);
    ensure!(read(&*relations, made.id).await?.state == State::Unbinding);
    relations.remove(made.id, at(5)).await?;
    ensure!(!relations.record(made.id, seen.revision, &progress(State::Active, None, 6)).await?);
    Ok(())
}

async fn progress_that_says_nothing_new_changes_nothing(world: World) -> Result<()> {
    let relations = world.open().await?;
    let made = bind(&*relations, "photos", "thumb", 1).await?;
    relations.record(made.id, made.revision, &progress(State::Armed, None, 1)).await?;
    let (seen, head) = (read(&*relations, made.id).await?, relations.head().await?);
    let same_later = progress(State::Armed, None, 60);
    ensure!(relations.record(made.id, seen.revision, &same_later).await?, "it was as it was seen");
    ensure!(relations.head().await? == head, "equal progress made a revision");
    ensure!(shown(&read(&*relations, made.id).await?) == shown(&seen));
    let mut failing = same_later;
    failing.steps[0].state = StepState::Failed;
    failing.steps[0].error = Some("connection refused".into());
    ensure!(relations.record(made.id, seen.revision, &failing).await?);
    ensure!(relations.head().await?.revision == head.revision + 1);
    ensure!(read(&*relations, made.id).await?.steps == failing.steps);
    Ok(())
}

async fn pages_follow_the_order_of_making(world: World) -> Result<()> {
    let relations = world.open().await?;
    let mut made = Vec::new();
    for seed in 0..7 {
        made.push(bind(&*relations, "photos", &format!("f{seed}"), seed).await?.id);
    }
    let (mut query, mut listed) = (ListQuery { limit: 3, ..ListQuery::default() }, Vec::new());
    loop {
        let page = relations.bindings(&query).await?;
        ensure!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        query.after = Some(last.id);
        listed.extend(page.into_iter().map(|binding| binding.id));
    }
    ensure!(listed == made, "{listed:?}");
    Ok(())
}

async fn platforms_are_told_apart_by_case(world: World) -> Result<()> {
    let relations = world.open().await?;
    for (seed, platform) in [(1, "local"), (2, "Local"), (3, "lôcal")] {
        let mut spec = spec("photos", "thumb")?;
        spec.function.platform = platform.into();
        ensure!(matches!(relations.bind(new(spec, seed)).await?, Bound::Created(_)), "{platform}");
    }
    let query = ListQuery { platform: Some("local".into()), limit: 10, ..ListQuery::default() };
    let page = relations.bindings(&query).await?;
    ensure!(page.len() == 1 && page[0].spec.function.platform == "local", "{page:?}");
    Ok(())
}

async fn history_tells_the_states_and_stays_bounded(world: World) -> Result<()> {
    let relations = world.open().await?;
    let made = bind(&*relations, "photos", "thumb", 1).await?;
    for (turn, revision) in (0..105).zip(made.revision..) {
        let state = if turn % 2 == 0 { State::Armed } else { State::Degraded };
        ensure!(relations.record(made.id, revision, &progress(state, Some("so"), turn)).await?);
    }
    let newest = relations.history(made.id, 2).await?;
    ensure!(newest.iter().map(|entry| entry.state).eq([State::Armed, State::Degraded]), "{newest:?}");
    ensure!(newest[0].at == at(104) && newest[0].reason.as_deref() == Some("so"));
    let all = relations.history(made.id, 1_000).await?;
    ensure!(all.len() == 100, "{} entries", all.len());
    relations.unbind(made.id, "operator", at(200)).await?;
    relations.remove(made.id, at(201)).await?;
    ensure!(relations.history(made.id, 10).await?.is_empty());
    Ok(())
}

async fn audit_tells_who_did_what(world: World) -> Result<()> {
    let relations = world.open().await?;
    let made = bind(&*relations, "photos", "thumb", 1).await?;
    relations.unbind(made.id, "faas", at(1)).await?;
    relations.remove(made.id, at(2)).await?;
    let entries = relations.audit(None, 10).await?;
    let told: Vec<_> = entries.iter().map(|entry| (entry.by.as_str(), entry.action.as_str())).collect();
    ensure!(told == [("reconciler", "remove"), ("faas", "unbind"), ("operator", "bind")], "{told:?}");
    ensure!(entries.iter().all(|entry| entry.binding == made.id && entry.detail.contains("photos")));
    let before = relations.audit(Some(entries[0].id), 1).await?;
    ensure!(before == entries[1..2], "{before:?}");
    Ok(())
}

async fn a_row_that_makes_no_sense_is_named(world: World) -> Result<()> {
    let relations = world.open().await?;
    let made = bind(&*relations, "photos", "thumb", 1).await?;
    let broken = [
        ("spec", "'{\"storage\":1}'"),
        ("state", "'happy'"),
        ("wanted", "'perhaps'"),
        ("steps", "'[{}]'"),
        ("secret", "'hunter2'"),
    ];
    for (name, value) in broken {
        world.execute(&format!("CREATE TABLE kept AS SELECT {name} AS v FROM binding")).await?;
        world.execute(&format!("UPDATE binding SET {name} = {value}")).await?;
        let answer = relations.snapshot().await;
        let Err(RelationsError::Corrupt { table: "binding", column, row, problem }) = &answer else {
            bail!("{name}: {answer:?}")
        };
        ensure!(*column == name && *row == made.id.to_string() && !problem.contains("hunter2"), "{answer:?}");
        let restore = format!("UPDATE binding SET {name} = (SELECT v FROM kept); DROP TABLE kept");
        world.execute(&restore).await?;
    }
    ensure!(shown(&relations.snapshot().await?.bindings[0]) == shown(&made));
    Ok(())
}
