//! The command line as data: `main` carries it out, the completions and the check of the man pages
//! read it.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::config::TargetName;
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
    /// Hold a target's connection and tell its state; `blat@NAME.service` runs it
    Agent {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
    },
    /// Send what the tags of a target ask for, and end; `blat-transfer@NAME.service` runs it
    Transfer {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
        /// The helper program to put on the target where it is missing
        #[arg(long, default_value = helper::SHIPPED, value_name = "FILE")]
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
        #[arg(long, default_value = helper::SHIPPED, value_name = "FILE")]
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
        #[arg(long, default_value = helper::SHIPPED, value_name = "FILE")]
        helper: PathBuf,
    },
    /// End what `blat hold` began
    ReleaseHold {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
        /// The helper program to put on the target where it is missing
        #[arg(long, default_value = helper::SHIPPED, value_name = "FILE")]
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
    /// Ask for one package-version to be sent to a target now
    Tag {
        /// The target, as its file below /etc/blat/targets is called
        name: TargetName,
        package: String,
        version: String,
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
        #[arg(long, default_value = helper::SHIPPED, value_name = "FILE")]
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
