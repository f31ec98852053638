//! `kill -9` at any moment: every answer that was given is true afterwards.
//!
//! The child is this test binary itself, running only the ignored test below.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use futures_util::future::join_all;

use super::*;

const DIR: &str = "TRIGGERD_TEST_CRASH_DIR";

#[tokio::test]
#[ignore = "run by `killed_process_has_kept_every_answer` as its child"]
async fn crash_child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let path = PathBuf::from(dir).join("queue.db");
    let (queue, writer) = SqliteQueue::open(&path, &QueueOptions::default()).await.unwrap();
    let _writer = tokio::spawn(writer.run());
    for round in 0.. {
        let ids = (round * 50..(round + 1) * 50).map(|n| {
            let queue = queue.clone();
            async move {
                let delivery = delivery(n, "f");
                let id = delivery.id;
                queue.park(park(delivery, NOW)).await.unwrap();
                id
            }
        });
        let ids = join_all(ids).await;
        // Standard output itself, since `println` is captured.
        let mut out = std::io::stdout().lock();
        for (n, id) in ids.into_iter().enumerate() {
            writeln!(out, "parked {id}").unwrap();
            if n % 2 == 0 {
                drop(out);
                assert!(queue.delivered(id).await.unwrap());
                out = std::io::stdout().lock();
                writeln!(out, "delivered {id}").unwrap();
            }
        }
        out.flush().unwrap();
    }
}

#[tokio::test]
async fn killed_process_has_kept_every_answer() {
    for lines in [1, 137, 600] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "queue::tests::crash::crash_child", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let is_answer = |line: &String| line.starts_with("parked ") || line.starts_with("delivered ");
        let mut answers: Vec<String> = said.by_ref().filter(is_answer).take(lines).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(answers.len(), lines, "the child ended before it was killed");
        // What it said before it died is still in the pipe; its last line may be cut.
        answers.extend(
            said.filter(is_answer).filter(|line| line.split(' ').nth(1).is_some_and(|id| id.len() == 32)),
        );

        let (queue, _writer) =
            SqliteQueue::open(&dir.path().join("queue.db"), &QueueOptions::default()).await.unwrap();
        let there = queue.due(&function("f"), NOW, &[], u32::MAX).await.unwrap();
        let there: std::collections::HashSet<_> = there.into_iter().map(|d| d.id).collect();
        let mut expected = std::collections::HashMap::new();
        for answer in &answers {
            let (word, id) = answer.split_once(' ').unwrap();
            expected.insert(id.parse::<DeliveryId>().unwrap(), word == "parked");
        }
        let (parked, delivered): (Vec<_>, Vec<_>) = expected.into_iter().partition(|(_, parked)| *parked);
        let back = delivered.iter().filter(|(id, _)| there.contains(id)).count();
        assert_eq!(back, 0, "of {} delivered", delivered.len());
        // Removals are asked for one by one, so one at most was done and not yet told of.
        let gone = parked.iter().filter(|(id, _)| !there.contains(id)).count();
        assert!(gone <= 1, "{gone} of {} parked are gone", parked.len());
        println!(
            "killed after {} answers: {} parked, {} delivered",
            answers.len(),
            parked.len(),
            delivered.len()
        );
    }
}
