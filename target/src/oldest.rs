//! `blat-target-oldest`: a helper that speaks the oldest protocol and no other, for tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    blat_target::command_line::run()
}
