//! Group commit, and who is first: the batch or the attempt.

use std::sync::atomic::AtomicBool;

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn parks_that_wait_together_share_a_commit() {
    let f = Fixture::new().await;
    let parks = (0..1_000).map(|n| f.queue.park(park(delivery(n, "f"), NOW)));
    for parked in join_all(parks).await {
        assert_eq!(parked.unwrap(), Parked::Written);
    }
    assert!(f.queue.commits() <= 20, "{} commits for 1000 parks", f.queue.commits());
    assert_eq!(f.due_ids(&function("f"), NOW).await.len(), 1_000);
}

#[tokio::test]
async fn batch_keeps_the_order_of_its_requests() {
    let f = Fixture::new().await;
    let one = delivery(1, "f");
    let (parked, delivered, again, buried, parked_dead) = tokio::join!(
        f.queue.park(park(one.clone(), NOW)),
        f.queue.delivered(one.id),
        f.queue.park(park(one.clone(), NOW)),
        f.queue.bury(letter(one.clone(), NOW)),
        f.queue.park(park(one.clone(), NOW)),
    );
    assert_eq!((parked.unwrap(), delivered.unwrap()), (Parked::Written, true));
    assert_eq!((again.unwrap(), buried.unwrap()), (Parked::Written, true));
    assert_eq!(parked_dead.unwrap(), Parked::AlreadyThere);
    assert_eq!(f.queue.parked_of(binding(1)).await.unwrap(), 0);
}

#[tokio::test]
async fn repeats_within_one_batch_count_once() {
    let f = Fixture::new().await;
    let parks = (0..3).map(|_| f.queue.park(park(delivery(1, "f"), NOW)));
    let parked: Vec<_> = join_all(parks).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(parked, [Parked::Written, Parked::AlreadyThere, Parked::AlreadyThere]);
    let id = delivery(1, "f").id;
    let delivered = join_all((0..3).map(|_| f.queue.delivered(id))).await;
    assert_eq!(delivered.into_iter().filter(|was| *was.as_ref().unwrap()).count(), 1);
}

/// A park and an attempt that ends meanwhile: the row is there exactly if the ticket was sealed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_is_sealed_or_withdrawn_and_the_row_agrees() {
    let f = Fixture::new().await;
    let mut outcomes = [0; 2];
    for round in 0..400_u32 {
        let request = park(delivery(round, "f"), NOW);
        let (id, ticket) = (request.delivery.id, request.ticket.clone());
        let go = Arc::new(AtomicBool::new(false));
        let withdrawing = tokio::task::spawn_blocking({
            let go = Arc::clone(&go);
            move || {
                while !go.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                // From at once to later than a batch takes to be gathered.
                for _ in 0..(round % 100) * 40 {
                    std::hint::spin_loop();
                }
                ticket.withdraw()
            }
        });
        go.store(true, Ordering::Release);
        let parked = f.queue.park(request).await.unwrap();
        let withdrawn = withdrawing.await.unwrap();
        assert_eq!(parked, if withdrawn { Parked::Withdrawn } else { Parked::Written });
        assert_eq!(f.queue.delivered(id).await.unwrap(), !withdrawn);
        outcomes[usize::from(withdrawn)] += 1;
    }
    println!("sealed {}, withdrawn {}", outcomes[0], outcomes[1]);
}

#[tokio::test]
async fn ticket_of_a_written_park_cannot_be_withdrawn() {
    let f = Fixture::new().await;
    let request = park(delivery(1, "f"), NOW);
    let ticket = request.ticket.clone();
    assert_eq!(f.queue.park(request).await.unwrap(), Parked::Written);
    assert!(!ticket.withdraw());
    assert!(f.queue.delivered(delivery(1, "f").id).await.unwrap());
}

#[tokio::test]
async fn withdrawn_park_leaves_nothing() {
    let f = Fixture::new().await;
    let request = park(delivery(1, "f"), NOW);
    assert!(request.ticket.withdraw());
    assert_eq!(f.queue.park(request).await.unwrap(), Parked::Withdrawn);
    assert_eq!(f.number("SELECT COUNT(*) FROM event").await, 0);
}
