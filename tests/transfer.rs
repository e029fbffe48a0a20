//! The transfer itself, over a private sshd on loopback: what needs no systemd to show.

#[path = "loopback/mod.rs"]
mod loopback;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime};

use blat::places::Places;
use blat::report::{self, Report};
use blat::state::{self, Transfers};
use blat_target::said;
use loopback::{Loopback, assert_done, words};

fn world() -> Loopback {
    let blat = PathBuf::from(env!("CARGO_BIN_EXE_blat"));
    let helper = blat.with_file_name("blat-target");
    Loopback::new(&blat, &helper)
}

fn content(folder: &Path) -> String {
    fs::read_to_string(folder.join("content")).expect("the content")
}

#[test]
fn a_run_by_hand_needs_no_agent() {
    let world = world();
    world.publish("core", "1.0");
    world.tag("core", "1.0");
    assert_done(&world.transfer());
    assert_eq!(content(&world.archive().join("core/1.0")), "some content\n");
    assert_eq!(fs::read_dir(world.tags().join(".claimed")).unwrap().count(), 0);
}

#[test]
fn a_tag_directory_that_cannot_be_used_is_told_by_the_state() {
    let world = world();
    fs::rename(world.tags(), world.root().join("away")).unwrap();
    assert_eq!(world.transfer().status.code(), Some(75));
    let failed = || {
        let places = Places::of(world.root(), &"site1".parse().unwrap());
        state::read::<Transfers>(&places.transfers()).unwrap().failed
    };
    assert!(failed().unwrap().reason.contains("cannot use the tag directory"));
    fs::rename(world.root().join("away"), world.tags()).unwrap();
    assert_done(&world.transfer());
    assert_eq!(failed(), None);
}

#[test]
fn a_queue_of_another_users_needs_a_person_whatever_fails_first() {
    let world = world();
    let claimed = world.tags().join(".claimed");
    let needs_a_person = |attempt: &str| {
        let output = world.transfer_as_any_user();
        assert_eq!(output.status.code(), Some(78), "{attempt}: {}", words(&output));
        let reason = words(&output);
        assert!(reason.contains(attempt) && reason.contains("is it the user blat's?"), "{reason}");
    };
    set_mode(&world.tags(), 0o555);
    needs_a_person("cannot use the tag directory");
    set_mode(&world.tags(), 0o755);
    world.tag("core", "1.0");
    fs::create_dir(&claimed).unwrap();
    set_mode(&claimed, 0o555);
    needs_a_person("cannot claim tags");
    set_mode(&claimed, 0o355);
    fs::remove_file(world.tags().join("core::1.0")).unwrap();
    needs_a_person("cannot read the queue");
    set_mode(&claimed, 0o755);
    fs::write(claimed.join("0000000000000001-nonsense"), "").unwrap();
    fs::create_dir(world.rejected()).unwrap();
    set_mode(&world.rejected(), 0o555);
    needs_a_person("cannot reject the tag nonsense");
}

#[test]
fn a_run_that_can_write_nothing_down_is_told_to_the_agent() {
    for (name, reason) in
        [("transfer.lock", "cannot open"), ("waiting.json", "cannot write down why tags wait")]
    {
        let world = world();
        let agent = UnixDatagram::bind(world.root().join("run/blat/site1.report")).unwrap();
        agent.set_nonblocking(true).unwrap();
        fs::create_dir(world.root().join("var/lib/blat/site1").join(name)).unwrap();
        world.publish("core", "1.0");
        fs::create_dir(world.tags().join(".claimed")).unwrap();
        fs::write(world.tags().join(".claimed/0000000000000001-core::2.0"), "").unwrap();
        assert!(!world.transfer().status.success());
        let mut datagram = [0; 4096];
        let mut told = Vec::new();
        while let Ok(length) = agent.recv(&mut datagram) {
            told.push(report::decode(&datagram[..length]).unwrap());
        }
        let [.., Report::Trouble { reason: why, .. }, Report::Queue { .. }] = &told[..] else {
            panic!("{told:?}")
        };
        assert!(why.contains(reason), "{why}");
        let places = Places::of(world.root(), &"site1".parse().unwrap());
        let failed = state::read::<Transfers>(&places.transfers()).unwrap().failed;
        assert!(failed.unwrap().reason.contains(reason));
    }
}

#[test]
fn a_run_beside_another_is_no_trouble() {
    let world = world();
    let agent = UnixDatagram::bind(world.root().join("run/blat/site1.report")).unwrap();
    agent.set_nonblocking(true).unwrap();
    let _runs = blat::lock::take(&world.root().join("var/lib/blat/site1/transfer.lock"), "a run").unwrap();
    assert_eq!(world.transfer().status.code(), Some(75));
    agent.recv(&mut [0; 4096]).unwrap_err();
}

#[test]
fn a_run_attaches_to_the_agent() {
    let mut world = world();
    world.start_agent();
    for version in ["1.0", "2.0"] {
        world.publish("core", version);
        world.tag("core", version);
        let output = world.transfer();
        assert_done(&output);
        assert!(world.archive().join("core").join(version).is_dir());
    }
}

/// As in the moments in which the agent has not read yet that the target is another machine.
#[test]
fn a_run_goes_where_its_own_settings_say_whatever_the_agent_is_connected_to() {
    let mut world = world();
    world.start_agent();
    world.publish("core", "1.0");
    world.tag("core", "1.0");
    let file = world.root().join("etc/blat/targets/site1.toml");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, before.replace("127.0.0.1", "127.0.0.2")).unwrap();
    let output = world.transfer();
    assert_eq!(output.status.code(), Some(75), "{}", words(&output));
    assert!(!world.archive().join("core/1.0").exists(), "it went to the old one");
    fs::write(&file, before).unwrap();
    assert_done(&world.transfer());
    assert!(world.archive().join("core/1.0").is_dir());
}

#[test]
fn a_link_brings_what_it_addresses_and_a_link_to_a_link_too() {
    let world = world();
    world.publish("core", "1.0");
    symlink("1.0", world.source().join("core/stable")).unwrap();
    symlink("stable", world.source().join("core/current")).unwrap();
    world.tag("core", "current");
    assert_done(&world.transfer());
    let text = |name: &str| fs::read_link(world.archive().join("core").join(name)).unwrap();
    assert_eq!((text("current"), text("stable")), ("stable".into(), "1.0".into()));
    assert_eq!(content(&world.archive().join("core/current")), "some content\n");
}

#[test]
fn what_stands_already_costs_no_transfer() {
    let world = world();
    world.publish("core", "1.0");
    world.tag("core", "1.0");
    assert_done(&world.transfer());
    world.tag("core", "1.0");
    let output = world.transfer();
    assert_done(&output);
    assert!(words(&output).contains("stands on the target already"), "{}", words(&output));
    assert!(!words(&output).contains("committed"), "{}", words(&output));
}

/// Changes the records of what waits; how many there are.
fn change_waiting(world: &Loopback, change: impl FnMut(&mut serde_json::Value)) -> usize {
    let waiting = world.root().join("var/lib/blat/site1/waiting.json");
    let mut known: serde_json::Value = serde_json::from_slice(&fs::read(&waiting).unwrap()).unwrap();
    let claims = known.as_object_mut().unwrap();
    claims.values_mut().for_each(change);
    let count = claims.len();
    fs::write(&waiting, known.to_string()).unwrap();
    count
}

fn queued(world: &Loopback) -> usize {
    fs::read_dir(world.tags().join(".claimed")).unwrap().count()
}

/// As after a week without the target, or of a clock that stood at 1970.
#[test]
fn an_old_claim_is_given_up_only_once_it_was_seen_to_wait_for_long() {
    let world = world();
    world.publish("refused", "1.0");
    fs::write(world.archive().join("refused"), "in the way").unwrap();
    fs::create_dir(world.tags().join(".claimed")).unwrap();
    for tag in ["core::1.0", "refused::1.0"] {
        fs::write(world.tags().join(".claimed").join(format!("0000000000000001-{tag}")), "").unwrap();
    }
    let output = world.transfer();
    assert_eq!((queued(&world), world.rejected().exists()), (2, false), "{}", words(&output));
    let week_ago = |claim: &mut serde_json::Value| {
        claim["waited"] = (7 * 86_400 + 1).into();
        claim["due"] = 0.into();
    };
    assert_eq!(change_waiting(&world, week_ago), 2);
    let output = world.transfer();
    assert_eq!(queued(&world), 0, "{}", words(&output));
    for tag in ["core::1.0", "refused::1.0"] {
        let record = fs::read_to_string(world.rejected().join(tag)).unwrap();
        assert!(record.contains("given up after"), "{record}");
    }
}

#[test]
fn tags_wait_for_a_source_archive_that_has_nothing_at_all_and_none_is_given_up() {
    let world = world();
    world.publish("other", "1.0");
    world.tag("core", "1.0");
    assert_done(&world.transfer());
    let week_ago = |claim: &mut serde_json::Value| {
        claim["waited"] = (7 * 86_400 + 1).into();
        claim["due"] = 0.into();
    };
    assert_eq!(change_waiting(&world, week_ago), 1);
    let away = world.root().join("away");
    fs::rename(world.source(), &away).unwrap();
    fs::create_dir(world.source()).unwrap();
    let output = world.transfer();
    assert_done(&output);
    assert!(words(&output).contains("is it mounted?"), "{}", words(&output));
    assert_eq!((queued(&world), world.rejected().exists()), (1, false));
    fs::remove_dir(world.source()).unwrap();
    fs::rename(away, world.source()).unwrap();
    world.publish("core", "1.0");
    assert_eq!(change_waiting(&world, |claim| claim["due"] = 0.into()), 1);
    assert_done(&world.transfer());
    assert_eq!(queued(&world), 0);
}

#[test]
fn who_wants_work_now_has_even_that_tried_whose_time_has_not_come() {
    let world = world();
    world.publish("other", "1.0");
    world.tag("core", "1.0");
    assert_done(&world.transfer());
    assert_eq!(
        change_waiting(&world, |claim| claim["due"] = (claim["due"].as_u64().unwrap() + 600).into()),
        1
    );
    world.publish("core", "1.0");
    assert_done(&world.transfer());
    assert!(!world.archive().join("core/1.0").exists(), "its time has not come");
    blat::trigger::touch_for_all(&world.root().join("run/blat/site1/transfer"));
    assert_done(&world.transfer());
    assert!(world.archive().join("core/1.0").exists());
}

/// A file that gets, from now on, what the helper is started with, a line for each start.
fn command_lines(world: &Loopback) -> PathBuf {
    let bin = world.root().join("target/bin");
    let (helper, moved, lines) = (bin.join("blat-target"), bin.join("moved"), world.root().join("lines"));
    fs::rename(&helper, &moved).unwrap();
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\nexec {} \"$@\"\n", lines.display(), moved.display());
    fs::write(&helper, script).unwrap();
    set_mode(&helper, 0o755);
    lines
}

/// What was said on the only command line.
fn said_on(lines: &Path) -> Vec<u8> {
    let lines = fs::read_to_string(lines).unwrap();
    let said = lines.strip_prefix("serve --said ").expect("something is said").trim_end();
    said::decode(said.as_bytes()).expect("one line, in hexadecimal")
}

#[test]
fn what_stands_there_is_asked_as_the_helper_is_started() {
    let mut world = world();
    world.start_agent();
    for version in ["1.0", "1.1"] {
        world.publish("core", version);
    }
    world.tag("core", "1.0");
    assert_done(&world.transfer());
    let lines = command_lines(&world);
    world.tag("core", "1.1");
    assert_done(&world.transfer());
    assert!(world.archive().join("core/1.1").is_dir());
    let said = said_on(&lines);
    let names = |version: &str| said.windows(3).any(|bytes| bytes == version.as_bytes());
    assert!(names("1.1"), "what is to be sent");
    assert!(names("1.0"), "what it may be told by");
}

#[test]
fn what_is_too_long_for_a_command_line_is_asked_later() {
    const PACKAGES: u32 = 200;
    let mut world = world();
    world.start_agent();
    world.publish("core", "1.0");
    world.tag("core", "1.0");
    assert_done(&world.transfer());
    let lines = command_lines(&world);
    let name = |number| format!("one-of-many-packages-whose-names-are-long-{number}");
    for number in 0..PACKAGES {
        world.publish(&name(number), "1.0");
        world.tag(&name(number), "1.0");
    }
    assert_done(&world.transfer());
    assert!((0..PACKAGES).all(|number| world.archive().join(name(number)).join("1.0").is_dir()));
    assert!(said_on(&lines).len() < 1000, "the hello alone");
}

#[test]
fn odd_names_times_and_modes_arrive_as_they_were() {
    let world = world();
    let folder = world.publish("odd", "1.0");
    set_mode(&folder, 0o755);
    let deep = (0..12).fold(folder.clone(), |path, _| path.join("a-folder-with-a-rather-long-name"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join(OsStr::from_bytes(b"not \xff UTF-8, with\nlines")), "deep").unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    symlink("no/where", folder.join("dangling")).unwrap();
    fs::write(folder.join("tool"), "#!/bin/sh\n").unwrap();
    set_mode(&folder.join("tool"), 0o4755);
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_007, 123_456_789);
    fs::File::options().write(true).open(folder.join("tool")).unwrap().set_modified(old).unwrap();
    for path in [folder.join("empty"), deep.clone(), folder.clone()] {
        set_mode(&path, 0o555);
    }
    world.tag("odd", "1.0");
    let output = world.transfer();
    assert_done(&output);
    assert!(words(&output).contains("set-user-id"), "{}", words(&output));
    set_mode(&folder.join("tool"), 0o755);
    let (here, there) = (tree(&folder), tree(&world.archive().join("odd/1.0")));
    assert_eq!(here, there);
    assert!(here.len() > 17 && here.iter().any(|entry| entry.path.as_os_str().len() > 255));
}

#[test]
fn one_bad_package_stops_no_other() {
    let world = world();
    let bad = world.source().join("bad/1.0");
    fs::create_dir_all(&bad).unwrap();
    fs::write(bad.join("descpkg"), "").unwrap();
    nix::unistd::mkfifo(&bad.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    seal(&bad);
    for version in ["1.0", "2.0"] {
        world.publish("core", version);
    }
    for (package, version) in [("core", "1.0"), ("bad", "1.0"), ("core", "2.0")] {
        world.tag(package, version);
    }
    let output = world.transfer();
    assert_eq!(output.status.code(), Some(78), "one bad package, and the run is no success");
    assert!(world.archive().join("core/1.0").is_dir() && world.archive().join("core/2.0").is_dir());
    assert!(!world.archive().join("bad").exists());
    let record = fs::read_to_string(world.rejected().join("bad::1.0"));
    assert!(record.is_ok_and(|record| record.contains("pipe")), "{}", words(&output));
}

#[test]
fn a_rejection_that_cannot_be_written_down_stops_no_other_tag() {
    let world = world();
    let (nonsense, too_long) = (world.tags().join("nonsense"), world.tags().join("x".repeat(250)));
    for version in ["1.0", "2.0"] {
        world.publish("core", version);
    }
    world.tag("core", "1.0");
    fs::write(&nonsense, "").unwrap();
    fs::write(world.rejected(), "in the way").unwrap();
    fs::create_dir(world.tags().join(".claimed")).unwrap();
    fs::write(world.tags().join(".claimed/0000000000000001-core::2.0"), "").unwrap();
    let output = world.transfer();
    assert_eq!(output.status.code(), Some(75), "{}", words(&output));
    assert!(words(&output).contains("cannot reject the tag nonsense"), "{}", words(&output));
    assert!(world.archive().join("core/1.0").is_dir());
    assert!(world.archive().join("core/2.0").is_dir(), "what became due");
    assert_eq!(queued(&world), 1, "the other waits");
    world.publish("core", "3.0");
    world.tag("core", "3.0");
    fs::write(&too_long, "").unwrap();
    let output = world.transfer();
    assert_eq!(output.status.code(), Some(75), "{}", words(&output));
    assert!(words(&output).contains("cannot claim tags"), "{}", words(&output));
    assert!(world.archive().join("core/3.0").is_dir());
    fs::remove_file(world.rejected()).unwrap();
    assert_eq!(world.transfer().status.code(), Some(78));
    assert!(world.rejected().join("nonsense").exists() && !too_long.exists());
}

/// As a folder that was dropped, in which there is one of another user's.
#[test]
fn a_claim_that_cannot_be_cleared_stops_no_other_tag() {
    let world = world();
    for version in ["1.0", "2.0"] {
        world.publish("core", version);
    }
    let stays = world.tags().join(".claimed/0000000000000001-core::1.0/of-another");
    fs::create_dir_all(&stays).unwrap();
    fs::write(stays.join("file"), "").unwrap();
    set_mode(&stays, 0o555);
    world.tag("core", "2.0");
    fs::rename(world.tags().join("core::2.0"), world.tags().join(".claimed/0000000000000002-core::2.0"))
        .unwrap();
    let output = world.transfer_as_any_user();
    assert_eq!(output.status.code(), Some(78), "{}", words(&output));
    assert!(words(&output).contains("cannot clear the tag core::1.0"), "{}", words(&output));
    assert!(world.archive().join("core/1.0").is_dir() && world.archive().join("core/2.0").is_dir());
    assert_eq!(queued(&world), 1, "the other is done");
}

#[test]
fn malformed_tags_and_links_that_lead_elsewhere_are_rejected_with_the_reason() {
    let world = world();
    fs::create_dir(world.source().join("core")).unwrap();
    symlink("../other/1.0", world.source().join("core/out")).unwrap();
    fs::write(world.tags().join("nonsense"), "").unwrap();
    fs::create_dir(world.tags().join("folder::1")).unwrap();
    world.tag("core", "out");
    assert_eq!(world.transfer().status.code(), Some(78));
    let record = |name: &str| fs::read_to_string(world.rejected().join(name)).unwrap();
    assert!(record("nonsense").contains("PACKAGE::VERSION"));
    assert!(record("core::out").contains("../other/1.0"));
    assert!(!world.archive().join("core").exists());
}

#[test]
fn a_helper_that_the_machine_cannot_run_is_told_of() {
    let world = world();
    let foreign = world.root().join("foreign");
    fs::write(&foreign, b"\x7fELF\x02\x01\x01\0 not for this machine").unwrap();
    world.publish("core", "1.0");
    world.tag("core", "1.0");
    let output = world.run(&["transfer", loopback::TARGET, "--helper", foreign.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{}", words(&output));
    assert!(words(&output).contains("cannot run the helper"), "{}", words(&output));
    assert_eq!(fs::read_dir(world.root().join("target/bin")).unwrap().count(), 0, "the upload was left");
    assert_done(&world.transfer());
}

#[test]
fn a_helper_that_cannot_be_put_in_its_place_leaves_nothing_beside_it() {
    let world = world();
    let bin = world.root().join("target/bin");
    fs::create_dir_all(bin.join("blat-target/in-the-way")).unwrap();
    if nix::unistd::geteuid().is_root() {
        // What is root's there is not touched.
        std::os::unix::fs::chown(bin.join("blat-target"), Some(65534), None).unwrap();
    }
    world.publish("core", "1.0");
    world.tag("core", "1.0");
    let output = world.transfer();
    assert_eq!(output.status.code(), Some(75), "{}", words(&output));
    assert!(words(&output).contains("cannot put the helper into"), "{}", words(&output));
    assert_eq!(fs::read_dir(&bin).unwrap().count(), 1, "the upload was left");
    fs::remove_dir_all(bin.join("blat-target")).unwrap();
    assert_done(&world.transfer());
}

/// A package of some hundred kilobytes that nobody can pack, in versions that have most in common.
fn publish_large(world: &Loopback, version: &str) -> PathBuf {
    let folder = world.publish("large", version);
    set_mode(&folder, 0o755);
    let noise = |seed: u64| {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..100_000).map(next).collect::<Vec<_>>()
    };
    let (mut changed, number) = (noise(1), version.len() as u8);
    (0..changed.len()).step_by(997).for_each(|at| changed[at] = changed[at].wrapping_add(number));
    for (name, content) in [("same", noise(2)), ("changed", changed), (version, noise(3))] {
        fs::write(folder.join(name), content).unwrap();
        set_mode(&folder.join(name), 0o444);
    }
    seal(&folder);
    folder
}

fn told_by(output: &Output, base: &str) -> bool {
    words(output).contains(&format!("is told by {base}"))
}

#[test]
fn a_version_is_told_by_the_one_before() {
    let world = world();
    for (version, base) in [("1.0", None), ("1.01", Some("1.0")), ("1.010", Some("1.01"))] {
        let folder = publish_large(&world, version);
        world.tag("large", version);
        let output = world.transfer();
        assert_done(&output);
        assert_eq!(base.is_some_and(|base| told_by(&output, base)), base.is_some(), "{}", words(&output));
        assert!(!words(&output).contains("could not be made"), "{}", words(&output));
        assert_eq!(tree(&folder), tree(&world.archive().join("large").join(version)));
    }
    // Nothing depends on what is remembered.
    fs::remove_dir_all(world.root().join("var/cache/blat")).unwrap();
    let folder = publish_large(&world, "1.0100");
    world.tag("large", "1.0100");
    assert!(told_by(&world.transfer(), "1.010"));
    assert_eq!(tree(&folder), tree(&world.archive().join("large/1.0100")));
}

#[test]
fn what_is_the_same_with_its_time_is_a_hard_link_where_the_configuration_asks() {
    let world = world();
    let text = fs::read_to_string(settings(&world)).unwrap();
    let mut before = None;
    for (version, asked) in [("1.0", false), ("1.01", false), ("1.010", true)] {
        let wanted = text.replace("[target]\n", &format!("[target]\nhard_links = {asked}\n"));
        fs::write(settings(&world), wanted).unwrap();
        let folder = publish_large(&world, version);
        // As cp -p brings it.
        let published = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_600_000_000_123_456_789);
        File::open(folder.join("same")).unwrap().set_modified(published).unwrap();
        world.tag("large", version);
        let output = world.transfer();
        assert_done(&output);
        let arrived = world.archive().join("large").join(version);
        assert_eq!(tree(&folder), tree(&arrived));
        let same = fs::metadata(arrived.join("same")).unwrap();
        assert_eq!((same.nlink(), before == Some(same.ino())), (1 + u64::from(asked), asked));
        before = Some(same.ino());
        assert_eq!(fs::metadata(arrived.join("changed")).unwrap().nlink(), 1);
    }
}

/// What is packed for several targets, and when it was.
fn ready(world: &Loopback) -> Vec<(String, SystemTime)> {
    let all = fs::read_dir(world.root().join("var/cache/blat/ready")).into_iter().flatten().flatten();
    let made = |item: fs::DirEntry| {
        (item.file_name().into_string().unwrap(), item.metadata().unwrap().modified().unwrap())
    };
    let mut made: Vec<_> = all.map(made).filter(|(name, _)| !name.contains('.')).collect();
    made.sort_by_key(|(_, time)| *time);
    made
}

/// Another target is served as long as this is held.
fn serve_another(world: &Loopback) -> File {
    fs::create_dir(world.root().join("var/lib/blat/site2")).unwrap();
    blat::lock::take(&world.root().join("var/lib/blat/site2/transfer.lock"), "a run").unwrap()
}

/// Takes the package away from the target.
fn again(world: &Loopback) {
    let aside = tempfile::tempdir_in(world.root()).unwrap().keep();
    fs::rename(world.archive().join("large"), aside.join("large")).unwrap();
}

#[test]
fn what_other_targets_need_too_is_packed_once() {
    let world = world();
    publish_large(&world, "1.0");
    world.tag("large", "1.0");
    assert_done(&world.transfer());
    assert_eq!(ready(&world), [], "nobody else is served");
    let _other = serve_another(&world);
    let bring = |ids: &[(&str, &str)]| {
        ids.iter().for_each(|(package, version)| world.tag(package, version));
        let output = world.transfer();
        assert_done(&output);
        for (package, version) in ids {
            let id = format!("{package}/{version}");
            assert_eq!(tree(&world.source().join(&id)), tree(&world.archive().join(&id)));
        }
        output
    };
    world.publish("before", "1.0");
    world.publish("next", "1.0");
    again(&world);
    bring(&[("before", "1.0"), ("large", "1.0"), ("next", "1.0")]);
    let first = ready(&world);
    assert_eq!(first.len(), 1);
    again(&world);
    world.publish("next", "1.1");
    bring(&[("large", "1.0"), ("next", "1.1")]);
    assert_eq!(ready(&world), first, "it was packed before");
    publish_large(&world, "1.01");
    assert!(told_by(&bring(&[("large", "1.01")]), "1.0"));
    assert_eq!(ready(&world).len(), 2);
}

#[test]
fn what_was_packed_for_others_and_is_torn_harms_nobody_and_is_packed_anew() {
    let world = world();
    let folder = publish_large(&world, "1.0");
    world.tag("large", "1.0");
    assert_done(&world.transfer());
    let _other = serve_another(&world);
    let content = |bytes: &mut [u8]| bytes[bytes.len() / 2] ^= 1;
    // Behind its frame's header, and zstd's.
    let stream = |bytes: &mut [u8]| bytes[20..1000].fill(0);
    for tear in [content, stream] {
        again(&world);
        world.tag("large", "1.0");
        assert_done(&world.transfer());
        let path = world.root().join("var/cache/blat/ready").join(&ready(&world)[0].0);
        let mut bytes = fs::read(&path).unwrap();
        tear(&mut bytes);
        fs::write(&path, bytes).unwrap();
        again(&world);
        world.tag("large", "1.0");
        let output = world.transfer();
        assert_eq!(output.status.code(), Some(75), "{}", words(&output));
        assert!(!world.archive().join("large/1.0").exists());
        assert_eq!(ready(&world), [], "the next run would fail as well");
        world.tag("large", "1.0");
        assert_done(&world.transfer());
        assert_eq!(tree(&folder), tree(&world.archive().join("large/1.0")));
    }
}

#[test]
fn a_synchronisation_tells_versions_by_those_that_the_target_lists() {
    let world = world();
    for (version, base) in [("1.0", None), ("1.01", Some("1.0"))] {
        let folder = publish_large(&world, version);
        world.want(&[format!("large {version}")]);
        let output = world.sync(&[]);
        assert_done(&output);
        assert_eq!(base.is_some_and(|base| told_by(&output, base)), base.is_some(), "{}", words(&output));
        assert_eq!(tree(&folder), tree(&world.archive().join("large").join(version)));
    }
}

#[test]
fn a_base_that_is_damaged_on_the_target_is_found_told_of_and_does_no_harm() {
    let damage: [fn(&Path); 4] = [
        |base| {
            let mut content = fs::read(base.join("same")).unwrap();
            content[77] ^= 1;
            set_mode(&base.join("same"), 0o644);
            fs::write(base.join("same"), content).unwrap();
        },
        |base| {
            set_mode(&base.join("changed"), 0o644);
            fs::write(base.join("changed"), "short").unwrap();
        },
        |base| fs::remove_file(base.join("1.0")).unwrap(),
        |base| {
            fs::remove_file(base.join("same")).unwrap();
            symlink("/etc/passwd", base.join("same")).unwrap();
        },
    ];
    for damage in damage {
        let world = world();
        publish_large(&world, "1.0");
        world.tag("large", "1.0");
        assert_done(&world.transfer());
        let base = world.archive().join("large/1.0");
        set_mode(&base, 0o755);
        damage(&base);
        let folder = publish_large(&world, "1.01");
        world.tag("large", "1.01");
        let output = world.transfer();
        assert_done(&output);
        assert!(told_by(&output, "1.0"), "{}", words(&output));
        assert!(words(&output).contains("could not be made of what large/1.0 is"), "{}", words(&output));
        assert_eq!(tree(&folder), tree(&world.archive().join("large/1.01")));
    }
}

/// A package of 64 MB that nobody can pack, where the target has a file in its package's place: it refuses it as
/// soon as it begins.
fn publish_refused(world: &Loopback, package: &str) {
    let folder = world.source().join(package).join("1.0");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("descpkg"), "x").unwrap();
    let mut noise = vec![0; 64 << 20];
    blake3::Hasher::new().update(package.as_bytes()).finalize_xof().fill(&mut noise);
    fs::write(folder.join("content"), &noise).unwrap();
    seal(&folder);
    fs::write(world.archive().join(package), "in the way").unwrap();
}

#[test]
fn what_the_target_refuses_is_not_sent_to_its_end_and_what_follows_is() {
    let world = world();
    slowly(&world, "32m");
    publish_refused(&world, "big");
    world.publish("core", "1.0");
    world.tag("big", "1.0");
    world.tag("core", "1.0");
    let output = world.transfer();
    assert!(words(&output).contains("answered before all of it was sent"), "{}", words(&output));
    assert_eq!(content(&world.archive().join("core/1.0")), "some content\n");
}

#[test]
fn a_synchronisation_goes_on_to_its_end_where_the_last_package_is_refused() {
    let world = world();
    slowly(&world, "32m");
    let text = fs::read_to_string(settings(&world)).unwrap();
    fs::write(settings(&world), text + "[aging]\nmode = \"target\"\n").unwrap();
    publish_refused(&world, "big");
    world.want(&["big 1.0".into()]);
    // The first run sends a PackageList behind it.
    for _ in 0..2 {
        let output = world.sync(&[]);
        assert!(words(&output).contains("1 packages were not sent"), "{}", words(&output));
    }
}

/// A package of some files of 6 MB that nobody can pack; each version has most in common with the others.
fn publish_huge(world: &Loopback, version: &str, files: u8) -> PathBuf {
    let folder = world.publish("huge", version);
    set_mode(&folder, 0o755);
    for number in 0..files {
        let mut content = vec![0; 6_000_000];
        blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut content);
        // A tenth of it is this version's own.
        for piece in content.chunks_mut(1_000_000) {
            let mut noise =
                blake3::Hasher::new().update(version.as_bytes()).update(&piece[..100]).finalize_xof();
            noise.fill(&mut piece[..100_000]);
        }
        let path = folder.join(format!("blob{number}"));
        fs::write(&path, content).unwrap();
        set_mode(&path, 0o444);
    }
    seal(&folder);
    folder
}

/// Starts a transfer, and kills it once so much is staged on the target.
fn cut_off(world: &Loopback, bytes: u64) {
    let mut run = world.start_transfer();
    let staged = || {
        let hidden = fs::read_dir(world.archive().join("huge")).into_iter().flatten().flatten();
        let trees = hidden.filter(|item| item.file_name().as_bytes().starts_with(b".blat-"));
        let files = trees.flat_map(|tree| fs::read_dir(tree.path()).into_iter().flatten().flatten());
        files.map(|file| file.metadata().map_or(0, |found| found.len())).sum::<u64>()
    };
    let begin = std::time::Instant::now();
    while staged() < bytes {
        assert!(begin.elapsed() < Duration::from_secs(60), "only {} bytes are staged", staged());
        assert!(run.try_wait().unwrap().is_none(), "it was quicker");
        std::thread::sleep(Duration::from_millis(2));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    // The helper hears of it a moment later, and then keeps what came.
    let sessions = world.archive().join(".dpkg_archive/sessions");
    while fs::read_dir(&sessions).unwrap().next().is_some() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the helper stays");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Limits the line; returns the settings without the limit.
fn slowly(world: &Loopback, bandwidth: &str) -> String {
    let text = fs::read_to_string(settings(world)).unwrap();
    let limited = text.replace("[ssh]\n", &format!("[ssh]\nbandwidth = {bandwidth:?}\n"));
    fs::write(settings(world), limited).unwrap();
    text
}

fn settings(world: &Loopback) -> PathBuf {
    world.root().join("etc/blat/targets/site1.toml")
}

/// How much of the package the target had, as the run says.
fn had(output: &Output, id: &str) -> Option<f64> {
    let words = words(output);
    let (_, rest) = words.split_once(&format!("{id}: the target has "))?;
    rest.split_once(" MiB of it already")?.0.parse().ok()
}

#[test]
fn a_package_that_was_cut_off_goes_on_where_it_was() {
    let world = world();
    slowly(&world, "4m");
    let folder = publish_huge(&world, "1.0", 4);
    world.tag("huge", "1.0");
    cut_off(&world, 9_000_000);
    cut_off(&world, 15_000_000);
    let output = world.transfer();
    assert_done(&output);
    assert!(had(&output, "huge/1.0").is_some_and(|had| had > 14.0), "{}", words(&output));
    assert_eq!(tree(&folder), tree(&world.archive().join("huge/1.0")));
    assert_eq!(fs::read_dir(world.archive().join("huge")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(world.archive().join(".dpkg_archive/partial")).unwrap().count(), 0);
}

#[test]
fn what_is_damaged_of_a_package_that_was_cut_off_comes_again() {
    let world = world();
    slowly(&world, "4m");
    let folder = publish_huge(&world, "1.0", 4);
    world.tag("huge", "1.0");
    cut_off(&world, 15_000_000);
    let hidden = fs::read_dir(world.archive().join("huge")).unwrap().next().unwrap().unwrap().path();
    set_mode(&hidden.join("blob1"), 0o644);
    let mut content = fs::read(hidden.join("blob1")).unwrap();
    content[77] ^= 1;
    fs::write(hidden.join("blob1"), content).unwrap();
    let output = world.transfer();
    assert_done(&output);
    assert!(had(&output, "huge/1.0").is_some_and(|had| (5.0..6.0).contains(&had)), "{}", words(&output));
    assert_eq!(tree(&folder), tree(&world.archive().join("huge/1.0")));
}

#[test]
fn a_package_that_changed_after_it_was_cut_off_takes_nothing_of_what_came() {
    let world = world();
    slowly(&world, "4m");
    let folder = publish_huge(&world, "1.0", 4);
    world.tag("huge", "1.0");
    cut_off(&world, 9_000_000);
    set_mode(&folder.join("blob0"), 0o644);
    fs::write(folder.join("blob0"), "another build").unwrap();
    let output = world.transfer();
    assert_done(&output);
    assert_eq!(had(&output, "huge/1.0"), None, "{}", words(&output));
    assert_eq!(tree(&folder), tree(&world.archive().join("huge/1.0")));
    assert_eq!(fs::read_dir(world.archive().join("huge")).unwrap().count(), 1, "nothing is left of it");
}

#[test]
fn a_package_that_is_told_by_another_goes_on_too() {
    let world = world();
    publish_huge(&world, "1.0", 2);
    world.tag("huge", "1.0");
    assert_done(&world.transfer());
    // Slow enough that it is cut off however busy the machine is.
    let unlimited = slowly(&world, "100k");
    let folder = publish_huge(&world, "1.01", 2);
    world.tag("huge", "1.01");
    cut_off(&world, 6_500_000);
    fs::write(settings(&world), unlimited).unwrap();
    let output = world.transfer();
    assert_done(&output);
    assert!(told_by(&output, "1.0"), "{}", words(&output));
    assert!(had(&output, "huge/1.01").is_some_and(|had| had > 4.0), "{}", words(&output));
    assert!(!words(&output).contains("could not be made"), "{}", words(&output));
    assert_eq!(tree(&folder), tree(&world.archive().join("huge/1.01")));
}

fn seal(folder: &Path) {
    set_mode(&folder.join("descpkg"), 0o555);
    set_mode(folder, 0o555);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What can be seen of an entry, but for when its inode changed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    path: PathBuf,
    mode: u32,
    modified: (i64, i64),
    content: Vec<u8>,
}

fn tree(root: &Path) -> Vec<Entry> {
    let (mut entries, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(at) = open.pop() {
        let found = fs::symlink_metadata(&at).unwrap();
        let content = if found.is_dir() {
            open.extend(fs::read_dir(&at).unwrap().map(|item| item.unwrap().path()));
            Vec::new()
        } else if found.is_symlink() {
            fs::read_link(&at).unwrap().into_os_string().into_encoded_bytes()
        } else {
            fs::read(&at).unwrap()
        };
        let path = at.strip_prefix(root).unwrap().to_owned();
        entries.push(Entry {
            path,
            mode: found.mode(),
            modified: (found.mtime(), found.mtime_nsec()),
            content,
        });
    }
    entries.sort();
    entries
}
