//! The table that `make bench` makes. Each line is printed, and kept in `build/bench/measures.tsv`, of
//! which `plots.py` makes a table for people, and plots.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// One line of the table: `name ours peer ratio`; `ours` and `peer` in the same unit, which the name
/// tells. A name that is set in belongs to the line above that is not.
pub(crate) fn line(name: &str, ours: f64, peer: f64) {
    let ratio = ours / peer;
    println!("{name:<60} {ours:>12.2} {peer:>12.2} {ratio:>7.2}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/bench");
    fs::create_dir_all(&folder).expect("a folder");
    let mut kept =
        File::options().create(true).append(true).open(folder.join("measures.tsv")).expect("a file");
    writeln!(kept, "{name}\t{ours:.3}\t{peer:.3}\t{ratio:.3}").expect("room for a line");
}
