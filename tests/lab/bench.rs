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
mod machines;
mod many;
#[path = "../measures/table.rs"]
mod table;
mod usage;

use table::line;

fn main() {
    let _disk = disk::Disk::fresh();
    println!("{:<60} {:>12} {:>12} {:>7}", "measure", "blat", "rsync", "ratio");
    let only: Vec<String> = std::env::args().skip(1).collect();
    let measures: [(&str, fn()); 5] = [
        ("latency", latency::measure),
        ("deltas", deltas::measure),
        ("fill", fill::measure),
        ("many", many::measure),
        ("idle", idle::measure),
    ];
    for (_, measure) in
        measures.iter().filter(|(name, _)| only.is_empty() || only.iter().any(|it| it == name))
    {
        measure();
    }
}
