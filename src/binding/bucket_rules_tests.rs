//! Held against MinIO's own way of matching, written here a second time from what it does.

use proptest::prelude::*;

use super::*;

/// The plan for one leg.
fn plan<'a>(
    current: &Configuration,
    filters: impl IntoIterator<Item = &'a Filter>,
    targets: &[String],
) -> Option<Configuration> {
    super::plan(current, &[Leg { targets, filters: filters.into_iter().collect() }])
}

#[test]
fn only_bindings_that_ask_for_both_legs_get_rules_for_the_fast_one() {
    let (safe, fast) = ([TARGET.to_owned()], ["arn:minio:sqs::FAST:webhook".to_owned()]);
    let (plain, quick) =
        (filter(&["s3:ObjectCreated:*"], "in/", ""), filter(&["s3:ObjectCreated:*"], "fast/", ""));
    let rules_for = |twins: &[&Filter]| {
        let legs = [
            Leg { targets: &safe, filters: vec![&plain, &quick] },
            Leg { targets: &fast, filters: twins.to_vec() },
        ];
        super::plan(&Configuration::default(), &legs).unwrap()
    };
    let both = rules_for(&[&quick]);
    assert!(carries(&both, &plain, &safe) && carries(&both, &quick, &safe) && carries(&both, &quick, &fast));
    assert!(!carries(&both, &plain, &fast));
    let none = rules_for(&[]);
    assert!(none.rules.iter().all(|rule| rule.target == TARGET), "{none:?}");
}

const TARGET: &str = "arn:minio:sqs::TRIGGERD:webhook";

fn value<'a>(rule: &'a BucketRule, name: &str) -> &'a str {
    rule.filters.iter().find(|(filter, _)| filter == name).map_or("", |(_, value)| value)
}

/// MinIO's pattern of a rule: prefix, `*` unless it ends in one, then suffix with a `*` in front unless it begins
/// with one.
fn pattern(rule: &BucketRule) -> String {
    let mut pattern = String::new();
    if let Some(prefix) = Some(value(rule, "prefix")).filter(|prefix| !prefix.is_empty()) {
        pattern.push_str(prefix);
        if !prefix.ends_with('*') {
            pattern.push('*');
        }
    }
    if let Some(suffix) = Some(value(rule, "suffix")).filter(|suffix| !suffix.is_empty()) {
        if !suffix.starts_with('*') {
            pattern.push('*');
        }
        pattern.push_str(suffix);
    }
    if pattern.is_empty() { "*".to_owned() } else { pattern.replace("**", "*") }
}

/// `*` is any run of bytes, `?` one byte; nothing is escaped.
fn passes(pattern: &[u8], key: &[u8]) -> bool {
    match (pattern.first(), key.first()) {
        (None, None) => true,
        (Some(b'*'), _) => passes(&pattern[1..], key) || (!key.is_empty() && passes(pattern, &key[1..])),
        (Some(b'?'), Some(_)) => passes(&pattern[1..], &key[1..]),
        (Some(p), Some(k)) if p == k => passes(&pattern[1..], &key[1..]),
        _ => false,
    }
}

fn asks_for(rule: &BucketRule, event: &str) -> bool {
    EventSet::parse(&rule.events).unwrap().contains(&crate::domain::event_name::EventName::new(event))
}

fn filter(events: &[&str], prefix: &str, suffix: &str) -> Filter {
    Filter::new(EventSet::parse(events).unwrap(), Some(prefix), Some(suffix), None).unwrap()
}

fn glob(glob: &str) -> Filter {
    Filter::new(EventSet::parse(["s3:ObjectCreated:*"]).unwrap(), None, None, Some(glob)).unwrap()
}

fn needed_for(filters: &[Filter]) -> Vec<BucketRule> {
    needed(filters, &[TARGET.to_owned()])
}

fn affixes(rules: &[BucketRule]) -> Vec<(&str, &str)> {
    rules.iter().map(|rule| (value(rule, "prefix"), value(rule, "suffix"))).collect()
}

fn foreign(id: &str) -> BucketRule {
    BucketRule {
        id: Some(id.to_owned()),
        target: "arn:minio:sqs::THEIRS:mqtt".into(),
        events: vec!["s3:ObjectRemoved:*".into(), "s3:Odd:*".into()],
        filters: vec![("suffix".into(), "?x*".into()), ("prefix".into(), "*".into())],
    }
}

#[test]
fn filters_are_widened_where_minio_would_read_them_otherwise() {
    let all = &["s3:ObjectCreated:*"][..];
    let of = |prefix, suffix| Coarse::of(&filter(all, prefix, suffix).keys);
    let is = |prefix: &str, suffix: &str| Coarse { prefix: prefix.into(), suffix: suffix.into() };
    assert_eq!(of("in/", ".jpg"), is("in/", ".jpg"));
    assert_eq!(of("in/*x", ".jpg"), is("in/", ".jpg"));
    assert_eq!(of("in/", "*.jpg"), is("in/", ""));
    assert_eq!(of("abc", "bcd"), is("abc", ""));
    assert_eq!(of("abc", "abc"), is("abc", ""));
    assert_eq!(of("abc", "d"), is("abc", "d"));
    assert_eq!(of("in/tab\there", ""), is("in/tab", ""));
    assert_eq!(Coarse::of(&glob("in/**/*.jpg").keys), is("in/", ""));
    assert_eq!(Coarse::of(&glob("in/a.jpg").keys), is("in/a.jpg", ""));
}

#[test]
fn bindings_share_rules_and_wider_rules_make_narrower_ones_needless() {
    let rules = needed_for(&[
        filter(&["s3:ObjectCreated:Put"], "in/", ".jpg"),
        filter(&["s3:ObjectCreated:Copy"], "in/", ".jpg"),
        filter(&["s3:ObjectCreated:Put"], "in/sub/", ".jpg"),
        filter(&["s3:ObjectRemoved:*"], "in/sub/", ".jpg"),
    ]);
    assert_eq!(affixes(&rules), [("in/", ".jpg"), ("in/sub/", ".jpg")]);
    assert_eq!(rules[0].events, ["s3:ObjectCreated:Copy", "s3:ObjectCreated:Put"]);
    let rules = needed_for(&[
        filter(&["s3:ObjectCreated:*", "s3:ObjectRemoved:*"], "", ""),
        filter(&["s3:ObjectCreated:Put"], "in/", ".jpg"),
        glob("out/*"),
    ]);
    assert_eq!(affixes(&rules), [("", "")]);
}

#[test]
fn too_many_rules_become_one_without_a_filter() {
    for count in [MAX_RULES + 1, MAX_COMPARED + 1] {
        let filters: Vec<_> =
            (0..count).map(|at| filter(&["s3:ObjectCreated:Put"], &format!("{at}/"), "")).collect();
        let rules = needed_for(&filters);
        assert_eq!(affixes(&rules), [("", "")]);
        assert_eq!(rules[0].events, ["s3:ObjectCreated:Put"]);
    }
}

#[test]
fn twin_targets_get_a_rule_each() {
    let targets = ["arn:minio:sqs::SAFE:webhook".to_owned(), "arn:minio:sqs::FAST:webhook".to_owned()];
    let rules = needed(&[glob("a/*")], &targets);
    assert_eq!(rules.len(), 2);
    assert_ne!(rules[0].id, rules[1].id);
}

#[test]
fn a_region_that_the_server_filled_in_is_no_difference() {
    let filters = [glob("a/*")];
    let mut configuration = plan(&Configuration::default(), &filters, &[TARGET.to_owned()]).unwrap();
    configuration.rules[0].target = "arn:minio:sqs:eu-west-1:TRIGGERD:webhook".into();
    assert_eq!(plan(&configuration, &filters, &[TARGET.to_owned()]), None);
    assert!(!same_target("arn:minio:sqs:a:T:webhook", "arn:minio:sqs:b:T:webhook"));
    assert!(!same_target("arn:minio:sqs::T:webhook", "arn:minio:sqs::T:mqtt"));
}

#[test]
fn without_bindings_only_our_rules_go() {
    let filters = [glob("a/*")];
    let current = Configuration::of(vec![foreign("theirs"), foreign("")]);
    let targets = [TARGET.to_owned()];
    let bound = plan(&current, &filters, &targets).unwrap();
    assert_eq!(bound.rules.len(), 3);
    assert_eq!(plan(&bound, [], &targets), Some(current.clone()));
    assert_eq!(plan(&current, [], &targets), None);
}

#[test]
fn a_configuration_carries_a_filter_when_rules_of_ours_let_all_of_it_through() {
    let targets = [TARGET.to_owned()];
    let wide = filter(&["s3:ObjectCreated:*", "s3:ObjectRemoved:*"], "in/", "");
    let narrow = filter(&["s3:ObjectCreated:Put"], "in/a/", ".jpg");
    let current = plan(&Configuration::default(), [&wide], &targets).unwrap();
    assert!(carries(&current, &wide, &targets) && carries(&current, &narrow, &targets));
    assert!(!carries(&current, &filter(&["s3:ObjectAccessed:Get"], "in/", ""), &targets));
    assert!(!carries(&current, &filter(&["s3:ObjectCreated:Put"], "i", ""), &targets));
    assert!(!carries(&current, &narrow, &["arn:minio:sqs::OTHER:webhook".to_owned()]));
    let mut foreign = current.clone();
    foreign.rules[0].id = Some("theirs".into());
    assert!(!carries(&foreign, &narrow, &targets));
}

#[test]
fn what_vanished_is_named() {
    let before = [foreign("a"), foreign("b"), foreign("triggerd-1")];
    let after = Configuration::of(vec![foreign("b")]);
    assert_eq!(vanished(&before, &after), [&foreign("a")]);
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let events = prop::sample::subsequence(
        vec![
            "s3:ObjectCreated:*",
            "s3:ObjectCreated:Put",
            "s3:ObjectRemoved:Delete",
            "s3:ObjectAccessed:Get",
        ],
        1..4,
    );
    let text = "[ab/*?é\t]{0,4}";
    let glob = prop::option::of("[ab/*?]{1,5}");
    (events, text, text, glob).prop_filter_map("a filter must be valid", |(events, prefix, suffix, glob)| {
        let events = EventSet::parse(events).ok()?;
        match glob {
            Some(glob) => Filter::new(events, None, None, Some(&glob)).ok(),
            None => Filter::new(events, Some(&prefix), Some(&suffix), None).ok(),
        }
    })
}

fn any_foreign() -> impl Strategy<Value = Vec<BucketRule>> {
    prop::collection::vec("[a-z]{0,6}".prop_map(|id| foreign(&id)), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_key_that_a_binding_wants_passes_some_rule(
        filters in prop::collection::vec(any_filter(), 1..6), middle in "[ab/*?é\t]{0,6}",
    ) {
        let rules = needed_for(&filters);
        for filter in &filters {
            // Keys that are likely to match: the affixes around some text, overlapping, and the text alone.
            let mut keys = vec![middle.clone()];
            if let KeyFilter::Affix { prefix, suffix } = &filter.keys {
                keys.push(format!("{prefix}{middle}{suffix}"));
                keys.extend((0..=suffix.len()).filter_map(|at| Some(format!("{prefix}{}", suffix.get(at..)?))));
            }
            for key in keys.iter().filter(|key| filter.keys.matches(key)) {
                for event in ["s3:ObjectCreated:Put", "s3:ObjectCreated:PutTagging", "s3:ObjectRemoved:Delete", "s3:ObjectAccessed:Get"] {
                    if !filter.events.contains(&crate::domain::event_name::EventName::new(event)) {
                        continue;
                    }
                    let passed = |rule: &BucketRule| {
                        asks_for(rule, event) && passes(pattern(rule).as_bytes(), key.as_bytes())
                    };
                    prop_assert!(rules.iter().any(passed), "{event} of {key:?} passes none of {rules:?}");
                }
            }
        }
    }

    #[test]
    fn others_rules_stay_and_a_second_plan_changes_nothing(
        theirs in any_foreign(),
        filters in prop::collection::vec(any_filter(), 0..6),
        later in prop::collection::vec(any_filter(), 0..6),
    ) {
        let targets = [TARGET.to_owned()];
        let mut current = Configuration::of(theirs.clone());
        for filters in [&filters, &later, &Vec::new()] {
            if let Some(next) = plan(&current, filters, &targets) {
                current = next;
            }
            prop_assert_eq!(plan(&current, filters, &targets), None);
            let kept: Vec<_> = current.rules.iter().filter(|rule| !is_ours(rule)).cloned().collect();
            prop_assert_eq!(&kept, &theirs);
            let ids: BTreeSet<_> = current.rules.iter().filter(|rule| is_ours(rule)).map(|rule| &rule.id).collect();
            prop_assert_eq!(ids.len() + theirs.len(), current.rules.len());
        }
        prop_assert_eq!(current.rules, theirs);
    }

    #[test]
    fn the_order_of_bindings_makes_no_difference(filters in prop::collection::vec(any_filter(), 0..6)) {
        let mut backwards = filters.clone();
        backwards.reverse();
        prop_assert_eq!(needed_for(&filters), needed_for(&backwards));
    }

    #[test]
    fn no_rule_is_covered_by_another(filters in prop::collection::vec(any_filter(), 0..8)) {
        let coarse = reduce(&filters);
        for (keys, mask) in &coarse {
            for (wider, events) in coarse.iter().filter(|(wider, _)| wider != keys && wider.covers(keys)) {
                prop_assert!(mask & !events != 0, "{keys:?} is covered by {wider:?}");
            }
        }
    }
}
