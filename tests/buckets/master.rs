//! A master of a test: a root with a configured bucket, an archive, and the program itself.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use blat::config::{Destination, Settings};
use blat::doctor::{Finding, bucket};
use blat::places::Places;
use blat::start::block_on;

use crate::servers::{BUCKET, KEY, SECRET, Server, credentials, s5cmd, said};

const TAGS: &str = "var/lib/blat/tags/bucket1";
/// What a machine's own environment may say of the way to a server.
const WAYS: [&str; 9] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
];

pub(crate) struct Master {
    root: tempfile::TempDir,
    prefix: String,
    wanted: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Master {
    /// A master that fills below `prefix` what it reaches at `endpoint`. `more` are lines of `[s3]`.
    pub(crate) fn new(endpoint: &str, prefix: &str, more: &str) -> Self {
        let root = tempfile::Builder::new().prefix("blat-master-").tempdir().expect("a folder");
        for folder in ["etc/blat/targets", "var/lib/blat/bucket1", "run/blat/bucket1", "archive", TAGS] {
            fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        let master = Self { root, prefix: prefix.to_owned(), wanted: Vec::new(), environment: Vec::new() };
        master.put_key(KEY, SECRET);
        master.configure(endpoint, more);
        master
    }

    pub(crate) fn configure(&self, endpoint: &str, more: &str) {
        self.configure_bucket(endpoint, BUCKET, more);
    }

    pub(crate) fn configure_bucket(&self, endpoint: &str, bucket: &str, more: &str) {
        let path = |name: &str| self.root.path().join(name).display().to_string();
        let text = format!(
            "kind = \"s3\"\nsource = \"{}\"\nrelease.source = \"file\"\nrelease.file = \"{}\"\n\
             tags.directory = \"{}\"\n[s3]\n\
             bucket = \"{bucket}\"\nprefix = \"{}\"\nendpoint = \"{endpoint}\"\npath_style = true\n\
             credentials = \"{}\"\n{more}\n",
            path("archive"),
            path("packages.txt"),
            path(TAGS),
            self.prefix,
            path("key")
        );
        fs::write(self.root.path().join("etc/blat/targets/bucket1.toml"), text).expect("a file");
    }

    pub(crate) fn put_key(&self, key: &str, secret: &str) {
        fs::write(self.root.path().join("key"), credentials(key, secret)).expect("a file");
    }

    pub(crate) fn folder(&self, id: &str) -> PathBuf {
        self.root.path().join("archive").join(id)
    }

    /// Makes a sealed package-version with these files besides its `descpkg`, and wants it.
    pub(crate) fn publish(&mut self, id: &str, files: &[(&str, &[u8])]) {
        let folder = self.folder(id);
        for (name, content) in files.iter().chain([&("descpkg", id.as_bytes())]) {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("below it")).expect("a folder");
            fs::write(path, content).expect("a file");
        }
        fs::set_permissions(folder.join("descpkg"), PermissionsExt::from_mode(0o444)).expect("sealed");
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o555)).expect("sealed");
        self.want(id);
    }

    /// Turns the link `id`, and wants it.
    pub(crate) fn publish_link(&mut self, id: &str, text: &str) {
        let _ = fs::remove_file(self.folder(id));
        symlink(text, self.folder(id)).expect("a link");
        self.want(id);
    }

    pub(crate) fn want(&mut self, id: &str) {
        if !self.wanted.iter().any(|wanted| wanted == id) {
            self.wanted.push(id.to_owned());
        }
        self.write_list();
    }

    pub(crate) fn want_no_more(&mut self, id: &str) {
        self.wanted.retain(|wanted| wanted != id);
        self.write_list();
    }

    fn write_list(&self) {
        let text: String = self.wanted.iter().map(|id| id.replace('/', " ") + "\n").collect();
        let path = self.root.path().join("packages.txt");
        fs::write(&path, text).expect("a list");
        // One that was changed just now is waited for.
        let lies = fs::File::options().append(true).open(path).expect("a list");
        lies.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("a time");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blat"));
        command.arg("--root").arg(self.root.path()).args(arguments);
        command.env("AWS_EC2_METADATA_DISABLED", "true").env_remove("AWS_ACCESS_KEY_ID");
        for name in WAYS {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// From now on, blat finds this in its environment.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Drops a tag and runs `blat transfer`, however it ends.
    pub(crate) fn transfer(&self, id: &str) -> Output {
        let tag = self.root.path().join(TAGS).join(id.replace('/', "::"));
        fs::write(tag, "").expect("a tag");
        self.command(&["transfer", "bucket1"]).output().expect("blat runs")
    }

    /// What `blat doctor`, which is root's, finds of the bucket.
    pub(crate) fn doctor(&self) -> Finding {
        let settings = Settings::load_live(self.root.path(), &"bucket1".parse().expect("a name"));
        let settings = settings.expect("good settings");
        let Destination::S3(target) = &settings.destination else { panic!("it is a bucket") };
        let uploads = Places::of(self.root.path(), &settings.name).sync_uploads();
        let mut found = None;
        let look = async {
            found = Some(bucket::look(&settings.name, &target.s3, &uploads).await);
            Ok(())
        };
        block_on(look).expect("it ends");
        found.expect("it was looked at")
    }

    /// Runs `blat sync`, however it ends.
    pub(crate) fn try_sync(&self) -> Output {
        self.command(&["sync", "bucket1"]).output().expect("blat runs")
    }

    pub(crate) fn start_sync(&self) -> Child {
        self.command(&["sync", "bucket1"]).spawn().expect("blat runs")
    }

    /// Synchronises; what it sent and linked.
    #[track_caller]
    pub(crate) fn sync(&self) -> (u64, u64) {
        counts(&self.try_sync())
    }

    /// What a run that must fail tells, and its exit code.
    #[track_caller]
    pub(crate) fn fails(&self) -> (i32, String) {
        let output = self.try_sync();
        let text = words(&output);
        (output.status.code().unwrap_or_else(|| panic!("{text}")), text)
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// The key of an object of this master's.
    pub(crate) fn key(&self, id: &str) -> String {
        let (package, version) = id.split_once('/').expect("an id");
        format!("{}{package}/{package}-{version}.zip", self.prefix)
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = Command::new("chmod").args(["-R", "u+w"]).arg(self.root.path()).status();
    }
}

pub(crate) fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[track_caller]
pub(crate) fn counts(output: &Output) -> (u64, u64) {
    let text = words(output);
    assert!(output.status.success(), "{text}");
    let line = text.lines().find_map(|line| line.split_once("synchronised: ")).expect("totals").1;
    let (packages, rest) = line.split_once(" packages sent").expect("packages");
    let (_, rest) = rest.split_once("), ").expect("links");
    let (links, _) = rest.split_once(" links made").expect("links");
    (packages.parse().expect("a number"), links.parse().expect("a number"))
}

/// The bytes of an object.
#[track_caller]
pub(crate) fn get(server: &Server, key: &str) -> Vec<u8> {
    let output = s5cmd(server, &["cat", &format!("s3://{BUCKET}/{key}")]);
    said(&output);
    output.stdout
}

/// All keys of the bucket, in order.
pub(crate) fn keys(server: &Server) -> Vec<String> {
    let listed = s5cmd(server, &["ls", &format!("s3://{BUCKET}/*")]);
    if String::from_utf8_lossy(&listed.stderr).contains("no object found") {
        return Vec::new();
    }
    said(&listed).lines().filter_map(|line| line.split_whitespace().last().map(str::to_owned)).collect()
}
