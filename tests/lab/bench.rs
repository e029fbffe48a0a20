//! Measurements on the lab's machines, blat and its peers side by side in one run.
//!
//! Run with `make bench`, as root. Prints a line for each measure: `name ours peer ratio`.
//! Arguments name the measures to make; without any, all are made.
//! Ratios count; absolute times are those of a noisy machine.

mod builds;
mod deltas;
mod field;
mod fill;
mod idle;
mod latency;
mod machines;
mod usage;

fn main() {
    println!("{:<48} {:>12} {:>12} {:>7}", "measure", "blat", "rsync", "ratio");
    let only: Vec<String> = std::env::args().skip(1).collect();
    let measures: [(&str, fn()); 4] = [
        ("latency", latency::measure),
        ("deltas", deltas::measure),
        ("fill", fill::measure),
        ("idle", idle::measure),
    ];
    for (_, measure) in
        measures.iter().filter(|(name, _)| only.is_empty() || only.iter().any(|it| it == name))
    {
        measure();
    }
}

/// One line of the table; `ours` and `peer` in the same unit, which the name tells.
fn line(name: &str, ours: f64, peer: f64) {
    println!("{name:<48} {ours:>12.1} {peer:>12.1} {:>7.2}", ours / peer);
}
