//! Puts this checkout's build onto a machine, as its Debian package does for a person.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use super::checkout;
use super::machine::Machine;

/// Installs the package `blat` on the machine, built where it has to be. Nothing has a configuration yet: what runs is the watch on `/etc/blat`.
///
/// # Panics
/// When a step fails, with what it said.
#[track_caller]
pub fn install(machine: &Machine) {
    build_packages();
    install_deb(machine, "blat");
}

/// Builds the Debian packages, once for all tests.
#[track_caller]
pub fn build_packages() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| make(&["deb"]));
}

/// Builds the rpm packages, once for all tests.
#[track_caller]
pub fn build_rpms() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| make(&["rpm"]));
}

/// Installs a built package by Debian's own means.
#[track_caller]
pub fn install_deb(machine: &Machine, package: &str) {
    let path = put_deb(machine, package, "/root");
    // Syncing each file protects the system from a power cut in this moment, and takes seconds.
    machine.sh(&format!("dpkg --force-unsafe-io --install {path}"));
}

/// Lays a built package down in a folder of the machine; its path there.
#[track_caller]
pub fn put_deb(machine: &Machine, package: &str, folder: &str) -> String {
    put_file(machine, &built(&format!("{package}_"), ".deb"), folder)
}

/// Lays a file of ours down in a folder of the machine; its path there.
#[track_caller]
pub fn put_file(machine: &Machine, file: &Path, folder: &str) -> String {
    let content = std::fs::read(file).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let path = format!("{folder}/{name}");
    machine.write(&path, content, 0o644);
    path
}

/// The package of this version among those in `build/packages`.
#[track_caller]
pub fn built(begin: &str, end: &str) -> PathBuf {
    let folder = checkout().join("build/packages");
    let begin = format!("{begin}{}", env!("CARGO_PKG_VERSION"));
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let found = names.find(|name| name.starts_with(&begin) && name.ends_with(end));
    folder.join(found.unwrap_or_else(|| panic!("no {begin}*{end} in {}", folder.display())))
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

/// Has `make` make something, as a person does: what cargo tells its tests, and is told for them, would
/// make it compile anew whatever looks at it.
#[track_caller]
pub fn make(arguments: &[&str]) {
    let mut make = Command::new("make");
    make.arg("--directory").arg(checkout()).args(arguments).env_remove("MAKEFLAGS");
    for (name, _) in std::env::vars_os() {
        let of_cargo = name == "CARGO" || name.as_encoded_bytes().starts_with(b"CARGO_");
        let of_tests = name == "RUSTC_WORKSPACE_WRAPPER" || name == "CLIPPY_ARGS";
        if of_tests || of_cargo && name != "CARGO_HOME" {
            make.env_remove(name);
        }
    }
    let output = make.output().expect("make starts");
    assert!(
        output.status.success(),
        "make {arguments:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
