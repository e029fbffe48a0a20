//! `blat-generator [--root=DIR] NORMAL [EARLY LATE]`, see systemd.generator(7).
//!
//! Always ends well: a target with a broken file is told of and left out, the others start.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use blat::generator;

fn main() {
    let mut root = PathBuf::from("/");
    let mut directories = Vec::new();
    for argument in std::env::args_os().skip(1) {
        match argument.to_str().and_then(|text| text.strip_prefix("--root=")) {
            Some(other) => root = PathBuf::from(other),
            None => directories.push(PathBuf::from(argument)),
        }
    }
    let Some(normal) = directories.first() else {
        return say(&root, 3, "usage: blat-generator [--root=DIR] NORMAL [EARLY LATE]");
    };
    let (output, problems) = generator::plan(&root);
    for problem in problems {
        say(&root, 3, &problem.to_string());
    }
    if let Err(error) = generator::write(&output, normal) {
        say(&root, 3, &error.to_string());
    }
}

/// At boot nobody listens but the kernel's log, whose lines end up in the journal.
fn say(root: &Path, priority: u8, message: &str) {
    let kmsg = OpenOptions::new().write(true).open("/dev/kmsg");
    match (root == Path::new("/")).then_some(kmsg) {
        Some(Ok(mut log)) => {
            let line = format!("<{priority}>blat-generator[{}]: {message}\n", std::process::id());
            let _ = log.write_all(line.as_bytes());
        }
        _ => eprintln!("blat-generator: {message}"),
    }
}
