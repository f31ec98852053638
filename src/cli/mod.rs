//! The command line.
//!
//! While the daemon runs it owns the state directory, so every command that shows or changes something goes through its
//! admin API, with the address and the operator's token that the config names. `run`, `check` and `migrate` work on the
//! config itself, `queue` on the state directory of a daemon that does not run.
//!
//! Exit codes: 0 done; 1 failed; 2 the command line is wrong; 3 asked for, and not done when the wait was over.
//! Output goes to standard output, hints and errors to standard error; with `--json` the output is the API's own JSON.

mod args;
mod bind;
mod check;
mod dead_letters;
mod functions;
mod output;
mod quarantine;
mod queue;
mod show;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::{
    client::Client,
    config::{self, Config, Inputs},
};

use args::{Cli, Command};
use output::Terminal;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    Failed,
    StillWaiting,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        Self::from(match ended {
            Ended::Done => 0,
            Ended::Failed => 1,
            Ended::StillWaiting => 3,
        })
    }
}

/// The whole program: reads the arguments, does what they say, says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse()
        .unwrap_or_else(|error| args::with_the_commands_usage(error, std::env::args_os()).exit());
    let mut terminal = Terminal::standard(cli.json);
    let inputs = Inputs::of_process(cli.config);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return failed(&mut terminal, &anyhow::Error::from(error).context("no threads can be started"));
        }
    };
    match runtime.block_on(execute(cli.command, &inputs, &mut terminal)) {
        Ok(ended) => ended.into(),
        Err(error) => failed(&mut terminal, &error),
    }
}

fn failed(terminal: &mut Terminal, error: &anyhow::Error) -> ExitCode {
    // When not even this can be written, the exit code still says it.
    let _unseen: std::io::Result<()> = terminal.aside(format!("error: {error:#}"));
    Ended::Failed.into()
}

async fn execute(command: Command, inputs: &Inputs, terminal: &mut Terminal) -> anyhow::Result<Ended> {
    match command {
        Command::Run => crate::app::run(usable(inputs, terminal)?).await.map(|()| Ended::Done),
        Command::Migrate => {
            crate::app::migrate(usable(inputs, terminal)?).await?;
            terminal.line("the databases have the schema of this version")?;
            Ok(Ended::Done)
        }
        Command::Check => check::check(inputs, terminal).await,
        Command::Bind(args) => bind::bind(&client(inputs)?, args, terminal).await,
        Command::Unbind(args) => bind::unbind(&client(inputs)?, args, terminal).await,
        Command::Bindings(args) => show::bindings(&client(inputs)?, args, terminal).await,
        Command::DeadLetters(args) => dead_letters::dead_letters(&client(inputs)?, args, terminal).await,
        Command::Queue(args) => queue::queue(usable(inputs, terminal)?, args, terminal).await,
        Command::Quarantine(args) => quarantine::quarantine(&client(inputs)?, args, terminal).await,
        Command::Match(args) => show::matching(&client(inputs)?, args, terminal).await,
        Command::Outcomes(args) => show::outcomes(&client(inputs)?, args, terminal).await,
        Command::Functions => functions::functions(&client(inputs)?, terminal).await,
        Command::Nodes(args) => show::nodes(&client(inputs)?, args, terminal).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "triggerd", terminal.raw());
            Ok(Ended::Done)
        }
    }
}

/// The configuration, its warnings said.
fn usable(inputs: &Inputs, terminal: &mut Terminal) -> anyhow::Result<Config> {
    let (config, warnings) = config::load(inputs).usable()?;
    for warning in warnings {
        terminal.aside(format!("warning: {warning}"))?;
    }
    Ok(config)
}

/// A client of the daemon that this config is for.
fn client(inputs: &Inputs) -> anyhow::Result<Client> {
    let admin = config::load_admin(inputs)?;
    let url = admin.local_url();
    let token = admin.token.with_context(|| {
        let file = inputs.file.display();
        format!("{file} names no operator's token; set `token_file` in [admin], and run this as a user who can read it")
    })?;
    Ok(Client::new(&url, Some(token))?)
}
