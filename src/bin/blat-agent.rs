//! `blat-agent NAME`: the agent of one target, as `blat@NAME.service` runs it.
//!
//! A program of its own, for it is the one that stays: what synchronisations and buckets need of code
//! and libraries is not in the memory of every target's agent.

use std::path::PathBuf;
use std::process::ExitCode;

use blat::agent;
use blat::config::TargetName;
use blat::failure::Result;
use blat::start::{block_on, end_at_a_panic, settings_and_log};
use clap::Parser;

/// Hold a target's connection and tell its state; `blat@NAME.service` runs it
#[derive(Debug, Parser)]
#[command(name = "blat-agent", version, max_term_width = 100)]
struct Arguments {
    /// The target, as its file below /etc/blat/targets is called
    name: TargetName,
    /// Find all files below this folder instead of `/` (for tests and trials)
    #[arg(long, default_value = "/", value_name = "FOLDER")]
    root: PathBuf,
}

fn main() -> ExitCode {
    end_at_a_panic();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("blat-agent: {failure}");
            failure.into()
        }
    }
}

fn run(Arguments { name, root }: &Arguments) -> Result<()> {
    let settings = settings_and_log(root, name).inspect_err(|_| agent::drain_reports(name.as_str()))?;
    block_on(agent::run(root, settings))
}
