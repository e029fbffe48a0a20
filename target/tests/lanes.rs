//! Sessions whose bytes come by several channels.

mod common;

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

use blat_target::frame;
use blat_target::lanes::Lane;
use blat_target::message::{Digest, HostHello, Outcome, PROTOCOL, ToHost, ToTarget};
use blat_target::said;
use common::delta::Told;
use common::{Host, Site, host_hello};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

const NEW: Outcome = Outcome::Committed { replaced: false };
/// What protocol.md names,
const AFTER: usize = 524_288;
/// and for who speaks protocol 7.
const AFTER_OF_7: usize = 8_388_608;

fn noise(length: usize) -> Vec<u8> {
    let mut noise = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

/// A key that no other test has.
fn key() -> Digest {
    let unique = tempfile::tempdir().unwrap();
    Digest(*blake3::hash(unique.path().as_os_str().as_encoded_bytes()).as_bytes())
}

/// The socket of the session that is known by a key.
fn address(key: Digest) -> SocketAddr {
    SocketAddr::from_abstract_name(format!("blat-{}", said::encode(&key.0))).unwrap()
}

fn lane(site: &Site, key: Digest, number: u8) -> Command {
    let mut command = site.command();
    command.args(["serve", "--join", &Lane { key, number }.encode()]);
    command
}

/// A session to which lanes have come.
fn with_lanes(site: &Site, lanes: u8) -> Host {
    with_lanes_by(site, PROTOCOL, lanes)
}

/// Likewise, of a host that speaks this protocol.
fn with_lanes_by(site: &Site, protocol: u16, lanes: u8) -> Host {
    let (mut host, key) = (site.connect(), key());
    host.hello(HostHello { protocol, ..host_hello() });
    assert!(matches!(host.next(), Some(ToHost::Hello(_))));
    // Whoever comes first waits for the other.
    host.join(lane(site, key, 1));
    host.say(&ToTarget::Gather { key, lanes });
    (2..=lanes).for_each(|number| host.join(lane(site, key, number)));
    assert_eq!(host.next(), Some(ToHost::Gathered));
    host
}

#[test]
fn what_comes_by_several_lanes_arrives_as_it_was() {
    let site = Site::new();
    let mut host = with_lanes(&site, 3);
    let content = noise(AFTER + (7 << 20) + 5);
    let told = Told::in_full("a/1").whole("x", &content);
    host.begin_in_full(&told);
    // In the middle of a package, as a large one has it.
    host.spread(AFTER);
    host.bytes(&told.plain_in_full());
    host.say(&ToTarget::PackageEnd);
    assert_eq!(host.outcome(), NEW);
    host.send_in_full(&Told::in_full("a/2").whole("x", b"small"));
    assert_eq!(host.outcome(), NEW);
    let ended = host.done();
    assert_eq!((ended.code, &ended.lanes[..]), (Some(0), &[Some(0); 3][..]), "{ended:?}");
    assert!(std::fs::read(site.archive().join("a/1/x")).unwrap() == content);
    assert_eq!(std::fs::read(site.archive().join("a/2/x")).unwrap(), b"small");
    assert!(site.leftovers().is_empty());
}

/// What is inflated sixteen times comes quicker than it is done with: what is read ahead of it must leave to the
/// lanes what is theirs.
#[test]
fn a_session_may_be_spread_in_the_middle_of_much() {
    let site = Site::new();
    for (number, protocol, after) in [(1, 7, AFTER_OF_7), (2, PROTOCOL, AFTER)] {
        let mut host = with_lanes_by(&site, protocol, 3);
        let mut content: Vec<u8> = noise(3 << 20).chunks(1 << 10).flat_map(|some| some.repeat(16)).collect();
        let first = content.len();
        content.extend(noise(after + (1 << 20)));
        let told = Told::in_full(&format!("a/{number}")).whole("x", &content);
        host.begin_in_full(&told);
        let plain = told.plain_in_full();
        host.bytes(&plain[..first]);
        host.spread(after);
        host.bytes(&plain[first..]);
        host.say(&ToTarget::PackageEnd);
        assert_eq!(host.outcome(), NEW);
        assert_eq!(host.done().code, Some(0));
        assert!(std::fs::read(site.archive().join(format!("a/{number}/x"))).unwrap() == content);
    }
}

/// The lane that is slowest keeps nobody from sending by the others.
#[test]
fn what_comes_too_soon_waits_for_what_comes_before_it() {
    let site = Site::new();
    let mut host = with_lanes(&site, 2);
    let content = noise(AFTER + (3 << 20));
    let told = Told::in_full("a/1").whole("x", &content);
    host.begin_in_full(&told);
    host.spread(AFTER);
    let frames: Vec<_> = told.plain_in_full().chunks(500_000).flat_map(stored).collect();
    let (alone, spread) = frames.split_at(AFTER);
    host.raw(alone);
    let blocks: Vec<_> = (0..).step_by(50_000).zip(spread.chunks(50_000)).collect();
    // Each lane has its own in their order, as they must.
    for lane in [2, 1, 0] {
        let mut of_lane = blocks.iter().skip(lane).step_by(3);
        assert!(of_lane.all(|(place, block)| host.block(lane, *place, block)));
    }
    let came = loop {
        match host.next_of_all() {
            Some(ToHost::Came { place, lanes }) if place > 0 => break lanes,
            Some(ToHost::Came { .. } | ToHost::Alive | ToHost::Partial(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(came[2] > 900_000 && came[1] > 900_000, "{came:?}: they had come before");
    host.sent_in_blocks(spread.len() as u64);
    host.say(&ToTarget::PackageEnd);
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    assert!(std::fs::read(site.archive().join("a/1/x")).unwrap() == content);
}

/// A piece of the packed stream that is a frame of zstd's by itself.
fn stored(plain: &[u8]) -> Vec<u8> {
    frame::data(&zstd::bulk::compress(plain, 1).unwrap())
}

#[test]
fn a_host_of_an_older_protocol_stays_on_one_channel() {
    let site = Site::new();
    let mut host = site.connect();
    host.hello(HostHello { protocol: 6, ..host_hello() });
    assert!(matches!(host.next(), Some(ToHost::Hello(hello)) if hello.protocol == 6));
    host.say(&ToTarget::Gather { key: key(), lanes: 1 });
    host.send_in_full(&Told::in_full("a/1"));
    assert_eq!(host.outcome(), NEW);
    let ended = host.done();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_session_that_is_not_spread_has_no_use_for_its_lanes() {
    let site = Site::new();
    let mut host = with_lanes(&site, 1);
    host.send_in_full(&Told::in_full("a/1"));
    assert_eq!(host.outcome(), NEW);
    let ended = host.done();
    assert_eq!((ended.code, &ended.lanes[..]), (Some(0), &[Some(0)][..]), "{ended:?}");
}

#[test]
fn a_lane_that_breaks_ends_the_session_as_a_cut_line_does() {
    let site = Site::new();
    let mut host = with_lanes(&site, 2);
    let content = noise(AFTER_OF_7 + (2 << 20));
    let told = Told::in_full("a/1").whole("x", &content);
    host.begin_in_full(&told);
    // So much before the break is kept.
    host.spread(AFTER_OF_7);
    host.cut_lane(1);
    host.bytes(&told.plain_in_full());
    let ended = host.end();
    assert_eq!((ended.code, &ended.lanes[..]), (Some(75), &[Some(0); 2][..]), "{ended:?}");
    assert!(ended.stderr.contains("ended in the middle of a session"), "{}", ended.stderr);
    // What came before the break is kept.
    let mut host = site.host();
    assert!(matches!(host.next(), Some(ToHost::Partial(partial)) if partial.len() == 1));
    assert_eq!(host.done().code, Some(0));
}

#[test]
fn a_forced_command_can_be_a_lane() {
    let site = Site::new();
    let (mut host, key) = (site.host(), key());
    host.say(&ToTarget::Gather { key, lanes: 1 });
    let mut command = site.command();
    command.args(["serve", "--archive", "dpkg_archive"]);
    command.env("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22");
    let line = format!("bin/blat-target serve --join {}", Lane { key, number: 1 }.encode());
    command.env("SSH_ORIGINAL_COMMAND", line);
    host.join(command);
    assert_eq!(host.next(), Some(ToHost::Gathered));
    assert_eq!(host.done().code, Some(0));
}

#[test]
fn lanes_of_another_number_leave_the_session_as_it_is() {
    let site = Site::new();
    let (mut host, key) = (site.host(), key());
    host.join(lane(&site, key, 2));
    host.say(&ToTarget::Gather { key, lanes: 1 });
    assert_eq!(host.lanes_ended(), [Some(0)]);
    host.send_in_full(&Told::in_full("a/1"));
    assert_eq!(host.outcome(), NEW);
    let ended = host.done();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("stays on one channel"), "{}", ended.stderr);
}

/// Others of the machine may come to the socket, and have something to hand over.
#[test]
fn whoever_else_comes_to_a_session_is_none_of_its_lanes() {
    if !common::is_root() {
        eprintln!("not tested: only root can be another user than the helper's");
        return;
    }
    let site = Site::new();
    let (mut host, key) = (site.host(), key());
    host.say(&ToTarget::Gather { key, lanes: 1 });
    // As soon as the session listens.
    let begin = Instant::now();
    let stranger = loop {
        match UnixStream::connect_addr(&address(key)) {
            Ok(stranger) => break stranger,
            Err(why) => assert!(begin.elapsed() < Duration::from_secs(60), "{why}"),
        }
    };
    let (input, _held) = nix::unistd::pipe().unwrap();
    let rights = [input.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&rights)];
    // The session may have sent it away by now.
    let _ = sendmsg::<()>(stranger.as_raw_fd(), &[IoSlice::new(&[1])], &rights, MsgFlags::empty(), None);
    host.join(lane(&site, key, 1));
    assert_eq!(host.next(), Some(ToHost::Gathered));
    let told = Told::in_full("a/1").whole("x", &noise(AFTER + (1 << 20)));
    host.begin_in_full(&told);
    host.spread(AFTER);
    host.bytes(&told.plain_in_full());
    host.say(&ToTarget::PackageEnd);
    assert_eq!(host.outcome(), NEW);
    let ended = host.done();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("the user 0 is at the other end of its socket"), "{}", ended.stderr);
}

/// What the host may not say ends the session, and is named.
#[test]
fn a_host_that_spreads_what_it_may_not_is_refused() {
    let failed = |host: Host| {
        let ended = host.end();
        assert_eq!(ended.code, Some(78), "{ended:?}");
        ended.failed().unwrap().reason.clone()
    };
    let site = Site::new();
    let mut host = site.host();
    host.say(&ToTarget::Spread { after: AFTER as u64 });
    assert!(failed(host).contains("over channels that it has not"));
    let mut host = with_lanes(&site, 1);
    host.say(&ToTarget::Spread { after: AFTER as u64 - 1 });
    assert!(failed(host).contains("behind 524287 bytes already"));
    let mut host = with_lanes_by(&site, 7, 1);
    host.say(&ToTarget::Spread { after: AFTER_OF_7 as u64 - 1 });
    assert!(failed(host).contains("behind 8388607 bytes already"));
    for lanes in [0, 16] {
        let mut host = site.host();
        host.say(&ToTarget::Gather { key: key(), lanes });
        assert!(failed(host).contains(&format!("or for {lanes} of them")));
    }
    let mut host = with_lanes(&site, 1);
    host.say(&ToTarget::Gather { key: key(), lanes: 1 });
    assert!(failed(host).contains("asked for channels again"));
    let mut host = site.connect();
    host.hello(HostHello { protocol: 3, ..host_hello() });
    host.say(&ToTarget::Gather { key: key(), lanes: 1 });
    assert!(failed(host).contains("this session's protocol does not have"));
}

#[test]
fn blocks_that_no_host_may_send_end_the_session() {
    // Blocks by the lanes, with their places; the last of them is what the host may not send.
    let refused = |mut blocks: &mut dyn Iterator<Item = (usize, u64, &[u8])>| {
        let site = Site::new();
        let mut host = with_lanes(&site, 1);
        let told = Told::in_full("a/1").whole("x", &noise(AFTER + (9 << 20)));
        host.begin_in_full(&told);
        host.spread(AFTER);
        host.bytes(&told.plain_in_full()[..AFTER + (1 << 20)]);
        let is_taken = (&mut blocks).all(|(lane, place, block)| host.block(lane, place, block));
        assert!(is_taken || blocks.next().is_none(), "it ended before");
        let ended = host.end();
        assert_eq!(ended.code, Some(78), "{ended:?}");
        ended.failed().unwrap().reason.clone()
    };
    let (far, long) = (64 << 20, &[0; 65_537][..]);
    for length in [0, long.len()] {
        let reason = refused(&mut [(1, far, &long[..length])].into_iter());
        assert!(reason.contains(&format!("a block of {length} bytes")), "{reason}");
    }
    for blocks in [vec![(1, 7, &b"again"[..])], vec![(0, far, b"too soon"), (1, far, b"too soon")]] {
        let reason = refused(&mut blocks.into_iter());
        assert!(reason.contains("a part of the session twice"), "{reason}");
    }
    // What may wait for two lanes, and a block more.
    let places = (far..).step_by(65_536).take(65);
    let reason = refused(&mut places.map(|place| (1, place, &long[1..])));
    assert!(reason.contains("more than may wait for what comes before it"), "{reason}");
}

#[test]
fn a_lane_does_not_give_its_input_to_another_user() {
    if !common::is_root() {
        eprintln!("not tested: only root can be another user than the helper's");
        return;
    }
    let (site, key) = (Site::new(), key());
    let listener = UnixListener::bind_addr(&address(key)).unwrap();
    let refused = lane(&site, key, 1).output().unwrap();
    drop(listener);
    assert_eq!(refused.status.code(), Some(75));
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(words.contains("the user 0 is at the other end of its socket"), "{words}");
}
