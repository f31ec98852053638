//! A platform that forgets its rules at each call, with deliveries parked: they are given to it ever more seldom, so that the
//! deliveries are not held and released without end; nothing is lost, and others go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    depth::park,
    hostile::keep_rule,
    world::{Plan, World, noting},
};
use crate::harness::{
    receiver::{Answer, Receiver, Recorded},
    suite::{Ctx, Test, tests},
    wait::eventually,
};

pub(crate) fn tests() -> Vec<Test> {
    tests! {
        [Minio] a_platform_that_forgets_its_rules_is_given_them_ever_more_seldom within 400;
    }
}

/// Deliveries that wait for the forgetful platform's function.
const PARKED: u32 = 300;

/// Everything may take this long on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(90);

/// A platform that answers calls, or forgets all rules at each call and says so.
struct Forgetful {
    receiver: Receiver,
    forgets: Arc<AtomicBool>,
    /// Deliveries that were answered well.
    called: Arc<Mutex<BTreeSet<String>>>,
}

fn unknown_rule() -> Answer {
    let problem = json!({"type": "about:unknown-rule", "title": "no such rule"});
    let answer = Answer::respond(404, problem.to_string().into()).unwrap();
    answer.with_header("content-type", "application/problem+json").unwrap()
}

fn answer(
    rules: &mut BTreeMap<String, Value>,
    called: &mut BTreeSet<String>,
    forgets: bool,
    request: &Recorded,
) -> Answer {
    let path = request.uri.path();
    if path.contains("/rules/") {
        if request.method == "GET" && !rules.contains_key(path) {
            return unknown_rule();
        }
        return keep_rule(rules, request);
    }
    if forgets {
        rules.clear();
        return unknown_rule();
    }
    called.insert(request.header("webhook-id"));
    Answer::status(200).unwrap()
}

impl Forgetful {
    async fn open() -> Result<Self> {
        let (receiver, forgets) = (Receiver::start().await?, Arc::new(AtomicBool::new(false)));
        let (rules, is_forgetful) = (Mutex::new(BTreeMap::new()), Arc::clone(&forgets));
        let called = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = Arc::clone(&called);
        receiver.answer_by(move |_, request| {
            let (mut rules, mut noted) = (rules.lock().unwrap(), noted.lock().unwrap());
            answer(&mut rules, &mut noted, is_forgetful.load(Ordering::SeqCst), request)
        });
        Ok(Self { receiver, forgets, called })
    }

    fn called(&self) -> usize {
        self.called.lock().unwrap().len()
    }

    fn plan(&self) -> Plan {
        let extra = format!(
            "[platforms.forgetful]\ndriver = \"rules\"\nurl = \"{}\"\ntoken = \"token-for-the-forgetful\"\n\
             [queue]\nmax_bytes = 4_294_967_296\nfunction_share = 1.0\n",
            self.receiver.url("")
        );
        Plan { extra, ..Plan::webhook(&noting("well", "")) }
    }
}

async fn degraded(world: &World) -> Result<f64> {
    world.daemon.metric("triggerd_binding_transitions_total", &["state=\"degraded\""]).await
}

/// How often a binding can have fallen in this time: before the n-th fall it rested for a second, two, four, … at least.
fn most_falls(elapsed: Duration) -> u32 {
    2 + (elapsed.as_secs() + 2).ilog2()
}

#[expect(clippy::disallowed_methods, reason = "how often it may relapse depends on how long it had")]
pub(crate) async fn a_platform_that_forgets_its_rules_is_given_them_ever_more_seldom(ctx: Ctx) -> Result<()> {
    let forgetful = Forgetful::open().await?;
    let mut world = World::start(&ctx, &forgetful.plan()).await?;
    world.minio.create_bucket("docs").await?;
    let wanted = json!({
        "bucket": "docs", "events": ["s3:ObjectCreated:*"], "platform": "forgetful", "function": "it",
    });
    let id = world.daemon.ask_for(&wanted).await?;
    world.daemon.wait_for_state(&id, "active").await?;
    world.bind("photos", "well", &json!({})).await?;
    world.daemon.stop().await?;
    park(&ctx.folder().join("state/queue.db"), id.parse()?, ("forgetful", "it"), 0..PARKED).await?;
    forgetful.forgets.store(true, Ordering::SeqCst);
    let began = Instant::now();
    world.daemon.start_again().await?;
    eventually("it relapses", PATIENCE, async || {
        let falls = degraded(&world).await?;
        ensure!(falls >= 4.0, "{falls}");
        Ok(())
    })
    .await?;
    eventually("it is told why the binding waits, and until when", PATIENCE, async || {
        let told = world.daemon.cli(&["bindings", &id])?;
        ensure!(told.contains("times in a row") && told.contains("is mended at 20"), "{told}");
        Ok(())
    })
    .await?;
    for number in 0..10 {
        world.minio.put_object("photos", &format!("in/{number}.jpg"), "x", &[]).await?;
        world.platform.wait_for_calls("well", number + 1).await?;
    }
    let (falls, elapsed) = (degraded(&world).await?, began.elapsed());
    ensure!(falls <= f64::from(most_falls(elapsed)), "{falls} times in {elapsed:?}");

    // The platform is well again: whoever binds again need not wait for the rest to end.
    forgetful.forgets.store(false, Ordering::SeqCst);
    ensure!(world.daemon.ask_for(&wanted).await? == id);
    eventually("everything is called, or was given up for what the platform said", PATIENCE, async || {
        let dead = world.daemon.dead_letters().await?.len();
        let called = forgetful.called();
        ensure!(called + dead >= PARKED as usize, "{called} called and {dead} dead of {PARKED}");
        Ok(())
    })
    .await?;
    world.daemon.wait_for_state(&id, "active").await?;
    world.daemon.stop().await
}
