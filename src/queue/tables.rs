//! What an export holds: which tables, in which order, and how their rows refer to each other.
//!
//! Columns are read from the schema itself, so one that a migration adds travels without a word here; a new table is one
//! line in [`TABLES`] (or in [`LOCAL`], when it means nothing on another host). A test holds both against the schema.
//!
//! Rows name each other by numbers that only this file knows (`event`, `function`). An export says the event's id and
//! the function's name in their place, and an import gives them the numbers that they have there.
//!
//! Names of tables and columns go into the SQL as they stand: all of them come from here or from our own migrations.

use sqlx::{AssertSqlSafe, Row, SqliteConnection};

/// A table that travels.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The number that only this file knows; its order is kept.
    number: Option<&'static str>,
    /// Columns that the file keeps by itself.
    kept: &'static [&'static str],
    /// What makes a row of the file needless here, as SQL over `new`; beside the table's own unique keys.
    pub(super) known: &'static str,
}

/// In the order in which they travel: what is referred to, before what refers to it, and attempts before what they are
/// attempts of (so that those of a delivery that is here already can be told).
pub(super) const TABLES: [Table; 7] = [
    Table {
        name: "function",
        number: Some("id"),
        kept: &["parked", "held", "awaiting", "bytes"],
        known: "false",
    },
    Table { name: "event", number: Some("seq"), kept: &[], known: "false" },
    Table { name: "attempt", number: None, kept: &[], known: KNOWN_ATTEMPT },
    Table { name: "delivery", number: Some("seq"), kept: &[], known: KNOWN_DELIVERY },
    Table { name: "dead_letter", number: Some("seq"), kept: &[], known: KNOWN_LETTER },
    Table { name: "function_state", number: None, kept: &[], known: "false" },
    Table { name: "quarantine", number: Some("seq"), kept: &[], known: KNOWN_ITEM },
];

/// Tables that stay: sqlx's own list of migrations, how far this host has handed dead letters to handler functions (of which
/// the header says what means something elsewhere), and the skew of its clock.
#[cfg(test)]
pub(super) const LOCAL: [&str; 3] = ["_sqlx_migrations", "handed_over", "skew"];

const KNOWN_ATTEMPT: &str = "EXISTS (SELECT 1 FROM delivery WHERE id = new.delivery) \
     OR EXISTS (SELECT 1 FROM dead_letter WHERE id = new.delivery)";
const KNOWN_DELIVERY: &str = "EXISTS (SELECT 1 FROM dead_letter WHERE id = new.id)";
const KNOWN_LETTER: &str = "EXISTS (SELECT 1 FROM delivery WHERE id = new.id)";
const KNOWN_ITEM: &str = "EXISTS (SELECT 1 FROM temp.quarantine_here h WHERE h.received_at = new.received_at \
     AND h.source = new.source AND h.reason = new.reason AND h.bytes = new.bytes)";

/// What stands in a column of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Text,
    Blob,
    /// The number of an event: in the export its id.
    Event,
    /// The number of a function: in the export its platform and its name.
    Function,
}

/// A column that travels.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

impl Table {
    /// Its columns, as the schema of this file has them.
    pub(super) async fn columns(&self, conn: &mut SqliteConnection) -> Result<Vec<Column>, sqlx::Error> {
        let rows = sqlx::query("SELECT name, type FROM pragma_table_info(?1) ORDER BY cid")
            .bind(self.name)
            .fetch_all(conn)
            .await?;
        let mut columns = Vec::with_capacity(rows.len());
        for row in rows {
            let (name, kind): (String, String) = (row.try_get("name")?, row.try_get("type")?);
            if Some(name.as_str()) == self.number || self.kept.contains(&name.as_str()) {
                continue;
            }
            let kind = match (name.as_str(), kind.as_str()) {
                ("event", "INTEGER") => Kind::Event,
                ("function", "INTEGER") => Kind::Function,
                (_, "INTEGER") => Kind::Integer,
                (_, "TEXT") => Kind::Text,
                _ => Kind::Blob,
            };
            columns.push(Column { name, kind });
        }
        Ok(columns)
    }

    /// Reads all rows, in the order in which they came to be.
    pub(super) fn select(&self, columns: &[Column]) -> AssertSqlSafe<String> {
        let table = self.name;
        let listed: Vec<String> = columns
            .iter()
            .map(|Column { name, kind }| match kind {
                Kind::Integer | Kind::Blob => format!("t.{name}"),
                // As bytes, whatever a broken disk made of them.
                Kind::Text => format!("CAST(t.{name} AS BLOB)"),
                Kind::Event => format!("(SELECT e.id FROM event e WHERE e.seq = t.{name})"),
                Kind::Function => {
                    format!(
                        "(SELECT CAST(json_array(f.platform, f.name) AS BLOB) FROM function f WHERE f.id = t.{name})"
                    )
                }
            })
            .collect();
        let order = self.number.map_or(String::new(), |number| format!(" ORDER BY t.{number}"));
        AssertSqlSafe(format!("SELECT {} FROM {table} t{order}", listed.join(", ")))
    }

    /// Writes the rows of a JSON array (`?1`) of arrays whose first item is the table's name; those that are here already
    /// are left as they are, and those that refer to something that is not here are left out.
    pub(super) fn insert(&self, columns: &[Column]) -> AssertSqlSafe<String> {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let values: Vec<String> = columns.iter().zip(1..).map(|(column, at)| column.read(at)).collect();
        let there: Vec<String> = columns
            .iter()
            .filter(|column| matches!(column.kind, Kind::Event | Kind::Function))
            .map(|column| format!("new.{} IS NOT NULL AND ", column.name))
            .collect();
        AssertSqlSafe(format!(
            "INSERT INTO {table} ({names}) \
             SELECT {names} FROM (SELECT {values} FROM json_each(?1) AS row ORDER BY row.key) AS new \
             WHERE {there}NOT ({known}) ON CONFLICT DO NOTHING",
            table = self.name,
            names = names.join(", "),
            values = values.join(", "),
            there = there.concat(),
            known = self.known,
        ))
    }
}

impl Column {
    /// Whether it can hold this number: no count and no weight is negative or beyond all bounds, and no moment so far away that
    /// a sum with another could not be held. A file that says otherwise is damaged or forged, and would end the daemon that
    /// reckons with it.
    pub(super) fn can_hold(&self, number: i64) -> bool {
        match self.name.as_str() {
            "weight" | "length" | "took_us" => (0..=1 << 50).contains(&number),
            "attempts" | "tries" | "earlier" | "replays" => (0..=1 << 30).contains(&number),
            _ => number.unsigned_abs() <= 1 << 60,
        }
    }

    /// The value at this place of a row of an export.
    fn read(&self, at: usize) -> String {
        let value = format!("row.value ->> {at}");
        let read = match self.kind {
            Kind::Integer => value,
            Kind::Blob => format!("unhex({value})"),
            Kind::Text => format!(
                "CASE json_type(row.value, '$[{at}]') WHEN 'object' \
                 THEN CAST(unhex(row.value ->> '$[{at}].hex') AS TEXT) ELSE {value} END"
            ),
            Kind::Event => format!("(SELECT seq FROM event WHERE id = unhex({value}))"),
            Kind::Function => format!(
                "(SELECT id FROM function \
                 WHERE platform = row.value ->> '$[{at}][0]' AND name = row.value ->> '$[{at}][1]')"
            ),
        };
        format!("{read} AS {}", self.name)
    }
}
