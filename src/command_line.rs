//! The command line as data: `main` carries it out, the completions and the check of the man pages
//! read it.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::TargetName;
use crate::enroll::Wish;
use crate::helper;

/// Keeps package archives on remote machines up to date from a master archive.
#[derive(Debug, Parser)]
#[command(name = "blat", version, max_term_width = 100)]
pub struct Arguments {
    /// Find all files below this folder instead of `/` (for tests and trials)
    #[arg(long, global = true, default_value = "/", value_name = "FOLDER")]
    pub root: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send what the tags of a target ask for, and end; `blat-transfer@NAME.service` runs it
    Transfer {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
        /// The helper program to put on the target where it is missing
        #[arg(long, default_value_os_t = helper::shipped(), value_name = "FILE")]
        helper: PathBuf,
    },
    /// Bring a target to what it should have; `blat-sync@NAME.service` runs it
    Sync {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
        /// Print what would be done, with reasons and sizes, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// Print it as JSON
        #[arg(long, requires = "dry_run")]
        json: bool,
        /// Take it, once, that there is far less than before that the target should have: aging goes on
        #[arg(long, conflicts_with = "dry_run")]
        accept_shrink: bool,
        /// The helper program to put on the target where it is missing
        #[arg(long, default_value_os_t = helper::shipped(), value_name = "FILE")]
        helper: PathBuf,
    },
    /// Hold all deletion at a target back, its own purge included, at once
    Hold {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
        /// Why, for whoever finds it held
        #[arg(long, default_value = "a person asked for it", value_name = "TEXT")]
        reason: String,
        /// The helper program to put on the target where it is missing
        #[arg(long, default_value_os_t = helper::shipped(), value_name = "FILE")]
        helper: PathBuf,
    },
    /// End what `blat hold` began
    ReleaseHold {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
        /// The helper program to put on the target where it is missing
        #[arg(long, default_value_os_t = helper::shipped(), value_name = "FILE")]
        helper: PathBuf,
    },
    /// Set target machines up
    Target {
        #[command(subcommand)]
        command: TargetCommand,
    },
    /// Check and apply the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Fill and read the database of releases
    Release {
        #[command(subcommand)]
        command: ReleaseCommand,
    },
    /// Say how the targets stand; the exit code is 0 when all is well, 1 to 3 otherwise
    Status {
        /// One target only, with everything that is known of it
        name: Option<TargetName>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
        /// Say it again every two seconds, until stopped
        #[arg(long)]
        watch: bool,
    },
    /// Say why a package-version is, or is not, on the targets
    Explain {
        package: String,
        /// One version only, not all that are known
        version: Option<String>,
        /// One target only
        name: Option<TargetName>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what happened to a target, out of the journal: every commit, synchronisation and failure
    History {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
        /// From when on, as journalctl takes it: "2026-11-23", "-2h", "yesterday"
        #[arg(long, allow_hyphen_values = true, value_name = "TIME")]
        since: Option<String>,
        /// Only what is about this package
        #[arg(long)]
        package: Option<String>,
        /// Print the journal's own entries, each a line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask for one package-version to be sent to a target now
    Tag {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
        package: String,
        version: String,
    },
    /// Say, and in the journal, that a unit or target needs a person; `blat-notify@.service` runs it
    Notify {
        /// The unit that failed, or the target
        about: String,
    },
    /// Take lines `PACKAGE VERSION [TARGET…]` as tags, and answer each; `blat-tag@.service` runs it
    TakeTags,
    /// Make a target: key, host key, archive, helper and, last, its file; what failed can be run again
    Enroll(Enroll),
    /// Look at all that targets need, and say what mends what is wrong
    Doctor {
        /// One target only
        name: Option<TargetName>,
        /// The helper program that belongs to this build
        #[arg(long, default_value_os_t = helper::shipped(), value_name = "FILE")]
        helper: PathBuf,
    },
    /// Open a shell on a target as the transfer user, by the target's key
    Ssh {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
    },
    /// Print what has a shell complete the words of this command line
    Completions { shell: Shell },
}

#[derive(Debug, Subcommand)]
pub enum TargetCommand {
    /// Have a target look after itself: helper, folders, the transfer user's units and timers
    Install {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
        /// The helper program to put on the target where it is missing
        #[arg(long, default_value_os_t = helper::shipped(), value_name = "FILE")]
        helper: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with the files, or which settings they come to
    Check {
        /// One target only
        name: Option<TargetName>,
    },
    /// Put changed files in force; `blat-config.service` runs it when one changes
    Apply,
}

#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// Make the built-in database hold the releases of a file, and leave its others as they are
    Import {
        /// Lines `[PROJECT/RELEASE] STATE`, perhaps `s3`, and below each its `PACKAGE VERSION` lines
        file: PathBuf,
    },
    /// List releases: id, name, state, how many package-versions
    List {
        /// One project only, by id or name
        project: Option<String>,
    },
}

/// What `blat enroll` takes.
#[derive(Debug, Args)]
pub struct Enroll {
    /// What the target is to be called
    pub name: TargetName,
    /// The transfer user there and the machine, as USER@HOST
    #[arg(value_parser = Login::from_str)]
    pub login: Login,
    /// The port of its ssh server
    #[arg(long, default_value_t = 22)]
    pub port: u16,
    /// The archive on this machine, where `source` in blat.toml is not it
    #[arg(long, value_name = "FOLDER")]
    pub source: Option<PathBuf>,
    /// Where the archive lies on the target: `dpkg_archive` in the user's home is made a link to it
    #[arg(long, value_name = "FOLDER")]
    pub link_to: Option<String>,
    /// Install the key such that it can do nothing but serve this archive: no shell, no file, no port
    #[arg(long)]
    pub restrict: bool,
    /// With --restrict: let the key bring a new helper (who has the key can then bring any program)
    #[arg(long, requires = "restrict")]
    pub allow_replace: bool,
    /// Trust the host key with this fingerprint (SHA256:…), and do not ask
    #[arg(long, value_name = "FINGERPRINT")]
    pub host_key: Option<String>,
    /// The helper program to put on the target
    #[arg(long, default_value_os_t = helper::shipped(), value_name = "FILE")]
    pub helper: PathBuf,
}

/// A user on a machine: `USER@HOST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub host: String,
}

impl FromStr for Login {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('@') {
            Some((user, host)) if !user.is_empty() && !host.is_empty() => {
                Ok(Self { user: user.into(), host: host.into() })
            }
            _ => Err("write the user and the machine, such as pkgadmin@site1.example.org"),
        }
    }
}

impl From<Enroll> for Wish {
    fn from(asked: Enroll) -> Self {
        let Enroll { name, login, port, source, link_to, restrict, allow_replace, host_key, helper } = asked;
        let Login { user, host } = login;
        Self { name, user, host, port, source, link_to, restrict, allow_replace, host_key, helper }
    }
}
