//! Packages that are told by another one on the target: honest ones arrive as they should be, what
//! is damaged there is found and mended, and hostile ones do no more harm than others.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use blat_target::delta::{Holds, Origin, RELOCATION_MAX, Recipe, Region, Relocation, Source, Streams};
use blat_target::message::{
    Digest, HostHello, Mend, Outcome, PROTOCOL_OF_RELOCATIONS, Refusal, ToHost, ToTarget,
};
use blat_target::stamp::Stamp;
use common::delta::{Told, chunk};
use common::pack::{Parts, STAMP};
use common::{Ended, Host, Site, host_hello, tree};

const NEW: Outcome = Outcome::Committed { replaced: false };
const OLD: &[u8] = b"an old file, of some length";

/// An archive with the base a/0, and something outside that nobody may get at.
fn site() -> Site {
    let site = Site::new();
    assert_eq!(site.send(&[Parts::described("a/0").file("x", OLD).file("y", b"more").pack()]), [NEW]);
    let outside = site.folder("outside");
    fs::write(outside.join("secret"), OLD).unwrap();
    site.give(&outside.join("secret"));
    site
}

/// Copies the start of the old file, with one byte changed, and puts something new behind it.
fn changes() -> (Vec<u8>, Streams) {
    let streams = Streams {
        operations: vec![11, 5, 0],
        runs: vec![3, 1],
        differences: vec![1],
        new: b" news".to_vec(),
    };
    (b"an pld file news".to_vec(), streams)
}

fn told() -> Told {
    let (content, changes) = changes();
    Told::described("a/1", "0").whole("new", b"new").moved("w", b"more", "y").changed("x", &content, &changes)
}

fn content(site: &Site, path: &str) -> Vec<u8> {
    fs::read(site.archive().join(path)).unwrap()
}

fn assert_arrived(site: &Site) {
    assert_eq!(content(site, "a/1/x"), changes().0);
    assert_eq!(content(site, "a/1/w"), b"more");
    assert_eq!(content(site, "a/1/new"), b"new");
    let found = fs::metadata(site.archive().join("a/1/x")).unwrap();
    assert_eq!((found.mtime(), found.mtime_nsec(), found.mode() & 0o777), (STAMP, 123_456_789, 0o644));
}

/// What the target made of the package's first group, once it is in doubt.
fn doubt(host: &mut Host) -> Vec<Option<Digest>> {
    let made = match host.next() {
        Some(ToHost::Made { group: 0, digests, .. }) => digests,
        other => panic!("not in doubt: {other:?}"),
    };
    assert!(matches!(host.next(), Some(ToHost::Doubt { .. })));
    made
}

#[test]
fn a_package_is_made_of_the_one_before() {
    let site = site();
    let mut host = site.host();
    host.tell(&told());
    assert_eq!(host.outcome(), NEW);
    host.tell(&told());
    assert_eq!(host.outcome(), Outcome::Unchanged);
    assert_eq!(host.done().code, Some(0));
    assert_arrived(&site);
    assert!(site.leftovers().is_empty());
}

#[test]
fn what_is_wrong_with_the_base_is_told_file_by_file_and_mended() {
    let x = changes().0;
    type Damage<'a> = (&'a dyn Fn(&Site), Vec<(u32, &'a [u8])>);
    let damage: [Damage; 3] = [
        (&|site| fs::write(site.archive().join("a/0/x"), b"An old file").unwrap(), vec![(3, &x)]),
        (&|site| fs::remove_file(site.archive().join("a/0/y")).unwrap(), vec![(2, b"more")]),
        (
            &|site| {
                fs::write(site.archive().join("a/0/descpkg"), b"About").unwrap();
                let file = fs::File::options().write(true).open(site.archive().join("a/0/descpkg")).unwrap();
                file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(STAMP as u64))
                    .unwrap();
                fs::remove_file(site.archive().join("a/0/x")).unwrap();
            },
            vec![(0, b"about"), (3, &x)],
        ),
    ];
    for (damage, wrong) in damage {
        let site = site();
        damage(&site);
        let mut host = site.host();
        let number = host.tell(&told());
        let told = told();
        let made = doubt(&mut host);
        let differ = (0..4).filter(|nth| made[*nth as usize] != Some(told.digests[*nth as usize]));
        assert_eq!(differ.collect::<Vec<u32>>(), wrong.iter().map(|(nth, _)| *nth).collect::<Vec<_>>());
        // Others go on meanwhile.
        host.send(&Parts::described("b/1").pack());
        assert_eq!(host.outcome(), NEW);
        host.mend(number, &wrong);
        assert_eq!(host.outcome(), NEW);
        assert_eq!(host.done().code, Some(0));
        assert_arrived(&site);
        assert!(site.leftovers().is_empty());
    }
}

#[test]
fn a_link_waits_for_what_is_in_doubt_and_so_does_a_link_to_that() {
    let in_doubt = || {
        let site = site();
        fs::remove_file(site.archive().join("a/0/y")).unwrap();
        let mut host = site.host();
        let number = host.tell(&told());
        doubt(&mut host);
        host.link("a/now", b"1");
        host.link("a/newest", b"./now");
        // Who waits for nothing does not wait.
        host.link("a/old", b"0");
        assert_eq!(host.outcome(), NEW);
        (site, host, number)
    };
    let (site, mut host, number) = in_doubt();
    host.mend(number, &[(2, b"more")]);
    let ended = host.done();
    assert_eq!(ended.outcomes(), [NEW, NEW, NEW, NEW]);
    assert_eq!(ended.heard.last(), Some(&ToHost::Done { committed: 4, unchanged: 0, refused: 0 }));
    assert_arrived(&site);
    assert_eq!(content(&site, "a/newest/new"), b"new");

    let dangles = |outcome: &Outcome| match outcome {
        Outcome::Refused(refusal) => refusal.mend == Mend::Later && refusal.reason.ends_with("is not there"),
        _ => false,
    };
    let (site, mut host, number) = in_doubt();
    host.say(&ToTarget::Mend { number, files: 1 });
    host.say(&ToTarget::Abandon("gone".into()));
    let ended = host.done();
    let [Outcome::Refused(_), now, newest, NEW] = &ended.outcomes()[..] else { panic!("{ended:?}") };
    assert!(dangles(now) && dangles(newest), "{ended:?}");
    assert_eq!(ended.heard.last(), Some(&ToHost::Done { committed: 1, unchanged: 0, refused: 3 }));
    assert!(site.leftovers().is_empty());

    // A host that never mends it.
    let (_site, host, _) = in_doubt();
    let ended = host.done();
    let [now, newest, NEW] = &ended.outcomes()[..] else { panic!("{ended:?}") };
    assert!(dangles(now) && dangles(newest), "{ended:?}");
}

#[test]
fn a_base_that_is_gone_or_another_build_costs_the_files_not_the_session() {
    for (base, stamp) in [("9", STAMP), ("0", STAMP + 1)] {
        let site = site();
        let mut host = site.host();
        let told = Told { base: base.into(), base_stamp: Stamp(stamp), ..told() };
        let number = host.tell(&told);
        let made: Vec<_> = doubt(&mut host).iter().map(Option::is_some).collect();
        assert_eq!(made, [false, true, false, false]);
        host.mend(number, &[(0, b"about"), (2, b"more"), (3, &changes().0)]);
        assert_eq!(host.outcome(), NEW);
        assert_eq!(host.done().code, Some(0));
        assert_arrived(&site);
    }
}

fn inode(site: &Site, path: &str) -> u64 {
    fs::metadata(site.archive().join(path)).unwrap().ino()
}

#[test]
fn files_are_linked_only_where_the_host_asks_and_mode_and_time_are_the_same() {
    for asked in [false, true] {
        let site = site();
        let base = site.archive().join("a/0");
        // One whose mode differs, one whose time does.
        for (name, mode, time) in [("xm", 0o600, None), ("xt", 0o644, Some(7))] {
            fs::write(base.join(name), OLD).unwrap();
            fs::set_permissions(base.join(name), fs::Permissions::from_mode(mode)).unwrap();
            let like = fs::metadata(base.join("x")).unwrap().modified().unwrap();
            let time = like + std::time::Duration::from_nanos(time.unwrap_or(0));
            fs::File::open(base.join(name)).unwrap().set_modified(time).unwrap();
            site.give(&base.join(name));
        }
        let mut host = site.host();
        if asked {
            host.say(&ToTarget::HardLinks);
        }
        host.tell(&told().same("xm", OLD).same("xt", OLD).same("y", b"more"));
        assert_eq!(host.outcome(), NEW);
        assert_eq!(host.done().code, Some(0));
        assert_arrived(&site);
        let linked =
            |new: &str, old: &str| inode(&site, &format!("a/1/{new}")) == inode(&site, &format!("a/0/{old}"));
        assert_eq!((linked("descpkg", "descpkg"), linked("y", "y")), (asked, asked));
        assert!(!linked("x", "x") && !linked("xm", "xm") && !linked("xt", "xt"));
        assert!(!linked("w", "y"), "two files of one version stay two");
        assert_eq!(fs::metadata(base.join("xm")).unwrap().mode() & 0o777, 0o600, "the base is as it was");
        assert!(site.leftovers().is_empty());
        // Either goes without the other.
        fs::remove_dir_all(&base).unwrap();
        assert_arrived(&site);
    }
}

#[test]
fn a_damaged_file_that_was_linked_is_mended_in_one_place_only() {
    let site = site();
    let y = site.archive().join("a/0/y");
    let time = fs::metadata(&y).unwrap().modified().unwrap();
    fs::write(&y, b"moRe").unwrap();
    fs::File::open(&y).unwrap().set_modified(time).unwrap();
    let mut host = site.host();
    host.say(&ToTarget::HardLinks);
    let told = Told::described("a/1", "0").same("x", OLD).same("y", b"more");
    let number = host.tell(&told);
    assert_ne!(doubt(&mut host)[2], Some(told.digests[2]));
    host.mend(number, &[(2, b"more")]);
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    assert_eq!((content(&site, "a/0/y"), content(&site, "a/1/y")), (b"moRe".to_vec(), b"more".to_vec()));
    assert_eq!(inode(&site, "a/1/x"), inode(&site, "a/0/x"));
    assert_eq!(inode(&site, "a/1/descpkg"), inode(&site, "a/0/descpkg"));
}

#[test]
fn nothing_is_taken_from_outside_of_the_base() {
    let site = site();
    let base = site.archive().join("a/0");
    symlink("../../../outside/secret", base.join("link")).unwrap();
    symlink("../../../outside", base.join("out")).unwrap();
    nix::unistd::mkfifo(&base.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let outside = site.path("outside/secret").display().to_string();
    let ways = ["link", "out/secret", "../../../outside/secret", "../0/x/../../1", &outside, "pipe", "."];
    for way in ways {
        let mut host = site.host();
        host.tell(&Told::described("a/1", "0").moved("got", OLD, way));
        assert_eq!(doubt(&mut host)[1], None, "{way}");
        assert_eq!(host.done().code, Some(0));
        assert!(site.leftovers().is_empty() && !site.archive().join("a/1").exists());
    }
}

/// Sends a package that must be refused; an honest one after it must arrive.
fn refused(told: &Told) -> Refusal {
    let site = site();
    let before = tree::walk(&site.path("outside"));
    let mut host = site.host();
    host.tell(told);
    let Outcome::Refused(refusal) = host.outcome() else { panic!("it was taken") };
    host.tell(&Told::described("good/1", "0"));
    doubt(&mut host);
    host.send(&Parts::described("good/2").pack());
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    assert!(site.leftovers().is_empty(), "{:?}", site.leftovers());
    assert!(!site.archive().join("a/1").exists());
    assert_eq!(before, tree::walk(&site.path("outside")));
    refusal
}

fn says(refusal: &Refusal, text: &str) {
    assert!(refusal.reason.contains(text), "{:?} does not say {text:?}", refusal.reason);
    assert_eq!(refusal.mend, Mend::Person);
}

#[test]
fn recipes_that_do_not_fit_are_refused() {
    let short = Told { recipe: Recipe { files: vec![Source::Whole] }, ..told() };
    says(&refused(&short), "the recipe has 1 files where the manifest has 4");
    let long = Told { recipe_length: Some(u32::MAX), ..told() };
    says(&refused(&long), "its recipe of 4294967295 bytes is longer");
    let length = told().plain().len() as u32;
    says(&refused(&Told { recipe_length: Some(length), ..told() }), "it ends in the middle of its recipe");
    let cut = told().recipe.encode().len() as u32 - 1;
    says(&refused(&Told { recipe_length: Some(cut), ..told() }), "the recipe cannot be read");
    let path = Told::described("a/1", "0").moved("x", b"more", "");
    says(&refused(&path), "impossible path");
    let mut escape = told();
    escape.parts = escape.parts.file("../escape", b"x");
    escape.recipe.files.push(Source::Whole);
    says(&refused(&escape), "is absolute, climbs");
}

#[test]
fn changes_that_do_not_fit_are_refused() {
    let (content, honest) = changes();
    let bent = |bend: &dyn Fn(&mut Streams)| {
        let mut changes = honest.clone();
        bend(&mut changes);
        refused(&Told::described("a/1", "0").changed("x", &content, &changes))
    };
    says(&bent(&|it| it.new = vec![7; 200]), "a chunk of changes is longer than what it makes");
    let wrong = "a chunk of changes does not make what it should";
    says(&bent(&|it| it.operations = vec![12, 5, 0]), wrong);
    says(&bent(&|it| it.operations = vec![10, 5, 0]), wrong);
    says(&bent(&|it| it.operations = vec![11, 5, 1]), wrong);
    says(&bent(&|it| it.operations = vec![0, 0, 0]), wrong);
    says(&bent(&|it| it.operations = vec![0xff; 12]), wrong);
    says(&bent(&|it| it.runs = vec![3, 9]), wrong);
    says(&bent(&|it| it.runs = vec![3, 0]), wrong);
    says(&bent(&|it| it.differences = vec![1, 2]), wrong);
    says(&bent(&|it| it.new = b" new".to_vec()), wrong);
}

/// An old program and what is copied of it, with a call whose aim has moved.
fn relinked() -> (Site, Vec<u8>, Relocation, Streams) {
    let site = Site::new();
    let (mut old, mut new) = ([0x90; 5000].to_vec(), [0x90; 5000].to_vec());
    old[..5].copy_from_slice(&[0xe8, 0, 0x10, 0, 0]);
    new[..5].copy_from_slice(&[0xe8, 0x40, 0x10, 0, 0]);
    assert_eq!(site.send(&[Parts::described("a/0").file("x", &old).pack()]), [NEW]);
    let all = Region { offset: 0, length: 5000, address: 0x1000, memory: 5000, holds: Holds::Code };
    let relocation = Relocation::new(vec![all], vec![all], vec![(0, 0), (0x2000, 0x40)]);
    let mut operations = Vec::new();
    [5000, 0, 0].iter().for_each(|number| blat_target::delta::put(&mut operations, *number));
    (site, new, relocation, Streams { operations, ..Streams::default() })
}

fn told_with(content: &[u8], sent: &[u8]) -> Told {
    Told::described("a/1", "0").file("x", content, Source::Changed(Origin::SamePath), sent)
}

#[test]
fn where_an_address_leads_is_worked_out() {
    let (site, new, relocation, changes) = relinked();
    let mut host = site.host();
    host.tell(&told_with(&new, &chunk(&relocation.encode(), &changes)));
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    assert!(content(&site, "a/1/x") == new);
}

#[test]
fn what_is_worked_out_wrong_comes_in_full() {
    let (site, new, _, changes) = relinked();
    let mut host = site.host();
    let number = host.tell(&told_with(&new, &chunk(&[], &changes)));
    assert_ne!(doubt(&mut host)[1], Some(Digest(*blake3::hash(&new).as_bytes())));
    host.mend(number, &[(1, &new)]);
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    assert!(content(&site, "a/1/x") == new);
}

#[test]
fn where_nothing_can_have_moved_to_is_refused() {
    let (_, new, relocation, changes) = relinked();
    let honest = relocation.encode();
    let torn = &honest[..honest.len() - 1];
    let mut long = chunk(&honest, &changes);
    long[..4].copy_from_slice(&(RELOCATION_MAX as u32 + 1).to_le_bytes());
    for sent in [chunk(torn, &changes), long] {
        says(
            &refused(&told_with(&new, &sent)),
            "what is said of where a program's parts moved cannot be read",
        );
    }
}

#[test]
fn a_host_that_is_older_says_nothing_of_moves() {
    let site = site();
    let mut host = site.connect();
    host.hello(HostHello { protocol: PROTOCOL_OF_RELOCATIONS - 1, ..host_hello() });
    assert!(matches!(host.next(), Some(ToHost::Hello(_))));
    let (content, changes) = changes();
    let sent = &chunk(&[], &changes)[4..];
    host.tell(&Told::described("a/1", "0").file("x", &content, Source::Changed(Origin::SamePath), sent));
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
}

#[test]
fn missing_seals_and_trailing_data_are_refused() {
    says(&refused(&Told { seals: Some(vec![]), ..told() }), "it ends in the middle of its seals");
    let twice = Told { seals: Some(vec![Digest([0; 32]); 2]), ..told() };
    says(&refused(&twice), "it carries more than its manifest announces");
}

#[test]
fn places_outside_of_the_old_file_are_found_out() {
    let site = site();
    let (content, honest) = changes();
    let mut far = honest.clone();
    far.operations = vec![11, 5, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let mut host = site.host();
    host.tell(&Told::described("a/1", "0").changed("x", &content, &far));
    assert_eq!(doubt(&mut host)[1], None);
    assert_eq!(host.done().code, Some(0));
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_broken_seal_is_never_committed() {
    let lie = || Told { seals: Some(vec![Digest([7; 32])]), ..told() };
    for mended in [vec![], vec![(3, &changes().0[..])], vec![(3, &b"sixteen bytes...."[..16])]] {
        let site = site();
        let mut host = site.host();
        let number = host.tell(&lie());
        doubt(&mut host);
        host.mend(number, &mended);
        let Outcome::Refused(refusal) = host.outcome() else { panic!("it was taken") };
        assert!(refusal.reason.contains("not what they were when their seals were made"), "{refusal:?}");
        assert_eq!(host.done().code, Some(0));
        assert!(site.leftovers().is_empty() && !site.archive().join("a/1").exists());
    }
}

#[test]
fn mending_what_is_not_in_doubt_is_refused() {
    let attempt = |act: &dyn Fn(&mut Host, u64)| {
        let site = site();
        fs::remove_file(site.archive().join("a/0/y")).unwrap();
        let mut host = site.host();
        let number = host.tell(&told());
        doubt(&mut host);
        act(&mut host, number);
        let Outcome::Refused(refusal) = host.outcome() else { panic!("it was taken") };
        assert_eq!(host.done().code, Some(0));
        assert!(site.leftovers().is_empty() && !site.archive().join("a/1").exists());
        refusal
    };
    let not = "not in doubt, or not in their order";
    says(&attempt(&|host, number| host.mend(number, &[(4, b"")])), not);
    says(&attempt(&|host, number| host.mend(number, &[(u32::MAX, b"")])), not);
    says(&attempt(&|host, number| host.mend(number, &[(2, b"more"), (2, b"more")])), not);
    let many = |host: &mut Host, number| {
        host.say(&ToTarget::Mend { number, files: u32::MAX });
        host.say(&ToTarget::PackageEnd);
    };
    says(&attempt(&many), "4294967295 files are to be mended, but 4 are in doubt");
    says(&attempt(&|host, number| host.mend(number, &[(2, b"mo")])), "it ends in the middle of");
    says(&attempt(&|host, number| host.mend(number, &[(2, b"more and more")])), "a/1: ");
    let abandoned = attempt(&|host, number| {
        host.say(&ToTarget::Mend { number, files: 1 });
        host.say(&ToTarget::Abandon("gone".into()));
    });
    assert!(abandoned.reason.contains("the host gave it up: gone"), "{abandoned:?}");
}

fn fails(ended: &Ended, text: &str) {
    says(ended.failed().unwrap_or_else(|| panic!("{ended:?}")), text);
    assert_eq!(ended.code, Some(78));
}

#[test]
fn what_breaks_the_protocol_ends_the_session() {
    let fatal = |act: &dyn Fn(&mut Host)| {
        let site = site();
        let mut host = site.host();
        act(&mut host);
        let ended = host.end();
        assert!(site.leftovers().is_empty());
        ended
    };
    fails(&fatal(&|host| host.mend(0, &[])), "mends a package that is not in doubt");
    let zeros = vec![0; 1 << 20];
    let bomb = |host: &mut Host| {
        host.begin_told(&told());
        host.bytes(&told().plain());
        (0..100).all(|_| host.bytes(&zeros));
    };
    fails(&fatal(&bomb), "goes on far beyond what was announced");
}

#[test]
fn too_much_in_doubt_is_refused_for_later() {
    let site = site();
    let mut host = site.host();
    for nth in 0..70 {
        host.tell(&Told::described(&format!("b/{nth}"), "0").same("x", OLD));
    }
    let ended = host.done();
    let refusals = ended.outcomes();
    assert_eq!(refusals.len(), 6, "{ended:?}");
    let later = |it: &Outcome| matches!(it, Outcome::Refused(refusal) if refusal.mend == Mend::Later);
    assert!(refusals.iter().all(later));
    assert!(site.leftovers().is_empty());
}

#[test]
fn kills_with_packages_in_doubt_and_in_the_making_leave_nothing_half_done() {
    let site = site();
    let base = || tree::walk(&site.archive().join("a/0"));
    let (before, mut linked) = (base(), 0);
    for round in 0..21u64 {
        let mut host = site.host();
        if round % 2 == 0 {
            host.say(&ToTarget::HardLinks);
        }
        for nth in 0..10 {
            let told = told();
            // One in three is told by what is not there.
            let base = if nth % 3 == 0 { "9".into() } else { told.base.clone() };
            let parts = Parts { id: common::id(&format!("a/{round}-{nth}")), ..told.parts.clone() };
            host.tell(&Told { base, parts, ..told });
        }
        // The last session has the time to commit some.
        let more = if round == 20 { 2_000_000 } else { 0 };
        std::thread::sleep(std::time::Duration::from_micros(round * 1500 + more));
        let ended = host.kill();
        for said in &ended.heard {
            let ToHost::Outcome { number, outcome } = said else { continue };
            assert_eq!(*outcome, NEW);
            assert_eq!(content(&site, &format!("a/{round}-{number}/x")), changes().0);
            let new = inode(&site, &format!("a/{round}-{number}/descpkg"));
            assert_eq!(new == inode(&site, "a/0/descpkg"), round % 2 == 0);
            linked += 1 - round % 2;
        }
        let visible = fs::read_dir(site.archive().join("a")).unwrap().map(|it| it.unwrap().path());
        for version in visible.filter(|it| !it.file_name().unwrap().as_encoded_bytes().starts_with(b".")) {
            if !version.ends_with("0") {
                assert_eq!(fs::read(version.join("x")).unwrap(), changes().0, "{}", version.display());
                assert_eq!(fs::read_dir(&version).unwrap().count(), 4);
            }
        }
    }
    assert_eq!(site.host().done().code, Some(0));
    assert!(site.leftovers().is_empty(), "{:?}", site.leftovers());
    assert_eq!(base(), before, "the base is as it was");
    assert!(linked > 0, "nothing was quick enough to be linked");
}

#[test]
fn other_origins_than_the_manifests_are_only_names() {
    // A folder of the base is no file of it.
    let site = Site::new();
    site.send(&[Parts::described("a/0").folder("f").pack()]);
    fs::set_permissions(site.archive().join("a/0/f"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut host = site.host();
    host.tell(&Told::described("a/1", "0").file("x", OLD, Source::Same(Origin::Path(b"f".to_vec())), &[]));
    assert_eq!(doubt(&mut host)[1], None);
    host.end();
}
