//! One conformance suite for the relations: every verb and edge, on MySQL, MariaDB and SQLite.
//!
//! Each test is a function of a [`World`]: an empty database of one engine, which it opens as often as it wants
//! daemons, and into which it can write past the verbs.

mod bindings;
mod mirror;
mod nodes;
mod outage;
mod revision;
mod schema;

use std::{future::Future, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, bail};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use triggerd::{
    domain::{
        binding::{Binding, BindingSpec, State, Step, StepName, StepState},
        clock::Timestamp,
        entropy::{Entropy as _, SeededEntropy},
        ids::BindingId,
        secret::SigningSecret,
    },
    relations::{
        Bound, MySqlOptions, MySqlRelations, NewBinding, Progress, Relations, RelationsError, Role,
        SqliteRelations,
    },
};

use crate::harness::{
    database::{self, Database, Engine},
    installed::Server,
    suite::{Ctx, Test},
};

pub(crate) fn tests() -> Vec<Test> {
    [bindings::tests(), nodes::tests(), revision::tests(), schema::tests(), outage::tests(), mirror::tests()]
        .into_iter()
        .flatten()
        .collect()
}

/// An empty database.
#[derive(Debug, Clone)]
pub(crate) struct World {
    store: Store,
    _ctx: Ctx,
}

#[derive(Debug, Clone)]
enum Store {
    File(PathBuf),
    Server(Database),
}

/// How to open a world.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub(crate) migrate: bool,
    pub(crate) kept_changes: u32,
}

impl World {
    fn sqlite(ctx: Ctx) -> Self {
        let store = Store::File(ctx.folder().join("relations.db"));
        Self { store, _ctx: ctx }
    }

    async fn server(ctx: Ctx, engine: Engine) -> Result<Self> {
        Ok(Self { store: Store::Server(database::shared(engine).await?), _ctx: ctx })
    }

    /// The relations as a daemon opens them, in working order.
    pub(crate) async fn open(&self) -> Result<Arc<dyn Relations>> {
        Ok(self.open_as(How { migrate: true, kept_changes: 1_000 }).await?)
    }

    /// The relations opened in some way; the first verb has been asked.
    pub(crate) async fn open_as(&self, how: How) -> Result<Arc<dyn Relations>, RelationsError> {
        let relations: Arc<dyn Relations> = match &self.store {
            Store::File(path) if how.migrate => {
                Arc::new(SqliteRelations::open(path, Role::Authority).await?.keep_changes(how.kept_changes))
            }
            Store::File(path) => Arc::new(SqliteRelations::open_migrated(path, Role::Authority).await?),
            Store::Server(database) => {
                let mut options = MySqlOptions::new(database.url.clone().into());
                options.migrate = how.migrate;
                options.kept_changes = how.kept_changes;
                Arc::new(MySqlRelations::new(options)?)
            }
        };
        relations.head().await?;
        Ok(relations)
    }

    /// Writes past the verbs.
    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        match &self.store {
            Store::File(path) => {
                let options = SqliteConnectOptions::new().filename(path);
                let mut connection = options.connect().await?;
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
                connection.close().await?;
            }
            Store::Server(database) => {
                let mut connection = database.connect().await?;
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
                connection.close().await?;
            }
        }
        Ok(())
    }
}

/// One test for each engine.
pub(crate) fn on_every_engine<F, R>(module: &str, name: &str, body: F) -> Vec<Test>
where
    F: Fn(World) -> R + Copy + Send + 'static,
    R: Future<Output = Result<()>> + 'static,
{
    let module = module.trim_start_matches("it::");
    vec![
        Test::new(format!("{module}::{name}::sqlite"), &[], async move |ctx| body(World::sqlite(ctx)).await),
        Test::new(format!("{module}::{name}::mysql"), &[Server::MySql], async move |ctx| {
            body(World::server(ctx, Engine::MySql).await?).await
        }),
        Test::new(format!("{module}::{name}::mariadb"), &[Server::MariaDb], async move |ctx| {
            body(World::server(ctx, Engine::MariaDb).await?).await
        }),
    ]
}

/// Lists tests of a module, each for every engine.
macro_rules! conformance {
    ($($name:ident;)*) => {
        [$($crate::relations::on_every_engine(module_path!(), stringify!($name), $name)),*].into_iter().flatten().collect::<Vec<_>>()
    };
}
pub(crate) use conformance;

/// The moment `seconds` after a fixed one.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_763_740_000_123_456 + seconds * 1_000_000)
}

/// A spec for this bucket and function.
pub(crate) fn spec(bucket: &str, function: &str) -> Result<BindingSpec> {
    Ok(serde_json::from_value(serde_json::json!({
        "storage": "default",
        "bucket": bucket,
        "events": ["s3:ObjectCreated:*"],
        "prefix": "in/ünï 图片/",
        "suffix": ".jpg",
        "platform": "local",
        "function": function,
        "ignore_principals": ["robot"],
    }))?)
}

/// A request for it; `seed` makes id and secret.
pub(crate) fn new(spec: BindingSpec, seed: u64) -> NewBinding {
    let entropy = SeededEntropy::new(seed);
    let mut random = [0; 10];
    entropy.fill(&mut random);
    NewBinding {
        id: BindingId::new(at(i64::try_from(seed).unwrap()), random),
        spec,
        secret: SigningSecret::generate(&entropy),
        by: "operator".into(),
        now: at(0),
        most: u32::MAX,
    }
}

/// Makes a binding that must be new.
pub(crate) async fn bind(
    relations: &dyn Relations,
    bucket: &str,
    function: &str,
    seed: u64,
) -> Result<Binding> {
    match relations.bind(new(spec(bucket, function)?, seed)).await? {
        Bound::Created(binding) => Ok(binding),
        other => bail!("not created: {other:?}"),
    }
}

/// A binding that must be there.
pub(crate) async fn read(relations: &dyn Relations, id: BindingId) -> Result<Binding> {
    relations.binding(id).await?.with_context(|| format!("no binding {id}"))
}

/// What a reconciler may have found.
pub(crate) fn progress(state: State, reason: Option<&str>, seconds: i64) -> Progress {
    let step = Step { name: StepName::Rule, state: StepState::Done, at: at(seconds), error: None };
    Progress { state, reason: reason.map(str::to_owned), steps: vec![step], now: at(seconds) }
}

/// Everything of a binding, for comparing.
pub(crate) fn shown(binding: &Binding) -> String {
    format!("{binding:?} {}", binding.secret.expose())
}
