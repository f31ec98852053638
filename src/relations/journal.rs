//! What is kept beside the bindings: their history, the audit, the nodes. Compiled once for each engine, as
//! `statements` is.

use super::Connection;
use crate::{
    domain::{binding::Binding, clock::Timestamp, ids::BindingId},
    relations::{
        AuditEntry, HistoryEntry, Node, RelationsError, failed,
        rows::{self, AuditRow, HistoryRow, NodeRow},
    },
};

/// Writes the state into the binding's history, whose oldest entry goes.
pub(super) async fn remember(
    tx: &mut Connection,
    verb: &'static str,
    binding: &Binding,
    (revision, now): (i64, Timestamp),
) -> Result<(), RelationsError> {
    let id = binding.id.as_bytes().as_slice();
    let entry = async {
        sqlx::query(
            "INSERT INTO binding_history (binding, revision, noted_at, state, reason) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(revision)
        .bind(now.as_micros())
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

/// Writes who did what, and lets the oldest entry go.
pub(super) async fn audit(
    tx: &mut Connection,
    action: &'static str,
    by: &str,
    binding: &Binding,
    now: Timestamp,
) -> Result<(), RelationsError> {
    let spec = &binding.spec;
    let detail =
        format!("{}/{} to {}/{}", spec.storage, spec.bucket, spec.function.platform, spec.function.function);
    let entry = async {
        sqlx::query("INSERT INTO audit (noted_at, actor, action, binding, detail) VALUES (?, ?, ?, ?, ?)")
            .bind(now.as_micros())
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
