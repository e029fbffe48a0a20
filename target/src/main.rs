//! `blat-target`: what blat runs on a target machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    blat_target::command_line::run()
}
