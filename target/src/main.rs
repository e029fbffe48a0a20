//! `blat-target`: what blat runs on a target machine.

use std::env::args_os;
use std::io::Write;
use std::process::ExitCode;

use blat_target::command_line::HELP;
use blat_target::serve;

fn main() -> ExitCode {
    let arguments: Vec<_> = args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap_or("?")).collect();
    match words[..] {
        ["serve"] => serve::serve(),
        ["hello" | "--version" | "-V"] => hello(),
        ["help" | "--help" | "-h"] => print(HELP),
        _ => {
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
