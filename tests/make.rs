//! The Makefile: `make clean` must know that `target/` is source, and what is missing is said.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[test]
fn clean_removes_build_and_leaves_target() {
    let copy = tempfile::tempdir().expect("a folder");
    let files = tracked_files();
    for file in &files {
        let to = copy.path().join(file);
        fs::create_dir_all(to.parent().expect("below the copy")).expect("a folder");
        fs::copy(checkout().join(file), to).expect("a copy");
    }
    fs::create_dir_all(copy.path().join("build/debug")).expect("a folder");

    make(copy.path(), "clean");

    assert!(!copy.path().join("build").exists());
    let gone: Vec<_> = files.iter().filter(|file| !copy.path().join(file).exists()).collect();
    assert!(gone.is_empty(), "make clean removed {gone:?}");
    assert!(copy.path().join("target/src/main.rs").exists());
}

#[test]
fn help_names_every_way_to_test() {
    let said = make(checkout(), "help");
    for target in ["setup", "build", "check", "unit", "databases", "lab", "test", "demo", "clean"] {
        assert!(said.lines().any(|line| line.starts_with(target)), "{target} in:\n{said}");
    }
}

#[test]
fn what_a_build_lacks_is_said_with_what_installs_it() {
    let programs = tempfile::tempdir().expect("a folder");
    symlink("/bin/mkdir", programs.path().join("mkdir")).expect("a link");
    let lacks = |what: &str| {
        let output = run(checkout(), &["build-possible", &format!("PATH={}", programs.path().display())]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(what) && said.contains("make setup"), "{said}");
    };
    lacks("a C compiler is missing");
    let compiler = programs.path().join("cc");
    fs::write(&compiler, "#!/bin/sh\nexit 1\n").expect("a program");
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).expect("one that can be run");
    lacks("unixODBC to link with is missing");
    make(checkout(), "build-possible");
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the checkout that git knows and that are still there.
fn tracked_files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(checkout())
        .output()
        .expect("this test needs git");
    assert!(output.status.success(), "this test needs a git checkout: {output:?}");
    let names = String::from_utf8(output.stdout).expect("plain names");
    let files = names.split_terminator('\0').map(PathBuf::from);
    files.filter(|file| checkout().join(file).is_file()).collect()
}

fn make(dir: &Path, target: &str) -> String {
    let output = run(dir, &[target]);
    assert!(output.status.success(), "make {target}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut make = Command::new("make");
    make.arg("--no-print-directory").args(arguments).current_dir(dir).env_remove("MAKEFLAGS");
    make.output().expect("this test needs make")
}
