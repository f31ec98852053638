//! Which rules a bucket's notification configuration must hold for our bindings. Pure.
//!
//! **Ours** are the rules whose id begins with [`OURS`]; everything else belongs to others and stays exactly as it
//! was, where it was. Two installations of triggerd with relations of their own must not share a bucket: each would
//! take the other's rules for its own leftovers.
//!
//! **A superset, never less.** What matches is decided by the catalog; a bucket rule only has to let everything
//! through that a binding could want. MinIO's pattern is `prefix*suffix`, in which `*` and `?` of prefix and suffix
//! are wildcards that cannot be escaped, and prefix and suffix may not overlap in the key. Ours are literal, may
//! overlap, or are globs. So a prefix is cut before the first character that MinIO or XML would not take literally,
//! and a suffix is used only whole, and only if it cannot overlap with that prefix.
//!
//! **Few.** Bindings with the same prefix and suffix share a rule with the union of their events; a rule that
//! others cover is left out; if more than [`MAX_RULES`] are left, one rule without a filter takes their place.
//! There is one rule for each target. The fast legs of twin targets ([`Leg`]) get rules for the bindings that ask for
//! both legs, and no others. Rules to one target may overlap: MinIO sends an
//! event to a target once.
//!
//! **Stable.** A rule's id is a hash of its content, so equal bindings give equal configurations on every daemon,
//! and a configuration is in step when it holds exactly our rules, wherever they stand between the others'. The
//! server may have filled in the region of a target's ARN; an empty region equals any.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::{
    bucket::{BucketRule, Configuration},
    domain::{
        event_name::EventSet,
        filter::{Filter, KeyFilter},
    },
};

/// What the ids of our rules begin with.
pub const OURS: &str = "triggerd-";

/// Most rules for one target, before one without a filter takes their place.
pub const MAX_RULES: usize = 256;

/// More filters than this are not even compared with each other.
const MAX_COMPARED: usize = 2_000;

/// Targets that are alike, and what must come by each of them.
#[derive(Debug, Clone)]
pub struct Leg<'a> {
    /// Their ARNs.
    pub targets: &'a [String],
    /// The filters of the bindings that want them.
    pub filters: Vec<&'a Filter>,
}

/// The configuration that the bucket must get, or none when it is in step.
pub fn plan(current: &Configuration, legs: &[Leg<'_>]) -> Option<Configuration> {
    let needed: Vec<BucketRule> =
        legs.iter().flat_map(|leg| needed(leg.filters.iter().copied(), leg.targets)).collect();
    let mut missing: Vec<&BucketRule> = needed.iter().collect();
    let mut rules = Vec::with_capacity(current.rules.len() + needed.len());
    for rule in &current.rules {
        if !is_ours(rule) {
            rules.push(rule.clone());
        } else if let Some(at) = missing.iter().position(|needed| same(needed, rule)) {
            missing.swap_remove(at);
            rules.push(rule.clone());
        }
    }
    if missing.is_empty() && rules.len() == current.rules.len() {
        return None;
    }
    rules.extend(needed.iter().filter(|rule| missing.contains(rule)).cloned());
    Some(Configuration { rules, others: current.others.clone() })
}

/// Whether rules of ours in `current` let through, to every target, all that this filter can want.
pub fn carries(current: &Configuration, filter: &Filter, targets: &[String]) -> bool {
    let wanted = Coarse::of(&filter.keys);
    let value = |rule: &BucketRule, name: &str| {
        rule.filters
            .iter()
            .find(|(filter, _)| filter == name)
            .map(|(_, value)| value.clone())
            .unwrap_or_default()
    };
    targets.iter().all(|target| {
        let ours = current.rules.iter().filter(|rule| is_ours(rule) && same_target(target, &rule.target));
        let wider = ours.filter(|rule| {
            Coarse { prefix: value(rule, "prefix"), suffix: value(rule, "suffix") }.covers(&wanted)
        });
        let mask =
            wider.fold(0, |all, rule| all | EventSet::parse(&rule.events).map_or(0, |events| events.mask()));
        filter.events.mask() & !mask == 0
    })
}

/// Whether a rule is one of ours.
pub fn is_ours(rule: &BucketRule) -> bool {
    rule.id.as_deref().is_some_and(|id| id.starts_with(OURS))
}

/// Other people's rules that were in `before` and are not in `after`.
pub fn vanished<'a>(before: &'a [BucketRule], after: &Configuration) -> Vec<&'a BucketRule> {
    before.iter().filter(|rule| !is_ours(rule) && !after.rules.contains(rule)).collect()
}

/// The rules of ours that these filters need, in a stable order.
fn needed<'a>(filters: impl IntoIterator<Item = &'a Filter>, targets: &[String]) -> Vec<BucketRule> {
    let coarse = reduce(filters);
    let targets: BTreeSet<&str> = targets.iter().map(String::as_str).collect();
    targets.iter().flat_map(|target| coarse.iter().map(|(keys, mask)| rule(target, keys, *mask))).collect()
}

/// What a bucket rule can say about keys: they begin and end with these literally, without overlap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Coarse {
    prefix: String,
    suffix: String,
}

impl Coarse {
    fn of(keys: &KeyFilter) -> Self {
        let whole = keys.literal_prefix();
        let prefix = whole.find(is_special).map_or(whole, |end| &whole[..end]);
        let suffix = match keys {
            KeyFilter::Affix { suffix, .. } if !suffix.contains(is_special) && !overlap(prefix, suffix) => {
                suffix
            }
            _ => "",
        };
        Self { prefix: prefix.to_owned(), suffix: suffix.to_owned() }
    }

    /// Whether every key that passes `other` passes this.
    fn covers(&self, other: &Self) -> bool {
        other.prefix.starts_with(&self.prefix) && other.suffix.ends_with(&self.suffix)
    }
}

/// A wildcard of MinIO, or what XML cannot carry.
fn is_special(c: char) -> bool {
    matches!(c, '*' | '?' | '\u{fffe}' | '\u{ffff}') || c.is_control()
}

/// Whether a key can begin with `prefix` and end with `suffix` while being shorter than both together.
fn overlap(prefix: &str, suffix: &str) -> bool {
    let (prefix, suffix) = (prefix.as_bytes(), suffix.as_bytes());
    (1..=prefix.len().min(suffix.len())).any(|shared| prefix.ends_with(&suffix[..shared]))
}

fn reduce<'a>(filters: impl IntoIterator<Item = &'a Filter>) -> Vec<(Coarse, u64)> {
    let mut merged: BTreeMap<Coarse, u64> = BTreeMap::new();
    for filter in filters {
        *merged.entry(Coarse::of(&filter.keys)).or_default() |= filter.events.mask();
    }
    let everything = |masks: &BTreeMap<Coarse, u64>| {
        let mask = masks.values().fold(0, |all, mask| all | mask);
        vec![(Coarse { prefix: String::new(), suffix: String::new() }, mask)]
    };
    if merged.len() > MAX_COMPARED {
        return everything(&merged);
    }
    let uncovered = |(keys, mask): &(&Coarse, &u64)| {
        let wider = merged.iter().filter(|(other, _)| other != keys && other.covers(keys));
        *mask & !wider.fold(0, |all, (_, mask)| all | mask) != 0
    };
    let left: Vec<_> = merged.iter().filter(uncovered).map(|(keys, mask)| (keys.clone(), *mask)).collect();
    if left.len() > MAX_RULES { everything(&merged) } else { left }
}

fn rule(target: &str, keys: &Coarse, mask: u64) -> BucketRule {
    let filters = [("prefix", &keys.prefix), ("suffix", &keys.suffix)];
    let filters: Vec<_> = filters
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    let events = EventSet::names_of_mask(mask);
    let content = serde_json::json!(["triggerd bucket rule 1", without_region(target), filters, events]);
    let digest = Sha256::digest(content.to_string().as_bytes());
    let hash = digest.iter().take(8).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
    BucketRule { id: Some(format!("{OURS}{hash:016x}")), target: target.to_owned(), events, filters }
}

/// Whether the rule that was read is the one that is needed.
fn same(needed: &BucketRule, read: &BucketRule) -> bool {
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    let filters = |rule: &BucketRule| {
        rule.filters.iter().filter(|(_, value)| !value.is_empty()).cloned().collect::<BTreeSet<_>>()
    };
    needed.id == read.id
        && same_target(&needed.target, &read.target)
        && set(&needed.events) == set(&read.events)
        && filters(needed) == filters(read)
}

/// Whether two ARNs name the same target; an empty region equals any.
pub fn same_target(one: &str, other: &str) -> bool {
    let region = |arn: &str| arn.split(':').nth(3).unwrap_or_default().to_owned();
    let (first, second) = (region(one), region(other));
    without_region(one) == without_region(other) && (first == second || first.is_empty() || second.is_empty())
}

fn without_region(arn: &str) -> String {
    let fields = arn.split(':').enumerate();
    fields.map(|(at, field)| if at == 3 { "" } else { field }).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
#[path = "bucket_rules_tests.rs"]
mod tests;
