//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use blat::config::{self, Settings, TargetName, Verbosity};
use blat::failure::{Failure, Needs, Result};
use blat::places::Places;
use blat::release::import::{Import, import_built_in};
use blat::sync::run::Mode;
use blat::tags::Tag;
use blat::{agent, helper, log, release, sync, transfer};
use blat_target::package::PackageVersion;
use clap::{Parser, Subcommand};

/// Keeps package archives on remote machines up to date from a master archive.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Find all files below this folder instead of `/` (for tests and trials)
    #[arg(long, global = true, default_value = "/", value_name = "FOLDER")]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
        /// The helper program to put on the target where it is missing
        #[arg(long, default_value = helper::SHIPPED, value_name = "FILE")]
        helper: PathBuf,
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
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with the files, or which settings they come to
    Check {
        /// One target only
        name: Option<TargetName>,
    },
    /// Put changed files in force; `blat-config.service` runs it when one changes
    Apply,
}

#[derive(Subcommand)]
enum ReleaseCommand {
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

fn main() -> ExitCode {
    let started = SystemTime::now();
    let arguments = Arguments::parse();
    match run(arguments, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("blat: {failure}");
            failure.into()
        }
    }
}

fn run(arguments: Arguments, started: SystemTime) -> Result<()> {
    let root = arguments.root;
    match arguments.command {
        Command::Agent { name } => {
            let settings = start(&root, &name).inspect_err(|_| agent::drain_reports(name.as_str()))?;
            block_on(agent::run(&root, settings))
        }
        Command::Transfer { name, helper } => {
            let settings = start(&root, &name)?;
            block_on(transfer::run(&settings, &Places::of(&root, &name), &helper, started))
        }
        Command::Sync { name, dry_run, json, helper } => {
            let settings = start(&root, &name)?;
            let mode = if dry_run { Mode::DryRun { json } } else { Mode::Real };
            block_on(sync::run::run(&settings, &Places::of(&root, &name), &helper, mode))
        }
        Command::Config { command: ConfigCommand::Check { name } } => check(&root, name.as_ref()),
        Command::Config { command: ConfigCommand::Apply } => apply(&root),
        Command::Release { command } => release_command(&root, command),
        Command::Tag { name, package, version } => {
            let settings = agent::settings(&root, &name)?;
            let id = PackageVersion::new(&package, &version).person("that cannot be a package-version")?;
            let directory = &settings.tags.directory;
            let dropped = Tag(id).drop_into(directory);
            let path = dropped.person(format!(
                "cannot drop a tag into {}: are you in the group blat-tags, and is the target in force?",
                directory.display()
            ))?;
            println!("{}", path.display());
            Ok(())
        }
    }
}

fn release_command(root: &Path, command: ReleaseCommand) -> Result<()> {
    let settings = config::Release::of_no_target(root).person("the configuration is broken")?;
    match command {
        ReleaseCommand::Import { file } => {
            let text = std::fs::read_to_string(&file);
            let text = text.person(format!("cannot read {}", file.display()))?;
            let import = Import::parse(&file, &text)?;
            import_built_in(&settings, &import)?;
            println!("{} releases imported", import.releases.len());
        }
        ReleaseCommand::List { project } => {
            let mut source = release::open(&settings)?;
            print!("{}", release::import::list(&mut *source, project.as_deref())?);
        }
    }
    Ok(())
}

fn check(root: &Path, name: Option<&TargetName>) -> Result<()> {
    let name = name.map(TargetName::as_str);
    let code = config::check(root, name, &mut std::io::stdout().lock(), &mut std::io::stderr().lock());
    match code.later("cannot tell what the configuration is")? {
        0 => Ok(()),
        _ => Err(Failure::person(anyhow::anyhow!("the configuration is broken, as told above"))),
    }
}

fn apply(root: &Path) -> Result<()> {
    log::start(Verbosity::Info);
    let problems = config::Apply::new(root)
        .and_then(|apply| apply.run())
        .later("cannot put the configuration in force")?;
    match problems.len() {
        0 => Ok(()),
        count => Err(Failure::person(anyhow::anyhow!("{count} problems in the configuration"))),
    }
}

fn start(root: &Path, name: &TargetName) -> Result<Settings> {
    let settings = agent::settings(root, name);
    log::start(settings.as_ref().map_or(Verbosity::Info, |settings| settings.verbosity));
    settings
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| Failure::later(anyhow::anyhow!(why).context("cannot start")))?;
    runtime.block_on(work)
}
