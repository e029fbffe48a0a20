//! The planner, first case by case, then by property: carried out, and made again, it has nothing
//! left to do.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::archive::Found;
use crate::sync::rows::{Reason, Rows};

const POLICY: Policy = Policy { grace: Duration::from_secs(60) };

pub(in crate::sync) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn ago(seconds: u64) -> SystemTime {
    now() - Duration::from_secs(seconds)
}

/// What a test's archive has in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sync) enum Has {
    Sealed(i64),
    /// A stamp, and for how many seconds it has been writable.
    Writable(i64, u64),
    Link(String),
    Strange,
    Unreadable,
}

fn look(has: Option<&Has>) -> std::io::Result<Found> {
    match has {
        None => Ok(Found::Absent("not there")),
        Some(Has::Sealed(stamp)) => Ok(Found::Version { stamp: Stamp(*stamp), writable_since: None }),
        Some(Has::Writable(stamp, open)) => {
            Ok(Found::Version { stamp: Stamp(*stamp), writable_since: Some(ago(*open)) })
        }
        Some(Has::Link(text)) => Ok(Found::Link(text.clone().into())),
        Some(Has::Strange) => Ok(Found::Strange("a file")),
        Some(Has::Unreadable) => Err(std::io::ErrorKind::PermissionDenied.into()),
    }
}

pub(in crate::sync) type Tree = BTreeMap<(String, String), Has>;

pub(in crate::sync) fn tree(entries: &[(&str, Has)]) -> Tree {
    let split = |path: &str| path.split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    entries.iter().map(|(path, has)| (split(path), has.clone())).collect()
}

pub(in crate::sync) fn listing(tree: &Tree) -> Listing {
    let mut listing = Listing::default();
    for ((package, version), has) in tree {
        let stands = match has {
            Has::Sealed(stamp) | Has::Writable(stamp, _) => Stands::Version(Stamp(*stamp)),
            Has::Link(text) => Stands::Link(text.as_bytes()),
            Has::Strange | Has::Unreadable => Stands::Other,
        };
        listing.push(Entry { package, version, stands }).unwrap();
    }
    listing
}

pub(in crate::sync) fn set(wanted: &[(String, String)], source: &Tree) -> CurrentSet {
    let mut rows = Rows::default();
    wanted.iter().for_each(|(package, version)| rows.add(package, version, Reason::Packages).unwrap());
    let key = |id: &PackageVersion| (id.package.to_string(), id.version.to_string());
    CurrentSet::gather(rows, |id| look(source.get(&key(id)))).unwrap()
}

fn plan(wanted: &[&str], source: &[(&str, Has)], target: &[(&str, Has)]) -> Plan {
    let wanted: Vec<_> = wanted.iter().map(|path| path.split_once('/').unwrap()).collect();
    let wanted: Vec<_> = wanted.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    Plan::make(&set(&wanted, &tree(source)), &listing(&tree(target)), POLICY, now())
}

fn link(text: &str) -> Has {
    Has::Link(text.to_owned())
}

fn sent(plan: &Plan) -> Vec<(String, There)> {
    plan.sends.iter().map(|send| (send.id.to_string(), send.there.clone())).collect()
}

fn linked(plan: &Plan) -> Vec<(String, String, There)> {
    plan.links.iter().map(|link| (link.id.to_string(), link.text.clone(), link.there.clone())).collect()
}

#[test]
fn missing_rebuilt_and_replaced_package_versions_are_sent() {
    use Has::{Sealed, Strange};
    let source =
        [("a/1", Sealed(1)), ("a/2", Sealed(2)), ("b/1", Sealed(3)), ("b/2", Sealed(4)), ("c/1", Sealed(5))];
    let target = [("a/1", Sealed(1)), ("a/2", Sealed(9)), ("b/2", link("x")), ("c/1", Strange)];
    let plan = plan(&["c/1", "a/1", "a/2", "b/1", "b/2"], &source, &target);
    let expected = [
        ("a/2", There::Version(Stamp(9))),
        ("b/1", There::Nothing),
        ("b/2", There::Link("x".into())),
        ("c/1", There::Other),
    ];
    assert_eq!(sent(&plan), expected.map(|(id, there)| (id.to_owned(), there)));
    let totals = Totals { members: 5, unchanged: 1, send: 4, unmeasured: 4, ..Totals::default() };
    assert_eq!(plan.totals, totals);
}

#[test]
fn links_are_made_turned_and_put_in_a_folders_place_after_what_they_address() {
    let source = [
        ("a/1", Has::Sealed(1)),
        ("a/all", link("best")),
        ("a/best", link("1")),
        ("b/1", Has::Sealed(1)),
        ("b/x", link("./1")),
    ];
    let target = [("a/all", link("1")), ("b/1", Has::Sealed(1)), ("b/x", Has::Sealed(7))];
    let plan = plan(&["a/all", "b/x"], &source, &target);
    assert_eq!(sent(&plan), [("a/1".to_owned(), There::Nothing)]);
    let link = |id: &str, text: &str, there| (id.to_owned(), text.to_owned(), there);
    let expected = [
        link("a/best", "1", There::Nothing),
        link("b/x", "./1", There::Version(Stamp(7))),
        link("a/all", "best", There::Link("1".into())),
    ];
    assert_eq!(linked(&plan), expected);
}

#[test]
fn a_writable_package_waits_for_its_grace_and_its_links_with_it() {
    let source = [
        ("a/1", Has::Writable(1, 59)),
        ("a/x", link("1")),
        ("b/1", Has::Writable(1, 61)),
        ("c/1", Has::Writable(1, 0)),
    ];
    let plan = plan(&["a/x", "b/1", "c/1"], &source, &[("c/1", Has::Sealed(1))]);
    assert_eq!(sent(&plan), [("b/1".to_owned(), There::Nothing)]);
    let until = now() + Duration::from_secs(1);
    assert_eq!(plan.waits[0].why, WaitWhy::Writable { since: ago(59), until });
    assert_eq!(plan.waits[1].why, WaitWhy::Addressed(PackageVersion::new("a", "1").unwrap()));
    assert_eq!((plan.waits.len(), plan.links.len(), plan.totals.unchanged), (2, 0, 1));
}

#[test]
fn what_cannot_be_sent_is_told_and_stops_nothing_else() {
    let source = [
        ("a/1", Has::Sealed(1)),
        ("b/1", Has::Strange),
        ("c/1", Has::Unreadable),
        ("d/out", link("../a/1")),
        ("e/x", link("y")),
        ("e/y", link("x")),
        ("f/x", link("gone")),
    ];
    let plan = plan(&["a/1", "b/1", "c/1", "d/out", "e/x", "f/x", "g/1"], &source, &[]);
    assert_eq!(sent(&plan), [("a/1".to_owned(), There::Nothing)]);
    let told: Vec<_> =
        plan.problems.iter().map(|problem| format!("{}: {}", problem.id, problem.why)).collect();
    let expected = [
        "b/1: a file",
        "c/1: it cannot be looked at in the source archive: permission denied",
        "d/out: it is a link to \"../a/1\", which is not another version of the same package",
        "e/x: it is a link that leads through too many links, or in a circle",
        "e/y: it is a link that leads through too many links, or in a circle",
        "f/gone: not there",
        "f/x: it is a link to f/gone, which the target will not have",
        "g/1: not there",
    ];
    assert_eq!(told, expected);
}

#[test]
fn what_the_set_does_not_have_is_excess() {
    let target = [("a/0", Has::Sealed(1)), ("a/1", Has::Sealed(1)), ("z/x", link("1"))];
    let plan = plan(&["a/1"], &[("a/1", Has::Sealed(1))], &target);
    let excess: Vec<_> = plan.excess.iter().map(|excess| (excess.id.to_string(), &excess.there)).collect();
    let expected = [("a/0".to_owned(), &There::Version(Stamp(1))), ("z/x".into(), &There::Link("1".into()))];
    assert_eq!(excess, expected);
    assert!(plan.is_done());
}

#[test]
fn what_a_link_that_must_stay_leads_to_is_no_excess() {
    let target = [("a/1", Has::Sealed(1)), ("a/x", link("1")), ("b/1", Has::Sealed(1)), ("b/x", link("1"))];
    let source = [("a/2", Has::Writable(1, 5)), ("a/x", link("2"))];
    let plan = plan(&["a/x", "b/x"], &source, &target);
    assert_eq!((plan.excess.len(), plan.totals.undecided), (0, 2));
}

/// What the target has when the plan was carried out.
pub(in crate::sync) fn carried_out(plan: &Plan, target: &Tree) -> Tree {
    let mut target = target.clone();
    let key = |id: &PackageVersion| (id.package.to_string(), id.version.to_string());
    for send in &plan.sends {
        target.insert(key(&send.id), Has::Sealed(send.stamp.0));
    }
    for link in &plan.links {
        let addressed = (link.id.package.to_string(), link.text.trim_start_matches("./").to_owned());
        assert!(target.contains_key(&addressed), "{} is made before what it addresses", link.id);
        target.insert(key(&link.id), Has::Link(link.text.clone()));
    }
    target
}

fn has() -> impl Strategy<Value = Has> {
    prop_oneof![
        4 => (0..3i64).prop_map(Has::Sealed),
        2 => (0..3i64, 0..120u64).prop_map(|(stamp, open)| Has::Writable(stamp, open)),
        4 => "(\\./)?[0-9]|\\.\\./a".prop_map(Has::Link),
        1 => Just(Has::Strange),
        1 => Just(Has::Unreadable),
    ]
}

pub(in crate::sync) fn trees() -> impl Strategy<Value = Tree> {
    proptest::collection::btree_map(
        ("[ab]".prop_map(String::from), "[0-9]".prop_map(String::from)),
        has(),
        0..20,
    )
}

proptest! {
    #[test]
    fn carried_out_and_made_again_it_has_nothing_to_do(
        wanted in proptest::collection::vec(("[ab]", "[0-9]"), 0..20),
        source in trees(),
        target in trees(),
    ) {
        let set = set(&wanted, &source);
        let plan = Plan::make(&set, &listing(&target), POLICY, now());
        let totals = plan.totals;
        prop_assert_eq!(totals.members, set.len() as u64);
        prop_assert_eq!(totals.members, totals.unchanged + totals.send + totals.link + totals.wait + totals.problem);
        let after = carried_out(&plan, &target);
        let again = Plan::make(&set, &listing(&after), POLICY, now());
        prop_assert!(again.is_done(), "left to do: {again:?}");
        prop_assert_eq!(again.problems, plan.problems);
        prop_assert_eq!(again.waits, plan.waits);
    }

    #[test]
    fn the_order_of_the_rows_does_not_matter(
        mut wanted in proptest::collection::vec(("[ab]", "[0-9]"), 0..20),
        source in trees(),
        target in trees(),
    ) {
        let plan = Plan::make(&set(&wanted, &source), &listing(&target), POLICY, now());
        wanted.reverse();
        prop_assert_eq!(Plan::make(&set(&wanted, &source), &listing(&target), POLICY, now()), plan);
    }
}
