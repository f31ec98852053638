//! `POST /v1/dead-letters/replay` and `/discard`: a bounded batch of a walk from the oldest.
//!
//! The caller walks: it gives back the cursor of the answer before until there is none, at the pace that it likes, and
//! stops when it likes. So nothing runs on here that would have to be listed, stopped or taken up again after a crash.
//! A batch that was cut off, or that is asked for again, does the rest: what is replayed is no dead letter any more. What
//! dies again during the walk comes after its end, and is not met again. What has succeeded late is replayed only by its id:
//! who replays all that an outage has killed does not mean to run again what came to its end after all.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use axum::{Extension, Json, extract::State};
use futures_util::future::join_all;

use crate::{
    queue::{DeadLetter, Direction, LetterPage, LetterQuery},
    telemetry::letters::{LetterDiscarded, LetterReplayed},
};

use super::{
    AdminState, Caller,
    dead_letters::{may_be_called, query, reason_of, rebind},
    extract::Body,
    problem::Problem,
    wire::{LetterBatch, LetterRequest},
};

/// `POST /v1/dead-letters/replay`.
pub(super) async fn replay(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<LetterBatch>, Problem> {
    let request: LetterRequest = body.json()?;
    if request.why.is_some() {
        return Err(Problem::bad_request("`why` is not for a replay"));
    }
    let (query, page) = page(&state, &caller, &request).await?;
    let (succeeded, open): (Vec<_>, Vec<_>) = page.letters.iter().partition(|letter| letter.succeeded_late());
    let fit = fit(&state, &open).await?;
    // Asked for together, they are in one transaction, or in few.
    let now = state.clock.now();
    let replayed = join_all(fit.iter().map(|letter| state.queue.replay(letter.delivery.id, now))).await;
    let (mut done, mut failed) = (Vec::with_capacity(fit.len()), None);
    for (letter, replayed) in fit.iter().zip(replayed) {
        match replayed {
            Ok(Some(function)) => {
                LetterReplayed { delivery: &letter.delivery, by: &caller.to_string() }.tell();
                state.deliveries.wake(&function);
                done.push(letter.delivery.id);
            }
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    let (skipped, succeeded_late) = ((open.len() - fit.len()) as u64, succeeded.len() as u64);
    let left = left(&state, &query, &page).await?;
    Ok(Json(LetterBatch { done, skipped, succeeded_late, left, next: next(&page) }))
}

/// `POST /v1/dead-letters/discard`.
pub(super) async fn discard(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<LetterBatch>, Problem> {
    let mut request: LetterRequest = body.json()?;
    let Some(why) = reason_of(request.why.take())? else {
        return Err(Problem::bad_request(
            "`why` is missing: many are discarded only with a reason, for the log",
        ));
    };
    let (query, page) = page(&state, &caller, &request).await?;
    let discarded = join_all(page.letters.iter().map(|letter| state.queue.discard(letter.delivery.id))).await;
    let (mut done, mut failed) = (Vec::with_capacity(page.letters.len()), None);
    for (letter, discarded) in page.letters.iter().zip(discarded) {
        match discarded {
            Ok(true) => {
                let (delivery, reason) = (&letter.delivery, letter.reason);
                LetterDiscarded { delivery, reason, by: &caller.to_string(), why: Some(&why) }.tell();
                done.push(letter.delivery.id);
            }
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    let left = left(&state, &query, &page).await?;
    Ok(Json(LetterBatch { done, skipped: 0, succeeded_late: 0, left, next: next(&page) }))
}

/// Those whose function can be called.
async fn fit<'a>(state: &AdminState, letters: &[&'a DeadLetter]) -> Result<Vec<&'a DeadLetter>, Problem> {
    let mut bound = HashMap::new();
    let mut gone = Vec::new();
    for &letter in letters {
        let is_bound = match bound.entry(letter.delivery.binding) {
            Entry::Occupied(asked) => *asked.get(),
            Entry::Vacant(unasked) => *unasked.insert(may_be_called(state, letter.delivery.binding).await?),
        };
        if !is_bound {
            gone.push(letter);
        }
    }
    let rebound = join_all(gone.iter().map(|letter| rebind(state, letter))).await;
    let mut lost = HashSet::new();
    for (letter, rebound) in gone.iter().zip(rebound) {
        if !rebound? {
            lost.insert(letter.delivery.id);
        }
    }
    Ok(letters.iter().copied().filter(|letter| !lost.contains(&letter.delivery.id)).collect())
}

async fn page(
    state: &AdminState,
    caller: &Caller,
    request: &LetterRequest,
) -> Result<(LetterQuery, LetterPage), Problem> {
    // A platform's own name narrows nothing for it.
    let said = query(
        &LetterRequest { limit: None, cursor: None, ..request.clone() },
        &Caller::Operator,
        Direction::OldestFirst,
    )?;
    if request.all != said.filter.is_empty() {
        return Err(Problem::bad_request(
            "say which dead letters (binding, platform, function, reason, since, until, bucket, key_prefix), or `\"all\": true`; \
             one of the two",
        ));
    }
    let query = query(request, caller, Direction::OldestFirst)?;
    let page = state.letters.dead_letters(&query).await?;
    Ok((query, page))
}

/// How many letters are still to be looked at.
async fn left(state: &AdminState, query: &LetterQuery, page: &LetterPage) -> Result<u64, Problem> {
    match page.next {
        Some(cursor) => Ok(state.letters.letters_left(&query.filter, cursor).await?),
        None => Ok(0),
    }
}

fn next(page: &LetterPage) -> Option<String> {
    page.next.map(|next| next.to_string())
}
