//! Listing 200,000 package-versions on a warm target, beside `find`; and what it costs to learn
//! that nothing changed.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use blat_target::frame::{self, Frame, MAGIC};
use blat_target::message::{Digest, HostHello, Listed, PROTOCOL, ToHost, ToTarget};

use crate::line;

const PACKAGES: usize = 5_000;
const VERSIONS: usize = 40;
const ROUNDS: usize = 5;
/// What a repeat may put on the channel, both ways, in bytes.
const REPEAT_MAX: u64 = 1024;

#[test]
fn a_listing_takes_no_longer_than_find_and_a_repeat_is_short() {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("build");
    let archive = archive(&build);
    let helper = build.join("dist/blat-target");
    assert!(helper.exists(), "{} is missing: run `make build`", helper.display());
    let (mut ours, mut peers) = (f64::MAX, f64::MAX);
    let mut digest = None;
    for _ in 0..=ROUNDS {
        peers = peers.min(find(&archive));
        let answer = ask(&helper, &archive, None);
        ours = ours.min(answer.seconds);
        digest = Some(answer.end.digest);
    }
    let again = ask(&helper, &archive, digest);
    line("listing 200,000, warm, s (find)", ours, peers);
    line("listing 200,000, unchanged, s (find)", again.seconds, peers);
    line("listing 200,000, unchanged, bytes of frames", again.bytes as f64, REPEAT_MAX as f64);
    assert!(again.bytes < REPEAT_MAX);
}

/// The archive, made once: to make it, and to delete it, takes many times as long as to list it.
fn archive(build: &Path) -> PathBuf {
    let done = build.join("measures/archive-200000");
    let draft = done.with_extension("draft");
    if !done.exists() {
        let _ = fs::remove_dir_all(&draft);
        fill(&draft);
        fs::rename(&draft, &done).expect("a name for the archive");
    }
    done
}

fn fill(archive: &Path) {
    for at in 0..PACKAGES * VERSIONS {
        let folder: PathBuf = archive.join(format!("package{:05}/1.{:02}.0", at / VERSIONS, at % VERSIONS));
        fs::create_dir_all(&folder).expect("a folder");
        File::create(folder.join("descpkg")).expect("a file");
    }
}

fn find(archive: &Path) -> f64 {
    let begin = Instant::now();
    let status = Command::new("find")
        .arg(archive)
        .args(["-mindepth", "3", "-maxdepth", "3", "-name", "descpkg", "-printf", "%P %T@\\n"])
        .stdout(Stdio::null())
        .status()
        .expect("find starts");
    assert!(status.success());
    begin.elapsed().as_secs_f64()
}

/// What came of a `List`: seconds from the helper's start, bytes both ways from the first on.
struct Answer {
    seconds: f64,
    bytes: u64,
    end: Listed,
}

fn ask(helper: &Path, archive: &Path, known: Option<Digest>) -> Answer {
    let begin = Instant::now();
    let mut child = Command::new(helper)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the helper starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = Counting { from: child.stdout.take().expect("a pipe"), bytes: 0 };
    let archive = archive.as_os_str().as_bytes().to_vec();
    let hello = HostHello { protocol: PROTOCOL, archive, master: "measure".into(), clock: 0 };
    let said = [
        MAGIC.to_vec(),
        frame::message(&ToTarget::Hello(hello)),
        frame::message(&ToTarget::List { known }),
        frame::message(&ToTarget::Done { sent: 0 }),
    ]
    .concat();
    stdin.write_all(&said).expect("the helper listens");
    let mut heard = BufReader::with_capacity(1 << 16, &mut stdout);
    heard.read_exact(&mut [0; MAGIC.len()]).expect("the helper speaks");
    let end = loop {
        if let Frame::Message(ToHost::Listed(end)) = frame::read(&mut heard).expect("a frame") {
            break end;
        }
    };
    let seconds = begin.elapsed().as_secs_f64();
    while frame::read::<ToHost>(&mut heard).is_ok() {}
    assert!(child.wait().expect("the helper ends").success());
    Answer { seconds, bytes: stdout.bytes + said.len() as u64, end }
}

struct Counting<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.from.read(buffer)?;
        self.bytes += got as u64;
        Ok(got)
    }
}
