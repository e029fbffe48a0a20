//! A host made for tests: packs honest and hostile packages, and talks to the real
//! helper over pipes. The helper runs as a user without privileges, whoever tests.
#![allow(dead_code, unreachable_pub)]

pub mod delta;
pub mod pack;
pub mod tree;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use blat_target::frame::{self, Frame, MAGIC};
use blat_target::message::*;
use blat_target::package::PackageVersion;
use tempfile::TempDir;

use pack::Pack;

/// Who the helper runs as when root tests: nobody.
const NOBODY: u32 = 65534;
/// For how long a test waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn id(text: &str) -> PackageVersion {
    let (package, version) = text.split_once('/').unwrap();
    PackageVersion::new(package, version).unwrap()
}

/// A target machine: a home with an archive in it, and the helper.
pub struct Site {
    dir: TempDir,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("blat-target-test-").tempdir().unwrap();
        let site = Self { dir };
        fs::set_permissions(site.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        site.folder("home");
        site.folder("home/dpkg_archive");
        let built = env!("CARGO_BIN_EXE_blat-target");
        // Where it was built, another user may not reach it. A process of its own copies it: a
        // thread that forks meanwhile would hold it open for writing, and it could not be run.
        if fs::hard_link(built, site.helper()).is_err() {
            assert!(Command::new("cp").arg(built).arg(site.helper()).status().unwrap().success());
        }
        site
    }

    /// Makes a folder that the helper's user owns.
    pub fn folder(&self, path: &str) -> PathBuf {
        let path = self.dir.path().join(path);
        fs::create_dir_all(&path).unwrap();
        self.give(&path);
        path
    }

    /// Gives a path to the helper's user.
    pub fn give(&self, path: &Path) {
        if is_root() {
            std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub fn archive(&self) -> PathBuf {
        self.path("home/dpkg_archive")
    }

    pub fn helper(&self) -> PathBuf {
        self.path("blat-target")
    }

    pub fn command(&self) -> Command {
        self.command_of(&self.helper())
    }

    pub fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.path("home")).current_dir(self.path("home"));
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// A host that is connected, and has said nothing yet.
    pub fn connect(&self) -> Host {
        let mut command = self.command();
        command.arg("serve");
        Host::start(command)
    }

    /// The same, where a shell's command line starts the helper (`$0`).
    pub fn connect_by(&self, line: &str) -> Host {
        let mut command = self.command_of(Path::new("/bin/sh"));
        command.arg("-c").arg(line).arg(self.helper());
        Host::start(command)
    }

    /// A host that has got past the hellos.
    pub fn host(&self) -> Host {
        let mut host = self.connect();
        host.greet();
        host
    }

    /// Sends all, ends the session well, and returns the outcomes in the order of sending.
    pub fn send(&self, packs: &[Pack]) -> Vec<Outcome> {
        let mut host = self.host();
        for pack in packs {
            host.send(pack);
        }
        let ended = host.done();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.outcomes()
    }

    /// Hidden names below the archive, but for blat's own folder; and records of sessions.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let list = |path: &Path| match fs::read_dir(path) {
            Ok(listed) => listed.map(|entry| entry.unwrap().path()).collect::<Vec<_>>(),
            Err(_) => Vec::new(),
        };
        for package in list(&self.archive()).into_iter().filter(|path| path.is_dir() && !path.is_symlink()) {
            let hidden = |path: &PathBuf| path.file_name().unwrap().as_encoded_bytes().starts_with(b".");
            found.extend(list(&package).into_iter().filter(hidden));
        }
        found.extend(list(&self.archive().join(".dpkg_archive/sessions")));
        found
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Read-only folders hinder whoever is not root.
        tree::unlock(self.dir.path());
    }
}

/// When the links that [`Host::link`] sends were made.
pub const LINK_TIME: blat_target::manifest::Time = blat_target::manifest::Time { seconds: 7, nanoseconds: 8 };

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The host's end of a session.
pub struct Host {
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Receiver<ToHost>,
    listening: JoinHandle<()>,
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    sent: u64,
    kept: Vec<ToHost>,
    lanes: Lanes,
}

/// The most that a block of a session has that is spread.
const BLOCK: usize = 65_536;

/// Further channels of a session.
#[derive(Default)]
struct Lanes {
    beside: Vec<Child>,
    /// How many bytes still go by the session's own channel alone, and how many went in blocks then; none where
    /// it is not spread.
    spread: Option<(usize, u64)>,
}

impl Lanes {
    /// Waits for their ends; the exit codes.
    fn ended(&mut self) -> Vec<Option<i32>> {
        self.beside.iter_mut().map(|lane| lane.wait().unwrap().code()).collect()
    }
}

/// How a session ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub heard: Vec<ToHost>,
    pub stderr: String,
    /// The exit codes of the session's lanes.
    pub lanes: Vec<Option<i32>>,
}

impl Ended {
    /// The outcomes in the order of sending.
    pub fn outcomes(&self) -> Vec<Outcome> {
        let mut found: Vec<_> = self
            .heard
            .iter()
            .filter_map(|said| match said {
                ToHost::Outcome { number, outcome } => Some((*number, outcome.clone())),
                _ => None,
            })
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, outcome)| outcome).collect()
    }

    pub fn failed(&self) -> Option<&Refusal> {
        self.heard.iter().find_map(|said| match said {
            ToHost::Failed(refusal) => Some(refusal),
            _ => None,
        })
    }
}

impl Host {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (tell, heard) = channel();
        let listening = std::thread::spawn(move || {
            let mut magic = [0; MAGIC.len()];
            if stdout.read_exact(&mut magic).is_err() {
                return;
            }
            assert_eq!(&magic, MAGIC);
            while let Ok(Frame::Message(message)) = frame::read(&mut stdout) {
                let _ = tell.send(message);
            }
        });
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(window_log_max(PROTOCOL_OLDEST)).unwrap();
        let stdin = child.stdin.take();
        let lanes = Lanes::default();
        Self { child, stdin, heard, listening, encoder, sent: 0, kept: Vec::new(), lanes }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes bytes as they are; a helper that is gone is no error here.
    pub fn raw(&mut self, mut bytes: &[u8]) -> bool {
        if let Some((after @ 1.., _)) = &mut self.lanes.spread {
            let alone = bytes.split_off(..bytes.len().min(*after)).unwrap();
            *after -= alone.len();
            if !self.by(0, alone) {
                return false;
            }
        }
        let Some((0, mut place)) = self.lanes.spread else { return self.by(0, bytes) };
        for (block, lane) in bytes.chunks(BLOCK).zip((0..=self.lanes.beside.len()).cycle()) {
            if !self.block(lane, place, block) {
                return false;
            }
            place += block.len() as u64;
        }
        self.lanes.spread = Some((0, place));
        true
    }

    /// Sends a block of a session that is spread by this lane, as doc/protocol.md has it.
    pub fn block(&mut self, lane: usize, place: u64, block: &[u8]) -> bool {
        let length = (block.len() as u32).to_le_bytes();
        self.by(lane, &[&place.to_le_bytes()[..], &length, block].concat())
    }

    /// So many bytes of a session that is spread were sent, block by block.
    pub fn sent_in_blocks(&mut self, place: u64) {
        self.lanes.spread = Some((0, place));
    }

    /// Sends bytes by a lane; 0 is the session's own channel.
    fn by(&mut self, lane: usize, bytes: &[u8]) -> bool {
        let stdin = match lane {
            0 => self.stdin.as_mut(),
            lane => self.lanes.beside[lane - 1].stdin.as_mut(),
        };
        stdin.is_some_and(|stdin| stdin.write_all(bytes).is_ok())
    }

    /// Starts a lane of the session by this command, and leaves it waiting.
    pub fn join(&mut self, mut command: Command) {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.lanes.beside.push(command.spawn().unwrap());
    }

    /// Says that the session is spread over its lanes behind so many bytes more.
    pub fn spread(&mut self, after: usize) {
        self.say(&ToTarget::Spread { after: after as u64 });
        self.lanes.spread = Some((after, 0));
    }

    /// Waits until all lanes have ended by themselves.
    pub fn lanes_ended(&mut self) -> Vec<Option<i32>> {
        self.lanes.ended()
    }

    /// One lane breaks.
    pub fn cut_lane(&mut self, lane: usize) {
        drop(self.lanes.beside[lane].stdin.take());
    }

    pub fn say(&mut self, message: &ToTarget) -> bool {
        self.raw(&frame::message(message))
    }

    pub fn hello(&mut self, hello: HostHello) -> bool {
        self.raw(MAGIC) && self.say(&ToTarget::Hello(hello))
    }

    pub fn greet(&mut self) -> TargetHello {
        self.hello(host_hello());
        match self.next() {
            Some(ToHost::Hello(hello)) => hello,
            other => panic!("no hello: {other:?}"),
        }
    }

    /// The next message but for signs of life, which a busy machine brings, and of what came; none when the
    /// helper is gone.
    pub fn next(&mut self) -> Option<ToHost> {
        loop {
            match self.next_of_all() {
                Some(ToHost::Alive | ToHost::Came { .. }) => {}
                other => return other,
            }
        }
    }

    /// The next message, whatever it is; none when the helper is gone.
    pub fn next_of_all(&mut self) -> Option<ToHost> {
        let next = self.heard.recv_timeout(PATIENCE);
        if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = next {
            panic!("the helper says nothing");
        }
        let next = next.ok();
        self.kept.extend(next.clone());
        next
    }

    /// The next outcome.
    pub fn outcome(&mut self) -> Outcome {
        match self.next() {
            Some(ToHost::Outcome { outcome, .. }) => outcome,
            other => panic!("no outcome: {other:?}"),
        }
    }

    pub fn query(&mut self, ids: &[&str]) -> Vec<Standing> {
        self.say(&ToTarget::Query(ids.iter().map(|text| id(text)).collect()));
        match self.next() {
            Some(ToHost::Standing(standing)) => standing,
            other => panic!("no answer: {other:?}"),
        }
    }

    /// The next number of a package or link.
    pub fn number(&mut self) -> u64 {
        self.sent += 1;
        self.sent - 1
    }

    /// Announces a package, without its bytes.
    pub fn begin(&mut self, pack: &Pack) -> u64 {
        let number = self.number();
        let manifest_length = pack.manifest_length;
        let head = PackageHead { number, id: pack.id.clone(), stamp: pack.stamp, manifest_length };
        self.say(&ToTarget::Package(head));
        number
    }

    /// Packs plain bytes into the session's stream and sends them.
    pub fn bytes(&mut self, plain: &[u8]) -> bool {
        self.encoder.write_all(plain).unwrap();
        self.encoder.flush().unwrap();
        let packed = std::mem::take(self.encoder.get_mut());
        packed.chunks(frame::PAYLOAD_MAX).all(|piece| self.raw(&frame::data(piece)))
    }

    pub fn send(&mut self, pack: &Pack) -> u64 {
        let number = self.begin(pack);
        self.bytes(&pack.plain);
        self.say(&ToTarget::PackageEnd);
        number
    }

    pub fn link(&mut self, link: &str, text: &[u8]) -> u64 {
        let number = self.number();
        self.say(&ToTarget::Link { number, id: id(link), text: text.to_vec(), modified: LINK_TIME });
        number
    }

    /// Says that nothing more comes, and waits for the end.
    pub fn done(mut self) -> Ended {
        let sent = self.sent;
        self.say(&ToTarget::Done { sent });
        self.end()
    }

    /// Closes the channel, as a cut line does, and waits for the end.
    pub fn end(mut self) -> Ended {
        drop(self.stdin.take());
        self.lanes.beside.iter_mut().for_each(|lane| drop(lane.stdin.take()));
        self.wait()
    }

    pub fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.wait()
    }

    fn wait(mut self) -> Ended {
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        self.listening.join().unwrap();
        let mut heard = self.kept;
        heard.extend(self.heard.try_iter());
        let lanes = self.lanes.ended();
        Ended { code: status.code(), signal: status.signal(), heard, stderr, lanes }
    }
}

pub fn host_hello() -> HostHello {
    HostHello { protocol: PROTOCOL, archive: b"dpkg_archive".to_vec(), master: "master".into(), clock: 0 }
}
