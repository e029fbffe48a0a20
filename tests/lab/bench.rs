//! Measurements on the lab's machines, blat and its peers side by side in one run.
//!
//! Run with `make bench`, as root. Prints a line for each measure: `name ours peer ratio`.
//! Arguments name the measures to make; without any, all are made.
//! Ratios count; absolute times are those of a noisy machine.

mod builds;
mod deltas;
mod disk;
mod field;
mod fill;
mod idle;
mod latency;
mod lines;
mod machines;
mod many;
mod process;
#[path = "../measures/table.rs"]
mod table;
mod usage;
mod wheels;

use table::line;

fn main() {
    disk::mount_fresh();
    println!("{:<60} {:>12} {:>12} {:>7}", "measure", "blat", "rsync", "ratio");
    let only: Vec<String> = std::env::args().skip(1).collect();
    let measures: [(&str, fn()); 13] = [
        ("latency", latency::measure),
        ("deltas", deltas::measure),
        ("fast", fill::measure_fast),
        ("quick", fill::measure_quick),
        ("fill", fill::measure),
        ("half", fill::measure_half),
        ("lossy", fill::measure_lossy),
        ("versions", fill::measure_versions),
        ("versions-quick", fill::measure_versions_quick),
        ("lines", lines::measure),
        ("far", lines::measure_far),
        ("many", many::measure),
        ("idle", idle::measure),
    ];
    let asked = measures.iter().filter(|(name, _)| only.is_empty() || only.iter().any(|it| it == name));
    // One that fails does not keep the others from being made.
    let failed = asked.filter(|(_, measure)| std::panic::catch_unwind(measure).is_err());
    let failed: Vec<&str> = failed.map(|(name, _)| *name).collect();
    assert!(failed.is_empty(), "as told above, these failed: {}", failed.join(", "));
}
