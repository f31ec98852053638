//! The verbs on SQLite: each one transaction. Whoever watches [`SqliteRelations::revisions`] hears of each change.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sqlx::{Sqlite, Transaction};

use super::{SqliteRelations, failed, journal, statements};
use crate::{
    domain::{binding::Binding, clock::Timestamp, ids::BindingId},
    relations::{
        AuditEntry, Bound, BucketLock, Changes, Head, HistoryEntry, ListQuery, NewBinding, Node, Progress,
        Relations, RelationsError, Snapshot,
    },
};

impl SqliteRelations {
    /// All reads of it are as of one moment.
    pub(super) async fn reading(
        &self,
        verb: &'static str,
    ) -> Result<Transaction<'static, Sqlite>, RelationsError> {
        self.pool.begin().await.map_err(failed(verb))
    }

    pub(super) async fn writing(
        &self,
        verb: &'static str,
    ) -> Result<Transaction<'static, Sqlite>, RelationsError> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed(verb))
    }

    /// Commits, and tells the watchers where the relations are now.
    pub(super) async fn commit(
        &self,
        verb: &'static str,
        mut tx: Transaction<'static, Sqlite>,
    ) -> Result<(), RelationsError> {
        let revision = statements::head(&mut tx).await?.head()?.revision;
        tx.commit().await.map_err(failed(verb))?;
        self.revision.send_if_modified(|known| std::mem::replace(known, revision) != revision);
        Ok(())
    }
}

#[derive(Debug)]
struct Held {
    locked: Arc<Mutex<std::collections::HashSet<(String, String)>>>,
    key: (String, String),
}

impl BucketLock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[async_trait]
impl Relations for SqliteRelations {
    async fn head(&self) -> Result<Head, RelationsError> {
        let mut tx = self.reading("read the revision").await?;
        statements::head(&mut tx).await?.head()
    }

    async fn changes_since(&self, seen: Head) -> Result<Changes, RelationsError> {
        let mut tx = self.reading("read what changed").await?;
        statements::changes_since(&mut tx, seen).await
    }

    async fn snapshot(&self) -> Result<Snapshot, RelationsError> {
        let mut tx = self.reading("read all bindings").await?;
        let head = statements::head(&mut tx).await?.head()?;
        Ok(Snapshot { head, bindings: statements::all(&mut tx).await? })
    }

    async fn bind(&self, new: NewBinding) -> Result<Bound, RelationsError> {
        let mut tx = self.writing("bind").await?;
        let bound = statements::bind(&mut tx, &new, self.kept_changes).await?;
        self.commit("bind", tx).await?;
        Ok(bound)
    }

    async fn unbind(
        &self,
        id: BindingId,
        by: &str,
        now: Timestamp,
    ) -> Result<Option<Binding>, RelationsError> {
        let mut tx = self.writing("unbind").await?;
        let binding = statements::unbind(&mut tx, id, by, (now, self.kept_changes)).await?;
        self.commit("unbind", tx).await?;
        Ok(binding)
    }

    async fn binding(&self, id: BindingId) -> Result<Option<Binding>, RelationsError> {
        let mut tx = self.reading("read a binding").await?;
        statements::one(&mut tx, "read a binding", id).await
    }

    async fn bindings(&self, query: &ListQuery) -> Result<Vec<Binding>, RelationsError> {
        let mut tx = self.reading("list bindings").await?;
        statements::page(&mut tx, query).await
    }

    async fn record(
        &self,
        id: BindingId,
        seen_revision: u64,
        progress: &Progress,
    ) -> Result<bool, RelationsError> {
        let verb = "record a binding's progress";
        let mut tx = self.writing(verb).await?;
        let done = statements::record(&mut tx, id, seen_revision, progress, self.kept_changes).await?;
        self.commit(verb, tx).await?;
        Ok(done)
    }

    async fn remove(&self, id: BindingId, now: Timestamp) -> Result<bool, RelationsError> {
        let mut tx = self.writing("remove").await?;
        let done = statements::remove(&mut tx, id, now, self.kept_changes).await?;
        self.commit("remove", tx).await?;
        Ok(done)
    }

    async fn history(&self, id: BindingId, limit: u32) -> Result<Vec<HistoryEntry>, RelationsError> {
        let mut tx = self.reading("read a binding's history").await?;
        journal::history(&mut tx, id, limit).await
    }

    async fn audit(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>, RelationsError> {
        let mut tx = self.reading("read the audit").await?;
        journal::audit_page(&mut tx, before, limit).await
    }

    async fn heartbeat(
        &self,
        node: &str,
        revision: u64,
        admin_url: Option<&str>,
    ) -> Result<(), RelationsError> {
        let mut tx = self.writing("note a heartbeat").await?;
        super::heartbeat(&mut tx, node, revision, admin_url).await?;
        self.commit("note a heartbeat", tx).await
    }

    async fn nodes(&self) -> Result<Vec<Node>, RelationsError> {
        let mut tx = self.reading("list the nodes").await?;
        journal::nodes(&mut tx).await
    }

    async fn forget_node(&self, node: &str) -> Result<bool, RelationsError> {
        let mut tx = self.writing("forget a node").await?;
        let known = journal::forget_node(&mut tx, node).await?;
        self.commit("forget a node", tx).await?;
        Ok(known)
    }

    async fn lock_bucket(
        &self,
        storage: &str,
        bucket: &str,
    ) -> Result<Option<Box<dyn BucketLock>>, RelationsError> {
        let key = (storage.to_owned(), bucket.to_owned());
        let free = self.lock_table().insert(key.clone());
        let locked = Arc::clone(&self.locked);
        Ok(free.then(|| Box::new(Held { locked, key }) as Box<dyn BucketLock>))
    }
}
