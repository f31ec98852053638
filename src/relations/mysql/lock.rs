//! The lock of one bucket's notification configuration: a named lock of the server, held by a connection of its own.
//!
//! The server gives it up when that connection ends, however it ends. A holder whose connection broke does not notice:
//! two daemons may then write one bucket's configuration at once, which the reconciler's reading back finds.

use std::fmt::{self, Write};

use sha2::{Digest, Sha256};
use sqlx::{ConnectOptions, MySqlConnection};

use super::{Inner, RelationsError, failed};
use crate::relations::{BucketLock, silent};

/// Named locks belong to the whole server and have at most 64 characters.
pub(super) fn name(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest[..20].iter().fold("triggerd.".to_owned(), |mut name, byte| {
        // Writing to a String cannot fail.
        let _ok: fmt::Result = write!(name, "{byte:02x}");
        name
    })
}

#[derive(Debug)]
struct Held {
    /// Dropping it closes the socket, by which the server gives up the lock.
    _connection: MySqlConnection,
}

impl BucketLock for Held {}

impl Inner {
    pub(super) async fn lock(
        &self,
        storage: &str,
        bucket: &str,
    ) -> Result<Option<Box<dyn BucketLock>>, RelationsError> {
        let verb = "lock a bucket";
        let limit = self.options.connect_within;
        let name = name(&[b"bucket", self.database().as_bytes(), storage.as_bytes(), bucket.as_bytes()]);
        let ask = async {
            let mut connection = self.connect.connect().await.map_err(failed(verb))?;
            let got: Option<i64> = sqlx::query_scalar("SELECT CAST(GET_LOCK(?, 0) AS SIGNED)")
                .bind(name)
                .fetch_one(&mut connection)
                .await
                .map_err(failed(verb))?;
            Ok((got == Some(1)).then(|| Box::new(Held { _connection: connection }) as Box<dyn BucketLock>))
        };
        tokio::time::timeout(limit, ask).await.unwrap_or_else(|_| Err(silent(limit)))
    }
}
