//! The statements that both engines understand alike, as functions on an open transaction.
//!
//! This file is compiled once for each engine, as a child of its module: `super::Connection` is the engine's, and so
//! are the few statements (`super::LOCK_REVISION`, `super::NODES`) that must differ. So the two cannot drift apart,
//! and each is still plain static SQL, checked by the conformance suite on every server.
//!
//! Every writer calls [`lock_revision`] first. It then sees what all writers before it committed, and nobody else
//! writes until it ends; what it decides on is what it changes.

use super::Connection;
use crate::{
    domain::{
        binding::{Binding, State, Wanted},
        clock::Timestamp,
        ids::BindingId,
    },
    relations::{
        AuditEntry, Bound, Changes, Head, HistoryEntry, ListQuery, NewBinding, Node, Progress,
        RelationsError, failed,
        rows::{self, AuditRow, BindingRow, Columns, HeadRow, HistoryRow, NodeRow, binding_columns},
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
    let binding = rows::made(new.clone(), moment.revision);
    insert(tx, &Columns::of(&binding)?).await.map_err(failed(verb))?;
    note(tx, verb, &binding, moment).await?;
    remember(tx, verb, &binding, moment).await?;
    audit(tx, verb, &new.by, &binding, moment).await?;
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
    remember(tx, verb, &binding, moment).await?;
    audit(tx, verb, by, &binding, moment).await?;
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
        remember(tx, verb, &binding, moment).await?;
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
    audit(tx, verb, "reconciler", &binding, moment).await?;
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

/// Writes the state into the binding's history, whose oldest entry goes.
async fn remember(
    tx: &mut Connection,
    verb: &'static str,
    binding: &Binding,
    moment: Moment,
) -> Result<(), RelationsError> {
    let id = binding.id.as_bytes().as_slice();
    let entry = async {
        sqlx::query(
            "INSERT INTO binding_history (binding, revision, noted_at, state, reason) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(moment.revision)
        .bind(moment.now.as_micros())
        .bind(binding.state.as_str())
        .bind(&binding.reason)
        .execute(&mut *tx)
        .await?;
        let oldest: Option<i64> = sqlx::query_scalar(
            "SELECT revision FROM binding_history WHERE binding = ? ORDER BY revision DESC LIMIT 1 OFFSET ?",
        )
        .bind(id)
        .bind(rows::KEPT_HISTORY)
        .fetch_optional(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM binding_history WHERE binding = ? AND revision <= ?")
            .bind(id)
            .bind(oldest.unwrap_or(-1))
            .execute(tx)
            .await
    };
    entry.await.map(drop).map_err(failed(verb))
}

async fn audit(
    tx: &mut Connection,
    action: &'static str,
    by: &str,
    binding: &Binding,
    moment: Moment,
) -> Result<(), RelationsError> {
    let spec = &binding.spec;
    let detail =
        format!("{}/{} to {}/{}", spec.storage, spec.bucket, spec.function.platform, spec.function.function);
    let entry = async {
        sqlx::query("INSERT INTO audit (noted_at, actor, action, binding, detail) VALUES (?, ?, ?, ?, ?)")
            .bind(moment.now.as_micros())
            .bind(by)
            .bind(action)
            .bind(binding.id.as_bytes().as_slice())
            .bind(detail)
            .execute(&mut *tx)
            .await?;
        let newest: i64 = sqlx::query_scalar("SELECT MAX(id) FROM audit").fetch_one(&mut *tx).await?;
        sqlx::query("DELETE FROM audit WHERE id <= ?").bind(newest - rows::KEPT_AUDIT).execute(tx).await
    };
    entry.await.map(drop).map_err(failed(action))
}

pub(super) async fn history(
    tx: &mut Connection,
    id: BindingId,
    limit: u32,
) -> Result<Vec<HistoryEntry>, RelationsError> {
    let rows: Vec<HistoryRow> = sqlx::query_as(
        "SELECT binding, revision, noted_at, state, reason FROM binding_history \
         WHERE binding = ? ORDER BY revision DESC LIMIT ?",
    )
    .bind(id.as_bytes().as_slice())
    .bind(i64::from(limit.min(rows::MOST_ROWS)))
    .fetch_all(tx)
    .await
    .map_err(failed("read a binding's history"))?;
    rows.into_iter().map(HistoryEntry::try_from).collect()
}

pub(super) async fn audit_page(
    tx: &mut Connection,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<AuditEntry>, RelationsError> {
    let rows: Vec<AuditRow> = sqlx::query_as(
        "SELECT id, noted_at, actor, action, binding, detail FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?",
    )
    .bind(before.map_or(i64::MAX, rows::signed))
    .bind(i64::from(limit.min(rows::MOST_ROWS)))
    .fetch_all(tx)
    .await
    .map_err(failed("read the audit"))?;
    rows.into_iter().map(AuditEntry::try_from).collect()
}

pub(super) async fn nodes(tx: &mut Connection) -> Result<Vec<Node>, RelationsError> {
    let rows: Vec<NodeRow> =
        sqlx::query_as(super::NODES).fetch_all(tx).await.map_err(failed("list the nodes"))?;
    rows.into_iter().map(Node::try_from).collect()
}

pub(super) async fn forget_node(tx: &mut Connection, node: &str) -> Result<bool, RelationsError> {
    let done = sqlx::query("DELETE FROM node WHERE name = ?").bind(node).execute(tx).await;
    done.map(|done| done.rows_affected() > 0).map_err(failed("forget a node"))
}
