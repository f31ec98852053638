//! Real MySQL and MariaDB servers.
//!
//! A start takes seconds and 200 MB, so one server of each kind is started when a test first asks for it, and each test
//! gets an empty database of its own in it ([`shared`]). A test that stops the server midway starts one for itself
//! ([`SqlServer::start`]). The data folder is a copy of one that `tests/servers/install` initialised.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use sqlx::mysql::MySqlConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, MySqlConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::installed::{self, Server};
use super::ports::{free_port, on_free_ports};
use super::process::{Halt, Process, restartable};

const USER: &str = "triggerd";
const PASSWORD: &str = "p4ssword-of-the-tests";
const READY_LIMIT: Duration = Duration::from_mins(1);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    MySql,
    MariaDb,
}

impl fmt::Display for Engine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::MySql => "MySQL",
            Self::MariaDb => "MariaDB",
        })
    }
}

/// An empty database for one test. It goes with its server.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    /// `mysql://user:password@127.0.0.1:port/name`, with TLS where the server insists on it.
    pub(crate) url: String,
}

impl Database {
    /// A connection to it.
    pub(crate) async fn connect(&self) -> Result<MySqlConnection> {
        Ok(MySqlConnectOptions::from_str(&self.url)?.disable_statement_logging().connect().await?)
    }
}

type Slot = Mutex<Option<Result<SqlServer, String>>>;
static MYSQL: Slot = Mutex::const_new(None);
static MARIADB: Slot = Mutex::const_new(None);

/// An empty database in this process's one server of that kind, which is started if it does not run yet.
pub(crate) async fn shared(engine: Engine) -> Result<Database> {
    let mut slot = match engine {
        Engine::MySql => &MYSQL,
        Engine::MariaDb => &MARIADB,
    }
    .lock()
    .await;
    // A server that does not start is not tried again for every test.
    let server = match slot.take() {
        Some(outcome) => outcome,
        None => SqlServer::start(engine).await.map_err(|error| format!("{error:#}")),
    };
    slot.insert(server).as_ref().map_err(|error| anyhow!(error.clone()))?.create_database().await
}

/// Ends the shared servers. For the end of the run: statics are not dropped.
pub(crate) fn stop_shared() {
    for slot in [&MYSQL, &MARIADB] {
        drop(slot.blocking_lock().take());
    }
}

/// A MySQL or MariaDB, which keeps its data and its port over a restart.
#[derive(Debug)]
pub(crate) struct SqlServer {
    engine: Engine,
    // Before its folder, which could not be removed while it writes there: fields are dropped in this order.
    process: Option<Process>,
    folder: TempDir,
    program: PathBuf,
    port: u16,
    databases: AtomicU32,
}

restartable!(SqlServer, |server| server.engine);

impl SqlServer {
    /// Starts one of the test's own and returns when it answers a query.
    pub(crate) async fn start(engine: Engine) -> Result<Self> {
        let (server, name) = match engine {
            Engine::MySql => (Server::MySql, "mysqld"),
            Engine::MariaDb => (Server::MariaDb, "mariadbd"),
        };
        let program = installed::path(server, name)?;
        let fresh =
            installed::path(server, if engine == Engine::MySql { "mysql_data" } else { "mariadb_data" })?;
        on_free_ports(async || {
            let folder = tempfile::Builder::new().prefix("triggerd-sql-").tempdir()?;
            let copied = Command::new("cp").arg("-a").arg(&fresh).arg(folder.path().join("data")).status()?;
            if !copied.success() {
                bail!("the data folder {} was not copied: {copied}", fresh.display());
            }
            let (program, port) = (program.clone(), free_port()?);
            let mut server =
                Self { engine, folder, program, port, process: None, databases: AtomicU32::new(0) };
            server.start_again().await?;
            Ok(server)
        })
        .await
    }

    /// Starts it after [`stop`](Self::stop) or [`kill9`](Self::kill9).
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("this {} runs already", self.engine);
        }
        let mut process = Process::start(&self.engine.to_string(), &self.command()?, &self.log())?;
        process
            .gate(READY_LIMIT, async || {
                let mut connection = self.database("mysql").connect().await?;
                sqlx::query("SELECT 1").execute(&mut connection).await?;
                connection.close().await?;
                Ok(())
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// An empty database.
    pub(crate) async fn create_database(&self) -> Result<Database> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.database("mysql").connect().await?;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await?;
        connection.close().await?;
        Ok(self.database(&name))
    }

    fn database(&self, name: &str) -> Database {
        // The password's first use goes through its SHA-2 handshake, which MySQL does not do over plain TCP without RSA.
        let tls = match self.engine {
            Engine::MySql => "REQUIRED",
            Engine::MariaDb => "DISABLED",
        };
        Database { url: format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{}/{name}?ssl-mode={tls}", self.port) }
    }

    fn command(&self) -> Result<Command> {
        let folder = self.folder.path();
        let at_start = folder.join("at-start.sql");
        std::fs::write(
            &at_start,
            format!(
                "CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO '{USER}'@'%';\n"
            ),
        )?;
        let mut command = Command::new(&self.program);
        if self.engine == Engine::MariaDb {
            // It counts only as the first argument; the launcher of MySQL gives it.
            command.arg("--no-defaults");
        }
        if rustix::process::geteuid().is_root() {
            command.arg("--user=root");
        }
        let option = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        command
            .arg(option("datadir", folder.join("data")))
            .arg(option("socket", folder.join("s.sock")))
            .arg(option("pid-file", folder.join("pid")))
            .arg(option("init-file", at_start))
            .arg(format!("--port={}", self.port))
            .args([
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--max-connections=500",
                "--skip-log-bin",
            ]);
        if self.engine == Engine::MySql {
            command.args(["--mysqlx=OFF", "--secure-file-priv=NULL"]);
        }
        Ok(command)
    }
}
