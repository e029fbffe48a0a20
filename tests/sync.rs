//! Synchronisations over a private sshd on loopback: what needs no systemd to show.

#[path = "loopback/mod.rs"]
mod loopback;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blat::places::Places;
use blat::report::{self, Report};
use blat::state::{self, Syncs};
use loopback::{Loopback, assert_done, words};

fn world() -> Loopback {
    let blat = PathBuf::from(env!("CARGO_BIN_EXE_blat"));
    let helper = blat.with_file_name("blat-target");
    Loopback::new(&blat, &helper)
}

#[test]
fn a_doubtful_list_is_not_laid_down() {
    let world = world();
    let all: Vec<String> = (0..10).map(|number| format!("core 1.{number}")).collect();
    (0..10).for_each(|number| drop(world.publish("core", &format!("1.{number}"))));
    let lines = || {
        let text = fs::read_to_string(world.archive().join(".dpkg_archive/package_list.txt"));
        text.expect("the PackageList").lines().count()
    };
    world.want(&all);
    assert_done(&world.sync(&[]));
    assert_eq!(lines(), 10);
    world.want(&all[..2]);
    let output = world.sync(&[]);
    let said = words(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("the PackageList on the target stays as it was"), "{said}");
    assert!(said.contains("the PackageList was not laid down"), "{said}");
    assert!(said.contains("say so once: `blat sync --accept-shrink site1`"), "{said}");
    assert_eq!(lines(), 10, "a fifth of what there should have been before");
    assert_done(&world.sync(&["--accept-shrink"]));
    assert_eq!(lines(), 2, "a person says that it is meant");
    world.want(&[&all[..3], &["../core 1.0".into()]].concat());
    world.sync(&[]);
    assert_eq!(lines(), 3, "a row that is none is in no list");
    world.want(&all[..2]);
    assert_done(&world.sync(&["--accept-shrink"]));
    fs::rename(world.source(), world.root().join("away")).unwrap();
    fs::create_dir(world.source()).unwrap();
    let output = world.sync(&[]);
    assert_eq!(output.status.code(), Some(75), "{}", words(&output));
    assert!(words(&output).contains("is it mounted?"), "{}", words(&output));
    assert_eq!(lines(), 2, "the archive is not mounted");
}

#[test]
fn a_run_that_cannot_note_that_it_began_is_told_by_the_state_and_to_the_agent() {
    for name in ["sync.lock", "sync.begun"] {
        let world = world();
        let agent = UnixDatagram::bind(world.root().join("run/blat/site1.report")).unwrap();
        agent.set_nonblocking(true).unwrap();
        world.want(&["core 1.0".into()]);
        fs::create_dir(world.root().join("var/lib/blat/site1").join(name)).unwrap();
        assert_eq!(world.sync(&[]).status.code(), Some(78));
        let places = Places::of(world.root(), &"site1".parse().unwrap());
        let failed = state::read::<Syncs>(&places.syncs()).unwrap().failed;
        assert!(failed.unwrap().reason.contains(name));
        let mut datagram = [0; 4096];
        let length = agent.recv(&mut datagram).unwrap();
        let told = report::decode(&datagram[..length]).unwrap();
        assert!(matches!(told, Report::SyncFailed { person: true, .. }), "{told:?}");
    }
}

#[test]
fn what_is_asked_for_while_a_synchronisation_runs_comes_behind_it() {
    let world = world();
    let large = world.publish("large", "1.0");
    let file = large.join("content");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let mut noise = vec![0; 4 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    fs::write(&file, noise).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    world.publish("core", "1.0");
    world.want(&["large 1.0".into()]);
    let settings = world.root().join("etc/blat/targets/site1.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let limited = text.replace("[ssh]", "[ssh]\nbandwidth = \"1m\"");
    assert_ne!(limited, text);
    fs::write(&settings, &limited).unwrap();
    let running = world.start_sync();
    let (state, begin) = (world.root().join("var/lib/blat/site1"), Instant::now());
    while !state.join("missing.json").exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it does not begin to send");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The settings are others by then, too.
    fs::write(&settings, text + "[packages]\ncore = \"1.0\"\n").unwrap();
    assert!(!world.archive().join("large/1.0").exists(), "it was over too soon");
    blat::trigger::touch(&world.root().join("run/blat/site1/sync"));
    let output = running.wait_with_output().unwrap();
    assert_done(&output);
    assert!(world.archive().join("core/1.0").exists(), "{}", words(&output));
}
