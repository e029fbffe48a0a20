//! A new file system for what the machines write while something is measured.
//!
//! On one that is in use, ext4 looks at each inode that was deleted in the last minutes when it needs a
//! free one, and steps around it: making files then takes several times as long, for everybody, and
//! what is compared comes out more equal than it is.

use std::fs;
use std::process::Command;

use crate::machines::{lab_dir, own_mounts};

/// As much as the fills of three targets and their peers need.
const BYTES: u64 = 12 << 30;
/// It is written in such pieces.
const BLOCK: u64 = 8 << 20;

/// Mounts it where the lab has its machines. Only this program and what it starts see it there, so it goes
/// with them, however they end. To be called before there is another thread.
///
/// # Panics
/// When the file system cannot be made or mounted.
pub(crate) fn mount_fresh() {
    let (image, place) = (lab_dir().join("disk.img"), lab_dir().join("run"));
    fs::create_dir_all(&place).expect("the lab's folder can be written");
    let _ = fs::remove_file(&image);
    // Written once as a whole, and nothing of it given back: a disk has its blocks, and needs not be
    // given one by the file system below for each that is written.
    let of = format!("of={}", image.display());
    let blocks = format!("count={}", BYTES / BLOCK);
    let to_image = [&*of, &*blocks, &format!("bs={BLOCK}"), "if=/dev/zero", "oflag=direct", "status=none"];
    run(Command::new("dd").args(to_image));
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "nodiscard"]).arg(&image));
    // What is written goes to the disk as from any file system: not through memory once more.
    let device = run(Command::new("losetup").args(["--direct-io=on", "--find", "--show"]).arg(&image));
    own_mounts().expect("mounts that nobody else sees");
    run(Command::new("mount").arg(&device).arg(&place));
    // Device and image go with their last user.
    run(Command::new("losetup").args(["--detach", &device]));
    fs::remove_file(&image).expect("the file can be removed");
}

/// The first line that it says.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}
