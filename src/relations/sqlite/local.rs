//! What this host alone asks of its file: as a copy, to take over what the authority has; for the catalog, the bindings
//! of one bucket or function. The catalog does not care whether the file is the authority or a copy.

use futures_util::TryStreamExt;

use super::{SqliteRelations, failed, statements};
use crate::{
    domain::{
        binding::Binding, delivery::FunctionRef, event::StorageName, ids::BindingId, retry::RetryPolicy,
        spec::FunctionLimits,
    },
    relations::{
        Head, RelationsError, Snapshot,
        rows::{self, BindingRow, Columns, binding_columns},
    },
};

/// Whose bindings changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// Perhaps everybody's: all was loaded anew.
    All,
    /// Those of these buckets; none twice.
    Buckets(Vec<(StorageName, String)>),
}

impl SqliteRelations {
    /// How far this copy is; none when it was never filled.
    pub async fn copied_head(&self) -> Result<Option<Head>, RelationsError> {
        let verb = "read how far the copy is";
        let mut tx = self.reading(verb).await?;
        let filled: i64 = sqlx::query_scalar("SELECT filled FROM revision WHERE id = 1")
            .fetch_one(&mut *tx)
            .await
            .map_err(failed(verb))?;
        let head = statements::head(&mut tx).await?.head()?;
        Ok((filled != 0).then_some(head))
    }

    /// Replaces everything by the authority's bindings: afterwards the copy is where they were read.
    pub async fn take_over_all(&self, snapshot: &Snapshot) -> Result<Touched, RelationsError> {
        let verb = "copy all bindings";
        let mut tx = self.writing(verb).await?;
        sqlx::query("DELETE FROM binding").execute(&mut *tx).await.map_err(failed(verb))?;
        for binding in &snapshot.bindings {
            let row = Columns::of(binding)?;
            statements::insert(&mut tx, &row).await.map_err(failed(verb))?;
        }
        move_head(&mut tx, snapshot.head).await.map_err(failed(verb))?;
        self.commit(verb, tx).await?;
        Ok(Touched::All)
    }

    /// Takes over what the authority changed: afterwards the copy is at `head`.
    pub async fn take_over_changes(
        &self,
        head: Head,
        changed: &[Binding],
        gone: &[BindingId],
    ) -> Result<Touched, RelationsError> {
        let verb = "copy changed bindings";
        let mut tx = self.writing(verb).await?;
        let mut touched = Vec::new();
        for id in gone {
            if let Some(old) = statements::one(&mut tx, verb, *id).await? {
                touched.push((old.spec.storage, old.spec.bucket));
            }
            delete(&mut tx, *id).await.map_err(failed(verb))?;
        }
        for binding in changed {
            touched.push((binding.spec.storage.clone(), binding.spec.bucket.clone()));
            delete(&mut tx, binding.id).await.map_err(failed(verb))?;
            statements::insert(&mut tx, &Columns::of(binding)?).await.map_err(failed(verb))?;
        }
        move_head(&mut tx, head).await.map_err(failed(verb))?;
        self.commit(verb, tx).await?;
        Ok(Touched::Buckets(distinct(touched)))
    }

    /// As the authority: whose bindings changed since `revision`, and where the relations are now.
    pub async fn touched_since(&self, revision: u64) -> Result<(Touched, Head), RelationsError> {
        let verb = "read which buckets changed";
        let mut tx = self.reading(verb).await?;
        let row = statements::head(&mut tx).await?;
        let head = row.head()?;
        if !row.reaches(Head { revision, ..head }) {
            return Ok((Touched::All, head));
        }
        let buckets: Vec<(String, String)> =
            sqlx::query_as("SELECT DISTINCT storage, bucket FROM binding_change WHERE revision > ?")
                .bind(rows::signed(revision))
                .fetch_all(&mut *tx)
                .await
                .map_err(failed(verb))?;
        let buckets = buckets.into_iter().map(|(storage, bucket)| (StorageName::new(storage), bucket));
        Ok((Touched::Buckets(buckets.collect()), head))
    }

    /// Every bucket that has a binding, in whatever state.
    pub async fn bound_buckets(&self) -> Result<Vec<(StorageName, String)>, RelationsError> {
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT DISTINCT storage, bucket FROM binding")
            .fetch_all(&self.pool)
            .await
            .map_err(failed("list the bound buckets"))?;
        Ok(rows.into_iter().map(|(storage, bucket)| (StorageName::new(storage), bucket)).collect())
    }

    /// Hands each binding of a bucket to `each`, one after another: a bucket may have a million.
    pub async fn each_of_bucket(
        &self,
        storage: &StorageName,
        bucket: &str,
        mut each: impl FnMut(Binding) + Send,
    ) -> Result<(), RelationsError> {
        let mut rows = sqlx::query_as::<_, BindingRow>(concat!(
            "SELECT ",
            binding_columns!(),
            " FROM binding WHERE storage = ? AND bucket = ?"
        ))
        .bind(storage.as_str())
        .bind(bucket)
        .fetch(&self.pool);
        while let Some(row) = rows.try_next().await.map_err(failed("read a bucket's bindings"))? {
            each(row.try_into()?);
        }
        Ok(())
    }

    /// Those of these bindings that are there, in no particular order.
    pub async fn these(&self, ids: &[BindingId]) -> Result<Vec<Binding>, RelationsError> {
        let verb = "read bindings";
        let list = rows::json(verb, &ids)?;
        let rows: Vec<BindingRow> = sqlx::query_as(concat!(
            "SELECT ",
            binding_columns!(),
            " FROM binding WHERE id IN (SELECT unhex(value) FROM json_each(?))"
        ))
        .bind(list)
        .fetch_all(&self.pool)
        .await
        .map_err(failed(verb))?;
        rows::bindings(rows)
    }

    /// The bindings of a function, oldest first, at most `limit`.
    pub async fn of_function(
        &self,
        function: &FunctionRef,
        limit: u32,
    ) -> Result<Vec<Binding>, RelationsError> {
        let rows: Vec<BindingRow> = sqlx::query_as(concat!(
            "SELECT ",
            binding_columns!(),
            " FROM binding WHERE platform = ? AND function_name = ? ORDER BY id LIMIT ?"
        ))
        .bind(&*function.platform)
        .bind(&*function.name)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read a function's bindings"))?;
        rows::bindings(rows)
    }

    /// What a function's bindings allow together, the least of each; those that never came to be do not count.
    pub async fn function_limits(
        &self,
        function: &FunctionRef,
    ) -> Result<Option<FunctionLimits>, RelationsError> {
        let (concurrency, rate, wait): (Option<i64>, Option<f64>, Option<i64>) = sqlx::query_as(
            "SELECT MIN(concurrency), CAST(MIN(spec->>'rate_limit') AS REAL), \
                 CAST(MAX(max(spec->>'$.retry.max_wait_ms', coalesce(spec->>'await_result_s', 0) * 1000)) AS INTEGER) \
             FROM binding \
             WHERE platform = ? AND function_name = ? AND state NOT IN ('pending', 'rejected')",
        )
        .bind(&*function.platform)
        .bind(&*function.name)
        .fetch_one(&self.pool)
        .await
        .map_err(failed("read a function's limits"))?;
        let concurrency = concurrency.and_then(|least| u32::try_from(least).ok());
        let wait = wait.and_then(|wait| u64::try_from(wait).ok()).unwrap_or(RetryPolicy::MAX_WAIT_MS);
        let longest_wait = RetryPolicy::longest(wait);
        Ok(concurrency.map(|concurrency| FunctionLimits { concurrency, rate, longest_wait }))
    }
}

fn distinct(mut touched: Vec<(StorageName, String)>) -> Vec<(StorageName, String)> {
    touched.sort();
    touched.dedup();
    touched
}

async fn delete(tx: &mut super::Connection, id: BindingId) -> Result<(), sqlx::Error> {
    let id = id.as_bytes().as_slice();
    sqlx::query("DELETE FROM binding WHERE id = ?").bind(id).execute(tx).await.map(drop)
}

/// The copy keeps no log of changes: whoever reads it is told what changed.
async fn move_head(tx: &mut super::Connection, head: Head) -> Result<(), sqlx::Error> {
    let revision = rows::signed(head.revision);
    sqlx::query("UPDATE revision SET database_id = ?, revision = ?, pruned = ?, filled = 1 WHERE id = 1")
        .bind(head.database.as_slice())
        .bind(revision)
        .bind(revision)
        .execute(tx)
        .await
        .map(drop)
}
