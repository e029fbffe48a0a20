//! The database of releases in the lab: the built-in one on the master, or a PostgreSQL of its own on
//! the lab's network, with a user and a password.

use std::path::Path;

use blat::release::import::Import;

use crate::field::Field;
use crate::machines::{LAB_ADDR, Lab, Machine};
use crate::servers::{PASSWORD, Server};

pub(crate) const PASSWORD_FILE: &str = "/etc/blat/release-password";

/// Where the master finds the releases.
pub(crate) enum Releases {
    BuiltIn,
    Postgresql(Box<Server>),
}

impl Releases {
    pub(crate) fn on_postgresql(lab: &Lab) -> Self {
        let lab = lab.clone();
        let server = Server::postgresql_at(&LAB_ADDR.to_string(), move |mut command| {
            lab.on_network(move || command.spawn())
        });
        Self::Postgresql(Box::new(server))
    }

    /// What the target's file says of it. The password lies on the master, for root alone.
    pub(crate) fn table(&self, master: &Machine) -> String {
        match self {
            Self::BuiltIn => String::new(),
            Self::Postgresql(_) => {
                master.write(PASSWORD_FILE, format!("{PASSWORD}\n"), 0o600);
                format!(
                    "[release]\nconnection = \"Driver=PostgreSQL Unicode;Servername={LAB_ADDR};Port=5432;\
                     Database=rm\"\nuser = \"blat\"\npassword_file = \"{PASSWORD_FILE}\"\n"
                )
            }
        }
    }

    pub(crate) fn import(&self, master: &Machine, text: &str) {
        match self {
            Self::BuiltIn => {
                master.write("/root/releases", text, 0o644);
                master.sh("blat release import /root/releases");
            }
            Self::Postgresql(server) => {
                let import = Import::parse(Path::new("releases"), text).expect("a good text");
                server.open().import(&import).expect("imported");
            }
        }
    }

    /// Changes the database by a statement.
    pub(crate) fn change(&self, master: &Machine, statement: &str) {
        match self {
            Self::BuiltIn => {
                drop(master.sh(&format!("sqlite3 /var/lib/blat/release_manager.db \"{statement}\"")));
            }
            Self::Postgresql(server) => server.open().run(statement, ()).expect("a good statement"),
        }
    }

    /// Takes the server away, as a crash would.
    pub(crate) fn stop(&mut self) {
        if let Self::Postgresql(server) = self {
            server.stop();
        }
    }

    /// The number of the server's first process.
    pub(crate) fn process(&self) -> String {
        let Self::Postgresql(server) = self else { return String::new() };
        let text = std::fs::read_to_string(server.path("data/postmaster.pid")).expect("it runs");
        text.lines().next().expect("a number").to_owned()
    }

    pub(crate) fn start_again(&mut self, lab: &Lab) {
        let lab = lab.clone();
        if let Self::Postgresql(server) = self {
            server.start_again(&LAB_ADDR.to_string(), move |mut command| {
                lab.on_network(move || command.spawn())
            });
        }
    }
}

/// The text of a release that `blat release import` takes.
pub(crate) fn release<'a>(name: &str, state: char, ids: impl IntoIterator<Item = &'a String>) -> String {
    let lines = ids.into_iter().map(|id| id.replace('/', " ") + "\n");
    format!("[{name}] {state}\n{}", lines.collect::<String>())
}

/// Looks at the command line and the environment of every process, as fast as it can, until `work`
/// is done, and panics where the password stands in one.
pub(crate) fn with_the_password_unseen<T>(work: impl FnOnce() -> T) -> T {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
    let (over, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Relaxed) {
                seen.extend(processes_that_show(PASSWORD.as_bytes()));
                looks.fetch_add(1, Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            seen
        });
        let done = work();
        over.store(true, Relaxed);
        let seen = watch.join().expect("it only reads");
        assert!(seen.is_empty(), "the password was seen in {seen:?}");
        println!("the password was in no process in {looks:?} looks at all of them");
        done
    })
}

fn processes_that_show(secret: &[u8]) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let files = processes.flat_map(|process| ["cmdline", "environ"].map(|file| process.join(file)));
    let shows = |path: &std::path::PathBuf| {
        std::fs::read(path).is_ok_and(|text| text.windows(secret.len()).any(|part| part == secret))
    };
    files.filter(shows).map(|path| path.display().to_string()).collect()
}

/// Panics where the password stands in a journal, or in what systemd shows of the units.
pub(crate) fn assert_password_unseen(field: &Field) {
    let shown =
        field.master.sh("systemctl show blat-sync@site1 blat@site1; systemctl status 'blat*' || true");
    let journal = field.master.journal(&["-o", "verbose"]);
    for text in [shown, journal] {
        let line = text.lines().find(|line| line.contains(PASSWORD));
        assert!(line.is_none(), "{line:?}");
    }
}
