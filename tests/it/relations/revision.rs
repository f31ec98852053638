//! The revision, the log of changes, and when a reader must load everything.

use anyhow::{Result, bail, ensure};
use triggerd::{
    domain::{binding::State, ids::BindingId},
    relations::{Changes, Head, Relations},
};

use super::{How, World, at, bind, conformance, progress, shown};
use crate::harness::suite::Test;

pub(crate) fn tests() -> Vec<Test> {
    conformance! {
        an_empty_database_is_at_revision_zero_and_knows_itself;
        changes_tell_what_changed_and_what_is_gone;
        a_reader_of_another_database_reloads;
        a_reader_from_the_future_reloads;
        a_reader_behind_the_pruned_log_reloads;
        a_snapshot_is_of_one_revision_while_others_write;
        followers_of_concurrent_writers_miss_nothing;
    }
}

/// Ids of changed ones, ids of gone ones, and the head after them.
async fn since(
    relations: &dyn Relations,
    seen: Head,
) -> Result<Option<(Vec<BindingId>, Vec<BindingId>, Head)>> {
    Ok(match relations.changes_since(seen).await? {
        Changes::Reload => None,
        Changes::Since { head, changed, mut gone } => {
            let mut changed: Vec<_> = changed.iter().map(|binding| binding.id).collect();
            changed.sort();
            gone.sort();
            Some((changed, gone, head))
        }
    })
}

async fn an_empty_database_is_at_revision_zero_and_knows_itself(world: World) -> Result<()> {
    let relations = world.open().await?;
    let head = relations.head().await?;
    ensure!(head.revision == 0 && head.database != [0; 16]);
    ensure!(relations.snapshot().await?.bindings.is_empty());
    ensure!(world.open().await?.head().await? == head, "another daemon sees another database");
    ensure!(since(&*relations, head).await? == Some((vec![], vec![], head)));
    Ok(())
}

async fn changes_tell_what_changed_and_what_is_gone(world: World) -> Result<()> {
    let relations = world.open().await?;
    let a = bind(&*relations, "photos", "a", 1).await?;
    let b = bind(&*relations, "photos", "b", 2).await?;
    let before = relations.head().await?;
    let c = bind(&*relations, "photos", "c", 3).await?;
    relations.record(b.id, b.revision, &progress(State::Armed, None, 1)).await?;
    relations.unbind(a.id, "operator", at(2)).await?;
    relations.remove(a.id, at(3)).await?;
    let d = bind(&*relations, "photos", "d", 4).await?;
    relations.unbind(d.id, "operator", at(4)).await?;
    relations.remove(d.id, at(5)).await?;
    let head = relations.head().await?;
    ensure!(head.revision == before.revision + 7);
    let answer = since(&*relations, before).await?;
    ensure!(answer == Some((vec![b.id, c.id], vec![a.id, d.id], head)), "{answer:?}");
    ensure!(since(&*relations, head).await? == Some((vec![], vec![], head)));
    let Changes::Since { changed, .. } = relations.changes_since(before).await? else { bail!("a reload") };
    let changed_b = changed.iter().find(|binding| binding.id == b.id).expect("b changed");
    ensure!(changed_b.state == State::Armed);
    Ok(())
}

async fn a_reader_of_another_database_reloads(world: World) -> Result<()> {
    let relations = world.open().await?;
    bind(&*relations, "photos", "a", 1).await?;
    let mut foreign = relations.head().await?;
    foreign.database[0] ^= 1;
    ensure!(since(&*relations, foreign).await?.is_none());
    Ok(())
}

async fn a_reader_from_the_future_reloads(world: World) -> Result<()> {
    let relations = world.open().await?;
    bind(&*relations, "photos", "a", 1).await?;
    let mut ahead = relations.head().await?;
    ahead.revision += 1;
    ensure!(since(&*relations, ahead).await?.is_none());
    ahead.revision = u64::MAX;
    ensure!(since(&*relations, ahead).await?.is_none());
    Ok(())
}

async fn a_reader_behind_the_pruned_log_reloads(world: World) -> Result<()> {
    let relations = world.open_as(How { migrate: true, kept_changes: 3 }).await?;
    let start = relations.head().await?;
    for seed in 0..5 {
        bind(&*relations, "photos", &format!("f{seed}"), seed).await?;
    }
    ensure!(since(&*relations, start).await?.is_none(), "the log reaches further than it is kept");
    ensure!(since(&*relations, Head { revision: 1, ..start }).await?.is_none());
    let (changed, _, head) = since(&*relations, Head { revision: 2, ..start }).await?.expect("still kept");
    ensure!(changed.len() == 3 && head.revision == 5);
    Ok(())
}

async fn a_snapshot_is_of_one_revision_while_others_write(world: World) -> Result<()> {
    let (writer, reader) = (world.open().await?, world.open().await?);
    let writing = tokio::spawn(async move {
        for seed in 0..60 {
            bind(&*writer, "photos", &format!("f{seed}"), seed).await?;
        }
        anyhow::Ok(())
    });
    let mut looks = 0;
    while !writing.is_finished() {
        let snapshot = reader.snapshot().await?;
        // Each binding made one revision, so they must agree at any moment.
        ensure!(snapshot.head.revision == snapshot.bindings.len() as u64, "{:?}", snapshot.head);
        looks += 1;
    }
    writing.await??;
    ensure!(looks > 1 && reader.snapshot().await?.bindings.len() == 60);
    Ok(())
}

async fn followers_of_concurrent_writers_miss_nothing(world: World) -> Result<()> {
    let follower = world.open().await?;
    let mut head = follower.head().await?;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let relations = world.open().await?;
        writers.spawn(async move {
            for turn in 0..15 {
                let seed = writer * 100 + turn;
                let made = bind(&*relations, "photos", &format!("f{seed}"), seed).await?;
                if turn % 3 == 0 {
                    relations.unbind(made.id, "operator", at(1)).await?;
                    relations.remove(made.id, at(2)).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    let mut copy = std::collections::BTreeMap::new();
    loop {
        let last = writers.is_empty();
        match follower.changes_since(head).await? {
            Changes::Reload => bail!("a reload"),
            Changes::Since { head: now, changed, gone } => {
                head = now;
                copy.extend(changed.into_iter().map(|binding| (binding.id, shown(&binding))));
                copy.retain(|id, _| !gone.contains(id));
            }
        }
        if last {
            break;
        }
        while let Some(writer) = writers.try_join_next() {
            writer??;
        }
    }
    let snapshot = follower.snapshot().await?;
    let all = snapshot.bindings.iter().map(|binding| (binding.id, shown(binding))).collect();
    ensure!(copy == all && copy.len() == 40, "{} copied, {} there", copy.len(), snapshot.bindings.len());
    Ok(())
}
