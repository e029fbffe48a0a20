//! Carries out what the command line asks for.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use blat::command_line::{Arguments, Command, ConfigCommand, ReleaseCommand, TargetCommand};
use blat::config::{self, TargetName, Verbosity};
use blat::failure::{Failure, Needs, Result};
use blat::notify::Call;
use blat::places::Places;
use blat::release::import::{Import, import_built_in};
use blat::start::{block_on, end_at_a_panic, settings, settings_and_log};
use blat::status::{Fleet, Level};
use blat::sync::run::Mode;
use blat::tags::{self, Tag, writer};
use blat::told::print;
use blat::{doctor, enroll, explain, history, hold, log, release, shell, sync, target_install, transfer};
use blat_target::package::PackageVersion;
use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    end_at_a_panic();
    let started = SystemTime::now();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(why) => return not_understood(&why),
    };
    if let Command::Status { name, json, watch } = &arguments.command {
        return status(&arguments.root, name.as_ref(), *json, *watch);
    }
    match run(arguments, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("blat: {failure}");
            failure.into()
        }
    }
}

/// Says what is wrong with the command line, or what it asks of itself: its help, its version.
fn not_understood(why: &clap::Error) -> ExitCode {
    let _ = why.print();
    let asked = Arguments::command().ignore_errors(true).try_get_matches();
    // A monitoring that asks amiss must not take a target for one that needs a person.
    let of_status = asked.is_ok_and(|asked| asked.subcommand_name() == Some("status"));
    if of_status && why.use_stderr() {
        return (Level::Unknown as u8).into();
    }
    (why.exit_code() as u8).into()
}

/// Says how the targets stand. The exit code is for monitoring: see [`Level`].
fn status(root: &Path, name: Option<&TargetName>, json: bool, watch: bool) -> ExitCode {
    let clear = watch && !json && std::io::stdout().is_terminal();
    loop {
        let now = SystemTime::now();
        let Some(fleet) = Fleet::gather(root, name, now) else {
            eprintln!("blat: there is no target `{}`", name.map_or("", TargetName::as_str));
            return (Level::Unknown as u8).into();
        };
        let shown = if json { blat::status::text::json(&fleet) } else { fleet.text(name.is_some()) };
        let clear = if clear { "\x1b[H\x1b[2J" } else { "" };
        let mut out = std::io::stdout().lock();
        let told = out.write_all(format!("{clear}{shown}").as_bytes()).and_then(|()| out.flush());
        if told.is_err() || !watch {
            return (fleet.level as u8).into();
        }
        drop(out);
        std::thread::sleep(Duration::from_secs(2));
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
            block_on(sync::run::run(&root, &settings, &helper, mode))
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
        Command::Explain { package, version, name, json } => {
            let asked =
                explain::Asked { package: &package, version: version.as_deref(), target: name.as_ref() };
            print_explained(&root, &asked, json)
        }
        Command::Notify { about } => {
            tell_a_person(&root, &about);
            Ok(())
        }
        Command::TakeTags => take_tags(&root),
        Command::Status { .. } => unreachable!("it has exit codes of its own"),
        Command::History { name, since, package, json } => {
            let (since, package) = (since.as_deref(), package.as_deref());
            let asked = history::Asked { target: &name, since, package, json };
            history::print(&asked, &mut std::io::stdout().lock())
        }
        Command::Tag { name, package, version } => drop_tag(&root, &name, &package, &version),
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
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "blat", &mut text);
            print(&String::from_utf8_lossy(&text));
            Ok(())
        }
    }
}

fn print_explained(root: &Path, asked: &explain::Asked<'_>, json: bool) -> Result<()> {
    let explained = explain::explain(root, asked)?;
    print(&if json { explain::json(&explained.all) } else { explain::text(&explained.all) });
    if let Some(left_out) = explain::left_out(explained.left_out) {
        eprintln!("blat: {left_out}");
    }
    Ok(())
}

/// Says that `about` needs a person: by an entry in the journal, and on the output, where that is not the journal.
fn tell_a_person(root: &Path, about: &str) {
    let in_journal = log::start_in_journal();
    let call = Call::of(root, about, |name| std::env::var(name).ok());
    call.log();
    if !(in_journal && log::is_journal(std::io::stdout())) {
        print(&format!("{call}\n"));
    }
}

fn drop_tag(root: &Path, name: &TargetName, package: &str, version: &str) -> Result<()> {
    let settings = settings(root, name)?;
    let id = PackageVersion::new(package, version).person("that cannot be a package-version")?;
    let directory = &settings.tags.directory;
    let dropped = Tag(id).drop_into(directory).and_then(|path| tags::sync(directory).map(|()| path));
    let path = dropped.person(format!(
        "cannot drop a tag into {}: are you in the group blat-tags, and is the target in force?",
        directory.display()
    ))?;
    println!("{}", path.display());
    Ok(())
}

fn take_tags(root: &Path) -> Result<()> {
    let targets: Vec<_> = config::Overview::read(root).targets.into_values().flatten().collect();
    writer::serve(&targets, std::io::stdin(), std::io::stdout()).later("cannot answer the writer")
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
            print(&release::import::list(&mut *source, project.as_deref())?);
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
