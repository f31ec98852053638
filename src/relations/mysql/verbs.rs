//! The verbs on MySQL: each one transaction, bounded in time, repeated after a collision.

use async_trait::async_trait;

use super::{MySqlRelations, failed, journal, statements, verb};
use crate::{
    domain::{binding::Binding, clock::Timestamp, ids::BindingId},
    relations::{
        AuditEntry, Bound, BucketLock, Changes, Head, HistoryEntry, ListQuery, NewBinding, Node, Progress,
        Relations, RelationsError, Snapshot,
    },
};

impl MySqlRelations {
    fn kept(&self) -> i64 {
        i64::from(self.inner.options.kept_changes)
    }
}

/// A verb that only reads, by statements that need not agree with each other.
macro_rules! read {
    ($store:expr, $name:literal, $tx:ident => $statement:expr) => {
        verb!($store, $store.inner.options.answer_within, async {
            let mut connection = $store.inner.pool.acquire().await.map_err(failed($name))?;
            let $tx = &mut *connection;
            $statement.await
        })
    };
}

/// A verb that writes.
macro_rules! write {
    ($store:expr, $name:literal, $tx:ident => $statement:expr) => {
        verb!($store, $store.inner.options.answer_within, async {
            let mut transaction = $store.inner.pool.begin().await.map_err(failed($name))?;
            let $tx = &mut *transaction;
            let answer = $statement.await?;
            transaction.commit().await.map_err(failed($name))?;
            Ok(answer)
        })
    };
}

#[async_trait]
impl Relations for MySqlRelations {
    async fn head(&self) -> Result<Head, RelationsError> {
        read!(self, "read the revision", tx => async { statements::head(tx).await?.head() })
    }

    async fn changes_since(&self, seen: Head) -> Result<Changes, RelationsError> {
        verb!(self, self.inner.options.answer_within, async {
            let mut tx = self.begin_snapshot("read what changed").await?;
            statements::changes_since(&mut tx, seen).await
        })
    }

    async fn snapshot(&self) -> Result<Snapshot, RelationsError> {
        verb!(self, 10 * self.inner.options.answer_within, async {
            let mut tx = self.begin_snapshot("read all bindings").await?;
            let head = statements::head(&mut tx).await?.head()?;
            Ok(Snapshot { head, bindings: statements::all(&mut tx).await? })
        })
    }

    async fn bind(&self, new: NewBinding) -> Result<Bound, RelationsError> {
        write!(self, "bind", tx => statements::bind(tx, &new, self.kept()))
    }

    async fn unbind(
        &self,
        id: BindingId,
        by: &str,
        now: Timestamp,
    ) -> Result<Option<Binding>, RelationsError> {
        write!(self, "unbind", tx => statements::unbind(tx, id, by, (now, self.kept())))
    }

    async fn binding(&self, id: BindingId) -> Result<Option<Binding>, RelationsError> {
        read!(self, "read a binding", tx => statements::one(tx, "read a binding", id))
    }

    async fn bindings(&self, query: &ListQuery) -> Result<Vec<Binding>, RelationsError> {
        read!(self, "list bindings", tx => statements::page(tx, query))
    }

    async fn record(
        &self,
        id: BindingId,
        seen_revision: u64,
        progress: &Progress,
    ) -> Result<bool, RelationsError> {
        write!(self, "record a binding's progress", tx =>
            statements::record(tx, id, seen_revision, progress, self.kept()))
    }

    async fn remove(&self, id: BindingId, now: Timestamp) -> Result<bool, RelationsError> {
        write!(self, "remove", tx => statements::remove(tx, id, now, self.kept()))
    }

    async fn history(&self, id: BindingId, limit: u32) -> Result<Vec<HistoryEntry>, RelationsError> {
        read!(self, "read a binding's history", tx => journal::history(tx, id, limit))
    }

    async fn audit(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>, RelationsError> {
        read!(self, "read the audit", tx => journal::audit_page(tx, before, limit))
    }

    async fn heartbeat(
        &self,
        node: &str,
        revision: u64,
        admin_url: Option<&str>,
    ) -> Result<(), RelationsError> {
        read!(self, "note a heartbeat", tx => super::heartbeat(tx, node, revision, admin_url))
    }

    async fn nodes(&self) -> Result<Vec<Node>, RelationsError> {
        read!(self, "list the nodes", tx => journal::nodes(tx))
    }

    async fn forget_node(&self, node: &str) -> Result<bool, RelationsError> {
        read!(self, "forget a node", tx => journal::forget_node(tx, node))
    }

    async fn lock_bucket(
        &self,
        storage: &str,
        bucket: &str,
    ) -> Result<Option<Box<dyn BucketLock>>, RelationsError> {
        self.prepared().await?;
        self.inner.lock(storage, bucket).await
    }
}
