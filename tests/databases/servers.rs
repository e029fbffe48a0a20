//! Real databases: SQLite, a private PostgreSQL and a private MariaDB, each with a user and a
//! password of its own, in a temporary folder, reached through its ODBC driver.
//!
//! The servers listen on sockets in that folder, and at an address only where a test asks for it.
//! They do not run as root: where the test does, they run as nobody.

#![allow(dead_code, reason = "shared by several crates, none of which uses all of it")]

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use blat::config::Release as Settings;
use blat::release::odbc::Database;

/// The password has all that a connection could trip over.
pub(crate) const PASSWORD: &str = "p;w}d+ {x";
const NOBODY: u32 = 65534;

/// A database that ends with this value.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    process: Option<Child>,
    /// The `[release]` table that reaches it.
    config: String,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgresql,
    Mariadb,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        let mut server = Self::empty(kind);
        match kind {
            Kind::Sqlite => server.start_sqlite(),
            Kind::Postgresql => server.start_postgresql("", |mut command| command.spawn()),
            Kind::Mariadb => server.start_mariadb(),
        }
        server
    }

    /// A PostgreSQL that listens at an address too, on whatever network `launch` puts it.
    pub(crate) fn postgresql_at(address: &str, launch: impl FnOnce(Command) -> io::Result<Child>) -> Self {
        let mut server = Self::empty(Kind::Postgresql);
        server.start_postgresql(address, launch);
        server
    }

    /// Starts a PostgreSQL that was stopped.
    pub(crate) fn start_again(&mut self, address: &str, launch: impl FnOnce(Command) -> io::Result<Child>) {
        self.launch_postgresql(address, launch);
        let began = Instant::now();
        while let Err(why) = Database::open(&self.settings("")) {
            assert!(began.elapsed() < Duration::from_secs(60), "it does not come up: {why}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The settings that reach it, with these lines more.
    pub(crate) fn settings(&self, more: &str) -> Settings {
        settings(&format!("{}{more}", self.config))
    }

    pub(crate) fn open(&self) -> Database {
        Database::open(&self.settings("")).unwrap_or_else(|why| panic!("{:?}: {why}", self.kind))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Takes the database away, as a crash would.
    pub(crate) fn stop(&mut self) {
        match self.process.take() {
            None => fs::remove_file(self.path("rm.db")).unwrap(),
            Some(mut process) => {
                if self.kind == Kind::Postgresql {
                    end_postgresql(&self.path("data"));
                } else {
                    process.kill().unwrap();
                }
                process.wait().unwrap();
            }
        }
    }

    fn empty(kind: Kind) -> Self {
        let folder = tempfile::Builder::new().prefix("blat-db").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = Self { folder, process: None, config: String::new(), kind };
        fs::write(server.path("password"), format!("{PASSWORD}\n")).unwrap();
        server
    }

    fn start_sqlite(&mut self) {
        self.config = format!("connection = \"Driver=SQLite3;Database={}\"\n", self.path("rm.db").display());
        fs::write(self.path("rm.db"), "").unwrap();
    }

    fn start_postgresql(&mut self, address: &str, launch: impl FnOnce(Command) -> io::Result<Child>) {
        let programs = newest(Path::new("/usr/lib/postgresql"));
        let data = self.own_folder("data");
        let super_password = self.path("super");
        fs::write(&super_password, "super\n").unwrap();
        let mut initdb = unprivileged(programs.join("bin/initdb"));
        initdb.arg("--pgdata").arg(&data).args(["--username=postgres", "--auth=scram-sha-256", "--no-sync"]);
        run(initdb.arg("--encoding=UTF8").arg("--locale=C").arg("--pwfile").arg(&super_password));
        let rules = data.join("pg_hba.conf");
        let local = fs::read_to_string(&rules).unwrap();
        fs::write(&rules, local + "host all all all scram-sha-256\n").unwrap();
        self.launch_postgresql(address, launch);
        let connection = format!("Driver=PostgreSQL Unicode;Servername={};Port=5432", data.display());
        let root = format!(
            "connection = \"{connection};Database=postgres\"\nuser = \"postgres\"\npassword_file = \"{}\"\n",
            super_password.display()
        );
        let database = until_up(&settings(&root));
        database.run(&format!("CREATE ROLE blat LOGIN PASSWORD '{PASSWORD}'"), ()).unwrap();
        database.run("CREATE DATABASE rm OWNER blat", ()).unwrap();
        self.config = self.login(&format!("{connection};Database=rm"));
    }

    fn launch_postgresql(&mut self, address: &str, launch: impl FnOnce(Command) -> io::Result<Child>) {
        let data = self.path("data");
        let mut postgres = unprivileged(newest(Path::new("/usr/lib/postgresql")).join("bin/postgres"));
        postgres.arg("-D").arg(&data).args(["-c", &format!("listen_addresses={address}")]);
        postgres.args(["-c", "fsync=off", "-c"]);
        postgres.arg(format!("unix_socket_directories={}", data.display()));
        quiet(&mut postgres);
        self.process = Some(launch(postgres).unwrap());
    }

    fn start_mariadb(&mut self) {
        let data = self.own_folder("data");
        let mut install = unprivileged("mariadb-install-db".into());
        install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        // Two servers that share a folder for temporary tables delete each other's.
        let temporary = format!("--tmpdir={}", self.own_folder("tmp").display());
        install.arg(&temporary);
        run(install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]));
        let socket = data.join("socket");
        let mut mariadbd = unprivileged("mariadbd".into());
        mariadbd.arg("--no-defaults").arg(format!("--datadir={}", data.display())).arg("--skip-networking");
        mariadbd
            .arg(temporary)
            .arg(format!("--socket={}", socket.display()))
            .arg("--innodb-flush-log-at-trx-commit=0");
        self.process = Some(quiet(&mut mariadbd).spawn().unwrap());
        let connection = format!("Driver=MariaDB Unicode;Socket={}", socket.display());
        let database = until_up(&settings(&format!("connection = \"{connection}\"\nuser = \"root\"\n")));
        database.run("CREATE DATABASE rm CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", ()).unwrap();
        database.run(&format!("CREATE USER blat@localhost IDENTIFIED BY '{PASSWORD}'"), ()).unwrap();
        database.run("GRANT ALL ON rm.* TO blat@localhost", ()).unwrap();
        self.config = self.login(&format!("{connection};Database=rm"));
    }

    fn login(&self, connection: &str) -> String {
        let password = self.path("password");
        format!(
            "connection = \"{connection}\"\nuser = \"blat\"\npassword_file = \"{}\"\n",
            password.display()
        )
    }

    fn own_folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        if nix::unistd::geteuid().is_root() {
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.stop();
        }
    }
}

/// The settings that a `[release]` table of `blat.toml` comes to.
pub(crate) fn settings(table: &str) -> Settings {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc/blat")).unwrap();
    fs::write(root.path().join("etc/blat/blat.toml"), format!("[release]\n{table}")).unwrap();
    Settings::of_no_target(root.path()).unwrap_or_else(|why| panic!("{why}\n{table}"))
}

/// PostgreSQL's own crash: its first process tells the others to drop everything.
fn end_postgresql(data: &Path) {
    let pid = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGQUIT).unwrap();
}

fn newest(folder: &Path) -> PathBuf {
    let found = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    found.max().unwrap_or_else(|| panic!("PostgreSQL is missing: make setup installs it"))
}

fn unprivileged(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn run(command: &mut Command) {
    let output = command.output();
    let output =
        output.unwrap_or_else(|why| panic!("{command:?}: {why}; make setup installs what is missing"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn until_up(settings: &Settings) -> Database {
    let began = Instant::now();
    loop {
        match Database::open(settings) {
            Ok(database) => return database,
            Err(why) if began.elapsed() > Duration::from_secs(60) => panic!("it does not come up: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
