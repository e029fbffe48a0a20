//! What every command has in common: how a command line that is not understood ends, that a
//! reader may have enough, and whom what they write is for.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

fn blat(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blat"));
    command.args(arguments);
    command
}

#[test]
fn a_status_that_is_asked_for_amiss_is_unknown_and_not_critical() {
    let code = |arguments: &[&str]| blat(arguments).output().unwrap().status.code();
    for amiss in [&["status", "site/1"][..], &["--root", "/tmp", "status", "--bad"]] {
        assert_eq!(code(amiss), Some(3), "{amiss:?}");
    }
    assert_eq!(code(&["explain"]), Some(2));
    assert_eq!(code(&["status", "--help"]), Some(0));
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().to_str().unwrap();
    for told in [&["explain", "core"][..], &["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = blat(&["--root", root]).args(told).stdout(writer).status().unwrap();
        assert_eq!(status.code(), Some(0), "{told:?}");
    }
}

#[test]
fn a_call_is_printed_for_whoever_pipes_it_though_systemd_started_the_pipe() {
    let root = tempfile::tempdir().unwrap();
    let mut notify = blat(&["notify", "no-target-but-a-test", "--root"]);
    let told = notify.arg(root.path()).env("JOURNAL_STREAM", "0:0").output().unwrap();
    let printed = String::from_utf8(told.stdout).unwrap();
    assert_eq!(printed, "no-target-but-a-test needs a person: see `blat status`\n");
    assert!(told.status.success() && told.stderr.is_empty(), "{}", String::from_utf8_lossy(&told.stderr));
}

#[test]
fn what_a_run_by_a_root_with_a_strict_umask_writes_is_the_groups_to_read() {
    let root = tempfile::tempdir().unwrap();
    let state = root.path().join("var/lib/blat/site1");
    for folder in [&root.path().join("etc/blat/targets"), &state] {
        fs::create_dir_all(folder).unwrap();
    }
    let settings = "source = \"/nowhere\"\nssh.host = \"h\"\npackages.core = \"1.0\"\n";
    fs::write(root.path().join("etc/blat/targets/site1.toml"), settings).unwrap();
    let script = "umask 077; exec \"$0\" --root \"$1\" sync site1";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_blat")]).arg(root.path());
    assert_eq!(shell.output().unwrap().status.code(), Some(75), "there is no source archive");
    for file in ["sync.json", "sync.lock", "sync.series"] {
        assert_eq!(fs::metadata(state.join(file)).unwrap().mode() & 0o777, 0o640, "{file}");
    }
}

#[test]
fn a_target_whose_file_only_root_may_read_is_no_broken_one() {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc/blat");
    for folder in ["", ".accepted/"] {
        fs::create_dir_all(etc.join(folder).join("targets")).unwrap();
        fs::write(etc.join(folder).join("blat.toml"), "source = \"/srv/a\"\n").unwrap();
        fs::write(etc.join(folder).join("targets/site1.toml"), "ssh.host = \"h\"\n").unwrap();
    }
    for file in ["blat.toml", "targets/site1.toml"] {
        fs::set_permissions(etc.join(file), PermissionsExt::from_mode(0o0)).unwrap();
    }
    fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut status = Command::new(env!("CARGO_BIN_EXE_blat"));
    status.arg("--root").arg(root.path()).arg("status");
    if nix::unistd::geteuid().is_root() {
        status.uid(65534);
    }
    let said = String::from_utf8(status.output().unwrap().stdout).unwrap();
    assert!(said.contains("site1") && !said.contains("broken"), "{said}");
}
