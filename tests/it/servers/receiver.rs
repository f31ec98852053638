//! The receiver records what comes and misbehaves as told.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::LIMIT;
use crate::harness::receiver::{Answer, Receiver};
use crate::harness::suite::{Ctx, Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [] receiver_records_in_order_and_answers_as_told;
        [] receiver_can_close_hang_and_be_away;
    }
}

fn http() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?)
}

async fn receiver_records_in_order_and_answers_as_told(_: Ctx) -> Result<()> {
    let receiver = Receiver::start().await?;
    let http = http()?;
    ensure!(http.get(receiver.url("/first?x=1")).send().await?.status() == 200);
    let busy = Answer::respond(503, "busy".into())?.with_header("retry-after", "7")?;
    receiver.answer(busy.after(Duration::from_millis(50)));
    let answer = http.post(receiver.url("/second")).header("x-test", "yes").body("{\"a\":1}").send().await?;
    ensure!(answer.status() == 503 && answer.headers()["retry-after"] == "7");
    ensure!(answer.text().await? == "busy");
    let (accepted, gone) = (Answer::json(202, &serde_json::json!({"id": 1}))?, Answer::status(410)?);
    receiver.answer_by(move |before, _| if before < 3 { accepted.clone() } else { gone.clone() });
    let answer = http.put(receiver.url("/third")).send().await?;
    ensure!(answer.status() == 202 && answer.headers()["content-type"] == "application/json");
    ensure!(answer.json::<serde_json::Value>().await?["id"] == 1);
    ensure!(http.put(receiver.url("/fourth")).send().await?.status() == 410);
    let requests = receiver.wait_for_requests(4, LIMIT).await?;
    let paths: Vec<_> = requests.iter().map(|request| request.uri.to_string()).collect();
    ensure!(paths == ["/first?x=1", "/second", "/third", "/fourth"], "{paths:?}");
    ensure!(requests[1].method == http::Method::POST && requests[1].header("x-test") == "yes");
    ensure!(requests[1].json()?["a"] == 1);
    ensure!(receiver.wait_for_requests(5, Duration::from_millis(50)).await.is_err());
    Ok(())
}

async fn receiver_can_close_hang_and_be_away(_: Ctx) -> Result<()> {
    let mut receiver = Receiver::start().await?;
    let http = http()?;
    receiver.answer(Answer::Close);
    let closed = http.get(receiver.url("/")).send().await;
    ensure!(closed.as_ref().is_err_and(|error| !error.is_timeout()), "{closed:?}");
    receiver.answer(Answer::Hang);
    let hung = http.get(receiver.url("/")).send().await;
    ensure!(hung.as_ref().is_err_and(reqwest::Error::is_timeout), "{hung:?}");
    let patient = reqwest::Client::builder().no_proxy().build()?;
    let recorded = receiver.requests().len();
    let waiting = tokio::spawn(patient.get(receiver.url("/")).send());
    receiver.wait_for_requests(recorded + 1, LIMIT).await?;
    receiver.stop().await;
    let cut =
        tokio::time::timeout(LIMIT, waiting).await.context("a hung request outlived the receiver")??;
    ensure!(cut.is_err(), "{cut:?}");
    let away = http.get(receiver.url("/")).send().await;
    ensure!(away.as_ref().is_err_and(reqwest::Error::is_connect), "{away:?}");
    receiver.answer(Answer::status(204)?);
    receiver.start_again().await?;
    ensure!(http.get(receiver.url("/")).send().await?.status() == 204);
    Ok(())
}
