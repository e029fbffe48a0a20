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

/// Touches a trigger that still waits for its run; whether there is one. It never makes one anew: the run that
/// took it away just then is the one that was asked for.
pub fn touch_again(trigger: &Path) -> bool {
    match File::options().append(true).open(trigger).and_then(|mut file| file.write_all(b"\n")) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => false,
        touched => {
            tell(trigger, touched);
            true
        }
    }
}

/// What was said before is not taken back.
fn write(trigger: &Path, text: &str) {
    let opened = File::options().create(true).append(true).open(trigger);
    tell(trigger, opened.and_then(|mut file| file.write_all(text.as_bytes())));
}

fn tell(trigger: &Path, touched: io::Result<()>) {
    if let Err(why) = touched {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_touched_again_only_as_long_as_it_waits() {
        let root = tempfile::tempdir().unwrap();
        let trigger = root.path().join("sync");
        assert!(!touch_again(&trigger) && !trigger.exists());
        touch(&trigger);
        assert!(touch_again(&trigger));
        assert_eq!(fs::read_to_string(&trigger).unwrap(), "\n\n");
    }
}
