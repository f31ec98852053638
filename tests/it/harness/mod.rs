//! What the integration tests stand on: a runner, the real servers, and a receiver that misbehaves on demand.
//!
//! **The runner** ([`suite`]) is this binary's own `main`. A test is an `async fn(Ctx) -> anyhow::Result<()>` with the
//! servers it needs named beside it; each runs on a runtime of its own, within a time limit. Naming the servers is what
//! lets `TRIGGERD_TEST_SKIP` leave a test out and the summary say so; a test that starts a server which it did not
//! name fails when that server is skipped.
//!
//! **The servers** ([`minio`], [`mosquitto`], [`database`]) are real, on free ports of the loopback, with their data in
//! temporary folders. Starting one returns when it really answers: not when its process exists, nor when its port
//! opens. MinIO and Mosquitto are started per test, because their configuration is the test; MySQL and MariaDB are
//! started once for the process and give each test a database of its own, save for tests that stop the server.
//!
//! **The ways between them** can be spoilt ([`proxy`]): late, slow, cut in mid-message, silent, refused.
//!
//! **None is left behind.** Dropping a handle kills its process and waits for it. Should the test process itself be
//! killed, the kernel kills its servers ([`process`] says how). A temporary folder may then remain under `$TMPDIR`.
//!
//! **Waiting** ([`wait`]) is always for a condition with a bound, and a bound that was reached fails with what was
//! waited for.

pub(crate) mod certificates;
pub(crate) mod database;
pub(crate) mod installed;
pub(crate) mod minio;
pub(crate) mod minio_users;
pub(crate) mod mosquitto;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod receiver;
pub(crate) mod suite;
pub(crate) mod wait;
