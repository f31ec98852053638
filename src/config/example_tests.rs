//! `config.example.toml` held against the code: it shows every key there is, with its default.

use std::fmt::Debug;

use figment::{
    error::Kind,
    value::{Dict, Value},
};
use serde::de::DeserializeOwned;

use super::{tests::EXAMPLE, *};

/// The example with every commented key made a key.
fn uncommented() -> Dict {
    let key = |line: &str| {
        line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')).map(str::to_owned)
    };
    let text: Vec<String> =
        EXAMPLE.lines().map(|line| key(line).unwrap_or_else(|| line.to_owned())).collect();
    let table: toml::Table = toml::from_str(&text.join("\n")).unwrap();
    Value::serialize(table).unwrap().into_dict().unwrap()
}

fn read<T: DeserializeOwned>(keys: &Dict) -> Result<T, Box<figment::Error>> {
    Value::from(keys.clone()).deserialize().map_err(Box::new)
}

/// Holds one section of the example against its struct, in both directions. `free` are keys whose default depends on
/// the host.
fn hold<T: DeserializeOwned + Debug>(section: &str, mut keys: Dict, free: &[&str]) {
    keys.remove("type");
    read::<T>(&keys).unwrap_or_else(|error| panic!("[{section}] of the example is refused: {error}"));
    let mut odd = keys.clone();
    odd.insert("no such key".into(), Value::from(true));
    let Kind::UnknownField(_, fields) = read::<T>(&odd).unwrap_err().kind else {
        panic!("[{section}] accepts unknown keys");
    };
    let missing: Vec<_> = fields.iter().filter(|field| !keys.contains_key(**field)).collect();
    assert!(missing.is_empty(), "[{section}] of the example lacks {missing:?}");
    let required = |key: &String| {
        let mut without = keys.clone();
        without.remove(key);
        read::<T>(&without).is_err()
    };
    let least: Dict = keys
        .iter()
        .filter(|(key, _)| required(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let defaults = format!("{:?}", read::<T>(&least).unwrap());
    for (key, value) in
        keys.iter().filter(|(key, _)| !least.contains_key(*key) && !free.contains(&key.as_str()))
    {
        let mut with = least.clone();
        with.insert(key.clone(), value.clone());
        let same = format!("{:?}", read::<T>(&with).unwrap()) == defaults;
        let none = defaults.contains(&format!("{key}: None"));
        assert!(same || none, "[{section}] {key} of the example is not the default: {defaults}");
    }
}

#[test]
fn the_example_holds_every_key_with_its_default() {
    let mut sections = uncommented();
    let mut take = |name: &str| {
        let (section, entry) = name.split_once('.').unwrap_or((name, ""));
        let keys = sections.get(section).unwrap_or_else(|| panic!("no [{section}]")).clone();
        if entry.is_empty() {
            sections.remove(section);
            return keys.into_dict().unwrap();
        }
        keys.find(entry).and_then(Value::into_dict).unwrap_or_else(|| panic!("no [{name}]"))
    };
    hold::<storages::StorageConfig>("storages.main", take("storages.main"), &[]);
    hold::<sources::WebhookConfig>("sources.minio", take("sources.minio"), &[]);
    hold::<sources::MqttConfig>("sources.broker", take("sources.broker"), &[]);
    hold::<sources::BoundConfig>(
        "bound",
        take("sources.broker").remove("bound").unwrap().into_dict().unwrap(),
        &[],
    );
    hold::<platforms::PlatformConfig>("platforms.local", take("platforms.local"), &[]);
    for name in ["storages", "sources", "platforms"] {
        take(name);
    }
    hold::<node::NodeConfig>("node", take("node"), &["name"]);
    hold::<relations::RelationsConfig>("relations", take("relations"), &[]);
    hold::<queue::QueueConfig>("queue", take("queue"), &[]);
    hold::<admin::AdminConfig>("admin", take("admin"), &[]);
    hold::<callbacks::CallbacksConfig>("callbacks", take("callbacks"), &[]);
    hold::<bindings::BindingsConfig>("bindings", take("bindings"), &[]);
    hold::<dispatch::DispatchConfig>("dispatch", take("dispatch"), &[]);
    hold::<dead_letters::DeadLettersConfig>("dead_letters", take("dead_letters"), &[]);
    hold::<log::LogConfig>("log", take("log"), &[]);
    assert!(sections.is_empty(), "sections that the code does not know: {:?}", sections.keys());
}
