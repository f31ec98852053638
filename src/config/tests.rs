//! The configuration as a whole: what is accepted, what is refused and how.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use super::*;

pub(super) const EXAMPLE: &str = include_str!("../../config.example.toml");

/// A folder with a config file and the files of secrets that the example names.
struct Place {
    folder: TempDir,
    env: BTreeMap<String, String>,
}

impl Place {
    fn new(config: &str) -> Self {
        let place = Self { folder: TempDir::new().unwrap(), env: BTreeMap::new() };
        for name in ["operator.token", "minio.secret", "minio.token", "platform.token"] {
            place.write(name, &format!("secret-of-{name}-0123456789\n"), 0o640);
        }
        place.write("triggerd.toml", config, 0o640);
        place
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    fn load(&self) -> Loaded {
        load(&Inputs { file: self.folder.path().join("triggerd.toml"), env: self.env.clone() })
    }

    /// `severity place: what; remedy` of every problem.
    fn problems(&self) -> Vec<String> {
        let shown = |problem: &Problem| format!("{:?} {problem}", problem.severity);
        self.load().problems.iter().map(shown).collect()
    }
}

fn problems(config: &str) -> Vec<String> {
    Place::new(config).problems()
}

/// The example with one text replaced by another.
fn example(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "the example does not contain {from}");
    EXAMPLE.replacen(from, to, 1)
}

#[track_caller]
fn has(problems: &[String], severity: &str, parts: &[&str]) {
    let fits = |line: &&String| line.starts_with(severity) && parts.iter().all(|part| line.contains(part));
    assert!(problems.iter().any(|line| fits(&line)), "no {severity} with {parts:?} among {problems:#?}");
}

#[test]
fn example_is_accepted_without_a_word() {
    let place = Place::new(EXAMPLE);
    assert_eq!(place.problems(), Vec::<String>::new());
    let (config, _) = place.load().usable().unwrap();
    let token = config.admin.token.unwrap();
    assert_eq!(token.expose_secret(), "secret-of-operator.token-0123456789");
    assert_eq!(config.sources.len(), 1);
    assert!(!config.node.name.is_empty());
}

#[test]
fn unknown_keys_and_sections_are_named_all_at_once() {
    let config = example("[queue]", "[queue]\nmax_byte = 3\nshare = 1").replacen(
        "redelivers = \"yes\"",
        "redelivers = \"yes\"\ntopic = \"x\"",
        1,
    ) + "\n[sorces.x]\ntype = \"mqtt\"\n";
    let problems = problems(&config);
    has(&problems, "Error", &["queue.max_byte:", "`max_byte` is no key of [queue]", "max_bytes"]);
    has(&problems, "Error", &["queue.share"]);
    // A key of the other type of source.
    has(&problems, "Error", &["sources.minio.topic", "no key of [sources.minio]"]);
    has(&problems, "Error", &["`sorces` is no section"]);
    assert_eq!(problems.len(), 4, "{problems:#?}");
}

#[test]
fn a_source_refuses_unknown_keys_through_its_enum_too() {
    // The daemon reads sources by their type; whoever deserializes the enum itself is protected as well.
    let toml = "type = \"webhook\"\nlisten = \"127.0.0.1:1\"\nredelivers = \"no\"\nbogus = 1";
    let error = toml::from_str::<sources::SourceConfig>(toml).unwrap_err();
    assert!(error.message().contains("unknown field `bogus`"), "{error}");
}

#[test]
fn wrong_types_and_missing_keys_are_reported_together_without_values() {
    let config = example(
        "#token = \"write-a-long-random-text-here\"\ntoken_file = \"operator.token\"",
        "token = 8472648",
    )
    .replacen("#max_concurrency = 512", "max_concurrency = \"many\"", 1)
    .replacen("driver = \"rules\"", "driver = \"lambada\"", 1)
    .replacen("listen = \"127.0.0.1:8370\"", "#gone", 1)
    .replacen("#[sources.minio.bound]\n#messages = 10000", "[sources.minio.bound]\nmessages = -1", 1);
    let problems = problems(&config);
    has(&problems, "Error", &["admin.token:", "a number was found", "in quotes"]);
    has(&problems, "Error", &["dispatch.max_concurrency:", "a text was found"]);
    has(&problems, "Error", &["platforms.local.driver", "`lambada`", "rules"]);
    has(&problems, "Error", &["sources.minio.listen:", "missing"]);
    has(&problems, "Error", &["sources.minio.bound.messages"]);
    assert!(!problems.iter().any(|line| line.contains("8472648")), "{problems:#?}");
}

#[test]
fn a_number_is_not_taken_for_a_word() {
    let source =
        "\n[sources.b]\ntype = \"mqtt\"\nbroker = \"mqtt://localhost\"\ntopic = \"t\"\nversion = 1\n";
    let config =
        example("driver = \"rules\"", "driver = 0").replacen("redelivers = \"yes\"", "redelivers = 1", 1);
    let problems = problems(&format!("{config}{source}"));
    for place in ["platforms.local.driver", "sources.minio.redelivers", "sources.b.version"] {
        has(&problems, "Error", &[place, "a number was found", "in quotes"]);
    }
    assert_eq!(problems.len(), 3, "{problems:#?}");
}

#[test]
fn broken_toml_names_its_line_and_not_what_is_on_it() {
    let problems = problems("[admin]\ntoken = \"hunter2hunter2hunter2\nlisten = 3\n");
    has(&problems, "Error", &["triggerd.toml", "line 2 is no TOML"]);
    assert!(!problems[0].contains("hunter2"), "{problems:?}");
}

#[test]
fn a_missing_file_says_how_to_name_one() {
    let loaded = load(&Inputs { file: "/nowhere/triggerd.toml".into(), env: BTreeMap::new() });
    let error = loaded.usable().unwrap_err().to_string();
    assert!(error.contains("/nowhere/triggerd.toml") && error.contains("--config"), "{error}");
}

#[test]
fn environment_overrides_the_file_and_may_hold_lists_and_numbers() {
    let place = Place::new(EXAMPLE)
        .env("TRIGGERD_ADMIN__LISTEN", "127.0.0.1:1234")
        .env("TRIGGERD_DISPATCH__MAX_CONCURRENCY", "7")
        .env("TRIGGERD_RELATIONS__MIGRATE_AT_START", "false")
        .env("TRIGGERD_SOURCES__MINIO__BOUND__MESSAGES", "99")
        .env("TRIGGERD_STORAGES__MAIN__IGNORE_PRINCIPALS", r#"["functions", "etl"]"#)
        .env("TRIGGERD_PLATFORMS__LOCAL__API_TOKEN", "00012345678901234567890")
        .env("TRIGGERD_CONFIG", "/ignored")
        .env("TRIGGERD_PLATFORM_CONFIG", "/the/reference/platforms.toml");
    let (config, warnings) = place.load().usable().unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((config.admin.listen.port(), config.dispatch.max_concurrency), (1234, 7));
    assert!(!config.relations.migrate_at_start);
    assert_eq!(config.storages["main"].ignore_principals, ["functions", "etl"]);
    // A secret of digits stays the text that it is.
    let api_token = config.platforms["local"].api_token.as_ref().map(SecretString::expose_secret);
    assert_eq!(api_token, Some("00012345678901234567890"));
    let sources::SourceConfig::Webhook(webhook) = &config.sources["minio"] else { panic!("no webhook") };
    assert_eq!(webhook.bound.messages, 99);
}

#[test]
fn environment_that_names_no_key_is_told() {
    let place = Place::new(EXAMPLE)
        .env("TRIGGERD_LOG_LEVEL", "debug")
        .env("TRIGGERD_LOG__LEVLE", "debug")
        .env("TRIGGERD_DISPATCH__DRAIN_S", "soon");
    let problems = place.problems();
    has(&problems, "Warning", &["TRIGGERD_LOG_LEVEL", "two underscores"]);
    has(&problems, "Error", &["log.levle", "environment"]);
    has(&problems, "Error", &["dispatch.drain_s: a whole number of 0 or more is expected", "environment"]);
}

#[test]
fn secret_files_are_read_from_credentials_first() {
    let place = Place::new(EXAMPLE);
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("operator.token"), "from-systemd-0123456789\r\n").unwrap();
    let place = place.env("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap());
    let (config, warnings) = place.load().usable().unwrap();
    assert_eq!(config.admin.token.unwrap().expose_secret(), "from-systemd-0123456789");
    // Systemd's own files are not ours to complain of, whatever their mode.
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn certificates_are_found_beside_the_config_file() {
    let source =
        "\n[sources.tls]\ntype = \"mqtt\"\nbroker = \"mqtts://b\"\ntopic = \"t\"\nca_file = \"ca.pem\"\n";
    let place = Place::new(&format!("{EXAMPLE}{source}"));
    let path = place.write("ca.pem", "x", 0o644);
    let (config, _) = place.load().usable().unwrap();
    let sources::SourceConfig::Mqtt(mqtt) = &config.sources["tls"] else { panic!("no mqtt") };
    assert_eq!(mqtt.ca_file.as_ref(), Some(&path));
}

#[test]
fn bad_secret_files_are_told_apart() {
    let config = example(
        "#token = \"write-a-long-random-text-here\"\ntoken_file = \"operator.token\"",
        "token = \"0123456789abcdef0\"\ntoken_file = \"operator.token\"",
    )
    .replacen("minio.secret", "missing.secret", 1)
    .replacen("#api_token_file = \"platform-api.token\"", "api_token_file = \"open.token\"", 1);
    let place = Place::new(&config);
    place.write("minio.token", "\n", 0o640);
    place.write("open.token", "0123456789abcdef", 0o644);
    let problems = place.problems();
    has(&problems, "Error", &["admin:", "both `token` and `token_file`"]);
    has(&problems, "Error", &["storages.main.secret_key_file", "missing.secret", "cannot be read"]);
    has(&problems, "Error", &["sources.minio.token_file", "is empty"]);
    has(&problems, "Warning", &["platforms.local.api_token_file", "open.token", "chmod 640"]);
    assert_eq!(problems.len(), 4, "{problems:#?}");
}

#[test]
fn a_config_file_with_a_secret_that_everybody_can_read_is_warned_of() {
    let place = Place::new(&example(
        "#secret_key = \"PASSWORD\"\nsecret_key_file = \"minio.secret\"",
        "secret_key = \"PASSWORD\"",
    ));
    assert!(place.problems().is_empty());
    let path = place.folder.path().join("triggerd.toml");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    has(&place.problems(), "Warning", &["triggerd.toml", "every user of this host can read it"]);
}

#[test]
fn a_twin_without_a_second_target_is_refused() {
    let fast = "\n[sources.fast]\ntype = \"webhook\"\nlisten = \"127.0.0.1:8371\"\nredelivers = \"twin\"\ntoken_file = \"minio.token\"\n";
    let one = EXAMPLE.to_owned() + fast;
    has(
        &problems(&one),
        "Error",
        &["storages.main.targets", "`fast` takes a twin", "arn:minio:sqs::TRIGGERD:webhook"],
    );
    let two = one.replacen("#fast_targets = []", "fast_targets = [\"arn:minio:sqs::FAST:webhook\"]", 1);
    assert_eq!(problems(&two), Vec::<String>::new());
}

#[test]
fn contradictions_between_sections_are_found() {
    let second = "\n[sources.fast]\ntype = \"webhook\"\nstorage = \"other\"\nlisten = \"0.0.0.0:8370\"\nredelivers = \"twin\"\n";
    let config = example("#url = \"mysql", "url = \"mysql")
        .replacen("db.example.com/triggerd?ssl-mode=VERIFY_IDENTITY", "db.example.com/triggerd", 1)
        .replacen("#listen = \"127.0.0.1:8360\"", "listen = \"0.0.0.0:8360\"", 1)
        .replacen("targets = [\"arn:minio:sqs::TRIGGERD:webhook\"]", "targets = []", 1)
        .replacen("#ack_within_ms = 2\n", "ack_within_ms = 60000\n", 1)
        .replacen("url = \"http://127.0.0.1:8700\"", "url = \"http://faas.example.com\"", 1)
        + second;
    let problems = problems(&config);
    has(&problems, "Warning", &["relations.url", "TLS is not required"]);
    has(&problems, "Warning", &["admin.listen", "open to the network"]);
    has(&problems, "Warning", &["storages.main.targets", "without a target"]);
    has(&problems, "Error", &["sources.minio.ack_within_ms", "MinIO waits"]);
    has(&problems, "Error", &["sources.minio.listen", "sources.fast.listen too"]);
    has(&problems, "Error", &["sources.fast.storage", "no storage `other`", "main"]);
    has(&problems, "Error", &["sources.fast.redelivers", "no other source of this storage"]);
    has(&problems, "Warning", &["sources.fast.token_file"]);
    has(&problems, "Warning", &["callbacks:", "local is on another host"]);
    has(&problems, "Warning", &["platforms.local.url", "plain text"]);
    assert_eq!(problems.len(), 10, "{problems:#?}");
}

#[test]
fn what_is_expected_is_said_in_words_of_the_config() {
    let negative = problems(&example("#drain_s = 20", "drain_s = -1"));
    has(&negative, "Error", &["dispatch.drain_s", "out of range", "choose a whole number of 0 or more"]);
    let large = problems(&example("#max_bindings = 10000", "max_bindings = 4294967296"));
    let range = "choose a whole number from 0 to 4294967295";
    has(&large, "Error", &["platforms.local.max_bindings", "out of range", range]);
    for (section, url, likely) in
        [("storages.main.endpoint", "9000", ":9000"), ("platforms.local.url", "8700", ":8700")]
    {
        let bare =
            problems(&example(&format!("\"http://127.0.0.1:{url}\""), &format!("\"127.0.0.1:{url}\"")));
        has(&bare, "Error", &[section, "no http or https URL", likely]);
    }
}

#[test]
fn waiting_for_a_function_has_no_effect_where_nothing_is_redelivered() {
    let config = example("redelivers = \"yes\"", "redelivers = \"no\"").replacen(
        "#ack_within_ms = 2\n",
        "ack_within_ms = 5000\n",
        1,
    );
    has(&problems(&config), "Warning", &["sources.minio.ack_within_ms", "no effect"]);
}

#[test]
fn numbers_that_cannot_work_are_refused() {
    let config = example("#max_bytes = 2147483648", "max_bytes = 1000")
        .replacen("#function_share = 0.25", "function_share = 1.5", 1)
        .replacen("#max_attempts_kept = 20", "max_attempts_kept = 0", 1)
        .replacen("#inspect_every_s = 300", "inspect_every_s = 0", 1)
        .replacen("#max_concurrency = 512", "max_concurrency = 0", 1)
        .replacen("#drain_s = 20", "drain_s = 600", 1)
        .replacen("#level = \"info\"", "level = \"=loud=\"", 1)
        .replacen("#max_body = 1048576", "max_body = 100000000", 1)
        .replacen("#name = \"storage1\"\n", "name = \"two words\"\n", 1)
        .replacen("#state_dir = \"/var/lib/triggerd\"", "state_dir = \"state\"", 1);
    let problems = problems(&config);
    for place in [
        "queue.max_bytes",
        "queue.function_share",
        "queue.dead_letter_reserve",
        "queue.max_attempts_kept",
        "bindings.inspect_every_s",
        "dispatch.max_concurrency",
        "log.level",
        "sources.minio.bound.bytes",
        "node.name",
        "node.state_dir",
    ] {
        has(&problems, "Error", &[&format!("{place}:")]);
    }
    has(&problems, "Warning", &["dispatch.drain_s"]);
    assert_eq!(problems.len(), 11, "{problems:#?}");
}

#[test]
fn mqtt_sections_are_held_against_themselves() {
    let source =
        "\n[sources.NAME]\ntype = \"mqtt\"\nbroker = \"BROKER\"\ntopic = \"minio\"\nclient_id = \"same\"\n";
    let one = source.replace("NAME", "one").replace("BROKER", "mqtt://broker.example.com")
        + "password = \"x\"\ncert_file = \"/nowhere.pem\"\nkeep_alive_s = 1\nversion = \"3.1.1\"\nreceive_maximum = 5\n";
    let two = source.replace("NAME", "two").replace("BROKER", "mqtt://broker.example.com");
    let three =
        source.replace("NAME", "three").replace("BROKER", "tcp://broker").replace("\"minio\"", "\"a#b\"");
    let problems = problems(&format!("{EXAMPLE}{one}{two}{three}"));
    has(&problems, "Warning", &["sources.one.broker", "plain text"]);
    has(&problems, "Error", &["sources.one.broker", "certificates have no effect"]);
    has(&problems, "Error", &["sources.one.cert_file", "belong together"]);
    has(&problems, "Error", &["sources.one.cert_file", "cannot be read"]);
    has(&problems, "Error", &["sources.one.username"]);
    has(&problems, "Error", &["sources.one.keep_alive_s"]);
    has(&problems, "Warning", &["sources.one.receive_maximum", "no effect"]);
    has(&problems, "Error", &["sources.two.client_id", "`one`"]);
    has(&problems, "Warning", &["sources.two.topic", "twice"]);
    has(&problems, "Error", &["sources.three.broker"]);
    has(&problems, "Error", &["sources.three.topic", "no topic filter"]);
}

#[test]
fn callbacks_need_a_public_url_and_tokens_must_differ() {
    let config =
        example("#[callbacks]\n#listen = \"0.0.0.0:8361\"", "[callbacks]\nlisten = \"0.0.0.0:8361\"")
            .replacen("#api_token_file = \"platform-api.token\"", "api_token_file = \"operator.token\"", 1);
    let problems = problems(&config);
    has(&problems, "Error", &["callbacks.public_url", "missing"]);
    has(&problems, "Error", &["platforms.local.api_token", "same token as admin.token"]);
}

#[test]
fn several_storages_must_be_named_by_their_sources() {
    let second = "\n[storages.second]\nendpoint = \"http://127.0.0.1:9100/x\"\naccess_key = \"a\"\nsecret_key = \"b\"\ntargets = [\"arn:aws:sqs:x\"]\n";
    let problems = problems(&format!("{EXAMPLE}{second}"));
    has(&problems, "Error", &["sources.minio.storage", "2 storages"]);
    has(&problems, "Error", &["storages.second.targets", "arn:aws:sqs:x"]);
    has(&problems, "Error", &["storages.second.endpoint", "no path"]);
}

#[test]
fn no_secret_shows_in_debug_output() {
    let place = Place::new(EXAMPLE).env("TRIGGERD_RELATIONS__URL", "mysql://u:hunter2hunter2@localhost/db");
    let shown = format!("{:?}", place.load());
    assert!(!shown.contains("hunter2") && !shown.contains("secret-of-"), "{shown}");
}

#[test]
fn the_admin_section_alone_needs_nothing_of_the_others() {
    let place = Place::new(&format!("{EXAMPLE}\n[relations2]\n"));
    fs::remove_file(place.folder.path().join("minio.secret")).unwrap();
    let inputs = Inputs { file: place.folder.path().join("triggerd.toml"), env: BTreeMap::new() };
    let admin = load_admin(&inputs).unwrap();
    assert_eq!(admin.local_url(), "http://127.0.0.1:8360");
    assert!(admin.token.is_some());
}
