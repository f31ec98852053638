//! Functions side by side on every upload: one that is well, and neighbours that hang, are down, refuse, or are held to
//! a rate. The first gets everything at once; the others lose nothing, and get it all when they are well again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    disk_faults::RECORDING,
    hostile::keep_rule,
    world::{Daemon, Plan, WEBHOOK_TOKEN, World},
};
use crate::harness::{
    receiver::{Answer, Receiver},
    suite::Ctx,
    wait::eventually,
};

/// Everything may take this long on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(90);

/// Uploads, each of which fires every function.
const UPLOADS: usize = 300;

/// Events of the flood; one in so many is for the healthy function, all others are for the one that hangs.
const FLOOD: usize = 3_000;
const FLOOD_HEALTHY: usize = 10;

/// Events of the flood in a second.
const FLOOD_RATE: u32 = 1_000;

/// Neighbours that are no use, and what their breaker says of them.
const NEIGHBOURS: [(&str, &str); 3] =
    [("hanging", "no result within"), ("down", "platform_fault"), ("refusing", "throttled")];

/// A platform with a function for each way to be a neighbour.
struct Street {
    receiver: Receiver,
    well: Arc<AtomicBool>,
}

impl Street {
    async fn open() -> Result<Self> {
        let (receiver, well) = (Receiver::start().await?, Arc::new(AtomicBool::new(false)));
        let (rules, is_well) = (Mutex::new(BTreeMap::new()), Arc::clone(&well));
        receiver.answer_by(move |_, request| {
            let path = request.uri.path();
            if path.contains("/rules/") {
                return keep_rule(&mut rules.lock().unwrap(), request);
            }
            match path {
                _ if is_well.load(Ordering::SeqCst) => Answer::status(200).unwrap(),
                path if path.contains("/functions/hanging/") => Answer::Hang,
                path if path.contains("/functions/down/") => Answer::Close,
                path if path.contains("/functions/refusing/") => Answer::status(429).unwrap(),
                _ => Answer::status(200).unwrap(),
            }
        });
        Ok(Self { receiver, well })
    }

    fn plan(&self) -> Plan {
        let platform = format!(
            "[platforms.street]\ndriver = \"rules\"\nurl = \"{}\"\ntoken = \"token-of-the-street\"\n",
            self.receiver.url("")
        );
        Plan { extra: platform, ..Plan::webhook("") }
    }

    /// How many different deliveries a function was called for.
    fn called(&self, function: &str) -> usize {
        let path = format!("/functions/{function}/");
        let requests = self.receiver.requests();
        let ours = requests.iter().filter(|request| request.uri.path().contains(&path));
        ours.map(|request| request.header("webhook-id")).collect::<BTreeSet<_>>().len()
    }
}

async fn bind(world: &World, function: &str, more: Value) -> Result<()> {
    let mut wanted = json!({
        "bucket": "photos", "events": ["s3:ObjectCreated:*"], "platform": "street", "function": function,
        "timeout_ms": 1_000, "retry": {"max_attempts": 1_000, "first_wait_ms": 50, "max_wait_ms": 400},
    });
    let (Some(map), Value::Object(more)) = (wanted.as_object_mut(), more) else { return Ok(()) };
    map.extend(more);
    let id = world.daemon.ask_for(&wanted).await?;
    world.daemon.wait_for_state(&id, "active").await.map(drop)
}

fn flow(daemon: &Daemon, function: &str) -> Result<Value> {
    let shown: Value = serde_json::from_str(&daemon.cli(&["functions", "--json"])?)?;
    let functions = shown["functions"].as_array().context("no list")?;
    let found = functions.iter().find(|one| one["function"] == function);
    found.cloned().with_context(|| format!("{function} is not in {shown}"))
}

async fn upload(world: &World) -> Result<()> {
    for batch in (0..UPLOADS).collect::<Vec<_>>().chunks(20) {
        let keys: Vec<String> = batch.iter().map(|number| format!("in/{number}.jpg")).collect();
        try_join_all(keys.iter().map(|key| world.minio.put_object("photos", key, "x", &[]))).await?;
    }
    Ok(())
}

async fn all_called(street: &Street, function: &str) -> Result<()> {
    called_for(street, function, UPLOADS).await
}

async fn called_for(street: &Street, function: &str, count: usize) -> Result<()> {
    eventually(&format!("{function} gets every event"), PATIENCE, async || {
        let called = street.called(function);
        ensure!(called == count, "{called} of {count}");
        Ok(())
    })
    .await
}

/// Notifies of so many events, [`FLOOD_RATE`] a second or as many as the daemon takes: the others wait for their places.
async fn flood(source: &str) -> Result<()> {
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / FLOOD_RATE);
    let (places, mut sent) = (Arc::new(Semaphore::new(64)), JoinSet::new());
    for number in 0..FLOOD {
        ticks.tick().await;
        let place = Arc::clone(&places).acquire_owned().await?;
        let key = match number % FLOOD_HEALTHY {
            0 => format!("in/{number}.jpg"),
            _ => format!("flood/{number}.jpg"),
        };
        let mut body: Value = serde_json::from_str(RECORDING)?;
        body["Key"] = format!("photos/{key}").into();
        body["Records"][0]["s3"]["bucket"]["name"] = "photos".into();
        body["Records"][0]["s3"]["object"]["key"] = key.into();
        let request = http.post(source).bearer_auth(WEBHOOK_TOKEN).body(body.to_string());
        sent.spawn(async move {
            let answer = request.send().await?.error_for_status();
            drop(place);
            answer.map(drop)
        });
    }
    while let Some(answer) = sent.join_next().await {
        answer??;
    }
    Ok(())
}

pub(crate) async fn a_flood_of_a_function_that_hangs_delays_nobody_and_is_drained(ctx: Ctx) -> Result<()> {
    let street = Street::open().await?;
    let mut world = World::start(&ctx, &street.plan()).await?;
    world.minio.create_bucket("photos").await?;
    // Slow enough to be seen while it drains.
    bind(&world, "hanging", json!({"prefix": "flood/", "rate_limit": 600, "concurrency": 64})).await?;
    bind(&world, "healthy", json!({"prefix": "in/"})).await?;
    let healthy = FLOOD.div_ceil(FLOOD_HEALTHY);
    flood(&world.source).await?;
    called_for(&street, "healthy", healthy).await?;
    let stuck = flow(&world.daemon, "hanging")?;
    ensure!(stuck["parked"] == FLOOD - healthy && stuck["drained_per_s"] == 0.0, "{stuck}");

    // What a crash leaves of the flood is in the file. And a daemon that has just been started has seen nothing parked, which
    // its estimate would set against what is drained.
    world.daemon.kill9().await?;
    world.daemon.start_again().await?;
    street.well.store(true, Ordering::SeqCst);
    eventually("an operator sees it drain, and until when", PATIENCE, async || {
        let flow = flow(&world.daemon, "hanging")?;
        let (rate, left) = (flow["drained_per_s"].as_f64(), flow["parked"].as_u64());
        ensure!(rate > Some(0.0) && left > Some(0) && flow["empty_in_s"].as_u64() > Some(0), "{flow}");
        Ok(())
    })
    .await?;
    called_for(&street, "hanging", FLOOD - healthy).await?;
    eventually("nothing is parked", PATIENCE, async || {
        let flow = flow(&world.daemon, "hanging")?;
        ensure!(flow["parked"] == 0 && flow["empty_in_s"] == 0, "{flow}");
        Ok(())
    })
    .await?;
    ensure!(street.called("healthy") == healthy, "not all of the healthy function");
    ensure!(world.daemon.dead_letters().await?.is_empty(), "something was given up");
    world.daemon.stop().await
}

pub(crate) async fn neighbours_that_hang_are_down_or_refuse_delay_nobody_and_lose_nothing(
    ctx: Ctx,
) -> Result<()> {
    let street = Street::open().await?;
    let mut world = World::start(&ctx, &street.plan()).await?;
    world.minio.create_bucket("photos").await?;
    for (function, _) in NEIGHBOURS {
        bind(&world, function, json!({})).await?;
    }
    bind(&world, "healthy", json!({})).await?;
    bind(&world, "limited", json!({"rate_limit": 40})).await?;
    upload(&world).await?;
    all_called(&street, "healthy").await?;
    all_called(&street, "limited").await?;

    for (function, reason) in NEIGHBOURS {
        eventually(&format!("the breaker of {function} is open"), PATIENCE, async || {
            let flow = flow(&world.daemon, function)?;
            let breaker = &flow["breaker"];
            let told = breaker["reason"].as_str().is_some_and(|told| told.contains(reason));
            ensure!(breaker["state"] != "closed" && told && breaker["open_until"].is_string(), "{flow}");
            ensure!(flow["parked"] == UPLOADS && flow["oldest_age_s"].is_u64(), "{flow}");
            ensure!(flow["concurrency"] == 1 && flow["concurrency_limit"] == 16, "{flow}");
            Ok(())
        })
        .await?;
    }
    let healthy = flow(&world.daemon, "healthy")?;
    ensure!(healthy["breaker"]["state"] == "closed" && healthy["concurrency"] == 16, "{healthy}");
    ensure!(flow(&world.daemon, "limited")?["rate_limit"] == 40.0);
    ensure!(world.daemon.metric("triggerd_breaker_trips_total", &["platform=\"street\""]).await? >= 3.0);
    eventually("the gauge tells of them", PATIENCE, async || {
        let open = world.daemon.metric("triggerd_breakers_open", &["platform=\"street\""]).await?;
        ensure!((open - 3.0).abs() < 0.5, "{open}");
        Ok(())
    })
    .await?;

    // Who was away is known after a crash, too: nobody is called before a probe has been.
    world.daemon.kill9().await?;
    world.daemon.start_again().await?;
    ensure!(world.daemon.log()?.contains("was away before the restart"), "nothing was remembered");
    for (function, _) in NEIGHBOURS {
        let flow = flow(&world.daemon, function)?;
        ensure!(flow["breaker"]["state"] != "closed", "{flow}");
    }

    street.well.store(true, Ordering::SeqCst);
    for (function, _) in NEIGHBOURS {
        all_called(&street, function).await?;
        eventually(&format!("{function} has nothing parked"), PATIENCE, async || {
            let flow = flow(&world.daemon, function)?;
            ensure!(flow["parked"] == 0 && flow["breaker"]["state"] == "closed", "{flow}");
            Ok(())
        })
        .await?;
    }
    ensure!(world.daemon.dead_letters().await?.is_empty(), "something was given up");
    world.daemon.stop().await
}
