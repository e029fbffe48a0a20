//! Carries out what the command line asks for.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use blat::command_line::{Arguments, Command, ConfigCommand, ReleaseCommand, TargetCommand};
use blat::config::{self, TargetName, Verbosity};
use blat::failure::{Failure, Needs, Result};
use blat::places::Places;
use blat::release::import::{Import, import_built_in};
use blat::start::{block_on, settings, settings_and_log};
use blat::sync::run::Mode;
use blat::tags::Tag;
use blat::{doctor, enroll, hold, log, release, shell, sync, target_install, transfer};
use blat_target::package::PackageVersion;
use clap::{CommandFactory, Parser};

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
        Command::Transfer { name, helper } => {
            let settings = settings_and_log(&root, &name)?;
            block_on(transfer::run(&settings, &Places::of(&root, &name), &helper, started))
        }
        Command::Sync { name, dry_run, json, accept_shrink, helper } => {
            let settings = settings_and_log(&root, &name)?;
            let mode = if dry_run { Mode::DryRun { json } } else { Mode::Real { accept_shrink } };
            block_on(sync::run::run(&settings, &Places::of(&root, &name), &helper, mode))
        }
        Command::Hold { name, reason, helper } => {
            let settings = settings_and_log(&root, &name)?;
            block_on(hold::hold(&settings, &Places::of(&root, &name), &helper, &reason))
        }
        Command::ReleaseHold { name, helper } => {
            let settings = settings_and_log(&root, &name)?;
            block_on(hold::release(&settings, &Places::of(&root, &name), &helper))
        }
        Command::Target { command: TargetCommand::Install { name, helper } } => {
            let settings = settings_and_log(&root, &name)?;
            block_on(target_install::install(&settings, &Places::of(&root, &name), &helper))
        }
        Command::Config { command: ConfigCommand::Check { name } } => check(&root, name.as_ref()),
        Command::Config { command: ConfigCommand::Apply } => apply(&root),
        Command::Release { command } => release_command(&root, command),
        Command::Tag { name, package, version } => {
            let settings = settings(&root, &name)?;
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
        Command::Enroll(asked) => {
            log::start(Verbosity::Warn);
            block_on(enroll::run(&root, &asked.into()))
        }
        Command::Doctor { name, helper } => {
            log::start(Verbosity::Error);
            let visit = doctor::Visit { root: &root, helper: &helper };
            block_on(doctor::run(&visit, name.as_ref()))
        }
        Command::Ssh { name } => shell::open(&settings(&root, &name)?),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "blat", &mut std::io::stdout());
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
