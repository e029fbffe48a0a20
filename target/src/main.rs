//! `blat-target`: what blat runs on a target machine.

use std::env::args_os;
use std::io::Write;
use std::process::ExitCode;

use blat_target::command_line::{Command, HELP};
use blat_target::{index, install, purge, serve};

fn main() -> ExitCode {
    match Command::parse(args_os().skip(1)) {
        Some(Command::Serve) => serve::serve(),
        Some(Command::Index { archive }) => index::index(&archive),
        Some(Command::Find { archive, pattern }) => index::find(&archive, &pattern),
        Some(Command::Purge { archive, dry_run }) => purge::purge(&archive, dry_run),
        Some(Command::Install) => install::install(),
        Some(Command::Hello) => hello(),
        Some(Command::Help) => print(HELP),
        None => {
            eprint!("{HELP}");
            ExitCode::from(serve::EXIT_USAGE)
        }
    }
}

fn hello() -> ExitCode {
    let (version, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    match serve::build() {
        Ok(build) => print(&format!("blat-target {version} {build} {arch}\n")),
        Err(why) => {
            eprintln!("blat-target: could not read /proc/self/exe: {why}");
            ExitCode::from(serve::EXIT_LATER)
        }
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(serve::EXIT_LATER),
    }
}
