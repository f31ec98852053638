//! Rows as both engines hold them, and the decisions that do not depend on the engine.
//!
//! Rows are private to `relations`. What cannot be read is an error that names table, column and row; a row is never
//! skipped, because a binding that silently does not match loses events.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{AuditEntry, Bound, HistoryEntry, NewBinding, Node, Progress, RelationsError};
use crate::domain::{
    binding::{Binding, BindingSpec, State, Step, Wanted},
    clock::Timestamp,
    ids::BindingId,
    secret::SigningSecret,
};

/// Changes that the log keeps; a reader further behind reloads everything.
pub(super) const KEPT_CHANGES: i64 = 100_000;
/// Most changes that are handed over one by one; beyond it a reload is cheaper and bounded likewise.
pub(super) const MOST_CHANGES: i64 = 10_000;
/// Entries of history that each binding keeps.
pub(super) const KEPT_HISTORY: i64 = 100;
/// Entries that the audit keeps.
pub(super) const KEPT_AUDIT: i64 = 100_000;
/// Most rows of one page.
pub(super) const MOST_ROWS: u32 = 1_000;

/// The columns of a [`BindingRow`].
macro_rules! binding_columns {
    () => {
        "id, spec, wanted, state, reason, steps, secret, revision, created_at, updated_at"
    };
}
pub(super) use binding_columns;

#[derive(sqlx::FromRow)]
pub(super) struct BindingRow {
    id: Vec<u8>,
    spec: String,
    wanted: String,
    state: String,
    reason: Option<String>,
    steps: String,
    secret: String,
    revision: i64,
    created_at: i64,
    updated_at: i64,
}

/// What is wrong with a column of the table `binding`.
fn corrupt(id: &[u8], column: &'static str, problem: &dyn ToString) -> RelationsError {
    RelationsError::Corrupt { table: "binding", column, row: key(id), problem: problem.to_string() }
}

/// A row's key for a person: an id as it is shown elsewhere, or the bytes that are none.
pub(super) fn key(id: &[u8]) -> String {
    BindingId::from_slice(id).map_or_else(|_| format!("{id:02x?}"), |id| id.to_string())
}

fn parse<T: DeserializeOwned>(id: &[u8], column: &'static str, text: &str) -> Result<T, RelationsError> {
    serde_json::from_str(text).map_err(|error| corrupt(id, column, &error))
}

fn wanted_word(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::Present => "present",
        Wanted::Absent => "absent",
    }
}

impl TryFrom<BindingRow> for Binding {
    type Error = RelationsError;

    fn try_from(row: BindingRow) -> Result<Self, RelationsError> {
        let id = BindingId::from_slice(&row.id).map_err(|error| corrupt(&row.id, "id", &error))?;
        let wanted = match row.wanted.as_str() {
            "present" => Wanted::Present,
            "absent" => Wanted::Absent,
            _ => return Err(corrupt(&row.id, "wanted", &"neither `present` nor `absent`")),
        };
        let state = State::parse(&row.state);
        Ok(Self {
            id,
            spec: parse(&row.id, "spec", &row.spec)?,
            wanted,
            state: state.ok_or_else(|| corrupt(&row.id, "state", &"not a state"))?,
            reason: row.reason,
            steps: parse(&row.id, "steps", &row.steps)?,
            // The error says nothing of the text.
            secret: SigningSecret::parse(&row.secret).map_err(|error| corrupt(&row.id, "secret", &error))?,
            revision: unsigned("binding", "revision", &row.id, row.revision)?,
            created_at: Timestamp::from_micros(row.created_at),
            updated_at: Timestamp::from_micros(row.updated_at),
        })
    }
}

/// All rows as bindings; the first that cannot be read is the error.
pub(super) fn bindings(rows: Vec<BindingRow>) -> Result<Vec<Binding>, RelationsError> {
    rows.into_iter().map(Binding::try_from).collect()
}

/// A binding as its columns, for both engines to bind.
pub(super) struct Columns<'a> {
    pub(super) id: &'a [u8],
    pub(super) identity: Vec<u8>,
    pub(super) storage: &'a str,
    pub(super) bucket: &'a str,
    pub(super) platform: &'a str,
    pub(super) function: &'a str,
    pub(super) concurrency: i64,
    pub(super) spec: String,
    pub(super) wanted: &'static str,
    pub(super) state: &'static str,
    pub(super) reason: Option<&'a str>,
    pub(super) steps: String,
    pub(super) secret: &'a str,
    pub(super) revision: i64,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
}

impl<'a> Columns<'a> {
    pub(super) fn of(binding: &'a Binding) -> Result<Self, RelationsError> {
        let spec = &binding.spec;
        Ok(Self {
            id: binding.id.as_bytes(),
            identity: identity(spec),
            storage: spec.storage.as_str(),
            bucket: &spec.bucket,
            platform: &spec.function.platform,
            function: &spec.function.function,
            concurrency: i64::from(spec.concurrency),
            spec: json("write a binding", spec)?,
            wanted: wanted_word(binding.wanted),
            state: binding.state.as_str(),
            reason: binding.reason.as_deref(),
            steps: json("write a binding", &binding.steps)?,
            secret: binding.secret.expose(),
            revision: signed(binding.revision),
            created_at: binding.created_at.as_micros(),
            updated_at: binding.updated_at.as_micros(),
        })
    }
}

/// The unique column of a binding.
pub(super) fn identity(spec: &BindingSpec) -> Vec<u8> {
    Sha256::digest(spec.identity().as_bytes()).to_vec()
}

pub(super) fn json<T: Serialize>(verb: &'static str, value: &T) -> Result<String, RelationsError> {
    serde_json::to_string(value)
        .map_err(|error| RelationsError::Refused { verb, source: sqlx::Error::Encode(error.into()) })
}

/// The new binding as it is stored at `revision`.
pub(super) fn made(new: NewBinding, revision: i64) -> Binding {
    Binding {
        id: new.id,
        spec: new.spec,
        wanted: Wanted::Present,
        state: State::Pending,
        reason: None,
        steps: Vec::new(),
        secret: new.secret,
        revision: u64::try_from(revision).unwrap_or_default(),
        created_at: new.now,
        updated_at: new.now,
    }
}

/// What asking for `spec` comes to when `existing` has its identity.
pub(super) fn found(existing: Binding, spec: &BindingSpec) -> Bound {
    if existing.wanted == Wanted::Absent || existing.state == State::Unbinding {
        Bound::Unbinding(existing)
    } else if existing.spec == *spec {
        Bound::Same(existing)
    } else {
        Bound::Conflict(existing)
    }
}

/// Whether progress says what is stored already, moments aside.
pub(super) fn is_news(binding: &Binding, progress: &Progress) -> bool {
    let same_step = |(a, b): (&Step, &Step)| (a.name, a.state, &a.error) == (b.name, b.state, &b.error);
    let same_steps = binding.steps.len() == progress.steps.len()
        && binding.steps.iter().zip(&progress.steps).all(same_step);
    binding.state != progress.state || binding.reason != progress.reason || !same_steps
}

#[derive(sqlx::FromRow)]
pub(super) struct HeadRow {
    pub(super) database_id: Vec<u8>,
    pub(super) revision: i64,
    pub(super) pruned: i64,
}

impl HeadRow {
    pub(super) fn head(&self) -> Result<super::Head, RelationsError> {
        let database = self.database_id.as_slice().try_into().map_err(|_| RelationsError::Corrupt {
            table: "revision",
            column: "database_id",
            row: "1".into(),
            problem: "not 16 bytes".into(),
        })?;
        Ok(super::Head { database, revision: unsigned("revision", "revision", b"1", self.revision)? })
    }

    /// Whether a reader at `seen` can go on from there by single changes.
    pub(super) fn reaches(&self, seen: super::Head) -> bool {
        let seen_revision = signed(seen.revision);
        self.database_id == seen.database
            && seen_revision <= self.revision
            && seen_revision >= self.pruned
            && self.revision - seen_revision <= MOST_CHANGES
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct NodeRow {
    name: String,
    revision: i64,
    admin_url: Option<String>,
    silent_us: i64,
}

impl TryFrom<NodeRow> for Node {
    type Error = RelationsError;

    fn try_from(row: NodeRow) -> Result<Self, RelationsError> {
        Ok(Self {
            revision: unsigned("node", "revision", row.name.as_bytes(), row.revision)?,
            name: row.name,
            admin_url: row.admin_url,
            // The database's clock may have been set back since.
            silent_for: Duration::from_micros(u64::try_from(row.silent_us).unwrap_or(0)),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct HistoryRow {
    binding: Vec<u8>,
    revision: i64,
    noted_at: i64,
    state: String,
    reason: Option<String>,
}

impl TryFrom<HistoryRow> for HistoryEntry {
    type Error = RelationsError;

    fn try_from(row: HistoryRow) -> Result<Self, RelationsError> {
        let state = State::parse(&row.state).ok_or_else(|| RelationsError::Corrupt {
            table: "binding_history",
            column: "state",
            row: format!("{} at revision {}", key(&row.binding), row.revision),
            problem: "not a state".into(),
        })?;
        Ok(Self {
            revision: unsigned("binding_history", "revision", &row.binding, row.revision)?,
            at: Timestamp::from_micros(row.noted_at),
            state,
            reason: row.reason,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct AuditRow {
    id: i64,
    noted_at: i64,
    actor: String,
    action: String,
    binding: Vec<u8>,
    detail: String,
}

impl TryFrom<AuditRow> for AuditEntry {
    type Error = RelationsError;

    fn try_from(row: AuditRow) -> Result<Self, RelationsError> {
        let binding = BindingId::from_slice(&row.binding).map_err(|error| RelationsError::Corrupt {
            table: "audit",
            column: "binding",
            row: row.id.to_string(),
            problem: error.to_string(),
        })?;
        Ok(Self {
            id: unsigned("audit", "id", &[], row.id)?,
            at: Timestamp::from_micros(row.noted_at),
            by: row.actor,
            action: row.action,
            binding,
            detail: row.detail,
        })
    }
}

/// A number that databases keep signed.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(
    table: &'static str,
    column: &'static str,
    row: &[u8],
    number: i64,
) -> Result<u64, RelationsError> {
    u64::try_from(number).map_err(|_| RelationsError::Corrupt {
        table,
        column,
        row: std::str::from_utf8(row).map_or_else(|_| key(row), str::to_owned),
        problem: format!("{number} is negative"),
    })
}
