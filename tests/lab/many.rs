//! One package for ten targets at once, beside one for one: what it costs the master.
//!
//! The targets are archives of one site, so that the machine that measures is not busy with ten of them.
//! What counts is all that the master's units of blat take, from systemd's start of them to the last of
//! ssh, to the microsecond, as the kernel counts it for their slice.

use std::process::Command;
use std::time::Duration;

use crate::field::{Field, SOURCE, seal};
use crate::fill::{QUICK, SLOW};
use crate::line;
use crate::machines::Machine;
use crate::wheels::{run, wheel};

const TARGETS: usize = 10;
const ROUNDS: usize = 3;
/// The promise: so many times the CPU that one target takes.
const TIMES_MAX: f64 = 2.0;

pub(crate) fn measure() {
    let field = Field::new("many");
    let names: Vec<String> = (1..=TARGETS).map(|number| format!("site{number}")).collect();
    names.iter().for_each(|name| field.add_target(name, SOURCE, ""));
    names.iter().for_each(|name| field.wait_connected(name));
    // Brings the helper.
    field.publish("first", "1.0");
    send(&field, &names, "first");
    over(&field, &names, "near");
    {
        let _link = field.lay_line(QUICK, &names);
        over(&field, &names, "quick");
    }
    let _link = field.lay_line(SLOW, &names);
    over(&field, &names, "far");
}

/// What is `near` is packed as quickly as can be, what is `far` for a line that takes longer.
fn over(field: &Field, names: &[String], way: &str) {
    let (mut one, mut ten) = (f64::MAX, f64::MAX);
    for round in 0..ROUNDS {
        // Each another package, so that none is told by another.
        let (alone, shared) = (format!("{way}-alone{round}"), format!("{way}-shared{round}"));
        publish(field, &alone);
        publish(field, &shared);
        one = one.min(send(field, &names[..1], &alone));
        ten = ten.min(send(field, names, &shared));
    }
    line(&format!("one package to ten targets at once, {way}: CPU of the master, s (to one)"), ten, one);
    line("  the promise: times", ten / one, TIMES_MAX);
    let others = (0..ROUNDS).map(|_| carried_alone(field, &names[1..])).fold(f64::MAX, f64::min);
    line("  the least that ssh and systemd leave: times (to what it is)", (one + others) / one, ten / one);
}

/// The CPU seconds that units take which do nothing but have each target's ssh carry what was just packed, and throw
/// it away there.
fn carried_alone(field: &Field, targets: &[String]) -> f64 {
    let packed = field
        .master
        .sh("find /var/cache/blat/ready -type f -size +1M -printf '%T@ %p\\n' | sort -n | tail -n 1");
    let packed = packed.split_once(' ').expect("what was packed for ten").1;
    let each = |target: &String| {
        format!(
            "systemd-run --quiet --wait --slice=blat.slice --uid=blat -p StandardInput=file:{packed} \
             ssh -S /run/blat/{target}/ssh {target} 'cat >/dev/null' & "
        )
    };
    let before = cpu_of_units(&field.master);
    field.master.sh(&(targets.iter().map(each).collect::<String>() + "wait"));
    cpu_of_units(&field.master) - before
}

/// Tags a package for all of `targets` at once, and waits until it is everywhere; the CPU seconds that the
/// master took.
fn send(field: &Field, targets: &[String], package: &str) -> f64 {
    nix::unistd::sync();
    let before = cpu_of_units(&field.master);
    targets.iter().for_each(|target| field.tag(target, package, "1.0"));
    targets.iter().for_each(|target| field.wait_for(target, package, "1.0", Duration::from_secs(120)));
    targets.iter().for_each(|target| {
        field.wait_no_tags(target, Duration::from_secs(60));
        field.wait_idle(target);
    });
    cpu_of_units(&field.master) - before
}

/// The CPU seconds that all units of blat took on a machine since it was booted.
fn cpu_of_units(machine: &Machine) -> f64 {
    let micros = machine.sh("sed -n 's/^usage_usec //p' /sys/fs/cgroup/blat.slice/cpu.stat");
    micros.trim().parse::<f64>().expect("a count of microseconds") / 1e6
}

/// A real package, under another name: a wheel of 60 MB.
fn publish(field: &Field, package: &str) {
    let folder = field.source().join(package).join("1.0");
    std::fs::create_dir_all(folder.parent().expect("a package")).expect("a folder");
    run(Command::new("cp").arg("-a").arg(wheel("numpy", "2.1.2")).arg(&folder));
    std::fs::write(folder.join("descpkg"), format!("{package} 1.0\n")).expect("a file");
    seal(&folder);
}
