//! Large packages that a session breaks off in the middle: what came is kept, told, and gone on with,
//! wherever it was cut; what is kept is never trusted, shared, or kept for nothing.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use blat_target::delta::{CHUNK, GROUP, Recipe, Source, Streams, seal};
use blat_target::message::{DeltaHead, Digest, Outcome, PackageHead, Partial, RestHead, ToHost, ToTarget};
use blat_target::package::Name;
use blat_target::stamp::Stamp;
use common::pack::{Pack, Parts, STAMP};
use common::{Host, Site};

const NEW: Outcome = Outcome::Committed { replaced: false };
const FILE: usize = 3 << 20;
/// What a cut may cost beside the part that is sent for the first time: what waits in buffers.
const COSTS: usize = 1 << 20;

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A package of 12 MiB in five files.
#[derive(Clone)]
struct Large {
    parts: Parts,
    files: Vec<Vec<u8>>,
}

impl Large {
    fn new(id: &str) -> Self {
        let mut large = Self { parts: Parts::new(id), files: Vec::new() }.file("descpkg", b"about".to_vec());
        large.parts = large.parts.folder("f");
        for number in 0..4u64 {
            large = large.file(&format!("f/{number}"), noise(FILE, number));
        }
        large.parts.manifest.entries[2].mode = 0o555;
        large
    }

    fn file(mut self, path: &str, content: Vec<u8>) -> Self {
        self.parts = self.parts.file(path, &content);
        self.files.push(content);
        self
    }

    fn pack(&self) -> Pack {
        self.parts.clone().pack()
    }

    fn what(&self) -> Partial {
        let manifest = Digest(*blake3::hash(&self.parts.manifest.encode()).as_bytes());
        Partial { id: self.parts.id.clone(), stamp: self.parts.stamp, manifest }
    }

    /// How many files are as told, and how many bytes of the next one.
    fn start(&self, kept: &Kept) -> (usize, usize) {
        let same = |(kept, file): &(&Digest, &Vec<u8>)| kept.0 == *blake3::hash(file).as_bytes();
        let files = kept.digests.iter().zip(&self.files).take_while(same).count();
        let (bytes, digest) = (kept.bytes as usize, kept.digest);
        let agrees = |file: &Vec<u8>| blake3::hash(&file[..bytes]).as_bytes() == &digest.0;
        let whole = files == kept.digests.len() && self.files.get(files).is_some_and(agrees);
        (files, if whole { bytes } else { 0 })
    }

    fn sealed(&self) -> Vec<u8> {
        let digests: Vec<_> = self.files.iter().map(|file| Digest(*blake3::hash(file).as_bytes())).collect();
        digests.chunks(GROUP).flat_map(|group| seal(group.iter().copied()).0).collect()
    }

    /// Manifest, recipe, content from a place on, and seals.
    fn rest(&self, (files, bytes): (usize, usize)) -> Vec<u8> {
        let recipe = Recipe { files: vec![Source::Whole; self.files.len()] };
        let content = self.files[files..].concat();
        [self.parts.manifest.encode(), recipe.encode(), content[bytes..].to_vec(), self.sealed()].concat()
    }

    fn assert_arrived(&self, site: &Site) {
        let at = site.archive().join(self.parts.id.to_string());
        let files: Vec<_> = self.parts.manifest.files().map(|(entry, ..)| entry.clone()).collect();
        for (entry, content) in files.iter().zip(&self.files) {
            let path = at.join(String::from_utf8(entry.path.clone()).unwrap());
            assert!(fs::read(&path).unwrap() == *content, "{}", path.display());
            let found = fs::metadata(&path).unwrap();
            assert_eq!(
                (found.mtime(), found.mtime_nsec(), found.mode() & 0o777),
                (STAMP, 123_456_789, 0o644)
            );
        }
        assert_eq!(fs::metadata(at.join("f")).unwrap().mode() & 0o777, 0o555);
        assert_eq!(fs::read_dir(at.join("f")).unwrap().count(), files.len() - 1);
        assert_nothing_left(site);
    }
}

/// What the target says that it keeps.
#[derive(Debug, PartialEq)]
struct Kept {
    digests: Vec<Digest>,
    bytes: u64,
    digest: Digest,
}

impl Kept {
    fn total(&self, large: &Large) -> usize {
        large.files[..self.digests.len()].iter().map(Vec::len).sum::<usize>() + self.bytes as usize
    }
}

trait Resuming {
    fn partial(&mut self) -> Vec<Partial>;
    fn resume(&mut self, what: Partial) -> Kept;
    fn head(&mut self, large: &Large) -> PackageHead;
    fn begin_delta(&mut self, large: &Large, recipe: &Recipe);
    fn begin_rest(
        &mut self,
        large: &Large,
        base: Option<&str>,
        recipe: &Recipe,
        start: (usize, usize),
    ) -> u64;
    fn send_rest(&mut self, large: &Large, start: (usize, usize));
}

impl Resuming for Host {
    /// What the target says behind its hello.
    fn partial(&mut self) -> Vec<Partial> {
        match self.next() {
            Some(ToHost::Partial(partial)) => partial,
            other => panic!("nothing is kept: {other:?}"),
        }
    }

    fn resume(&mut self, what: Partial) -> Kept {
        self.say(&ToTarget::Resume(what));
        let mut all = Vec::new();
        loop {
            match self.next() {
                Some(ToHost::Kept(digests)) => all.extend(digests),
                Some(ToHost::KeptPart { bytes, digest }) => return Kept { digests: all, bytes, digest },
                Some(ToHost::Partial(_)) => {}
                other => panic!("no answer: {other:?}"),
            }
        }
    }

    fn head(&mut self, large: &Large) -> PackageHead {
        let manifest_length = large.parts.manifest.encode().len() as u32;
        let (number, id, stamp) = (self.number(), large.parts.id.clone(), large.parts.stamp);
        PackageHead { number, id, stamp, manifest_length }
    }

    /// Begins a package that is told by the version 0.
    fn begin_delta(&mut self, large: &Large, recipe: &Recipe) {
        let (head, base, base_stamp) = (self.head(large), "0".parse().unwrap(), Stamp(STAMP));
        let recipe_length = recipe.encode().len() as u32;
        self.say(&ToTarget::Delta(DeltaHead { head, base, base_stamp, recipe_length }));
    }

    fn begin_rest(
        &mut self,
        large: &Large,
        base: Option<&str>,
        recipe: &Recipe,
        (files, bytes): (usize, usize),
    ) -> u64 {
        let head = self.head(large);
        let number = head.number;
        let base = base.map(|base| (base.parse::<Name>().unwrap(), Stamp(STAMP)));
        let recipe_length = recipe.encode().len() as u32;
        let (files, bytes) = (files as u32, bytes as u64);
        self.say(&ToTarget::Rest(RestHead { head, base, recipe_length, files, bytes }));
        number
    }

    fn send_rest(&mut self, large: &Large, start: (usize, usize)) {
        let recipe = Recipe { files: vec![Source::Whole; large.files.len()] };
        self.begin_rest(large, None, &recipe, start);
        self.bytes(&large.rest(start));
        self.say(&ToTarget::PackageEnd);
    }
}

fn kept_records(site: &Site) -> Vec<PathBuf> {
    let listed = fs::read_dir(site.archive().join(".dpkg_archive/partial")).into_iter().flatten();
    listed.map(|entry| entry.unwrap().path()).collect()
}

fn assert_nothing_left(site: &Site) {
    assert!(site.leftovers().is_empty(), "{:?}", site.leftovers());
    assert!(kept_records(site).is_empty(), "{:?}", kept_records(site));
}

fn staged(site: &Site) -> usize {
    let trees = site.leftovers().into_iter().map(|path| path.join("f"));
    let files = trees.flat_map(|path| fs::read_dir(path).into_iter().flatten().flatten());
    files.map(|it| length(&it.path())).sum()
}

fn length(path: &Path) -> usize {
    fs::metadata(path).map_or(0, |found| found.len() as usize)
}

#[track_caller]
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A session in the middle of a package, all that was sent of it received: so many bytes, its manifest with them.
fn half_sent(site: &Site, large: &Large, bytes: usize) -> Host {
    let mut host = site.host();
    let pack = large.pack();
    let manifest = pack.manifest_length as usize;
    host.begin(&pack);
    host.bytes(&pack.plain[..bytes]);
    let is_on_record = || kept_records(site).iter().any(|record| length(record) > manifest);
    wait_until("it is on record", || is_on_record() && !site.leftovers().is_empty());
    wait_until("all is received", || staged(site) + (256 << 10) >= bytes.saturating_sub(FILE / 100));
    host
}

fn purge(site: &Site) {
    assert!(site.command().arg("purge").status().unwrap().success());
}

fn number(below: usize) -> usize {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    (u64::from_le_bytes(bytes) % below as u64) as usize
}

#[test]
fn a_package_cut_anywhere_again_and_again_goes_on_where_it_was() {
    for kill in [false, true] {
        let (site, large) = (Site::new(), Large::new("a/1"));
        let total = 4 * FILE;
        let first = large.parts.manifest.encode().len() + number(total);
        let host = half_sent(&site, &large, first);
        if kill {
            host.kill()
        } else {
            host.end()
        };
        let mut there = first;
        for round in 0..6 {
            let mut host = site.host();
            assert_eq!(host.partial(), [large.what()]);
            let kept = host.resume(large.what());
            assert!(kept.total(&large) + COSTS > there, "round {round}: {} of {there}", kept.total(&large));
            there = kept.total(&large);
            let start = large.start(&kept);
            assert_eq!(start, (kept.digests.len(), kept.bytes as usize), "what is kept is right");
            if round == 5 {
                host.send_rest(&large, start);
                assert_eq!(host.outcome(), NEW);
                assert_eq!(host.done().code, Some(0));
                break;
            }
            let recipe = Recipe { files: vec![Source::Whole; large.files.len()] };
            host.begin_rest(&large, None, &recipe, start);
            let rest = large.rest(start);
            let more = number((total - there).max(2) / 2).min(rest.len() - 1);
            host.bytes(&rest[..more]);
            std::thread::sleep(Duration::from_millis(number(100) as u64));
            if kill {
                host.kill()
            } else {
                host.end()
            };
        }
        large.assert_arrived(&site);
    }
}

#[test]
fn what_is_kept_is_no_version_and_a_session_of_the_oldest_protocol_hears_nothing_of_it() {
    let (site, large) = (Site::new(), Large::new("a/1"));
    half_sent(&site, &large, 2 * FILE).end();
    let mut host = site.connect();
    host.hello(blat_target::message::HostHello { protocol: 1, ..common::host_hello() });
    assert!(matches!(host.next(), Some(ToHost::Hello(_))));
    assert_eq!(host.query(&["a/1"]), [blat_target::message::Standing::Absent]);
    host.say(&ToTarget::List { known: None });
    let listed = host.next();
    assert!(!matches!(listed, Some(ToHost::Partial(_))), "{listed:?}");
    host.send(&large.pack());
    assert_eq!(host.done().outcomes(), [NEW]);
    large.assert_arrived(&site);
}

#[test]
fn what_is_damaged_of_it_comes_again() {
    let (site, large) = (Site::new(), Large::new("a/1"));
    half_sent(&site, &large, 3 * FILE + FILE / 2).end();
    // As after a power cut: the length is there, the bytes are not.
    let tree = site.leftovers().into_iter().find(|path| path.join("f").is_dir()).unwrap();
    let length = fs::metadata(tree.join("f/1")).unwrap().len();
    let file = File::options().write(true).open(tree.join("f/1")).unwrap();
    file.set_len(0).unwrap();
    file.set_len(length).unwrap();
    let mut host = site.host();
    host.partial();
    let kept = host.resume(large.what());
    assert_eq!(kept.digests.len(), 4, "all is told as it is");
    assert_eq!(large.start(&kept), (2, 0), "descpkg and f/0");
    host.send_rest(&large, (2, 0));
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    large.assert_arrived(&site);
}

#[test]
fn what_does_not_belong_to_it_is_not_taken_over() {
    let (site, large) = (Site::new(), Large::new("a/1"));
    half_sent(&site, &large, 2 * FILE + FILE / 2).kill();
    let tree = site.leftovers().into_iter().find(|path| path.join("f").is_dir()).unwrap();
    fs::write(tree.join("f/more"), "not announced").unwrap();
    let secret = site.folder("outside").join("secret");
    fs::write(&secret, noise(FILE, 0)).unwrap();
    site.give(&secret);
    fs::remove_file(tree.join("f/0")).unwrap();
    std::os::unix::fs::symlink(&secret, tree.join("f/0")).unwrap();
    let mut host = site.host();
    host.partial();
    let kept = host.resume(large.what());
    assert_eq!((kept.digests.len(), kept.bytes), (1, 0), "a symlink is no file");
    host.send_rest(&large, (1, 0));
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    assert!(secret.exists());
    large.assert_arrived(&site);
}

#[test]
fn a_host_that_lies_of_what_is_kept_is_refused() {
    let large = Large::new("a/1");
    let lies: [(usize, usize); 3] = [(5, 0), (2, FILE), (3, FILE - 1)];
    for lie in lies {
        let site = Site::new();
        half_sent(&site, &large, 2 * FILE + FILE / 2).end();
        let mut host = site.host();
        host.partial();
        let kept = host.resume(large.what());
        assert_eq!(kept.digests.len(), 3);
        assert!((kept.bytes as usize) < FILE);
        host.send_rest(&large, lie);
        match host.outcome() {
            Outcome::Refused(refusal) => assert!(refusal.reason.contains("more than is kept"), "{refusal:?}"),
            other => panic!("{other:?}"),
        }
        host.send(&Parts::described("b/1").pack());
        assert_eq!(host.outcome(), NEW, "the session goes on");
        assert_eq!(host.done().code, Some(0));
        assert_nothing_left(&site);
    }
}

#[test]
fn content_that_does_not_keep_its_seal_is_refused() {
    let (site, large) = (Site::new(), Large::new("a/1"));
    half_sent(&site, &large, 2 * FILE + FILE / 2).end();
    let mut host = site.host();
    host.partial();
    let start = large.start(&host.resume(large.what()));
    let mut other = large.clone();
    let last = other.files.last_mut().unwrap();
    last[FILE / 2] ^= 1;
    let recipe = Recipe { files: vec![Source::Whole; 5] };
    host.begin_rest(&large, None, &recipe, start);
    let mut plain = other.rest(start);
    let sealed = plain.len() - 32;
    plain.truncate(sealed);
    plain.extend(large.sealed());
    host.bytes(&plain);
    host.say(&ToTarget::PackageEnd);
    assert!(matches!(host.outcome(), Outcome::Refused(_)));
    assert_eq!(host.done().code, Some(0));
    assert_nothing_left(&site);
}

#[test]
fn another_manifest_takes_nothing_of_it_and_what_was_not_asked_about_ends_the_session() {
    let (site, large) = (Site::new(), Large::new("a/1"));
    half_sent(&site, &large, 2 * FILE).end();
    let mut host = site.host();
    host.partial();
    host.resume(large.what());
    let mut other = large.clone();
    other.parts.manifest.entries[1].mode = 0o600;
    host.send_rest(&other, (1, 0));
    match host.outcome() {
        Outcome::Refused(refusal) => assert!(refusal.reason.contains("another manifest"), "{refusal:?}"),
        other => panic!("{other:?}"),
    }
    host.send_rest(&large, (1, 0));
    let ended = host.done();
    assert!(ended.failed().unwrap().reason.contains("did not ask about"), "{ended:?}");
    // Nothing is kept of what nobody knows.
    let mut host = site.host();
    let nothing = Kept { digests: Vec::new(), bytes: 0, digest: Digest(*blake3::hash(b"").as_bytes()) };
    assert_eq!(host.resume(Partial { stamp: Stamp(1), ..large.what() }), nothing);
    assert_eq!(host.done().code, Some(0));
}

#[test]
fn a_package_told_by_another_goes_on_at_a_chunk() {
    let site = Site::new();
    let old = noise(3 * CHUNK, 1);
    assert_eq!(site.send(&[Parts::described("a/0").file("x", &old).pack()]), [NEW]);
    let mut new = old.clone();
    (0..new.len()).step_by(1000).for_each(|at| new[at] ^= 1);
    let mut large = Large { parts: Parts::new("a/1"), files: Vec::new() };
    large = large.file("descpkg", b"about".to_vec()).file("x", new.clone());
    let chunk = |at: usize| {
        // As it is: what it is made of does not matter here.
        common::delta::chunk(&[], &Streams::whole(&new[at..at + CHUNK]))
    };
    let recipe = Recipe {
        files: vec![
            Source::Same(blat_target::delta::Origin::SamePath),
            Source::Changed(blat_target::delta::Origin::SamePath),
        ],
    };
    let begin = [large.parts.manifest.encode(), recipe.encode()].concat();
    let mut host = site.host();
    host.begin_delta(&large, &recipe);
    host.bytes(&[&begin[..], &chunk(0), &chunk(CHUNK)].concat());
    host.end();
    let mut host = site.host();
    assert_eq!(host.partial(), [large.what()]);
    let kept = host.resume(large.what());
    assert_eq!((kept.digests.len(), kept.bytes as usize), (1, 2 * CHUNK));
    assert_eq!(large.start(&kept), (1, 2 * CHUNK));
    // Only whole chunks can be gone on from: not this one,
    host.begin_rest(&large, Some("0"), &recipe, (1, CHUNK + 1));
    host.bytes(&[&begin[..], &chunk(CHUNK)].concat());
    host.say(&ToTarget::PackageEnd);
    assert!(matches!(host.outcome(), Outcome::Refused(refusal) if refusal.reason.contains("in the middle")));
    assert_eq!(host.done().code, Some(0));
    assert_nothing_left(&site);
    // but this one.
    let mut host = site.host();
    host.begin_delta(&large, &recipe);
    host.bytes(&[&begin[..], &chunk(0), &chunk(CHUNK)].concat());
    let made = || site.leftovers().iter().any(|it| length(&it.join("x")) >= CHUNK);
    wait_until("a chunk is made", made);
    host.kill();
    let mut host = site.host();
    host.partial();
    let start = large.start(&host.resume(large.what()));
    assert!(start.1 >= CHUNK, "{start:?}");
    let start = (start.0, start.1 - start.1 % CHUNK);
    host.begin_rest(&large, Some("0"), &recipe, start);
    let rest: Vec<u8> = (start.1..3 * CHUNK).step_by(CHUNK).flat_map(chunk).collect();
    host.bytes(&[&begin[..], &rest, &large.sealed()].concat());
    host.say(&ToTarget::PackageEnd);
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    assert!(fs::read(site.archive().join("a/1/x")).unwrap() == new);
    assert_nothing_left(&site);
}

/// A package of 12 MiB that is told by a/0, what its data frames inflate to up to its content, and a
/// chunk of changes for each 4 MiB of it.
fn told(site: &Site) -> (Large, Recipe, Vec<u8>, Vec<Vec<u8>>) {
    let old = noise(3 * CHUNK, 1);
    assert_eq!(site.send(&[Parts::described("a/0").file("x", &old).pack()]), [NEW]);
    let mut large = Large { parts: Parts::new("a/1"), files: Vec::new() };
    large = large.file("descpkg", b"about".to_vec()).file("x", old);
    let from = blat_target::delta::Origin::SamePath;
    let recipe = Recipe { files: vec![Source::Same(from.clone()), Source::Changed(from)] };
    let begin = [large.parts.manifest.encode(), recipe.encode()].concat();
    // Copied as it stands.
    let mut operations = Vec::new();
    [CHUNK as u64, 0, 0].iter().for_each(|number| blat_target::delta::put(&mut operations, *number));
    let streams = Streams { operations, ..Streams::default() };
    let chunk = common::delta::chunk(&[], &streams);
    (large, recipe, begin, vec![chunk; 3])
}

#[test]
fn a_base_that_went_before_the_rest_came_is_told_of_and_mended_even_after_another_cut() {
    let site = Site::new();
    let (large, recipe, begin, chunks) = told(&site);
    let mut host = site.host();
    host.begin_delta(&large, &recipe);
    host.bytes(&[&begin[..], &chunks[0]].concat());
    host.end();
    fs::rename(site.archive().join("a/0"), site.path("gone")).unwrap();
    for cut in [true, false] {
        let mut host = site.host();
        host.partial();
        let start = large.start(&host.resume(large.what()));
        assert_eq!(start, (1, CHUNK));
        let number = host.begin_rest(&large, Some("0"), &recipe, start);
        host.bytes(&[&begin[..], &chunks[1], &chunks[2], &large.sealed()].concat());
        host.say(&ToTarget::PackageEnd);
        let made = host.next();
        let Some(ToHost::Made { digests, .. }) = made else { panic!("no doubt: {made:?}") };
        assert_eq!((digests[0].is_some(), digests[1]), (true, None));
        assert_eq!(host.next(), Some(ToHost::Doubt { number }));
        if cut {
            host.end();
            continue;
        }
        host.mend(number, &[(1, &large.files[1])]);
        assert_eq!(host.outcome(), NEW);
        assert_eq!(host.done().code, Some(0));
    }
    assert!(fs::read(site.archive().join("a/1/x")).unwrap() == large.files[1]);
    assert_nothing_left(&site);
}

/// What was made stays, and what came of the file that is wrong.
#[test]
fn a_package_cut_while_it_is_mended_goes_on_where_it_was() {
    for silent in [false, true] {
        let site = Site::new();
        let (large, recipe, begin, chunks) = told(&site);
        fs::rename(site.archive().join("a/0"), site.path("gone")).unwrap();
        let mut host = site.host();
        host.begin_delta(&large, &recipe);
        host.bytes(&[&begin[..], &chunks.concat(), &large.sealed()].concat());
        host.say(&ToTarget::PackageEnd);
        assert!(matches!(host.next(), Some(ToHost::Made { .. })));
        let Some(ToHost::Doubt { number }) = host.next() else { panic!("no doubt") };
        host.say(&ToTarget::Mend { number, files: 2 });
        let numbers = [0u32, 1].map(u32::to_le_bytes).concat();
        let about = &large.files[0];
        let (told, x) = (blake3::hash(about), &large.files[1][..2 * CHUNK]);
        host.bytes(&[&numbers[..], about, told.as_bytes(), x].concat());
        let came = || site.leftovers().iter().any(|it| length(&it.join("x")) + COSTS > 2 * CHUNK);
        wait_until("a part of it came", came);
        let silent = match silent {
            true => Some(host),
            false => {
                host.end();
                None
            }
        };
        let mut host = site.host();
        assert_eq!(host.partial(), [large.what()]);
        let start = large.start(&host.resume(large.what()));
        assert!(start.0 == 1 && start.1 + COSTS > 2 * CHUNK, "{start:?}");
        host.send_rest(&large, start);
        assert_eq!(host.outcome(), NEW);
        assert_eq!(host.done().code, Some(0));
        assert_eq!(silent.map_or(Some(75), |host| host.end().code), Some(75));
        assert!(fs::read(site.archive().join("a/1/x")).unwrap() == large.files[1]);
        assert_nothing_left(&site);
    }
}

/// A package of two files that are those of a/0, and one that is new, is cut in the middle of that, once its
/// files were linked; what `meanwhile` does to the base; what is complete of it then.
fn linked_and_cut(meanwhile: impl Fn(&Path)) -> (Site, usize) {
    let site = Site::new();
    let old = Parts::described("a/0").file("x", &noise(FILE, 1)).file("y", &noise(FILE, 2));
    assert_eq!(site.send(&[old.pack()]), [NEW]);
    let mut large = Large { parts: Parts::new("a/1"), files: Vec::new() };
    large = large.file("descpkg", b"about".to_vec()).file("x", noise(FILE, 1)).file("y", noise(FILE, 2));
    large = large.file("z", noise(FILE, 3));
    let same = Source::Same(blat_target::delta::Origin::SamePath);
    let recipe = Recipe { files: vec![same.clone(), same.clone(), same, Source::Whole] };
    let begin = [large.parts.manifest.encode(), recipe.encode()].concat();
    let mut host = site.host();
    host.say(&ToTarget::HardLinks);
    host.begin_delta(&large, &recipe);
    host.bytes(&[&begin[..], &large.files[3][..FILE / 2]].concat());
    wait_until("half of it came", || site.leftovers().iter().any(|it| length(&it.join("z")) > FILE / 4));
    host.end();
    let base = site.archive().join("a/0");
    meanwhile(&base);
    let before = ["x", "y"].map(|name| fs::read(base.join(name)).unwrap());
    let mut host = site.host();
    host.say(&ToTarget::HardLinks);
    assert_eq!(host.partial(), [large.what()]);
    let start = large.start(&host.resume(large.what()));
    host.send_rest(&large, start);
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    for (name, content) in ["descpkg", "x", "y", "z"].iter().zip(&large.files) {
        assert!(fs::read(site.archive().join("a/1").join(name)).unwrap() == *content, "{name}");
    }
    assert!(["x", "y"].map(|name| fs::read(base.join(name)).unwrap()) == before, "the base is as it was");
    assert_nothing_left(&site);
    (site, start.0)
}

#[test]
fn what_was_linked_is_gone_on_with_and_nothing_is_written_into_it() {
    let inode = |site: &Site, path: &str| fs::metadata(site.archive().join(path)).unwrap().ino();
    let (site, complete) = linked_and_cut(|_| ());
    assert_eq!(complete, 3);
    assert_eq!(inode(&site, "a/1/x"), inode(&site, "a/0/x"));
    // Cut short in the base, and so here: it is no part to go on from.
    let shorten = |base: &Path| {
        File::options().write(true).open(base.join("x")).unwrap().set_len(FILE as u64 / 2).unwrap();
    };
    let (site, complete) = linked_and_cut(shorten);
    assert_eq!(complete, 1);
    assert_ne!(inode(&site, "a/1/x"), inode(&site, "a/0/x"));
    // Another mode in the base is not taken back.
    let (site, complete) = linked_and_cut(|base| {
        fs::set_permissions(base.join("y"), fs::Permissions::from_mode(0o600)).unwrap();
    });
    assert_eq!(complete, 2);
    let mode = |path: &str| fs::metadata(site.archive().join(path)).unwrap().mode() & 0o777;
    assert_eq!((mode("a/0/y"), mode("a/1/y")), (0o600, 0o644));
}

#[test]
fn a_session_that_hears_nothing_lets_another_go_on() {
    let (site, large) = (Site::new(), Large::new("a/1"));
    let silent = half_sent(&site, &large, 2 * FILE);
    let mut host = site.host();
    assert_eq!(host.partial(), [large.what()]);
    let kept = host.resume(large.what());
    assert!(kept.total(&large) + COSTS > 2 * FILE, "{kept:?}");
    host.send_rest(&large, large.start(&kept));
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    let ended = silent.end();
    assert!(ended.stderr.contains("another session goes on with the package"), "{ended:?}");
    assert_eq!(ended.code, Some(75));
    large.assert_arrived(&site);
}

#[test]
fn a_session_that_works_shares_nothing() {
    let (site, large) = (Site::new(), Large::new("a/1"));
    let mut busy = half_sent(&site, &large, FILE);
    let pack = large.pack();
    let sending = std::thread::spawn(move || {
        // For longer than anybody waits.
        let rest = &pack.plain[FILE..];
        for piece in rest.chunks(rest.len() / 24) {
            busy.bytes(piece);
            std::thread::sleep(Duration::from_millis(500));
        }
        busy.say(&ToTarget::PackageEnd);
        assert_eq!(busy.outcome(), NEW);
        busy.done()
    });
    let mut host = site.host();
    let kept = host.resume(large.what());
    assert_eq!(kept.total(&large), 0, "it is another session's");
    assert!(!sending.is_finished());
    assert_eq!(host.done().code, Some(0));
    assert_eq!(sending.join().unwrap().code, Some(0));
    large.assert_arrived(&site);
}

#[test]
fn what_is_not_worth_keeping_goes() {
    let large = Large::new("a/1");
    // A day old.
    let site = Site::new();
    half_sent(&site, &large, FILE).end();
    purge(&site);
    assert_eq!(kept_records(&site).len(), 1);
    let age = |site: &Site, hours: u64| {
        let old = SystemTime::now() - Duration::from_secs(hours * 3600);
        File::open(&kept_records(site)[0]).unwrap().set_modified(old).unwrap();
    };
    age(&site, 23);
    purge(&site);
    assert_eq!(kept_records(&site).len(), 1);
    age(&site, 25);
    purge(&site);
    assert_nothing_left(&site);
    assert!(!site.archive().join("a").exists(), "the folder that was made for it");
    // Torn, or of what is not there.
    half_sent(&site, &large, FILE).end();
    let record = kept_records(&site).remove(0);
    let whole = fs::read(&record).unwrap();
    fs::write(&record, &whole[..40]).unwrap();
    purge(&site);
    assert_nothing_left(&site);
    half_sent(&site, &large, FILE).end();
    let staging = site.leftovers().remove(0);
    fs::rename(&staging, site.path("elsewhere")).unwrap();
    purge(&site);
    assert_nothing_left(&site);
    // More than four, and when its version stands.
    for number in 0..6 {
        half_sent(&site, &Large::new(&format!("a/{number}")), FILE).end();
    }
    purge(&site);
    assert_eq!(kept_records(&site).len(), 4);
    let mut host = site.host();
    assert!(!host.partial().contains(&Large::new("a/0").what()), "the oldest went");
    assert_eq!(host.done().code, Some(0));
    assert_eq!(site.send(&[Large::new("a/5").pack()]), [NEW]);
    assert_eq!(kept_records(&site).len(), 3);
    // Another build of it, though a small one.
    assert_eq!(site.send(&[Parts::described("a/3").pack()]), [NEW]);
    assert_eq!(kept_records(&site).len(), 2);
    fs::create_dir_all(site.archive().join("a/4")).unwrap();
    let descpkg = File::create(site.archive().join("a/4/descpkg")).unwrap();
    descpkg.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(STAMP as u64)).unwrap();
    purge(&site);
    assert_eq!(kept_records(&site).len(), 1);
}

#[test]
fn what_another_build_overtook_goes_though_a_session_held_it_then() {
    let (site, large) = (Site::new(), Large::new("a/1"));
    let build = |stamp: i64| {
        let mut parts = Parts::described("a/1");
        parts.stamp = Stamp(stamp);
        parts.manifest.entries[1].modified.seconds = stamp;
        parts.pack()
    };
    // What stood there before overtakes nothing.
    assert_eq!(site.send(&[build(STAMP - 1)]), [NEW]);
    half_sent(&site, &large, FILE).end();
    purge(&site);
    assert_eq!(kept_records(&site).len(), 1);
    let busy = half_sent(&site, &large, FILE);
    assert_eq!(site.send(&[build(STAMP + 1)]), [Outcome::Committed { replaced: true }]);
    busy.end();
    assert_eq!(kept_records(&site).len(), 1, "it was another session's");
    purge(&site);
    assert_nothing_left(&site);
}

#[test]
fn packages_that_are_not_large_leave_nothing() {
    let site = Site::new();
    let pack = Parts::described("a/1").file("x", &noise(7 << 20, 1)).pack();
    let mut host = site.host();
    host.begin(&pack);
    host.bytes(&pack.plain[..6 << 20]);
    host.end();
    assert_nothing_left(&site);
    let mut host = site.host();
    assert_eq!(host.query(&["a/1"]).len(), 1, "nothing is said of it either");
    assert_eq!(host.done().code, Some(0));
}

#[test]
fn what_came_whole_before_the_line_was_cut_stands() {
    let site = Site::new();
    let packs: Vec<_> =
        (0..40).map(|n| Parts::described(&format!("a/{n}")).file("x", &noise(5000, n)).pack()).collect();
    let mut host = site.host();
    for pack in &packs {
        host.send(pack);
    }
    host.end();
    let stand = (0..40).filter(|n| site.archive().join(format!("a/{n}/descpkg")).exists()).count();
    assert_eq!(stand, 40);
    assert_nothing_left(&site);
}

#[test]
fn what_is_sealed_already_is_gone_on_with() {
    let (site, large) = (Site::new(), Large::new("a/1"));
    half_sent(&site, &large, 4 * FILE).kill();
    let tree = site.leftovers().into_iter().find(|path| path.join("f").is_dir()).unwrap();
    // As between staging and commit.
    fs::set_permissions(tree.join("f"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o555)).unwrap();
    let mut host = site.host();
    host.partial();
    let kept = host.resume(large.what());
    assert!(kept.total(&large) + COSTS > 4 * FILE);
    host.send_rest(&large, large.start(&kept));
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    large.assert_arrived(&site);
}
