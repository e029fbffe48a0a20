//! Decisions, first case by case, then by property: whatever stands there, what is needed stays, and
//! carried out and made again there is nothing left to do.

use std::collections::BTreeMap;

use blat_target::stamp::Stamp;
use proptest::prelude::*;

use super::*;
use crate::config::Percent;
use crate::sync::plan::tests::{Has, Tree, carried_out, listing, now, set, tree, trees};
use crate::sync::plan::{Plan, Policy as Planning};

const DAY: i64 = 86_400;
const NOW: i64 = 1_700_000_000;

fn policy(mode: AgingMode) -> Policy {
    let after = Duration::from_secs(30 * DAY as u64);
    Policy { mode, after, max_delete: 1000, guard: None, held: false }
}

fn id(path: &str) -> PackageVersion {
    let (package, version) = path.split_once('/').unwrap();
    PackageVersion::new(package, version).unwrap()
}

fn mark(path: &str, stands: Standing, days: i64, policy: &Policy) -> Mark {
    let (since, after) = (NOW - days * DAY, policy.told());
    Mark { id: id(path), stands, since, after, master: "m".into(), why: "w".into() }
}

fn version(stamp: i64) -> Standing {
    Standing::Version(Stamp(stamp))
}

fn fates(wanted: &[&str], target: &[(&str, Has)], marks: &[Mark], policy: &Policy) -> Vec<(String, Fate)> {
    let wanted: Vec<_> = wanted.iter().map(|path| id(path)).collect();
    let wanted: Vec<_> = wanted.iter().map(|id| (id.package.to_string(), id.version.to_string())).collect();
    let target = tree(target);
    let decision = decide(&set(&wanted, &target), &listing(&target), marks, policy, NOW);
    decision.aged.iter().map(|aged| (aged.id.to_string(), aged.fate.clone())).collect()
}

fn link(text: &str) -> Has {
    Has::Link(text.to_owned())
}

#[test]
fn each_mode_does_its_own_with_what_is_in_excess() {
    let target =
        [("a/1", Has::Sealed(1)), ("a/2", Has::Sealed(2)), ("a/3", Has::Sealed(3)), ("b/x", Has::Strange)];
    let told = |mode| {
        let policy = policy(mode);
        let marks = [mark("a/2", version(2), 29, &policy), mark("a/3", version(3), 30, &policy)];
        let mut fates = fates(&[], &target, &marks, &policy);
        let strange = if mode == AgingMode::None { Keep::Never } else { Keep::Strange };
        assert_eq!(fates.pop().unwrap(), ("b/x".into(), Fate::Keep(strange)));
        fates.into_iter().map(|(_, fate)| fate).collect::<Vec<_>>()
    };
    let never = Fate::Keep(Keep::Never);
    assert_eq!(told(AgingMode::None), [never.clone(), never.clone(), never]);
    let excess = Fate::Delete(Delete::Excess);
    assert_eq!(told(AgingMode::Immediate), [excess.clone(), excess.clone(), excess]);
    let aged = Fate::Delete(Delete::Aged { since: NOW - 30 * DAY });
    let (young, old) = (NOW + DAY, NOW);
    assert_eq!(told(AgingMode::Master), [Fate::Mark, Fate::Keep(Keep::Young { until: young }), aged]);
    let purge = |until| Fate::Keep(Keep::Purge { until });
    assert_eq!(told(AgingMode::Target), [Fate::Mark, purge(young), purge(old)]);
}

#[test]
fn a_mark_counts_only_for_what_was_marked_and_for_the_mode_in_force() {
    let policy = policy(AgingMode::Master);
    let target = [("a/1", Has::Sealed(9))];
    let rebuilt = mark("a/1", version(1), 99, &policy);
    assert_eq!(fates(&[], &target, &[rebuilt], &policy), [("a/1".into(), Fate::Mark)]);
    let other = Mark { after: Some(7), ..mark("a/1", version(9), 99, &policy) };
    assert_eq!(fates(&[], &target, &[other], &policy), [("a/1".into(), Fate::Mark)]);
    let future = mark("a/1", version(9), -1, &policy);
    assert_eq!(fates(&[], &target, &[future], &policy), [("a/1".into(), Fate::Mark)]);
}

#[test]
fn what_is_needed_again_and_what_is_gone_loses_its_mark() {
    let policy = policy(AgingMode::Master);
    let marks = [mark("a/1", version(1), 99, &policy), mark("a/2", version(1), 99, &policy)];
    let target = tree(&[("a/1", Has::Sealed(1))]);
    let set = set(&[("a".into(), "1".into())], &target);
    let decision = decide(&set, &listing(&target), &marks, &policy, NOW);
    assert_eq!((decision.aged, decision.unmark), (vec![], vec![id("a/1"), id("a/2")]));
}

#[test]
fn what_a_link_leads_to_that_is_needed_stays_wherever_it_leads() {
    let target = [("a/1", Has::Sealed(1)), ("a/2", link("1")), ("a/x", link("2")), ("b/1", Has::Sealed(1))];
    let told = fates(&["a/x"], &target, &[], &policy(AgingMode::Immediate));
    assert_eq!(told, [("b/1".into(), Fate::Delete(Delete::Excess))]);
}

#[test]
fn links_that_would_dangle_go_before_what_they_lead_to() {
    let policy = policy(AgingMode::Master);
    let target =
        tree(&[("a/1", Has::Sealed(1)), ("a/2", link("1")), ("a/3", link("2")), ("a/4", link("no"))]);
    let marks = [mark("a/1", version(1), 30, &policy)];
    let decision = decide(&set(&[], &target), &listing(&target), &marks, &policy, NOW);
    let order: Vec<_> = decision.deletions().iter().map(|aged| aged.id.to_string()).collect();
    assert_eq!(order, ["a/3", "a/2", "a/1"]);
    let marked: Vec<_> = decision.marks().map(|aged| aged.id.to_string()).collect();
    assert_eq!(marked, ["a/2", "a/3", "a/4"], "none is deleted without a mark");
}

#[test]
fn guards_a_hold_and_the_cap_keep_what_would_go() {
    let target = [("a/1", Has::Sealed(1)), ("a/2", link("1")), ("a/3", Has::Sealed(1))];
    let told = |policy: Policy| {
        fates(&[], &target, &[], &policy).into_iter().map(|(_, fate)| fate).collect::<Vec<_>>()
    };
    let immediate = policy(AgingMode::Immediate);
    let guarded = Policy { guard: Some(Guard::Empty), ..immediate.clone() };
    assert_eq!(told(guarded), vec![Fate::Keep(Keep::Guarded(Guard::Empty)); 3]);
    assert_eq!(told(Policy { held: true, ..immediate.clone() }), vec![Fate::Keep(Keep::Held); 3]);
    let (gone, kept) = (Fate::Delete(Delete::Excess), Fate::Keep(Keep::TooMany));
    assert_eq!(told(Policy { max_delete: 2, ..immediate }), [gone.clone(), gone, kept]);
}

/// What a target does with a decision. It panics where the target would refuse.
fn carry(
    decision: &Decision,
    target: &mut Tree,
    marks: &mut BTreeMap<PackageVersion, Mark>,
    policy: &Policy,
) {
    decision.unmark.iter().for_each(|id| drop(marks.remove(id)));
    for aged in decision.marks() {
        let mark = Mark {
            id: aged.id.clone(),
            stands: aged.stands.clone(),
            since: NOW,
            after: policy.told(),
            master: String::new(),
            why: String::new(),
        };
        marks.insert(aged.id.clone(), mark);
    }
    for aged in decision.deletions() {
        let id = &aged.id;
        assert_eq!(marks.remove(id).map(|mark| mark.stands), Some(aged.stands.clone()), "{id} has no mark");
        let dangling = target.iter().find(|((package, version), has)| {
            let from = PackageVersion::new(package, version).unwrap();
            matches!(has, Has::Link(text) if link_target(&from, text.as_bytes()).as_ref() == Ok(id))
                && !marks.contains_key(&from)
        });
        assert_eq!(dangling, None, "{id} is addressed");
        target.remove(&(id.package.to_string(), id.version.to_string())).unwrap();
    }
}

fn dangling(target: &Tree) -> Vec<PackageVersion> {
    let has = |id: &PackageVersion| target.get(&(id.package.to_string(), id.version.to_string()));
    // One that leads in a circle leads nowhere, as long as all of the circle is there, too.
    let leads_nowhere = |id: &PackageVersion| {
        let mut at = id.clone();
        for _ in 0..=target.len() {
            match has(&at) {
                None => return true,
                Some(Has::Link(text)) => match link_target(&at, text.as_bytes()) {
                    Ok(next) => at = next,
                    Err(_) => return false,
                },
                Some(_) => return false,
            }
        }
        true
    };
    let links = target.iter().filter(|(_, has)| matches!(has, Has::Link(_)));
    let ids = links.map(|((package, version), _)| PackageVersion::new(package, version).unwrap());
    ids.filter(leads_nowhere).collect()
}

fn modes() -> impl Strategy<Value = AgingMode> {
    prop_oneof![
        Just(AgingMode::None),
        Just(AgingMode::Immediate),
        Just(AgingMode::Master),
        Just(AgingMode::Target),
    ]
}

prop_compose! {
    /// Marks of what stands, and of what does not; good ones, old ones, and those of other times.
    fn some_marks(target: Tree)(
        chosen in proptest::collection::btree_map(("[ab]", "[0-9]"), (0..60i64, any::<bool>(), any::<bool>()), 0..12)
    ) -> Vec<Mark> {
        let stands = listing(&target);
        chosen.into_iter().map(|((package, version), (days, purge, good))| {
            let standing = stands.get(&package, &version).map(standing_of).filter(|_| good);
            let after = purge.then_some(30 * DAY as u64);
            let stands = standing.unwrap_or(Standing::Version(Stamp(77)));
            let mark = mark(&format!("{package}/{version}"), stands, days, &policy(AgingMode::Master));
            Mark { after, ..mark }
        }).collect()
    }
}

proptest! {
    #[test]
    fn what_is_needed_stays_and_made_again_nothing_is_left(
        (target, marks) in trees().prop_flat_map(|tree| (Just(tree.clone()), some_marks(tree))),
        wanted in proptest::collection::vec(("[ab]", "[0-9]"), 0..20),
        source in trees(),
        mode in modes(),
    ) {
        let (set, policy) = (set(&wanted, &source), policy(mode));
        let planning = Planning { grace: Duration::from_secs(60) };
        let mut plan = Plan::make(&set, &listing(&target), planning, now());
        plan.age(&set, &listing(&target), &marks, &policy, NOW).unwrap();
        let decision = plan.aged.clone().unwrap();
        let sent = carried_out(&plan, &target);
        let mut target = sent.clone();
        let mut marks: BTreeMap<_, _> = marks.into_iter().map(|mark| (mark.id.clone(), mark)).collect();
        carry(&decision, &mut target, &mut marks, &policy);
        for member in set.iter() {
            let key = (member.package.to_owned(), member.version.to_owned());
            prop_assert_eq!(sent.get(&key), target.get(&key), "{:?} was deleted", key);
        }
        let (before, after) = (dangling(&sent), dangling(&target));
        prop_assert!(after.iter().all(|id| before.contains(id)), "{after:?} dangle, {before:?} did");
        if mode != AgingMode::Immediate {
            let old = |id: &PackageVersion| decision.aged.iter().any(|aged| aged.id == *id
                && matches!(aged.fate, Fate::Delete(Delete::Aged { since }) if NOW - since >= 30 * DAY));
            let dangled = |id: &PackageVersion| decision.aged.iter().any(|aged| aged.id == *id
                && matches!(aged.fate, Fate::Delete(Delete::Dangling(_))));
            for key in sent.keys().filter(|key| !target.contains_key(*key)) {
                let id = PackageVersion::new(&key.0, &key.1).unwrap();
                prop_assert!(mode == AgingMode::Master && (old(&id) || dangled(&id)), "{id} went");
            }
        }
        let marks: Vec<_> = marks.into_values().collect();
        let mut again = Plan::make(&set, &listing(&target), planning, now());
        again.age(&set, &listing(&target), &marks, &policy, NOW).unwrap();
        prop_assert!(again.is_done() && again.aged.as_ref().unwrap().is_done(), "left: {again:?}");
    }

    #[test]
    fn a_guard_or_a_hold_deletes_nothing_and_a_guard_marks_nothing(
        (target, marks) in trees().prop_flat_map(|tree| (Just(tree.clone()), some_marks(tree))),
        wanted in proptest::collection::vec(("[ab]", "[0-9]"), 0..20),
        mode in modes(),
    ) {
        let set = set(&wanted, &target);
        let guard = Guard::look(0, 0, 9, Percent::new(20).unwrap(), true);
        let guarded = Policy { guard, ..policy(mode) };
        let decision = decide(&set, &listing(&target), &marks, &guarded, NOW);
        prop_assert!(decision.deletions().is_empty() && decision.marks().next().is_none());
        let held = Policy { held: true, ..policy(mode) };
        prop_assert!(decide(&set, &listing(&target), &marks, &held, NOW).deletions().is_empty());
    }

    #[test]
    fn the_cap_is_kept_and_leaves_no_link_dangling(
        target in trees(),
        most in 0..5u64,
    ) {
        let policy = Policy { max_delete: most, ..policy(AgingMode::Immediate) };
        let decision = decide(&set(&[], &target), &listing(&target), &[], &policy, NOW);
        prop_assert!(decision.deletions().len() as u64 <= most);
        let (mut after, mut marks) = (target.clone(), BTreeMap::new());
        carry(&decision, &mut after, &mut marks, &policy);
        let (before, after) = (dangling(&target), dangling(&after));
        prop_assert!(after.iter().all(|id| before.contains(id)));
    }
}
