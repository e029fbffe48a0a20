//! A person stops a run: by `systemctl stop`, or with the keyboard.
//!
//! The marker of the run goes first, and what asked for another one meanwhile, so that the agent does not take
//! either up. It works on a thread of its own, for the database's driver may block the others. What was committed
//! stays.

use std::fs;
use std::thread;

use nix::sys::signal::{SigHandler, Signal, raise, signal};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{self, SignalKind};

use crate::failure::{Needs, Result};
use crate::places::Places;
use crate::report::{Report, Reporter};
use crate::trigger;

/// From now on, TERM and INT end the run in order.
pub(super) fn watch(target: &str, places: &Places) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build();
    let runtime = runtime.later("cannot wait for signals")?;
    let (term, int) = {
        let _inside = runtime.enter();
        let listen = |kind| unix::signal(kind).later("cannot wait for signals");
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?)
    };
    let (target, places) = (target.to_owned(), places.clone());
    thread::spawn(move || {
        let signal = first_of(&runtime, term, int);
        stopped(&target, &places);
        die_of(signal);
    });
    Ok(())
}

fn first_of(runtime: &Runtime, mut term: unix::Signal, mut int: unix::Signal) -> Signal {
    runtime.block_on(async {
        tokio::select! {
            _ = term.recv() => Signal::SIGTERM,
            _ = int.recv() => Signal::SIGINT,
        }
    })
}

fn stopped(target: &str, places: &Places) {
    if let Err(why) = fs::remove_file(places.sync_begun()) {
        tracing::debug!("the run had not begun: {why}");
    }
    if let Err(why) = trigger::forget(&places.sync_trigger()) {
        tracing::warn!("what asked for another run stays: {why}");
    }
    Reporter::new(target, &places.report).tell(Report::SyncStopped);
}

/// Ends as if the signal had never been waited for: whoever sent it sees what came of it.
fn die_of(number: Signal) {
    // SAFETY: the default action is no handler of ours.
    let reset = unsafe { signal(number, SigHandler::SigDfl) };
    if reset.and_then(|_| raise(number)).is_err() {
        std::process::exit(128 + number as i32);
    }
}
