//! `check`: everything that is wrong with the config and what it names, all at once.

use crate::{
    bind::Triggerd,
    config::{Config, is_name, read_token},
};
use reqwest::Method;
use rustix::fs::{Access, access};
use std::{
    env,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

/// Prints what is wrong, one line each, or that all is well.
pub(crate) async fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let mut wrong = Vec::new();
    if let Err(error) = read_token(&config.token_file) {
        wrong.push(format!("token_file: {error:#}"));
    }
    let existing = config.state_dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if !existing.is_dir() || access(existing, Access::WRITE_OK).is_err() {
        wrong.push(format!("state_dir: {} cannot be written to by this user", existing.display()));
    }
    for (name, function) in &config.functions {
        let program = function.command.first().map_or("", String::as_str);
        if !can_run(program) {
            wrong.push(format!(
                "functions.{name}: {program} is not a program that this user can run; give its full path"
            ));
        }
    }
    if let Some(triggerd) = &config.triggerd {
        if !is_name(&triggerd.platform) {
            wrong.push("triggerd.platform: a name is 1 to 64 of A-Z a-z 0-9 . _ -".to_owned());
        }
        let answer = match Triggerd::new(triggerd, None) {
            Ok(triggerd) => triggerd.call(Method::GET, "/v1/bindings", None).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = answer {
            wrong.push(format!("triggerd: {error:#}"));
        }
    }
    let mut out = io::stdout();
    for line in &wrong {
        writeln!(out, "{line}")?;
    }
    if !wrong.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    writeln!(out, "the config is right, and what it names is there")?;
    Ok(ExitCode::SUCCESS)
}

fn can_run(program: &str) -> bool {
    let runs = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return runs(Path::new(program));
    }
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| runs(&folder.join(program))))
}
