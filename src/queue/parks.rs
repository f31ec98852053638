//! Parking: a run of deliveries with their events, in a handful of statements.

use std::collections::HashSet;

use sqlx::Row;

use super::{
    Parked, QueueError,
    batch::Batch,
    command::{Command, ParkRow, Step, Work},
    letters::NewLetter,
    rows::{class_word, json, to_i64},
};
use crate::domain::{
    delivery::DeadReason,
    ids::{DeliveryId, EventId},
};

impl Batch<'_> {
    /// Parks each; all of them are parks, sealed before.
    pub(super) async fn park_all(&mut self, commands: &[Command]) -> Result<Vec<Step>, sqlx::Error> {
        let parks: Vec<&ParkRow> = commands
            .iter()
            .filter_map(|command| match &command.work {
                Work::Park(park) => Some(&**park),
                _ => None,
            })
            .collect();
        let mut known = self.known(&parks).await?;
        let mut steps = Vec::with_capacity(parks.len());
        let mut rows = Vec::with_capacity(parks.len());
        let mut overflow = Vec::new();
        for park in parks {
            if !known.insert(park.stored.id) {
                steps.push(Step::parked(Parked::AlreadyThere));
                continue;
            }
            let function = self.books.number(self.conn, &park.stored.function).await?;
            let weight = park.stored.weight();
            let over_share = self.books.parked(function).saturating_add(weight) > self.limits.function_bytes;
            let limit = if over_share { self.limits.max_bytes } else { self.limits.parked_bytes };
            if self.beyond(weight, limit) {
                known.remove(&park.stored.id);
                steps.push(Step::Done(Err(QueueError::Full { bytes: self.used })));
                continue;
            }
            self.used += weight;
            if over_share {
                overflow.push((park, function));
                steps.push(Step::parked(Parked::Overflow));
            } else {
                self.books.add(function, weight);
                rows.push((park, function));
                steps.push(Step::parked(Parked::Written));
            }
        }
        self.insert_events(rows.iter().chain(&overflow).map(|(park, _)| *park)).await?;
        self.insert_deliveries(&rows).await?;
        self.insert_overflow(&overflow).await?;
        self.insert_first_attempts(rows.iter().chain(&overflow).map(|(park, _)| *park)).await?;
        Ok(steps)
    }

    /// Those of these deliveries that are here already, parked or dead.
    async fn known(&mut self, parks: &[&ParkRow]) -> Result<HashSet<DeliveryId>, sqlx::Error> {
        let ids = json(parks.iter().map(|park| park.stored.id))?;
        let rows = sqlx::query(
            "SELECT id FROM delivery WHERE id IN (SELECT unhex(value) FROM json_each(?1)) \
             UNION ALL SELECT id FROM dead_letter WHERE id IN (SELECT unhex(value) FROM json_each(?1))",
        )
        .bind(ids)
        .fetch_all(&mut *self.conn)
        .await?;
        rows.iter()
            .map(|row| DeliveryId::from_slice(row.try_get("id")?).map_err(|e| sqlx::Error::Decode(e.into())))
            .collect()
    }

    /// Writes the events that are not there, all with one statement: their texts one after the other as one blob, and a
    /// list that says where in it each is. (JSON in JSON would be escaped and parsed several times over.)
    async fn insert_events<'p>(
        &mut self,
        parks: impl Iterator<Item = &'p ParkRow>,
    ) -> Result<(), sqlx::Error> {
        let mut done = HashSet::new();
        let mut texts = Vec::new();
        let mut places = Vec::new();
        for park in parks.filter(|park| done.insert(park.stored.event)) {
            let payload = park.stored.payload.as_bytes();
            places.push((park.stored.event, texts.len() + 1, payload.len()));
            texts.extend_from_slice(payload);
        }
        sqlx::query(
            "INSERT INTO event (id, payload) \
             SELECT unhex(value->>0), CAST(substr(?2, value->>1, value->>2) AS TEXT) FROM json_each(?1) \
             WHERE true ON CONFLICT (id) DO NOTHING",
        )
        .bind(json(places.into_iter())?)
        .bind(texts)
        .execute(&mut *self.conn)
        .await?;
        Ok(())
    }

    /// Writes an event unless it is there.
    pub(super) async fn insert_event(&mut self, id: EventId, payload: &str) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO event (id, payload) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING")
            .bind(&id.as_bytes()[..])
            .bind(payload)
            .execute(&mut *self.conn)
            .await?;
        Ok(())
    }

    async fn insert_deliveries(&mut self, parks: &[(&ParkRow, i64)]) -> Result<(), sqlx::Error> {
        if parks.is_empty() {
            return Ok(());
        }
        let rows = json(parks.iter().map(|(park, function)| {
            let stored = &park.stored;
            (
                (stored.id, stored.event, stored.binding),
                function,
                stored.accepted_at.as_micros(),
                park.due.as_micros(),
                park.held_since.map(crate::domain::clock::Timestamp::as_micros),
                (stored.attempts, stored.tries, stored.earlier),
                to_i64(stored.weight()),
            )
        }))?;
        sqlx::query(
            "INSERT INTO delivery (id, event, binding, function, accepted_at, due, held, held_since, \
                 attempts, tries, earlier, replays, weight) \
             SELECT unhex(value->>'$[0][0]'), (SELECT seq FROM event WHERE id = unhex(value->>'$[0][1]')), \
                 unhex(value->>'$[0][2]'), value->>1, value->>2, value->>3, value->>4 IS NOT NULL, value->>4, \
                 value->>'$[5][0]', value->>'$[5][1]', value->>'$[5][2]', 0, value->>6 \
             FROM json_each(?1)",
        )
        .bind(rows)
        .execute(&mut *self.conn)
        .await?;
        Ok(())
    }

    async fn insert_overflow(&mut self, parks: &[(&ParkRow, i64)]) -> Result<(), sqlx::Error> {
        for (park, function) in parks {
            let letter = NewLetter {
                stored: &park.stored,
                function: *function,
                reason: DeadReason::Overflow,
                detail: "the function has filled its share of the queue (`queue.function_share`)",
                died_at: park.moment,
                replays: 0,
            };
            self.insert_letter(&letter).await?;
        }
        Ok(())
    }

    async fn insert_first_attempts<'p>(
        &mut self,
        parks: impl Iterator<Item = &'p ParkRow>,
    ) -> Result<(), sqlx::Error> {
        let rows: Vec<_> = parks
            .filter_map(|park| {
                let attempt = park.attempt.as_ref()?;
                let (at, took) = (attempt.at.as_micros(), to_i64(attempt.took_us));
                Some((park.stored.id, at, took, class_word(attempt.class), attempt.status, &attempt.detail))
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO attempt (delivery, n, at, took_us, class, status, detail) \
             SELECT unhex(value->>0), 1, value->>1, value->>2, value->>3, value->>4, value->>5 \
             FROM json_each(?1)",
        )
        .bind(json(rows.into_iter())?)
        .execute(&mut *self.conn)
        .await?;
        Ok(())
    }
}
