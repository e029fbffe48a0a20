//! Puts this checkout's build onto a machine, as `make install` does for a person.

use std::process::Command;
use std::sync::Once;

use super::checkout;
use super::machine::Machine;

/// Runs `make install` into the machine's root and has its systemd take notice.
///
/// What is to be installed is built first, once for all machines. Units are enabled as the preset
/// says, but not started.
///
/// # Panics
/// When a step fails, with what it said.
#[track_caller]
pub fn install(machine: &Machine) {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| make(&["build"]));
    make(&["install", &format!("DESTDIR={}", machine.root().display())]);
    machine.sh("systemd-sysusers
         systemd-tmpfiles --create
         systemctl daemon-reload
         sed -n 's/^enable //p' /usr/lib/systemd/system-preset/50-blat.preset |
             xargs -r systemctl preset");
}

/// Runs `make install-target` into the machine's root: the helper, and its units for the system.
///
/// # Panics
/// When a step fails, with what it said.
#[track_caller]
pub fn install_target(machine: &Machine) {
    make(&["install-target", &format!("DESTDIR={}", machine.root().display())]);
    machine.sh("systemctl daemon-reload");
}

#[track_caller]
fn make(arguments: &[&str]) {
    let output = Command::new("make")
        .arg("--directory")
        .arg(checkout())
        .args(arguments)
        .env_remove("MAKEFLAGS")
        .output()
        .expect("make starts");
    assert!(
        output.status.success(),
        "make {arguments:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
