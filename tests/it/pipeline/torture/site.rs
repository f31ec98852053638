//! The installation that is tortured: every part real, and a proxy in each way that a fault may lie in.
//!
//! ```text
//!  uploads ──► MinIO ──(fast leg)──────────────────proxy─┐   ┌─proxy──► platform (real): weak, broken
//!                └─(safe leg, queue_dir)─proxy─┐         ├► daemon ──► receiver: steady
//!  notifications ──────────────────────► Mosquitto ─proxy┘   └─proxy──► MySQL or MariaDB
//! ```
//!
//! With two webhooks the safe leg comes by a proxy of its own, and not by the broker. What the fast leg cannot hand over MinIO
//! forgets; the safe one beside it, which keeps everything in its `queue_dir`, is why nothing may be lost all the same.
//!
//! MinIO and the daemon come to the broker by one proxy: a slow broker is slow for both. The publisher of notifications
//! goes straight to it, so that its load stays what it is.
//!
//! The steady function stands on a double that keeps its rule, notes each call with its time, and answers it in the same
//! moment. The other two are commands of the real reference platform: they note that they were called, write their
//! answer, and note that they could.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use triggerd::domain::secret::SigningSecret;

use super::{
    super::{
        disk_faults::Disk,
        world::{Before, PLATFORM_TOKEN, Plan, Way, World, noting},
    },
    books::{Books, FATAL, Function},
};
use crate::harness::{
    database::{Engine, SqlServer},
    mosquitto::{Mosquitto, MosquittoOptions},
    ports::free_port,
    proxy::{Dice, Proxy},
    receiver::{Answer, Receiver, Recorded},
    suite::Ctx,
};

/// How often the platform's notes are read.
const LOOK: Duration = Duration::from_millis(20);

/// Answers, and notes it where that could be written: a platform that is dead reads nothing.
const ANSWERING: &str = r#"printf done && printf '%s %s %s\n' "$TRIGGER_DELIVERY_ID" "$TRIGGER_ATTEMPT" "$TRIGGER_KEY" \
    >> "$FOLDER/weak.answered""#;

/// What a line of a function's notes says.
#[derive(Debug, Clone, Copy)]
enum Note {
    Called,
    Answered,
}

/// The parts.
pub(super) struct Site {
    pub(super) world: World,
    pub(super) mosquitto: Mosquitto,
    pub(super) sql: Option<SqlServer>,
    pub(super) to_broker: Proxy,
    pub(super) to_fast: Proxy,
    pub(super) to_safe: Option<Proxy>,
    pub(super) to_platform: Proxy,
    pub(super) to_sql: Option<Proxy>,
    pub(super) disk: Disk,
    pub(super) books: Arc<Books>,
    pub(super) dice: Dice,
    /// How often the daemon had ended by itself.
    pub(super) restarts: u32,
    _steady: Receiver,
    reader: JoinHandle<()>,
}

/// How events come from MinIO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Targets {
    /// By the broker, uploads being answered when their event is in `queue_dir`, and a fast webhook beside it.
    BrokerAndFast,
    /// By two webhooks, as MinIO's defaults have it: uploads do not wait for their events.
    Webhooks,
}

impl Targets {
    /// What they are, for a title.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::BrokerAndFast => "MQTT and webhook, `sync_events` on",
            Self::Webhooks => "two webhooks, `sync_events` off",
        }
    }
}

/// What a site is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Design {
    /// The shared database; none for the embedded one.
    pub(super) engine: Option<Engine>,
    /// How events come.
    pub(super) targets: Targets,
    /// The functions that are bound.
    pub(super) functions: &'static [Function],
    /// Whether the bindings ask for both legs, and not for the safe one alone.
    pub(super) twin: bool,
    /// Whether the ways of MinIO's webhooks can be spoilt. What lies in them costs a little time.
    pub(super) webhooks_fail: bool,
    /// Whether the disk of the queue can be made to fail.
    pub(super) disk_fails: bool,
    /// What the random points are chosen by.
    pub(super) seed: u64,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Site {
    /// Starts all of it and binds the functions.
    pub(super) async fn start(ctx: &Ctx, design: Design) -> Result<Self> {
        // As deploy/mosquitto/triggerd.conf has it.
        let mosquitto = Mosquitto::start(MosquittoOptions {
            persistence: true,
            max_queued_messages: Some(1_000_000),
            lines: vec!["max_inflight_messages 1000".into()],
            ..MosquittoOptions::default()
        })
        .await?;
        let to_broker = Proxy::start(mosquitto.port(), design.seed).await?;
        let to_platform = Proxy::start(1, design.seed + 1).await?;
        let books = Arc::new(Books::of(design.functions));
        let steady = steady(&books).await?;
        let broker = format!("mqtt://127.0.0.1:{}", to_broker.port());
        let fast_port = free_port()?;
        let to_fast = Proxy::start(fast_port, design.seed + 4).await?;
        let (way, to_safe) = match design.targets {
            Targets::BrokerAndFast => (Way::Deployed { broker, fast_port }, None),
            Targets::Webhooks => (Way::Twin { fast_port }, Some(Proxy::start(1, design.seed + 5).await?)),
        };
        let before = if design.webhooks_fail {
            Before { main: to_safe.as_ref().map(Proxy::port), fast: Some(to_fast.port()) }
        } else {
            Before::default()
        };
        let functions = format!("{}{}", noting("weak", ANSWERING), noting("broken", "exit 3"));
        let disk = Disk::new(ctx.folder())?;
        let env = if design.disk_fails { disk.env()? } else { Vec::new() };
        let mut plan = Plan { way, env, before, ..Plan::webhook(&functions) };
        let (mut sql, mut to_sql) = (None, None);
        if let Some(engine) = design.engine {
            let (server, proxy, url) = database(engine, design.seed + 2).await?;
            plan.relations = Some(url);
            (sql, to_sql) = (Some(server), Some(proxy));
        }
        plan.extra = format!(
            "{}{}",
            platform("suffering", &format!("http://127.0.0.1:{}", to_platform.port())),
            platform("untouched", &steady.url("")),
        );
        let world = World::start(ctx, &plan).await?;
        to_platform.lead_to(world.platform.port());
        if let Some(to_safe) = &to_safe {
            to_safe.lead_to(world.source_port()?);
        }
        let notes = [
            (Function::Weak, Note::Called, world.platform.file("weak.calls")),
            (Function::Broken, Note::Called, world.platform.file("broken.calls")),
            (Function::Weak, Note::Answered, world.platform.file("weak.answered")),
        ];
        let reader = tokio::spawn(read_notes(notes, Arc::clone(&books)));
        let dice = Dice::new(design.seed + 3);
        let site = Self {
            world,
            mosquitto,
            sql,
            to_broker,
            to_fast,
            to_safe,
            to_platform,
            to_sql,
            disk,
            books,
            dice,
            restarts: 0,
            _steady: steady,
            reader,
        };
        for function in design.functions {
            site.bind("photos", *function, &json!({"twin": design.twin})).await?;
        }
        Ok(site)
    }

    /// Binds this bucket's uploads to a function, or what `more` says.
    pub(super) async fn bind(&self, bucket: &str, function: Function, more: &Value) -> Result<()> {
        let retry =
            |attempts: u32| json!({"max_attempts": attempts, "first_wait_ms": 50, "max_wait_ms": 1_000});
        let of_function = match function {
            Function::Steady => json!({"platform": "untouched"}),
            Function::Weak => json!({"timeout_ms": 3_000, "retry": retry(1_000)}),
            Function::Broken => json!({"prefix": FATAL, "retry": retry(2)}),
        };
        let mut wanted = json!({"platform": "suffering", "concurrency": 32});
        for more in [&of_function, more] {
            if let (Some(wanted), Some(more)) = (wanted.as_object_mut(), more.as_object()) {
                wanted.extend(more.clone());
            }
        }
        self.world.bind(bucket, function.name(), &wanted).await?;
        Ok(())
    }

    /// Whether the daemon says that it is ready.
    pub(super) async fn is_ready(&self) -> bool {
        self.world
            .daemon
            .call(Method::GET, "/health/ready", None)
            .await
            .is_ok_and(|(status, _)| status.is_success())
    }

    /// Prints what the daemon has logged of what is lost, and where else it is found: what a search begins with.
    #[expect(clippy::print_stdout, reason = "nothing of it is left after the test")]
    pub(super) fn tell_of(&self, lost: &[(Function, String)]) -> Result<()> {
        if lost.is_empty() {
            return Ok(());
        }
        let log = self.world.daemon.log()?;
        for (function, key) in lost.iter().take(10) {
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(key)).take(5).collect();
            let encoded = key.replace('/', "%2F");
            let at_broker = self.mosquitto.remembers(&encoded);
            println!(
                "{key} was never brought to {function:?}; kept by Mosquitto: {at_broker}; logged: {lines:#?}"
            );
        }
        Ok(())
    }

    /// Enters the dead letters that are new into the books.
    pub(super) async fn count_letters(&self) -> Result<()> {
        let mut before = String::new();
        loop {
            let path = format!("/v1/dead-letters?limit=500{before}");
            let (status, page) = self.world.daemon.call(Method::GET, &path, None).await?;
            ensure!(status.is_success(), "{status} {page}");
            let mut news = false;
            for letter in page["dead_letters"].as_array().context("no list")? {
                let (name, key) = (letter["function"].as_str(), letter["key"].as_str());
                let function = Function::ALL.into_iter().find(|one| Some(one.name()) == name);
                let (function, key) = (function.context("a strange letter")?, key.context("no key")?);
                news |= self.books.died(function, key);
            }
            match page["next"].as_str() {
                Some(next) if news => before = format!("&before={next}"),
                _ => return Ok(()),
            }
        }
    }
}

fn platform(name: &str, url: &str) -> String {
    format!("[platforms.{name}]\ndriver = \"rules\"\nurl = \"{url}\"\ntoken = \"{PLATFORM_TOKEN}\"\n")
}

async fn database(engine: Engine, seed: u64) -> Result<(SqlServer, Proxy, String)> {
    let server = SqlServer::start(engine).await?;
    let url = server.create_database().await?.url;
    let (_, rest) = url.split_once("@127.0.0.1:").context("no host in the URL")?;
    let (port, _) = rest.split_once('/').context("no port in the URL")?;
    let proxy = Proxy::start(port.parse()?, seed).await?;
    let url = url.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    Ok((server, proxy, url))
}

/// A platform that keeps rules and whose function answers at once.
async fn steady(books: &Arc<Books>) -> Result<Receiver> {
    let receiver = Receiver::start().await?;
    receiver.forget();
    let (rules, books) = (Mutex::new(BTreeMap::new()), Arc::clone(books));
    receiver.answer_by(move |_, request| {
        if request.uri.path().contains("/rules/") {
            return keep_rule(&mut rules.lock().unwrap(), request);
        }
        let event = request.json().unwrap_or_default();
        let key = event["subject"].as_str().unwrap_or_default();
        let delivery = request.header("trigger-delivery-id");
        books.called(Function::Steady, key, &delivery);
        books.answered(Function::Steady, key, &delivery);
        Answer::status(200).unwrap()
    });
    Ok(receiver)
}

fn keep_rule(rules: &mut BTreeMap<String, Value>, request: &Recorded) -> Answer {
    let path = request.uri.path().to_owned();
    match request.method.as_str() {
        "PUT" => {
            let mut rule = request.json().unwrap();
            let secret = SigningSecret::parse(rule["secret"].as_str().unwrap()).unwrap();
            rule["secret_digest"] = json!(secret.digest());
            rule["state"] = json!("confirmed");
            rules.insert(path, rule);
            Answer::json(201, &json!({"id": "it", "state": "confirmed"})).unwrap()
        }
        "GET" if rules.contains_key(&path) => Answer::json(200, &rules[&path]).unwrap(),
        _ => Answer::status(204).unwrap(),
    }
}

/// Enters what the platform's functions note, as it comes.
async fn read_notes(files: [(Function, Note, PathBuf); 3], books: Arc<Books>) {
    let mut read = [0_u64; 3];
    let mut rest = [const { String::new() }; 3];
    loop {
        for (at, (function, note, path)) in files.iter().enumerate() {
            let Ok(mut file) = File::open(path) else { continue };
            if file.seek(SeekFrom::Start(read[at])).is_err() {
                continue;
            }
            let mut bytes = Vec::new();
            read[at] += u64::try_from(file.read_to_end(&mut bytes).unwrap_or(0)).unwrap_or(0);
            rest[at].push_str(&String::from_utf8_lossy(&bytes));
            while let Some(end) = rest[at].find('\n') {
                let line: String = rest[at].drain(..=end).collect();
                let mut words = line.split_whitespace();
                if let (Some(delivery), Some(_), Some(key)) = (words.next(), words.next(), words.next()) {
                    match note {
                        Note::Called => books.called(*function, key, delivery),
                        Note::Answered => books.answered(*function, key, delivery),
                    }
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
