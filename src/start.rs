//! What each program that works for one target starts with: its settings, its log, its runtime.

use std::path::Path;

use anyhow::anyhow;
use nix::sys::stat::{Mode, umask};

use crate::config::{Settings, TargetName, Verbosity};
use crate::failure::{Failure, Needs, Result};
use crate::log;

/// From now on a panic ends the program at once, in whatever thread it happens: systemd sees a program
/// that failed, where the rest of it would work on without a part, or wait for it.
pub fn end_at_a_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

/// What is in force for `name`; without it there is nothing to run.
///
/// # Errors
/// A person's to mend: no such target, or what is in force cannot be read.
pub fn settings(root: &Path, name: &TargetName) -> Result<Settings> {
    Settings::load(root, name).person(format!("the configuration of {name} is broken"))
}

/// The same, and the log started as wordy as they say. What the program writes is the group's to read, as under the
/// units, whatever the umask of a root who starts it by hand.
///
/// # Errors
/// As [`settings`]; the log is started then too.
pub fn settings_and_log(root: &Path, name: &TargetName) -> Result<Settings> {
    umask(Mode::from_bits_truncate(0o027));
    let settings = settings(root, name);
    log::start(settings.as_ref().map_or(Verbosity::Info, |settings| settings.verbosity));
    settings
}

/// Carries out what waits for the network, on this one thread.
///
/// # Errors
/// Those of the work; or the machine is out of descriptors.
pub fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| Failure::later(anyhow!(why).context("cannot start")))?;
    runtime.block_on(work)
}
