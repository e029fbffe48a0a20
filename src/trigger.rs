//! Trigger files: touched to have systemd start a short-lived program, which takes the trigger away
//! as it begins.
//!
//! While that program runs, systemd does not look: the program does, at its end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::failure::{Needs, Result};

/// What a trigger says where even that is to be tried whose time has not come.
const ALL: &str = "all\n";

/// Touches `trigger` so that a `PathChanged=` on it fires: opened for writing, closed.
pub fn touch(trigger: &Path) {
    write(trigger, "\n");
}

/// Touches `trigger`, for a run that is to try even that whose time has not come.
pub fn touch_for_all(trigger: &Path) {
    write(trigger, ALL);
}

/// What was said before is not taken back.
fn write(trigger: &Path, text: &str) {
    let opened = File::options().create(true).append(true).open(trigger);
    if let Err(why) = opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        tracing::error!("cannot touch {}: {why}", trigger.display());
    }
}

/// The trigger has done its part; touched again from now on, it asks for another run.
pub fn forget(trigger: &Path) -> Result<()> {
    match fs::remove_file(trigger) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(why).person(format!("cannot remove {}: run as root or as the user blat", trigger.display()))
        }
        _ => Ok(()),
    }
}

/// The same; whether it asked for even that whose time has not come.
pub fn take(trigger: &Path) -> Result<bool> {
    let all = fs::read_to_string(trigger).is_ok_and(|text| text.contains(ALL));
    forget(trigger).map(|()| all)
}
