//! The statements that both engines understand alike, as functions on an open transaction.
//!
//! This file is compiled once for each engine, as a child of its module: `super::Connection` is the engine's, and so
//! are the few statements (`super::LOCK_REVISION`, `super::NODES`) that must differ. So the two cannot drift apart,
//! and each is still plain static SQL, checked by the conformance suite on every server.
//!
//! Every writer calls [`lock_revision`] first. It then sees what all writers before it committed, and nobody else
//! writes until it ends; what it decides on is what it changes.

use super::{Connection, journal};
use crate::{
    domain::{
        binding::{Binding, State, Wanted},
        clock::Timestamp,
        ids::BindingId,
    },
    relations::{
        Bound, Changes, Head, ListQuery, NewBinding, Progress, RelationsError, failed,
        rows::{self, BindingRow, Columns, HeadRow, binding_columns},
    },
};

/// Which revision a change makes, when, and how many changes the log keeps.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    revision: i64,
    now: Timestamp,
    kept: i64,
}

/// Waits for its turn among the writers; the moment of the change that may now be made.
async fn lock_revision(
    tx: &mut Connection,
    verb: &'static str,
    now: Timestamp,
    kept: i64,
) -> Result<Moment, RelationsError> {
    let revision: i64 = sqlx::query_scalar(super::LOCK_REVISION).fetch_one(tx).await.map_err(failed(verb))?;
    Ok(Moment { revision: revision + 1, now, kept })
}

pub(super) async fn head(tx: &mut Connection) -> Result<HeadRow, RelationsError> {
    sqlx::query_as("SELECT database_id, revision, pruned FROM revision WHERE id = 1")
        .fetch_one(tx)
        .await
        .map_err(failed("read the revision"))
}

/// Must run on a consistent snapshot.
pub(super) async fn changes_since(tx: &mut Connection, seen: Head) -> Result<Changes, RelationsError> {
    let verb = "read what changed";
    let row = head(tx).await?;
    if !row.reaches(seen) {
        return Ok(Changes::Reload);
    }
    let since = rows::signed(seen.revision);
    let changed: Vec<BindingRow> = sqlx::query_as(concat!(
        "SELECT ",
        binding_columns!(),
        " FROM binding WHERE id IN (SELECT binding FROM binding_change WHERE revision > ?)"
    ))
    .bind(since)
    .fetch_all(&mut *tx)
    .await
    .map_err(failed(verb))?;
    let gone: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT DISTINCT binding FROM binding_change \
         WHERE revision > ? AND binding NOT IN (SELECT id FROM binding)",
    )
    .bind(since)
    .fetch_all(tx)
    .await
    .map_err(failed(verb))?;
    let gone = gone.iter().map(|id| {
        BindingId::from_slice(id).map_err(|error| RelationsError::Corrupt {
            table: "binding_change",
            column: "binding",
            row: rows::key(id),
            problem: error.to_string(),
        })
    });
    Ok(Changes::Since {
        head: row.head()?,
        changed: rows::bindings(changed)?,
        gone: gone.collect::<Result<_, _>>()?,
    })
}

pub(super) async fn all(tx: &mut Connection) -> Result<Vec<Binding>, RelationsError> {
    let rows: Vec<BindingRow> = sqlx::query_as(concat!("SELECT ", binding_columns!(), " FROM binding"))
        .fetch_all(tx)
        .await
        .map_err(failed("read all bindings"))?;
    rows::bindings(rows)
}

pub(super) async fn one(
    tx: &mut Connection,
    verb: &'static str,
    id: BindingId,
) -> Result<Option<Binding>, RelationsError> {
    let row: Option<BindingRow> =
        sqlx::query_as(concat!("SELECT ", binding_columns!(), " FROM binding WHERE id = ?"))
            .bind(id.as_bytes().as_slice())
            .fetch_optional(tx)
            .await
            .map_err(failed(verb))?;
    row.map(Binding::try_from).transpose()
}

pub(super) async fn page(tx: &mut Connection, query: &ListQuery) -> Result<Vec<Binding>, RelationsError> {
    let after = query.after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
    let limit = i64::from(query.limit.min(rows::MOST_ROWS));
    let platform = query.platform.as_deref();
    let rows: Vec<BindingRow> = sqlx::query_as(concat!(
        "SELECT ",
        binding_columns!(),
        " FROM binding WHERE id > ? AND (? IS NULL OR platform = ?) ORDER BY id LIMIT ?"
    ))
    .bind(after)
    .bind(platform)
    .bind(platform)
    .bind(limit)
    .fetch_all(tx)
    .await
    .map_err(failed("list bindings"))?;
    rows::bindings(rows)
}

pub(super) async fn bind(tx: &mut Connection, new: &NewBinding, kept: i64) -> Result<Bound, RelationsError> {
    let verb = "bind";
    let moment = lock_revision(tx, verb, new.now, kept).await?;
    let row: Option<BindingRow> =
        sqlx::query_as(concat!("SELECT ", binding_columns!(), " FROM binding WHERE identity = ?"))
            .bind(rows::identity(&new.spec))
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed(verb))?;
    if let Some(row) = row {
        return Ok(rows::found(row.try_into()?, &new.spec));
    }
    // Exact, since all who bind wait for the revision. What the platform refused takes no other binding's place, and is
    // bounded by itself.
    for count in [
        "SELECT COUNT(*) FROM (SELECT id FROM binding WHERE platform = ? AND state <> 'rejected' LIMIT ?) AS theirs",
        "SELECT COUNT(*) FROM (SELECT id FROM binding WHERE platform = ? AND state = 'rejected' LIMIT ?) AS refused",
    ] {
        let there: i64 = sqlx::query_scalar(count)
            .bind(&new.spec.function.platform)
            .bind(i64::from(new.most))
            .fetch_one(&mut *tx)
            .await
            .map_err(failed(verb))?;
        if there >= i64::from(new.most) {
            return Ok(Bound::Full);
        }
    }
    let binding = rows::made(new.clone(), moment.revision);
    insert(tx, &Columns::of(&binding)?).await.map_err(failed(verb))?;
    note(tx, verb, &binding, moment).await?;
    journal::remember(tx, verb, &binding, (moment.revision, moment.now)).await?;
    journal::audit(tx, verb, &new.by, &binding, moment.now).await?;
    Ok(Bound::Created(binding))
}

/// Writes a binding that is not there.
pub(super) async fn insert(tx: &mut Connection, row: &Columns<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO binding (id, identity, storage, bucket, platform, function_name, concurrency, spec, wanted, \
         state, reason, steps, secret, revision, created_at, updated_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(row.id)
    .bind(&row.identity)
    .bind(row.storage)
    .bind(row.bucket)
    .bind(row.platform)
    .bind(row.function)
    .bind(row.concurrency)
    .bind(&row.spec)
    .bind(row.wanted)
    .bind(row.state)
    .bind(row.reason)
    .bind(&row.steps)
    .bind(row.secret)
    .bind(row.revision)
    .bind(row.created_at)
    .bind(row.updated_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// None when there is no such binding; one that is `unbinding` already stays as it is.
pub(super) async fn unbind(
    tx: &mut Connection,
    id: BindingId,
    by: &str,
    (now, kept): (Timestamp, i64),
) -> Result<Option<Binding>, RelationsError> {
    let verb = "unbind";
    let moment = lock_revision(tx, verb, now, kept).await?;
    let Some(mut binding) = one(tx, verb, id).await? else {
        return Ok(None);
    };
    if binding.wanted == Wanted::Absent && binding.state == State::Unbinding {
        return Ok(Some(binding));
    }
    binding.wanted = Wanted::Absent;
    binding.state = State::Unbinding;
    binding.reason = None;
    store(tx, verb, &mut binding, moment).await?;
    journal::remember(tx, verb, &binding, (moment.revision, moment.now)).await?;
    journal::audit(tx, verb, by, &binding, moment.now).await?;
    Ok(Some(binding))
}

/// Whether the binding was as it was at `seen_revision`.
pub(super) async fn record(
    tx: &mut Connection,
    id: BindingId,
    seen_revision: u64,
    progress: &Progress,
    kept: i64,
) -> Result<bool, RelationsError> {
    let verb = "record a binding's progress";
    let moment = lock_revision(tx, verb, progress.now, kept).await?;
    let Some(mut binding) = one(tx, verb, id).await?.filter(|binding| binding.revision == seen_revision)
    else {
        return Ok(false);
    };
    if !rows::is_news(&binding, progress) {
        return Ok(true);
    }
    let other_state = binding.state != progress.state || binding.reason != progress.reason;
    binding.state = progress.state;
    binding.reason.clone_from(&progress.reason);
    binding.steps.clone_from(&progress.steps);
    store(tx, verb, &mut binding, moment).await?;
    if other_state {
        journal::remember(tx, verb, &binding, (moment.revision, moment.now)).await?;
    }
    Ok(true)
}

/// Whether there was such a binding and it was `unbinding`.
pub(super) async fn remove(
    tx: &mut Connection,
    id: BindingId,
    now: Timestamp,
    kept: i64,
) -> Result<bool, RelationsError> {
    let verb = "remove";
    let moment = lock_revision(tx, verb, now, kept).await?;
    let Some(binding) = one(tx, verb, id).await?.filter(|binding| binding.state == State::Unbinding) else {
        return Ok(false);
    };
    for statement in ["DELETE FROM binding WHERE id = ?", "DELETE FROM binding_history WHERE binding = ?"] {
        sqlx::query(statement)
            .bind(id.as_bytes().as_slice())
            .execute(&mut *tx)
            .await
            .map_err(failed(verb))?;
    }
    note(tx, verb, &binding, moment).await?;
    journal::audit(tx, verb, "reconciler", &binding, moment.now).await?;
    Ok(true)
}

/// Writes what may change of a binding, and notes the change.
async fn store(
    tx: &mut Connection,
    verb: &'static str,
    binding: &mut Binding,
    moment: Moment,
) -> Result<(), RelationsError> {
    binding.revision = u64::try_from(moment.revision).unwrap_or_default();
    binding.updated_at = moment.now;
    let row = Columns::of(binding)?;
    sqlx::query(
        "UPDATE binding SET wanted = ?, state = ?, reason = ?, steps = ?, revision = ?, updated_at = ? WHERE id = ?",
    )
    .bind(row.wanted)
    .bind(row.state)
    .bind(row.reason)
    .bind(&row.steps)
    .bind(row.revision)
    .bind(row.updated_at)
    .bind(row.id)
    .execute(&mut *tx)
    .await
    .map_err(failed(verb))?;
    note(tx, verb, binding, moment).await
}

/// Moves the revision on and writes the change into the log, whose oldest entries go.
async fn note(
    tx: &mut Connection,
    verb: &'static str,
    binding: &Binding,
    moment: Moment,
) -> Result<(), RelationsError> {
    let pruned = (moment.revision - moment.kept).max(0);
    let change = async {
        sqlx::query(
            "UPDATE revision SET revision = ?, pruned = CASE WHEN pruned < ? THEN ? ELSE pruned END WHERE id = 1",
        )
        .bind(moment.revision)
        .bind(pruned)
        .bind(pruned)
        .execute(&mut *tx)
        .await?;
        sqlx::query("INSERT INTO binding_change (revision, binding, storage, bucket) VALUES (?, ?, ?, ?)")
            .bind(moment.revision)
            .bind(binding.id.as_bytes().as_slice())
            .bind(binding.spec.storage.as_str())
            .bind(&binding.spec.bucket)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM binding_change WHERE revision <= ?").bind(pruned).execute(tx).await
    };
    change.await.map(drop).map_err(failed(verb))
}
