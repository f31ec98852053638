//! What is wrong, and what to do: the config, the token, the daemon, the host.

use super::*;
use crate::domain::binding::{Step, StepName, StepState};

#[tokio::test]
async fn errors_say_what_to_do() {
    let host = Host::new().await;
    let address = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    host.configure(address, OPERATOR);
    let error = host.run("bindings").await.ended.unwrap_err();
    assert!(error.contains("systemctl status triggerd") && error.contains("onnect"), "{error}");
    let config = host.folder.path().join("triggerd.toml");
    std::fs::write(&config, "[admin]\n").unwrap();
    assert!(host.run("bindings").await.ended.unwrap_err().contains("token_file"));
    std::fs::remove_file(&config).unwrap();
    assert!(host.run("bindings").await.ended.unwrap_err().contains("--config"));
}

#[tokio::test]
async fn a_wrong_token_and_a_lost_database_are_told() {
    let host = Host::new().await;
    host.world.relations.close().await;
    let error = host.run(BIND).await.ended.unwrap_err();
    assert!(error.contains("events go on firing"), "{error}");
    let address = listen(state(&host.world)).await;
    host.configure(address, "not-the-operators-token");
    let error = host.run("bindings").await.ended.unwrap_err();
    assert!(error.contains("compare the token's file") && !error.contains("not-the-operators"), "{error}");
}

#[tokio::test]
async fn run_and_migrate_refuse_a_bad_config_with_everything_that_is_wrong() {
    let host = Host::new().await;
    std::fs::write(
        host.folder.path().join("triggerd.toml"),
        "[admin]\nlisten = 3\n[nod]\n[log]\nlevle = \"x\"\n",
    )
    .unwrap();
    for command in ["run", "migrate"] {
        let error = host.run(command).await.ended.unwrap_err();
        for part in ["admin.listen", "`nod` is no section", "log.levle", "admin.token_file"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[tokio::test]
async fn check_reports_config_and_host_at_once() {
    let host = Host::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let config = format!(
        "[node]\nname = \"n\"\nstate_dir = \"{}/triggerd.toml\"\n[admin]\nlisten = \"{free}\"\ntoken = \"{OPERATOR}\"\n\
         [sources.in]\ntype = \"webhook\"\nlisten = \"{}\"\nredelivers = \"yes\"\nbogus = 1\n",
        host.folder.path().display(),
        taken.local_addr().unwrap(),
    );
    std::fs::write(host.folder.path().join("triggerd.toml"), config).unwrap();
    let ran = host.run("check").await;
    assert_eq!(ran.ended, Ok(Ended::Failed));
    for part in [
        "FAIL sources.in.bogus: `bogus` is no key",
        "FAIL sources.in.storage:",
        "warn storages:",
        "FAIL node.state_dir:",
        "is no directory",
        &format!("ok   admin.listen: {free} is free"),
        "ok   daemon: not running",
        "FAIL sources.in.listen: ",
        "in use by another process",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(ran.err.contains("to mend"), "{}", ran.err);
    let json = host.run("check --json").await.json();
    assert_eq!(json["ok"], false);
    assert!(json["findings"].as_array().unwrap().len() >= 7);
}

#[tokio::test]
async fn check_names_the_bindings_of_the_running_daemon_that_are_damaged_or_refused() {
    let host = Host::new().await;
    let bind = async |prefix: usize| {
        let event = "--bucket photos --event s3:ObjectCreated:*";
        let args = format!("bind {event} --prefix {prefix}/ --function local/thumb --wait 0s --json");
        host.run(&args).await.json()["id"].as_str().unwrap().parse::<BindingId>().unwrap()
    };
    let ran = host.run("check").await;
    assert!(ran.out.contains("ok   bindings: 0 there"), "{}", ran.out);
    let mut refused = Vec::new();
    for prefix in 0..7 {
        let id = bind(prefix).await;
        host.world.found(id, State::Rejected, "no such function", Vec::new()).await;
        refused.push(id);
    }
    let ill = bind(7).await;
    host.world.found(ill, State::Armed, "", Vec::new()).await;
    let step = Step {
        name: StepName::Rule,
        state: StepState::Failed,
        at: Timestamp::from_micros(1),
        error: Some("platform `local` refused the rule (404): there is no `ghost`".into()),
    };
    host.world.found(ill, State::Degraded, "the rule differs in: dead_letter_function", vec![step]).await;
    let ran = host.run("check").await;
    assert_eq!(ran.ended, Ok(Ended::Failed), "{}", ran.out);
    let told = |part: &str| assert!(ran.out.contains(part), "{part}: {}", ran.out);
    told(&format!("FAIL bindings.{ill}: it (local/thumb) is degraded, and its deliveries are held"));
    told("differs in: dead_letter_function; platform `local` refused the rule (404): there is no `ghost` → ");
    told(&format!(
        "warn bindings.{}: it (local/thumb) is rejected, so it never fires: no such function",
        refused.iter().map(ToString::to_string).min().unwrap()
    ));
    told("warn bindings: of further ones there are 3 rejected");
    assert_eq!(ran.out.matches(" bindings.").count(), 5, "{}", ran.out);
    let shown = host.run("bindings").await;
    assert!(shown.done().contains("dead_letter_function; platform `local` refused"), "{}", shown.out);
}

#[tokio::test]
async fn check_of_a_running_daemon_finds_its_addresses_held() {
    let host = Host::new().await;
    let ran = host.run("check").await;
    assert!(ran.out.contains("is where this triggerd listens now"), "{}", ran.out);
    assert!(ran.out.contains("ok   daemon: running, and it takes events in"), "{}", ran.out);
    host.world.sick.store(true, Ordering::Relaxed);
    let ran = host.run("check").await;
    assert!(ran.out.contains("FAIL daemon: running, and not ready (queue: 2 of 100 bytes)"), "{}", ran.out);
    host.world.sick.store(false, Ordering::Relaxed);
    // Somebody else's address is not ours because the daemon runs.
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = host.folder.path().join("triggerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let source = format!(
        "[sources.in]\ntype = \"webhook\"\nlisten = \"{}\"\ntoken = \"t\"\nredelivers = \"yes\"\n",
        foreign.local_addr().unwrap()
    );
    std::fs::write(&file, format!("{config}{source}")).unwrap();
    let ran = host.run("check").await;
    assert!(
        ran.out.contains("FAIL sources.in.listen: ") && ran.out.contains("by another process"),
        "{}",
        ran.out
    );
    std::fs::remove_file(host.folder.path().join("triggerd.toml")).unwrap();
    let ran = host.run("check").await;
    assert_eq!((ran.ended, ran.out.lines().count()), (Ok(Ended::Failed), 1), "{}", ran.out);
}
