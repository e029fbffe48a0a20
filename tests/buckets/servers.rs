//! Real S3 servers, each a process of its own in a temporary folder, ended with its value.
//!
//! SeaweedFS, for it is well kept, is one program, and knows what blat asks of a server: conditions,
//! checksums, uploads in parts, who may do what. And moto, which shares no line with it, starts in a
//! second, and takes every key. Both come from PyPI, with the clients: `make build/s3/done`.

#![allow(dead_code, reason = "shared by several crates, none of which uses all of it")]

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub(crate) const BUCKET: &str = "ci-packages";
pub(crate) const KEY: &str = "blat-key";
pub(crate) const SECRET: &str = "blat-secret";
/// May list and read, and nothing else.
pub(crate) const READER: &str = "reader-key";
/// May do nothing in the bucket.
pub(crate) const STRANGER: &str = "stranger-key";

/// How long a server may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Seaweed,
    Moto,
}

/// Starts a program on the network that the server is on.
type Launch = Box<dyn Fn(Command) -> io::Result<Child>>;

/// A server that ends with this value.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    folder: tempfile::TempDir,
    address: String,
    port: u16,
    launch: Launch,
    /// Whom its clients have to trust, if it speaks TLS.
    authority: Option<Authority>,
    process: Option<Child>,
}

/// Where the programs are that do not come with Debian.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/s3/bin").join(name);
    assert!(path.exists(), "{} is missing: `make build/s3/done` installs it", path.display());
    path
}

/// A credentials file as AWS has it.
pub(crate) fn credentials(key: &str, secret: &str) -> String {
    format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        Self::start_at(kind, "127.0.0.1", |mut command| command.spawn())
    }

    /// A server that listens at an address, on whatever network `launch` puts it; with an empty bucket.
    pub(crate) fn start_at(
        kind: Kind,
        address: &str,
        launch: impl Fn(Command) -> io::Result<Child> + 'static,
    ) -> Self {
        Self::new(kind, address, Box::new(launch), None).up()
    }

    /// A server that speaks TLS, with a certificate of an authority that nobody knows.
    pub(crate) fn start_with_tls() -> Self {
        let launch = Box::new(|mut command: Command| command.spawn());
        Self::new(Kind::Moto, "127.0.0.1", launch, Some(Authority::new())).up()
    }

    fn new(kind: Kind, address: &str, launch: Launch, authority: Option<Authority>) -> Self {
        let folder = tempfile::Builder::new().prefix("blat-s3-").tempdir().expect("a folder");
        let address = address.to_owned();
        Self { kind, folder, address, port: free_ports(), launch, authority, process: None }
    }

    fn up(mut self) -> Self {
        self.run();
        let begin = Instant::now();
        loop {
            let made = s5cmd(&self, &["mb", &format!("s3://{BUCKET}")]);
            if made.status.success() {
                return self;
            }
            let said = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(begin.elapsed() < PATIENCE, "{:?} does not come up: {said}\n{}", self.kind, self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.address, self.port)
    }

    /// The certificate that its clients have to trust.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        self.authority.as_ref().map(|authority| authority.file("ca.pem"))
    }

    /// Starts the process, which then has what it had.
    pub(crate) fn run(&mut self) {
        let mut command = match self.kind {
            Kind::Seaweed => self.seaweed(),
            Kind::Moto => self.moto(),
        };
        let log = fs::File::options().create(true).append(true).open(self.log_file()).expect("a log");
        let same = log.try_clone().expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(same);
        self.process = Some((self.launch)(command).expect("the server starts"));
    }

    fn seaweed(&self) -> Command {
        let (data, rights) = (self.folder.path().join("data"), self.folder.path().join("rights.json"));
        fs::create_dir_all(&data).expect("a folder");
        fs::write(&rights, rights_of_all()).expect("a file");
        let mut command = Command::new(program("weed"));
        let port = |name: &str, place: u16| format!("-{name}={}", self.port + place);
        command
            .args(["server", "-filer", "-s3", "-master.telemetry=false", "-master.volumeSizeLimitMB=256"])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            .arg("-volume.max=50")
            .arg(format!("-dir={}", data.display()))
            .arg(format!("-ip={}", self.address))
            .arg(format!("-ip.bind={}", self.address))
            .arg(port("s3.port", 0))
            .arg(port("master.port", 1))
            .arg(port("volume.port", 2))
            .arg(port("filer.port", 3))
            .arg(format!("-s3.config={}", rights.display()));
        command
    }

    fn moto(&self) -> Command {
        let mut command = Command::new(program("moto_server"));
        command.args(["-H", &self.address, "-p", &self.port.to_string()]);
        if let Some(authority) = &self.authority {
            command.arg("-c").arg(authority.file("server.pem")).arg("-k").arg(authority.file("server.key"));
        }
        command
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        text.lines().rev().take(20).map(|line| format!("{line}\n")).collect()
    }

    /// Kills it, as a power cut would.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        // It leaves sockets that are named after its ports.
        for port in self.port..self.port + 4 {
            for name in ["filer", "s3", "master", "volume"] {
                let _ = fs::remove_file(format!("/tmp/seaweedfs-{name}-{port}.sock"));
                let _ = fs::remove_file(format!("/tmp/seaweedfs-{name}-grpc-{}.sock", port + 10_000));
            }
        }
    }
}

/// A certificate authority of its own, and a server's certificate by it, for loopback.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::Builder::new().prefix("blat-ca-").tempdir().expect("a folder"));
        let steps = [
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=blat-test-authority -keyout ca.key -out ca.pem",
            "req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout server.key -out server.csr",
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
        ];
        fs::write(authority.file("names"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
        for step in steps {
            let mut openssl = Command::new("openssl");
            let ran = openssl.args(step.split(' ')).current_dir(authority.0.path()).output();
            said(&ran.expect("these tests need Debian's package `openssl`"));
        }
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn rights_of_all() -> String {
    let one = |key: &str, actions: &str| {
        format!(
            "{{\"name\":\"{key}\",\"credentials\":[{{\"accessKey\":\"{key}\",\"secretKey\":\"{SECRET}\"}}],\
             \"actions\":[{actions}]}}"
        )
    };
    let all = one(KEY, "\"Admin\",\"Read\",\"Write\",\"List\",\"Tagging\"");
    let reader = one(READER, &format!("\"Read:{BUCKET}\",\"List:{BUCKET}\""));
    let stranger = one(STRANGER, "\"Read:elsewhere\"");
    format!("{{\"identities\":[{all},{reader},{stranger}]}}")
}

/// The first of four ports in a row that are free, as are those that are ten thousand higher. All are below
/// those that the kernel takes for connections, or another test's client might have one by the time it is needed.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = (std::process::id() % 1000) as u16 * 8;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let place = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (begin + place * 4) % 8_000;
        if (port..port + 4).all(|port| is_free(port) && is_free(port + 10_000)) {
            return port;
        }
    }
}

/// The command line of AWS against this server, as who may do all.
pub(crate) fn aws(server: &Server, arguments: &[&str]) -> Output {
    run(server, "aws", &[&["--endpoint-url", &server.endpoint()], arguments].concat())
}

/// A command line that starts in a hundredth of that one's time, for what anybody would do alike. It does not try
/// again.
pub(crate) fn s5cmd(server: &Server, arguments: &[&str]) -> Output {
    run(server, "s5cmd", &[&["--retry-count", "0"], arguments].concat())
}

fn run(server: &Server, name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program(name));
    client(&mut command, server).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    (server.launch)(command).and_then(Child::wait_with_output).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// The environment of a client of this server.
pub(crate) fn client<'a>(command: &'a mut Command, server: &Server) -> &'a mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("S3_ENDPOINT_URL", server.endpoint())
        .envs(server.authority().map(|file| ("AWS_CA_BUNDLE", file)))
}

/// What a client said, which must have gone well.
#[track_caller]
pub(crate) fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}
