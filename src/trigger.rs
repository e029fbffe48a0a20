//! Trigger files: touched to have systemd start a short-lived program, which takes the trigger away
//! as it begins.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::failure::{Needs, Result};

/// Touches `trigger` so that a `PathChanged=` on it fires: opened for writing, closed.
pub fn touch(trigger: &Path) {
    if let Err(why) = File::create(trigger).and_then(|mut file| file.write_all(b"\n")) {
        tracing::error!("cannot touch {}: {why}", trigger.display());
    }
}

/// The trigger has done its part; touched again from now on, it asks for another run.
pub fn forget(trigger: &Path) -> Result<()> {
    match std::fs::remove_file(trigger) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(why).person(format!("cannot remove {}: run as root or as the user blat", trigger.display()))
        }
        _ => Ok(()),
    }
}
