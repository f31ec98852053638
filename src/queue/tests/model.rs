//! Any sequence of verbs, and a restart anywhere in it, against a model in memory.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Op {
    Park(u8, i64, bool),
    Delivered(u8),
    Retry(u8, i64, bool),
    Wait(u8, i64),
    Bury(u8),
    BuryParked(u8),
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
        2 => (n.clone(), due.clone(), any::<bool>()).prop_map(|(n, due, held)| Op::Retry(n, due, held)),
        2 => (n.clone(), due.clone()).prop_map(|(n, due)| Op::Wait(n, due)),
        2 => n.clone().prop_map(Op::Bury),
        1 => n.clone().prop_map(Op::BuryParked),
        2 => (n.clone(), due.clone()).prop_map(|(n, now)| Op::Replay(n, now)),
        1 => n.prop_map(Op::Discard),
        2 => (0..2_u8, any::<bool>(), due).prop_map(|(b, held, now)| Op::Hold(b, held, now)),
        1 => (0..2_u8, any::<bool>()).prop_map(|(b, discard)| {
            Op::Dispose(b, if discard { Disposal::Discard } else { Disposal::DeadLetter })
        }),
        1 => Just(Op::Reopen),
    ]
}

/// What is known of a delivery. Two numbers share an event, and each has one of two bindings.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Parked { due: i64, held: bool, awaiting: bool },
    Dead,
}

fn numbered(n: u8) -> Delivery {
    Delivery::new(event(u32::from(n / 2), 10), binding(n % 2), function("f"), NOW)
}

type Model = BTreeMap<u8, State>;

/// Applies an operation to both; the answers must agree.
async fn apply(f: &Fixture, model: &mut Model, op: Op) {
    let id = |n| numbered(n).id;
    let parked = |model: &Model, n| matches!(model.get(&n), Some(State::Parked { .. }));
    match op {
        Op::Park(n, due, held) => {
            let answer = f.queue.park(Park { held, ..park(numbered(n), at(due)) }).await.unwrap();
            let there = model.contains_key(&n);
            assert_eq!(answer, if there { Parked::AlreadyThere } else { Parked::Written });
            model.entry(n).or_insert(State::Parked { due, held, awaiting: false });
        }
        Op::Delivered(n) => {
            assert_eq!(f.queue.delivered(id(n)).await.unwrap(), parked(model, n));
            model.retain(|other, state| *other != n || *state == State::Dead);
        }
        Op::Retry(n, due, held) => {
            let request = Retry { held, ..retry(id(n), at(due), Some(attempt(due))) };
            assert_eq!(f.queue.retry(request).await.unwrap(), parked(model, n));
            if parked(model, n) {
                model.insert(n, State::Parked { due, held, awaiting: false });
            }
        }
        Op::Wait(n, due) => {
            let wait = Wait { id: id(n), since: at(0), until: at(due) };
            assert_eq!(f.queue.wait_for_result(wait).await.unwrap(), parked(model, n));
            if parked(model, n) {
                model.insert(n, State::Parked { due, held: false, awaiting: true });
            }
        }
        Op::BuryParked(n) => {
            let was = f.queue.bury_parked(letter(numbered(n), at(1))).await.unwrap();
            assert_eq!(was, parked(model, n));
            if was {
                model.insert(n, State::Dead);
            }
        }
        Op::Bury(n) => {
            let was = f.queue.bury(letter(numbered(n), at(1))).await.unwrap();
            assert_eq!(was, model.insert(n, State::Dead) != Some(State::Dead));
        }
        Op::Replay(n, now) => {
            let dead = model.get(&n) == Some(&State::Dead);
            assert_eq!(f.queue.replay(id(n), at(now)).await.unwrap(), dead.then(|| function("f")));
            if dead {
                model.insert(n, State::Parked { due: now, held: false, awaiting: false });
            }
        }
        Op::Discard(n) => {
            let dead = model.get(&n) == Some(&State::Dead);
            assert_eq!(f.queue.discard(id(n)).await.unwrap(), dead);
            model.retain(|other, _| *other != n || !dead);
        }
        Op::Hold(b, hold, now) => {
            let mut changed = 0;
            for (_, state) in model.iter_mut().filter(|(n, _)| *n % 2 == b) {
                if let State::Parked { due, held, awaiting: false } = *state
                    && held != hold
                {
                    changed += 1;
                    let due = if hold { due } else { now };
                    *state = State::Parked { due, held: hold, awaiting: false };
                }
            }
            assert_eq!(f.queue.hold(binding(b), hold, at(now)).await.unwrap(), changed);
        }
        Op::Dispose(b, disposal) => {
            let there: Vec<u8> = model.keys().copied().filter(|n| n % 2 == b && parked(model, *n)).collect();
            let answer = f.queue.dispose(binding(b), disposal, &[], at(1)).await.unwrap();
            assert_eq!(answer, there.len() as u64);
            for n in there {
                match disposal {
                    Disposal::Discard => model.remove(&n),
                    Disposal::DeadLetter => model.insert(n, State::Dead),
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
            State::Dead => dead.push(numbered(*n).id),
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
