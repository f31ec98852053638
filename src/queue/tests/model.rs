//! Any sequence of verbs, and a restart anywhere in it, against a model in memory.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Op {
    Park(u8, i64, bool),
    Delivered(u8),
    /// The last says: by an attempt of the life that it has now.
    Retry(u8, i64, bool, bool),
    Wait(u8, i64, bool),
    Bury(u8, bool),
    BuryParked(u8, bool),
    Replay(u8, i64),
    Discard(u8),
    Hold(u8, bool, i64),
    Dispose(u8, Disposal),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let (n, due) = (0..6_u8, 0..20_i64);
    prop_oneof![
        4 => (n.clone(), due.clone(), any::<bool>()).prop_map(|(n, due, held)| Op::Park(n, due, held)),
        1 => n.clone().prop_map(Op::Delivered),
        2 => (n.clone(), due.clone(), any::<bool>(), ours())
            .prop_map(|(n, due, held, ours)| Op::Retry(n, due, held, ours)),
        2 => (n.clone(), due.clone(), ours()).prop_map(|(n, due, ours)| Op::Wait(n, due, ours)),
        2 => (n.clone(), ours()).prop_map(|(n, ours)| Op::Bury(n, ours)),
        1 => (n.clone(), ours()).prop_map(|(n, ours)| Op::BuryParked(n, ours)),
        2 => (n.clone(), due.clone()).prop_map(|(n, now)| Op::Replay(n, now)),
        1 => n.prop_map(Op::Discard),
        2 => (0..2_u8, any::<bool>(), due).prop_map(|(b, held, now)| Op::Hold(b, held, now)),
        1 => (0..2_u8, any::<bool>()).prop_map(|(b, discard)| {
            Op::Dispose(b, if discard { Disposal::Discard } else { Disposal::DeadLetter })
        }),
        1 => Just(Op::Reopen),
    ]
}

fn ours() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.8)
}

/// What is known of a delivery. Two numbers share an event, and each has one of two bindings.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Parked { due: i64, held: bool, awaiting: bool, life: Life },
    Dead(Life),
}

/// Numbers used up before, and tries since.
type Life = (u32, u32);

/// How an attempt knew a delivery: as it is, or as it was before it was replayed and tried.
fn known(model: &Model, n: u8, ours: bool) -> Life {
    match model.get(&n) {
        Some(State::Parked { life, .. } | State::Dead(life)) if ours => *life,
        _ => (0, 0),
    }
}

/// Whether what such an attempt records is for the row that is parked.
fn is_for(model: &Model, n: u8, (earlier, tries): Life) -> bool {
    matches!(model.get(&n), Some(State::Parked { life, .. }) if life.0 == earlier && life.1 <= tries)
}

fn numbered(n: u8) -> Delivery {
    Delivery::new(event(u32::from(n / 2), 10), binding(n % 2), function("f"), NOW)
}

fn known_as(n: u8, (earlier, tries): Life) -> Delivery {
    Delivery { tries, earlier, ..numbered(n) }
}

type Model = BTreeMap<u8, State>;

/// What an attempt records, of the life that the delivery has now or of one before.
async fn record(f: &Fixture, model: &mut Model, op: Op) {
    let id = |n| numbered(n).id;
    match op {
        Op::Retry(n, due, held, ours) => {
            let (earlier, tries) = known(model, n, ours);
            let life = (earlier, tries + 1);
            let request = Retry { held, earlier, tries: life.1, ..retry(id(n), at(due), Some(attempt(due))) };
            let is_for = is_for(model, n, life);
            assert_eq!(f.queue.retry(request).await.unwrap(), is_for);
            if is_for {
                model.insert(n, State::Parked { due, held, awaiting: false, life });
            }
        }
        Op::Wait(n, due, ours) => {
            let life = known(model, n, ours);
            let wait = Wait { id: id(n), earlier: life.0, tries: life.1, since: at(0), until: at(due) };
            let is_it = matches!(model.get(&n), Some(State::Parked { life: now, .. }) if *now == life);
            assert_eq!(f.queue.wait_for_result(wait).await.unwrap(), is_it);
            if is_it {
                model.insert(n, State::Parked { due, held: false, awaiting: true, life });
            }
        }
        Op::BuryParked(n, ours) => {
            let life = known(model, n, ours);
            let is_for = is_for(model, n, life);
            assert_eq!(f.queue.bury_parked(letter(known_as(n, life), at(1))).await.unwrap(), is_for);
            if is_for {
                model.insert(n, State::Dead(life));
            }
        }
        Op::Bury(n, ours) => {
            let life = known(model, n, ours);
            let new = !model.contains_key(&n) || is_for(model, n, life);
            assert_eq!(f.queue.bury(letter(known_as(n, life), at(1))).await.unwrap(), new);
            if new {
                model.insert(n, State::Dead(life));
            }
        }
        _ => unreachable!(),
    }
}

/// Applies an operation to both; the answers must agree.
async fn apply(f: &Fixture, model: &mut Model, op: Op) {
    let id = |n| numbered(n).id;
    let parked = |model: &Model, n| matches!(model.get(&n), Some(State::Parked { .. }));
    match op {
        Op::Park(n, due, held) => {
            let answer = f.queue.park(Park { held, ..park(numbered(n), at(due)) }).await.unwrap();
            let there = model.contains_key(&n);
            assert_eq!(answer, if there { Parked::AlreadyThere } else { Parked::Written });
            model.entry(n).or_insert(State::Parked { due, held, awaiting: false, life: (0, 0) });
        }
        Op::Delivered(n) => {
            assert_eq!(f.queue.delivered(id(n)).await.unwrap(), parked(model, n));
            model.retain(|other, state| *other != n || matches!(state, State::Dead(_)));
        }
        Op::Retry(..) | Op::Wait(..) | Op::BuryParked(..) | Op::Bury(..) => record(f, model, op).await,
        Op::Replay(n, now) => {
            let dead = match model.get(&n) {
                Some(State::Dead(life)) => Some(*life),
                _ => None,
            };
            let replayed = f.queue.replay(id(n), at(now)).await.unwrap();
            assert_eq!(replayed, dead.map(|_| function("f")));
            if let Some((earlier, tries)) = dead {
                let life = (earlier + tries + 1, 0);
                model.insert(n, State::Parked { due: now, held: false, awaiting: false, life });
            }
        }
        Op::Discard(n) => {
            let dead = matches!(model.get(&n), Some(State::Dead(_)));
            assert_eq!(f.queue.discard(id(n)).await.unwrap(), dead);
            model.retain(|other, _| *other != n || !dead);
        }
        Op::Hold(b, hold, now) => {
            let mut changed = 0;
            for (_, state) in model.iter_mut().filter(|(n, _)| *n % 2 == b) {
                if let State::Parked { due, held, awaiting: false, life } = *state
                    && held != hold
                {
                    changed += 1;
                    let due = if hold { due } else { now };
                    *state = State::Parked { due, held: hold, awaiting: false, life };
                }
            }
            assert_eq!(f.queue.hold(binding(b), hold, at(now)).await.unwrap(), changed);
        }
        Op::Dispose(b, disposal) => {
            let there: Vec<u8> = model.keys().copied().filter(|n| n % 2 == b && parked(model, *n)).collect();
            let answer = f.queue.dispose(binding(b), disposal, &[], at(1)).await.unwrap();
            assert_eq!(answer, there.len() as u64);
            for n in there {
                let life = known(model, n, true);
                match disposal {
                    Disposal::Discard => model.remove(&n),
                    Disposal::DeadLetter => model.insert(n, State::Dead(life)),
                };
            }
        }
        Op::Reopen => {}
    }
}

async fn compare(f: &Fixture, model: &Model) {
    let mut due: Vec<(i64, DeliveryId)> = Vec::new();
    let mut dead = Vec::new();
    for (n, state) in model {
        match state {
            State::Parked { due: time, held: false, .. } => due.push((*time, numbered(*n).id)),
            State::Parked { held: true, .. } => {}
            State::Dead(_) => dead.push(numbered(*n).id),
        }
    }
    let mut there = f.due_ids(&function("f"), at(99)).await;
    let times: BTreeMap<_, _> = due.iter().map(|(time, id)| (*id, *time)).collect();
    assert!(there.is_sorted_by_key(|id| times.get(id)), "{there:?} {times:?}");
    let mut expected: Vec<_> = due.into_iter().map(|(_, id)| id).collect();
    expected.sort();
    there.sort();
    assert_eq!(there, expected);

    let awaiting =
        model.values().filter(|state| matches!(state, State::Parked { awaiting: true, .. })).count();
    let backlog = f.queue.backlog().await.unwrap();
    assert_eq!(backlog.iter().map(|one| one.awaiting).sum::<u64>(), awaiting as u64);

    for (n, state) in model {
        if let State::Parked { life, .. } = state {
            let row = f.queue.parked(numbered(*n).id).await.unwrap().unwrap();
            assert_eq!((row.earlier, row.tries), *life);
        }
    }

    let query = LetterQuery { limit: 99, ..LetterQuery::default() };
    let letters = f.queue.dead_letters(&query).await.unwrap().letters;
    let mut letters: Vec<_> = letters.into_iter().map(|letter| letter.delivery.id).collect();
    letters.sort();
    dead.sort();
    assert_eq!(letters, dead);

    let events: std::collections::BTreeSet<_> = model.keys().map(|n| n / 2).collect();
    assert_eq!(f.number("SELECT COUNT(*) FROM event").await, i64::try_from(events.len()).unwrap());
    let orphans = "SELECT COUNT(*) FROM attempt WHERE delivery NOT IN \
                   (SELECT id FROM delivery UNION SELECT id FROM dead_letter)";
    assert_eq!(f.number(orphans).await, 0);
    let verified = verify::verify(&mut f.sql().await, u64::MAX).await.unwrap();
    assert!(verified.ok, "{verified:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn queue_does_what_its_model_does(ops in prop::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut f = Fixture::new().await;
            let mut model = Model::new();
            for op in ops {
                apply(&f, &mut model, op).await;
                if matches!(op, Op::Reopen) {
                    f = f.reopen().await;
                }
            }
            compare(&f, &model).await;
        });
    }
}
