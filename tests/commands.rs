//! What every command has in common: how a command line that is not understood ends, and
//! that a reader may have enough.

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
