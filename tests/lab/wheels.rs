//! Real packages of which there are several versions: wheels from PyPI, by name and version, unpacked. Each is
//! fetched once, by pip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machines::lab_dir;

/// Well-known projects, and four versions of each that were released one after the other.
const PROJECTS: &str = include_str!("wheels.txt");
const PLATFORMS: [&str; 4] =
    ["manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "any"];

/// The names of all projects, and their versions.
pub(crate) fn projects() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    PROJECTS.lines().map(|line| {
        let mut words = line.split_whitespace();
        (words.next().expect("a name"), words.collect())
    })
}

/// An unpacked wheel for Linux on x86_64.
pub(crate) fn wheel(package: &str, version: &str) -> PathBuf {
    fetch(&[(package, version)]);
    place(package, version)
}

/// Fetches what is not there yet of these, with one pip for all: there must not be two versions of a project.
pub(crate) fn fetch(wheels: &[(&str, &str)]) {
    let missing = wheels.iter().filter(|(package, version)| !place(package, version).exists());
    let missing: Vec<String> = missing.map(|(package, version)| format!("{package}=={version}")).collect();
    if missing.is_empty() {
        return;
    }
    let draft = lab_dir().join("wheels.draft");
    let _ = fs::remove_dir_all(&draft);
    fs::create_dir_all(&draft).expect("a folder");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]);
    pip.args(["--python-version", "3.11"]);
    pip.args(PLATFORMS.iter().flat_map(|platform| ["--platform", platform]));
    run(pip.arg("-d").arg(&draft).args(&missing));
    for item in fs::read_dir(&draft).expect("a folder").flatten() {
        unpack(&item.path());
    }
    let _ = fs::remove_dir_all(&draft);
    wheels.iter().for_each(|(package, version)| {
        assert!(place(package, version).exists(), "pip brought no {package}=={version}");
    });
}

/// `NAME-VERSION-….whl`, to the place of the two.
fn unpack(wheel: &Path) {
    let file = wheel.file_name().expect("a name").to_string_lossy().into_owned();
    let mut parts = file.split('-');
    let (Some(name), Some(version)) = (parts.next(), parts.next()) else { panic!("{file} is no wheel") };
    let name = name.to_lowercase().replace(['_', '.'], "-");
    let (done, files) = (place(&name, version), wheel.with_extension("files"));
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(&files));
    fs::create_dir_all(done.parent().expect("a project")).expect("a folder");
    fs::rename(&files, &done).expect("a folder");
}

fn place(package: &str, version: &str) -> PathBuf {
    lab_dir().join("wheels").join(package).join(version)
}

#[track_caller]
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}: install python3-pip"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
