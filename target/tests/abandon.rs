//! What is answered before it has come to its end need not be sent to its end: a host may give it up at any point,
//! in whatever form it comes and whatever protocol is spoken, and what follows is taken as if nothing had been.

mod common;

use blat_target::message::{
    Digest, HostHello, Mend, Outcome, PROTOCOL, PROTOCOL_OLDEST, PackageHead, Partial, RestHead, ToHost,
    ToTarget,
};
use blat_target::stamp::Stamp;
use common::delta::Told;
use common::pack::{Pack, Parts};
use common::{Host, Site, host_hello};

const NEW: Outcome = Outcome::Committed { replaced: false };

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn pack(id: &str) -> Pack {
    Parts::described(id).file("x", &noise(300_000)).pack()
}

fn told(id: &str) -> Told {
    Told::described(id, "0").whole("x", &noise(300_000))
}

/// How something comes, and since which protocol: what begins it, and its bytes.
type Form = (u16, fn(&mut Host, &str, Option<Stamp>) -> Vec<u8>);

/// All forms in which a package comes, with a stamp that may be a lie.
const PACKAGES: [Form; 4] = [
    (1, |host, id, lie| {
        let mut pack = pack(id);
        pack.stamp = lie.unwrap_or(pack.stamp);
        host.begin(&pack);
        pack.plain
    }),
    (3, |host, id, lie| {
        let mut told = Told::in_full(id).whole("x", &noise(300_000));
        told.parts.stamp = lie.unwrap_or(told.parts.stamp);
        host.begin_in_full(&told);
        told.plain_in_full()
    }),
    (2, |host, id, lie| {
        let mut told = told(id);
        told.parts.stamp = lie.unwrap_or(told.parts.stamp);
        host.begin_told(&told);
        told.plain()
    }),
    (2, |host, id, lie| {
        let told = Told::in_full(id).whole("x", &noise(300_000));
        let (id, stamp) = (told.parts.id.clone(), lie.unwrap_or(told.parts.stamp));
        let manifest = told.parts.manifest.encode();
        let digest = Digest(*blake3::hash(&manifest).as_bytes());
        host.say(&ToTarget::Resume(Partial { id: id.clone(), stamp, manifest: digest }));
        assert!(matches!(host.next(), Some(ToHost::KeptPart { bytes: 0, .. })));
        let (number, manifest_length) = (host.number(), manifest.len() as u32);
        let head = PackageHead { number, id, stamp, manifest_length };
        let recipe_length = told.recipe.encode().len() as u32;
        host.say(&ToTarget::Rest(RestHead { head, base: None, recipe_length, files: 0, bytes: 0 }));
        told.plain()
    }),
];

/// Gives up what was begun, behind so many of its bytes, once it was answered.
fn give_up_answered(host: &mut Host, plain: &[u8], bytes: usize) -> Outcome {
    host.bytes(&plain[..bytes]);
    let outcome = host.outcome();
    host.say(&ToTarget::Abandon("it was answered".into()));
    outcome
}

/// What is given up without an answer is refused for later.
fn give_up(host: &mut Host, plain: &[u8], bytes: usize) {
    host.bytes(&plain[..bytes]);
    host.say(&ToTarget::Abandon("it vanished".into()));
    match host.outcome() {
        Outcome::Refused(refusal) => {
            assert_eq!(refusal.mend, Mend::Later);
            assert!(refusal.reason.ends_with("the host gave it up: it vanished"), "{refusal:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// A site that has a/0, and a host of each protocol from this one on; each has to end well.
fn each_protocol(since: u16, act: impl Fn(&mut Host)) {
    for protocol in since.max(PROTOCOL_OLDEST)..=PROTOCOL {
        let site = Site::new();
        site.send(&[pack("a/0")]);
        let mut host = site.connect();
        host.hello(HostHello { protocol, ..host_hello() });
        assert!(matches!(host.next(), Some(ToHost::Hello(_))));
        act(&mut host);
        let ended = host.done();
        assert_eq!(ended.code, Some(0), "protocol {protocol}: {ended:?}");
        assert!(site.leftovers().is_empty());
    }
}

fn follows(host: &mut Host, id: &str) {
    host.send(&Parts::described(id).file("x", id.as_bytes()).pack());
    assert_eq!(host.outcome(), NEW, "{id}");
}

#[test]
fn a_package_is_given_up_at_any_point_whether_or_not_it_was_answered() {
    for (form, (since, begin)) in PACKAGES.into_iter().enumerate() {
        each_protocol(since, |host| {
            let mut nth = 0;
            let mut next = |host: &mut Host| {
                nth += 1;
                follows(host, &format!("b/{nth}"));
            };
            // Of what is refused by its manifest, more may have been sent than that.
            for more in [0, 1, 1000, 200_000, usize::MAX] {
                let plain = begin(host, "a/1", Some(Stamp(5)));
                let manifest = plain.len() - 300_000;
                let outcome = give_up_answered(host, &plain, manifest.saturating_add(more).min(plain.len()));
                assert!(matches!(outcome, Outcome::Refused(_)), "form {form}: {outcome:?}");
            }
            next(host);
            for bytes in [0, 10, 1000, 200_000, usize::MAX] {
                let plain = begin(host, "a/0", None);
                let outcome = give_up_answered(host, &plain, bytes.min(plain.len()));
                assert_eq!(outcome, Outcome::Unchanged, "form {form}");
            }
            next(host);
            for bytes in [0, 10, 1000, 200_000, usize::MAX] {
                let plain = begin(host, "a/1", None);
                give_up(host, &plain, bytes.min(plain.len()));
            }
            next(host);
        });
    }
}

#[test]
fn what_is_mended_is_given_up_at_any_point() {
    each_protocol(2, |host| {
        for (nth, wrong) in [(0, true), (1, true), (2, false), (3, false)] {
            let mut told = told(&format!("a/{}", nth + 1));
            told.base = "9".into();
            let number = host.tell(&told);
            assert!(matches!(host.next(), Some(ToHost::Made { .. })));
            assert!(matches!(host.next(), Some(ToHost::Doubt { .. })));
            let content = [&b"about"[..], blake3::hash(b"about").as_bytes()].concat();
            let plain = [&u32::to_le_bytes(if wrong { 7 } else { 0 })[..], &content].concat();
            host.say(&ToTarget::Mend { number, files: 1 });
            if wrong {
                let outcome = give_up_answered(host, &plain, [4, plain.len()][nth]);
                assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
            } else {
                give_up(host, &plain, [0, plain.len()][nth - 2]);
            }
            follows(host, &format!("b/{nth}"));
        }
    });
}

#[test]
fn a_package_list_and_a_helper_are_given_up_at_any_point() {
    type Begins = fn(u64, u64) -> ToTarget;
    let forms: [(u16, Begins); 2] = [
        (1, |number, length| ToTarget::PackageList { number, length, digest: Digest([0; 32]) }),
        (2, |number, length| ToTarget::Replace { number, length, digest: Digest([0; 32]) }),
    ];
    let plain = noise(300_000);
    for (since, begins) in forms {
        each_protocol(since, |host| {
            for (nth, bytes) in [0, 10, 200_000].into_iter().enumerate() {
                let number = host.number();
                host.say(&begins(number, u64::MAX));
                let outcome = give_up_answered(host, &plain, bytes);
                assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
                follows(host, &format!("b/{nth}"));
            }
            if since == 1 {
                let number = host.number();
                host.say(&begins(number, plain.len() as u64));
                give_up(host, &plain, 200_000);
                follows(host, "c/1");
            }
        });
    }
}

#[test]
fn what_was_closed_cannot_be_given_up() {
    let site = Site::new();
    let mut host = site.host();
    follows(&mut host, "a/1");
    host.say(&ToTarget::Abandon("too late".into()));
    let ended = host.end();
    assert!(ended.failed().unwrap().reason.contains("ended a package that it had not begun"), "{ended:?}");
}

#[test]
fn a_frame_of_the_packed_stream_that_is_left_in_its_middle_breaks_it() {
    let site = Site::new();
    let mut host = site.host();
    let pack = pack("a/1");
    host.begin(&pack);
    let packed = zstd::encode_all(&pack.plain[..], 3).unwrap();
    host.raw(&blat_target::frame::data(&packed[..packed.len() / 2]));
    host.say(&ToTarget::Abandon("gone".into()));
    assert!(matches!(host.outcome(), Outcome::Refused(_)));
    // Its bytes begin another frame.
    host.send(&pack);
    let ended = host.end();
    assert!(ended.failed().unwrap().reason.contains("the packed stream is broken"), "{ended:?}");
}
